package openapi

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"terway.dev/terway/internal/vpcsim/openapi/sts"
)

const acs3 = "ACS3-HMAC-SHA256"

// message is a request as it was received: signatures are computed over it.
type message struct {
	method string
	host   string
	header http.Header
	query  url.Values
	form   url.Values // of an urlencoded body
	body   []byte
}

// param returns a parameter of the query, or else of the body.
func (m *message) param(name string) string {
	if v, ok := m.query[name]; ok && len(v) > 0 {
		return v[0]
	}
	return m.form.Get(name)
}

// merged merges query and body; the query takes precedence.
func (m *message) merged() url.Values {
	all := make(url.Values, len(m.query)+len(m.form))
	for k, v := range m.form {
		all[k] = v
	}
	for k, v := range m.query {
		all[k] = v
	}
	return all
}

// signer authenticates messages.
type signer struct {
	authority *sts.Authority
	now       func() time.Time
	replay    *replay // nil: clock and nonce are not checked
}

// verify returns who signed the message, or an *Error.
func (s *signer) verify(m *message) (sts.Identity, *Error) {
	if auth := m.header.Get("Authorization"); strings.HasPrefix(auth, acs3) {
		return s.verifyACS3(m, auth)
	}
	return s.verifyV1(m)
}

// verifyV1 checks SignatureVersion 1.0: all parameters but Signature, sorted, with HMAC-SHA1.
func (s *signer) verifyV1(m *message) (sts.Identity, *Error) {
	id := m.param("AccessKeyId")
	if id == "" {
		e := missing("AccessKeyId")
		e.Message = "AccessKeyId is mandatory for this action."
		return sts.Identity{}, e
	}
	signature := m.param("Signature")
	if signature == "" || !oneOf(m.param("SignatureVersion"), "1.0") || !oneOf(m.param("SignatureMethod"), "HMAC-SHA1") {
		return sts.Identity{}, errorf(http.StatusBadRequest, "IncompleteSignature",
			"The request signature does not conform to Aliyun standards: Signature, SignatureVersion=1.0 and SignatureMethod=HMAC-SHA1 are needed.")
	}
	secret, who, e := s.secret(id, m.param("SecurityToken"))
	if e != nil {
		return sts.Identity{}, e
	}
	toSign := stringToSignV1(m.method, m.merged())
	mac := hmac.New(sha1.New, []byte(secret+"&"))
	mac.Write([]byte(toSign))
	got, err := base64.StdEncoding.DecodeString(signature)
	if err != nil || !hmac.Equal(got, mac.Sum(nil)) {
		// The text matters: the official SDK compares this string with its own.
		return sts.Identity{}, errorf(http.StatusForbidden, "SignatureDoesNotMatch",
			"Specified signature is not matched with our calculation. server string to sign is:%s", toSign)
	}
	if e := s.replay.check(m.param("Timestamp"), m.param("SignatureNonce"), s.now()); e != nil {
		return sts.Identity{}, e
	}
	return who, nil
}

func stringToSignV1(method string, params url.Values) string {
	// Sorted by name, not by pair: "X.1" comes before "X.10", but "X.10=" before "X.1=".
	names := make([]string, 0, len(params))
	for k, vs := range params {
		if k != "Signature" && len(vs) > 0 {
			names = append(names, k)
		}
	}
	slices.Sort(names)
	pairs := make([]string, 0, len(names))
	for _, k := range names {
		pairs = append(pairs, percent(k)+"="+percent(params.Get(k)))
	}
	return method + "&%2F&" + percent(strings.Join(pairs, "&"))
}

// verifyACS3 checks the Authorization header of ACS3-HMAC-SHA256.
func (s *signer) verifyACS3(m *message, auth string) (sts.Identity, *Error) {
	incomplete := func(what string) (sts.Identity, *Error) {
		return sts.Identity{}, errorf(http.StatusBadRequest, "IncompleteSignature",
			"The request signature does not conform to Aliyun standards: %s.", what)
	}
	fields := map[string]string{}
	for _, f := range strings.Split(strings.TrimPrefix(auth, acs3), ",") {
		if k, v, ok := strings.Cut(strings.TrimSpace(f), "="); ok {
			fields[k] = v
		}
	}
	id, signed, signature := fields["Credential"], fields["SignedHeaders"], fields["Signature"]
	if id == "" || signed == "" || signature == "" {
		return incomplete("Authorization must have Credential, SignedHeaders and Signature")
	}
	secret, who, e := s.secret(id, m.header.Get("x-acs-security-token"))
	if e != nil {
		return sts.Identity{}, e
	}
	bodyHash := sha256Hex(m.body)
	if claimed := m.header.Get("x-acs-content-sha256"); !strings.EqualFold(claimed, bodyHash) {
		return incomplete("x-acs-content-sha256 is not the digest of the body")
	}
	names := strings.Split(signed, ";")
	// Everything that defines the call must be signed, or it could be replaced on the way.
	for _, must := range []string{"host", "x-acs-action", "x-acs-version", "x-acs-content-sha256"} {
		if !slices.Contains(names, must) {
			return incomplete("SignedHeaders lacks " + must)
		}
	}
	canonical := canonicalACS3(m, names, bodyHash)
	if !hmac.Equal([]byte(strings.ToLower(signature)), []byte(signACS3(secret, canonical))) {
		return sts.Identity{}, errorf(http.StatusForbidden, "SignatureDoesNotMatch",
			"Specified signature does not match our calculation. server StringToSign is [%s] server CanonicalRequest is [%s]", stringToSignACS3(canonical), canonical)
	}
	if e := s.replay.check(m.header.Get("x-acs-date"), m.header.Get("x-acs-signature-nonce"), s.now()); e != nil {
		return sts.Identity{}, e
	}
	return who, nil
}

func stringToSignACS3(canonical string) string {
	return acs3 + "\n" + sha256Hex([]byte(canonical))
}

func signACS3(secret, canonical string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(stringToSignACS3(canonical)))
	return hex.EncodeToString(mac.Sum(nil))
}

func sha256Hex(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func canonicalACS3(m *message, names []string, bodyHash string) string {
	keys := make([]string, 0, len(m.query))
	for k := range m.query {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	var b strings.Builder
	b.WriteString(m.method + "\n/\n")
	for i, k := range keys {
		if i > 0 {
			b.WriteByte('&')
		}
		// Requests encode a space as "+", the canonical form as "%20": so encode again.
		b.WriteString(percent(k) + "=" + percent(m.query.Get(k)))
	}
	b.WriteByte('\n')
	for _, n := range names {
		v := strings.TrimSpace(strings.Join(m.header.Values(n), ","))
		if strings.EqualFold(n, "host") {
			v = m.host
		}
		b.WriteString(n + ":" + v + "\n")
	}
	b.WriteString("\n" + strings.Join(names, ";") + "\n" + bodyHash)
	return b.String()
}

func (s *signer) secret(id, token string) (string, sts.Identity, *Error) {
	secret, who, err := s.authority.Secret(id, token, s.now())
	switch {
	case err == nil:
		return secret, who, nil
	case errors.Is(err, sts.ErrUnknownKey):
		return "", who, errorf(http.StatusNotFound, "InvalidAccessKeyId.NotFound", "Specified access key is not found.")
	case errors.Is(err, sts.ErrTokenExpired):
		return "", who, errorf(http.StatusForbidden, "InvalidSecurityToken.Expired", "Specified SecurityToken is expired.")
	case errors.Is(err, sts.ErrTokenMismatch):
		return "", who, errorf(http.StatusForbidden, "InvalidSecurityToken.MismatchWithAccessKey", "Specified SecurityToken mismatch with the AccessKey.")
	case errors.Is(err, sts.ErrTokenMissing):
		return "", who, errorf(http.StatusBadRequest, "MissingSecurityToken", "SecurityToken is mandatory for this action.")
	}
	return "", who, errorf(http.StatusForbidden, "InvalidSecurityToken.Malformed", "Specified SecurityToken is malformed.")
}

// percent is the encoding of both schemes: RFC 3986.
func percent(s string) string {
	const hexDigits = "0123456789ABCDEF"
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-_.~", c) >= 0 {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('%')
		b.WriteByte(hexDigits[c>>4])
		b.WriteByte(hexDigits[c&15])
	}
	return b.String()
}

// oneOf reports whether v is absent or equal to want: old clients leave common parameters out.
func oneOf(v, want string) bool { return v == "" || v == want }
