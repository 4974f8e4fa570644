package openapi

import (
	"encoding/base64"
	"encoding/json"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"
)

// jwt returns a token as the kubelet projects it; its signature is not checked here.
func jwt(t *testing.T, alg string, change func(map[string]any)) string {
	t.Helper()
	claims := map[string]any{
		"iss": "https://oidc.test", "sub": "system:serviceaccount:kube-system:terway", "aud": []string{"sts.aliyuncs.com"},
		"exp": noon.Add(time.Hour).Unix(), "nbf": noon.Unix(),
	}
	if change != nil {
		change(claims)
	}
	part := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	return part(map[string]string{"alg": alg}) + "." + part(claims) + ".c2ln"
}

// RRSA: a service account's token gives credentials that sign a call.
func TestAssumeRoleWithOIDC(t *testing.T) {
	h := handler(t)
	call := func(token string, more url.Values) (int, string, map[string]any) {
		q := url.Values{
			"Action": {"AssumeRoleWithOIDC"}, "Version": {"2015-04-01"}, "RoleArn": {"acs:ram::1234567890123456:role/terway"},
			"OIDCProviderArn": {"acs:ram::1234567890123456:oidc-provider/ack"}, "RoleSessionName": {"controller"}, "OIDCToken": {token},
		}
		for k, v := range more {
			q[k] = v
		}
		return ask(t, h, httptest.NewRequest("POST", "http://sts.test/?"+q.Encode(), nil))
	}
	status, code, answer := call(jwt(t, "RS256", nil), url.Values{"DurationSeconds": {"900"}})
	if status != 200 {
		t.Fatalf("%d %s %v", status, code, answer)
	}
	creds := answer["Credentials"].(map[string]any)
	if creds["Expiration"] != "2026-01-02T12:15:00Z" {
		t.Errorf("expiration %v, want that of DurationSeconds", creds["Expiration"])
	}
	q := v1(h, "GET", url.Values{"Action": {"GetCallerIdentity"}, "Version": {"2015-04-01"},
		"AccessKeyId": {creds["AccessKeyId"].(string)}, "SecurityToken": {creds["SecurityToken"].(string)}})
	sign(q, "GET", creds["AccessKeySecret"].(string))
	if status, code, who := ask(t, h, httptest.NewRequest("GET", "http://sts.test/?"+q.Encode(), nil)); status != 200 ||
		who["Arn"] != "acs:ram::1234567890123456:assumed-role/terway/controller" {
		t.Errorf("call with the credentials: %d %s %v", status, code, who)
	}

	set := func(k string, v any) string {
		return jwt(t, "RS256", func(c map[string]any) { c[k] = v })
	}
	for _, c := range []struct {
		name  string
		token string
		more  url.Values
		code  string
	}{
		{"expired", set("exp", noon.Unix()), nil, "AuthenticationFail.OIDCToken.Expired"},
		{"not valid yet", set("nbf", noon.Add(time.Minute).Unix()), nil, "AuthenticationFail.OIDCToken.Invalid"},
		{"no expiry", set("exp", 0), nil, "AuthenticationFail.OIDCToken.Invalid"},
		{"no subject", set("sub", ""), nil, "AuthenticationFail.OIDCToken.Invalid"},
		{"no audience", set("aud", nil), nil, "AuthenticationFail.OIDCToken.Invalid"},
		{"one audience", set("aud", "sts.aliyuncs.com"), nil, ""},
		{"unsigned", jwt(t, "none", nil), nil, "AuthenticationFail.OIDCToken.Invalid"},
		{"not a JWT", "token", nil, "AuthenticationFail.OIDCToken.Invalid"},
		{"empty", "", nil, "MissingParameter"},
		{"no provider", jwt(t, "RS256", nil), url.Values{"OIDCProviderArn": {""}}, "MissingParameter"},
		{"no role", jwt(t, "RS256", nil), url.Values{"RoleArn": {""}}, "MissingParameter"},
		{"bad role", jwt(t, "RS256", nil), url.Values{"RoleArn": {"terway"}}, "InvalidParameter.RoleArn"},
		{"bad session", jwt(t, "RS256", nil), url.Values{"RoleSessionName": {"a b"}}, "InvalidParameter.RoleSessionName"},
		{"too short", jwt(t, "RS256", nil), url.Values{"DurationSeconds": {"899"}}, "InvalidParameter.DurationSeconds"},
		{"too long", jwt(t, "RS256", nil), url.Values{"DurationSeconds": {"43201"}}, "InvalidParameter.DurationSeconds"},
		{"no number", jwt(t, "RS256", nil), url.Values{"DurationSeconds": {"x"}}, "InvalidParameter"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, code, _ := call(c.token, c.more); code != c.code {
				t.Errorf("code %q, want %q", code, c.code)
			}
		})
	}
}
