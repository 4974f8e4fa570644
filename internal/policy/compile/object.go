package compile

import (
	"bytes"
	"cmp"
	"slices"

	"terway.dev/terway/internal/policy"
)

// An object is a policy with its position in the order.
type object struct {
	policy.Policy
	hash    Hash // of its content
	tier    *tier
	order   uint64 // position in the tier
	subject *podSelector
	clauses [2][]*clause
	// own: the rules of a direction have conditions on the pod itself.
	own [2]bool
	// ownSets: the rules test whether the pod itself is in a network set.
	ownSets [2]bool
}

func (o *object) compare(other *object) int {
	return cmp.Or(cmp.Compare(o.tier.index, other.tier.index), cmp.Compare(o.order, other.order),
		bytes.Compare(o.hash[:], other.hash[:]))
}

// A clause is a rule with one of its Traffic alternatives. An alternative with both names and
// numbers for the other end's ports becomes two clauses.
type clause struct {
	id      policy.RuleID
	action  policy.Action
	family  uint8
	self    *policy.Match // nil: every pod
	anyone  bool
	peers   []peer
	traffic *policy.Traffic // nil: all
	region  *region         // nil: it depends on a pod

	// named are the terms for named ports of the other end: without one of them the clause
	// matches no traffic. unnamed are the terms for named ports that are excluded.
	named, unnamed []*term
	ownPorts       bool // its region depends on the pod's own ports
}

// A peer is a policy.Match: a term of each set of in must hold, and none of notIn.
type peer struct{ in, notIn [][]*term }

// terms calls f for each term of the clause.
func (cl *clause) terms(f func(*term)) {
	for _, p := range cl.peers {
		for _, sets := range [][][]*term{p.in, p.notIn} {
			for _, s := range sets {
				for _, t := range s {
					f(t)
				}
			}
		}
	}
	for _, t := range cl.named {
		f(t)
	}
	for _, t := range cl.unnamed {
		f(t)
	}
}

// meets reports whether one of the peers matches an address, given the terms that hold for it.
func (cl *clause) meets(holds func(*term) bool) bool {
	if cl.anyone {
		return true
	}
	some := func(set []*term) bool {
		for _, t := range set {
			if holds(t) {
				return true
			}
		}
		return false
	}
peers:
	for _, p := range cl.peers {
		for _, s := range p.in {
			if !some(s) {
				continue peers
			}
		}
		for _, s := range p.notIn {
			if some(s) {
				continue peers
			}
		}
		return true
	}
	return false
}

// object makes the object of a policy. It keeps references to terms and selectors until
// dissolve.
func (c *Compiler) object(p policy.Policy, hash Hash) *object {
	o := &object{Policy: p, hash: hash}
	o.subject = c.podSelector(p.Subject)
	for d := range p.Rules {
		direction := policy.Direction(d)
		for i := range p.Rules[d] {
			r := &p.Rules[d][i]
			alternatives := []*policy.Traffic{nil}
			if r.Traffic != nil {
				alternatives = nil
				for k := range r.Traffic {
					alternatives = append(alternatives, apart(&r.Traffic[k], direction)...)
				}
			}
			for _, t := range alternatives {
				cl := c.clause(r, policy.RuleID{Policy: p.Ref, Direction: direction, Number: r.Number}, t)
				o.clauses[d] = append(o.clauses[d], cl)
				o.own[d] = o.own[d] || cl.self != nil || cl.ownPorts
				o.ownSets[d] = o.ownSets[d] || asksSets(r.Self)
			}
		}
	}
	return o
}

func asksSets(m policy.Match) bool {
	is := func(s policy.AddrSet) bool { return s.NetworkSets != nil }
	return slices.ContainsFunc(m.In, is) || slices.ContainsFunc(m.NotIn, is)
}

func (c *Compiler) dissolve(o *object) {
	for _, list := range o.clauses {
		for _, cl := range list {
			cl.terms(c.release)
			c.unshareRegion(cl.region)
		}
	}
	c.releaseSelector(o.subject)
}

// apart splits an alternative that has both names and numbers for the other end's ports. An end
// without such a name then needs no table for the name.
func apart(t *policy.Traffic, d policy.Direction) []*policy.Traffic {
	ports := t.DestinationPorts
	if d == policy.Ingress {
		ports = t.SourcePorts
	}
	var numbers, names []policy.Port
	for _, p := range ports {
		if p.Name == "" {
			numbers = append(numbers, p)
		} else {
			names = append(names, p)
		}
	}
	if len(numbers) == 0 || len(names) == 0 {
		return []*policy.Traffic{t}
	}
	one, two := *t, *t
	if d == policy.Ingress {
		one.SourcePorts, two.SourcePorts = numbers, names
	} else {
		one.DestinationPorts, two.DestinationPorts = numbers, names
	}
	return []*policy.Traffic{&one, &two}
}

func (c *Compiler) clause(r *policy.Rule, id policy.RuleID, t *policy.Traffic) *clause {
	cl := &clause{id: id, action: r.Action, family: r.Family, anyone: r.Peers == nil, traffic: t, region: allTraffic}
	if len(r.Self.In)+len(r.Self.NotIn) > 0 {
		cl.self = &r.Self
	}
	for _, m := range r.Peers {
		var p peer
		for _, s := range m.In {
			p.in = append(p.in, c.termsOf(s))
		}
		for _, s := range m.NotIn {
			p.notIn = append(p.notIn, c.termsOf(s))
		}
		cl.peers = append(cl.peers, p)
	}
	if t == nil {
		return cl
	}
	names := func(ports []policy.Port) (names []*term) {
		for _, p := range ports {
			if p.Name != "" {
				names = append(names, c.intern(portNameKey(p.Name), func() *term { return &term{about: aboutPortName, name: p.Name} }))
			}
		}
		return names
	}
	peersPorts, peersNot, ownPorts, ownNot := t.DestinationPorts, t.NotDestinationPorts, t.SourcePorts, t.NotSourcePorts
	if id.Direction == policy.Ingress {
		peersPorts, peersNot, ownPorts, ownNot = ownPorts, ownNot, peersPorts, peersNot
	}
	cl.named = names(peersPorts)
	cl.unnamed = names(peersNot)
	named := func(p policy.Port) bool { return p.Name != "" }
	cl.ownPorts = slices.ContainsFunc(ownPorts, named) || slices.ContainsFunc(ownNot, named)
	if t.DestinationService != nil {
		if id.Direction == policy.Egress {
			n := policy.NamespacedName(*t.DestinationService)
			cl.named = append(cl.named, c.intern(servicePortKey(n), func() *term { return &term{about: aboutServicePort, service: n} }))
		} else {
			cl.ownPorts = true
		}
	}
	cl.region = nil
	if len(cl.named) == 0 && len(cl.unnamed) == 0 && !cl.ownPorts {
		cl.region = c.shareRegion(regionOf(t, ends{}))
	}
	return cl
}

// hashOf returns the hash of a policy's content.
func hashOf(p policy.Policy) Hash {
	var d digest
	d.str(p.Ref.Kind, p.Ref.Namespace, p.Ref.Name, podsKey(p.Subject))
	for dir := range p.Rules {
		d.bool(p.Directions[dir])
		d.num(len(p.Rules[dir]))
		for _, r := range p.Rules[dir] {
			d.num(r.Number, int(r.Action), int(r.Family))
			d.match(r.Self)
			d.bool(r.Peers == nil)
			d.num(len(r.Peers))
			for _, m := range r.Peers {
				d.match(m)
			}
			d.bool(r.Traffic == nil)
			d.num(len(r.Traffic))
			for i := range r.Traffic {
				d.traffic(&r.Traffic[i])
			}
		}
	}
	return d.sum()
}

func (d *digest) match(m policy.Match) {
	for _, sets := range [][]policy.AddrSet{m.In, m.NotIn} {
		d.num(len(sets))
		for _, s := range sets {
			d.addrSet(s)
		}
	}
}

func (d *digest) addrSet(s policy.AddrSet) {
	if s.Pods != nil {
		d.str(podsKey(*s.Pods))
	}
	if s.NetworkSets != nil {
		d.str(setsKey(*s.NetworkSets))
	}
	if s.Nodes != nil {
		d.str("nodes", s.Nodes.String())
	}
	if s.Service != nil {
		d.str("service", s.Service.Namespace, s.Service.Name)
	}
	d.num(len(s.Nets))
	for _, n := range s.Nets {
		d.str(n.String())
	}
}

func (d *digest) traffic(t *policy.Traffic) {
	d.bool(t.Protocols != nil)
	if t.Protocols != nil {
		for n, has := range t.Protocols {
			if has {
				d.num(n)
			}
		}
		d.num(-1)
	}
	for _, i := range []*policy.ICMP{t.ICMP, t.NotICMP} {
		d.bool(i != nil)
		if i != nil {
			d.num(int(i.Type), int(i.Code))
		}
	}
	for _, ports := range [][]policy.Port{t.SourcePorts, t.DestinationPorts, t.NotSourcePorts, t.NotDestinationPorts} {
		d.bool(ports == nil)
		d.num(len(ports))
		for _, p := range ports {
			d.num(int(p.From), int(p.To))
			d.str(p.Name)
		}
	}
	d.bool(t.DestinationService != nil)
	if t.DestinationService != nil {
		d.str(t.DestinationService.Namespace, t.DestinationService.Name)
	}
}
