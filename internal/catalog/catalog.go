// Package catalog knows the ECS instance types: how many ENIs a type may have,
// how many addresses each of them, how much bandwidth, and how many pods follow.
//
// It owns the table instance-types.csv and nothing else: it never asks a cloud,
// and it never guesses. A figure that no source gives is unknown, and says so.
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

// Count is a figure that may be unknown.
type Count struct {
	N     int
	Known bool
}

// Of is a known figure.
func Of(n int) Count { return Count{N: n, Known: true} }

// MarshalJSON gives the number, or null when it is unknown.
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
	// ENIs is how many ENIs an instance may have, the primary included.
	ENIs Count
	// IPv4PerENI and IPv6PerENI are the addresses of one ENI, its primary
	// address included. A /28 prefix takes the place of one address.
	IPv4PerENI Count
	IPv6PerENI Count
	// ENITotal counts the trunk's member ENIs too.
	ENITotal Count
	// Trunk: the type can carry member ENIs on a trunk ENI; TrunkKnown: a source says whether it can.
	Trunk, TrunkKnown bool
	// BandwidthBase is the guaranteed bandwidth and BandwidthBurst the short-time
	// maximum (0: none published), both in Gbit/s.
	BandwidthBase  float64
	BandwidthBurst float64
	// Queues is the number of NIC queues.
	Queues Count
	// Source says where the figures come from.
	Source string
}

// MaxPodsShared is how many pods fit a node whose pods share the secondary ENIs:
// (ENIs − 1) × addresses per ENI. Not ok when a figure is unknown.
func (t Type) MaxPodsShared() (n int, ok bool) {
	if !t.ENIs.Known || !t.IPv4PerENI.Known {
		return 0, false
	}
	return max(t.ENIs.N-1, 0) * t.IPv4PerENI.N, true
}

// MaxPodsExclusive is how many pods fit a node whose pods have an ENI each.
func (t Type) MaxPodsExclusive() (n int, ok bool) {
	if !t.ENIs.Known {
		return 0, false
	}
	return max(t.ENIs.N-1, 0), true
}

// PrefixSize is how many addresses a prefix has: the cloud's IPv4 prefixes are /28.
const PrefixSize = 16

// MaxPodsPrefix is how many pods fit a node whose secondary ENIs carry a /28 prefix
// in each place that the ENI's own primary address leaves free.
func (t Type) MaxPodsPrefix() (n int, ok bool) {
	if !t.ENIs.Known || !t.IPv4PerENI.Known {
		return 0, false
	}
	return max(t.ENIs.N-1, 0) * max(t.IPv4PerENI.N-1, 0) * PrefixSize, true
}

// MaxPodsTrunk is how many pods can have a member ENI of the node's trunk.
func (t Type) MaxPodsTrunk() (n int, ok bool) {
	if !t.Trunk || !t.ENIs.Known || !t.ENITotal.Known {
		return 0, false
	}
	return max(t.ENITotal.N-t.ENIs.N, 0), true
}

// Generation is the number in the family's name: 6 for ecs.g6 and ecs.ebmgn6e,
// 0 when it has none.
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

// JumboFrames reports whether the type can have an MTU of 8500. The table has no
// column for it: from the seventh generation on it is so for every type whose
// figure was published, before it for none.
func (t Type) JumboFrames() bool { return t.Generation() >= 7 }

// BandwidthKbit is the base bandwidth as DescribeInstanceTypes gives it: kbit/s,
// a Gbit/s being 1024000 of them. 0 when unknown.
func (t Type) BandwidthKbit() int { return int(math.Round(t.BandwidthBase * kbitPerGbit)) }

// kbitPerGbit is the unit of DescribeInstanceTypes: InstanceBandwidthTx is 3072000 for 3 Gbit/s.
const kbitPerGbit = 1024 * 1000

// GbitOfKbit is the inverse of BandwidthKbit, to a megabit.
func GbitOfKbit(kbit int) float64 { return math.Round(float64(kbit)/kbitPerGbit*1000) / 1000 }

// Catalog is a set of types. It does not change.
type Catalog struct {
	types []Type // by name
	index map[string]int
}

// New makes a catalog; names must differ.
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

// Lookup finds a type by its name, "ecs.g6.2xlarge".
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

// Default is the built-in catalog.
func Default() *Catalog {
	c, err := parsed()
	if err != nil {
		panic("instance-types.csv, built in: " + err.Error())
	}
	return c
}

// Lookup finds a type in the built-in catalog.
func Lookup(name string) (Type, bool) { return Default().Lookup(name) }
