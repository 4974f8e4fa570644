package feed_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	cnpv1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	v3 "terway.dev/terway/api/calico/v3"
	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
	"terway.dev/terway/internal/policy/feed"
	"terway.dev/terway/internal/policy/translate"
)

// world makes objects by chance: of few names, so that they come, change and go, and of few tiers and
// addresses, so that they are in each other's way.
type world struct{ *rand.Rand }

func pick[T any](w world, list ...T) T { return list[w.IntN(len(list))] }

func (w world) meta(names int) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: pick(w, "shop", "bank"), Name: fmt.Sprint("n", w.IntN(names)), Labels: w.labels(),
		CreationTimestamp: metav1.NewTime(time.Unix(int64(w.IntN(4)), 0)),
	}
}

func (w world) labels() map[string]string {
	return pick(w, nil, map[string]string{"a": "b"}, map[string]string{"a": "c"}, map[string]string{"a": "b", "x": ""})
}

func (w world) selector() metav1.LabelSelector {
	return pick(w, metav1.LabelSelector{}, metav1.LabelSelector{MatchLabels: map[string]string{"a": pick(w, "b", "c")}})
}

func (w world) address() string {
	return pick(w, "10.0.0.1", "10.0.0.2", "10.1.0.1", "2001:db8::1", "")
}

func (w world) calico() v3.PolicySpec {
	s := v3.PolicySpec{Tier: pick(w, "", "", "default", "red", "green", "kube-admin"), Selector: pick(w, "", "a == 'b'", "has(x)", "all()", "((")}
	if w.IntN(3) > 0 {
		order := float64(w.IntN(3) * 1000)
		s.Order = &order
	}
	rule := func() v3.Rule {
		r := v3.Rule{Action: pick(w, v3.Allow, v3.Deny, v3.Pass)}
		switch w.IntN(5) {
		case 0:
			r.Source.Selector = pick(w, "a == 'b'", "!has(x)")
		case 1:
			r.Source.Nets = []string{pick(w, "10.0.0.0/24", "10.0.0.0/8", "2001:db8::/32")}
		case 2:
			r.Source.Services = &v3.ServiceMatch{Name: "web", Namespace: "shop"}
		case 3:
			r.HTTP = &v3.HTTPMatch{Methods: []string{"GET"}}
		}
		return r
	}
	for range w.IntN(3) {
		s.Ingress = append(s.Ingress, rule())
	}
	return s
}

// object is one of any kind.
func (w world) object() metav1.Object {
	switch w.IntN(12) {
	case 0:
		m := w.meta(1)
		m.Name, m.Namespace = m.Namespace, ""
		return &corev1.Namespace{ObjectMeta: m}
	case 1:
		m := w.meta(1)
		m.Name = pick(w, "default", "builder")
		return &corev1.ServiceAccount{ObjectMeta: m}
	case 2:
		m := w.meta(1)
		m.Namespace, m.Name = "", pick(w, "node1", "node2")
		return &corev1.Node{ObjectMeta: m, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Address: pick(w, "192.168.0.1", "192.168.0.2")}}}}
	case 3, 4, 5:
		p := &corev1.Pod{ObjectMeta: w.meta(4), Spec: corev1.PodSpec{NodeName: pick(w, "node1", "node2"), HostNetwork: w.IntN(8) == 0}}
		p.Status.PodIP, p.Status.Phase = w.address(), pick(w, corev1.PodRunning, corev1.PodRunning, corev1.PodPending, corev1.PodFailed)
		p.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: int32(80 + w.IntN(2))}}}}
		return p
	case 6:
		s := &discoveryv1.EndpointSlice{ObjectMeta: w.meta(3)}
		s.Labels = map[string]string{discoveryv1.LabelServiceName: pick(w, "web", "db", "")}
		port, protocol := int32(80), corev1.ProtocolTCP
		for range w.IntN(3) {
			if a := w.address(); a != "" {
				s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}})
			}
		}
		s.Ports = []discoveryv1.EndpointPort{{Port: &port, Protocol: &protocol}}
		return s
	case 7:
		if w.IntN(2) == 0 {
			return &v3.NetworkSet{ObjectMeta: w.meta(2), Spec: v3.NetworkSetSpec{Nets: []string{pick(w, "10.0.0.0/30", "x")}}}
		}
		m := w.meta(2)
		m.Namespace = ""
		return pick[metav1.Object](w,
			&v3.GlobalNetworkSet{ObjectMeta: m, Spec: v3.NetworkSetSpec{Nets: []string{"10.1.0.1"}}},
			&v3.HostEndpoint{ObjectMeta: m, Spec: v3.HostEndpointSpec{ExpectedIPs: []string{"192.168.0.1"}}})
	case 8:
		t := &v3.Tier{ObjectMeta: metav1.ObjectMeta{Name: pick(w, "red", "green", "default")}}
		if w.IntN(3) > 0 {
			order := float64(w.IntN(3) * 1000)
			t.Spec.Order = &order
		}
		if w.IntN(2) == 0 {
			action := pick(w, v3.DefaultDeny, v3.DefaultPass, "x")
			t.Spec.DefaultAction = &action
		}
		return t
	case 9:
		p := &networkingv1.NetworkPolicy{ObjectMeta: w.meta(3), Spec: networkingv1.NetworkPolicySpec{PodSelector: w.selector()}}
		p.Spec.PolicyTypes = pick(w, nil, []networkingv1.PolicyType{networkingv1.PolicyTypeEgress}, []networkingv1.PolicyType{"x"})
		selector, port := w.selector(), intstr.FromString("http")
		if w.IntN(2) == 0 {
			p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{
				From:  []networkingv1.NetworkPolicyPeer{{NamespaceSelector: &selector}},
				Ports: []networkingv1.NetworkPolicyPort{{Port: &port}},
			}}
		}
		return p
	case 10:
		m := w.meta(3)
		if w.IntN(2) == 0 {
			return &v3.NetworkPolicy{ObjectMeta: m, Spec: w.calico()}
		}
		m.Namespace = ""
		return &v3.GlobalNetworkPolicy{ObjectMeta: m, Spec: v3.GlobalNetworkPolicySpec{PolicySpec: w.calico()}}
	}
	m, s, t := w.meta(3), w.selector(), w.selector()
	m.Namespace = ""
	return &cnpv1.ClusterNetworkPolicy{ObjectMeta: m, Spec: cnpv1.ClusterNetworkPolicySpec{
		Tier: pick(w, cnpv1.AdminTier, cnpv1.BaselineTier, "x"), Priority: int32(w.IntN(3)), Subject: cnpv1.ClusterNetworkPolicySubject{Namespaces: &s},
		Ingress: []cnpv1.ClusterNetworkPolicyIngressRule{{
			Action: pick(w, cnpv1.ClusterNetworkPolicyRuleActionAccept, cnpv1.ClusterNetworkPolicyRuleActionDeny, cnpv1.ClusterNetworkPolicyRuleActionPass),
			From:   []cnpv1.ClusterNetworkPolicyIngressPeer{{Namespaces: &t}},
		}},
	}}
}

// objects are all that are there, for those who take a folder of them.
func objects(all map[string]metav1.Object) (o translate.Objects) {
	for _, key := range slices.Sorted(maps.Keys(all)) {
		switch x := all[key].(type) {
		case *corev1.Namespace:
			o.Namespaces = append(o.Namespaces, x)
		case *corev1.ServiceAccount:
			o.ServiceAccounts = append(o.ServiceAccounts, x)
		case *corev1.Node:
			o.Nodes = append(o.Nodes, x)
		case *corev1.Pod:
			o.Pods = append(o.Pods, x)
		case *discoveryv1.EndpointSlice:
			o.EndpointSlices = append(o.EndpointSlices, x)
		case *v3.NetworkSet:
			o.NetworkSets = append(o.NetworkSets, x)
		case *v3.GlobalNetworkSet:
			o.GlobalNetworkSets = append(o.GlobalNetworkSets, x)
		case *v3.HostEndpoint:
			o.HostEndpoints = append(o.HostEndpoints, x)
		case *v3.Tier:
			o.Tiers = append(o.Tiers, x)
		case *networkingv1.NetworkPolicy:
			o.NetworkPolicies = append(o.NetworkPolicies, x)
		case *v3.NetworkPolicy:
			o.CalicoPolicies = append(o.CalicoPolicies, x)
		case *v3.GlobalNetworkPolicy:
			o.GlobalNetworkPolicies = append(o.GlobalNetworkPolicies, x)
		case *cnpv1.ClusterNetworkPolicy:
			o.ClusterNetworkPolicies = append(o.ClusterNetworkPolicies, x)
		}
	}
	return o
}

// Whatever comes, changes and goes, and however many changes at a time are asked for: nodes have what the objects
// say that are there, and what is said of objects is what translate says of them.
func TestHistoriesEndAsFolders(t *testing.T) {
	tiers, moved, missing := 0, 0, 0
	for seed := range uint64(60) {
		w := world{rand.New(rand.NewPCG(seed, 11))}
		o := translate.Options{AllowLoadBalancerProbes: seed%2 == 0}
		f, c := feed.New(o), compile.New(compile.DefaultBudget)
		there := map[string]metav1.Object{}
		said := map[policy.Ref][]translate.Note{}
		for step := range 30 {
			for range 1 + w.IntN(6) {
				x := w.object()
				key := fmt.Sprintf("%T %s/%s", x, x.GetNamespace(), x.GetName())
				if w.IntN(4) == 0 {
					delete(there, key)
					f.Set(pick(w, x, feed.Kept(x)), false)
				} else {
					there[key] = x
					if w.IntN(4) > 0 {
						kept := feed.Kept(x)
						f.Set(kept, true)
						if w.IntN(2) == 0 {
							x = kept // told again, which is no change
						}
					}
					f.Set(x, true)
				}
			}
			if w.IntN(20) == 0 {
				o.AllowLoadBalancerProbes = !o.AllowLoadBalancerProbes
				f.SetOptions(o)
			}
			d, notes := f.Changes()
			if step == 0 && d.Tiers == nil {
				t.Fatal("the first Delta has no tiers")
			}
			if _, err := c.Apply(d); err != nil {
				t.Fatalf("seed %d, step %d: %v", seed, step, err)
			}
			for ref, list := range notes {
				if slices.Equal(said[ref], list) {
					t.Fatalf("seed %d, step %d: of %s is said again %v", seed, step, ref, list)
				}
				if said[ref] = list; len(list) == 0 {
					delete(said, ref)
				}
			}
			all := objects(there)
			set, more := translate.Policies(all, o)
			cluster, of := translate.Cluster(all)
			want := map[policy.Ref][]translate.Note{}
			for _, n := range append(more, of...) {
				if n.Ref.Kind != translate.KindPod { // that two pods have an address is so for a moment whenever pods go
					want[n.Ref] = append(want[n.Ref], n)
				}
			}
			if !reflect.DeepEqual(said, want) {
				t.Fatalf("seed %d, step %d: said is\n%v\nwant\n%v", seed, step, said, want)
			}
			anew, err := compile.Compile(set, cluster, compile.DefaultBudget)
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range []string{"node1", "node2"} {
				if got, want := c.ForNode(n), anew.ForNode(n); !reflect.DeepEqual(got, want) {
					t.Fatalf("seed %d, step %d, %s:\n%+v\nwant\n%+v", seed, step, n, got, want)
				}
			}
			tiers += len(set.Tiers)
			for _, n := range more {
				if n.Field == "spec.tier" {
					missing++
				}
			}
			for _, ch := range d.Policies {
				if ch.Policy != nil && ch.Index > 0 {
					moved++
				}
			}
		}
	}
	// Otherwise the histories say nothing of order.
	if tiers < 60*30 || moved < 60 || missing < 60 {
		t.Errorf("%d tiers, %d policies behind others, %d whose tier is missing: too few", tiers, moved, missing)
	}
}

// What nothing depends on is no change: the kubelet says much of a pod.
func TestWhatSaysNothing(t *testing.T) {
	f := feed.New(translate.Options{})
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}, Spec: corev1.PodSpec{NodeName: "node1"},
		Status: corev1.PodStatus{PodIP: "10.0.0.1", Phase: corev1.PodRunning},
	}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		Endpoints:  []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}}},
	}
	f.Set(pod, true)
	f.Set(slice, true)
	if d, _ := f.Changes(); len(d.Pods) != 1 || len(d.Services) != 1 {
		t.Fatalf("the first is %+v", d)
	}
	ready, serving := pod.DeepCopy(), slice.DeepCopy()
	ready.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	yes := true
	serving.Endpoints[0].Conditions.Ready = &yes
	f.Set(ready, true)
	f.Set(serving, true)
	if d, notes := f.Changes(); !reflect.DeepEqual(d, compile.Delta{}) || notes != nil {
		t.Errorf("a pod that is ready is %+v, %v", d, notes)
	}
}

// Informers tell all that they have from time to time.
func TestAPolicyThatIsToldAgain(t *testing.T) {
	f := feed.New(translate.Options{})
	np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}}
	kept := feed.Kept(np)
	if ref, ok := feed.Ref(kept); !ok || ref != (policy.Ref{Kind: translate.KindNetworkPolicy, Namespace: "shop", Name: "web"}) {
		t.Errorf("its name is %v", ref)
	}
	f.Set(kept, true)
	if d, _ := f.Changes(); len(d.Policies) != 1 || d.Policies[0].Policy == nil {
		t.Fatalf("the first is %+v", d)
	}
	f.Set(kept, true)
	if d, _ := f.Changes(); !reflect.DeepEqual(d, compile.Delta{}) {
		t.Errorf("told again it is %+v", d)
	}
	f.Set(kept, false)
	if d, _ := f.Changes(); len(d.Policies) != 1 || d.Policies[0].Policy != nil {
		t.Errorf("when it is gone it is %+v", d)
	}
}

// A policy among 30,000 in its tier costs what one costs.
func BenchmarkOnePolicyOfMany(b *testing.B) {
	f := feed.New(translate.Options{})
	one := func(i int) *networkingv1.NetworkPolicy {
		return &networkingv1.NetworkPolicy{
			ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprint("n", i%300), Name: fmt.Sprint("p", i)},
			Spec:       networkingv1.NetworkPolicySpec{PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": fmt.Sprint(i)}}},
		}
	}
	for i := range 30_000 {
		f.Set(one(i), true)
	}
	f.Changes()
	for i := range b.N {
		f.Set(one(i%30_000), i%2 == 0)
		f.Changes()
	}
}
