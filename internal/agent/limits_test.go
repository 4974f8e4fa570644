package agent

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/prometheus/client_golang/prometheus"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/agent/podapi"
	"terway.dev/terway/internal/agent/request"
	"terway.dev/terway/internal/bandwidth"
	"terway.dev/terway/internal/cnicall"
	"terway.dev/terway/internal/datapath/object"
)

// limited is the call for a pod with annotations.
func limited(t *testing.T, sandbox string, annotations map[string]string) cnicall.Request {
	t.Helper()
	config, err := json.Marshal(map[string]any{
		"cniVersion": "1.1.0", "name": "terway", "type": "terway",
		"runtimeConfig": map[string]any{request.CapabilityAnnotations: annotations},
	})
	if err != nil {
		t.Fatal(err)
	}
	in := call(sandbox)
	in.Config = config
	return in
}

// The datapath gets a pod's limits, after a restart of the agent too.
func TestLimitsReachTheDatapath(t *testing.T) {
	e := newEnv(t, 3)
	add := func(sandbox string, annotations map[string]string) *bandwidth.Limits {
		t.Helper()
		if r := e.do(context.Background(), "ADD", limited(t, sandbox, annotations)); r.Error != nil {
			t.Fatal(r.Error)
		}
		return e.dp.wired[sandbox].Limits
	}
	if got := add("a", map[string]string{bandwidth.Ingress: "10M", bandwidth.EgressBytes: "1m"}); got == nil || *got != (bandwidth.Limits{Ingress: 1e7, Egress: 8 << 20}) {
		t.Errorf("limits %v", got)
	}
	if got := add("b", map[string]string{"other": "x"}); got != nil {
		t.Errorf("a pod without the annotations has limits %v", got)
	}
	e.restart()
	if got := PodOf(e.a.lookup(e.key("a"))).Limits; got == nil || *got != (bandwidth.Limits{Ingress: 1e7, Egress: 8 << 20}) {
		t.Errorf("limits %v after a restart", got)
	}
}

// So does its network priority, and the node's total.
func TestPrioritiesReachTheDatapath(t *testing.T) {
	e := newEnv(t, 3)
	for sandbox, want := range map[string]bandwidth.Priority{"a": bandwidth.Guaranteed, "b": bandwidth.Burstable} {
		annotations := map[string]string{"other": "x"}
		if want != bandwidth.Burstable { // the usual one
			annotations[bandwidth.NetworkPriority] = string(want)
		}
		if r := e.do(context.Background(), "ADD", limited(t, sandbox, annotations)); r.Error != nil {
			t.Fatal(r.Error)
		}
		if got := e.dp.wired[sandbox].Priority; got != want {
			t.Errorf("%s: priority %q, want %q", sandbox, got, want)
		}
	}
	e.restart()
	if got := PodOf(e.a.lookup(e.key("a"))).Priority; got != bandwidth.Guaranteed {
		t.Errorf("priority %q after a restart", got)
	}
	reported := func() (list []string) {
		for _, u := range e.a.Status(v1alpha1.NodeNetworkStatus{}).Used {
			if u.Priority != "" {
				list = append(list, u.Sandbox+" "+u.Priority)
			}
		}
		return list
	}
	if got := reported(); len(got) != 0 {
		t.Errorf("without a total the report has %q", got)
	}
	want := e.a.desired
	want.Node.ENIMbit = 1000
	e.setDesired(want)
	if got := reported(); !slices.Equal(got, []string{"a guaranteed"}) {
		t.Errorf("the report has %q", got)
	}
	nn := &v1alpha1.NodeNetwork{Spec: v1alpha1.NodeNetworkSpec{Datapath: "auto", ENIMbit: 1000}}
	if d, err := ParseDesired(nn, nil); err != nil || d.Node.ENIMbit != 1000 {
		t.Errorf("total %d, %v", d.Node.ENIMbit, err)
	}
}

// A pod with a wrong value does not start without a limit.
func TestAWrongLimitIsRefused(t *testing.T) {
	e := newEnv(t, 1)
	p := e.do(context.Background(), "ADD", limited(t, "p", map[string]string{bandwidth.NetworkPriority: "high"}))
	if !says(p.Error, types.ErrInvalidNetworkConfig, "pod default/pod-p: annotation k8s.aliyun.com/network-priority: \"high\"") || !strings.Contains(p.Error.Msg, "such as") {
		t.Errorf("error %v", p.Error)
	}
	r := e.do(context.Background(), "ADD", limited(t, "a", map[string]string{bandwidth.Egress: "10m"}))
	if !says(r.Error, types.ErrInvalidNetworkConfig, "pod default/pod-a: annotation kubernetes.io/egress-bandwidth: \"10m\"") || !strings.Contains(r.Error.Msg, "such as") {
		t.Errorf("error %v", r.Error)
	}
	if len(e.dp.wired) != 0 {
		t.Error("the pod was wired")
	}
	if _, err := e.add("b"); err != nil {
		t.Errorf("the address was not given back: %v", err)
	}
}

// What the controller says of a pod's limits counts, at once and for pods that start later; what it does not
// mention stays.
func TestTheControllerChangesLimits(t *testing.T) {
	e := newEnv(t, 3)
	add := func(sandbox string, annotations map[string]string) {
		t.Helper()
		in := limited(t, sandbox, annotations)
		in.Args += ";K8S_POD_UID=uid-" + sandbox
		if r := e.do(context.Background(), "ADD", in); r.Error != nil {
			t.Fatal(r.Error)
		}
	}
	want := e.a.desired
	says := func(limits map[string]bandwidth.Limits) {
		t.Helper()
		want.Limits = limits
		e.setDesired(want)
		e.repair()
	}
	has := func(sandbox string, want *bandwidth.Limits) {
		t.Helper()
		got := PodOf(e.a.lookup(e.key(sandbox))).Limits
		if (got == nil) != (want == nil) || got != nil && *got != *want {
			t.Errorf("%s: limits %v, want %v", sandbox, got, want)
		}
		var reported *v1alpha1.PodLimits
		for _, u := range e.a.Status(v1alpha1.NodeNetworkStatus{}).Used {
			if u.Sandbox == sandbox {
				reported = u.Limits
			}
		}
		none := want == nil || *want == (bandwidth.Limits{})
		if (reported == nil) != none || !none && *reported != (v1alpha1.PodLimits{UID: "uid-" + sandbox, Ingress: int64(want.Ingress), Egress: int64(want.Egress)}) {
			t.Errorf("%s: %+v is reported, want %v", sandbox, reported, want)
		}
	}
	add("a", map[string]string{bandwidth.Ingress: "10M"})
	add("b", nil)
	has("a", &bandwidth.Limits{Ingress: 1e7})
	has("b", nil)
	says(map[string]bandwidth.Limits{"uid-a": {Ingress: 2e7, Egress: 1e6}, "uid-b": {Egress: 1e6}, "uid-c": {Ingress: 5e6}})
	has("a", &bandwidth.Limits{Ingress: 2e7, Egress: 1e6})
	has("b", &bandwidth.Limits{Egress: 1e6})
	add("c", map[string]string{bandwidth.Ingress: "10M"})
	has("c", &bandwidth.Limits{Ingress: 5e6})
	says(map[string]bandwidth.Limits{"uid-a": {}})
	has("a", &bandwidth.Limits{})
	has("b", &bandwidth.Limits{Egress: 1e6})
	says(nil)
	e.restart()
	has("a", &bandwidth.Limits{})
	has("c", &bandwidth.Limits{Ingress: 5e6})
}

// A pod without limits, of which the controller says that it has none, is not treated as one that had some.
func TestNoLimitsAreNone(t *testing.T) {
	e := newEnv(t, 1)
	want := e.a.desired
	want.Limits = map[string]bandwidth.Limits{"uid-a": {}}
	e.setDesired(want)
	in := call("a")
	in.Args += ";K8S_POD_UID=uid-a"
	if r := e.do(context.Background(), "ADD", in); r.Error != nil {
		t.Fatal(r.Error)
	}
	e.repair()
	if got := PodOf(e.a.lookup(e.key("a"))).Limits; got != nil {
		t.Errorf("limits %v", got)
	}
}

// Metrics have the limits of pods and what their queues have counted.
func TestLimitMetrics(t *testing.T) {
	e := newEnv(t, 2)
	for sandbox, annotations := range map[string]map[string]string{"a": {bandwidth.Ingress: "10M"}, "b": nil} {
		if r := e.do(context.Background(), "ADD", limited(t, sandbox, annotations)); r.Error != nil {
			t.Fatal(r.Error)
		}
	}
	e.dp.counts = map[string][]object.Counts{"a": {{Bytes: 5, Drops: 2}, {FromPod: true, Bytes: 7}}}
	r := prometheus.NewRegistry()
	r.MustRegister(e.a.Collector())
	w := httptest.NewRecorder()
	Handler(e.a, r).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	body := w.Body.String()
	const labels = `{direction="ingress",namespace="default",pod="pod-a"} `
	for _, want := range []string{
		"terway_pod_bandwidth_limit_bits_per_second" + labels + "1e+07", "terway_pod_bandwidth_bytes_total" + labels + "5",
		"terway_pod_bandwidth_dropped_packets_total" + labels + "2",
	} {
		if !strings.Contains(body, want+"\n") {
			t.Errorf("metrics lack %q", want)
		}
	}
	if strings.Contains(body, `direction="egress"`) || strings.Contains(body, "pod-b") {
		t.Errorf("metrics of what has no limit: %s", body)
	}
}

// terwayctl gets what the queues of limited pods have counted, and of when.
func TestBandwidthIsAsked(t *testing.T) {
	e := newEnv(t, 3)
	read := e.dp.read
	asked := func() podapi.Bandwidth {
		t.Helper()
		w := httptest.NewRecorder()
		e.a.AskHandler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, podapi.PathBandwidth, nil))
		b, err := podapi.ReadBandwidth(w.Body)
		if err != nil || w.Code != http.StatusOK {
			t.Fatal(w.Code, err)
		}
		return b
	}
	if b := asked(); len(b.Pods) != 0 || e.dp.read != read {
		t.Errorf("%+v, after the kernel was read %d times: want neither pods nor that", b, e.dp.read-read)
	}
	for sandbox, annotations := range map[string]map[string]string{"a": {bandwidth.Ingress: "10M", bandwidth.Egress: "5M"}, "b": nil, "c": {bandwidth.Egress: "1M"}} {
		if r := e.do(context.Background(), "ADD", limited(t, sandbox, annotations)); r.Error != nil {
			t.Fatal(r.Error)
		}
	}
	e.dp.counts = map[string][]object.Counts{"a": {{Bytes: 5, Drops: 2}, {FromPod: true, Bytes: 7}}} // of c nothing can be read
	first := asked()
	e.sleep(3 * time.Second)
	b := asked()
	slices.SortFunc(b.Pods, func(x, y podapi.Pod) int { return strings.Compare(x.Pod, y.Pod) })
	if len(b.Pods) != 2 || b.Pods[0].Pod != "default/pod-a" || *b.Pods[0].Ingress != (podapi.Queue{Limit: 10e6, Bytes: 5, Dropped: 2}) ||
		*b.Pods[0].Egress != (podapi.Queue{Limit: 5e6, Bytes: 7}) || b.Pods[1] != (podapi.Pod{Pod: "default/pod-c"}) {
		t.Errorf("%+v", b.Pods)
	}
	if b.Uptime-first.Uptime != 3*time.Second {
		t.Errorf("asked at %s and %s, want 3 s later", first.Uptime, b.Uptime)
	}
}
