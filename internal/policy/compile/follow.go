package compile

import (
	"bytes"
	"cmp"
	"hash/crc32"
	"net/netip"
	"slices"

	"terway.dev/terway/internal/policy"
)

// Pieces are pieces of a node's part. A change of the cluster usually changes a few, and the
// others need not be looked at.
type Pieces struct {
	// Whole: these are all pieces. Otherwise pieces that are not here have not changed, and
	// there are no Ranges.
	Whole bool
	// Endpoints by pod; nil: the pod is no endpoint of the node.
	Endpoints map[policy.NamespacedName]*Endpoint
	// RuleSets by a name that no other rule set of the node has; nil: no pod of the node uses
	// it.
	RuleSets map[Hash]*RuleSetPiece
	// Addresses in order by bucket. An empty one has none.
	Addresses map[Bucket][]AddressPlace
	Ranges    [2][]Range
}

// A RuleSetPiece is a rule set, with its tables. Rule sets that are Closed have the same Name.
type RuleSetPiece struct {
	Name Hash
	RuleSet
	// Peers are sorted by atom, each once.
	Peers []AtomTable
	// Tables has those that RuleSet and Peers refer to. Some may be in it twice.
	Tables []*Table
}

// An AtomTable is the table of a rule set for an atom, as in Node.Peers.
type AtomTable struct{ Atom, Table Hash }

// An AddressPlace is a single address and its place.
type AddressPlace struct {
	netip.Addr
	Place
}

// A Bucket is a set of addresses: those with the same bits of a checksum.
type Bucket uint16

// buckets is the number of buckets. In a cluster of 30,000 pods one has 30 addresses.
const buckets = 1 << 10

// BucketOf returns the bucket that an address is in.
func BucketOf(a netip.Addr) Bucket {
	b := a.As16()
	return Bucket(crc32.ChecksumIEEE(b[:]) % buckets)
}

// A view is what a node's rules see of atoms: the traits that they use.
type view struct {
	c     *Compiler
	asked map[*term]int // the node's rule sets that use a term
	seen  map[*atom]Place
	// traits is for one atom at a time.
	traits []*trait
}

// single reports whether the node needs the single addresses of an atom.
func (v *view) single(a *atom) bool {
	for _, t := range a.traits {
		if !t.term.ranged() && v.asked[t.term] > 0 {
			return true
		}
	}
	return false
}

func (v *view) atom(a *atom) Place {
	s, ok := v.seen[a]
	if ok {
		return s
	}
	v.traits = v.traits[:0]
	for _, t := range a.traits {
		if v.asked[t.term] > 0 {
			v.traits = append(v.traits, t)
			s.Pod = s.Pod || t.term.allPods()
		}
	}
	if len(v.traits) > 0 {
		s.Atom = hashTraits(v.traits)
	}
	if s.Base = s.Atom; a != a.base {
		s.Base = v.atom(a.base).Atom
	}
	v.seen[a] = s
	return s
}

func (v *view) ruleSet(rs *ruleSet) *RuleSetPiece {
	p := &RuleSetPiece{
		Name: rs.name, RuleSet: RuleSet{Selected: rs.selected(), Closed: rs.closed},
		Peers: make([]AtomTable, 0, len(rs.of)), Tables: make([]*Table, 0, len(rs.defaults)+len(rs.overlays)),
	}
	for k, t := range rs.defaults {
		p.Defaults[k] = t.Hash
		p.Tables = append(p.Tables, t)
	}
	if rs.closed {
		p.Name = closedName
		return p
	}
	for _, o := range rs.overlays {
		if o.table != nil {
			p.Tables = append(p.Tables, o.table)
		}
	}
	for a, o := range rs.of {
		switch {
		case o.table != nil:
			p.Peers = append(p.Peers, AtomTable{v.atom(a).Atom, o.table.Hash})
		case rs.base(a.base) != nil:
			p.Peers = append(p.Peers, AtomTable{v.atom(a).Atom, Hash{}})
		}
	}
	if rs.group != nil {
		for a := range rs.group.seen {
			if t := rs.base(a); t != nil {
				p.Peers = append(p.Peers, AtomTable{v.atom(a).Atom, t.Hash})
				p.Tables = append(p.Tables, t)
			}
		}
	}
	slices.SortFunc(p.Peers, func(a, b AtomTable) int {
		return cmp.Or(bytes.Compare(a.Atom[:], b.Atom[:]), bytes.Compare(a.Table[:], b.Table[:]))
	})
	p.Peers = slices.Compact(p.Peers)
	return p
}

// bucket returns the addresses of a bucket that the node needs.
func (v *view) bucket(b Bucket) []AddressPlace {
	var list []AddressPlace
	for a, r := range v.c.addresses.buckets[b] {
		if r.atom != nil && v.single(r.atom) {
			list = append(list, AddressPlace{a, v.atom(r.atom)})
		}
	}
	return sorted(list)
}

func sorted(list []AddressPlace) []AddressPlace {
	slices.SortFunc(list, func(a, b AddressPlace) int { return a.Compare(b.Addr) })
	return list
}

func endpointOf(p *pod) *Endpoint {
	e := &Endpoint{Addresses: p.Addresses}
	for d, families := range p.ruleSets {
		for f, rs := range families {
			switch {
			case rs == nil:
			case rs.closed:
				e.RuleSets[d][f] = closedName
			default:
				e.RuleSets[d][f] = rs.name
			}
		}
	}
	return e
}

// ruleSetsAt returns the rule sets of a node's pods.
func (c *Compiler) ruleSetsAt(node string) map[*ruleSet]struct{} {
	out := map[*ruleSet]struct{}{}
	for p := range c.byNode[node] {
		for _, families := range p.ruleSets {
			for _, rs := range families {
				if rs != nil {
					out[rs] = struct{}{}
				}
			}
		}
	}
	return out
}

// pieces returns all pieces of a node's part.
func (c *Compiler) pieces(node string) *Pieces {
	all := &Pieces{
		Whole: true, Endpoints: map[policy.NamespacedName]*Endpoint{}, RuleSets: map[Hash]*RuleSetPiece{},
		Addresses: map[Bucket][]AddressPlace{},
	}
	for p := range c.byNode[node] {
		all.Endpoints[p.NamespacedName] = endpointOf(p)
	}
	v := &view{c: c, asked: map[*term]int{}, seen: map[*atom]Place{}}
	ruleSets := c.ruleSetsAt(node)
	for rs := range ruleSets {
		if rs.closed {
			continue
		}
		for t := range rs.asks {
			v.asked[t]++
		}
	}
	for rs := range ruleSets {
		all.RuleSets[rs.name] = v.ruleSet(rs)
	}
	single := map[*atom]struct{}{}
	for t := range v.asked {
		if t.ranged() {
			continue // the ranges have it
		}
		for a := range t.atoms {
			if _, twice := single[a]; twice {
				continue
			}
			single[a] = struct{}{}
			p := v.atom(a)
			for address := range a.addresses {
				b := BucketOf(address)
				all.Addresses[b] = append(all.Addresses[b], AddressPlace{address, p})
			}
		}
	}
	for _, list := range all.Addresses {
		sorted(list)
	}
	for f := range families {
		for _, r := range c.ranges[f] {
			p := v.atom(r.atom)
			if k := len(all.Ranges[f]); k == 0 || all.Ranges[f][k-1].Atom != p.Atom {
				all.Ranges[f] = append(all.Ranges[f], Range{r.from, p.Atom})
			}
		}
	}
	return all
}

// node puts all pieces together.
func (p *Pieces) node() *Node {
	n := &Node{
		Endpoints: map[policy.NamespacedName]Endpoint{},
		RuleSets:  map[Hash]RuleSet{},
		Addresses: map[netip.Addr]Place{},
		Ranges:    p.Ranges,
		Peers:     map[Peer]Hash{},
		Tables:    map[Hash]*Table{},
	}
	for name, e := range p.Endpoints {
		n.Endpoints[name] = *e
	}
	for _, rs := range p.RuleSets {
		n.RuleSets[rs.Name] = rs.RuleSet
		for _, peer := range rs.Peers {
			n.Peers[Peer{rs.Name, peer.Atom}] = peer.Table
		}
		for _, t := range rs.Tables {
			n.Tables[t.Hash] = t
		}
	}
	for _, list := range p.Addresses {
		for _, a := range list {
			n.Addresses[a.Addr] = a.Place
		}
	}
	return n
}

// A Follower records which pieces of a node's part may have changed.
type Follower struct {
	c    *Compiler
	node string
	// whole: all of them.
	whole bool
	// asked is the number of the node's rule sets that use a term, closed ones included.
	asked     map[*term]int
	endpoints map[policy.NamespacedName]struct{}
	ruleSets  map[Hash]struct{}
	buckets   map[Bucket]struct{}
}

// most is the number of endpoints or rule sets that a Follower records. If more change, all
// pieces may have.
const most = 4096

// Follow makes Apply record what changes in a node's part, until Unfollow, or until another
// Follower of the node is made.
func (c *Compiler) Follow(node string) *Follower {
	f := &Follower{c: c, node: node, whole: true, asked: map[*term]int{}}
	for rs := range c.ruleSetsAt(node) {
		for t := range rs.asks {
			f.asked[t]++
		}
	}
	c.followers[node] = f
	return f
}

// Unfollow ends what Follow began.
func (c *Compiler) Unfollow(f *Follower) {
	if c.followers[f.node] == f {
		delete(c.followers, f.node)
	}
}

func (f *Follower) forget(whole bool) {
	f.whole, f.endpoints, f.ruleSets, f.buckets = whole, nil, nil, nil
}

// Whole reports whether the next Take returns all pieces.
func (f *Follower) Whole() bool {
	if f.whole || len(f.c.closed) == 0 {
		return f.whole
	}
	for rs := range f.c.closed {
		if rs.nodes[f.node] > 0 {
			// The node does not get what only closed rule sets ask for.
			return true
		}
	}
	return false
}

// Take returns the pieces that may have changed since the last Take; the first time all of
// them. It only reads the Compiler, so that several Followers can Take at a time.
func (f *Follower) Take() *Pieces {
	defer f.forget(false)
	if f.Whole() {
		return f.c.pieces(f.node)
	}
	out := &Pieces{
		Endpoints: make(map[policy.NamespacedName]*Endpoint, len(f.endpoints)), RuleSets: make(map[Hash]*RuleSetPiece, len(f.ruleSets)),
		Addresses: make(map[Bucket][]AddressPlace, len(f.buckets)),
	}
	for name := range f.endpoints {
		out.Endpoints[name] = nil
		if p := f.c.pods[name]; p != nil {
			if _, here := f.c.byNode[f.node][p]; here {
				out.Endpoints[name] = endpointOf(p)
			}
		}
	}
	v := &view{c: f.c, asked: f.asked, seen: map[*atom]Place{}}
	for name := range f.ruleSets {
		out.RuleSets[name] = nil
		if rs := f.c.ruleSets[name]; rs != nil && rs.nodes[f.node] > 0 {
			out.RuleSets[name] = v.ruleSet(rs)
		}
	}
	for b := range f.buckets {
		out.Addresses[b] = v.bucket(b)
	}
	return out
}

// The methods that record do nothing for nil: nobody follows the node.

func record[K comparable](f *Follower, m *map[K]struct{}, k K) {
	if f.whole {
		return
	}
	if *m == nil {
		*m = map[K]struct{}{}
	}
	if (*m)[k] = struct{}{}; len(*m) > most {
		f.forget(true)
	}
}

func (f *Follower) endpoint(name policy.NamespacedName) {
	if f != nil {
		record(f, &f.endpoints, name)
	}
}

func (f *Follower) ruleSet(rs *ruleSet) {
	if f != nil {
		record(f, &f.ruleSets, rs.name)
	}
}

func (f *Follower) address(a netip.Addr) {
	if f != nil {
		record(f, &f.buckets, BucketOf(a))
	}
}

// at marks a node, and returns who follows it, or nil.
func (b *batch) at(node string) *Follower {
	b.nodes[node] = struct{}{}
	return b.c.followers[node]
}

// toggle records that a rule set that uses a term came to the node of a Follower, or left it.
func (b *batch) toggle(f *Follower, t *term, by int) {
	was := f.asked[t]
	now := was + by
	if f.asked[t] = now; now == 0 {
		delete(f.asked, t)
	}
	switch {
	case was > 0 && now > 0:
	case t.ranged() || t.allPods():
		// Bases and ranges may look different to the node.
		f.forget(true)
	default:
		if b.toggled[t] == nil {
			b.toggled[t] = map[*Follower]struct{}{}
		}
		b.toggled[t][f] = struct{}{}
	}
}

// tell records what looks different to the nodes that began or ceased to use a term, and which
// nodes look at everything again.
func (b *batch) tell() {
	if b.wide {
		for n := range b.nodes {
			if f := b.c.followers[n]; f != nil {
				f.forget(true)
			}
		}
		return
	}
	at := map[*Follower]map[*ruleSet]struct{}{}
	for t, followers := range b.toggled {
		for f := range followers {
			if f.whole {
				continue
			}
			if at[f] == nil {
				at[f] = b.c.ruleSetsAt(f.node)
			}
			for a := range t.atoms {
				for address := range a.addresses {
					f.address(address)
				}
				for rs := range at[f] {
					if rs.of[a] != nil {
						f.ruleSet(rs)
					}
				}
			}
		}
	}
}

// Tables returns the number of tables.
func (c *Compiler) Tables() int { return len(c.tables) }
