package translate_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v3 "terway.dev/terway/api/calico/v3"
	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
	"terway.dev/terway/internal/policy/naive"
	"terway.dev/terway/internal/policy/translate"
)

// For policies made from API objects, the tables of a node agree with the model. The generator
// of package policytest makes models; this one makes objects.
func TestTablesOfObjectsSayWhatTheModelSays(t *testing.T) {
	answers := map[string]int{}
	for seed := range uint64(1500) {
		o := random(seed)
		r := rand.New(rand.NewPCG(seed, 1))
		o.Namespaces, o.Pods = nil, nil
		for i, ns := range []string{"shop", "bank"} {
			o.Namespaces = append(o.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns, Labels: map[string]string{"a": []string{"b", "c"}[i]}}})
			for j := range 3 {
				o.Pods = append(o.Pods, &corev1.Pod{
					ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: fmt.Sprint("p", j), Labels: map[string]string{"a": []string{"b", "c", "x"}[j]}},
					Spec:       corev1.PodSpec{NodeName: "node", ServiceAccountName: "a", Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: int32(80 + j)}}}}},
					Status:     corev1.PodStatus{PodIP: fmt.Sprintf("10.%d.0.%d", i, j+1), PodIPs: []corev1.PodIP{{IP: fmt.Sprintf("2001:db8::%d:%d", i, j+1)}}},
				})
			}
		}
		o.GlobalNetworkSets = append(o.GlobalNetworkSets, &v3.GlobalNetworkSet{ObjectMeta: metav1.ObjectMeta{Name: "set", Labels: map[string]string{"a": "b"}}, Spec: v3.NetworkSetSpec{Nets: []string{"198.51.100.0/24", "10.1.0.2"}}})
		set, _ := translate.Policies(o, translate.Options{AllowLoadBalancerProbes: seed%2 == 0})
		cluster, _ := translate.Cluster(o)
		cluster.Services[policy.NamespacedName{Namespace: "shop", Name: "web"}] = []policy.Endpoint{{Address: netip.MustParseAddr("10.0.0.1"), Protocol: policy.TCPProtocol, Port: 80}}
		compiled, err := compile.Compile(set, cluster, compile.DefaultBudget)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		tables := compiled.ForNode("node").Maps()
		for range 60 {
			pod := cluster.Pods[policy.NamespacedName{Namespace: []string{"shop", "bank"}[r.IntN(2)], Name: fmt.Sprint("p", r.IntN(3))}]
			c := policy.Connection{
				Pod: pod.NamespacedName, Direction: policy.Direction(r.IntN(2)), Own: pod.Addresses[0],
				Peer:       netip.MustParseAddr([]string{"10.0.0.1", "10.0.0.2", "10.1.0.2", "10.1.0.3", "198.51.100.9", "100.64.0.7", "203.0.113.1"}[r.IntN(7)]),
				Protocol:   []uint8{policy.TCPProtocol, policy.TCPProtocol, policy.UDPProtocol, policy.ICMPProtocol, 47}[r.IntN(5)],
				SourcePort: []uint16{80, 40000}[r.IntN(2)], DestinationPort: []uint16{80, 81, 85, 443, 9}[r.IntN(5)],
			}
			if r.IntN(4) == 0 {
				c.Own, c.Peer = pod.Addresses[1], netip.MustParseAddr([]string{"2001:db8::1", "2001:db8::1:2", "2001:db9::1"}[r.IntN(3)])
			}
			if c.Protocol != policy.TCPProtocol && c.Protocol != policy.UDPProtocol {
				c.SourcePort, c.DestinationPort = 0, 0
			}
			want, _ := naive.Decide(set, cluster, c)
			got := tables.Decision(tables.Lookup(compile.Packet{
				Endpoint: tables.EndpointOf[c.Pod], Direction: c.Direction, Peer: c.Peer, Protocol: c.Protocol, SourcePort: c.SourcePort, DestinationPort: c.DestinationPort,
			}))
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("seed %d: %+v: the tables give %+v, the model %+v", seed, c, got, want)
			}
			answers[fmt.Sprint(want.Action, " ", want.Reason == policy.ByRule)]++
		}
	}
	t.Log(answers)
	for _, kind := range []string{"allow true", "allow false", "deny true", "deny false"} {
		if answers[kind] < 1500*60/100 {
			t.Errorf("%d answers are %q: too few to prove anything", answers[kind], kind)
		}
	}
}
