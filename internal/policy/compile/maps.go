package compile

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"maps"
	"math"
	"net/netip"
	"slices"

	"terway.dev/terway/internal/policy"
)

// Maps are a node's part as arrays and hash maps, in which everything is named by where it
// stands: what the kernel's maps hold, word for word. Row 0 of each array means that there
// is none.
type Maps struct {
	Endpoints []EndpointRow
	// EndpointOf is where a pod's endpoint is.
	EndpointOf map[policy.NamespacedName]uint32

	Addresses map[[16]byte]AddressRow // IPv4: mapped
	Ranges4   []Range4
	Ranges6   []Range6
	Peers     map[PeerKey]uint32 // table; 0: none, and none of the base
	Tables    []TableRow
	Spans     []SpanRow
	// Sources are the lines by source port that spans point to.
	Sources  []Slice
	Verdicts []VerdictRow
	Logs     []uint32 // rules

	// Rules is what is said of rows outside the kernel: verdicts and logs point to them.
	Rules []RuleRow
}

// An EndpointRow is 56 bytes. Closed: rule set 0.
type EndpointRow struct {
	RuleSets [2][2]uint32    // direction, family
	Defaults [2][2][2]uint32 // and kind: the default tables
	Flags    uint32
	_        uint32
}

// Flags of an endpoint.
const (
	SelectedIngress = 1 << iota // a policy selects it
	SelectedEgress
)

// An AddressRow is 12 bytes.
type AddressRow struct {
	Atom, Base uint32
	Kind       uint32 // 0, 1: a pod
}

// A Range4 is 8 bytes.
type Range4 struct{ From, Atom uint32 }

// A Range6 is 24 bytes.
type Range6 struct {
	From [2]uint64 // the halves of the address
	Atom uint32
	_    uint32
}

// A PeerKey is 8 bytes.
type PeerKey struct{ RuleSet, Atom uint32 }

// A TableRow is 48 bytes: its lines, by Class.
type TableRow [classes]Slice

// A Slice is rows of Spans.
type Slice struct{ First, Count uint32 }

// A SpanRow is 8 bytes.
type SpanRow struct {
	From, Kind uint16
	Value      uint32
}

// Kinds of spans.
const (
	SpanNothing = iota // it says nothing
	SpanVerdict        // Value is a row of Verdicts
	SpanSources        // Value is a row of Sources
)

// A VerdictRow is 16 bytes. Row 0 is that of endpoints which are closed.
type VerdictRow struct {
	Action uint8 // policy.Allow or policy.Deny
	Count  uint8 // of Logs
	Level  uint16
	Rule   uint32
	Log    uint32 // the first of Logs
	_      uint32
}

// A RuleRow is what decided.
type RuleRow struct {
	Reason policy.Reason
	Tier   string
	Rule   policy.RuleID
}

// numbering gives rows to what comes, each once.
type numbering[K comparable, R any] struct {
	of   map[K]uint32
	rows []R
}

func numbers[K comparable, R any](first R) *numbering[K, R] {
	return &numbering[K, R]{map[K]uint32{}, []R{first}}
}

func (n *numbering[K, R]) row(k K, newOne func() R) uint32 {
	i, ok := n.of[k]
	if !ok {
		row := newOne()
		i = uint32(len(n.rows))
		n.of[k] = i
		n.rows = append(n.rows, row)
	}
	return i
}

func sortedHashes[V any](m map[Hash]V) []Hash {
	return slices.SortedFunc(maps.Keys(m), func(a, b Hash) int { return bytes.Compare(a[:], b[:]) })
}

// Maps are the rows of a node's part. The same part gives the same rows.
func (n *Node) Maps() *Maps {
	closed := RuleRow{Reason: policy.Closed}
	m := &Maps{
		Endpoints:  []EndpointRow{{}},
		EndpointOf: map[policy.NamespacedName]uint32{},
		Addresses:  map[[16]byte]AddressRow{},
		Peers:      map[PeerKey]uint32{},
		Tables:     []TableRow{{}},
		Spans:      []SpanRow{{}},
		Sources:    []Slice{{}},
		Logs:       []uint32{0},
	}
	rules := numbers[RuleRow](closed)
	rules.of[closed] = 0
	rule := func(r RuleRow) uint32 { return rules.row(r, func() RuleRow { return r }) }
	type leveled struct {
		Hash
		level uint16
	}
	verdicts := numbers[leveled](VerdictRow{Action: uint8(policy.Deny)})
	verdict := func(s Span) uint32 {
		d := s.Decision
		return verdicts.row(leveled{d.hash, s.Level}, func() VerdictRow {
			row := VerdictRow{Action: uint8(d.Action), Level: s.Level, Rule: rule(RuleRow{d.Reason, d.Tier, d.Rule})}
			// A packet is logged by so many rules at most; the first ones.
			logs := d.Logs[:min(len(d.Logs), math.MaxUint8)]
			if len(logs) > 0 {
				row.Count, row.Log = uint8(len(logs)), uint32(len(m.Logs))
			}
			for _, l := range logs {
				m.Logs = append(m.Logs, rule(RuleRow{Reason: policy.ByRule, Rule: l}))
			}
			return row
		})
	}
	var line func(Line) Slice
	line = func(l Line) Slice {
		if len(l) == 0 {
			return Slice{}
		}
		rows := make([]SpanRow, len(l))
		for i, s := range l {
			rows[i].From = s.From
			switch {
			case s.Decision != nil:
				rows[i].Kind, rows[i].Value = SpanVerdict, verdict(s)
			case s.Sources != nil:
				by := line(*s.Sources)
				rows[i].Kind, rows[i].Value = SpanSources, uint32(len(m.Sources))
				m.Sources = append(m.Sources, by)
			}
		}
		s := Slice{uint32(len(m.Spans)), uint32(len(rows))}
		m.Spans = append(m.Spans, rows...)
		return s
	}
	tables := map[Hash]uint32{}
	for _, h := range sortedHashes(n.Tables) {
		var row TableRow
		for class, l := range n.Tables[h].Lines {
			row[class] = line(l)
		}
		tables[h] = uint32(len(m.Tables))
		m.Tables = append(m.Tables, row)
	}
	ruleSets := map[Hash]uint32{}
	for i, h := range sortedHashes(n.RuleSets) {
		ruleSets[h] = uint32(i + 1)
	}
	atoms := map[Hash]uint32{{}: 0}
	atom := func(h Hash) uint32 {
		if _, ok := atoms[h]; !ok {
			atoms[h] = uint32(len(atoms))
		}
		return atoms[h]
	}
	for f, ranges := range n.Ranges {
		for _, r := range ranges {
			b := r.From.As16()
			if family(f) == v4 {
				m.Ranges4 = append(m.Ranges4, Range4{binary.BigEndian.Uint32(b[12:]), atom(r.Atom)})
			} else {
				m.Ranges6 = append(m.Ranges6, Range6{From: [2]uint64{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}, Atom: atom(r.Atom)})
			}
		}
	}
	for _, a := range slices.SortedFunc(maps.Keys(n.Addresses), netip.Addr.Compare) {
		p := n.Addresses[a]
		row := AddressRow{Atom: atom(p.Atom), Base: atom(p.Base)}
		if p.Pod {
			row.Kind = uint32(pods)
		}
		m.Addresses[a.As16()] = row
	}
	for p, table := range n.Peers {
		m.Peers[PeerKey{ruleSets[p.RuleSet], atom(p.Atom)}] = tables[table]
	}
	for _, name := range slices.SortedFunc(maps.Keys(n.Endpoints), compareNames) {
		e := n.Endpoints[name]
		var row EndpointRow
		for d := range e.RuleSets {
			for f, h := range e.RuleSets[d] {
				rs, ok := n.RuleSets[h]
				if !ok || rs.Closed {
					continue
				}
				row.RuleSets[d][f] = ruleSets[h]
				for k, t := range rs.Defaults {
					row.Defaults[d][f][k] = tables[t]
				}
				if rs.Selected {
					row.Flags |= SelectedIngress << d
				}
			}
		}
		m.EndpointOf[name] = uint32(len(m.Endpoints))
		m.Endpoints = append(m.Endpoints, row)
	}
	m.Verdicts, m.Rules = verdicts.rows, rules.rows
	return m
}

func compareNames(a, b policy.NamespacedName) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}
