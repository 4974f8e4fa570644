package policyhub_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	cnpv1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
	"sigs.k8s.io/randfill"

	v3 "terway.dev/terway/api/calico/v3"
	"terway.dev/terway/internal/controller/policyhub"
	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
	"terway.dev/terway/internal/policy/feed"
	"terway.dev/terway/internal/policy/translate"
)

func pod(name, node, address string, labels map[string]string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: labels},
		Spec:       corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: address},
	}
}

func web() *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db"},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}},
			Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{
				{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}},
			}}},
		},
	}
}

// A node has its part when the replica has read all, and each change after that; it goes on with the other replica
// when its own is gone; and a kind that is installed later is watched.
func TestANodeFollowsTheCluster(t *testing.T) {
	w := newWorld(t)
	w.absent[reflect.TypeOf(&v3.GlobalNetworkPolicy{})] = true
	first := w.replica("a", &networkingv1.NetworkPolicy{})
	agent, has := w.agent("node1")
	waits := func() {
		t.Helper()
		eventually(t, "the replica waits for policies", func() error {
			if err := first.Ready(nil); err == nil || !strings.HasSuffix(err.Error(), ": networkpolicies.networking.k8s.io are being read") {
				return fmt.Errorf("ready: %v", err)
			}
			return nil
		})
	}
	waits()
	w.put(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{"kubernetes.io/metadata.name": "shop"}}})
	w.put(pod("db-0", "node1", "10.0.0.1", map[string]string{"app": "db"}))
	w.put(pod("web-0", "node2", "10.0.0.2", map[string]string{"app": "web"}))

	// Everything is there but the policies: nobody may have a part without them.
	waits()
	eventually(t, "the node hears of it", func() error {
		if s := agent.Status(); !strings.Contains(s.Error, "has not read the cluster yet") {
			return fmt.Errorf("the node says %+v", s)
		}
		return nil
	})
	w.put(web())
	first.cache.informer(reflect.TypeOf(&networkingv1.NetworkPolicy{})).Synced()
	settled := func(what string) {
		t.Helper()
		eventually(t, what, func() error { return has.has(w.part("node1")) })
	}
	settled("the first part")
	if len(w.part("node1").Peers) == 0 {
		t.Fatal("the part is empty: this test sees nothing")
	}
	if err := first.Ready(nil); err != nil {
		t.Errorf("ready: %v", err)
	}

	w.put(pod("web-1", "node2", "10.0.0.3", map[string]string{"app": "web"}))
	settled("another pod")
	w.noProbes.Store(true)
	first.SettingsChanged()
	settled("another setting")
	changed := web()
	changed.Spec.Ingress = nil
	w.put(changed)
	settled("another policy")
	w.remove(changed)
	settled("no policy")
	w.put(web())
	settled("the policy again")

	second := w.replica("b", nil)
	eventually(t, "the second replica is ready", func() error { return second.Ready(nil) })
	for _, o := range w.all() {
		second.cache.informer(reflect.TypeOf(o)).Add(o)
	}
	first.stop()
	eventually(t, "the node follows the second replica", func() error {
		if s := agent.Status(); !s.Following || s.Hub != "b" {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	settled("the part by the second replica")

	global := &v3.GlobalNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "all"}, Spec: v3.GlobalNetworkPolicySpec{PolicySpec: v3.PolicySpec{
		Selector: "app == 'db'", Ingress: []v3.Rule{{Action: v3.Deny, Source: v3.EntityRule{Nets: []string{"10.0.0.0/8"}}}},
	}}}
	w.mu.Lock()
	delete(w.absent, reflect.TypeOf(global))
	w.mu.Unlock()
	eventually(t, "the kind is watched", func() error {
		if !second.cache.watched(reflect.TypeOf(global)) {
			return errors.New("it is not")
		}
		return nil
	})
	w.put(global)
	settled("a policy of the kind that came later")
	families, err := second.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if n := len(f.Metric); n > 2 {
			t.Errorf("metric %s has %d series", f.GetName(), n)
		}
		switch f.GetName() {
		case "terway_policy_hub_nodes", "terway_policy_hub_synced":
			if v := f.Metric[0].GetGauge().GetValue(); v != 1 {
				t.Errorf("%s is %v, want 1", f.GetName(), v)
			}
		case "terway_policy_hub_settle_duration_seconds":
			for _, m := range f.Metric {
				if m.GetHistogram().GetSampleCount() == 0 {
					t.Errorf("%s has no time for %v", f.GetName(), m.Label)
				}
			}
		}
	}
}

// A hub that cannot take a change serves no node any more: its nodes go to another replica and have the change from it.
func TestAHubThatIsBehindServesNobody(t *testing.T) {
	w := newWorld(t)
	w.noProbes.Store(true) // there is no policy
	first := w.replica("a", nil)
	// Its informers must watch: they tell nobody of what came before.
	eventually(t, "the first replica is ready", func() error { return first.Ready(nil) })
	agent, has := w.agent("node1")
	w.put(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}})
	w.put(pod("db-0", "node1", "10.0.0.1", map[string]string{"app": "db"}))
	follows := func(hub string) {
		t.Helper()
		eventually(t, "the node follows "+hub, func() error {
			if s := agent.Status(); !s.Following || s.Hub != hub {
				return fmt.Errorf("%+v", s)
			}
			return has.has(w.part("node1"))
		})
	}
	follows("a")
	second := w.replica("b", nil)
	eventually(t, "the second replica is ready", func() error { return second.Ready(nil) })
	for _, o := range w.all() {
		second.cache.informer(reflect.TypeOf(o)).Add(o)
	}
	if err := first.Disturb(compile.Delta{Tiers: []policy.Tier{}}); err != nil {
		t.Fatal(err)
	}
	w.put(web())
	follows("b")
	if err := first.Ready(nil); err == nil || !strings.Contains(err.Error(), "cannot take a change") {
		t.Errorf("ready: %v", err)
	}
	if conn, err := net.DialTimeout("tcp", first.address, time.Second); err == nil {
		conn.Close()
		t.Error("the replica takes connections")
	}
}

// all are the objects that policies are made of.
func (w *world) all() (out []client.Object) {
	for _, l := range []client.ObjectList{&corev1.PodList{}, &corev1.NamespaceList{}, &networkingv1.NetworkPolicyList{}} {
		list(w, l, &out)
	}
	return out
}

func (c *objectCache) watched(kind reflect.Type) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.informers[kind] != nil
}

// The node of an agent's pod is known by the pod's name and UID: the next one of that name has another.
func TestNodeOfAnAgent(t *testing.T) {
	w := newWorld(t)
	of := func(ns, name, uid, node string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, UID: types.UID(uid)}, Spec: corev1.PodSpec{NodeName: node}}
	}
	gone := of(namespace, "terwayd-b", "2", "node2")
	w.put(gone)
	r := w.replica("a", nil)
	eventually(t, "the replica is ready", func() error { return r.Ready(nil) })
	w.put(of(namespace, "terwayd-a", "1", "node1"))
	w.put(gone)
	w.put(of("shop", "terwayd-a", "3", "node3"))
	w.remove(gone)
	for _, c := range []struct{ ns, name, uid, want string }{
		{namespace, "terwayd-a", "1", "node1"}, {namespace, "terwayd-a", "2", ""}, {namespace, "terwayd-b", "2", ""}, {"shop", "terwayd-a", "3", ""},
	} {
		if node, err := policyhub.NodeOf(r.Server, t.Context(), policy.NamespacedName{Namespace: c.ns, Name: c.name}, c.uid); node != c.want || err != nil {
			t.Errorf("%s/%s with UID %s is on %q, %v: want %q", c.ns, c.name, c.uid, node, err, c.want)
		}
	}
}

// What is left of objects in the cache says the same as the whole ones.
func TestStrippedObjectsSayTheSame(t *testing.T) {
	said := map[string]int{}
	transform := policyhub.CacheOptions(cache.Options{}).DefaultTransform
	for _, o := range []client.Object{
		&corev1.Namespace{}, &corev1.ServiceAccount{}, &corev1.Node{}, &corev1.Pod{}, &discoveryv1.EndpointSlice{}, &networkingv1.NetworkPolicy{},
		&v3.Tier{}, &v3.NetworkPolicy{}, &v3.GlobalNetworkPolicy{}, &v3.NetworkSet{}, &v3.GlobalNetworkSet{}, &v3.HostEndpoint{}, &cnpv1.ClusterNetworkPolicy{},
	} {
		for seed := range int64(300) {
			r := rand.New(rand.NewPCG(uint64(seed), 3))
			fill := randfill.NewWithSeed(seed).NilChance(.3).NumElements(0, 3).MaxDepth(10).Funcs(
				func(s *string, _ randfill.Continue) {
					*s = []string{"10.0.0.1", "10.0.0.0/8", "TCP", "a", "http", "Always", "default", "Allow", "", discoveryv1.LabelServiceName}[r.IntN(10)]
				},
				func(s *metav1.Time, _ randfill.Continue) { *s = metav1.NewTime(time.Unix(int64(r.IntN(100)), 0)) },
				func(f *metav1.FieldsV1, _ randfill.Continue) {},
				// One: a message about several labels names them in any order.
				func(m *map[string]string, _ randfill.Continue) {
					*m = map[string]string{[]string{"a", discoveryv1.LabelServiceName}[r.IntN(2)]: []string{"b", "web", ""}[r.IntN(3)]}
				},
			)
			whole := reflect.New(reflect.TypeOf(o).Elem()).Interface().(client.Object)
			fill.Fill(whole)
			left, err := transform(whole.DeepCopyObject())
			if err != nil {
				t.Fatal(err)
			}
			a, b := feed.New(translate.Options{}), feed.New(translate.Options{})
			a.Set(whole, true)
			b.Set(left.(client.Object), true)
			want, notes := a.Changes()
			got, others := b.Changes()
			if !reflect.DeepEqual(got, want) || !reflect.DeepEqual(notes, others) {
				t.Fatalf("seed %d: of %T is left\n%+v %v\nwant\n%+v %v", seed, o, got, others, want, notes)
			}
			if again, err := transform(left.(client.Object).DeepCopyObject()); err != nil || !reflect.DeepEqual(again, left) {
				t.Fatalf("seed %d: of what is left of %T is left %+v, %v", seed, o, again, err)
			}
			said["services"] += len(want.Services)
			said["policies"] += len(want.Policies)
			for _, p := range want.Pods {
				said["addresses"] += len(p.Addresses)
				said["ports"] += len(p.Ports)
			}
		}
	}
	for _, what := range []string{"services", "policies", "addresses", "ports"} {
		if said[what] < 10 {
			t.Errorf("objects by chance say too little: %v", said)
		}
	}
}
