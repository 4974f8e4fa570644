package openapi

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/vpcsim/faults"
	"terway.dev/terway/internal/vpcsim/openapi/sts"
	"terway.dev/terway/internal/vpcsim/state"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// memory is a Backend with one state.
type memory struct{ cloud *state.State }

func (m memory) Read(_ context.Context, _ time.Duration, f func(state.API) error) error {
	return f(m.cloud)
}
func (m memory) Write(_ context.Context, f func(state.API) error) error { return f(m.cloud) }

func handler(t testing.TB, change ...func(*Options)) *Handler {
	t.Helper()
	account, err := sts.NewAccount("1234567890123456", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := func() time.Time { return noon }
	cloud, err := state.New(state.Options{Now: now, Catalog: catalog.Default()})
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		Backend: memory{cloud}, Authority: sts.NewAuthority(account), Faults: faults.New(1), Stats: NewStats(),
		Throttle: Throttle{Off: true}, RegionID: "cn-hangzhou", Now: now,
		Sleep: func(context.Context, time.Duration) error { return nil }, Log: slog.New(slog.DiscardHandler),
	}
	for _, f := range change {
		f(&o)
	}
	return New(o)
}

// ask sends a request and returns the status and the error code.
func ask(t testing.TB, h *Handler, r *http.Request) (int, string, map[string]any) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	var body map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
		t.Fatalf("the answer is not JSON: %v: %s", err, w.Body)
	}
	if id, _ := body["RequestId"].(string); len(id) != 36 || id != strings.ToUpper(id) {
		t.Errorf("RequestId %q", id)
	}
	code, _ := body["Code"].(string)
	return w.Code, code, body
}

// v1 returns the parameters of a call with signature 1.0. It signs by the published algorithm,
// not with the code under test.
func v1(h *Handler, method string, more url.Values) url.Values {
	a := h.Authority.Account()
	q := url.Values{
		"Action": {"DescribeRegions"}, "Version": {"2014-05-26"}, "Format": {"JSON"}, "AccessKeyId": {a.AccessKeyID},
		"SignatureMethod": {"HMAC-SHA1"}, "SignatureVersion": {"1.0"}, "SignatureType": {""}, "SignatureNonce": {"n1"},
		"Timestamp": {"2026-01-02T12:00:00Z"},
	}
	for k, v := range more {
		q[k] = v
	}
	sign(q, method, a.AccessKeySecret)
	return q
}

func sign(q url.Values, method, secret string) {
	q.Del("Signature")
	escape := strings.NewReplacer("+", "%20", "*", "%2A", "%7E", "~")
	canonical := escape.Replace(q.Encode())
	mac := hmac.New(sha1.New, []byte(secret+"&"))
	mac.Write([]byte(method + "&%2F&" + escape.Replace(url.QueryEscape(canonical))))
	q.Set("Signature", base64.StdEncoding.EncodeToString(mac.Sum(nil)))
}

func TestSignatureV1(t *testing.T) {
	h := handler(t)
	role := h.Authority.Mint("r", "s", noon, time.Hour)
	old := h.Authority.Mint("r", "s", noon.Add(-2*time.Hour), time.Hour)
	temporary := func(c sts.Credentials, token string) url.Values {
		q := v1(h, "GET", url.Values{"AccessKeyId": {c.AccessKeyID}})
		if token != "" {
			q.Set("SecurityToken", token)
		}
		sign(q, "GET", c.AccessKeySecret)
		return q
	}
	change := func(k, v string) url.Values {
		q := v1(h, "GET", nil)
		if v == "" {
			q.Del(k)
		} else {
			q.Set(k, v)
		}
		return q
	}
	for _, c := range []struct {
		name   string
		query  url.Values
		status int
		code   string
	}{
		{"right", v1(h, "GET", nil), 200, ""},
		{"odd characters", v1(h, "GET", url.Values{"X": {" *~/é&=+%"}, "Y *~": {""}}), 200, ""},
		{"names with a common prefix", v1(h, "GET", url.Values{"X.1": {"a"}, "X.10": {"b"}, "X.1.K": {"c"}, "X.2": {"d"}}), 200, ""},
		{"temporary key", temporary(role, role.SecurityToken), 200, ""},
		{"temporary key, expired", temporary(old, old.SecurityToken), 403, "InvalidSecurityToken.Expired"},
		{"temporary key, no token", temporary(role, ""), 400, "MissingSecurityToken"},
		{"temporary key, another's token", temporary(role, old.SecurityToken), 403, "InvalidSecurityToken.MismatchWithAccessKey"},
		{"a parameter was changed", change("RegionId", "cn-beijing"), 403, "SignatureDoesNotMatch"},
		{"signature of another method", v1(h, "POST", nil), 403, "SignatureDoesNotMatch"},
		{"signature that is not base64", change("Signature", "%%"), 403, "SignatureDoesNotMatch"},
		{"no signature", change("Signature", ""), 400, "IncompleteSignature"},
		{"no key", change("AccessKeyId", ""), 400, "MissingParameter"},
		{"unknown key", change("AccessKeyId", "LTAI5tNobody"), 404, "InvalidAccessKeyId.NotFound"},
		{"another method of signing", change("SignatureMethod", "HMAC-MD5"), 400, "IncompleteSignature"},
		{"no action", change("Action", ""), 400, "MissingParameter"},
		{"no version", change("Version", ""), 400, "MissingParameter"},
		{"unknown action", change("Action", "DescribeUnicorns"), 404, "InvalidAction.NotFound"},
		{"unknown version", change("Version", "2014-05-27"), 400, "NoSuchVersion"},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, code, _ := ask(t, h, httptest.NewRequest("GET", "http://ecs.test/?"+c.query.Encode(), nil))
			if status != c.status || code != c.code {
				t.Errorf("%d %q, want %d %q", status, code, c.status, c.code)
			}
		})
	}
}

// Parameters may be in the query, in the body, or in both.
func TestSignatureV1FormBody(t *testing.T) {
	h := handler(t)
	q := v1(h, "POST", url.Values{"Extra": {"in the body"}})
	body := url.Values{"Extra": q["Extra"], "Action": q["Action"]}
	q.Del("Extra")
	q.Del("Action")
	r := httptest.NewRequest("POST", "http://ecs.test/?"+q.Encode(), strings.NewReader(body.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=UTF-8")
	if status, code, _ := ask(t, h, r); status != 200 {
		t.Errorf("%d %q", status, code)
	}
}

func TestReplay(t *testing.T) {
	h := handler(t, func(o *Options) { o.RefuseReplay = true })
	get := func(more url.Values) (int, string) {
		status, code, _ := ask(t, h, httptest.NewRequest("GET", "http://ecs.test/?"+v1(h, "GET", more).Encode(), nil))
		return status, code
	}
	if status, code := get(nil); status != 200 {
		t.Errorf("first call: %d %q", status, code)
	}
	if _, code := get(nil); code != "SignatureNonceUsed" {
		t.Errorf("the same nonce again: %q", code)
	}
	if status, code := get(url.Values{"SignatureNonce": {"n2"}}); status != 200 {
		t.Errorf("another nonce: %d %q", status, code)
	}
	for at, want := range map[string]string{
		"2026-01-02T11:44:59Z": "InvalidTimeStamp.Expired",
		"2026-01-02T12:15:01Z": "InvalidTimeStamp.Expired",
		"noon":                 "InvalidTimeStamp.Format",
		"2026-01-02T11:45:00Z": "",
	} {
		if _, code := get(url.Values{"SignatureNonce": {at}, "Timestamp": {at}}); code != want {
			t.Errorf("time stamp %s: %q, want %q", at, code, want)
		}
	}
}

// signedACS3 returns a call as darabonba signs it. It uses the signer under test; the SDK tests
// of package vpcsim show that it agrees with darabonba.
func signedACS3(h *Handler, body string) *http.Request {
	r := httptest.NewRequest("POST", "http://ecs.test/?RegionId=cn+hangzhou", strings.NewReader(body))
	digest := sha256Hex([]byte(body))
	for k, v := range map[string]string{
		"x-acs-action": "DescribeRegions", "x-acs-version": "2014-05-26", "x-acs-date": "2026-01-02T12:00:00Z",
		"x-acs-signature-nonce": "n1", "x-acs-content-sha256": digest,
	} {
		r.Header.Set(k, v)
	}
	names := []string{"host", "x-acs-action", "x-acs-content-sha256", "x-acs-date", "x-acs-signature-nonce", "x-acs-version"}
	m := &message{method: "POST", host: r.Host, header: r.Header, query: r.URL.Query()}
	a := h.Authority.Account()
	r.Header.Set("Authorization", acs3+" Credential="+a.AccessKeyID+",SignedHeaders="+strings.Join(names, ";")+
		",Signature="+signACS3(a.AccessKeySecret, canonicalACS3(m, names, digest)))
	return r
}

func TestACS3Tampering(t *testing.T) {
	h := handler(t)
	for _, c := range []struct {
		name   string
		change func(*http.Request)
		status int
		code   string
	}{
		{"right", func(*http.Request) {}, 200, ""},
		{"action exchanged", func(r *http.Request) { r.Header.Set("x-acs-action", "DescribeZones") }, 403, "SignatureDoesNotMatch"},
		{"parameter added", func(r *http.Request) { r.URL.RawQuery += "&X=1" }, 403, "SignatureDoesNotMatch"},
		{"another host", func(r *http.Request) { r.Host = "vpc.test" }, 403, "SignatureDoesNotMatch"},
		{"body exchanged", func(r *http.Request) { r.Body = http.NoBody }, 400, "IncompleteSignature"},
		{"header left out of the signature", func(r *http.Request) {
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), "x-acs-action;", "", 1))
		}, 400, "IncompleteSignature"},
		{"no signature", func(r *http.Request) { r.Header.Set("Authorization", acs3+" Credential=x") }, 400, "IncompleteSignature"},
		{"unknown key", func(r *http.Request) {
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), "Credential=", "Credential=x", 1))
		}, 404, "InvalidAccessKeyId.NotFound"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := signedACS3(h, "body")
			c.change(r)
			status, code, _ := ask(t, h, r)
			if status != c.status || code != c.code {
				t.Errorf("%d %q, want %d %q", status, code, c.status, c.code)
			}
		})
	}
}

// Unsigned requests are never accepted, and never make the handler panic.
func FuzzUnsignedRequests(f *testing.F) {
	h := handler(f)
	q := v1(h, "GET", nil)
	q.Set("Signature", "AAAA")
	f.Add("GET", q.Encode(), "", "", "")
	f.Add("POST", "", "application/x-www-form-urlencoded", q.Encode(), "")
	f.Add("POST", "Action=DescribeRegions&Version=2014-05-26", "", "", acs3+" Credential="+h.Authority.Account().AccessKeyID+",SignedHeaders=host;x-acs-action,Signature=00")
	f.Add("POST", "Action=AssumeRoleWithOIDC&Version=2015-04-01&OIDCToken=a.b.c&OIDCProviderArn=x&RoleArn=y&RoleSessionName=z", "", "", "")
	f.Fuzz(func(t *testing.T, method, query, kind, body, authorization string) {
		r := httptest.NewRequest("POST", "http://ecs.test/", bytes.NewReader([]byte(body)))
		r.Method, r.URL.RawQuery = method, query
		r.Header.Set("Content-Type", kind)
		r.Header.Set("Authorization", authorization)
		status, code, answer := ask(t, h, r)
		// AssumeRoleWithOIDC accepts an unsigned token, by design.
		if status < 400 && answer["Credentials"] == nil || status >= 400 && code == "" || status >= 500 {
			t.Errorf("status %d, code %q, answer %v", status, code, answer)
		}
	})
}
