package policy

import (
	"strings"

	"terway.dev/terway/internal/policy/selector"
)

// Labels that objects have without anybody writing them. Calico's names: selectors of its
// users ask for them.
const (
	// LabelName is the name of a namespace or a service account, beside its own labels.
	LabelName = "projectcalico.org/name"
	// LabelNamespace, LabelOrchestrator and LabelServiceAccount are labels of pods, the first
	// of NetworkSets too.
	LabelNamespace      = "projectcalico.org/namespace"
	LabelOrchestrator   = "projectcalico.org/orchestrator"
	LabelServiceAccount = "projectcalico.org/serviceaccount"

	// Orchestrator is the value of LabelOrchestrator.
	Orchestrator = "k8s"

	// The labels of a pod's namespace and of its service account are labels of the pod with
	// these prefixes; those of its namespace, of a NetworkSet too.
	PrefixNamespace      = "pcns."
	PrefixServiceAccount = "pcsa."
)

// The views below are labels as selectors see them: an object's own, and those that are
// made on the spot. What is made hides what an object itself has of such a name, so that
// nobody says by a label of his pod that it is in another namespace.

// PodLabels are what PodSelector.Pods is asked of.
func (c *Cluster) PodLabels(p *Pod) selector.Labels { return podLabels{c, p} }

// NamespaceLabels are what the Namespaces of selectors are asked of.
func (c *Cluster) NamespaceLabels(name string) selector.Labels {
	return named{c.Namespaces[name], name}
}

// ServiceAccountLabels are what PodSelector.ServiceAccounts is asked of.
func (c *Cluster) ServiceAccountLabels(n NamespacedName) selector.Labels {
	return named{c.ServiceAccounts[n], n.Name}
}

// NetworkSetLabels are what NetworkSetSelector.Sets is asked of.
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
