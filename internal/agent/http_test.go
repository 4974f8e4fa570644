package agent

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func TestPages(t *testing.T) {
	e := newEnv(t, 2)
	r := prometheus.NewRegistry()
	m, err := NewMetrics(r)
	if err != nil {
		t.Fatal(err)
	}
	e.a.Metrics = m
	r.MustRegister(e.a.Collector())
	h := Handler(e.a, r)
	get := func(path string) (int, string) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w.Code, w.Body.String()
	}
	e.mustAdd("a")
	e.dead["/run/netns/b"] = true
	if _, err := e.add("b"); err == nil {
		t.Fatal("ADD without a namespace succeeded")
	}
	_, body := get("/metrics")
	for _, want := range []string{
		`terway_addresses{state="used"} 1`, `terway_addresses{state="free"} 1`, `terway_waiting_pods 0`, `terway_ready 1`,
		`terway_cni_calls_total{code="0",verb="ADD"} 1`, `terway_cni_calls_total{code="8",verb="ADD"} 1`,
	} {
		if !strings.Contains(body, want+"\n") {
			t.Errorf("metrics lack %q", want)
		}
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if code, body := get(path); code != http.StatusOK {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	e.sleep(stuck + time.Second)
	if code, _ := get("/healthz"); code != http.StatusServiceUnavailable {
		t.Errorf("/healthz of an agent whose repair loop hangs: %d", code)
	}
	e.kill()
	e.start()
	h = Handler(e.a, r)
	if code, body := get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "controller") {
		t.Errorf("/readyz before there is a desired state: %d %q", code, body)
	}
}
