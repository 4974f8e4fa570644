package translate

import (
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	cnpv1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	v3 "terway.dev/terway/api/calico/v3"
	"terway.dev/terway/internal/policy"
)

// Objects are the objects of a cluster that policies are made from.
type Objects struct {
	NetworkPolicies        []*networkingv1.NetworkPolicy
	ClusterNetworkPolicies []*cnpv1.ClusterNetworkPolicy
	CalicoPolicies         []*v3.NetworkPolicy
	GlobalNetworkPolicies  []*v3.GlobalNetworkPolicy
	Tiers                  []*v3.Tier

	// Staged policies have no effect without WithStaged.
	StagedNetworkPolicies           []*v3.StagedNetworkPolicy
	StagedGlobalNetworkPolicies     []*v3.StagedGlobalNetworkPolicy
	StagedKubernetesNetworkPolicies []*v3.StagedKubernetesNetworkPolicy

	Namespaces        []*corev1.Namespace
	ServiceAccounts   []*corev1.ServiceAccount
	Pods              []*corev1.Pod
	Nodes             []*corev1.Node
	EndpointSlices    []*discoveryv1.EndpointSlice
	NetworkSets       []*v3.NetworkSet
	GlobalNetworkSets []*v3.GlobalNetworkSet
	HostEndpoints     []*v3.HostEndpoint
}

// Policies translates and arranges all policies.
func Policies(o Objects, options Options) (policy.Set, []Note) {
	var placed []Placed
	var notes []Note
	add := func(p *Placed, n []Note) {
		if p != nil {
			placed = append(placed, *p)
		}
		notes = append(notes, n...)
	}
	for _, p := range o.NetworkPolicies {
		add(NetworkPolicy(p))
	}
	for _, p := range o.ClusterNetworkPolicies {
		add(ClusterNetworkPolicy(p))
	}
	for _, p := range o.CalicoPolicies {
		add(CalicoPolicy(p))
	}
	for _, p := range o.GlobalNetworkPolicies {
		add(GlobalNetworkPolicy(p))
	}
	set, more := Arrange(placed, o.Tiers, options)
	return set, append(notes, more...)
}

// ref returns the Ref of an object.
func ref(kind string, o interface {
	GetNamespace() string
	GetName() string
}) policy.Ref {
	return policy.Ref{Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName()}
}

// item returns the path of an element of a list.
func item(list string, i int) string { return list + "[" + strconv.Itoa(i) + "]" }

func formatOrder(order float64) string { return fmt.Sprintf("%.0f", order) }
