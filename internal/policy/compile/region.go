package compile

import (
	"slices"

	"terway.dev/terway/internal/policy"
)

// A Class is a class of protocols that has its own spans in a table. The spans are over the
// number after each class below.
type Class uint8

// The classes.
const (
	TCP    Class = iota // destination port
	UDP                 // destination port
	SCTP                // destination port
	ICMP                // type << 8 | code
	ICMPv6              // type << 8 | code
	Other               // the protocol's IP number
	classes
)

// ClassOf returns the class of a protocol.
func ClassOf(protocol uint8) Class {
	switch protocol {
	case policy.TCPProtocol:
		return TCP
	case policy.UDPProtocol:
		return UDP
	case policy.SCTPProtocol:
		return SCTP
	case policy.ICMPProtocol:
		return ICMP
	case policy.ICMPv6Protocol:
		return ICMPv6
	}
	return Other
}

// protocols are the IP numbers of the classes with ports.
var protocols = [...]uint8{TCP: policy.TCPProtocol, UDP: policy.UDPProtocol, SCTP: policy.SCTPProtocol}

// An interval includes both ends.
type interval struct{ from, to uint16 }

var everything = []interval{{0, 0xffff}}

// merged sorts intervals and joins adjacent ones. It modifies the list.
func merged(list []interval) []interval {
	slices.SortFunc(list, func(a, b interval) int { return int(a.from) - int(b.from) })
	out := list[:0]
	for _, i := range list {
		if n := len(out); n > 0 && int(i.from) <= int(out[n-1].to)+1 {
			out[n-1].to = max(out[n-1].to, i.to)
		} else {
			out = append(out, i)
		}
	}
	return out
}

// without returns list minus not. Both are merged.
func without(list, not []interval) []interval {
	if len(not) == 0 {
		return list
	}
	var out []interval
	for _, i := range list {
		from, rest := i.from, true
		for _, n := range not {
			if n.to < from || n.from > i.to {
				continue
			}
			if n.from > from {
				out = append(out, interval{from, n.from - 1})
			}
			if n.to >= i.to {
				rest = false
				break
			}
			from = n.to + 1
		}
		if rest {
			out = append(out, interval{from, i.to})
		}
	}
	return out
}

// A region is the traffic that a clause matches: the numbers of each class, and for classes
// with ports the source ports (nil: all).
type region struct {
	numbers [classes][]interval
	sources [len(protocols)][]interval
}

func (r *region) empty() bool {
	return !slices.ContainsFunc(r.numbers[:], func(n []interval) bool { return len(n) > 0 })
}

func (r *region) key() string {
	var d digest
	for _, lists := range [][][]interval{r.numbers[:], r.sources[:]} {
		for _, list := range lists {
			d.bool(list == nil)
			d.num(len(list))
			for _, i := range list {
				d.num(int(i.from), int(i.to))
			}
		}
	}
	return string(d)
}

// A sharedRegion counts the clauses that use it: most rules are for a few ports.
type sharedRegion struct {
	*region
	uses int
}

func (c *Compiler) shareRegion(r *region) *region {
	k := r.key()
	s := c.regions[k]
	if s == nil {
		s = &sharedRegion{region: r}
		c.regions[k] = s
	}
	s.uses++
	return s.region
}

// unshareRegion ends a use; nil and allTraffic are nobody's.
func (c *Compiler) unshareRegion(r *region) {
	if r == nil || r == allTraffic {
		return
	}
	k := r.key()
	s := c.regions[k]
	if s.uses--; s.uses == 0 {
		delete(c.regions, k)
	}
}

// allTraffic is the region of a rule without conditions on traffic.
var allTraffic = func() *region {
	r := &region{}
	for c := range r.numbers {
		r.numbers[c] = everything
	}
	return r
}()

// ends resolves names at the two ends of a connection: the numbers of a named port, and the
// destination's ports in a Service.
type ends struct {
	source, destination func(name string, protocol uint8) []uint16
	service             func(name policy.NamespacedName, protocol uint8) []uint16
}

// regionOf returns the traffic that one alternative of a rule matches between these ends.
func regionOf(t *policy.Traffic, e ends) *region {
	r := &region{}
	has := func(protocol uint8) bool { return t.Protocols == nil || t.Protocols[protocol] }
	onlyPorts := asksPorts(t) || t.DestinationService != nil
	for class, protocol := range protocols {
		if !has(protocol) || t.ICMP != nil {
			continue
		}
		list := func(ports []policy.Port, resolve func(string, uint8) []uint16) []interval {
			var out []interval
			for _, p := range ports {
				if p.Name == "" {
					if p.From <= p.To {
						out = append(out, interval{p.From, p.To})
					}
					continue
				}
				for _, n := range resolve(p.Name, protocol) {
					out = append(out, interval{n, n})
				}
			}
			return merged(out)
		}
		numbers := everything
		if t.DestinationPorts != nil {
			numbers = list(t.DestinationPorts, e.destination)
		}
		numbers = without(numbers, list(t.NotDestinationPorts, e.destination))
		if t.DestinationService != nil {
			var in []interval
			for _, n := range e.service(policy.NamespacedName(*t.DestinationService), protocol) {
				in = append(in, interval{n, n})
			}
			numbers = without(numbers, without(everything, merged(in)))
		}
		if t.SourcePorts != nil || len(t.NotSourcePorts) > 0 {
			sources := everything
			if t.SourcePorts != nil {
				sources = list(t.SourcePorts, e.source)
			}
			switch sources = without(sources, list(t.NotSourcePorts, e.source)); {
			case len(sources) == 0:
				numbers = nil
			case sources[0] != everything[0]:
				r.sources[class] = sources
			}
		}
		r.numbers[class] = numbers
	}
	if onlyPorts {
		return r
	}
	for class, protocol := range map[Class]uint8{ICMP: policy.ICMPProtocol, ICMPv6: policy.ICMPv6Protocol} {
		if !has(protocol) {
			continue
		}
		r.numbers[class] = everything
		if t.ICMP != nil {
			r.numbers[class] = icmp(*t.ICMP)
		}
		if t.NotICMP != nil {
			r.numbers[class] = without(r.numbers[class], icmp(*t.NotICMP))
		}
	}
	if t.ICMP == nil {
		var others []interval
		for n := range 256 {
			// The other classes are done above.
			matches, k := has(uint8(n)), len(others)
			follows := k > 0 && int(others[k-1].to) == n-1
			switch {
			case follows && (matches || ClassOf(uint8(n)) != Other):
				others[k-1].to = uint16(n)
			case matches && ClassOf(uint8(n)) == Other:
				others = append(others, interval{uint16(n), uint16(n)})
			}
		}
		if k := len(others); k > 0 && others[k-1].to == 255 {
			others[k-1].to = 0xffff
		}
		r.numbers[Other] = others
	}
	return r
}

func icmp(i policy.ICMP) []interval {
	first := uint16(i.Type) << 8
	if i.Code == -1 {
		return []interval{{first, first | 0xff}}
	}
	return []interval{{first | uint16(i.Code), first | uint16(i.Code)}}
}

// asksPorts reports whether only protocols with ports can match.
func asksPorts(t *policy.Traffic) bool {
	return t.SourcePorts != nil || t.DestinationPorts != nil || len(t.NotSourcePorts) > 0 || len(t.NotDestinationPorts) > 0
}
