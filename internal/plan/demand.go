package plan

import (
	"sort"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/datapath/claims"
)

// podsOf is how many pods an instance of the type holds.
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

// demand is what a node full of pods takes of its zone's Pod vSwitches.
type demand struct {
	known bool
	// singles are addresses on their own, blocks the prefixes.
	singles, blocks int
	// spreads are how those of each type may be spread over ENIs; none if it is unknown.
	spreads []spread
}

// spread is what a node of a type wants of addresses, or prefixes, on ENIs: an ENI holds
// no more than perENI of them, and the node no more ENIs than most.
type spread struct{ want, perENI, most int }

// enis is how many ENIs a node has if each carries at most so many addresses or prefixes,
// or 0: it can not.
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

// total is how many private addresses that is. A prefix counts as its 16 addresses.
func (d demand) total() int { return d.singles + d.blocks*prefixSize }

// demandOf is the demand of the plan's hungriest node: nodes of all types may be in
// every zone. Unknown when one type's figures are.
func demandOf(p *Plan, types Catalog) demand {
	if p.Network == claims.NetworkFlannel {
		return demand{known: true}
	}
	worst := demand{known: len(p.Nodes.InstanceTypes) > 0}
	for _, name := range p.Nodes.InstanceTypes {
		t, _ := types.Lookup(name) // a type that is not there has no figures
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
		// The node keeps some free addresses at hand beside those of its pods.
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
		return demand{} // how many ENIs the prefixes need is unknown
	case limit.N == 0:
		return demand{known: true}
	}
	s := spread{ceil(addresses, prefixSize), t.IPv4PerENI.N - 1, t.ENIs.N - 1}
	// Each ENI keeps its primary address.
	return demand{known: true, singles: ceil(s.want, s.perENI), blocks: s.want, spreads: []spread{s}}
}

// room is how many full nodes the Pod vSwitches of a zone hold. An ENI's addresses
// come from one vSwitch; two ways to pack are tried, whole nodes into a vSwitch and
// ENIs of one size, full ones and smaller, and each can be done.
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
			break // and with still smaller ones too
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
