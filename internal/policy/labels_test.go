package policy

import (
	"testing"

	"terway.dev/terway/internal/policy/selector"
)

// A pod cannot claim by its labels to be elsewhere, and selectors find all objects by the
// generated labels.
func TestAutomaticLabels(t *testing.T) {
	c := &Cluster{
		Namespaces:      map[string]Labels{"shop": {"team": "red"}},
		ServiceAccounts: map[NamespacedName]Labels{{Namespace: "shop", Name: "db"}: {"role": "store"}},
		NetworkSets: map[NamespacedName]*NetworkSet{
			{Namespace: "shop", Name: "partners"}: {Labels: Labels{"kind": "partner"}},
			{Name: "world"}:                       {Labels: Labels{"kind": "world"}},
		},
	}
	pod := c.PodLabels(&Pod{
		NamespacedName: NamespacedName{Namespace: "shop", Name: "db-0"}, ServiceAccount: "db",
		Labels: Labels{"app": "db", "projectcalico.org/namespace": "bank", "pcns.team": "blue", "pcns.vip": "yes"},
	})
	for text, of := range map[string]selector.Labels{
		"app == 'db'": pod,
		"projectcalico.org/namespace == 'shop' && projectcalico.org/orchestrator == 'k8s'": pod,
		"projectcalico.org/serviceaccount == 'db' && pcsa.role == 'store'":                 pod,
		"pcns.team == 'red' && !has(pcns.vip) && pcns.projectcalico.org/name == 'shop'":    pod,
		"projectcalico.org/name == 'shop' && team == 'red'":                                c.NamespaceLabels("shop"),
		"projectcalico.org/name == 'new' && !has(team)":                                    c.NamespaceLabels("new"),
		"projectcalico.org/name == 'db' && role == 'store'":                                c.ServiceAccountLabels(NamespacedName{Namespace: "shop", Name: "db"}),
		"kind == 'partner' && pcns.team == 'red' && projectcalico.org/namespace == 'shop'": c.NetworkSetLabels(NamespacedName{Namespace: "shop", Name: "partners"}),
		"kind == 'world' && !has(projectcalico.org/namespace) && !has(pcns.team)":          c.NetworkSetLabels(NamespacedName{Name: "world"}),
		"!has(projectcalico.org/serviceaccount) && projectcalico.org/namespace == 'shop'":  c.PodLabels(&Pod{NamespacedName: NamespacedName{Namespace: "shop"}}),
	} {
		s, err := selector.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if !s.Matches(of) {
			t.Errorf("%s does not match", text)
		}
	}
}
