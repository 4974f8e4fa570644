package v1alpha1

import "k8s.io/apimachinery/pkg/util/validation"

// LeaseName is the name of the Lease of a node's agent: terwayd- and the node's name, or, where
// that would be longer than a name may be, the node's name alone. It is no hash, because the
// chart's policy own-lease.yaml, whose language has none, says the same of it.
func LeaseName(node string) string {
	const prefix = "terwayd-"
	if len(prefix)+len(node) > validation.DNS1123SubdomainMaxLength {
		return node
	}
	return prefix + node
}
