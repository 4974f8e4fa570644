package alibaba

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/utils/clock"

	"terway.dev/terway/internal/cloud"
)

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFileCredentialsFollowTheSecret(t *testing.T) {
	dir := t.TempDir()
	id, secret := filepath.Join(dir, "id"), filepath.Join(dir, "secret")
	source := FileCredentials(id, secret)
	_, err := source.Get(t.Context())
	if !errors.Is(err, os.ErrNotExist) || cloud.Explain(credentialError("DescribeInstances", err)).Reason != "NoCredential" {
		t.Errorf("no files: %v", err)
	}
	for _, v := range []string{"one", "two"} {
		writeFile(t, id, v+"\n")
		writeFile(t, secret, " s-"+v+"\n")
		if c, err := source.Get(t.Context()); err != nil || c.AccessKeyID != v || c.AccessKeySecret != "s-"+v {
			t.Errorf("%s: %v %v", v, c, err)
		}
	}
	writeFile(t, secret, "\n")
	if _, err := source.Get(t.Context()); err == nil || !strings.Contains(err.Error(), secret+" is empty") {
		t.Errorf("an empty file: %v", err)
	}
}

// imds is a metadata service with the hardened mode.
type imds struct {
	*httptest.Server
	mu      sync.Mutex
	fetched int
	life    time.Duration
	role    string
	broken  bool
	plain   bool // no session tokens
	garbage bool
	refuses int // how often a session token is refused
}

func newIMDS(t *testing.T, clock clock.Clock) *imds {
	m := &imds{life: time.Hour, role: "terway"}
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		defer m.mu.Unlock()
		const dir = "/latest/meta-data/ram/security-credentials/"
		switch {
		case m.broken:
			w.WriteHeader(http.StatusServiceUnavailable)
		case r.URL.Path == "/latest/api/token" && m.plain:
			w.WriteHeader(http.StatusNotFound)
		case r.URL.Path == "/latest/api/token":
			if r.Method != http.MethodPut || r.Header.Get("X-aliyun-ecs-metadata-token-ttl-seconds") == "" {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			_, _ = io.WriteString(w, "session")
		case !m.plain && r.Header.Get("X-aliyun-ecs-metadata-token") != "session":
			w.WriteHeader(http.StatusForbidden)
		case m.refuses > 0:
			m.refuses--
			w.WriteHeader(http.StatusUnauthorized)
		case r.URL.Path == dir && m.role != "":
			_, _ = io.WriteString(w, m.role)
		case r.URL.Path == dir+m.role && m.role != "":
			m.fetched++
			if m.garbage {
				_, _ = io.WriteString(w, "<html>")
				return
			}
			_, _ = fmt.Fprintf(w, `{"Code":"Success","AccessKeyId":"STS.%d","AccessKeySecret":"s","SecurityToken":"t%d","Expiration":%q}`,
				m.fetched, m.fetched, clock.Now().Add(m.life).UTC().Format(time.RFC3339))
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(m.Close)
	return m
}

func (m *imds) set(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

func TestECSRoleIsRenewedInTime(t *testing.T) {
	clock := newFakeClock()
	m := newIMDS(t, clock)
	source, err := ECSRoleCredentials(ECSRoleConfig{Endpoint: m.URL, Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	want := func(id string) {
		t.Helper()
		if c, err := source.Get(t.Context()); err != nil || c.AccessKeyID != id {
			t.Fatalf("%v, %v; want %s", c, err, id)
		}
	}
	want("STS.1")
	clock.Step(54 * time.Minute)
	want("STS.1")
	clock.Step(2 * time.Minute) // 4 minutes before the end
	renewed(t, source, "STS.1", "STS.2")

	// The service cannot be reached: the old credential is used until it expires.
	clock.Step(57 * time.Minute)
	m.set(func() { m.broken = true })
	want("STS.2")
	clock.Step(4 * time.Minute)
	if c, err := source.Get(t.Context()); err == nil {
		t.Fatalf("an expired credential is given: %v", c)
	}
	m.set(func() { m.broken = false })
	clock.Step(renewRetry)
	want("STS.3")

	source.Forget(Credential{AccessKeyID: "STS.1", SecurityToken: "t1"}) // an old one: nothing to do
	want("STS.3")
	source.Forget(Credential{AccessKeyID: "STS.3", SecurityToken: "t3"})
	want("STS.4")

	// A lifetime shorter than the margin.
	m.set(func() { m.life = time.Minute })
	source.Forget(Credential{AccessKeyID: "STS.4", SecurityToken: "t4"})
	want("STS.5")
	clock.Step(40 * time.Second)
	want("STS.5")
	clock.Step(10 * time.Second)
	renewed(t, source, "STS.5", "STS.6")
}

// A session token that the service no longer knows is replaced once.
func TestECSRoleTokenRefused(t *testing.T) {
	clock := newFakeClock()
	m := newIMDS(t, clock)
	for _, tt := range []struct {
		refuses int
		want    string
	}{{1, ""}, {2, "session token was refused"}} {
		m.set(func() { m.refuses = tt.refuses })
		source, err := ECSRoleCredentials(ECSRoleConfig{Endpoint: m.URL, Clock: clock})
		if err != nil {
			t.Fatal(err)
		}
		c, err := source.Get(t.Context())
		if tt.want == "" && (err != nil || c.AccessKeyID == "") || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("refused %d times: %v, %v; want %q", tt.refuses, c, err, tt.want)
		}
	}
}

// renewed waits until a source has replaced a credential; until then it returns the old one.
func renewed(t *testing.T, source CredentialSource, old, next string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		c, err := source.Get(t.Context())
		if err != nil || c.AccessKeyID != old && c.AccessKeyID != next || time.Now().After(end) {
			t.Fatalf("%v, %v; want %s, then %s", c, err, old, next)
		}
		if c.AccessKeyID == next {
			return
		}
	}
}

// A service that hangs while the old credential is valid blocks no call, and not every call
// asks it.
func TestRenewalHoldsNoCall(t *testing.T) {
	clock := newFakeClock()
	fetches := make(chan chan error, 100)
	s := newRenewedSource(clock, slog.New(slog.DiscardHandler), func(context.Context) (Credential, error) {
		answer := make(chan error)
		fetches <- answer
		return Credential{AccessKeyID: "a", AccessKeySecret: "s", SecurityToken: "t", Expires: clock.Now().Add(time.Hour)}, <-answer
	})
	go func() { close(<-fetches) }()
	get := func() {
		t.Helper()
		if _, err := s.Get(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	get()
	clock.Step(56 * time.Minute) // so that it is valid for four more
	for range 16 {
		get() // must not wait
	}
	away := <-fetches
	away <- errors.New("STS does not answer")
	for range 16 {
		get()
	}
	var again chan error
	for again == nil { // once the failure is noted, and some time has passed
		clock.Step(renewRetry / 5)
		get()
		select {
		case again = <-fetches:
		case <-time.After(5 * time.Millisecond):
		}
	}
	close(again)
	if len(fetches) > 0 {
		t.Error("it is asked by more than one call")
	}
}

func TestECSRoleKinds(t *testing.T) {
	clock := newFakeClock()
	for name, c := range map[string]struct {
		change func(*imds)
		role   string
		reason string
	}{
		"named role":              {func(*imds) {}, "terway", ""},
		"no session tokens":       {func(m *imds) { m.plain = true }, "", ""},
		"no role":                 {func(m *imds) { m.role = "" }, "", "NoCredential"},
		"another role":            {func(*imds) {}, "other", "NoCredential"},
		"away":                    {func(m *imds) { m.Close() }, "", "Unreachable"},
		"an expired credential":   {func(m *imds) { m.life = -time.Second }, "", "NoCredential"},
		"out of order":            {func(m *imds) { m.broken = true }, "", "BadAnswer"},
		"answers without meaning": {func(m *imds) { m.garbage = true }, "", "NoCredential"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newIMDS(t, clock)
			c.change(m)
			source, err := ECSRoleCredentials(ECSRoleConfig{Endpoint: m.URL, Role: c.role, Clock: clock})
			if err != nil {
				t.Fatal(err)
			}
			_, err = source.Get(t.Context())
			if (err == nil) != (c.reason == "") || err != nil && cloud.Explain(credentialError("X", err)).Reason != c.reason {
				t.Errorf("%v, want reason %q", err, c.reason)
			}
		})
	}
}

func TestOneFetchServesAll(t *testing.T) {
	clock := newFakeClock()
	m := newIMDS(t, clock)
	source, err := ECSRoleCredentials(ECSRoleConfig{Endpoint: m.URL, Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := source.Get(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if m.fetched != 1 {
		t.Errorf("%d fetches, want 1", m.fetched)
	}
}

func TestRRSA(t *testing.T) {
	clock := newFakeClock()
	tokenFile := filepath.Join(t.TempDir(), "token")
	writeFile(t, tokenFile, "jwt-1\n")
	var (
		forms   []string
		trouble bool
	)
	sts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		if trouble {
			w.WriteHeader(400)
			_, _ = io.WriteString(w, `{"RequestId":"R","Code":"AuthenticationFail.OIDCToken.Expired","Message":"This JSON Web Token has expired."}`)
			return
		}
		forms = append(forms, strings.Join([]string{r.Method, r.Form.Get("Action"), r.Form.Get("Version"), r.Form.Get("RoleArn"), r.Form.Get("OIDCProviderArn"), r.PostForm.Get("OIDCToken"), r.Form.Get("RoleSessionName"), r.Form.Get("Signature")}, " "))
		_, _ = fmt.Fprintf(w, `{"RequestId":"R","Credentials":{"AccessKeyId":"STS.%d","AccessKeySecret":"s","SecurityToken":"t","Expiration":%q}}`,
			len(forms), clock.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	}))
	defer sts.Close()
	source, err := RRSACredentials(RRSAConfig{TokenFile: tokenFile, RoleARN: "acs:ram::1:role/terway", ProviderARN: "acs:ram::1:oidc-provider/ack", Endpoint: sts.URL, Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	if c, err := source.Get(t.Context()); err != nil || c.AccessKeyID != "STS.1" || c.SecurityToken != "t" || c.Expires != clock.Now().Add(time.Hour) {
		t.Fatalf("%+v %v", c, err)
	}
	writeFile(t, tokenFile, "jwt-2") // kubelet has rotated it
	clock.Step(58 * time.Minute)
	renewed(t, source, "STS.1", "STS.2")
	want := "POST AssumeRoleWithOIDC 2015-04-01 acs:ram::1:role/terway acs:ram::1:oidc-provider/ack jwt-%d terway "
	if len(forms) != 2 || forms[0] != fmt.Sprintf(want, 1) || forms[1] != fmt.Sprintf(want, 2) {
		t.Errorf("%q", forms)
	}

	trouble = true
	clock.Step(2 * time.Hour)
	_, err = source.Get(t.Context())
	var e *cloud.Error
	if !errors.As(credentialError("DescribeInstances", err), &e) || e.Class != cloud.Auth || e.Code != "AuthenticationFail.OIDCToken.Expired" || e.Action != "DescribeInstances" || cloud.Explain(e).Reason != "RoleRefused" {
		t.Errorf("%v", err)
	}
	if err := os.Remove(tokenFile); err != nil {
		t.Fatal(err)
	}
	clock.Step(renewRetry)
	if _, err := source.Get(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no token file: %v", err)
	}
}

func TestRRSAConfig(t *testing.T) {
	full := RRSAConfig{TokenFile: "f", RoleARN: "r", ProviderARN: "p", Region: "cn-hangzhou"}
	for field, change := range map[string]func(*RRSAConfig){
		"token file":   func(c *RRSAConfig) { c.TokenFile = "" },
		"role ARN":     func(c *RRSAConfig) { c.RoleARN = "" },
		"provider ARN": func(c *RRSAConfig) { c.ProviderARN = "" },
		"region":       func(c *RRSAConfig) { c.Region = "" },
		"STS endpoint": func(c *RRSAConfig) { c.Endpoint = "ftp://x" },
	} {
		c := full
		change(&c)
		if _, err := RRSACredentials(c); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	if _, err := RRSACredentials(full); err != nil {
		t.Error(err)
	}
}
