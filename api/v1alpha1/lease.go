package v1alpha1

import "k8s.io/apimachinery/pkg/util/validation"

// LeaseName returns the name of the Lease of a node's agent: terwayd- and the node's name, or, if
// that would be too long for a name, the node's name alone. It is not a hash, because the
// chart's policy own-lease.yaml computes the same name in CEL, which has no hash function.
func LeaseName(node string) string {
	const prefix = "terwayd-"
	if len(prefix)+len(node) > validation.DNS1123SubdomainMaxLength {
		return node
	}
	return prefix + node
}
