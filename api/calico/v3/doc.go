// Package v3 holds Go types of Calico's API projectcalico.org/v3: policies, tiers, network
// sets and host endpoints. Kinds, fields, defaults and limits are Calico's (release 3.32 and
// before). Policies and tiers also have a status, whose conditions report what is not enforced.
//
// The types are written here because the published Go module of Calico's API has no tiers. The
// CRDs serve the group projectcalico.org itself, not Calico's private crd.projectcalico.org:
// clients that find projectcalico.org/v3 and not the private group use it. The package has no
// behaviour: internal/policy/translate gives objects a meaning.
//
// +kubebuilder:object:generate=true
// +groupName=projectcalico.org
package v3

// In this API an order is a float, a type that controller-gen refuses by default.
//go:generate go run sigs.k8s.io/controller-tools/cmd/controller-gen object paths=. crd:allowDangerousTypes=true output:crd:dir=../../../deploy/chart/policy
