package compile

import (
	"fmt"
	"net/netip"

	"terway.dev/terway/internal/policy"
)

// check validates a Delta before anything is changed.
func (c *Compiler) check(d Delta) error {
	if err := c.checkPlaces(d); err != nil {
		return err
	}
	for name, p := range d.Pods {
		if p == nil {
			continue
		}
		var has [families]bool
		for _, a := range p.Addresses {
			if err := checkAddress(a); err != nil {
				return fmt.Errorf("pod %s: %w", name, err)
			}
			if has[familyOf(a)] && judged(p) {
				return fmt.Errorf("pod %s has the addresses %v: want one of a family", name, p.Addresses)
			}
			has[familyOf(a)] = true
		}
	}
	for name, n := range d.Nodes {
		if n == nil {
			continue
		}
		for _, a := range n.Addresses {
			if err := checkAddress(a); err != nil {
				return fmt.Errorf("node %s: %w", name, err)
			}
		}
	}
	for name, endpoints := range d.Services {
		for _, e := range endpoints {
			if err := checkAddress(e.Address); err != nil {
				return fmt.Errorf("service %s: endpoint: %w", name, err)
			}
		}
	}
	for name, s := range d.NetworkSets {
		if s == nil {
			continue
		}
		if err := checkNets(s.Nets); err != nil {
			return fmt.Errorf("network set %s: %w", name, err)
		}
	}
	return nil
}

func checkAddress(a netip.Addr) error {
	if !a.IsValid() || a.Is4In6() || a.Zone() != "" {
		return fmt.Errorf("address %q: want an IPv4 or IPv6 address, not mapped and without zone", a)
	}
	return nil
}

func checkNets(nets []netip.Prefix) error {
	for _, n := range nets {
		if !n.IsValid() || n.Addr().Is4In6() {
			return fmt.Errorf("network %q: want an IPv4 or IPv6 network, not mapped", n)
		}
	}
	return nil
}

// checkRules validates the networks in a policy's rules.
func checkRules(p *policy.Policy) error {
	for d := range p.Rules {
		for i := range p.Rules[d] {
			r := &p.Rules[d][i]
			for _, m := range append([]policy.Match{r.Self}, r.Peers...) {
				for _, sets := range [][]policy.AddrSet{m.In, m.NotIn} {
					for _, s := range sets {
						if err := checkNets(s.Nets); err != nil {
							return fmt.Errorf("%s: %w", policy.RuleID{Policy: p.Ref, Direction: policy.Direction(d), Number: r.Number}, err)
						}
					}
				}
			}
		}
	}
	return nil
}

// checkPlaces validates the tiers, and the tier and index of each policy.
func (c *Compiler) checkPlaces(d Delta) error {
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
		if err := checkRules(p.Policy); err != nil {
			return err
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
