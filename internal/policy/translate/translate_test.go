package translate_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	cnpv1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
	"sigs.k8s.io/randfill"

	v3 "terway.dev/terway/api/calico/v3"
	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
	"terway.dev/terway/internal/policy/manifest"
	"terway.dev/terway/internal/policy/translate"
)

// read reads one policy, with the given spec in YAML's flow style.
func read(t *testing.T, kind, spec string) translate.Objects {
	t.Helper()
	version, kind, _ := strings.Cut(map[string]string{
		"np":     "networking.k8s.io/v1 NetworkPolicy",
		"cnp":    "policy.networking.k8s.io/v1beta1 ClusterNetworkPolicy",
		"calico": "projectcalico.org/v3 NetworkPolicy",
		"gnp":    "projectcalico.org/v3 GlobalNetworkPolicy",
		"tier":   "projectcalico.org/v3 Tier",
	}[kind], " ")
	namespace := ""
	if kind == "NetworkPolicy" {
		namespace = ", namespace: shop"
	}
	r, err := manifest.NewReader()
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata: {name: it%s}\nspec: %s\n", version, kind, namespace, spec)
	if err := r.Read([]byte(text)); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return r.Objects
}

// What an API would reject is refused: the Note has the field, its value and what would be
// right.
func TestRefused(t *testing.T) {
	for _, c := range []struct{ kind, spec, note string }{
		{"np", "{podSelector: {matchLabels: {a: 'b c'}}}", `spec.podSelector "": want spec.podSelector.matchLabels: Invalid value: "b c"`},
		{"np", "{podSelector: {matchExpressions: [{key: a, operator: Like}]}}", `spec.podSelector.matchExpressions[0].operator: Invalid value: "Like"`},
		{"np", "{policyTypes: [Forward]}", `spec.policyTypes[0] "Forward": want Ingress or Egress`},
		{"np", "{ingress: [{from: [{}]}]}", `spec.ingress[0].from[0] "": want podSelector, namespaceSelector or ipBlock`},
		{"np", "{ingress: [{from: [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]}]}", `spec.ingress[0].from[0] "ipBlock and selectors": want one of both`},
		{"np", "{egress: [{to: [{ipBlock: {cidr: 10.0.0.0}}]}]}", `spec.egress[0].to[0].ipBlock.cidr "10.0.0.0": want a network such as`},
		{"np", "{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}]}", `except[0] "11.0.0.0/16": want a part of 10.0.0.0/8`},
		{"np", "{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}]}", `except[0] "10.0.0.0/8": want a part of 10.0.0.0/8`},
		{"np", "{egress: [{ports: [{port: 0}]}]}", `spec.egress[0].ports[0].port "0": want a port from 1 to 65535`},
		{"np", "{egress: [{ports: [{port: 70000}]}]}", `port "70000": want a port from 1 to 65535`},
		{"np", "{egress: [{ports: [{port: 80, endPort: 79}]}]}", `endPort "79": want a port from 80 to 65535`},
		{"np", "{egress: [{ports: [{port: http, endPort: 80}]}]}", `endPort "80": want no endPort beside a port that is a name`},
		{"np", "{egress: [{ports: [{endPort: 80}]}]}", `endPort "80": want a port before it`},
		{"np", "{egress: [{ports: [{port: Not_a_name}]}]}", `port "Not_a_name": want must contain only alpha-numeric`},
		{"np", "{egress: [{ports: [{protocol: ICMP}]}]}", `protocol "ICMP": want TCP, UDP or SCTP`},

		{"cnp", "{tier: Middle, priority: 1, subject: {namespaces: {}}}", `spec.tier "Middle": want Admin or Baseline`},
		{"cnp", "{tier: Admin, priority: 1001, subject: {namespaces: {}}}", `spec.priority "1001": want a number from 0 to 1000`},
		{"cnp", "{tier: Admin, priority: 1, subject: {}}", `spec.subject "": want namespaces or pods`},
		{"cnp", "{tier: Admin, priority: 1, subject: {namespaces: {}, pods: {podSelector: {}}}}", `spec.subject "namespaces and pods": want one of both`},
		{"cnp", "{tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {'a b': c}}}}", `spec.subject "": want spec.subject.namespaces`},
		{"cnp", "{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Drop, from: [{namespaces: {}}]}]}", `spec.ingress[0].action "Drop": want Accept, Deny or Pass`},
		{"cnp", "{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny}]}", `spec.ingress[0].from "0 peers": want 1 to 25`},
		{"cnp", "{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [10.0.0.1/8]}]}]}", `networks[0] "10.0.0.1/8": want a network`},
		{"cnp", "{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [10.0.0.0/8], nodes: {}}]}]}", `spec.egress[0].to[0] "several fields": want one of them`},
		{"cnp", "{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{nodes: {}}], protocols: [{destinationNamedPort: http}]}]}", `destinationNamedPort "http": want no name of a port beside nodes`},
		{"cnp", "{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {range: {start: 5, end: 5}}}}]}]}", `range "5 to 5": want a start before the end`},
		{"cnp", "{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 65536}}}]}]}", `number "65536": want a port from 1 to 65535`},

		{"gnp", "{selector: a = 'b'}", `spec.selector "a = 'b'": want selector "a = 'b'" has "= 'b'" at position 3: want ==`},
		{"gnp", "{namespaceSelector: global()}", `spec.namespaceSelector "global()": want selector "global()" has "global()" at position 1: want labels`},
		{"gnp", "{serviceAccountSelector: (}", `spec.serviceAccountSelector "("`},
		{"gnp", "{types: [Both]}", `spec.types[0] "Both": want Ingress or Egress`},
		{"gnp", "{ingress: [{action: drop}]}", `spec.ingress[0].action "drop": want Allow, Deny, Log or Pass`},
		{"gnp", "{ingress: [{action: Allow, ipVersion: 5}]}", `ipVersion "5": want 4 or 6`},
		{"gnp", "{ingress: [{action: Allow, protocol: QUIC}]}", `protocol "QUIC": want TCP, UDP`},
		{"gnp", "{ingress: [{action: Allow, notProtocol: 256}]}", `notProtocol "256": want TCP`},
		{"gnp", "{ingress: [{action: Allow, protocol: ICMP, icmp: {code: 1}}]}", `icmp.code "1": want a type beside it`},
		{"gnp", "{ingress: [{action: Allow, protocol: ICMP, icmp: {type: 300}}]}", `icmp.type "300": want a number from 0 to 254`},
		{"gnp", "{ingress: [{action: Allow, notICMP: {type: 3, code: 300}}]}", `notICMP.code "300": want a number from 0 to 255`},
		{"gnp", "{ingress: [{action: Allow, destination: {ports: [80]}}]}", `spec.ingress[0].protocol "": want TCP, UDP or SCTP beside ports`},
		{"gnp", "{ingress: [{action: Allow, protocol: ICMP, source: {notPorts: [80]}}]}", `protocol "ICMP": want TCP, UDP or SCTP beside ports`},
		{"gnp", "{ingress: [{action: Allow, protocol: TCP, destination: {ports: ['90:80']}}]}", `destination.ports[0] "90:80": want a port from 1 to 65535, or two`},
		{"gnp", "{ingress: [{action: Allow, protocol: TCP, destination: {ports: [0]}}]}", `destination.ports[0] "0": want a port`},
		{"gnp", "{ingress: [{action: Allow, protocol: TCP, destination: {ports: ['a b']}}]}", `destination.ports[0] "a b": want a port`},
		{"gnp", "{ingress: [{action: Allow, source: {nets: [10.0.0.0/33]}}]}", `source.nets[0] "10.0.0.0/33": want an address, or a network`},
		{"gnp", "{ingress: [{action: Allow, source: {notNets: [here]}}]}", `source.notNets[0] "here": want an address`},
		{"gnp", "{ingress: [{action: Allow, source: {selector: global()}}]}", `source.selector "global()"`},
		{"gnp", "{ingress: [{action: Allow, source: {namespaceSelector: '!'}}]}", `source.namespaceSelector "!"`},
		{"gnp", "{ingress: [{action: Allow, source: {serviceAccounts: {selector: '!'}}}]}", `source.serviceAccounts.selector "!"`},
		{"gnp", "{ingress: [{action: Allow, source: {services: {name: a}}}]}", `source.services.namespace "": want the namespace of the Service`},
		{"gnp", "{ingress: [{action: Allow, source: {services: {namespace: a}}}]}", `source.services.name "": want the name of a Service`},
		{"gnp", "{ingress: [{action: Allow, source: {services: {name: a, namespace: b}, nets: [10.0.0.0/8]}}]}", `source.nets "": want nothing beside services`},
		{"gnp", "{ingress: [{action: Allow, protocol: TCP, destination: {services: {name: a, namespace: b}, ports: [80]}}]}", `destination.ports "": want no ports beside services`},
		{"gnp", "{ingress: [{action: Deny, http: {methods: [GET]}}]}", `http "": want action Allow beside it`},
		{"gnp", "{preDNAT: true}", `spec.preDNAT "true": want spec.applyOnForward: true beside it`},
		{"gnp", "{preDNAT: true, doNotTrack: true, applyOnForward: true}", `spec.preDNAT "true": want no spec.doNotTrack beside it`},
		{"gnp", "{preDNAT: true, applyOnForward: true, egress: [{action: Deny}]}", `spec.egress "1 rules": want none with spec.preDNAT`},
		{"calico", "{tier: nowhere}", `spec.tier "nowhere": want the name of a Tier that is there`},
		{"tier", "{defaultAction: Allow}", `spec.defaultAction "Allow": want Deny or Pass`},
	} {
		set, notes := translate.Policies(read(t, c.kind, c.spec), translate.Options{})
		if len(set.Tiers) > 0 {
			t.Errorf("%s %s is applied", c.kind, c.spec)
		}
		if !slices.ContainsFunc(notes, func(n translate.Note) bool {
			return n.Severity == translate.Refused && strings.Contains(n.String(), c.note) && n.HasStatus() == (c.kind != "np")
		}) {
			t.Errorf("%s %s: %q, want %q", c.kind, c.spec, notes, c.note)
		}
	}
}

// Without types, each language has its own rule for directions.
func TestDirections(t *testing.T) {
	for _, c := range []struct {
		kind, spec      string
		ingress, egress bool
	}{
		{"np", "{}", true, false},
		{"np", "{ingress: [{}]}", true, false},
		{"np", "{egress: [{}]}", true, true},
		{"np", "{policyTypes: []}", true, false},
		{"np", "{policyTypes: [Egress]}", false, true},
		{"np", "{policyTypes: [Egress], ingress: [{}]}", false, true},
		{"calico", "{}", true, false},
		{"calico", "{ingress: [{action: Allow}]}", true, false},
		{"calico", "{egress: [{action: Allow}]}", false, true},
		{"calico", "{ingress: [{action: Allow}], egress: [{action: Allow}]}", true, true},
		{"calico", "{types: []}", true, false},
		{"calico", "{types: [Egress], ingress: [{action: Allow}]}", false, true},
		{"cnp", "{tier: Admin, priority: 1, subject: {namespaces: {}}}", false, false},
		{"cnp", "{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{namespaces: {}}]}]}", false, true},
	} {
		set, _ := translate.Policies(read(t, c.kind, c.spec), translate.Options{})
		if got, want := set.Tiers[0].Policies[0].Directions, [2]bool{policy.Ingress: c.ingress, policy.Egress: c.egress}; got != want {
			t.Errorf("%s %s: ingress and egress %v, want %v", c.kind, c.spec, got, want)
		}
	}
}

// The order of tiers and policies is that of Calico.
func TestArrange(t *testing.T) {
	order := func(f float64) *float64 { return &f }
	pass, deny := v3.DefaultPass, v3.DefaultDeny
	tier := func(name string, o *float64, a *v3.DefaultAction) *v3.Tier {
		return &v3.Tier{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v3.TierSpec{Order: o, DefaultAction: a}}
	}
	placed := func(tier, name string, o float64) translate.Placed {
		return translate.Placed{Policy: policy.Policy{Ref: policy.Ref{Kind: translate.KindGlobalNetworkPolicy, Name: name}}, Tier: tier, Order: o}
	}
	inf := math.Inf(1)
	set, notes := translate.Arrange([]translate.Placed{
		placed("default", "late", inf), placed("default", "default.first-of-late", inf), placed("default", "z", 10.5), placed("default", "y", 10.25),
		placed("default", "default.b", 20), placed("default", "c", 20), placed("default", "a", 20),
		placed("kube-baseline", "x", 1), placed("kube-admin", "x", 1), placed("last", "x", 1), placed("b", "x", 1), placed("a", "x", 1), placed("early", "x", 1),
	}, []*v3.Tier{
		tier("last", nil, &pass), tier("b", order(1_000_000), nil), tier("a", order(1_000_000), &deny), tier("early", order(-1), nil), tier("empty", order(0), nil),
		tier("default", order(5), &pass), tier("kube-admin", order(1000), &pass),
	}, translate.Options{AllowLoadBalancerProbes: true})
	var got []string
	for _, tier := range set.Tiers {
		line := tier.Name + " " + tier.Default.String() + ":"
		for _, p := range tier.Policies {
			line += " " + p.Ref.Name
		}
		got = append(got, line)
	}
	want := []string{
		"early deny: x", "kube-admin pass: x", "a deny: x", "b deny: x",
		"default deny: y z a default.b c default.first-of-late late",
		"kube-baseline pass: x", "last pass: x",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if len(notes) != 2 || !strings.Contains(notes[0].String(), "this tier's order is always 1000000") || !strings.Contains(notes[1].String(), "default action is always deny") {
		t.Errorf("%q", notes)
	}
}

// Many ports of one protocol are one condition.
func TestPortsTogether(t *testing.T) {
	set, _ := translate.Policies(read(t, "np", "{ingress: [{ports: [{port: 80}, {port: 53, protocol: UDP}, {port: 443}, {protocol: SCTP}, {port: 1, protocol: SCTP}]}]}"), translate.Options{})
	got := set.Tiers[0].Policies[0].Rules[policy.Ingress][0].Traffic
	if len(got) != 3 || fmt.Sprint(got[0].DestinationPorts, got[1].DestinationPorts, got[2].DestinationPorts) != "[{80 80 } {443 443 }] [{53 53 }] []" || got[2].DestinationPorts != nil {
		t.Errorf("%+v", got)
	}
}

// Cluster converts the objects of the API.
func TestCluster(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	pod := func(name, ip string, age int, phase corev1.PodPhase) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, CreationTimestamp: metav1.NewTime(time.Unix(1_000_000-int64(age), 0))},
			Spec: corev1.PodSpec{
				NodeName:       "n1",
				InitContainers: []corev1.Container{{RestartPolicy: &always, Ports: []corev1.ContainerPort{{Name: "metrics", ContainerPort: 9090}}}, {Ports: []corev1.ContainerPort{{Name: "never", ContainerPort: 1}}}},
				Containers:     []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "dns", ContainerPort: 53, Protocol: corev1.ProtocolUDP}, {ContainerPort: 80}}}},
			},
			Status: corev1.PodStatus{Phase: phase, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}, {IP: "2001:db8::" + ip[len(ip)-1:]}}},
		}
	}
	port, tcp, name := int32(8080), corev1.ProtocolTCP, "web"
	onHost := pod("on-host", "192.168.0.1", 0, corev1.PodRunning)
	onHost.Spec.HostNetwork = true
	c, notes := translate.Cluster(translate.Objects{
		Pods: []*corev1.Pod{
			pod("old", "10.0.0.1", 20, corev1.PodRunning), pod("young", "10.0.0.1", 10, corev1.PodRunning), pod("job", "10.0.0.1", 1, corev1.PodSucceeded),
			pod("failed", "10.0.0.2", 1, corev1.PodFailed), onHost,
		},
		Nodes: []*corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: "n1"}, {Type: corev1.NodeInternalIP, Address: "192.168.0.1"}}}}},
		EndpointSlices: []*discoveryv1.EndpointSlice{
			{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Labels: map[string]string{discoveryv1.LabelServiceName: name}}, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}}}, Ports: []discoveryv1.EndpointPort{{Port: &port, Protocol: &tcp}}},
			{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Labels: map[string]string{discoveryv1.LabelServiceName: name}}, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.9", "no-address"}}}},
		},
		NetworkSets: []*v3.NetworkSet{{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "s"}, Spec: v3.NetworkSetSpec{Nets: []string{"10.1.2.3/8", "nonsense", "::ffff:10.0.0.1", "::ffff:10.0.0.0/104", "010.0.0.0/8"}}}},
	})
	for name, want := range map[string]string{
		"old": "[] false", "young": "[10.0.0.1 2001:db8::1] false", "job": "[10.0.0.1 2001:db8::1] true", "failed": "[10.0.0.2 2001:db8::2] true", "on-host": "[192.168.0.1 2001:db8::1] false",
	} {
		p := c.Pods[policy.NamespacedName{Namespace: "shop", Name: name}]
		if got := fmt.Sprint(p.Addresses, " ", p.Ended); got != want || p.HostNetwork != (name == "on-host") || p.ServiceAccount != "default" || p.Node != "n1" {
			t.Errorf("%s is %+v, want %s", name, p, want)
		}
		if got := fmt.Sprint(p.Ports); got != "[{dns 17 53} {metrics 6 9090}]" {
			t.Errorf("%s has ports %s", name, got)
		}
	}
	if got := fmt.Sprint(c.Nodes["n1"].Addresses); got != "[192.168.0.1]" {
		t.Errorf("the node has %s", got)
	}
	if got := fmt.Sprint(c.Services[policy.NamespacedName{Namespace: "shop", Name: "web"}]); got != "[{10.0.0.1 6 8080} {10.0.0.9 0 0}]" {
		t.Errorf("the Service has %s", got)
	}
	if got := fmt.Sprint(c.NetworkSets[policy.NamespacedName{Namespace: "shop", Name: "s"}].Nets); got != "[10.0.0.0/8 10.0.0.1/32 10.0.0.0/8 10.0.0.0/8]" {
		t.Errorf("the set has %s", got)
	}
	if len(notes) != 3 || !strings.Contains(fmt.Sprint(notes), "shop/young is younger and has this address") || !strings.Contains(fmt.Sprint(notes), `spec.nets[1] "nonsense": is left out`) {
		t.Errorf("%q", notes)
	}
}

// Staged policies have no effect until WithStaged is called.
func TestStaged(t *testing.T) {
	name := func(n string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "shop", Name: n} }
	spec := v3.PolicySpec{Selector: "new == 'yes'"}
	o := translate.Objects{
		CalicoPolicies:        []*v3.NetworkPolicy{{ObjectMeta: name("changed")}, {ObjectMeta: name("gone")}, {ObjectMeta: name("kept")}},
		NetworkPolicies:       []*networkingv1.NetworkPolicy{{ObjectMeta: name("kube")}},
		GlobalNetworkPolicies: []*v3.GlobalNetworkPolicy{},
		StagedNetworkPolicies: []*v3.StagedNetworkPolicy{
			{ObjectMeta: name("changed"), Spec: v3.StagedNetworkPolicySpec{StagedAction: v3.StagedSet, PolicySpec: spec}},
			{ObjectMeta: name("gone"), Spec: v3.StagedNetworkPolicySpec{StagedAction: v3.StagedDelete}},
			{ObjectMeta: name("kept"), Spec: v3.StagedNetworkPolicySpec{StagedAction: v3.StagedIgnore, PolicySpec: spec}},
			{ObjectMeta: name("new"), Spec: v3.StagedNetworkPolicySpec{PolicySpec: spec}},
		},
		StagedGlobalNetworkPolicies:     []*v3.StagedGlobalNetworkPolicy{{ObjectMeta: metav1.ObjectMeta{Name: "global"}, Spec: v3.StagedGlobalNetworkPolicySpec{GlobalNetworkPolicySpec: v3.GlobalNetworkPolicySpec{NamespaceSelector: "all()"}}}},
		StagedKubernetesNetworkPolicies: []*v3.StagedKubernetesNetworkPolicy{{ObjectMeta: name("kube"), Spec: v3.StagedKubernetesNetworkPolicySpec{StagedAction: v3.StagedDelete}}},
	}
	names := func(o translate.Objects) string {
		set, notes := translate.Policies(o, translate.Options{})
		if len(notes) > 0 {
			t.Error(notes)
		}
		var list []string
		for _, tier := range set.Tiers {
			for _, p := range tier.Policies {
				list = append(list, p.Ref.String()+" "+p.Subject.Pods.String())
			}
		}
		slices.Sort(list)
		return strings.ReplaceAll(strings.Join(list, ", "), ".projectcalico.org", "")
	}
	before := "NetworkPolicy shop/kube all(), NetworkPolicy shop/changed all(), NetworkPolicy shop/gone all(), NetworkPolicy shop/kept all()"
	if got := names(o); got != before {
		t.Errorf("enforced are %s", got)
	}
	if got, want := names(o.WithStaged()), `GlobalNetworkPolicy global all(), NetworkPolicy shop/changed new == "yes", NetworkPolicy shop/kept all(), NetworkPolicy shop/new new == "yes"`; got != want {
		t.Errorf("there would be %s, want %s", got, want)
	}
	if got := names(o); got != before {
		t.Errorf("after asking, enforced are %s", got)
	}
}

// FuzzPolicies translates random objects: none causes a panic, what is applied fits the model,
// and what is not applied in full has a Note.
func FuzzPolicies(f *testing.F) {
	for seed := range uint64(50) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		o := random(seed)
		set, notes := translate.Policies(o, translate.Options{AllowLoadBalancerProbes: seed%2 == 0})
		cluster, _ := translate.Cluster(o)
		refused := map[policy.Ref]bool{}
		for _, n := range notes {
			if n.Field == "" || n.Why == "" || n.Ref.Kind == "" {
				t.Fatalf("%+v", n)
			}
			if n.Severity == translate.Refused {
				refused[n.Ref] = true
			}
		}
		applied := map[policy.Ref]bool{}
		for _, tier := range set.Tiers {
			if tier.Default != policy.Deny && tier.Default != policy.Pass || len(tier.Policies) == 0 {
				t.Fatalf("tier %+v", tier)
			}
			for _, p := range tier.Policies {
				applied[p.Ref] = true
				if refused[p.Ref] {
					t.Fatalf("%s is refused and applied", p.Ref)
				}
				check(t, p)
			}
		}
		for _, r := range refs(o) {
			if !applied[r] && !slices.ContainsFunc(notes, func(n translate.Note) bool { return n.Ref == r }) {
				t.Fatalf("%s is lost without a Note", r)
			}
		}
		// The compiler accepts every result.
		if _, err := compile.Compile(set, cluster, compile.DefaultBudget); err != nil {
			t.Fatal(err)
		}
		for name, p := range cluster.Pods {
			for _, a := range p.Addresses {
				if a.Is4In6() || !a.IsValid() {
					t.Fatalf("%s has %s", name, a)
				}
			}
		}
	})
}

// check validates a policy against the rules of the model.
func check(t *testing.T, p policy.Policy) {
	nets := func(s policy.AddrSet) {
		for _, n := range s.Nets {
			if !n.IsValid() || n != n.Masked() || n.Addr().Is4In6() {
				t.Fatalf("%s has the network %s", p.Ref, n)
			}
		}
		if s.Service != nil && (s.Service.Name == "" || s.Service.Namespace == "") {
			t.Fatalf("%s has a Service without name", p.Ref)
		}
	}
	match := func(m policy.Match) {
		for _, s := range slices.Concat(m.In, m.NotIn) {
			nets(s)
		}
	}
	for _, rules := range p.Rules {
		for i, r := range rules {
			if r.Action < policy.Allow || r.Action > policy.Log || r.Number != i || r.Family != 0 && r.Family != 4 && r.Family != 6 {
				t.Fatalf("%s: rule %+v", p.Ref, r)
			}
			match(r.Self)
			for _, m := range r.Peers {
				match(m)
			}
			for _, tr := range r.Traffic {
				for _, port := range slices.Concat(tr.SourcePorts, tr.DestinationPorts, tr.NotSourcePorts, tr.NotDestinationPorts) {
					if (port.Name == "") == (port.From == 0) || port.To < port.From {
						t.Fatalf("%s: port %+v", p.Ref, port)
					}
				}
			}
		}
	}
}

func refs(o translate.Objects) (list []policy.Ref) {
	for _, x := range o.NetworkPolicies {
		list = append(list, policy.Ref{Kind: translate.KindNetworkPolicy, Namespace: x.Namespace, Name: x.Name})
	}
	for _, x := range o.ClusterNetworkPolicies {
		list = append(list, policy.Ref{Kind: translate.KindClusterNetworkPolicy, Namespace: x.Namespace, Name: x.Name})
	}
	for _, x := range o.CalicoPolicies {
		list = append(list, policy.Ref{Kind: translate.KindCalicoPolicy, Namespace: x.Namespace, Name: x.Name})
	}
	for _, x := range o.GlobalNetworkPolicies {
		list = append(list, policy.Ref{Kind: translate.KindGlobalNetworkPolicy, Namespace: x.Namespace, Name: x.Name})
	}
	return list
}

// random returns objects for a seed. Most words are valid in their field, so that many objects
// are valid.
func random(seed uint64) translate.Objects {
	r := rand.New(rand.NewPCG(seed, 0))
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	text := func() string {
		return pick("", "a", "shop", "http", "10.0.0.0/8", "10.0.0.1", "10.1.0.0/16", "2001:db8::/32", "TCP", "UDP", "Allow", "Deny", "Pass", "Accept", "Ingress", "Egress", "Admin",
			"default", "a == 'b'", "!has(x)", "all()", "global()", "80:90", "In", "Exists", "web", "\x00é", "::ffff:1.2.3.0/120")
	}
	fill := randfill.NewWithSeed(int64(seed)).NilChance(.5).NumElements(0, 3).MaxDepth(12).Funcs(
		func(s *string, _ randfill.Continue) { *s = text() },
		func(s *v3.Action, _ randfill.Continue) {
			*s = v3.Action(pick("Allow", "Deny", "Pass", "Log", "Allow", "x"))
		},
		func(s *v3.PolicyType, _ randfill.Continue) {
			*s = v3.PolicyType(pick("Ingress", "Egress", "Ingress", "Egress", "x"))
		},
		func(s *networkingv1.PolicyType, _ randfill.Continue) {
			*s = networkingv1.PolicyType(pick("Ingress", "Egress", "x"))
		},
		func(s *metav1.LabelSelectorOperator, _ randfill.Continue) {
			*s = metav1.LabelSelectorOperator(pick("In", "NotIn", "Exists", "DoesNotExist", "x"))
		},
		func(s *metav1.LabelSelector, c randfill.Continue) {
			if r.IntN(3) > 0 {
				*s = metav1.LabelSelector{MatchLabels: map[string]string{"a": pick("b", "c")}}
			} else {
				c.FillNoCustom(s)
			}
		},
		func(s *corev1.Protocol, _ randfill.Continue) { *s = corev1.Protocol(pick("TCP", "UDP", "SCTP", "x")) },
		func(s *intstr.IntOrString, _ randfill.Continue) {
			*s = intstr.Parse(pick("80", "443", "0", "-1", "70000", "http", "80:90", "TCP", "6", "ICMP", ""))
		},
		func(s *int, _ randfill.Continue) { *s = r.IntN(300) - 5 },
		func(s *int32, _ randfill.Continue) { *s = int32(r.IntN(1200) - 5) },
		func(s *networkingv1.IPBlock, _ randfill.Continue) {
			*s = networkingv1.IPBlock{CIDR: pick("10.0.0.0/8", "10.0.0.0/8", "x")}
			if r.IntN(2) == 0 {
				s.Except = []string{pick("10.1.0.0/16", "11.0.0.0/16")}
			}
		},
		func(s *metav1.ObjectMeta, _ randfill.Continue) {
			*s = metav1.ObjectMeta{Namespace: pick("shop", "bank"), Name: fmt.Sprint("n", r.IntN(1e9)), Labels: map[string]string{"a": text(), discoveryv1.LabelServiceName: "web"}}
		},
		func(s *v3.Rule, c randfill.Continue) {
			if r.IntN(8) == 0 {
				c.FillNoCustom(s)
				return
			}
			tcp := intstr.FromString("TCP")
			*s = v3.Rule{Action: v3.Action(pick("Allow", "Deny", "Pass", "Log")), Protocol: &tcp}
			switch r.IntN(4) {
			case 0:
				c.Fill(&s.Source)
				c.Fill(&s.Destination)
			case 1:
				c.Fill(&s.Destination)
			default:
				c.Fill(&s.Source)
			}
		},
		func(s *v3.EntityRule, c randfill.Continue) {
			switch r.IntN(16) {
			case 0:
				c.FillNoCustom(s)
			case 1:
				s.Services = &v3.ServiceMatch{Name: "web", Namespace: "shop"}
			case 2:
				s.Ports = []intstr.IntOrString{intstr.Parse(pick("80", "80:90", "http"))}
			case 3, 4, 5, 6:
				s.NotSelector, s.Nets = pick("", "has(x)"), []string{pick("10.0.0.0/8", "10.0.0.1", "2001:db8::/32")}
			case 7:
				s.ServiceAccounts = &v3.ServiceAccountMatch{Names: []string{"a"}, Selector: pick("", "!has(x)")}
			default:
				s.Selector, s.NamespaceSelector = pick("", "a == 'b'", "!has(x)"), pick("", "", "all()", "global()", "a != 'b'")
			}
		},
		func(s *v3.PolicySpec, c randfill.Continue) {
			*s = v3.PolicySpec{Tier: pick("", "default", "kube-admin", "default", "gone"), Selector: pick("", "a == 'b'", "all()", "a = b"), ServiceAccountSelector: pick("", "", "!has(x)")}
			c.Fill(&s.Order)
			c.Fill(&s.Types)
			c.Fill(&s.Ingress)
			c.Fill(&s.Egress)
		},
		func(s *v3.GlobalNetworkPolicySpec, c randfill.Continue) {
			c.Fill(&s.PolicySpec)
			s.NamespaceSelector = pick("", "all()", "a == 'b'", "global()")
			if r.IntN(8) == 0 {
				s.ApplyOnForward, s.PreDNAT, s.DoNotTrack = r.IntN(2) == 0, r.IntN(2) == 0, r.IntN(2) == 0
			}
		},
		func(s *cnpv1.ClusterNetworkPolicySpec, c randfill.Continue) {
			c.Fill(&s.Ingress)
			c.Fill(&s.Egress)
			s.Tier, s.Priority = cnpv1.Tier(pick("Admin", "Baseline", "Admin", "Baseline", "x")), int32(r.IntN(1010))
			if r.IntN(2) == 0 {
				s.Subject.Namespaces = &metav1.LabelSelector{}
			} else {
				s.Subject.Pods = &cnpv1.NamespacedPod{}
				c.Fill(s.Subject.Pods)
			}
		},
		func(s *cnpv1.ClusterNetworkPolicyRuleAction, _ randfill.Continue) {
			*s = cnpv1.ClusterNetworkPolicyRuleAction(pick("Accept", "Accept", "Deny", "Deny", "Pass", "Pass", "x"))
		},
		func(s *cnpv1.ClusterNetworkPolicyIngressPeer, c randfill.Continue) {
			switch r.IntN(8) {
			case 0:
				c.FillNoCustom(s)
			case 1, 2, 3:
				s.Pods = &cnpv1.NamespacedPod{}
				c.Fill(s.Pods)
			default:
				s.Namespaces = &metav1.LabelSelector{}
			}
		},
		func(s *cnpv1.ClusterNetworkPolicyEgressPeer, c randfill.Continue) {
			switch r.IntN(8) {
			case 0:
				c.FillNoCustom(s)
			case 1:
				s.Nodes = &metav1.LabelSelector{}
			case 2:
				s.DomainNames = []cnpv1.DomainName{"example.com"}
			case 3, 4:
				s.Networks = []cnpv1.CIDR{"10.0.0.0/8", "2001:db8::/32"}
			default:
				s.Namespaces = &metav1.LabelSelector{}
			}
		},
		func(s *cnpv1.ClusterNetworkPolicyProtocol, c randfill.Continue) {
			switch r.IntN(8) {
			case 0:
				c.FillNoCustom(s)
			case 1:
				s.DestinationNamedPort = "http"
			case 2, 3:
				s.UDP = &cnpv1.ClusterNetworkPolicyProtocolUDP{DestinationPort: &cnpv1.Port{Range: &cnpv1.PortRange{Start: 1, End: 9}}}
			default:
				s.TCP = &cnpv1.ClusterNetworkPolicyProtocolTCP{DestinationPort: &cnpv1.Port{Number: 80}}
			}
		},
	)
	o := translate.Objects{}
	v := reflect.ValueOf(&o).Elem()
	for i := range v.NumField() {
		list := v.Field(i)
		for range r.IntN(4) {
			x := reflect.New(list.Type().Elem().Elem())
			fill.Fill(x.Interface())
			list.Set(reflect.Append(list, x))
		}
	}
	return o
}

// Enough random objects are applied and enough are refused.
func TestRandomObjectsAreRight(t *testing.T) {
	kinds := map[string][2]int{}
	for seed := range uint64(500) {
		o := random(seed)
		set, _ := translate.Policies(o, translate.Options{})
		for _, r := range refs(o) {
			k := kinds[r.Kind]
			k[1]++
			kinds[r.Kind] = k
		}
		for _, tier := range set.Tiers {
			for _, p := range tier.Policies {
				k := kinds[p.Ref.Kind]
				k[0]++
				kinds[p.Ref.Kind] = k
			}
		}
	}
	for kind, n := range kinds {
		t.Logf("%s: %d of %d are applied", kind, n[0], n[1])
		if n[0]*20 < n[1] || n[0] == n[1] {
			t.Errorf("%s: %d of %d are applied", kind, n[0], n[1])
		}
	}
}
