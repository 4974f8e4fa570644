package oracle

import (
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"testing"

	calico "github.com/projectcalico/calico/libcalico-go/lib/selector"
	"github.com/projectcalico/calico/libcalico-go/lib/selector/parser"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	v3 "terway.dev/terway/api/calico/v3"
	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/naive"
	"terway.dev/terway/internal/policy/translate"
)

// What selectors of Calico's rules can select: pods, and sets with and without a namespace.
var (
	accounts = []*corev1.ServiceAccount{
		{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "front", Labels: map[string]string{"role": "front"}}},
		{ObjectMeta: metav1.ObjectMeta{Namespace: "y", Name: "front", Labels: map[string]string{"role": "back"}}},
	}
	runners = func() (list []*corev1.Pod) {
		for i, p := range pods {
			p = p.DeepCopy()
			if i%2 == 0 {
				p.Spec.ServiceAccountName = "front"
			}
			list = append(list, p)
		}
		return list
	}()
	sets = []*v3.NetworkSet{
		{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "s", Labels: map[string]string{"app": "a"}}, Spec: v3.NetworkSetSpec{Nets: []string{"198.51.100.0/28"}}},
		{ObjectMeta: metav1.ObjectMeta{Namespace: "y", Name: "s", Labels: map[string]string{"app": "b", "tier": "0"}}, Spec: v3.NetworkSetSpec{Nets: []string{"198.51.100.16/28"}}},
	}
	globalSets = []*v3.GlobalNetworkSet{
		{ObjectMeta: metav1.ObjectMeta{Name: "g", Labels: map[string]string{"app": "a", "tier": "1"}}, Spec: v3.NetworkSetSpec{Nets: []string{"198.51.100.32/28"}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "bare"}, Spec: v3.NetworkSetSpec{Nets: []string{"198.51.100.48/28"}}},
	}
)

// nobody is an address that no pod or set has.
const nobody = "203.0.113.7"

// An endpoint is an address with the labels that Calico sees: its own, and inherited ones.
type endpoint struct {
	address string
	labels  map[string]string
}

func endpoints() (list []endpoint) {
	inherit := func(into map[string]string, prefix, name string, from map[string]string) {
		into[prefix+"projectcalico.org/name"] = name
		for k, v := range from {
			into[prefix+k] = v
		}
	}
	inNamespace := func(own map[string]string, namespace string) map[string]string {
		labels := maps.Clone(own)
		labels["projectcalico.org/namespace"] = namespace
		for _, n := range namespaces {
			if n.Name == namespace {
				inherit(labels, "pcns.", n.Name, n.Labels)
			}
		}
		return labels
	}
	for _, p := range runners {
		labels := inNamespace(p.Labels, p.Namespace)
		account := "default"
		if p.Spec.ServiceAccountName != "" {
			account = p.Spec.ServiceAccountName
		}
		labels["projectcalico.org/orchestrator"], labels["projectcalico.org/serviceaccount"] = "k8s", account
		own := map[string]string{}
		for _, a := range accounts {
			if a.Namespace == p.Namespace && a.Name == account {
				own = a.Labels
			}
		}
		inherit(labels, "pcsa.", account, own)
		list = append(list, endpoint{p.Status.PodIP, labels})
	}
	for _, s := range sets {
		list = append(list, endpoint{netip.MustParsePrefix(s.Spec.Nets[0]).Addr().Next().String(), inNamespace(s.Labels, s.Namespace)})
	}
	for _, s := range globalSets {
		list = append(list, endpoint{netip.MustParsePrefix(s.Spec.Nets[0]).Addr().Next().String(), s.Labels})
	}
	return append(list, endpoint{nobody, nil})
}

func prefixed(t *rapid.T, text, prefix string) string {
	s, err := parser.Parse(text)
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	s.AcceptVisitor(parser.PrefixVisitor{Prefix: prefix})
	return s.String()
}

// composed returns the selector that Calico makes from all conditions of an entity; "" if there
// is none.
func composed(t *rapid.T, e v3.EntityRule, namespace string) string {
	var all []string
	switch {
	case e.NamespaceSelector != "":
		s := prefixed(t, e.NamespaceSelector, "pcns.")
		s = strings.ReplaceAll(s, "all()", "has(projectcalico.org/namespace)")
		all = append(all, strings.ReplaceAll(s, "global()", "!has(projectcalico.org/namespace)"))
	case namespace != "" && (e.Selector != "" || e.NotSelector != "" || e.ServiceAccounts != nil):
		all = append(all, fmt.Sprintf("projectcalico.org/namespace == '%s'", namespace))
	}
	if a := e.ServiceAccounts; a != nil {
		if a.Selector != "" {
			all = append(all, prefixed(t, a.Selector, "pcsa."))
		}
		if len(a.Names) > 0 {
			all = append(all, "projectcalico.org/serviceaccount in {'"+strings.Join(a.Names, "', '")+"'}")
		}
	}
	if e.Selector != "" {
		all = append(all, e.Selector)
	}
	for i, s := range all {
		all[i] = "(" + s + ")"
	}
	return strings.Join(all, " && ")
}

// conditionOn generates selectors of some labels.
func conditionOn(words ...string) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		one := rapid.SampledFrom(words)
		s := one.Draw(t, "one")
		switch rapid.IntRange(0, 4).Draw(t, "shape") {
		case 0:
			return "!(" + s + ")"
		case 1:
			return s + " || " + one.Draw(t, "two")
		case 2:
			return s + " && " + one.Draw(t, "two")
		}
		return s
	})
}

var entity = rapid.Custom(func(t *rapid.T) v3.EntityRule {
	var e v3.EntityRule
	of := conditionOn("app == 'a'", "app in {'b', 'c'}", "has(tier)", "tier != '0'", "pcns.team == 'red'", "projectcalico.org/namespace == 'x'", "pcsa.role == 'front'", "all()", "has(projectcalico.org/orchestrator)")
	if rapid.Bool().Draw(t, "selector") {
		e.Selector = of.Draw(t, "selector")
	}
	if rapid.IntRange(0, 2).Draw(t, "namespaces") == 0 {
		e.NamespaceSelector = conditionOn("team == 'red'", "has(team)", "projectcalico.org/name == 'z'", "ns != 'y'", "all()", "global()").Draw(t, "namespaces")
	}
	if rapid.IntRange(0, 2).Draw(t, "not") == 0 {
		e.NotSelector = of.Draw(t, "not")
	}
	if rapid.IntRange(0, 2).Draw(t, "accounts") == 0 {
		e.ServiceAccounts = &v3.ServiceAccountMatch{}
		if rapid.Bool().Draw(t, "names") {
			e.ServiceAccounts.Names = rapid.SliceOfN(rapid.SampledFrom([]string{"front", "default", "none"}), 1, 2).Draw(t, "names")
		}
		if e.ServiceAccounts.Names == nil || rapid.Bool().Draw(t, "labels") {
			e.ServiceAccounts.Selector = conditionOn("role == 'front'", "has(role)", "projectcalico.org/name == 'default'", "all()").Draw(t, "labels")
		}
	}
	return e
})

// The source of a rule, in a namespaced policy and in a global one, is the same as in Calico:
// that which Calico's parser gives for the selector that Calico makes from it.
func TestEntityIsCalicos(t *testing.T) {
	cluster, _ := translate.Cluster(translate.Objects{
		Namespaces: namespaces, ServiceAccounts: accounts, Pods: runners, NetworkSets: sets, GlobalNetworkSets: globalSets,
	})
	all := endpoints()
	answers := map[bool]int{}
	rapid.Check(t, func(t *rapid.T) {
		e := entity.Draw(t, "source")
		namespace := rapid.SampledFrom([]string{"", "x", "z"}).Draw(t, "namespace")
		spec := v3.PolicySpec{Types: []v3.PolicyType{v3.PolicyTypeIngress}, Ingress: []v3.Rule{{Action: v3.Allow, Source: e}}}
		var o translate.Objects
		subject := policy.NamespacedName{Namespace: "x", Name: "a"}
		if namespace == "" {
			o.GlobalNetworkPolicies = []*v3.GlobalNetworkPolicy{{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: v3.GlobalNetworkPolicySpec{PolicySpec: spec}}}
		} else {
			o.CalicoPolicies = []*v3.NetworkPolicy{{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "p"}, Spec: spec}}
			subject.Namespace = namespace
		}
		set, notes := translate.Policies(o, translate.Options{})
		if len(notes) > 0 {
			t.Fatal(notes)
		}
		is, not := composed(t, e, namespace), e.NotSelector
		for _, who := range all {
			want := true
			if is != "" {
				want = who.address != nobody
				s, err := calico.Parse(is)
				if err != nil {
					t.Fatalf("%q: %v", is, err)
				}
				want = want && s.Evaluate(who.labels)
			}
			if not != "" && who.address != nobody {
				s, err := calico.Parse(not)
				if err != nil {
					t.Fatalf("%q: %v", not, err)
				}
				want = want && !s.Evaluate(who.labels)
			}
			answers[want]++
			d, _ := naive.Decide(set, cluster, policy.Connection{
				Pod: subject, Direction: policy.Ingress, Own: cluster.Pods[subject].Addresses[0], Peer: netip.MustParseAddr(who.address),
				Protocol: policy.TCPProtocol, SourcePort: 40000, DestinationPort: 80,
			})
			if (d.Action == policy.Allow) != want {
				t.Fatalf("%+v in a policy of namespace %q: %s, with %v: Calico's %q gives %v, ours %v", e, namespace, who.address, who.labels, is, want, d)
			}
		}
	})
	t.Logf("%d times yes, %d times no", answers[true], answers[false])
	if answers[true]*10 < answers[false] || answers[false]*10 < answers[true] {
		t.Error("nearly all answers are the same")
	}
}
