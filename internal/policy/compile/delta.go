package compile

import "terway.dev/terway/internal/policy"

// A Delta is a set of changes. The Compiler keeps what it holds; the caller must not change it
// afterwards.
type Delta struct {
	// Tiers, if not nil, is the new list of tiers in order, with their defaults and without
	// policies. Tiers that are not in it are removed, and must have no policies.
	Tiers []policy.Tier
	// Policies are applied in order.
	Policies []Change
	// The maps hold new versions of objects. Nil deletes the object.
	Namespaces      map[string]policy.Labels
	ServiceAccounts map[policy.NamespacedName]policy.Labels
	Pods            map[policy.NamespacedName]*policy.Pod
	Nodes           map[string]*policy.Node
	NetworkSets     map[policy.NamespacedName]*policy.NetworkSet
	Services        map[policy.NamespacedName][]policy.Endpoint
}

// A Change adds a policy, or replaces the one with the same Ref.
type Change struct {
	Ref policy.Ref
	// Policy is the new version. Nil deletes the policy.
	Policy *policy.Policy
	// Tier and Index are its position. Index counts the policies before it in the tier, without
	// its own old version.
	Tier  string
	Index int
}

// All returns the Delta that makes an empty Compiler hold all of this.
func All(set policy.Set, cluster policy.Cluster) Delta {
	d := Delta{
		Tiers:           []policy.Tier{},
		Namespaces:      cluster.Namespaces,
		ServiceAccounts: cluster.ServiceAccounts,
		Pods:            cluster.Pods,
		Nodes:           cluster.Nodes,
		NetworkSets:     cluster.NetworkSets,
		Services:        cluster.Services,
	}
	for _, t := range set.Tiers {
		d.Tiers = append(d.Tiers, policy.Tier{Name: t.Name, Default: t.Default})
		for i := range t.Policies {
			d.Policies = append(d.Policies, Change{t.Policies[i].Ref, &t.Policies[i], t.Name, i})
		}
	}
	return d
}
