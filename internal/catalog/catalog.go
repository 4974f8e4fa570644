// Package catalog has the ECS instance types: the number of ENIs and addresses, the bandwidth,
// and the number of pods that follows.
//
// It owns the table instance-types.csv and nothing else: it never asks a cloud and never
// guesses. A number without a source is unknown.
package catalog

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
)

//go:embed instance-types.csv
var table []byte

// Count is a number that may be unknown.
type Count struct {
	N     int
	Known bool
}

// Of returns a known number.
func Of(n int) Count { return Count{N: n, Known: true} }

// MarshalJSON returns the number, or null if it is unknown.
func (c Count) MarshalJSON() ([]byte, error) {
	if !c.Known {
		return []byte("null"), nil
	}
	return strconv.AppendInt(nil, int64(c.N), 10), nil
}

// UnmarshalJSON is the inverse of MarshalJSON.
func (c *Count) UnmarshalJSON(b []byte) error {
	var n *int
	if err := json.Unmarshal(b, &n); err != nil {
		return err
	}
	*c = Count{}
	if n != nil {
		*c = Of(*n)
	}
	return nil
}

// Less reports whether c is known and below n.
func (c Count) Less(n int) bool { return c.Known && c.N < n }

func (c Count) String() string {
	if !c.Known {
		return "unknown"
	}
	return strconv.Itoa(c.N)
}

// Type is an ECS instance type.
type Type struct {
	Name   string // ecs.g6.2xlarge
	Family string // ecs.g6
	VCPU   Count
	// MemoryGiB is 0 when unknown.
	MemoryGiB float64
	// ENIs is the maximum number of ENIs of an instance, including the primary.
	ENIs Count
	// IPv4PerENI and IPv6PerENI are the maximum addresses of an ENI, including its primary
	// address. A /28 prefix counts as one address.
	IPv4PerENI Count
	IPv6PerENI Count
	// ENITotal includes the trunk's member ENIs.
	ENITotal Count
	// Trunk: the type supports member ENIs on a trunk ENI. TrunkKnown: a source says whether it
	// does.
	Trunk, TrunkKnown bool
	// BandwidthBase is the guaranteed bandwidth and BandwidthBurst the short-time
	// maximum (0: none published), both in Gbit/s.
	BandwidthBase  float64
	BandwidthBurst float64
	// Queues is the number of NIC queues.
	Queues Count
	// Source is the source of the numbers.
	Source string
}

// MaxPodsShared returns how many pods fit on a node with shared secondary ENIs: (ENIs − 1) ×
// addresses per ENI. ok is false if a number is unknown.
func (t Type) MaxPodsShared() (n int, ok bool) {
	if !t.ENIs.Known || !t.IPv4PerENI.Known {
		return 0, false
	}
	return max(t.ENIs.N-1, 0) * t.IPv4PerENI.N, true
}

// Secondary returns how many ENIs a node has beside its first, 0 if unknown.
func (t Type) Secondary() int {
	if !t.ENIs.Known {
		return 0
	}
	return max(t.ENIs.N-1, 0)
}

// MaxPods returns how many pods fit on a node of whose secondary ENIs so many are exclusive.
func (t Type) MaxPods(exclusive int) (n int, ok bool) {
	shared := t.Secondary() - exclusive
	if !t.ENIs.Known || shared > 0 && !t.IPv4PerENI.Known {
		return 0, false
	}
	return shared*t.IPv4PerENI.N + exclusive, true
}

// MaxPodsExclusive returns how many pods fit on a node with an ENI for each pod.
func (t Type) MaxPodsExclusive() (n int, ok bool) {
	if !t.ENIs.Known {
		return 0, false
	}
	return max(t.ENIs.N-1, 0), true
}

// PrefixSize is the number of addresses of a prefix: the cloud's IPv4 prefixes are /28.
const PrefixSize = 16

// MaxPodsPrefix returns how many pods fit on a node whose secondary ENIs have a /28 prefix in
// each slot but that of the primary address.
func (t Type) MaxPodsPrefix() (n int, ok bool) {
	if !t.ENIs.Known || !t.IPv4PerENI.Known {
		return 0, false
	}
	return max(t.ENIs.N-1, 0) * max(t.IPv4PerENI.N-1, 0) * PrefixSize, true
}

// MaxPodsTrunk returns how many pods can have a member ENI of the node's trunk.
func (t Type) MaxPodsTrunk() (n int, ok bool) {
	if !t.Trunk || !t.ENIs.Known || !t.ENITotal.Known {
		return 0, false
	}
	return max(t.ENITotal.N-t.ENIs.N, 0), true
}

// Generation returns the number in the family's name: 6 for ecs.g6 and ecs.ebmgn6e, 0 if there
// is none.
func (t Type) Generation() int {
	name := strings.TrimPrefix(t.Family, "ecs.")
	start := strings.IndexAny(name, "0123456789")
	if start < 0 {
		return 0
	}
	end := start
	for end < len(name) && name[end] >= '0' && name[end] <= '9' {
		end++
	}
	n, err := strconv.Atoi(name[start:end])
	if err != nil {
		return 0
	}
	return n
}

// JumboFrames reports whether the type supports an MTU of 8500. The table has no column for it:
// all types with published numbers support it from the seventh generation on, and none before.
func (t Type) JumboFrames() bool { return t.Generation() >= 7 }

// BandwidthKbit returns the base bandwidth in the unit of DescribeInstanceTypes: kbit/s, with
// 1024000 of them in a Gbit/s. 0 if unknown.
func (t Type) BandwidthKbit() int { return int(math.Round(t.BandwidthBase * kbitPerGbit)) }

// kbitPerGbit is the unit of DescribeInstanceTypes: InstanceBandwidthTx is 3072000 for 3 Gbit/s.
const kbitPerGbit = 1024 * 1000

// GbitOfKbit is the inverse of BandwidthKbit, rounded to a Mbit.
func GbitOfKbit(kbit int) float64 { return math.Round(float64(kbit)/kbitPerGbit*1000) / 1000 }

// Catalog is an immutable set of types.
type Catalog struct {
	types []Type // sorted by name
	index map[string]int
}

// New returns a catalog; names must be unique.
func New(types []Type) (*Catalog, error) {
	c := &Catalog{types: slices.Clone(types), index: make(map[string]int, len(types))}
	slices.SortFunc(c.types, func(a, b Type) int { return strings.Compare(a.Name, b.Name) })
	for i, t := range c.types {
		if _, twice := c.index[t.Name]; twice {
			return nil, fmt.Errorf("instance type %s is listed twice", t.Name)
		}
		c.index[t.Name] = i
	}
	return c, nil
}

// Lookup returns the type with a name such as "ecs.g6.2xlarge".
func (c *Catalog) Lookup(name string) (Type, bool) {
	i, ok := c.index[name]
	if !ok {
		return Type{}, false
	}
	return c.types[i], true
}

// All returns all types, by name.
func (c *Catalog) All() []Type { return slices.Clone(c.types) }

var parsed = sync.OnceValues(func() (*Catalog, error) { return Parse(bytes.NewReader(table)) })

// Default returns the built-in catalog.
func Default() *Catalog {
	c, err := parsed()
	if err != nil {
		panic("instance-types.csv, built in: " + err.Error())
	}
	return c
}

// Lookup returns a type of the built-in catalog.
func Lookup(name string) (Type, bool) { return Default().Lookup(name) }
