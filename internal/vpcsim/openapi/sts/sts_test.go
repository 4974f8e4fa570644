package sts

import (
	"bytes"
	"crypto/rand"
	"errors"
	"testing"
	"time"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func authority(t testing.TB) *Authority {
	t.Helper()
	a, err := NewAccount("1234567890123456", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return NewAuthority(a)
}

func TestAccountKey(t *testing.T) {
	a := authority(t)
	secret, who, err := a.Secret(a.Account().AccessKeyID, "", now)
	if err != nil || secret != a.Account().AccessKeySecret || who.ARN() != "acs:ram::1234567890123456:root" {
		t.Errorf("secret %q, caller %s, err %v", secret, who.ARN(), err)
	}
}

func TestRoleCredentials(t *testing.T) {
	a := authority(t)
	c := a.Mint("terway", "i-1", now, time.Hour)
	// An authority with the same account, as after a restart, accepts them too.
	again := NewAuthority(a.Account())
	secret, who, err := again.Secret(c.AccessKeyID, c.SecurityToken, now.Add(59*time.Minute))
	if err != nil || secret != c.AccessKeySecret || who.Role != "terway" || who.Session != "i-1" {
		t.Errorf("secret %q, caller %+v, err %v", secret, who, err)
	}
}

func TestRefusals(t *testing.T) {
	a := authority(t)
	c := a.Mint("terway", "i-1", now, time.Hour)
	other := a.Mint("terway", "i-2", now, time.Hour)
	foreign := authority(t).Mint("terway", "i-1", now, time.Hour)
	for _, x := range []struct {
		name, id, token string
		at              time.Time
		want            error
	}{
		{"unknown key", "LTAI5tNobody", "", now, ErrUnknownKey},
		{"no key", "", "", now, ErrUnknownKey},
		{"temporary key alone", c.AccessKeyID, "", now, ErrTokenMissing},
		{"expired", c.AccessKeyID, c.SecurityToken, now.Add(time.Hour), ErrTokenExpired},
		{"another's token", c.AccessKeyID, other.SecurityToken, now, ErrTokenMismatch},
		{"account key with token", a.Account().AccessKeyID, c.SecurityToken, now, ErrTokenMismatch},
		{"another account's token", foreign.AccessKeyID, foreign.SecurityToken, now, ErrTokenMalformed},
		{"garbage", c.AccessKeyID, "x.y", now, ErrTokenMalformed},
		{"no seal", c.AccessKeyID, "x", now, ErrTokenMalformed},
	} {
		t.Run(x.name, func(t *testing.T) {
			secret, _, err := a.Secret(x.id, x.token, x.at)
			if !errors.Is(err, x.want) || secret != "" {
				t.Errorf("secret %q, err %v, want %v", secret, err, x.want)
			}
		})
	}
}

// Only a token that was made by Mint gives a secret.
func FuzzSecret(f *testing.F) {
	a := authority(f)
	c := a.Mint("terway", "i-1", now, time.Hour)
	f.Add(c.AccessKeyID, c.SecurityToken)
	f.Add("STS.x", "e30.00")
	f.Fuzz(func(t *testing.T, id, token string) {
		secret, _, err := a.Secret(id, token, now)
		if err == nil && (id != c.AccessKeyID || token != c.SecurityToken) || err != nil && secret != "" {
			t.Errorf("key %q with token %q: secret %q, err %v", id, token, secret, err)
		}
	})
}

func TestNewAccountNeedsRandomness(t *testing.T) {
	if _, err := NewAccount("1", bytes.NewReader(nil)); err == nil {
		t.Error("an account without randomness")
	}
}
