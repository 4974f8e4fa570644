package feed

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
	"terway.dev/terway/internal/policy/translate"
)

// An arrangement has the policies in their places, as translate.Arrange puts them. Tiers without policies
// are in it: to the compiler they say nothing.
type arrangement struct {
	tiers map[string]*translate.PlacedTier
	// wanted are the policies that there are, placed those that are in lists. What changes has returned once of
	// a policy in a tier that is always there is not asked for again: such policies have no rules here.
	wanted, placed map[policy.Ref]*translate.Placed
	// naming are the wanted policies by the tier that they name, lists the placed ones in order.
	naming map[string]map[policy.Ref]struct{}
	lists  map[string][]*translate.Placed
	// ingress counts the placed policies that select pods for ingress.
	ingress int
	probes  bool // translate.Probes is there
	// dirty are policies that may be others, or have another place; reorder: the tiers have.
	dirty   map[policy.Ref]struct{}
	reorder bool
}

func newArrangement() arrangement {
	a := arrangement{
		tiers: map[string]*translate.PlacedTier{}, wanted: map[policy.Ref]*translate.Placed{}, placed: map[policy.Ref]*translate.Placed{},
		naming: map[string]map[policy.Ref]struct{}{}, lists: map[string][]*translate.Placed{}, dirty: map[policy.Ref]struct{}{}, reorder: true,
	}
	for _, t := range translate.BuiltinTiers() {
		a.tiers[t.Name] = t
	}
	return a
}

func builtin(name string) bool {
	return name == translate.TierAdmin || name == translate.TierDefault || name == translate.TierBaseline
}

// setTier says what a tier is now; nil: there is none that counts.
func (a *arrangement) setTier(name string, now *translate.PlacedTier) {
	was := a.tiers[name]
	switch {
	case builtin(name) || was == nil && now == nil || was != nil && now != nil && was.Default == now.Default && was.Order == now.Order:
		return
	case now == nil:
		delete(a.tiers, name)
	default:
		a.tiers[name] = now
	}
	a.reorder = true
	if was == nil || now == nil {
		maps.Copy(a.dirty, a.naming[name])
	}
}

// setPolicy says what a policy is now; nil: there is none that counts.
func (a *arrangement) setPolicy(ref policy.Ref, now *translate.Placed) {
	if was := a.wanted[ref]; was != nil {
		if delete(a.naming[was.Tier], ref); len(a.naming[was.Tier]) == 0 {
			delete(a.naming, was.Tier)
		}
		delete(a.wanted, ref)
	}
	if now != nil {
		a.wanted[ref] = now
		if a.naming[now.Tier] == nil {
			a.naming[now.Tier] = map[policy.Ref]struct{}{}
		}
		a.naming[now.Tier][ref] = struct{}{}
	}
	a.dirty[ref] = struct{}{}
}

// misses is the policy of that name if its tier is not there, else nil.
func (a *arrangement) misses(ref policy.Ref) *translate.Placed {
	if p := a.wanted[ref]; p != nil && a.tiers[p.Tier] == nil {
		return p
	}
	return nil
}

// changes are the tiers, if they are others than before, and the policies that go to another place, one after
// the other. touched are all policies that were looked at.
func (a *arrangement) changes(o translate.Options) (tiers []policy.Tier, changes []compile.Change, touched []policy.Ref) {
	touched = sorted(a.dirty)
	clear(a.dirty)
	for _, ref := range touched {
		was, now := a.placed[ref], a.wanted[ref]
		if now != nil && a.tiers[now.Tier] == nil {
			now = nil
		}
		if was == nil && now == nil {
			continue
		}
		c := compile.Change{Ref: ref}
		if was != nil {
			a.take(ref, was)
		}
		if now != nil {
			c.Policy, c.Tier, c.Index = &now.Policy, now.Tier, a.put(ref, now)
			if builtin(now.Tier) {
				whole := now.Policy
				c.Policy, now.Policy.Rules = &whole, [2][]policy.Rule{}
			}
		}
		changes = append(changes, c)
	}
	probes := translate.Probes()
	if on := o.AllowLoadBalancerProbes && a.ingress > 0; on != a.probes {
		a.probes, a.reorder = on, true
		c := compile.Change{Ref: probes.Policies[0].Ref}
		if on {
			c.Policy, c.Tier = &probes.Policies[0], probes.Name
		}
		changes = append(changes, c)
	}
	if !a.reorder {
		return nil, changes, touched
	}
	a.reorder = false
	tiers = []policy.Tier{}
	if a.probes {
		tiers = append(tiers, policy.Tier{Name: probes.Name, Default: probes.Default})
	}
	for _, t := range slices.SortedFunc(maps.Values(a.tiers), translate.CompareTiers) {
		tiers = append(tiers, t.Tier)
	}
	return tiers, changes, touched
}

// place is where a policy is in its tier, or would be.
func (a *arrangement) place(p *translate.Placed) int {
	at, _ := slices.BinarySearchFunc(a.lists[p.Tier], p, translate.ComparePolicies)
	return at
}

func (a *arrangement) take(ref policy.Ref, p *translate.Placed) {
	at := a.place(p)
	if a.lists[p.Tier] = slices.Delete(a.lists[p.Tier], at, at+1); len(a.lists[p.Tier]) == 0 {
		delete(a.lists, p.Tier)
	}
	delete(a.placed, ref)
	if p.Policy.Directions[policy.Ingress] {
		a.ingress--
	}
}

func (a *arrangement) put(ref policy.Ref, p *translate.Placed) int {
	at := a.place(p)
	a.lists[p.Tier] = slices.Insert(a.lists[p.Tier], at, p)
	a.placed[ref] = p
	if p.Policy.Directions[policy.Ingress] {
		a.ingress++
	}
	return at
}

func compareRefs(a, b policy.Ref) int {
	return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}
