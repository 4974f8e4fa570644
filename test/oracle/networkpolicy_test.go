package oracle

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"testing"

	"github.com/mattfenwick/cyclonus/pkg/matcher"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
	"terway.dev/terway/internal/policy/naive"
	"terway.dev/terway/internal/policy/translate"
)

// The cluster: three namespaces with three pods each. A port name has different numbers in
// different pods.
var (
	namespaces = []*corev1.Namespace{
		{ObjectMeta: metav1.ObjectMeta{Name: "x", Labels: map[string]string{"ns": "x", "team": "red"}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "y", Labels: map[string]string{"ns": "y", "team": "blue"}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "z"}},
	}
	pods = func() (list []*corev1.Pod) {
		for i, ns := range namespaces {
			for j, app := range []string{"a", "b", "c"} {
				labels := map[string]string{"app": app, "tier": fmt.Sprint(j % 2)}
				if j == 2 {
					delete(labels, "tier")
				}
				list = append(list, &corev1.Pod{
					ObjectMeta: metav1.ObjectMeta{Namespace: ns.Name, Name: app, Labels: labels},
					Spec: corev1.PodSpec{NodeName: "node", Containers: []corev1.Container{{Ports: []corev1.ContainerPort{
						{Name: "http", ContainerPort: int32(80 + j), Protocol: corev1.ProtocolTCP},
						{Name: "dns", ContainerPort: 53, Protocol: corev1.ProtocolUDP},
					}}}},
					Status: corev1.PodStatus{PodIP: fmt.Sprintf("10.0.%d.%d", i, j+1)},
				})
			}
		}
		return list
	}()
	outside = []string{"10.0.0.200", "10.9.0.1", "198.51.100.7"}
)

var labelSelector = rapid.Custom(func(t *rapid.T) metav1.LabelSelector {
	var s metav1.LabelSelector
	key := rapid.SampledFrom([]string{"app", "tier", "ns", "team"})
	value := rapid.SampledFrom([]string{"a", "b", "c", "0", "1", "x", "y", "red", "blue"})
	if rapid.IntRange(0, 2).Draw(t, "labels") == 0 {
		s.MatchLabels = map[string]string{key.Draw(t, "key"): value.Draw(t, "value")}
	}
	for range rapid.IntRange(0, 1).Draw(t, "expressions") {
		e := metav1.LabelSelectorRequirement{
			Key:      key.Draw(t, "key"),
			Operator: rapid.SampledFrom([]metav1.LabelSelectorOperator{"In", "NotIn", "Exists", "DoesNotExist"}).Draw(t, "operator"),
		}
		if e.Operator == "In" || e.Operator == "NotIn" {
			e.Values = rapid.SliceOfN(value, 1, 4).Draw(t, "values")
		}
		s.MatchExpressions = append(s.MatchExpressions, e)
		if e.Operator == "NotIn" {
			// In Kubernetes NotIn matches if the label is missing; cyclonus disagrees.
			s.MatchExpressions = append(s.MatchExpressions, metav1.LabelSelectorRequirement{Key: e.Key, Operator: "Exists"})
		}
	}
	return s
})

var peer = rapid.Custom(func(t *rapid.T) networkingv1.NetworkPolicyPeer {
	var p networkingv1.NetworkPolicyPeer
	kind := rapid.IntRange(0, 3).Draw(t, "peer")
	if kind == 0 {
		p.IPBlock = &networkingv1.IPBlock{CIDR: rapid.SampledFrom([]string{"0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/24", "10.0.1.2/32", "198.51.100.0/24"}).Draw(t, "cidr")}
		if p.IPBlock.CIDR == "0.0.0.0/0" || p.IPBlock.CIDR == "10.0.0.0/8" {
			p.IPBlock.Except = rapid.SliceOfN(rapid.SampledFrom([]string{"10.0.0.0/24", "10.0.1.0/31", "10.9.0.0/16"}), 0, 2).Draw(t, "except")
		}
		return p
	}
	if kind != 1 {
		s := labelSelector.Draw(t, "pods")
		p.PodSelector = &s
	}
	if kind != 2 {
		s := labelSelector.Draw(t, "namespaces")
		p.NamespaceSelector = &s
	}
	return p
})

var port = rapid.Custom(func(t *rapid.T) networkingv1.NetworkPolicyPort {
	var p networkingv1.NetworkPolicyPort
	if rapid.IntRange(0, 3).Draw(t, "protocol") > 0 {
		protocol := rapid.SampledFrom([]corev1.Protocol{"TCP", "UDP", "SCTP"}).Draw(t, "protocol")
		p.Protocol = &protocol
	}
	switch rapid.IntRange(0, 4).Draw(t, "port") {
	case 0:
	case 1:
		name := intstr.FromString(rapid.SampledFrom([]string{"http", "dns", "none"}).Draw(t, "name"))
		p.Port = &name
	default:
		number := intstr.FromInt32(rapid.SampledFrom([]int32{53, 80, 81, 82}).Draw(t, "number"))
		p.Port = &number
		if rapid.Bool().Draw(t, "range") {
			end := rapid.Int32Range(number.IntVal, 90).Draw(t, "end")
			p.EndPort = &end
		}
	}
	return p
})

var networkPolicy = rapid.Custom(func(t *rapid.T) *networkingv1.NetworkPolicy {
	np := &networkingv1.NetworkPolicy{}
	np.Namespace = rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "namespace")
	if rapid.Bool().Draw(t, "some") {
		np.Spec.PodSelector = labelSelector.Draw(t, "subject")
	}
	peers, ports := rapid.SliceOfN(peer, 0, 3), rapid.SliceOfN(port, 0, 3)
	for range rapid.IntRange(0, 2).Draw(t, "ingress") {
		np.Spec.Ingress = append(np.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: peers.Draw(t, "from"), Ports: ports.Draw(t, "ports")})
	}
	for range rapid.IntRange(0, 2).Draw(t, "egress") {
		np.Spec.Egress = append(np.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: peers.Draw(t, "to"), Ports: ports.Draw(t, "ports")})
	}
	// The API server sets missing policyTypes; the oracle requires them.
	np.Spec.PolicyTypes = rapid.SampledFrom([][]networkingv1.PolicyType{{"Ingress"}, {"Egress"}, {"Ingress", "Egress"}}).Draw(t, "types")
	return np
})

// Connectivity under NetworkPolicies is the same in the model, in the tables, and in cyclonus,
// an evaluator by others for testing engines.
func TestNetworkPolicyIsCyclonus(t *testing.T) {
	answers := map[bool]int{}
	cluster, _ := translate.Cluster(translate.Objects{Namespaces: namespaces, Pods: pods})
	rapid.Check(t, func(t *rapid.T) {
		policies := rapid.SliceOfN(networkPolicy, 1, 4).Draw(t, "policies")
		for i, p := range policies {
			p.Name = fmt.Sprint("p", i)
		}
		set, notes := translate.Policies(translate.Objects{NetworkPolicies: policies}, translate.Options{})
		for _, n := range notes {
			if n.Severity == translate.Refused {
				t.Fatal(n)
			}
		}
		compiled, err := compile.Compile(set, cluster, compile.DefaultBudget)
		if err != nil {
			t.Fatal(err)
		}
		tables := compiled.ForNode("node").Maps()
		theirs := matcher.BuildNetworkPolicies(false, policies)
		for range 30 {
			pod := pods[rapid.IntRange(0, len(pods)-1).Draw(t, "pod")]
			other, otherPod := rapid.SampledFrom(outside).Draw(t, "outside"), (*corev1.Pod)(nil)
			if rapid.IntRange(0, 3).Draw(t, "inside") > 0 {
				otherPod = pods[rapid.IntRange(0, len(pods)-1).Draw(t, "other")]
				other = otherPod.Status.PodIP
			}
			protocol := rapid.SampledFrom([]corev1.Protocol{"TCP", "UDP", "SCTP"}).Draw(t, "protocol")
			number := rapid.SampledFrom([]int{53, 79, 80, 81, 82, 85}).Draw(t, "port")
			ingress := rapid.Bool().Draw(t, "ingress")
			c := policy.Connection{
				Pod: policy.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}, Direction: policy.Egress,
				Own: netip.MustParseAddr(pod.Status.PodIP), Peer: netip.MustParseAddr(other),
				Protocol:   map[corev1.Protocol]uint8{"TCP": policy.TCPProtocol, "UDP": policy.UDPProtocol, "SCTP": policy.SCTPProtocol}[protocol],
				SourcePort: 40000, DestinationPort: uint16(number),
			}
			traffic := &matcher.Traffic{Source: peerOf(pod.Status.PodIP, pod), Destination: peerOf(other, otherPod), ResolvedPort: number, Protocol: protocol}
			destination := otherPod
			if ingress {
				c.Direction, destination = policy.Ingress, pod
				traffic.Source, traffic.Destination = traffic.Destination, traffic.Source
			}
			traffic.ResolvedPortName = portName(destination, number, protocol)
			want := theirs.IsIngressOrEgressAllowed(traffic, ingress).IsAllowed()
			answers[want]++
			d, _ := naive.Decide(set, cluster, c)
			byTables := tables.Decision(tables.Lookup(compile.Packet{
				Endpoint: tables.EndpointOf[c.Pod], Direction: c.Direction, Peer: c.Peer, Protocol: c.Protocol, SourcePort: c.SourcePort, DestinationPort: c.DestinationPort,
			}))
			if (d.Action == policy.Allow) != want || (byTables.Action == policy.Allow) != want {
				text, err := json.MarshalIndent(policies, "", " ")
				if err != nil {
					t.Fatal(err)
				}
				t.Fatalf("%+v: cyclonus allows it: %v; the model gives %+v, the tables %+v; policies %s", c, want, d, byTables, text)
			}
		}
	})
	t.Logf("%d times yes, %d times no", answers[true], answers[false])
	if answers[true]*10 < answers[false] || answers[false]*10 < answers[true] {
		t.Error("nearly all answers are the same")
	}
}

func peerOf(ip string, p *corev1.Pod) *matcher.TrafficPeer {
	if p == nil {
		return &matcher.TrafficPeer{IP: ip}
	}
	labels := map[string]string{}
	for _, n := range namespaces {
		if n.Name == p.Namespace && n.Labels != nil {
			labels = n.Labels
		}
	}
	return &matcher.TrafficPeer{IP: ip, Internal: &matcher.InternalPeer{PodLabels: p.Labels, NamespaceLabels: labels, Namespace: p.Namespace}}
}

func portName(p *corev1.Pod, number int, protocol corev1.Protocol) string {
	if p != nil {
		for _, port := range p.Spec.Containers[0].Ports {
			if int(port.ContainerPort) == number && port.Protocol == protocol {
				return port.Name
			}
		}
	}
	return ""
}
