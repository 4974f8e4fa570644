package compile

import (
	"net/netip"
	"slices"

	"terway.dev/terway/internal/policy"
)

// An address is an address of a pod, a node or a Service's endpoint.
type address struct {
	pods     []*pod // pods that policies can select and that have the address; usually one
	nodes    []*policy.Node
	services []serviceEndpoint
	atom     *atom
}

type serviceEndpoint struct {
	name policy.NamespacedName
	portKey
}

// addresses is an index of single addresses that can be searched by range.
type addresses struct {
	all map[netip.Addr]*address
	// blocks groups the addresses by their /24 or /64.
	blocks  map[netip.Addr]map[netip.Addr]struct{}
	buckets [buckets]map[netip.Addr]*address
}

func newAddresses() addresses {
	return addresses{all: map[netip.Addr]*address{}, blocks: map[netip.Addr]map[netip.Addr]struct{}{}}
}

func block(a netip.Addr) netip.Addr {
	bits := 24
	if a.Is6() {
		bits = 64
	}
	return netip.PrefixFrom(a, bits).Masked().Addr()
}

// at returns the entry of an address, and makes it if there is none.
func (as *addresses) at(a netip.Addr) *address {
	r := as.all[a]
	if r == nil {
		r = &address{}
		as.all[a] = r
		b := block(a)
		if as.blocks[b] == nil {
			as.blocks[b] = map[netip.Addr]struct{}{}
		}
		as.blocks[b][a] = struct{}{}
		bucket := &as.buckets[BucketOf(a)]
		if *bucket == nil {
			*bucket = map[netip.Addr]*address{}
		}
		(*bucket)[a] = r
	}
	return r
}

func (as *addresses) remove(a netip.Addr) {
	delete(as.all, a)
	delete(as.buckets[BucketOf(a)], a)
	b := block(a)
	if delete(as.blocks[b], a); len(as.blocks[b]) == 0 {
		delete(as.blocks, b)
	}
}

// each calls f for the addresses at or after from and before until. A zero until means the end
// of the family.
func (as *addresses) each(fam family, from, until netip.Addr, f func(netip.Addr)) {
	first := block(from)
	one := until.IsValid() && (block(until) == first || until == nextBlock(first))
	within := func(block map[netip.Addr]struct{}) {
		for a := range block {
			if familyOf(a) == fam && !a.Less(from) && (!until.IsValid() || a.Less(until)) {
				f(a)
			}
		}
	}
	if one {
		within(as.blocks[first])
		return
	}
	for b, in := range as.blocks {
		if familyOf(b) == fam && !b.Less(first) && (!until.IsValid() || b.Less(until)) {
			within(in)
		}
	}
}

func nextBlock(b netip.Addr) netip.Addr {
	bytes := b.AsSlice()
	for i := len(bytes) - 1; i >= 0; i-- {
		if (b.Is4() && i > 2) || (b.Is6() && i > 7) {
			continue
		}
		if bytes[i]++; bytes[i] != 0 {
			break
		}
	}
	next, _ := netip.AddrFromSlice(bytes)
	return next
}

// traitsOf returns the traits of an address: the live terms that hold for it.
func (c *Compiler) traitsOf(a netip.Addr, r *address) []*trait {
	ranges := c.ranges[familyOf(a)]
	out := slices.Clone(ranges[rangeAt(ranges, a)].atom.traits)
	for _, p := range r.pods {
		for s := range p.class.selectors {
			if s.term != nil && s.term.live {
				out = append(out, s.term.has(portKey{}))
			}
		}
		for _, n := range p.Ports {
			if t := c.terms[portNameKey(n.Name)]; t != nil && t.live && hasPorts(n.Protocol) {
				out = append(out, t.has(portKey{n.Protocol, n.Port}))
			}
		}
	}
	for _, n := range r.nodes {
		for t := range c.liveNodes {
			if matchesNode(t.nodes, n) {
				out = append(out, t.has(portKey{}))
			}
		}
	}
	for _, e := range r.services {
		if t := c.terms[serviceKey(e.name)]; t != nil && t.live {
			out = append(out, t.has(portKey{}))
		}
		if t := c.terms[servicePortKey(e.name)]; t != nil && t.live && hasPorts(e.protocol) {
			out = append(out, t.has(e.portKey))
		}
	}
	return sortTraits(out)
}

func hasPorts(protocol uint8) bool { return ClassOf(protocol) < ICMP }

// place moves an address to the atom that it now belongs to.
func (c *Compiler) place(b *batch, a netip.Addr) {
	r, f := c.addresses.all[a], familyOf(a)
	if r == nil {
		return
	}
	was := r.atom
	if len(r.pods) == 0 && len(r.nodes) == 0 && len(r.services) == 0 {
		c.addresses.remove(a)
		r.atom = nil
	} else {
		r.atom = c.atom(c.traitsOf(a, r))
	}
	if r.atom == was {
		return
	}
	if was != nil {
		delete(was.addresses, a)
		b.count(was, f, -1)
	}
	if r.atom != nil {
		r.atom.addresses[a] = struct{}{}
		b.count(r.atom, f, 1)
	}
	b.moved(a, was, r.atom)
}
