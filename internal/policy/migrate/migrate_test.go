package migrate_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	v3 "terway.dev/terway/api/calico/v3"
	"terway.dev/terway/internal/policy/migrate"
)

func old(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	o := map[string]any{}
	if err := yaml.Unmarshal([]byte(text), &o); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	o["apiVersion"] = migrate.OldAPI
	return &unstructured.Unstructured{Object: o}
}

func plan(t *testing.T, texts ...string) []migrate.Move {
	t.Helper()
	var olds []*unstructured.Unstructured
	for _, text := range texts {
		olds = append(olds, old(t, text))
	}
	moves, err := migrate.Plan(olds)
	if err != nil {
		t.Fatal(err)
	}
	return moves
}

// TestPlan has a row for each kind, each form of a name, and each way in which an old object is not
// as the new one must be.
func TestPlan(t *testing.T) {
	const both = "types: [Ingress, Egress]"
	stored := func(metadata string) string {
		return "annotations: {projectcalico.org/metadata: '" + metadata + "'}"
	}
	for _, c := range []struct{ about, old, want string }{
		// Names.
		{"as calicoctl stores it", "{kind: GlobalNetworkPolicy, metadata: {name: default.web}, spec: {" + both + ", selector: a == 'b'}}",
			"{metadata: {name: web}, spec: {" + both + ", selector: a == 'b'}}"},
		{"as kubectl stores it", "{kind: GlobalNetworkPolicy, metadata: {name: web}, spec: {" + both + "}}",
			"{metadata: {name: web}, spec: {" + both + "}}"},
		{"in a namespace", "{kind: NetworkPolicy, metadata: {name: default.web, namespace: shop}, spec: {" + both + "}}",
			"{metadata: {name: web, namespace: shop}, spec: {" + both + "}}"},
		{"with its tier", "{kind: NetworkPolicy, metadata: {name: default.web, namespace: shop}, spec: {tier: default, " + both + "}}",
			"{metadata: {name: web, namespace: shop}, spec: {tier: default, " + both + "}}"},
		{"of another tier", "{kind: NetworkPolicy, metadata: {name: security.web, namespace: shop}, spec: {tier: security, " + both + "}}",
			"{metadata: {name: security.web, namespace: shop}, spec: {tier: security, " + both + "}}"},
		{"of another tier, with a name like the default one's", "{kind: NetworkPolicy, metadata: {name: default.web, namespace: shop}, spec: {tier: security, " + both + "}}",
			"{metadata: {name: default.web, namespace: shop}, spec: {tier: security, " + both + "}}"},
		{"with dots", "{kind: GlobalNetworkPolicy, metadata: {name: default.a.b}, spec: {" + both + "}}",
			"{metadata: {name: a.b}, spec: {" + both + "}}"},
		{"no policy", "{kind: NetworkSet, metadata: {name: default.web, namespace: shop}, spec: {nets: [10.0.0.0/8]}}",
			"{metadata: {name: default.web, namespace: shop}, spec: {nets: [10.0.0.0/8]}}"},

		// Kinds.
		{"Tier", "{kind: Tier, metadata: {name: security}, spec: {order: 12.5, defaultAction: Pass}}", "{metadata: {name: security}, spec: {order: 12.5, defaultAction: Pass}}"},
		{"Tier that says nothing", "{kind: Tier, metadata: {name: last}}", "{metadata: {name: last}, spec: {}}"},
		{"Tier that is always there", "{kind: Tier, metadata: {name: default}, spec: {order: 1000000, defaultAction: Deny}}", "{metadata: {name: default}, spec: {order: 1000000, defaultAction: Deny}}"},
		{"GlobalNetworkSet", "{kind: GlobalNetworkSet, metadata: {name: a, labels: {a: b}}, spec: {nets: [10.0.0.1]}}", "{metadata: {name: a, labels: {a: b}}, spec: {nets: [10.0.0.1]}}"},
		{"HostEndpoint", "{kind: HostEndpoint, metadata: {name: n1-eth0, labels: {role: edge}}, spec: {node: n1, interfaceName: eth0, expectedIPs: [192.168.0.1], profiles: [p], ports: [{name: a, protocol: TCP, port: 80}]}}",
			"{metadata: {name: n1-eth0, labels: {role: edge}}, spec: {node: n1, interfaceName: eth0, expectedIPs: [192.168.0.1], profiles: [p], ports: [{name: a, protocol: TCP, port: 80}]}}"},
		{"StagedNetworkPolicy", "{kind: StagedNetworkPolicy, metadata: {name: default.s, namespace: shop}, spec: {stagedAction: Delete}}",
			"{metadata: {name: s, namespace: shop}, spec: {stagedAction: Delete, " + both + "}} has no spec.types"},
		{"StagedGlobalNetworkPolicy", "{kind: StagedGlobalNetworkPolicy, metadata: {name: s}, spec: {types: [Egress], namespaceSelector: all()}}",
			"{metadata: {name: s}, spec: {types: [Egress], namespaceSelector: all()}}"},
		{"StagedKubernetesNetworkPolicy", "{kind: StagedKubernetesNetworkPolicy, metadata: {name: s, namespace: shop}, spec: {podSelector: {matchLabels: {a: b}}, ingress: [{}]}}",
			"{metadata: {name: s, namespace: shop}, spec: {podSelector: {matchLabels: {a: b}}, ingress: [{}]}}"},

		// What Calico stores beside the spec.
		{"metadata", "{kind: GlobalNetworkSet, metadata: {name: a, uid: u, resourceVersion: '7', generation: 2, creationTimestamp: '2020-01-01T00:00:00Z', " +
			stored(`{"uid":"v","creationTimestamp":"2019-01-01T00:00:00Z","labels":{"a":"b"},"annotations":{"why":"because"}}`) + "}, spec: {nets: [10.0.0.1]}}",
			"{metadata: {name: a, labels: {a: b}, annotations: {why: because}}, spec: {nets: [10.0.0.1]}}"},
		{"metadata of older releases", "{kind: GlobalNetworkSet, metadata: {name: a, labels: {a: b, c: d}, annotations: {x: z, kubectl.kubernetes.io/last-applied-configuration: '{}', projectcalico.org/metadata: '{\"labels\":{\"c\":\"e\"}}'}}, spec: {nets: [10.0.0.1]}}",
			"{metadata: {name: a, labels: {a: b, c: e}, annotations: {x: z}}, spec: {nets: [10.0.0.1]}}"},
		{"owners", "{kind: GlobalNetworkSet, metadata: {name: a, finalizers: [f], " + stored(`{"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"n","uid":"u"}]}`) + "}, spec: {nets: [10.0.0.1]}}",
			"{metadata: {name: a}, spec: {nets: [10.0.0.1]}} its ownerReferences stay behind its finalizers stay behind"},
		{"status", "{kind: Tier, metadata: {name: a}, spec: {order: 1}, status: {conditions: []}}", "{metadata: {name: a}, spec: {order: 1}}"},
		{"metadata that is broken", "{kind: GlobalNetworkSet, metadata: {name: a, " + stored("{") + "}, spec: {nets: [10.0.0.1]}}", "metadata.annotations[projectcalico.org/metadata]: want the JSON that Calico writes"},

		// Specs.
		{"without types", "{kind: NetworkPolicy, metadata: {name: a, namespace: shop}, spec: {ingress: [{action: Allow}]}}",
			"{metadata: {name: a, namespace: shop}, spec: {ingress: [{action: Allow}], " + both + "}} has no spec.types: it gets Ingress and Egress"},
		{"before translation", "{kind: GlobalNetworkPolicy, metadata: {name: a}, spec: {preDNAT: true, applyOnForward: true, ingress: [{action: Deny}]}}",
			"{metadata: {name: a}, spec: {preDNAT: true, applyOnForward: true, ingress: [{action: Deny}], types: [Ingress]}}"},
		{"what comes twice", "{kind: GlobalNetworkPolicy, metadata: {name: a}, spec: {types: [Egress, Egress], egress: [{action: Allow, source: {}, destination: {nets: [10.0.0.1, 10.0.0.2, 10.0.0.1], ports: [], serviceAccounts: {names: [a, a]}}}]}}",
			"{metadata: {name: a}, spec: {types: [Egress], egress: [{action: Allow, destination: {nets: [10.0.0.1, 10.0.0.2], serviceAccounts: {names: [a]}}}]}}"},
		{"no spec", "{kind: GlobalNetworkPolicy, metadata: {name: a}}", "has no spec: write it again in projectcalico.org/v3"},
		{"an empty spec", "{kind: NetworkSet, metadata: {name: a, namespace: shop}, spec: {}}", "has no spec: write it again in projectcalico.org/v3"},
		{"a spec that is none", "{kind: NetworkSet, metadata: {name: a, namespace: shop}, spec: 3}", "spec: want an object"},
		{"a field that there is not", "{kind: NetworkPolicy, metadata: {name: a, namespace: shop}, spec: {" + both + ", Selector: x, ingress: [{action: Allow, colour: red}]}}",
			`unknown field "spec.ingress[0].colour"`},
		{"a field of another type", "{kind: NetworkPolicy, metadata: {name: a, namespace: shop}, spec: {" + both + ", order: first}}", "is not an object of projectcalico.org/v3: "},
		{"a selector that is none", "{kind: NetworkPolicy, metadata: {name: a, namespace: shop}, spec: {" + both + ", selector: a = 'b'}}", `spec.selector "a = 'b'": want selector`},
		{"a staged selector that is none", "{kind: StagedGlobalNetworkPolicy, metadata: {name: a}, spec: {" + both + ", selector: a = 'b'}}", `spec.selector "a = 'b'": want selector`},
		{"an action that there is not", "{kind: NetworkPolicy, metadata: {name: a, namespace: shop}, spec: {" + both + ", ingress: [{action: allow}]}}", `spec.ingress[0].action "allow": want Allow, Deny, Log or Pass`},
		{"a tier that is always there, and otherwise", "{kind: Tier, metadata: {name: default}, spec: {order: 5}}", `spec.order "5": this tier's order is always 1000000`},
	} {
		m := plan(t, c.old)[0]
		if m.Err != nil {
			if m.New != nil || !strings.Contains(m.Err.Error(), c.want) {
				t.Errorf("%s: %v, want %s", c.about, m.Err, c.want)
			}
			continue
		}
		text, notes, _ := strings.Cut(c.want, "}} ")
		if notes != "" {
			text += "}}"
		}
		var want map[string]any
		if err := yaml.Unmarshal([]byte(text), &want); err != nil {
			t.Errorf("%s: it is moved, want %q", c.about, c.want)
			continue
		}
		want["apiVersion"], want["kind"] = "projectcalico.org/v3", m.Old.GetKind()
		written, err := yaml.Marshal(m.New)
		if err != nil {
			t.Fatal(err)
		}
		var got map[string]any
		if err := yaml.Unmarshal(written, &got); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n%s\nwant\n%s", c.about, written, text)
		}
		for _, n := range m.Notes {
			if at := strings.Index(notes, n[:min(len(n), 17)]); at < 0 {
				t.Errorf("%s: %q is not among the notes %q", c.about, n, notes)
			}
		}
		if (len(m.Notes) > 0) != (notes != "") {
			t.Errorf("%s: notes %q, want %q", c.about, m.Notes, notes)
		}
	}
}

// TestOrder: what others refer to is created before them, and the same comes out in whatever
// order objects are read.
func TestOrder(t *testing.T) {
	texts := []string{
		"{kind: NetworkPolicy, metadata: {name: default.a, namespace: b}, spec: {tier: t, types: [Ingress]}}",
		"{kind: NetworkPolicy, metadata: {name: z, namespace: a}, spec: {types: [Ingress]}}",
		"{kind: GlobalNetworkPolicy, metadata: {name: g}, spec: {types: [Ingress]}}",
		"{kind: NetworkSet, metadata: {name: s, namespace: a}, spec: {nets: [10.0.0.1]}}",
		"{kind: Tier, metadata: {name: t}, spec: {order: 1}}",
	}
	const want = "Tier /t, NetworkSet a/s, GlobalNetworkPolicy /g, NetworkPolicy a/z, NetworkPolicy b/default.a"
	for range texts {
		texts = append(texts[1:], texts[0])
		var got []string
		for _, m := range plan(t, texts...) {
			got = append(got, fmt.Sprintf("%s %s/%s", m.Old.GetKind(), m.Old.GetNamespace(), m.Old.GetName()))
		}
		if text := strings.Join(got, ", "); text != want {
			t.Errorf("%s, want %s", text, want)
		}
	}
}

// TestTwins: of two objects that would have one name, the one that has it already is moved.
func TestTwins(t *testing.T) {
	moves := plan(t,
		"{kind: GlobalNetworkPolicy, metadata: {name: default.web}, spec: {types: [Ingress]}}",
		"{kind: GlobalNetworkPolicy, metadata: {name: web}, spec: {types: [Egress]}}",
		"{kind: StagedGlobalNetworkPolicy, metadata: {name: default.web}, spec: {types: [Ingress]}}",
		"{kind: NetworkPolicy, metadata: {name: default.web, namespace: web}, spec: {types: [Ingress]}}",
	)
	for _, m := range moves {
		if refused := m.Old.GetKind() == "GlobalNetworkPolicy" && m.Old.GetName() == "default.web"; refused != (m.Err != nil) {
			t.Errorf("%s %s: %v", m.Old.GetKind(), m.Old.GetName(), m.Err)
		} else if refused && m.Err.Error() != "becomes web, which is what web becomes, too: delete one of the two" {
			t.Error(m.Err)
		}
	}
}

// TestDifference: what the API server fills in, and an order that means nothing, is no difference.
func TestDifference(t *testing.T) {
	deny, one, two := v3.DefaultDeny, 1.0, 2.0
	policy := func(change func(*v3.NetworkPolicy)) migrate.Object {
		p := &v3.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "shop"}, Spec: v3.PolicySpec{
			Types: []v3.PolicyType{"Ingress", "Egress"}, Ingress: []v3.Rule{{Action: v3.Allow, Source: v3.EntityRule{Nets: []string{"10.0.0.1"}}}},
		}}
		change(p)
		return p
	}
	set := func(labels map[string]string, nets ...string) migrate.Object {
		return &v3.NetworkSet{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: v3.NetworkSetSpec{Nets: nets}}
	}
	same := policy(func(*v3.NetworkPolicy) {})
	for _, c := range []struct {
		want, there migrate.Object
		difference  string
	}{
		{same, policy(func(p *v3.NetworkPolicy) {
			p.UID, p.Generation, p.Spec.Tier = "u", 3, "default"
			p.Spec.Types = []v3.PolicyType{"Egress", "Ingress"}
			p.Labels = map[string]string{"projectcalico.org/tier": "default"}
			p.Annotations = map[string]string{"by": "hand"}
			p.Spec.Egress, p.Spec.Ingress[0].Destination.Nets = []v3.Rule{}, []string{}
			p.Status.Conditions = []metav1.Condition{{Type: "Programmed"}}
		}), ""},
		{same, policy(func(p *v3.NetworkPolicy) { p.Spec.Order = &two }), "spec.order is 2 there, and not set in the old one"},
		{same, policy(func(p *v3.NetworkPolicy) { p.Spec.Ingress[0].Action = v3.Deny }), `spec.ingress[0].action is "Deny" there, and "Allow" in the old one`},
		{same, policy(func(p *v3.NetworkPolicy) { p.Spec.Ingress = nil }), `spec.ingress is not set there, and [{"action":"Allow","source":{"nets":["10.0.0.1"]}}] in the old one`},
		{same, policy(func(p *v3.NetworkPolicy) { p.Spec.Ingress[0].HTTP = &v3.HTTPMatch{} }), `spec.ingress[0].http is {} there, and not set in the old one`},
		{same, policy(func(p *v3.NetworkPolicy) { p.Labels = map[string]string{"a": "b"} }), `metadata.labels.a is "b" there, and not set in the old one`},
		{set(map[string]string{"a": "b"}, "10.0.0.1"), set(map[string]string{"a": "b"}, "10.0.0.1"), ""},
		{set(map[string]string{"a": "b"}, "10.0.0.1"), set(nil, "10.0.0.1"), `metadata.labels.a is not set there, and "b" in the old one`},
		{set(nil, "10.0.0.1"), set(nil, "10.0.0.1", "10.0.0.2"), `spec.nets is ["10.0.0.1","10.0.0.2"] there, and ["10.0.0.1"] in the old one`},
		{&v3.Tier{Spec: v3.TierSpec{Order: &one}}, &v3.Tier{Spec: v3.TierSpec{Order: &one, DefaultAction: &deny}}, ""},
		{&v3.StagedNetworkPolicy{}, &v3.StagedNetworkPolicy{Spec: v3.StagedNetworkPolicySpec{StagedAction: v3.StagedSet}}, ""},
		{&v3.StagedGlobalNetworkPolicy{}, &v3.StagedGlobalNetworkPolicy{Spec: v3.StagedGlobalNetworkPolicySpec{StagedAction: v3.StagedSet}}, ""},
		{&v3.StagedKubernetesNetworkPolicy{}, &v3.StagedKubernetesNetworkPolicy{Spec: v3.StagedKubernetesNetworkPolicySpec{StagedAction: v3.StagedDelete}}, `spec.stagedAction is "Delete" there, and "Set" in the old one`},
	} {
		got, err := migrate.Difference(c.want, c.there)
		if err != nil || got != c.difference {
			t.Errorf("%q, %v; want %q", got, err, c.difference)
		}
	}
}

// FuzzPlan plans whatever a spec has: it is moved to what says the same, or refused.
func FuzzPlan(f *testing.F) {
	f.Add([]byte("types: [Ingress]\ningress: [{action: Allow, source: {nets: [10.0.0.1, 10.0.0.1]}}]"), `{"labels":{"a":"b"}}`)
	f.Add([]byte("{order: x, types: 3}"), "{")
	f.Fuzz(func(t *testing.T, spec []byte, stored string) {
		var s any
		if yaml.Unmarshal(spec, &s) != nil {
			return
		}
		o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": migrate.OldAPI, "kind": "GlobalNetworkPolicy", "spec": s}}
		o.SetName("default.a")
		o.SetAnnotations(map[string]string{"projectcalico.org/metadata": stored})
		moves, err := migrate.Plan([]*unstructured.Unstructured{o})
		if err != nil {
			t.Fatal(err)
		}
		if m := moves[0]; (m.New == nil) != (m.Err != nil) || m.Err != nil && m.Err.Error() == "" {
			t.Fatalf("%v, %v", m.New, m.Err)
		} else if m.New != nil {
			if d, err := migrate.Difference(m.New, m.New); d != "" || err != nil {
				t.Fatalf("it differs from itself: %s %v", d, err)
			}
		}
	})
}
