package alibaba

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"terway.dev/terway/internal/testutil/testclock"
)

const (
	testKey    = "LTAItestkey"
	testSecret = "s3cr3t-of-the-test"
)

// fakeClock advances only for its waiters, and records for how long they waited.
type fakeClock struct {
	testclock.Clock
	mu    sync.Mutex
	slept []time.Duration
}

func newFakeClock() *fakeClock {
	return &fakeClock{Clock: testclock.New(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))}
}

func (c *fakeClock) After(d time.Duration) <-chan time.Time {
	c.remember(d)
	return c.Clock.After(d)
}

func (c *fakeClock) Sleep(d time.Duration) {
	c.remember(d)
	c.Clock.Sleep(d)
}

func (c *fakeClock) remember(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slept = append(c.slept, d)
}

// answer is an answer of the scripted cloud; cut drops the connection instead.
type answer struct {
	status int
	body   string
	cut    bool
}

func ok(body string) answer { return answer{status: 200, body: body} }

func no(status int, code string) answer {
	return answer{status: status, body: fmt.Sprintf(`{"RequestId":"R-1","HostId":"h","Code":%q,"Message":"it is so"}`, code)}
}

// fakeCloud answers with what script returns for the nth call (from 0).
type fakeCloud struct {
	*httptest.Server
	mu    sync.Mutex
	calls []url.Values
}

func newFakeCloud(t *testing.T, script func(n int, q url.Values) answer) *fakeCloud {
	f := &fakeCloud{}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		f.mu.Lock()
		n := len(f.calls)
		f.calls = append(f.calls, r.Form)
		f.mu.Unlock()
		a := script(n, r.Form)
		if a.cut {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(a.status)
		_, _ = io.WriteString(w, a.body)
	}))
	t.Cleanup(f.Close)
	return f
}

// in returns a script with these answers, of which the last one repeats.
func in(answers ...answer) func(int, url.Values) answer {
	return func(n int, _ url.Values) answer { return answers[min(n, len(answers)-1)] }
}

type testClient struct {
	*Client
	clock   *fakeClock
	log     *bytes.Buffer
	metrics *prometheus.Registry
}

func newTestClient(t *testing.T, f *fakeCloud, change ...func(*Config)) testClient {
	t.Helper()
	tc := testClient{clock: newFakeClock(), log: &bytes.Buffer{}, metrics: prometheus.NewRegistry()}
	cfg := Config{
		Region:      "cn-hangzhou",
		ECSEndpoint: f.URL, VPCEndpoint: f.URL,
		Credentials: StaticCredentials(testKey, testSecret),
		Clock:       tc.clock, Random: func() float64 { return 0.5 },
		Log:     slog.New(slog.NewTextHandler(tc.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Metrics: tc.metrics,
	}
	for _, ch := range change {
		ch(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	tc.Client = c
	return tc
}
