package policy

import (
	"strings"

	"terway.dev/terway/internal/policy/selector"
)

// Generated labels: selectors see them on every object. The names are Calico's, whose users
// select by them.
const (
	// LabelName is the name of a namespace or a service account.
	LabelName = "projectcalico.org/name"
	// LabelNamespace, LabelOrchestrator and LabelServiceAccount are generated for pods;
	// LabelNamespace for NetworkSets too.
	LabelNamespace      = "projectcalico.org/namespace"
	LabelOrchestrator   = "projectcalico.org/orchestrator"
	LabelServiceAccount = "projectcalico.org/serviceaccount"

	// Orchestrator is the value of LabelOrchestrator.
	Orchestrator = "k8s"

	// A pod has the labels of its namespace and of its service account with these prefixes. A
	// NetworkSet has those of its namespace.
	PrefixNamespace      = "pcns."
	PrefixServiceAccount = "pcsa."
)

// The functions below return the labels that selectors see: an object's own labels and the
// generated ones. A generated label hides an own label of the same name, so that no pod can
// claim by a label to be in another namespace.

// PodLabels returns the labels that PodSelector.Pods is evaluated on.
func (c *Cluster) PodLabels(p *Pod) selector.Labels { return podLabels{c, p} }

// NamespaceLabels returns the labels that the Namespaces of selectors are evaluated on.
func (c *Cluster) NamespaceLabels(name string) selector.Labels {
	return named{c.Namespaces[name], name}
}

// ServiceAccountLabels returns the labels that PodSelector.ServiceAccounts is evaluated on.
func (c *Cluster) ServiceAccountLabels(n NamespacedName) selector.Labels {
	return named{c.ServiceAccounts[n], n.Name}
}

// NetworkSetLabels returns the labels that NetworkSetSelector.Sets is evaluated on.
func (c *Cluster) NetworkSetLabels(n NamespacedName) selector.Labels { return setLabels{c, n} }

type named struct {
	own  Labels
	name string
}

func (l named) Get(key string) (string, bool) {
	if key == LabelName {
		return l.name, true
	}
	v, ok := l.own[key]
	return v, ok
}

type podLabels struct {
	c *Cluster
	p *Pod
}

func (l podLabels) Get(key string) (string, bool) {
	switch key {
	case LabelNamespace:
		return l.p.Namespace, true
	case LabelOrchestrator:
		return Orchestrator, true
	case LabelServiceAccount:
		return l.p.ServiceAccount, l.p.ServiceAccount != ""
	}
	if of, ok := strings.CutPrefix(key, PrefixNamespace); ok {
		return l.c.NamespaceLabels(l.p.Namespace).Get(of)
	}
	if of, ok := strings.CutPrefix(key, PrefixServiceAccount); ok {
		return l.c.ServiceAccountLabels(NamespacedName{l.p.Namespace, l.p.ServiceAccount}).Get(of)
	}
	v, ok := l.p.Labels[key]
	return v, ok
}

type setLabels struct {
	c *Cluster
	n NamespacedName
}

func (l setLabels) Get(key string) (string, bool) {
	if l.n.Namespace != "" {
		if key == LabelNamespace {
			return l.n.Namespace, true
		}
		if of, ok := strings.CutPrefix(key, PrefixNamespace); ok {
			return l.c.NamespaceLabels(l.n.Namespace).Get(of)
		}
	}
	if s := l.c.NetworkSets[l.n]; s != nil {
		v, ok := s.Labels[key]
		return v, ok
	}
	return "", false
}
