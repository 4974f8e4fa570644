package compile

import (
	"fmt"

	"terway.dev/terway/internal/policy"
)

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

// check says what cannot be so, before anything is changed.
func (c *Compiler) check(d Delta) error {
	count := map[string]int{}
	kept := map[string]bool{}
	for _, t := range c.tiers {
		count[t.name], kept[t.name] = len(t.objects), d.Tiers == nil
	}
	for _, t := range d.Tiers {
		if kept[t.Name] {
			return fmt.Errorf("tier %q is there twice", t.Name)
		}
		if t.Default != policy.Deny && t.Default != policy.Pass {
			return fmt.Errorf("tier %q has the default %s: want deny or pass", t.Name, t.Default)
		}
		kept[t.Name] = true
	}
	in := map[policy.Ref]string{}
	for _, p := range d.Policies {
		was, ok := in[p.Ref]
		if o := c.objects[p.Ref]; !ok && o != nil {
			was = o.tier.name
		}
		if was != "" {
			count[was]--
		}
		in[p.Ref] = ""
		if p.Policy == nil {
			continue
		}
		if !kept[p.Tier] {
			return fmt.Errorf("%s is in tier %q, which is not there", p.Ref, p.Tier)
		}
		if p.Ref != p.Policy.Ref {
			return fmt.Errorf("%s takes the place of %s: one object's place is its own", p.Policy.Ref, p.Ref)
		}
		if p.Index < 0 || p.Index > count[p.Tier] {
			return fmt.Errorf("%s has index %d in tier %q: want 0 to %d", p.Ref, p.Index, p.Tier, count[p.Tier])
		}
		count[p.Tier]++
		in[p.Ref] = p.Tier
	}
	for name, n := range count {
		if n > 0 && !kept[name] {
			return fmt.Errorf("tier %q goes with %d policies in it", name, n)
		}
	}
	return nil
}
