package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"terway.dev/terway/api/v1alpha1"
)

func nodeObjects(generation int64, addresses ...string) (*corev1.Node, *v1alpha1.NodeNetwork) {
	nn := &v1alpha1.NodeNetwork{
		TypeMeta:   metav1.TypeMeta{APIVersion: "network.terway.dev/v1alpha1", Kind: "NodeNetwork"},
		ObjectMeta: metav1.ObjectMeta{Name: "node-1", UID: "uid-1", Generation: generation, ResourceVersion: "7"},
		Spec: v1alpha1.NodeNetworkSpec{
			VPCCIDRs: []string{"192.168.0.0/16"}, Pool: v1alpha1.Pool{Min: 1, Max: 5, CoolingSeconds: 60},
			ENIs: []v1alpha1.ENI{{Token: "t", ID: "eni-1", MAC: eniMAC, Phase: v1alpha1.ENIReady, CIDRs: []string{"192.168.32.0/19"}, Gateways: []string{"192.168.63.253"}}},
		},
	}
	for _, a := range addresses {
		nn.Spec.ENIs[0].Addresses = append(nn.Spec.ENIs[0].Addresses, v1alpha1.Address{Address: a})
	}
	return &corev1.Node{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
		ObjectMeta: metav1.ObjectMeta{Name: "node-1", ResourceVersion: "7"},
		Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.168.0.10"}}},
	}, nn
}

// apiServer implements the requests that the agent may make. It rejects and records any other
// request: the agent must need no more than the permissions in the chart.
type apiServer struct {
	*httptest.Server
	mu      sync.Mutex
	patches [][]map[string]any
	other   []string
}

func newAPIServer(t *testing.T, node *corev1.Node, nn *v1alpha1.NodeNetwork) *apiServer {
	s := &apiServer{}
	answer := func(w http.ResponseWriter, v any) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(v); err != nil {
			t.Error(err)
		}
	}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		own := q.Get("fieldSelector") == "metadata.name=node-1"
		const networks = "/apis/network.terway.dev/v1alpha1/nodenetworks"
		switch {
		case r.Method == "GET" && r.URL.Path == networks && own && q.Get("watch") == "":
			answer(w, &v1alpha1.NodeNetworkList{
				TypeMeta: metav1.TypeMeta{APIVersion: nn.APIVersion, Kind: "NodeNetworkList"},
				ListMeta: metav1.ListMeta{ResourceVersion: "7"}, Items: []v1alpha1.NodeNetwork{*nn},
			})
		case r.Method == "GET" && r.URL.Path == networks && own && q.Get("sendInitialEvents") == "true":
			http.Error(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Invalid","code":422}`, http.StatusUnprocessableEntity)
		case r.Method == "GET" && r.URL.Path == networks && own:
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		case r.Method == "GET" && r.URL.Path == "/api/v1/nodes/node-1":
			answer(w, node)
		case r.Method == "PATCH" && r.URL.Path == networks+"/node-1/status":
			if r.Header.Get("Content-Type") == string(types.MergePatchType) {
				if body, err := io.ReadAll(r.Body); err != nil || string(body) != emptyStatus {
					t.Errorf("merge patch %s (%v), want an empty status alone", body, err)
				}
				answer(w, nn)
				return
			}
			var p []map[string]any
			if err := json.NewDecoder(r.Body).Decode(&p); err != nil {
				t.Error(err)
			}
			s.mu.Lock()
			s.patches = append(s.patches, p)
			s.mu.Unlock()
			answer(w, nn)
		default:
			s.mu.Lock()
			s.other = append(s.other, r.Method+" "+r.URL.String())
			s.mu.Unlock()
			http.Error(w, "forbidden", http.StatusForbidden)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// The real clients need four permissions and nothing else, discovery included.
func TestPermissionsThatTheAgentNeeds(t *testing.T) {
	e := newEnv(t, 0)
	e.kill()
	e.start()
	node, nn := nodeObjects(1, "192.168.32.1")
	api := newAPIServer(t, node, nn)
	c, err := Connect(&rest.Config{Host: api.URL}, "node-1")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- NewNodeSync(e.a, c, "node-1").Run(ctx) }()
	for len(api.seen()) == 0 || e.a.total() == 0 {
		e.repair()
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if len(api.other) > 0 {
		t.Errorf("the agent made requests that it has no permission for: %v", api.other)
	}
	p := api.seen()[0]
	if p[0]["op"] != "test" || p[0]["path"] != "/metadata/uid" || p[0]["value"] != "uid-1" {
		t.Fatalf("patch %v, want one of that object", p)
	}
	for _, op := range p[1:] {
		if path, _ := op["path"].(string); !strings.HasPrefix(path, "/status/") || path == "/status/controllerConditions" {
			t.Errorf("operation %v, want fields of the status, those of the agent alone", op)
		}
	}
}

// Each field of the status is written by the agent or by the controller, so a new field is not
// forgotten.
func TestReportNamesAllOfTheAgentsFields(t *testing.T) {
	raw, err := statusPatch("uid-1", v1alpha1.NodeNetworkStatus{})
	if err != nil {
		t.Fatal(err)
	}
	var ops []map[string]any
	if err := json.Unmarshal(raw, &ops); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, op := range ops[1:] {
		if op["value"] == nil {
			t.Errorf("%v: the API server accepts no null", op)
		}
		got = append(got, strings.TrimPrefix(op["path"].(string), "/status/"))
	}
	var want []string
	for f := range reflect.TypeFor[v1alpha1.NodeNetworkStatus]().Fields() {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "controllerConditions" {
			want = append(want, name)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the report has %v, want %v", got, want)
	}
}

func (s *apiServer) seen() [][]map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.patches)
}

func (a *Agent) total() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.pool.Count(a.Now()).Total
}

func fakeCluster(t *testing.T, funcs interceptor.Funcs, objs ...client.Object) (client.WithWatch, Cluster) {
	t.Helper()
	scheme, err := Scheme()
	if err != nil {
		t.Fatal(err)
	}
	plain := fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&v1alpha1.NodeNetwork{}).WithObjects(objs...).Build()
	c := interceptor.NewClient(plain, funcs)
	return plain, Cluster{Client: c, Own: c, Watch: func(ctx context.Context, _ func()) error { <-ctx.Done(); return nil }}
}

func unversioned(node *corev1.Node, nn *v1alpha1.NodeNetwork) (*corev1.Node, *v1alpha1.NodeNetwork) {
	node.ResourceVersion, nn.ResourceVersion = "", ""
	return node, nn
}

// An API server that lags behind returns an old spec: an address that was confirmed as released would
// be given to a pod.
func TestOlderWordIsIgnored(t *testing.T) {
	e := newEnv(t, 0)
	node, nn := unversioned(nodeObjects(5, "192.168.32.1", "192.168.32.2"))
	api, c := fakeCluster(t, interceptor.Funcs{}, node, nn)
	s := NewNodeSync(e.a, c, "node-1")
	take := func(generation int64, count int) {
		t.Helper()
		got := &v1alpha1.NodeNetwork{}
		if err := api.Get(t.Context(), client.ObjectKeyFromObject(nn), got); err != nil {
			t.Fatal(err)
		}
		_, want := nodeObjects(generation)
		got.Generation = generation
		got.Spec = want.Spec
		for i := range count {
			got.Spec.ENIs[0].Addresses = append(got.Spec.ENIs[0].Addresses, v1alpha1.Address{Address: fmt.Sprintf("192.168.32.%d", i+1)})
		}
		if err := api.Update(t.Context(), got); err != nil {
			t.Fatal(err)
		}
		if err := s.receive(t.Context(), false); err != nil {
			t.Fatal(err)
		}
	}
	take(5, 1)
	take(4, 3)
	if got := e.a.total(); got != 1 {
		t.Errorf("%d addresses after an older generation, want 1", got)
	}
	take(6, 2)
	if got := e.a.total(); got != 2 {
		t.Errorf("%d addresses after a newer generation, want 2", got)
	}

	// A restarted agent without an API server uses the generation that it applied last.
	e.kill()
	e.start()
	s = NewNodeSync(e.a, c, "node-1")
	if err := s.restoreSaved(); err != nil {
		t.Fatal(err)
	}
	if got := e.a.total(); got != 2 || s.received.Generation != 6 {
		t.Errorf("restored %d addresses of generation %d, want 2 of 6", got, s.received.Generation)
	}

	// A restarted agent also ignores an older generation that it reads first, perhaps from another API server.
	e.kill()
	e.start()
	s = NewNodeSync(e.a, c, "node-1")
	take(5, 1)
	if got := e.a.total(); got != 0 || s.received.Generation != 0 {
		t.Errorf("%d addresses of generation %d after a restart, want none before generation 6 or the journal's", got, s.received.Generation)
	}
	if w, err := s.loadSaved(); err != nil || w.Generation != 6 {
		t.Errorf("the journal has generation %d (%v), want 6", w.Generation, err)
	}
	take(7, 3)
	if got := e.a.total(); got != 3 {
		t.Errorf("%d addresses of generation 7, want 3", got)
	}
	// A new object of the same name starts its own generations.
	got := &v1alpha1.NodeNetwork{}
	if err := api.Get(t.Context(), client.ObjectKeyFromObject(nn), got); err != nil {
		t.Fatal(err)
	}
	if err := api.Delete(t.Context(), got); err != nil {
		t.Fatal(err)
	}
	_, fresh := unversioned(nodeObjects(1, "192.168.32.9"))
	fresh.UID = "uid-2"
	if err := api.Create(t.Context(), fresh); err != nil {
		t.Fatal(err)
	}
	e.kill()
	e.start()
	s = NewNodeSync(e.a, c, "node-1")
	if err := s.receive(t.Context(), false); err != nil || e.a.total() != 1 {
		t.Errorf("%d addresses of the new object (%v), want 1", e.a.total(), err)
	}
}

// A deleted object, read again from an API server that lags behind, does not replace the object that
// came after it; not after a restart either.
func TestWordOfAnEarlierObjectIsIgnored(t *testing.T) {
	e := newEnv(t, 0)
	node, nn := unversioned(nodeObjects(1, "192.168.32.1"))
	nn.UID = "uid-2"
	api, c := fakeCluster(t, interceptor.Funcs{}, node, nn)
	seen, away := nn.DeepCopy(), false
	c.Own = interceptor.NewClient(api, interceptor.Funcs{Get: func(_ context.Context, _ client.WithWatch, _ client.ObjectKey, obj client.Object, _ ...client.GetOption) error {
		seen.DeepCopyInto(obj.(*v1alpha1.NodeNetwork))
		return nil
	}})
	c.Client = interceptor.NewClient(api, interceptor.Funcs{Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
		if away {
			return errors.New("connection refused")
		}
		return c.Get(ctx, key, obj, opts...)
	}})
	s := NewNodeSync(e.a, c, "node-1")
	is := func(when string, addresses int, uid types.UID) {
		t.Helper()
		if n := e.a.total(); n != addresses || s.last().UID != uid {
			t.Errorf("%s: %d addresses of object %s, want %d of %s", when, n, s.last().UID, addresses, uid)
		}
	}
	take := func() {
		t.Helper()
		if err := s.receive(t.Context(), false); err != nil {
			t.Error(err)
		}
	}
	take()
	is("at first", 1, "uid-2")
	_, before := unversioned(nodeObjects(9, "192.168.32.1", "192.168.32.2", "192.168.32.3"))
	seen = before
	take()
	is("the earlier object", 1, "uid-2")
	away = true
	if err := s.receive(t.Context(), false); err == nil {
		t.Error("no error, though it is unknown which object is newer")
	}
	is("the API server does not answer", 1, "uid-2")
	away = false
	if err := api.Delete(t.Context(), nn.DeepCopy()); err != nil {
		t.Fatal(err)
	}
	take()
	is("both are deleted", 1, "uid-2")
	_, next := unversioned(nodeObjects(1, "192.168.32.1", "192.168.32.2"))
	next.UID = "uid-3"
	if err := api.Create(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	take()
	is("a new object, not in the cache yet", 2, "uid-3")
	e.kill()
	e.start()
	s = NewNodeSync(e.a, c, "node-1")
	take()
	is("a restarted agent", 2, "uid-3")
}

// A normal start logs no warning: the agent has checked the node, and so has a report, before the
// watch starts.
func TestStartWarnsOfNothing(t *testing.T) {
	var log bytes.Buffer
	e := newEnv(t, 0)
	e.configure = func(o *Options) {
		o.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	e.kill()
	e.start()
	node, nn := nodeObjects(1, "192.168.32.1")
	api := newAPIServer(t, node, nn)
	c, err := Connect(&rest.Config{Host: api.URL}, "node-1")
	if err != nil {
		t.Fatal(err)
	}
	read, watch := c.Own, c.Watch
	tooEarly := make(chan struct{}, 1)
	c.Own = interceptor.NewClient(fake.NewFakeClient(), interceptor.Funcs{Get: func(ctx context.Context, _ client.WithWatch, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
		err := read.Get(ctx, key, obj, opts...)
		if err != nil {
			signal(tooEarly)
		}
		return err
	}})
	c.Watch = func(ctx context.Context, changed func()) error {
		select {
		case <-tooEarly:
		case <-time.After(50 * time.Millisecond): // long enough for a report that does not wait
		}
		return watch(ctx, changed)
	}
	e.repair()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- NewNodeSync(e.a, c, "node-1").Run(ctx) }()
	for len(api.seen()) == 0 {
		e.repair()
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if log.Len() > 0 {
		t.Errorf("the log has warnings:\n%s", &log)
	}
}

// A report that was made for an object does not land in another of its name.
func TestReportIsForItsObject(t *testing.T) {
	e := newEnv(t, 1)
	node, nn := unversioned(nodeObjects(1, "192.168.32.1"))
	api, c := fakeCluster(t, interceptor.Funcs{}, node, nn)
	lags := *nn.DeepCopy()
	lags.UID = "uid-0" // the cache still has the previous object
	c.Own = interceptor.NewClient(api, interceptor.Funcs{Get: func(_ context.Context, _ client.WithWatch, _ client.ObjectKey, obj client.Object, _ ...client.GetOption) error {
		lags.DeepCopyInto(obj.(*v1alpha1.NodeNetwork))
		return nil
	}})
	s := NewNodeSync(e.a, c, "node-1")
	err := s.write(t.Context())
	got := &v1alpha1.NodeNetwork{}
	if err := api.Get(t.Context(), client.ObjectKeyFromObject(nn), got); err != nil {
		t.Fatal(err)
	}
	if err == nil || len(got.Status.Conditions) > 0 {
		t.Errorf("the report landed in object %s: %v", got.UID, err)
	}
	lags.UID = nn.UID
	if err := s.write(t.Context()); err != nil {
		t.Error(err)
	}
}

// The node's addresses are read periodically, and mostly have not changed.
func TestLookingAgainFindsNothingNew(t *testing.T) {
	e := newEnv(t, 0)
	node, nn := unversioned(nodeObjects(1, "192.168.32.1"))
	_, c := fakeCluster(t, interceptor.Funcs{}, node, nn)
	s := NewNodeSync(e.a, c, "node-1")
	for range 3 {
		if err := s.receive(t.Context(), true); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.received.Addresses) == 0 || s.received.Generation != 1 {
		t.Errorf("received %+v, want the node's addresses and generation 1", s.received)
	}
}

// A report whose answer was lost may have been written or not: the current status must be written
// again even if it equals the last known one.
func TestReportWithLostAnswerIsRepeated(t *testing.T) {
	e := newEnv(t, 1)
	lost := false
	node, nn := unversioned(nodeObjects(1, "192.168.32.1"))
	api, c := fakeCluster(t, interceptor.Funcs{
		SubResourcePatch: func(ctx context.Context, cl client.Client, sub string, obj client.Object, patch client.Patch, opts ...client.SubResourcePatchOption) error {
			err := cl.SubResource(sub).Patch(ctx, obj, patch, opts...)
			if lost {
				return errors.Join(err, errors.New("connection reset"))
			}
			return err
		},
	}, node, nn)
	s := NewNodeSync(e.a, c, "node-1")
	used := func() int {
		got := &v1alpha1.NodeNetwork{}
		if err := api.Get(t.Context(), client.ObjectKeyFromObject(nn), got); err != nil {
			t.Fatal(err)
		}
		if len(got.Status.Used) != got.Status.UsedCount {
			t.Fatalf("status %+v", got.Status)
		}
		return got.Status.UsedCount
	}
	if err := s.write(t.Context()); err != nil {
		t.Fatal(err)
	}
	e.want(1) // no cooling to be reported
	e.a.desired.Cooling = 0
	e.repair()
	e.mustAdd("a")
	lost = true
	if err := s.write(t.Context()); err == nil || !strings.Contains(err.Error(), "reset") {
		t.Fatalf("write: %v, want the lost answer", err)
	}
	if used() != 1 {
		t.Fatal("the report was not written")
	}
	lost = false
	e.del("a")
	if err := s.write(t.Context()); err != nil {
		t.Fatal(err)
	}
	if used() != 0 {
		t.Error("the report lists a free address as used")
	}
}

func TestReportIsWrittenOnlyWhenItChanges(t *testing.T) {
	e := newEnv(t, 1)
	writes := 0
	node, nn := unversioned(nodeObjects(1, "192.168.32.1"))
	nn.Status.Demand = 1 // it has a status
	_, c := fakeCluster(t, interceptor.Funcs{
		SubResourcePatch: func(ctx context.Context, cl client.Client, sub string, obj client.Object, patch client.Patch, opts ...client.SubResourcePatchOption) error {
			writes++
			return cl.SubResource(sub).Patch(ctx, obj, patch, opts...)
		},
	}, node, nn)
	s := NewNodeSync(e.a, c, "node-1")
	for range 3 {
		e.sleep(time.Second)
		e.repair()
		if err := s.write(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if writes != 1 {
		t.Errorf("%d writes of the same status, want 1", writes)
	}
}

// The controller creates the object with only the instance, and writes the datapath a moment later:
// an agent that applied the first version would choose a datapath by itself.
func TestHalfAWordIsNone(t *testing.T) {
	for datapath, want := range map[string]bool{"": false, "auto": true, "route": true} {
		nn := &v1alpha1.NodeNetwork{Spec: v1alpha1.NodeNetworkSpec{InstanceID: "i-1", Datapath: datapath}}
		if w, err := ParseDesired(nn, nil); err != nil || w.Known != want {
			t.Errorf("datapath %q: known %t (%v), want %t", datapath, w.Known, err, want)
		}
	}
}
