// Package sts authenticates callers of the simulated cloud: by the account's access key and by
// temporary credentials of roles.
//
// Temporary credentials contain their own proof (a token sealed with the master key), so they
// stay valid across a restart of the simulator, and nothing grows with the number of tokens.
// The package must never read a clock itself.
package sts

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// Account is the account's key pair and the master key for temporary credentials; it is saved
// beside the state.
type Account struct {
	OwnerID         string `json:"ownerId"`
	AccessKeyID     string `json:"accessKeyId"`
	AccessKeySecret string `json:"accessKeySecret"`
	Master          []byte `json:"master"`
}

// NewAccount generates an account from random.
func NewAccount(ownerID string, random io.Reader) (Account, error) {
	b := make([]byte, 20+30+32)
	if _, err := io.ReadFull(random, b); err != nil {
		return Account{}, fmt.Errorf("draw an access key: %w", err)
	}
	return Account{
		OwnerID:         ownerID,
		AccessKeyID:     "LTAI5t" + alnum(b[:18]),
		AccessKeySecret: alnum(b[20:50]),
		Master:          b[50:],
	}, nil
}

// alnum maps bytes to letters and digits, the characters of access keys.
func alnum(b []byte) string {
	const set = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	out := make([]byte, len(b))
	for i, c := range b {
		out[i] = set[int(c)%len(set)]
	}
	return string(out)
}

// Identity is the caller of a call.
type Identity struct {
	OwnerID string
	// Role and Session are empty for the account's own key.
	Role    string
	Session string
}

// ARN returns the identity's resource name, as in GetCallerIdentity.
func (id Identity) ARN() string {
	if id.Role == "" {
		return "acs:ram::" + id.OwnerID + ":root"
	}
	return "acs:ram::" + id.OwnerID + ":assumed-role/" + id.Role + "/" + id.Session
}

// Credentials are temporary credentials of a role.
type Credentials struct {
	AccessKeyID     string
	AccessKeySecret string
	SecurityToken   string
	Issued          time.Time
	Expiration      time.Time
}

// Errors of Secret.
var (
	ErrUnknownKey     = errors.New("access key does not exist")
	ErrTokenMissing   = errors.New("temporary access key without security token")
	ErrTokenMalformed = errors.New("security token is malformed")
	ErrTokenMismatch  = errors.New("security token does not belong to the access key")
	ErrTokenExpired   = errors.New("security token has expired")
)

// Authority checks access keys and makes temporary ones. It has no state and is safe for
// concurrent use.
type Authority struct {
	account Account
}

// NewAuthority returns the authority of an account.
func NewAuthority(a Account) *Authority { return &Authority{account: a} }

// Account returns the account's key pair.
func (a *Authority) Account() Account { return a.account }

type claims struct {
	Role    string `json:"r"`
	Session string `json:"s"`
	Issued  int64  `json:"i"`
	Expires int64  `json:"e"`
}

const keyPrefix = "STS.N"

// Mint makes credentials of a role for a session. The same arguments give the same credentials.
func (a *Authority) Mint(role, session string, issued time.Time, life time.Duration) Credentials {
	c := claims{Role: role, Session: session, Issued: issued.Unix(), Expires: issued.Add(life).Unix()}
	// A struct of strings and integers always marshals.
	payload, _ := json.Marshal(c)
	id := a.keyID(payload)
	return Credentials{
		AccessKeyID:     id,
		AccessKeySecret: a.secretOf(id),
		SecurityToken:   a.token(payload),
		Issued:          time.Unix(c.Issued, 0).UTC(),
		Expiration:      time.Unix(c.Expires, 0).UTC(),
	}
}

// Secret returns the secret of an access key and its owner. token is empty for the account's
// key.
func (a *Authority) Secret(accessKeyID, token string, now time.Time) (string, Identity, error) {
	if token == "" {
		switch {
		case accessKeyID == a.account.AccessKeyID && accessKeyID != "":
			return a.account.AccessKeySecret, Identity{OwnerID: a.account.OwnerID}, nil
		case strings.HasPrefix(accessKeyID, "STS."):
			return "", Identity{}, ErrTokenMissing
		}
		return "", Identity{}, ErrUnknownKey
	}
	body, _, ok := strings.Cut(token, ".")
	if !ok {
		return "", Identity{}, ErrTokenMalformed
	}
	payload, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil {
		return "", Identity{}, ErrTokenMalformed
	}
	if !hmac.Equal([]byte(token), []byte(a.token(payload))) {
		return "", Identity{}, ErrTokenMalformed
	}
	var c claims
	if err := json.Unmarshal(payload, &c); err != nil {
		return "", Identity{}, ErrTokenMalformed
	}
	if !hmac.Equal([]byte(accessKeyID), []byte(a.keyID(payload))) {
		return "", Identity{}, ErrTokenMismatch
	}
	if now.Unix() >= c.Expires {
		return "", Identity{}, ErrTokenExpired
	}
	return a.secretOf(accessKeyID), Identity{OwnerID: a.account.OwnerID, Role: c.Role, Session: c.Session}, nil
}

// Seal returns a keyed digest for other tokens of the simulator; purpose separates their kinds.
func (a *Authority) Seal(purpose string, data []byte) []byte { return a.seal("x-"+purpose, data) }

func (a *Authority) seal(purpose string, data []byte) []byte {
	h := hmac.New(sha256.New, a.account.Master)
	io.WriteString(h, purpose)
	h.Write([]byte{0})
	h.Write(data)
	return h.Sum(nil)
}

// token returns the security token of a payload: the payload and its seal.
func (a *Authority) token(payload []byte) string {
	return base64.RawURLEncoding.EncodeToString(payload) + "." + hex.EncodeToString(a.seal("token", payload))
}

func (a *Authority) keyID(payload []byte) string {
	return keyPrefix + alnum(a.seal("key", payload)[:23])
}

func (a *Authority) secretOf(id string) string { return alnum(a.seal("secret", []byte(id))) }
