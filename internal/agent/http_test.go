package agent

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/datapath"
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
	e.dp.repairs = []datapath.Repair{{Kind: "fake", Piece: datapath.PiecePods, What: "one"}, {Kind: "fake", Piece: datapath.PiecePods, What: "another"}}
	if err := e.a.Repair(t.Context()); err != nil {
		t.Fatal(err)
	}
	e.dead["/run/netns/b"] = true
	if _, err := e.add("b"); err == nil {
		t.Fatal("ADD without a namespace succeeded")
	}
	_, body := get("/metrics")
	for _, want := range []string{
		`terway_node_addresses{state="used"} 1`, `terway_node_addresses{state="free"} 1`, `terway_node_pods_waiting 0`, `terway_node_ready 1`,
		`terway_node_address_limit 2`, `terway_node_datapath_info{datapath="fake"} 1`, `terway_node_datapath_info{datapath="exclusive"} 0`,
		`terway_node_pods{datapath="fake"} 1`,
		`terway_datapath_repairs_total{datapath="fake",piece="pods"} 2`,
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

// A node's ENIs are counted in every phase, also those that cannot be used yet, beside what its type allows.
func TestENIMetrics(t *testing.T) {
	e := newEnv(t, 0)
	nn := &v1alpha1.NodeNetwork{Spec: v1alpha1.NodeNetworkSpec{
		Datapath: "auto", Limits: v1alpha1.Limits{ENIs: 4, AddressesPerENI: 10, MaxPods: 30},
		ENIs: []v1alpha1.ENI{{Token: "a", Phase: v1alpha1.ENICreating}, {Token: "b", Phase: v1alpha1.ENICreating}},
	}}
	w, err := ParseDesired(nn, nil)
	if err != nil {
		t.Fatal(err)
	}
	e.setDesired(w)
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(e.a.Collector())
	rec := httptest.NewRecorder()
	Handler(e.a, r).ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, want := range []string{
		`terway_node_enis{phase="Creating"} 2`, `terway_node_enis{phase="Ready"} 0`, `terway_node_eni_limit 3`, `terway_node_address_limit 30`,
	} {
		if !strings.Contains(rec.Body.String(), want+"\n") {
			t.Errorf("metrics lack %q:\n%s", want, rec.Body)
		}
	}
}
