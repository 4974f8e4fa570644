package hub

import (
	"bytes"
	"slices"
	"sync"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
	"terway.dev/terway/internal/policy/wire"
)

// holdings are the names of the resources that a node should have, by the piece of its part
// that they are made of, and of those that it has. The resources themselves are not kept: they
// are made again of the piece that changes.
type holdings struct {
	names     []holding // in order
	endpoints map[policy.NamespacedName]wire.Name
	ruleSets  map[compile.Hash][]wire.Name // with their peers and tables
	addresses map[compile.Bucket]wire.Name
	ranges    []wire.Name
	open      []wire.Named
}

// A holding is a resource. A node has thousands, and there are thousands of nodes: a map would be
// twice as large.
type holding struct {
	name wire.Name
	// pieces is the number of pieces with the resource. Rule sets share tables.
	pieces int32
	// has: the node has it after it applies everything that was sent.
	has bool
}

// newHoldings returns those of a node that has some resources, and should have none.
func newHoldings(has []wire.Name) *holdings {
	h := &holdings{names: make([]holding, 0, len(has))}
	h.clear()
	for _, n := range has {
		h.names = append(h.names, holding{name: n, has: true})
	}
	slices.SortFunc(h.names, holding.compare)
	h.names = slices.Compact(h.names)
	return h
}

func (h holding) compare(o holding) int { return bytes.Compare(h.name[:], o.name[:]) }

// of returns what is held of a name.
func (h *holdings) of(n wire.Name) holding {
	if i, is := slices.BinarySearchFunc(h.names, holding{name: n}, holding.compare); is {
		return h.names[i]
	}
	return holding{name: n}
}

// set changes what is held of some names. Those that no piece has, and the node has not, go.
func (h *holdings) set(changed map[wire.Name]holding) {
	var more []holding
	for n, e := range changed {
		if i, is := slices.BinarySearchFunc(h.names, holding{name: n}, holding.compare); is {
			h.names[i] = e
		} else {
			more = append(more, e)
		}
	}
	h.names = slices.DeleteFunc(h.names, func(e holding) bool { return e.pieces == 0 && !e.has })
	if len(more) > 32 {
		h.names = append(h.names, more...)
		slices.SortFunc(h.names, holding.compare)
		more = nil
	}
	for _, e := range more {
		i, _ := slices.BinarySearchFunc(h.names, e, holding.compare)
		h.names = slices.Insert(h.names, i, e)
	}
	if cap(h.names) > len(h.names)*5/4 {
		h.names = slices.Clone(h.names)
	}
}

func (h *holdings) clear() {
	for i := range h.names {
		h.names[i].pieces = 0
	}
	h.endpoints = map[policy.NamespacedName]wire.Name{}
	h.ruleSets = map[compile.Hash][]wire.Name{}
	h.addresses = map[compile.Bucket]wire.Name{}
	h.ranges, h.open = nil, nil
}

// A difference is what a node does not have and should, and has and should not.
type difference struct {
	put    []wire.Named // what a resource refers to comes before it
	remove []wire.Name
}

// update changes what the node should have by pieces and the list of open namespaces. It
// returns the difference, and counts on the node getting it.
func (h *holdings) update(p *compile.Pieces, open []wire.Named, tables *tables) difference {
	changed := map[wire.Name]holding{}
	var fresh []wire.Named
	count := func(n wire.Name, by int32) (has bool) {
		e, is := changed[n]
		if !is {
			e = h.of(n)
		}
		e.pieces += by
		changed[n] = e
		return e.has
	}
	add := func(n wire.Named) wire.Name {
		if !count(n.Name, 1) {
			fresh = append(fresh, n)
		}
		return n.Name
	}
	drop := func(n wire.Name) { count(n, -1) }
	if p.Whole {
		h.clear()
		for _, e := range h.names {
			changed[e.name] = e
		}
		for _, n := range wire.EncodeRanges(p.Ranges) {
			h.ranges = append(h.ranges, add(n))
		}
	}
	if len(open) != len(h.open) || len(open) > 0 && &open[0] != &h.open[0] {
		for _, n := range h.open {
			drop(n.Name)
		}
		for _, n := range open {
			add(n)
		}
		h.open = open
	}
	for b, list := range p.Addresses {
		if was, had := h.addresses[b]; had {
			drop(was)
			delete(h.addresses, b)
		}
		if len(list) > 0 {
			h.addresses[b] = add(wire.EncodeAddresses(list))
		}
	}
	for key, rs := range p.RuleSets {
		for _, n := range h.ruleSets[key] {
			drop(n)
		}
		delete(h.ruleSets, key)
		if rs == nil {
			continue
		}
		resources := wire.EncodeRuleSet(rs)
		names := make([]wire.Name, 0, len(rs.Tables)+len(resources))
		for _, t := range rs.Tables {
			n := wire.Named{Name: tables.name(t)}
			if !h.of(n.Name).has {
				n = wire.EncodeTable(t)
			}
			names = append(names, add(n))
		}
		for _, n := range resources {
			names = append(names, add(n))
		}
		h.ruleSets[key] = names
	}
	for name, e := range p.Endpoints {
		if was, had := h.endpoints[name]; had {
			drop(was)
			delete(h.endpoints, name)
		}
		if e != nil {
			h.endpoints[name] = add(wire.EncodeEndpoint(name, e))
		}
	}
	var d difference
	for _, n := range fresh {
		if e := changed[n.Name]; !e.has && e.pieces > 0 {
			e.has = true
			changed[n.Name] = e
			d.put = append(d.put, n)
		}
	}
	for n, e := range changed {
		if e.has && e.pieces == 0 {
			e.has = false
			changed[n] = e
			d.remove = append(d.remove, n)
		}
	}
	h.set(changed)
	return d
}

// tables knows the names of the resources of tables, so that each is encoded when it is sent,
// and not to find out whether a node has it.
type tables struct {
	mu sync.RWMutex
	of map[compile.Hash]wire.Name
}

func (t *tables) name(of *compile.Table) wire.Name {
	t.mu.RLock()
	n, ok := t.of[of.Hash]
	t.mu.RUnlock()
	if !ok {
		n = wire.EncodeTable(of).Name
		t.mu.Lock()
		t.of[of.Hash] = n
		t.mu.Unlock()
	}
	return n
}

// limit forgets all names if most are of tables that are not there any more.
func (t *tables) limit(there int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.of) > 2*there+1024 {
		t.of = map[compile.Hash]wire.Name{}
	}
}
