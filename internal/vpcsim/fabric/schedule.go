package fabric

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"slices"
)

// A listener's slot table is what the program picks backends from: by a counter for taking
// turns, by a hash for the hashing schedulers. The functions here compute it.

const (
	maxWeight = 100
	// maxTurns is the longest sequence of turns. Weights whose sequence would be longer are
	// rounded to shares of it, so a share is wrong by less than 1/maxTurns.
	maxTurns = 1021
	// hashSlots is the size of a hash table: a prime, as Maglev needs, ten times the backends
	// of the largest group.
	hashSlots = 4093
)

// inTurns returns the order in which backends with these weights get connections, as indexes:
// nginx's smooth weighted round-robin. Each backend has its share in each whole sequence, and
// its turns are spread evenly over it.
func inTurns(weights []int) []int {
	weights = fitted(weights)
	total := 0
	for _, w := range weights {
		total += w
	}
	out := make([]int, 0, total)
	if len(weights) == total { // all are equal
		for i := range weights {
			out = append(out, i)
		}
		return out
	}
	current := make([]int, len(weights))
	for range total {
		best := 0
		for i, w := range weights {
			current[i] += w
			if current[i] > current[best] {
				best = i
			}
		}
		current[best] -= total
		out = append(out, best)
	}
	return out
}

// fitted divides the weights by their greatest common divisor and, if their sum is still above
// maxTurns, rounds them to it; each keeps at least 1.
func fitted(weights []int) []int {
	divisor, sum := 0, 0
	for _, w := range weights {
		divisor = gcd(divisor, w)
		sum += w
	}
	out := make([]int, len(weights))
	if divisor == 0 {
		return out[:0]
	}
	for i, w := range weights {
		if out[i] = w / divisor; sum/divisor > maxTurns {
			out[i] = max(1, w*maxTurns/sum)
		}
	}
	return out
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// maglev returns the hash table for backends with these names and weights, as indexes: Google's
// Maglev, in which a backend with a smaller weight passes some of its turns. A backend that
// goes takes few slots of the others with it.
func maglev(names []uint64, weights []int) []int {
	if len(names) == 0 {
		return nil
	}
	heaviest := slices.Max(weights)
	offset, skip := make([]uint64, len(names)), make([]uint64, len(names))
	for i, name := range names {
		offset[i] = name % hashSlots
		skip[i] = (name>>32)%(hashSlots-1) + 1
	}
	out := make([]int, hashSlots)
	for i := range out {
		out[i] = -1
	}
	credit := make([]int, len(names))
	for filled := 0; ; {
		for i := range names {
			if credit[i] += weights[i]; credit[i] < heaviest {
				continue
			}
			credit[i] -= heaviest
			for out[offset[i]] >= 0 {
				offset[i] = (offset[i] + skip[i]) % hashSlots
			}
			out[offset[i]] = i
			if filled++; filled == hashSlots {
				return out
			}
		}
	}
}

// taking returns the backends that take new connections, sorted.
func taking(backends []Backend) []Backend {
	var out []Backend
	for _, b := range backends {
		if b.takes() {
			out = append(out, b)
		}
	}
	slices.SortFunc(out, func(a, b Backend) int { return a.Address.Compare(b.Address) })
	// A server and its ENI may both be listed: one backend with the sum of the weights.
	for i := len(out) - 1; i > 0; i-- {
		if out[i].Address == out[i-1].Address {
			out[i-1].Weight += out[i].Weight
			out = slices.Delete(out, i, i+1)
		}
	}
	return out
}

// SlotTable returns the backends that take new connections, in the order of the listener's
// slots: the order of turns, or what hashes index.
func SlotTable(scheduler Scheduler, backends []Backend) []Backend {
	taking := taking(backends)
	if len(taking) == 0 {
		return nil
	}
	weights, names := make([]int, len(taking)), make([]uint64, len(taking))
	for i := range taking {
		weights[i], names[i] = taking[i].Weight, addressHash(taking[i].Address)
	}
	var order []int
	switch scheduler {
	case WeightedRoundRobin:
		order = inTurns(weights)
	case SourceHash, TupleHash:
		order = maglev(names, weights)
	case RoundRobin, LeastConnections: // one slot each
		return taking
	}
	out := make([]Backend, len(order))
	for i, n := range order {
		out[i] = taking[n]
	}
	return out
}

func addressHash(a netip.AddrPort) uint64 {
	sum := sha256.Sum256([]byte(a.String()))
	return binary.LittleEndian.Uint64(sum[:])
}
