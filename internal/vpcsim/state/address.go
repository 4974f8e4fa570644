package state

import (
	"net/netip"
	"slices"
)

// The order of addresses.
//
// A vSwitch first assigns addresses that were never used, from low to high in blocks of 16, and
// in each block in an order that is not ascending, so that no client relies on consecutive
// addresses. When all have been used, released addresses follow, the longest free first: as in
// the real cloud a released address is not used again at once. Prefixes are assigned from the
// high end, which single addresses reach last.

// prefixBits is the length of an IPv4 prefix on an ENI, which has prefixSize addresses.
const (
	prefixBits = 28
	prefixSize = 16
)

// reservedAtEnd is how many of a vSwitch's last IPv4 addresses the service reserves, beside the
// first one; reserved6 is how many IPv6 addresses at each end.
const (
	reservedAtEnd = 3
	reserved6     = 9
)

func membersOf(p netip.Prefix) []netip.Addr {
	members := make([]netip.Addr, 0, prefixSize)
	for i := range prefixSize {
		members = append(members, addrAt(p, i))
	}
	return members
}

// addressesOf returns every address of an ENI: IPv4, each address of a prefix, IPv6.
func addressesOf(eni *NetworkInterface) []netip.Addr {
	all := slices.Concat(eni.PrivateIpAddresses, eni.Ipv6Addresses)
	for _, p := range eni.Ipv4Prefixes {
		all = append(all, membersOf(p)...)
	}
	return all
}

// usable reports whether a vSwitch can assign an IPv4 address.
func usable(cidr netip.Prefix, a netip.Addr) bool {
	if !a.Is4() || !cidr.Contains(a) {
		return false
	}
	i := offsetOf(cidr, a)
	return i >= 1 && i < sizeOf(cidr)-reservedAtEnd
}

// nth returns the offset of the i-th address that a new vSwitch assigns.
func nth(i int, size int) int {
	block := min(prefixSize, size)
	within := (i%block)*7 + 5
	return i/block*block + within%block
}

// available returns the number of free IPv4 addresses of a vSwitch.
func (s *State) available(v *VSwitch) int {
	if v.Full {
		return 0
	}
	return sizeOf(v.CidrBlock) - 1 - reservedAtEnd - s.pool(v.VSwitchId).held4
}

// pick selects n free IPv4 addresses without assigning them; ok is false if there are fewer. It
// skips addresses in avoid.
func (s *State) pick(v *VSwitch, n int, avoid []netip.Addr) (picked []netip.Addr, ok bool) {
	p, size := s.pool(v.VSwitchId), sizeOf(v.CidrBlock)
	for i := p.fresh; len(picked) < n && i < size; i++ {
		a := addrAt(v.CidrBlock, nth(i, size))
		switch {
		case !usable(v.CidrBlock, a) || p.holder[a] != "" || p.freed[a]:
			if i == p.fresh {
				p.fresh++
			}
		case !slices.Contains(avoid, a):
			picked = append(picked, a)
		}
	}
	for _, a := range s.data.Freed[v.VSwitchId] {
		if len(picked) == n {
			break
		}
		if !slices.Contains(avoid, a) {
			picked = append(picked, a)
		}
	}
	return picked, len(picked) == n
}

// pickPrefixes selects n free prefixes without assigning them, highest first.
func (s *State) pickPrefixes(v *VSwitch, n int, avoid []netip.Addr) ([]netip.Prefix, bool) {
	used := s.pool(v.VSwitchId).holder
	var picked []netip.Prefix
	for at := sizeOf(v.CidrBlock) - prefixSize; at >= 0 && len(picked) < n; at -= prefixSize {
		p := netip.PrefixFrom(addrAt(v.CidrBlock, at), prefixBits)
		free := func(a netip.Addr) bool {
			return usable(v.CidrBlock, a) && used[a] == "" && !slices.Contains(avoid, a)
		}
		if !slices.ContainsFunc(membersOf(p), func(a netip.Addr) bool { return !free(a) }) {
			picked = append(picked, p)
		}
	}
	return picked, len(picked) == n
}

// pick6 selects n free IPv6 addresses, at random like the service.
func (s *State) pick6(v *VSwitch, n int, avoid []netip.Addr) []netip.Addr {
	used := s.pool(v.VSwitchId).holder
	var picked []netip.Addr
	for len(picked) < n {
		a := addr6(v.Ipv6CidrBlock, s.rng.Uint64())
		if usable6(v.Ipv6CidrBlock, a) && used[a] == "" && !slices.Contains(avoid, a) && !slices.Contains(picked, a) {
			picked = append(picked, a)
		}
	}
	return picked
}

// usable6 reports whether a vSwitch can assign an IPv6 address.
func usable6(cidr netip.Prefix, a netip.Addr) bool {
	if !cidr.IsValid() || !cidr.Contains(a) {
		return false
	}
	suffix := suffix6(a)
	return suffix >= reserved6 && suffix <= ^uint64(0)-reserved6
}

// take records that an ENI or load balancer has addresses.
func (s *State) take(v *VSwitch, id string, addrs []netip.Addr) {
	p, reused := s.pool(v.VSwitchId), 0
	for _, a := range addrs {
		p.hold(a, id)
		if p.freed[a] {
			delete(p.freed, a)
			s.touchFreed(v.VSwitchId, a, true)
			reused++
		}
	}
	freed := s.data.Freed[v.VSwitchId]
	// Usually the addresses that were free longest are taken, which are at the front.
	for reused > 0 && !p.freed[freed[0]] {
		freed = freed[1:]
		reused--
	}
	if reused > 0 {
		freed = slices.DeleteFunc(freed, func(a netip.Addr) bool { return !p.freed[a] })
	}
	s.data.putFreed(v.VSwitchId, freed)
}

// giveBack records that addresses are free again. IPv6 addresses are selected at random, so
// only IPv4 has an order.
func (s *State) giveBack(vSwitchID string, addrs []netip.Addr) {
	p := s.pool(vSwitchID)
	for _, a := range addrs {
		p.drop(a)
		if a.Is4() {
			p.freed[a] = true
			s.touchFreed(vSwitchID, a, false)
			s.data.Freed[vSwitchID] = append(s.data.Freed[vSwitchID], a)
		}
	}
}
