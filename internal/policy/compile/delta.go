package compile

import "terway.dev/terway/internal/policy"

// A Delta is what has changed. What it holds belongs to the Compiler from then on, and must
// not be changed.
type Delta struct {
	// Tiers, if not nil, are the tiers in order, with their defaults and without policies: those
	// that are not among them go, and must have no policies any more.
	Tiers []policy.Tier
	// Policies are put in one after another.
	Policies []Change
	// The others hold what an object is now. Nil: it is gone.
	Namespaces      map[string]policy.Labels
	ServiceAccounts map[policy.NamespacedName]policy.Labels
	Pods            map[policy.NamespacedName]*policy.Pod
	Nodes           map[string]*policy.Node
	NetworkSets     map[policy.NamespacedName]*policy.NetworkSet
	Services        map[policy.NamespacedName][]policy.Endpoint
}

// A Change puts a policy in the place of the one with its Ref, if there is one.
type Change struct {
	Ref policy.Ref
	// Policy is what it says now. Nil: it is gone.
	Policy *policy.Policy
	// Tier and Index are its place: how many policies of the tier are before it, once the
	// former one is gone.
	Tier  string
	Index int
}

// All is the Delta that makes everything of nothing.
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
