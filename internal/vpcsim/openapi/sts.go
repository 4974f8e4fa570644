package openapi

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"time"

	"terway.dev/terway/internal/vpcsim/openapi/sts"
)

// stsProduct is the token service. Every role exists and may do everything: RAM policies are
// not modelled (a fault can return Forbidden.RAM).
func stsProduct() product {
	return product{name: "Sts", version: "2015-04-01", actions: actions{
		"AssumeRoleWithOIDC": {unsigned: true, run: assumeRoleWithOIDC},
		"AssumeRole":         {run: assumeRole},
		"GetCallerIdentity": {run: func(c *call) (obj, error) {
			kind := "Account"
			if c.identity.Role != "" {
				kind = "AssumedRoleUser"
			}
			return obj{"AccountId": c.identity.OwnerID, "IdentityType": kind, "Arn": c.identity.ARN(),
				"PrincipalId": c.identity.OwnerID, "UserId": "", "RoleId": c.identity.Role}, nil
		}},
	}}
}

// Limits of DurationSeconds.
const (
	minSession     = 15 * time.Minute
	maxSession     = 12 * time.Hour
	defaultSession = time.Hour
)

var (
	roleARN     = regexp.MustCompile(`^acs:ram::[0-9]+:role/([A-Za-z0-9._-]{1,64})$`)
	sessionName = regexp.MustCompile(`^[A-Za-z0-9.@_-]{2,64}$`)
)

func assumeRole(c *call) (obj, error) {
	creds, e := mint(c)
	if e != nil {
		return nil, e
	}
	return creds, nil
}

// mint makes credentials from RoleArn, RoleSessionName and DurationSeconds.
func mint(c *call) (obj, *Error) {
	arn, e := c.required("RoleArn")
	if e != nil {
		return nil, e
	}
	session, e := c.required("RoleSessionName")
	if e != nil {
		return nil, e
	}
	role := roleARN.FindStringSubmatch(arn)
	if role == nil {
		return nil, errorf(http.StatusBadRequest, "InvalidParameter.RoleArn", "The parameter RoleArn is wrongly formed: %q is not acs:ram::ACCOUNT:role/NAME.", arn)
	}
	if !sessionName.MatchString(session) {
		return nil, errorf(http.StatusBadRequest, "InvalidParameter.RoleSessionName", "The parameter RoleSessionName is wrongly formed: %q is not 2–64 of letters, digits and .@-_.", session)
	}
	life := defaultSession
	seconds, e := c.intParam("DurationSeconds")
	if e != nil {
		return nil, e
	}
	if seconds != nil {
		life = time.Duration(*seconds) * time.Second
		if life < minSession || life > maxSession {
			return nil, errorf(http.StatusBadRequest, "InvalidParameter.DurationSeconds",
				"The Min/Max value of DurationSeconds is 15min/12h: %d is outside.", *seconds)
		}
	}
	creds := c.authority.Mint(role[1], session, c.now, life)
	who := sts.Identity{OwnerID: c.authority.Account().OwnerID, Role: role[1], Session: session}
	return obj{
		"Credentials": obj{
			"AccessKeyId": creds.AccessKeyID, "AccessKeySecret": creds.AccessKeySecret,
			"SecurityToken": creds.SecurityToken, "Expiration": stamp(creds.Expiration),
		},
		"AssumedRoleUser": obj{"Arn": who.ARN(), "AssumedRoleId": role[1] + ":" + session},
	}, nil
}

// assumeRoleWithOIDC exchanges a service account's token for credentials (RRSA). It checks that
// the parameters exist, and that the token is a JWT with an algorithm, issuer, subject and
// audience that is valid now. It does not check the JWT's signature and the trust between role
// and provider: the simulator has neither the issuer's keys nor RAM policies.
func assumeRoleWithOIDC(c *call) (obj, error) {
	if _, e := c.required("OIDCProviderArn"); e != nil {
		return nil, e
	}
	token, e := c.required("OIDCToken")
	if e != nil {
		return nil, e
	}
	claims, e := readJWT(token, c.now)
	if e != nil {
		return nil, e
	}
	creds, e := mint(c)
	if e != nil {
		return nil, e
	}
	return creds.merge(obj{"OIDCTokenInfo": obj{
		"Subject": claims.Subject, "Issuer": claims.Issuer, "ClientIds": strings.Join(claims.Audience, ","),
		"ExpirationTime": stamp(time.Unix(int64(claims.Expires), 0)), "VerificationInfo": "signature not verified by the simulator",
	}}), nil
}

type jwtClaims struct {
	Issuer    string   `json:"iss"`
	Subject   string   `json:"sub"`
	Audience  audience `json:"aud"`
	Expires   float64  `json:"exp"`
	NotBefore float64  `json:"nbf"`
}

// audience is a string or a list of strings.
type audience []string

func (a *audience) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		if one != "" {
			*a = audience{one}
		}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(a))
}

func readJWT(token string, now time.Time) (*jwtClaims, *Error) {
	bad := func(why string) *Error {
		return errorf(http.StatusBadRequest, "AuthenticationFail.OIDCToken.Invalid", "This JWT is invalid: %s.", why)
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 || parts[2] == "" {
		return nil, bad("it does not have three parts")
	}
	var header struct {
		Alg string `json:"alg"`
	}
	var claims jwtClaims
	for i, into := range []any{&header, &claims} {
		raw, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil || json.Unmarshal(raw, into) != nil {
			return nil, bad("header or claims cannot be read")
		}
	}
	switch at := float64(now.Unix()); {
	case header.Alg == "" || strings.EqualFold(header.Alg, "none"):
		return nil, bad("it is not signed")
	case claims.Issuer == "" || claims.Subject == "" || len(claims.Audience) == 0:
		return nil, bad("iss, sub or aud is missing")
	case claims.Expires == 0:
		return nil, bad("exp is missing")
	case at >= claims.Expires:
		return nil, errorf(http.StatusBadRequest, "AuthenticationFail.OIDCToken.Expired", "This JWT has expired.")
	case at < claims.NotBefore:
		return nil, bad("it is not valid yet")
	}
	return &claims, nil
}
