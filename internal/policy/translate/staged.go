package translate

import (
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v3 "terway.dev/terway/api/calico/v3"
)

// WithStaged returns the objects as if every staged policy were enforced: Set replaces the
// policy with its name, Delete deletes it; Learn and Ignore do nothing.
func (o Objects) WithStaged() Objects {
	for _, s := range o.StagedNetworkPolicies {
		p := &v3.NetworkPolicy{ObjectMeta: s.ObjectMeta, Spec: s.Spec.PolicySpec}
		o.CalicoPolicies = stage(o.CalicoPolicies, p, s.Spec.StagedAction)
	}
	for _, s := range o.StagedGlobalNetworkPolicies {
		p := &v3.GlobalNetworkPolicy{ObjectMeta: s.ObjectMeta, Spec: s.Spec.GlobalNetworkPolicySpec}
		o.GlobalNetworkPolicies = stage(o.GlobalNetworkPolicies, p, s.Spec.StagedAction)
	}
	for _, s := range o.StagedKubernetesNetworkPolicies {
		p := &networkingv1.NetworkPolicy{ObjectMeta: s.ObjectMeta, Spec: networkingv1.NetworkPolicySpec{
			PodSelector: s.Spec.PodSelector, Ingress: s.Spec.Ingress, Egress: s.Spec.Egress, PolicyTypes: s.Spec.PolicyTypes,
		}}
		o.NetworkPolicies = stage(o.NetworkPolicies, p, s.Spec.StagedAction)
	}
	return o
}

func stage[T metav1.Object](list []T, p T, action v3.StagedAction) []T {
	if action == v3.StagedLearn || action == v3.StagedIgnore {
		return list
	}
	list, _ = take(list, p)
	if action == v3.StagedDelete {
		return list
	}
	return append(list, p)
}
