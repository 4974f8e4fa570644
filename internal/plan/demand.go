package plan

import (
	"sort"

	"terway.dev/terway/internal/catalog"
)

// podsOf is how many pods an instance of the type holds.
func podsOf(t catalog.Type, mode string, prefixes bool) catalog.Count {
	count := func(n int, ok bool) catalog.Count { return catalog.Count{N: n, Known: ok} }
	switch {
	case mode == ModeExclusive:
		return count(t.MaxPodsExclusive())
	case prefixes:
		return count(t.MaxPodsPrefix())
	}
	return count(t.MaxPodsShared())
}

// demand is what a node full of pods takes of its zone's Pod vSwitches.
type demand struct {
	known bool
	// enis are the secondary ENIs, perENI the most addresses, or prefixes, of one
	// (0: unknown). singles are addresses on their own, blocks the prefixes.
	enis, perENI, singles, blocks int
}

// total is how many private addresses that is. A prefix counts as its 16 addresses.
func (d demand) total() int { return d.singles + d.blocks*prefixSize }

// demandOf is the demand of the plan's hungriest node: nodes of all types may be in
// every zone. Unknown when one type's figures are.
func demandOf(p *Plan, types Catalog) demand {
	if p.Network == NetworkFlannel {
		return demand{known: true}
	}
	worst := demand{known: len(p.Nodes.InstanceTypes) > 0}
	for _, name := range p.Nodes.InstanceTypes {
		t, _ := types.Lookup(name) // a type that is not there has no figures
		d := demandOfType(p, t)
		worst.known = worst.known && d.known
		worst.enis, worst.perENI = max(worst.enis, d.enis), max(worst.perENI, d.perENI)
		worst.singles, worst.blocks = max(worst.singles, d.singles), max(worst.blocks, d.blocks)
	}
	return worst
}

func demandOfType(p *Plan, t catalog.Type) demand {
	limit := podsOf(t, p.Mode, p.Prefixes)
	addresses := limit.N
	if want := p.Nodes.PodsPerNode; want > 0 {
		// The node keeps some free addresses at hand beside those of its pods.
		addresses = want + maxPool
		if limit.Known {
			addresses = min(addresses, limit.N)
		}
	} else if !limit.Known {
		return demand{}
	}
	switch {
	case p.Mode == ModeExclusive:
		return demand{known: true, enis: addresses, perENI: 1, singles: addresses}
	case !p.Prefixes && !t.IPv4PerENI.Known:
		return demand{known: true, singles: addresses}
	case !p.Prefixes:
		return demand{known: true, enis: ceil(addresses, t.IPv4PerENI.N), perENI: t.IPv4PerENI.N, singles: addresses}
	case !limit.Known:
		return demand{} // how many ENIs the prefixes need is unknown
	case limit.N == 0:
		return demand{known: true}
	}
	d := demand{known: true, perENI: t.IPv4PerENI.N - 1, blocks: ceil(addresses, prefixSize)}
	d.enis = ceil(d.blocks, d.perENI)
	d.singles = d.enis // each keeps its primary address
	return d
}

// room is how many full nodes the Pod vSwitches of a zone hold. An ENI's addresses
// come from one vSwitch; two ways to pack are tried, whole nodes into a vSwitch and
// whole ENIs, and both can be done.
func (d demand) room(pods []VSwitch) int {
	if d.total() == 0 {
		return unlimited
	}
	nodes, enis := 0, 0
	for _, v := range pods {
		nodes += fit(size(v.CIDR), d.singles, d.blocks)
		switch {
		case d.perENI == 0:
		case d.blocks > 0:
			enis += fit(size(v.CIDR), 1, d.perENI)
		default:
			enis += fit(size(v.CIDR), d.perENI, 0)
		}
	}
	if d.enis == 0 {
		return nodes
	}
	return max(nodes, enis/d.enis)
}

// unlimited is a number of nodes that no range of IPv4 holds.
const unlimited = 1 << 32

// fit is how many things of so many single addresses and aligned /28 blocks a
// vSwitch of that size holds.
func fit(size, singles, blocks int) int {
	if blocks == 0 {
		return max(0, size-4) / singles
	}
	// The blocks with the first address and the last three are never whole: what is
	// left of them takes singles, and then one block for each sixteen further ones.
	whole, loose := size/prefixSize-2, 2*prefixSize-4
	if whole < blocks {
		return 0
	}
	return sort.Search(whole/blocks+1, func(n int) bool {
		return (n+1)*blocks+ceil(max(0, (n+1)*singles-loose), prefixSize) > whole
	})
}

func ceil(a, b int) int { return (a + b - 1) / b }
