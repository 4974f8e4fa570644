package plan

import (
	"sort"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/datapath/claims"
)

// podsOf returns how many pods an instance of the type holds.
func podsOf(t catalog.Type, mode string, prefixes bool) catalog.Count {
	count := func(n int, ok bool) catalog.Count { return catalog.Count{N: n, Known: ok} }
	switch {
	case mode == claims.ModeExclusive:
		return count(t.MaxPodsExclusive())
	case prefixes:
		return count(t.MaxPodsPrefix())
	}
	return count(t.MaxPodsShared())
}

// demand is what a node full of pods uses of its zone's Pod vSwitches.
type demand struct {
	known bool
	// singles is the number of single addresses, blocks of prefixes.
	singles, blocks int
	// spreads has, for each type, how the addresses may be spread over ENIs; empty if it is
	// unknown.
	spreads []spread
}

// spread is the number of addresses or prefixes that a node of a type needs, with the limits
// perENI for each ENI and most ENIs.
type spread struct{ want, perENI, most int }

// enis returns the number of ENIs of a node with at most each addresses or prefixes on each
// ENI; 0: not possible.
func (d demand) enis(each int) int {
	n := 0
	for _, s := range d.spreads {
		enis := ceil(s.want, min(each, s.perENI))
		if enis > s.most {
			return 0
		}
		n = max(n, enis)
	}
	return n
}

// total returns the number of private addresses. A prefix counts as its 16 addresses.
func (d demand) total() int { return d.singles + d.blocks*prefixSize }

// demandOf returns the largest demand of a node: nodes of all types may be in every zone. It is
// unknown if a type's numbers are.
func demandOf(p *Plan, types Catalog) demand {
	if p.Network == claims.NetworkFlannel {
		return demand{known: true}
	}
	worst := demand{known: len(p.Nodes.InstanceTypes) > 0}
	for _, name := range p.Nodes.InstanceTypes {
		t, _ := types.Lookup(name) // an unknown type has no numbers
		d := demandOfType(p, t)
		worst.known = worst.known && d.known
		worst.singles, worst.blocks = max(worst.singles, d.singles), max(worst.blocks, d.blocks)
		worst.spreads = append(worst.spreads, d.spreads...)
	}
	if len(worst.spreads) < len(p.Nodes.InstanceTypes) {
		worst.spreads = nil
	}
	return worst
}

func demandOfType(p *Plan, t catalog.Type) demand {
	limit := podsOf(t, p.Mode, p.Prefixes)
	addresses := limit.N
	if want := p.Nodes.PodsPerNode; want > 0 {
		// The node keeps free addresses in its pool, beside those of its pods.
		addresses = want + maxPool
		if limit.Known {
			addresses = min(addresses, limit.N)
		}
	} else if !limit.Known {
		return demand{}
	}
	switch {
	case p.Mode == claims.ModeExclusive:
		return demand{known: true, singles: addresses, spreads: []spread{{addresses, 1, addresses}}}
	case !p.Prefixes:
		d := demand{known: true, singles: addresses}
		if limit.Known && limit.N > 0 {
			d.spreads = []spread{{addresses, t.IPv4PerENI.N, t.ENIs.N - 1}}
		}
		return d
	case !limit.Known:
		return demand{} // the number of ENIs for the prefixes is unknown
	case limit.N == 0:
		return demand{known: true}
	}
	s := spread{ceil(addresses, prefixSize), t.IPv4PerENI.N - 1, t.ENIs.N - 1}
	// Each ENI also has its primary address.
	return demand{known: true, singles: ceil(s.want, s.perENI), blocks: s.want, spreads: []spread{s}}
}

// room returns how many full nodes fit into the Pod vSwitches of a zone. An ENI's addresses
// come from one vSwitch. It computes two packings, both of which are possible: whole nodes in a
// vSwitch, and ENIs of one size, full or smaller.
func (d demand) room(pods []VSwitch) int {
	if d.total() == 0 {
		return unlimited
	}
	nodes := 0
	for _, v := range pods {
		nodes += fit(size(v.CIDR), d.singles, d.blocks)
	}
	each := 0
	for _, s := range d.spreads {
		each = max(each, s.perENI)
	}
	for ; each > 0; each-- {
		ofNode, enis := d.enis(each), 0
		if ofNode == 0 {
			break // smaller sizes do not fit either
		}
		for _, v := range pods {
			if d.blocks > 0 {
				enis += fit(size(v.CIDR), 1, each)
			} else {
				enis += fit(size(v.CIDR), each, 0)
			}
		}
		nodes = max(nodes, enis/ofNode)
	}
	return nodes
}

// unlimited is a number of nodes that no IPv4 range can hold.
const unlimited = 1 << 32

// fit returns how many items of so many single addresses and aligned /28 blocks fit into a
// vSwitch of that size.
func fit(size, singles, blocks int) int {
	if blocks == 0 {
		return max(0, size-4) / singles
	}
	// The blocks with the first address and with the last three are never complete: their other
	// addresses serve as single addresses. After these, every sixteen single addresses use up a
	// block.
	whole, loose := size/prefixSize-2, 2*prefixSize-4
	if whole < blocks {
		return 0
	}
	return sort.Search(whole/blocks+1, func(n int) bool {
		return (n+1)*blocks+ceil(max(0, (n+1)*singles-loose), prefixSize) > whole
	})
}

func ceil(a, b int) int { return (a + b - 1) / b }
