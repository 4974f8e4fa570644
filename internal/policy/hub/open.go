package hub

import (
	"maps"
	"slices"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
	"terway.dev/terway/internal/policy/selector"
)

// openNamespaces finds the namespaces in which no policy can deny any connection of a pod,
// whatever labels the pod has: a pod there may start before its node has the rules. It looks
// only at the namespaces that policies select. A policy that denies and may select pods by
// anything else counts for all other namespaces.
type openNamespaces struct {
	tiers      map[string]policy.Action
	policies   map[policy.Ref]*placed
	namespaces map[string]policy.Labels
	// in counts denying policies that select one namespace by name, by those that select by
	// labels.
	in map[string]int
	by map[string]*selecting
}

// placed is what matters here of a policy.
type placed struct {
	subject policy.PodSelector
	tier    string
	// applies: there is a direction for which the policy applies; denies: it has a rule there that denies.
	applies, denies bool
	counts          bool
}

type selecting struct {
	*selector.Selector
	users int
}

func newOpenNamespaces() openNamespaces {
	return openNamespaces{
		map[string]policy.Action{}, map[policy.Ref]*placed{}, map[string]policy.Labels{}, map[string]int{}, map[string]*selecting{},
	}
}

func place(p *policy.Policy, tier string) *placed {
	out := &placed{subject: p.Subject, tier: tier}
	for d, rules := range p.Rules {
		out.applies = out.applies || p.Directions[d]
		out.denies = out.denies || p.Directions[d] && slices.ContainsFunc(rules, func(r policy.Rule) bool { return r.Action == policy.Deny })
	}
	return out
}

// canDeny reports whether the policy can deny: by a rule, or by the default of its tier.
func (p *placed) canDeny(byDefault policy.Action) bool {
	return p.denies || p.applies && byDefault != policy.Pass
}

// count adds or removes a policy, and reports whether the open namespaces may have changed.
func (o *openNamespaces) count(p *placed, by int) bool {
	s := p.subject
	if s.Namespaces.Never() || s.Pods.Never() {
		return false
	}
	if s.Namespace != "" {
		was := o.in[s.Namespace]
		if o.in[s.Namespace] += by; o.in[s.Namespace] == 0 {
			delete(o.in, s.Namespace)
		}
		return was == 0 || was+by == 0
	}
	key := s.Namespaces.String()
	if s.Namespaces.Always() {
		key = ""
	}
	e := o.by[key]
	if e == nil {
		e = &selecting{Selector: s.Namespaces}
		o.by[key] = e
	}
	was := e.users
	if e.users += by; e.users == 0 {
		delete(o.by, key)
	}
	return was == 0 || e.users == 0
}

// apply applies a Delta, and reports whether the open namespaces may have changed.
func (o *openNamespaces) apply(d compile.Delta) (changed bool) {
	set := func(p *placed, counts bool) {
		if p.counts == counts {
			return
		}
		p.counts = counts
		by := -1
		if counts {
			by = 1
		}
		changed = o.count(p, by) || changed
	}
	for _, c := range d.Policies {
		if was := o.policies[c.Ref]; was != nil {
			set(was, false)
			delete(o.policies, c.Ref)
		}
		if c.Policy != nil {
			o.policies[c.Ref] = place(c.Policy, c.Tier)
		}
	}
	if d.Tiers != nil {
		clear(o.tiers)
		for _, t := range d.Tiers {
			o.tiers[t.Name] = t.Default
		}
		for _, p := range o.policies {
			set(p, p.canDeny(o.tiers[p.tier]))
		}
	}
	for _, c := range d.Policies {
		if p := o.policies[c.Ref]; p != nil {
			set(p, p.canDeny(o.tiers[p.tier]))
		}
	}
	for name, labels := range d.Namespaces {
		was, had := o.namespaces[name]
		if labels == nil {
			delete(o.namespaces, name)
			changed = changed || had
			continue
		}
		o.namespaces[name] = labels
		changed = changed || !had || !maps.Equal(was, labels)
	}
	return changed
}

// list returns the open namespaces.
func (o *openNamespaces) list() (open []string) {
	c := policy.Cluster{Namespaces: o.namespaces}
	for name := range o.namespaces {
		labels := c.NamespaceLabels(name)
		selected := o.in[name] > 0
		for _, s := range o.by {
			selected = selected || s.Matches(labels)
		}
		if !selected {
			open = append(open, name)
		}
	}
	return open
}
