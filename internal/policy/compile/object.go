package compile

import (
	"bytes"
	"cmp"
	"slices"

	"terway.dev/terway/internal/policy"
)

// An object is a policy with its position in the order. Of its rules it has clauses alone.
type object struct {
	ref        policy.Ref
	directions [2]bool
	hash       Hash // of its content
	tier       *tier
	order      uint64 // position in the tier
	subject    *podSelector
	clauses    [2][]clause
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
// numbers for the other end's ports becomes two clauses. A cluster has some 100,000.
type clause struct {
	of        *object
	number    int32 // of the rule
	direction policy.Direction
	action    policy.Action
	family    uint8
	anyone    bool
	// any are the terms of peers with nothing but terms of which one must hold; peers are the other ones.
	any    []*term
	peers  []peer
	self   *policy.Match // nil: every pod
	region *region       // nil: names says
	names  *portNames    // nil: there are none
}

// portNames are a clause's names of ports. Its region depends on a pod.
type portNames struct {
	traffic policy.Traffic
	// named are the terms for named ports of the other end: without one of them the clause
	// matches no traffic. unnamed are the terms for named ports that are excluded.
	named, unnamed []*term
	own            bool // the region depends on the pod's own ports
}

func (cl *clause) id() policy.RuleID {
	return policy.RuleID{Policy: cl.of.ref, Direction: cl.direction, Number: int(cl.number)}
}

func (cl *clause) sameRule(o *clause) bool {
	return cl.of.ref == o.of.ref && cl.direction == o.direction && cl.number == o.number
}

// ownPorts reports whether the region depends on the pod's own ports.
func (cl *clause) ownPorts() bool { return cl.names != nil && cl.names.own }

// needsName reports whether the clause matches no traffic of ends without some named port.
func (cl *clause) needsName() bool { return cl.names != nil && len(cl.names.named) > 0 }

// excludes reports whether one of the terms for excluded named ports holds.
func (cl *clause) excludes(holds func(*term) bool) bool {
	return cl.names != nil && slices.ContainsFunc(cl.names.unnamed, holds)
}

// A peer is a policy.Match: a term of each set of in must hold, and none of notIn.
type peer struct{ in, notIn [][]*term }

// terms calls f for each term of the clause.
func (cl *clause) terms(f func(*term)) {
	sets := [][]*term{cl.any}
	for _, p := range cl.peers {
		sets = append(append(sets, p.in...), p.notIn...)
	}
	if cl.names != nil {
		sets = append(sets, cl.names.named, cl.names.unnamed)
	}
	for _, s := range sets {
		for _, t := range s {
			f(t)
		}
	}
}

// meets reports whether one of the peers matches an address, given the terms that hold for it.
func (cl *clause) meets(holds func(*term) bool) bool {
	if cl.anyone || slices.ContainsFunc(cl.any, holds) {
		return true
	}
	some := func(set []*term) bool { return slices.ContainsFunc(set, holds) }
	none := func(set []*term) bool { return !some(set) }
	for _, p := range cl.peers {
		if slices.ContainsFunc(p.in, none) || slices.ContainsFunc(p.notIn, some) {
			continue
		}
		return true
	}
	return false
}

// object makes the object of a policy. It keeps references to terms and selectors until
// dissolve.
func (c *Compiler) object(p policy.Policy, hash Hash) *object {
	o := &object{ref: p.Ref, directions: p.Directions, hash: hash, subject: c.podSelector(p.Subject)}
	for d := range p.Rules {
		direction := policy.Direction(d)
		var list []clause
		for _, r := range p.Rules[d] {
			alternatives := []*policy.Traffic{nil}
			if r.Traffic != nil {
				alternatives = nil
				for k := range r.Traffic {
					alternatives = append(alternatives, apart(&r.Traffic[k], direction)...)
				}
			}
			for _, t := range alternatives {
				cl := c.clause(o, direction, &r, t)
				list = append(list, cl)
				o.own[d] = o.own[d] || cl.self != nil || cl.ownPorts()
				o.ownSets[d] = o.ownSets[d] || asksSets(r.Self)
			}
		}
		o.clauses[d] = slices.Clone(list) // without room for more
	}
	return o
}

func asksSets(m policy.Match) bool {
	is := func(s policy.AddrSet) bool { return s.NetworkSets != nil }
	return slices.ContainsFunc(m.In, is) || slices.ContainsFunc(m.NotIn, is)
}

func (c *Compiler) dissolve(o *object) {
	for _, list := range o.clauses {
		for i := range list {
			cl := &list[i]
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

// clause makes one of a rule and one of its Traffic alternatives. It keeps neither.
func (c *Compiler) clause(o *object, d policy.Direction, r *policy.Rule, t *policy.Traffic) clause {
	cl := clause{of: o, number: int32(r.Number), direction: d, action: r.Action, family: r.Family, anyone: r.Peers == nil, region: allTraffic}
	if len(r.Self.In)+len(r.Self.NotIn) > 0 {
		self := r.Self
		cl.self = &self
	}
	for _, m := range r.Peers {
		if len(m.In) == 1 && len(m.NotIn) == 0 {
			cl.any = append(cl.any, c.termsOf(m.In[0])...)
			continue
		}
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
	if d == policy.Ingress {
		peersPorts, peersNot, ownPorts, ownNot = ownPorts, ownNot, peersPorts, peersNot
	}
	named := func(p policy.Port) bool { return p.Name != "" }
	n := portNames{named: names(peersPorts), unnamed: names(peersNot), own: slices.ContainsFunc(ownPorts, named) || slices.ContainsFunc(ownNot, named)}
	if t.DestinationService != nil {
		if d == policy.Egress {
			of := policy.NamespacedName(*t.DestinationService)
			n.named = append(n.named, c.intern(servicePortKey(of), func() *term { return &term{about: aboutServicePort, service: of} }))
		} else {
			n.own = true
		}
	}
	if len(n.named) == 0 && len(n.unnamed) == 0 && !n.own {
		cl.region = c.shareRegion(regionOf(t, ends{}))
	} else {
		n.traffic = *t
		cl.region, cl.names = nil, &n
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
