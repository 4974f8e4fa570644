// Package v3 holds Go types of Calico's API projectcalico.org/v3: policies, tiers, network
// sets and host endpoints. Kinds, fields, defaults and limits are Calico's (release 3.32 and
// before); a status with conditions is added where somebody must be told what a policy
// cannot do.
//
// They are of their own, since the Go module of Calico's API that can be had is older than
// tiers. The CRDs made of them serve the group as it is, not Calico's private
// crd.projectcalico.org: a client that finds projectcalico.org/v3 and not that, uses it.
// It holds no behaviour: what an object means is internal/policy/translate's.
//
// +kubebuilder:object:generate=true
// +groupName=projectcalico.org
package v3

// Orders are numbers with fractions in this API, which controller-gen calls dangerous.
//go:generate go run sigs.k8s.io/controller-tools/cmd/controller-gen object paths=. crd:allowDangerousTypes=true output:crd:dir=../../../deploy/chart/policy
