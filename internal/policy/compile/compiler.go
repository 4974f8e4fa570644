package compile

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"

	"terway.dev/terway/internal/policy"
)

// A Budget limits the size of one rule set. The pods of a larger one fail closed.
type Budget struct {
	// Atoms is the number of atoms with a table of their own.
	Atoms int
	// Spans is the number of spans in all tables.
	Spans int
}

// DefaultBudget keeps a rule set well below the size of a node's maps: 16 rule sets of this
// size fill the map of 1M peers.
var DefaultBudget = Budget{Atoms: 1 << 16, Spans: 1 << 18}

// A Compiler holds a cluster's policies and objects, and the tables made from them. It is not
// safe for concurrent use.
type Compiler struct {
	budget  Budget
	facts   facts
	tiers   []*tier
	objects map[policy.Ref]*object

	selectors     map[string]*podSelector
	selectorIndex index[*podSelector]
	classes       map[string]*class
	classIndex    index[*class]
	mentioned     map[string]struct{} // label keys

	pods map[policy.NamespacedName]*pod
	// byNode has the pods of a node, byPortName the pods with a named port. choosy are the pods
	// with policies that test whether the pod itself is in a network set.
	byNode     map[string]map[*pod]struct{}
	byPortName map[string]map[*pod]struct{}
	choosy     map[*pod]struct{}

	terms map[string]*term
	// liveNodes and liveSets are the live terms for nodes and network sets.
	liveNodes, liveSets map[*term]struct{}
	query               uint64

	addresses addresses
	ranges    [families][]addrRange
	atoms     map[Hash]*atom
	ruleSets  map[Hash]*ruleSet
	groups    map[Hash]*networkGroup
	closed    map[*ruleSet][]policy.Ref // with the policies that have rules in it
	tables    map[Hash]*sharedTable
	regions   map[string]*sharedRegion // by content

	followers map[string]*Follower // by node
}

// New returns an empty Compiler.
func New(budget Budget) *Compiler {
	c := &Compiler{
		budget:        budget,
		facts:         newFacts(),
		objects:       map[policy.Ref]*object{},
		selectors:     map[string]*podSelector{},
		selectorIndex: index[*podSelector]{},
		classes:       map[string]*class{},
		classIndex:    index[*class]{},
		mentioned:     map[string]struct{}{},
		pods:          map[policy.NamespacedName]*pod{},
		byNode:        map[string]map[*pod]struct{}{},
		byPortName:    map[string]map[*pod]struct{}{},
		choosy:        map[*pod]struct{}{},
		terms:         map[string]*term{},
		liveNodes:     map[*term]struct{}{},
		liveSets:      map[*term]struct{}{},
		addresses:     newAddresses(),
		atoms:         map[Hash]*atom{},
		ruleSets:      map[Hash]*ruleSet{},
		groups:        map[Hash]*networkGroup{},
		closed:        map[*ruleSet][]policy.Ref{},
		tables:        map[Hash]*sharedTable{},
		regions:       map[string]*sharedRegion{},
		followers:     map[string]*Follower{},
	}
	for f, all := range allOf {
		a := c.atom(nil)
		a.count[f]++
		c.ranges[f] = []addrRange{{all.Addr(), a}}
	}
	return c
}

// Compile returns a Compiler of a Set and a Cluster.
func Compile(set policy.Set, cluster policy.Cluster, budget Budget) (*Compiler, error) {
	c := New(budget)
	_, err := c.Apply(All(set, cluster))
	return c, err
}

// A batch is the work that is left to do for a Delta.
type batch struct {
	c         *Compiler
	pods      map[*pod]struct{} // their rule sets may change
	classes   map[*class]struct{}
	addresses map[netip.Addr]struct{} // their atoms may change
	sets      map[*term]struct{}      // for network sets; their networks may change
	dissolved []*object
	born      map[*ruleSet]struct{}
	groups    []*networkGroup       // new ones
	left      map[*ruleSet]struct{} // that a pod stopped using
	atoms     map[*atom][families]int
	nodes     map[string]struct{} // whose part of the tables changes
	// toggled are the followed nodes that began or ceased to use a term.
	toggled map[*term]map[*Follower]struct{}
	// wide: ranges, bases or closed rule sets change, and which pieces of the nodes' parts change is not recorded.
	wide bool
}

func (b *batch) markAddress(a netip.Addr) { b.addresses[a] = struct{}{} }

// markOwner marks an address, and the pods that have it: their policies may have conditions on
// it.
func (b *batch) markOwner(a netip.Addr, r *address) {
	b.markAddress(a)
	for _, p := range r.pods {
		b.pods[p] = struct{}{}
	}
}

func (b *batch) markPod(p *pod) {
	for _, a := range p.Addresses {
		b.markAddress(a)
	}
}

// reorder marks a class whose list of policies changed.
func (b *batch) reorder(cl *class) {
	cl.objects = nil
	cl.ruleSets = [2][families]*ruleSet{}
	maps.Copy(b.pods, cl.pods)
}

// touch marks the nodes that use a term.
func (b *batch) touch(t *term) {
	for n := range t.at {
		b.at(n)
	}
}

func (b *batch) touchRuleSet(rs *ruleSet) {
	for n := range rs.nodes {
		b.at(n)
	}
}

// moved marks the nodes for which an address has moved to another atom.
func (b *batch) moved(a netip.Addr, was, now *atom) {
	traits := map[*trait]int{}
	for by, a := range []*atom{was, now} {
		if a == nil {
			continue
		}
		for _, t := range a.traits {
			if was == nil || now == nil {
				// Terms for networks need no entry: the ranges have them.
				if !t.term.ranged() {
					traits[t] = 1
				}
				continue
			}
			traits[t] += 2*by - 1
		}
	}
	for t, n := range traits {
		if n == 0 {
			continue
		}
		for n := range t.term.at {
			b.at(n).address(a)
		}
		for f := range b.toggled[t.term] {
			f.address(a)
		}
	}
}

// Apply applies the changes. It returns the names of the nodes whose part may have changed; the
// parts of all others have not. An error means that the Delta is not valid, and that nothing
// was changed.
func (c *Compiler) Apply(d Delta) (nodes []string, err error) {
	if err := c.check(d); err != nil {
		return nil, err
	}
	b := &batch{
		c: c, pods: map[*pod]struct{}{}, classes: map[*class]struct{}{}, addresses: map[netip.Addr]struct{}{},
		sets: map[*term]struct{}{}, born: map[*ruleSet]struct{}{}, left: map[*ruleSet]struct{}{},
		atoms: map[*atom][families]int{}, nodes: map[string]struct{}{}, toggled: map[*term]map[*Follower]struct{}{},
	}
	if d.Tiers != nil {
		c.setTiers(b, d.Tiers)
	}
	for _, p := range d.Policies {
		c.setPolicy(b, p)
	}
	c.setFacts(b, d)
	for cl := range b.classes {
		if len(cl.pods) > 0 && c.evaluate(cl) {
			b.reorder(cl)
			for p := range cl.pods {
				b.markPod(p)
			}
		}
	}
	for p := range b.pods {
		c.choose(b, p)
	}
	on, off := c.settle(b)
	c.recutAll(b, on, off)
	for a := range b.addresses {
		c.place(b, a)
	}
	c.fill(b)
	b.tell()
	for _, t := range off {
		t.traits = nil
	}
	for _, o := range b.dissolved {
		c.dissolve(o)
	}
	return slices.Sorted(maps.Keys(b.nodes)), nil
}

func (c *Compiler) setPolicy(b *batch, ch Change) {
	was := c.objects[ch.Ref]
	var hash Hash
	if ch.Policy != nil {
		hash = hashOf(*ch.Policy)
	}
	if was != nil {
		if ch.Policy != nil && was.hash == hash && was.tier.name == ch.Tier && was.tier.at(was) == ch.Index {
			return
		}
		for cl := range was.subject.classes {
			b.reorder(cl)
		}
		was.tier.remove(was)
		delete(was.subject.subjects, was)
		delete(c.objects, ch.Ref)
		b.dissolved = append(b.dissolved, was)
	}
	if ch.Policy == nil {
		return
	}
	o := c.object(*ch.Policy, hash)
	for _, t := range c.tiers {
		if t.name == ch.Tier {
			t.insert(ch.Index, o)
		}
	}
	c.objects[ch.Ref] = o
	o.subject.subjects[o] = struct{}{}
	c.track(o.subject, b.reorder)
}

func (c *Compiler) setFacts(b *batch, d Delta) {
	f := &c.facts
	if len(d.Namespaces)+len(d.NetworkSets) > 0 {
		// Network set selectors are evaluated after all objects are updated.
		maps.Copy(b.sets, c.liveSets)
		maps.Copy(b.pods, c.choosy)
	}
	for name, labels := range d.Namespaces {
		if maps.Equal(labels, f.Namespaces[name]) {
			continue
		}
		if labels == nil {
			delete(f.Namespaces, name)
		} else {
			f.Namespaces[name] = labels
		}
		for cl := range c.classIndex[place{name, ""}] {
			b.classes[cl] = struct{}{}
		}
	}
	for cl := range b.classes {
		c.index(cl)
	}
	for name, labels := range d.ServiceAccounts {
		if maps.Equal(labels, f.ServiceAccounts[name]) {
			continue
		}
		if labels == nil {
			delete(f.ServiceAccounts, name)
		} else {
			f.ServiceAccounts[name] = labels
		}
		for cl := range c.classIndex[place{name.Namespace, accountPlace(name.Name)}] {
			b.classes[cl] = struct{}{}
		}
	}
	for name, n := range d.Nodes {
		if n != nil && reflect.DeepEqual(n, f.Nodes[name]) {
			continue
		}
		for _, by := range []*policy.Node{f.Nodes[name], n} {
			if by == nil {
				continue
			}
			for _, a := range by.Addresses {
				r := c.addresses.at(a)
				if by == n {
					r.nodes = append(r.nodes, n)
				} else {
					r.nodes = slices.DeleteFunc(r.nodes, func(o *policy.Node) bool { return o == by })
				}
				b.markOwner(a, r)
			}
		}
		if n == nil {
			delete(f.Nodes, name)
		} else {
			f.Nodes[name] = n
		}
	}
	for name, s := range d.NetworkSets {
		if s == nil {
			delete(f.NetworkSets, name)
		} else {
			f.NetworkSets[name] = s
		}
	}
	for name, endpoints := range d.Services {
		c.setService(b, name, endpoints)
	}
	for name, p := range d.Pods {
		c.setPod(b, name, p)
	}
	for cl := range b.classes {
		maps.Copy(b.pods, cl.pods) // their policies may have conditions on these labels
	}
}

// setService applies the difference between the old and the new endpoints.
func (c *Compiler) setService(b *batch, name policy.NamespacedName, endpoints []policy.Endpoint) {
	by := map[policy.Endpoint]int{}
	for _, e := range c.facts.Services[name] {
		by[e] |= 1
	}
	for _, e := range endpoints {
		by[e] |= 2
	}
	for e, in := range by {
		if in == 3 {
			continue
		}
		r := c.addresses.at(e.Address)
		mine := serviceEndpoint{name, portKey{e.Protocol, e.Port}}
		if in == 1 {
			r.services = slices.DeleteFunc(r.services, func(o serviceEndpoint) bool { return o == mine })
		} else {
			r.services = append(r.services, mine)
		}
		b.markOwner(e.Address, r)
	}
	if endpoints == nil {
		delete(c.facts.Services, name)
	} else {
		c.facts.Services[name] = endpoints
	}
}

func (c *Compiler) setPod(b *batch, name policy.NamespacedName, now *policy.Pod) {
	was := c.pods[name]
	if was != nil && now != nil && reflect.DeepEqual(was.Pod, now) {
		return
	}
	if was != nil {
		b.pods[was] = struct{}{}
		b.markPod(was)
		if was.class != nil {
			b.at(was.Node).endpoint(name)
		}
		c.declassify(was)
		delete(c.choosy, was)
		for _, a := range was.Addresses {
			if r := c.addresses.all[a]; r != nil {
				r.pods = slices.DeleteFunc(r.pods, func(p *pod) bool { return p == was })
			}
		}
		unset(c.byNode, was.Node, was)
		for _, n := range was.Ports {
			unset(c.byPortName, n.Name, was)
		}
		delete(c.pods, name)
		delete(c.facts.Pods, name)
	}
	if now == nil {
		return
	}
	p := &pod{Pod: now}
	c.pods[name] = p
	c.facts.Pods[name] = now
	if !judged(now) {
		return
	}
	b.pods[p] = struct{}{}
	b.markPod(p)
	b.at(p.Node).endpoint(name)
	c.classify(p)
	for _, a := range p.Addresses {
		r := c.addresses.at(a)
		r.pods = append(r.pods, p)
	}
	set(c.byNode, p.Node, p)
	for _, n := range p.Ports {
		set(c.byPortName, n.Name, p)
	}
}

func set[K comparable](m map[K]map[*pod]struct{}, k K, p *pod) {
	if m[k] == nil {
		m[k] = map[*pod]struct{}{}
	}
	m[k][p] = struct{}{}
}

func unset[K comparable](m map[K]map[*pod]struct{}, k K, p *pod) {
	if delete(m[k], p); len(m[k]) == 0 {
		delete(m, k)
	}
}

// settle removes the rule sets that no pod uses any more, and returns the terms that became
// live and that are no longer live.
func (c *Compiler) settle(b *batch) (on, off []*term) {
	terms := map[*term]struct{}{}
	for rs := range b.born {
		c.join(b, rs)
		for t := range rs.asks {
			if t.users == nil {
				t.users = map[*ruleSet]struct{}{}
			}
			t.users[rs] = struct{}{}
			terms[t] = struct{}{}
		}
	}
	for rs := range b.left {
		if rs.pods > 0 {
			continue
		}
		rs.dead = true
		delete(c.ruleSets, rs.name)
		c.strip(rs)
		c.leave(rs)
		for t := range rs.asks {
			delete(t.users, rs)
			terms[t] = struct{}{}
		}
	}
	for t := range terms {
		switch live := len(t.users) > 0; {
		case live && !t.live:
			on = append(on, t)
		case !live && t.live:
			off = append(off, t)
		}
	}
	for _, t := range off {
		c.concerns(b, t)
		t.live = false
		delete(c.liveNodes, t)
		delete(c.liveSets, t)
	}
	for _, t := range on {
		t.live = true
		switch t.about {
		case aboutNodes:
			c.liveNodes[t] = struct{}{}
		case aboutSets:
			c.liveSets[t] = struct{}{}
		}
		c.concerns(b, t)
	}
	for _, t := range off {
		if t.about == aboutPods {
			c.untrack(t.pods)
		}
	}
	for _, o := range b.dissolved {
		c.untrack(o.subject)
	}
	return on, off
}

// concerns marks the single addresses for which a term holds.
func (c *Compiler) concerns(b *batch, t *term) {
	switch t.about {
	case aboutPods:
		c.track(t.pods, func(cl *class) {
			for p := range cl.pods {
				b.markPod(p)
			}
		})
	case aboutNodes:
		for _, n := range c.facts.Nodes {
			if matchesNode(t.nodes, n) {
				for _, a := range n.Addresses {
					b.markAddress(a)
				}
			}
		}
	case aboutService, aboutServicePort:
		for _, e := range c.facts.Services[t.service] {
			b.markAddress(e.Address)
		}
	case aboutPortName:
		for p := range c.byPortName[t.name] {
			b.markPod(p)
		}
	}
}

// recutAll updates the ranges to the live terms for networks.
func (c *Compiler) recutAll(b *batch, on, off []*term) {
	var list [families][]cut
	cut := func(t *term, by int) {
		for f := range families {
			list[f] = cuts(list[f], f, t, t.nets, by)
		}
	}
	fresh := map[*term]struct{}{}
	for _, t := range off {
		if t.ranged() {
			cut(t, -1)
		}
	}
	for _, t := range on {
		if t.ranged() {
			fresh[t] = struct{}{}
			if t.about == aboutSets {
				t.nets = ipSet(c.facts.nets(t.sets)...)
			}
			cut(t, 1)
		}
	}
	for t := range b.sets {
		if _, ok := fresh[t]; ok || !t.live {
			continue
		}
		if nets := ipSet(c.facts.nets(t.sets)...); !nets.Equal(t.nets) {
			cut(t, -1)
			t.nets = nets
			cut(t, 1)
			b.touch(t)
		}
	}
	for f := range families {
		b.wide = b.wide || len(list[f]) > 0
		c.recut(b, f, list[f])
	}
}

// fill updates the tables to the current atoms and rule sets.
func (c *Compiler) fill(b *batch) {
	again := map[*ruleSet]struct{}{}
	// A node needs the addresses and terms of the atoms that its rules tell apart.
	changed := func(rs *ruleSet) {
		if rs.closed {
			again[rs] = struct{}{}
			b.touchRuleSet(rs)
			b.wide = true
			return
		}
		for n := range rs.nodes {
			c.followers[n].ruleSet(rs)
		}
	}
	came, gone := map[*atom][families]bool{}, map[*atom][families]bool{}
	for a, was := range b.atoms {
		var here, away [families]bool
		for f := range families {
			had, has := was[f] > 0, a.count[f] > 0
			here[f], away[f] = has && !had, had && !has
		}
		if here != [families]bool{} {
			came[a] = here
		}
		if away != [families]bool{} {
			gone[a] = away
		}
	}
	each := func(atoms map[*atom][families]bool, do func(*ruleSet, *atom)) {
		for a, of := range atoms {
			if a == a.base {
				b.wide = b.wide || len(a.traits) > 0
				continue
			}
			seen := map[*ruleSet]struct{}{}
			for _, t := range a.traits {
				if t.term.ranged() || t.term.allPods() {
					continue
				}
				for rs := range t.term.users {
					if _, ok := seen[rs]; ok || !of[rs.family] {
						continue
					}
					seen[rs] = struct{}{}
					if _, born := b.born[rs]; !born {
						do(rs, a)
						changed(rs)
					}
				}
			}
		}
	}
	each(gone, c.drop)
	each(came, c.add)
	c.updateGroups(b, came, gone, changed)
	for rs := range b.born {
		again[rs] = struct{}{}
	}
	for rs := range again {
		if !rs.dead {
			c.build(rs)
		}
	}
	for a := range b.atoms {
		if a.count == [families]int{} {
			c.forget(a)
		}
	}
}
