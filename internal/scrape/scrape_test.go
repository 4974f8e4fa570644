package scrape

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
)

// server is what the API server knows: tokens' users, and who may get /metrics.
type server struct {
	users   map[string]string
	readers map[string]bool
	down    bool
	asked   int
}

func (s *server) guard(now func() time.Time) *Guard {
	c := fake.NewClientset()
	c.PrependReactor("create", "tokenreviews", func(a k8stesting.Action) (bool, runtime.Object, error) {
		s.asked++
		if s.down {
			return true, nil, errors.New("the API server is down")
		}
		r := a.(k8stesting.CreateAction).GetObject().(*authenticationv1.TokenReview).DeepCopy()
		user, ok := s.users[r.Spec.Token]
		r.Status = authenticationv1.TokenReviewStatus{Authenticated: ok, User: authenticationv1.UserInfo{
			Username: user, Groups: []string{"g"}, Extra: map[string]authenticationv1.ExtraValue{"k": {"v"}},
		}}
		return true, r, nil
	})
	c.PrependReactor("create", "subjectaccessreviews", func(a k8stesting.Action) (bool, runtime.Object, error) {
		r := a.(k8stesting.CreateAction).GetObject().(*authorizationv1.SubjectAccessReview).DeepCopy()
		path := r.Spec.NonResourceAttributes
		r.Status.Allowed = s.readers[r.Spec.User] && path.Path == "/metrics" && path.Verb == "get" && len(r.Spec.Groups) == 1 && len(r.Spec.Extra["k"]) == 1
		return true, r, nil
	})
	return newGuard(c, slog.New(slog.DiscardHandler), now)
}

func TestWhoMayRead(t *testing.T) {
	now := time.Unix(0, 0)
	s := &server{users: map[string]string{"prometheus": "system:serviceaccount:m:prometheus", "pod": "system:serviceaccount:d:default"}, readers: map[string]bool{"system:serviceaccount:m:prometheus": true}}
	l, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	page := &http.Server{Handler: s.guard(func() time.Time { return now }).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "figures") }))}
	go func() { _ = page.Serve(l) }()
	t.Cleanup(func() { _ = page.Close() })
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	get := func(authorization, path string) (int, string) {
		t.Helper()
		r, err := http.NewRequest(http.MethodGet, "https://"+l.Addr().String()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if authorization != "" {
			r.Header.Set("Authorization", authorization)
		}
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	for _, c := range []struct {
		authorization, path string
		status              int
		says                string
	}{
		{"", "/metrics", http.StatusUnauthorized, "want a bearer token"},
		{"Basic prometheus", "/metrics", http.StatusUnauthorized, "want a bearer token"},
		{"Bearer nobody", "/metrics", http.StatusUnauthorized, "not valid"},
		{"Bearer pod", "/metrics", http.StatusForbidden, "system:serviceaccount:d:default may not get /metrics"},
		{"Bearer prometheus", "/metrics", http.StatusOK, "figures"},
		{"bearer prometheus", "/metrics", http.StatusOK, "figures"},
		{"Bearer prometheus", "/other", http.StatusForbidden, "may not get /other"},
	} {
		if status, says := get(c.authorization, c.path); status != c.status || !strings.Contains(says, c.says) {
			t.Errorf("%q gets %s: %d %q, want %d %q", c.authorization, c.path, status, says, c.status, c.says)
		}
	}

	// An answer is remembered, also while the API server is down, and no longer than it counts.
	before := s.asked
	s.down = true
	if status, _ := get("Bearer prometheus", "/metrics"); status != http.StatusOK || s.asked != before {
		t.Errorf("again: %d after %d questions", status, s.asked-before)
	}
	now = now.Add(allowedFor)
	if status, _ := get("Bearer prometheus", "/metrics"); status != http.StatusServiceUnavailable {
		t.Errorf("after the answer has expired and without an API server: %d", status)
	}
	s.down = false
	delete(s.readers, "system:serviceaccount:m:prometheus")
	if status, _ := get("Bearer prometheus", "/metrics"); status != http.StatusForbidden {
		t.Errorf("who may read no more: %d", status)
	}
	s.readers["system:serviceaccount:m:prometheus"] = true
	now = now.Add(refusedFor)
	if status, _ := get("Bearer prometheus", "/metrics"); status != http.StatusOK {
		t.Errorf("who may read again: %d", status)
	}
}

// Made-up tokens do not become as many questions to the API server, nor memory without end; and a known scraper
// is not affected.
func TestMadeUpTokens(t *testing.T) {
	now := time.Unix(0, 0)
	s := &server{users: map[string]string{"prometheus": "p"}, readers: map[string]bool{"p": true}}
	g := s.guard(func() time.Time { return now })
	h := g.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	get := func(token string) int {
		w := recorder{status: http.StatusOK, header: http.Header{}}
		r, err := http.NewRequest(http.MethodGet, "/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+token)
		h.ServeHTTP(&w, r)
		return w.status
	}
	if status := get("prometheus"); status != http.StatusOK {
		t.Fatal(status)
	}
	g.limit = onlyFirst{new(int)}
	if status := get("a"); status != http.StatusUnauthorized {
		t.Errorf("the first made-up token: %d", status)
	}
	if status, asked := get("b"), s.asked; status != http.StatusTooManyRequests || asked != 2 {
		t.Errorf("the second one: %d, %d questions", status, asked)
	}
	if status := get("prometheus"); status != http.StatusOK {
		t.Errorf("the scraper: %d", status)
	}
	for i := range 3 * maxAnswers {
		g.remember([32]byte{byte(i), byte(i >> 8)}, answer{})
	}
	if len(g.answers) > maxAnswers {
		t.Errorf("%d answers are remembered", len(g.answers))
	}
}

// onlyFirst lets one question through.
type onlyFirst struct{ n *int }

func (o onlyFirst) TryAccept() bool { *o.n++; return *o.n == 1 }

type recorder struct {
	status int
	header http.Header
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) Write(b []byte) (int, error) { return len(b), nil }
func (r *recorder) WriteHeader(status int)      { r.status = status }

func TestLocal(t *testing.T) {
	for address, want := range map[string]bool{
		"127.0.0.1:1": true, "localhost:1": true, "[::1]:1": true, "127.9.9.9:1": true,
		":1": false, "0.0.0.0:1": false, "[::]:1": false, "10.0.0.1:1": false, "127.0.0.1": false, "off": false,
	} {
		if got := Local(address); got != want {
			t.Errorf("%s: %v", address, got)
		}
	}
}
