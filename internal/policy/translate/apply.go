package translate

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/internal/policy"
)

// With returns the objects as if the policies, tiers and network sets of changes were applied.
// Each replaces the one with its name. Other objects of changes are ignored, also staged
// policies.
func (o Objects) With(changes Objects) Objects {
	o.NetworkPolicies = putAll(o.NetworkPolicies, changes.NetworkPolicies)
	o.ClusterNetworkPolicies = putAll(o.ClusterNetworkPolicies, changes.ClusterNetworkPolicies)
	o.CalicoPolicies = putAll(o.CalicoPolicies, changes.CalicoPolicies)
	o.GlobalNetworkPolicies = putAll(o.GlobalNetworkPolicies, changes.GlobalNetworkPolicies)
	o.Tiers = putAll(o.Tiers, changes.Tiers)
	o.NetworkSets = putAll(o.NetworkSets, changes.NetworkSets)
	o.GlobalNetworkSets = putAll(o.GlobalNetworkSets, changes.GlobalNetworkSets)
	return o
}

// Without returns the objects without one policy, tier or network set; false if there is no
// such object.
func (o Objects) Without(gone policy.Ref) (Objects, bool) {
	name := &metav1.ObjectMeta{Namespace: gone.Namespace, Name: gone.Name}
	there := false
	switch gone.Kind {
	case KindNetworkPolicy:
		o.NetworkPolicies, there = take(o.NetworkPolicies, name)
	case KindClusterNetworkPolicy:
		o.ClusterNetworkPolicies, there = take(o.ClusterNetworkPolicies, name)
	case KindCalicoPolicy:
		o.CalicoPolicies, there = take(o.CalicoPolicies, name)
	case KindGlobalNetworkPolicy:
		o.GlobalNetworkPolicies, there = take(o.GlobalNetworkPolicies, name)
	case KindTier:
		o.Tiers, there = take(o.Tiers, name)
	case KindNetworkSet:
		o.NetworkSets, there = take(o.NetworkSets, name)
	case KindGlobalNetworkSet:
		o.GlobalNetworkSets, there = take(o.GlobalNetworkSets, name)
	}
	return o, there
}

func putAll[T metav1.Object](list, changes []T) []T {
	for _, c := range changes {
		list, _ = take(list, c)
		list = append(list, c)
	}
	return list
}

// take returns the list without the objects of this name, and whether there were any. It does
// not modify the list.
func take[T, O metav1.Object](list []T, object O) ([]T, bool) {
	rest := slices.DeleteFunc(slices.Clone(list), func(other T) bool {
		return other.GetName() == object.GetName() && other.GetNamespace() == object.GetNamespace()
	})
	return rest, len(rest) < len(list)
}
