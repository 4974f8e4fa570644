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
// anything else counts for all other namespaces. Pods whose rules are beyond the compiler's budget fail closed:
// the policies that have made a rule set too large count as if they denied.
type openNamespaces struct {
	tiers    map[string]policy.Action
	policies map[policy.Ref]*placed
	// closing are the policies with rules in a rule set beyond the budget.
	closing    map[policy.Ref]struct{}
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
		tiers: map[string]policy.Action{}, policies: map[policy.Ref]*placed{}, namespaces: map[string]policy.Labels{}, in: map[string]int{}, by: map[string]*selecting{},
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

// apply applies a Delta, with Compiler.Closing after it, and reports whether the open namespaces may have changed.
func (o *openNamespaces) apply(d compile.Delta, closing map[policy.Ref]struct{}) (changed bool) {
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
	was := o.closing
	o.closing = closing
	look := func(ref policy.Ref) {
		if p := o.policies[ref]; p != nil {
			_, closes := closing[ref]
			set(p, closes || p.canDeny(o.tiers[p.tier]))
		}
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
		for ref := range o.policies {
			look(ref)
		}
	}
	for _, c := range d.Policies {
		look(c.Ref)
	}
	if !maps.Equal(was, closing) {
		for _, refs := range []map[policy.Ref]struct{}{was, closing} {
			for ref := range refs {
				look(ref)
			}
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
