package compile

import (
	"net/netip"
	"slices"

	"terway.dev/terway/internal/policy"
)

// A pod is a pod of the cluster. It is an endpoint if policies can select it.
type pod struct {
	*policy.Pod
	class    *class // nil: policies cannot select it
	ruleSets [2][families]*ruleSet
}

// address is the pod's address of a family, if it has one.
func (p *pod) address(f family) (netip.Addr, bool) {
	for _, a := range p.Addresses {
		if familyOf(a) == f {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// choose gives a pod its rule sets.
func (c *Compiler) choose(b *batch, p *pod) {
	for d := range p.ruleSets {
		for f := range families {
			var rs *ruleSet
			if a, ok := p.address(f); ok && p.class != nil && c.pods[p.NamespacedName] == p {
				rs = c.ruleSetOf(b, p, policy.Direction(d), f, a)
			}
			was := p.ruleSets[d][f]
			if rs == was {
				continue
			}
			p.ruleSets[d][f] = rs
			b.at(p.Node).endpoint(p.NamespacedName)
			if rs != nil {
				b.uses(p, rs, 1)
			}
			if was != nil {
				b.uses(p, was, -1)
				b.left[was] = struct{}{}
			}
		}
	}
}

// uses adds by to the number of pods that use a rule set.
func (b *batch) uses(p *pod, rs *ruleSet, by int) {
	add := func(to *map[string]int) (had, has bool) {
		if *to == nil {
			*to = map[string]int{}
		}
		m := *to
		had = m[p.Node] > 0
		if m[p.Node] += by; m[p.Node] == 0 {
			delete(m, p.Node)
		}
		return had, m[p.Node] > 0
	}
	rs.pods += by
	if had, has := add(&rs.nodes); had != has {
		f := b.at(p.Node)
		f.ruleSet(rs)
		if f != nil && rs.closed {
			f.forget(true) // see Follower.Whole
		}
		for t := range rs.asks {
			add(&t.at)
			if f != nil {
				b.toggle(f, t, by)
			}
		}
	}
}

// ruleSetOf returns the rule set for a pod, and makes it if there is none.
func (c *Compiler) ruleSetOf(b *batch, p *pod, d policy.Direction, f family, a netip.Addr) *ruleSet {
	objects := c.objectsOf(p.class)[d]
	own := slices.ContainsFunc(objects, func(o *object) bool { return o.own[d] })
	if rs := p.class.ruleSets[d][f]; !own && rs != nil && !rs.dead {
		return rs
	}
	if slices.ContainsFunc(objects, func(o *object) bool { return o.ownSets[d] }) {
		c.choosy[p] = struct{}{}
	}
	var name digest
	name.num(int(d), int(f))
	for _, o := range objects {
		name.str(o.tier.name)
		name.num(int(o.tier.action))
		name.hash(o.hash)
	}
	holds := func(cl *clause) bool {
		return (cl.family == 0 || (cl.family == 4) == (f == v4)) && (cl.self == nil || c.own(cl.self, p, a))
	}
	var ports []policy.NamedPort
	var services []serviceEndpoint
	if own {
		ports, services = c.ownPorts(p, a, objects, d)
		for _, p := range ports {
			name.str(p.Name)
			name.num(int(p.Protocol), int(p.Port))
		}
		name.num(-1)
		for _, e := range services {
			name.str(e.name.Namespace, e.name.Name)
			name.num(int(e.protocol), int(e.port))
		}
		for _, o := range objects {
			for i := range o.clauses[d] {
				cl := &o.clauses[d][i]
				name.bool(cl.self == nil || holds(cl))
			}
		}
	}
	h := name.sum()
	rs := c.ruleSets[h]
	if rs == nil {
		rs = &ruleSet{
			name: h, direction: d, family: f, ports: ports, services: services,
			asks: map[*term][]int32{},
		}
		for _, o := range objects {
			if n := len(rs.tiers); n == 0 || rs.tiers[n-1].name != o.tier.name {
				rs.tiers = append(rs.tiers, tierPart{o.tier.name, o.tier.action})
			}
			for i := range o.clauses[d] {
				if cl := &o.clauses[d][i]; holds(cl) {
					rs.append(cl)
				}
			}
		}
		c.ruleSets[h] = rs
		b.born[rs] = struct{}{}
	}
	if !own {
		p.class.ruleSets[d][f] = rs
	}
	return rs
}

func (rs *ruleSet) append(cl *clause) {
	i := len(rs.clauses)
	rule := int32(i)
	if i > 0 && rs.clauses[i-1].sameRule(cl) {
		rule = rs.clauses[i-1].rule
	}
	rs.clauses = append(rs.clauses, ruleClause{clause: cl, tier: int32(len(rs.tiers) - 1), rule: rule})
	cl.terms(func(t *term) {
		if of := rs.asks[t]; len(of) == 0 || of[len(of)-1] != int32(i) {
			rs.asks[t] = append(of, int32(i))
		}
	})
}

// ownPorts returns the pod's named ports that rules use, and the ports at which the pod is an
// endpoint of a Service.
func (c *Compiler) ownPorts(p *pod, a netip.Addr, objects []*object, d policy.Direction) (ports []policy.NamedPort, services []serviceEndpoint) {
	for _, o := range objects {
		for _, cl := range o.clauses[d] {
			if !cl.ownPorts() {
				continue
			}
			traffic := &cl.names.traffic
			lists := [][]policy.Port{traffic.SourcePorts, traffic.NotSourcePorts}
			if d == policy.Ingress {
				lists = [][]policy.Port{traffic.DestinationPorts, traffic.NotDestinationPorts}
				if s := traffic.DestinationService; s != nil {
					for _, e := range c.addresses.all[a].services {
						if e.name == policy.NamespacedName(*s) && !slices.Contains(services, e) {
							services = append(services, e)
						}
					}
				}
			}
			for _, list := range lists {
				for _, port := range list {
					for _, n := range p.Ports {
						if port.Name != "" && n.Name == port.Name && !slices.Contains(ports, n) {
							ports = append(ports, n)
						}
					}
				}
			}
		}
	}
	slices.SortFunc(ports, compareNamedPorts)
	slices.SortFunc(services, serviceEndpoint.compare)
	return ports, services
}
