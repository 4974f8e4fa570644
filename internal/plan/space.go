package plan

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// at returns the range of that mask that starts n addresses after the start of p.
func at(p netip.Prefix, n int, bits int) netip.Prefix {
	start := p.Addr().As4()
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(start[:])+uint32(n))
	return netip.PrefixFrom(netip.AddrFrom4(b), bits)
}

// free returns a range of that mask in the pools that overlaps nothing in taken: the lowest of
// the first pool that has one.
func free(pools []netip.Prefix, bits int, taken []netip.Prefix) (netip.Prefix, bool) {
	step := 1 << (32 - bits)
	for _, pool := range pools {
		for n := 0; n+step <= size(pool); {
			p := at(pool, n, bits)
			i := slices.IndexFunc(taken, p.Overlaps)
			if i < 0 {
				return p, true
			}
			// Continue at the first candidate after the overlapping range.
			n += step
			if t := taken[i]; t.Bits() < bits {
				n = offset(pool, t) + size(t)
			}
		}
	}
	return netip.Prefix{}, false
}

// freeHigh is free from the top of each pool downwards.
func freeHigh(pools []netip.Prefix, bits int, taken []netip.Prefix) (netip.Prefix, bool) {
	step := 1 << (32 - bits)
	for _, pool := range pools {
		for n := size(pool) - step; n >= 0; {
			p := at(pool, n, bits)
			i := slices.IndexFunc(taken, p.Overlaps)
			if i < 0 {
				return p, true
			}
			n -= step
			if t := taken[i]; t.Bits() < bits {
				n = offset(pool, t) - step
			}
		}
	}
	return netip.Prefix{}, false
}

// offset returns how many addresses p starts after the start of pool; negative if before it.
func offset(pool, p netip.Prefix) int {
	a, b := pool.Masked().Addr().As4(), p.Masked().Addr().As4()
	return int(binary.BigEndian.Uint32(b[:])) - int(binary.BigEndian.Uint32(a[:]))
}

// largest returns the largest free range with a mask from min to max.
func largest(pools []netip.Prefix, minBits, maxBits int, taken []netip.Prefix) (netip.Prefix, bool) {
	for bits := minBits; bits <= maxBits; bits++ {
		if p, ok := free(pools, bits, taken); ok {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// log2 returns the smallest k with 2^k ≥ n.
func log2(n int) int {
	k := 0
	for 1<<k < n {
		k++
	}
	return k
}
