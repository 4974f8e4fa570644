package migrate

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"terway.dev/terway/internal/datapath/claims"
)

// ours is the requirement that confines the old network's pods.
func ours() corev1.NodeSelectorRequirement {
	return corev1.NodeSelectorRequirement{Key: claims.LabelIgnore, Operator: corev1.NodeSelectorOpIn, Values: []string{"true"}}
}

func isOurs(r corev1.NodeSelectorRequirement) bool {
	return r.Key == claims.LabelIgnore && r.Operator == corev1.NodeSelectorOpIn && slices.Equal(r.Values, []string{"true"})
}

// Confined reports whether pods run only on nodes that Terway ignores. Terms of an affinity are
// alternatives, so each must say it.
func Confined(spec *corev1.PodSpec) bool {
	terms := termsOf(spec)
	return len(terms) > 0 && !slices.ContainsFunc(terms, func(t corev1.NodeSelectorTerm) bool {
		return !slices.ContainsFunc(t.MatchExpressions, isOurs)
	})
}

func termsOf(spec *corev1.PodSpec) []corev1.NodeSelectorTerm {
	a := spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil
	}
	return a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
}

// Confine makes pods run only on nodes that Terway ignores, beside what their affinity says. Nodes must
// have the label before: a DaemonSet's pods leave the others at once.
func Confine(spec *corev1.PodSpec) {
	terms := termsOf(spec)
	if len(terms) == 0 {
		terms = []corev1.NodeSelectorTerm{{}}
	}
	for i := range terms {
		if !slices.ContainsFunc(terms[i].MatchExpressions, isOurs) {
			terms[i].MatchExpressions = append(terms[i].MatchExpressions, ours())
		}
	}
	if spec.Affinity == nil {
		spec.Affinity = &corev1.Affinity{}
	}
	if spec.Affinity.NodeAffinity == nil {
		spec.Affinity.NodeAffinity = &corev1.NodeAffinity{}
	}
	spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{NodeSelectorTerms: terms}
}
