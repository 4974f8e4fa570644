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

// Maps is a node's part as arrays and hash maps with the rows of the kernel's maps. Parts refer
// to each other by row number. Row 0 of each array means "none".
type Maps struct {
	Endpoints []EndpointRow
	// EndpointOf has the row of a pod's endpoint.
	EndpointOf map[policy.NamespacedName]uint32

	Addresses map[[16]byte]AddressRow // IPv4 addresses are mapped
	// Ranges are IPv4's, as many as IPv4 says, and then IPv6's.
	Ranges []RangeRow
	IPv4   int
	Peers  map[PeerKey]uint32 // a table; 0: none, and none for the base
	// Spans has tables too. The number of a table is that of its first row.
	Spans    []SpanRow
	Verdicts []VerdictRow
	Logs     []uint32 // rows in Rules

	// Rules describes rules for people: verdicts and logs refer to its rows.
	Rules []RuleRow
}

// An EndpointRow is 56 bytes. Rule set 0 means closed.
type EndpointRow struct {
	RuleSets [2][2]uint32    // by direction and family
	Defaults [2][2][2]uint32 // by direction, family and kind
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
	Kind       uint32 // 1: a pod
}

// A RangeRow is 24 bytes.
type RangeRow struct {
	From [2]uint64 // the halves of the address; IPv4 addresses are mapped
	Atom uint32
	_    uint32
}

// A PeerKey is 8 bytes.
type PeerKey struct{ RuleSet, Atom uint32 }

// A SpanRow is 8 bytes. A table has one for each Class: nothing, or a line.
type SpanRow struct {
	From, Kind uint16
	Value      uint32
}

// Kinds of spans.
const (
	SpanNothing = iota // no decision
	SpanVerdict        // Value is a row of Verdicts
	SpanSources        // Value is the row of a line by source port
	SpanLine           // the line is From + 1 rows, from row Value on
)

// FirstTable is the row of the first table: those before it are a table that says nothing.
const FirstTable = uint32(classes)

// A VerdictRow is 16 bytes. Row 0 is for closed endpoints.
type VerdictRow struct {
	Action uint8 // policy.Allow or policy.Deny
	Count  uint8 // rows of Logs
	Level  uint16
	Rule   uint32
	Log    uint32 // first row of Logs
	_      uint32
}

// A RuleRow describes what decided.
type RuleRow struct {
	Reason policy.Reason
	Tier   string
	Rule   policy.RuleID
}

// numbering gives each key a row number, in the order of first use.
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

// Maps returns the rows of a node's part. Equal parts give equal rows.
func (n *Node) Maps() *Maps {
	closed := RuleRow{Reason: policy.Closed}
	m := &Maps{
		Endpoints:  []EndpointRow{{}},
		EndpointOf: map[policy.NamespacedName]uint32{},
		Addresses:  map[[16]byte]AddressRow{},
		Peers:      map[PeerKey]uint32{},
		Spans:      make([]SpanRow, FirstTable),
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
	verdict := func(d *Decision, level uint16) uint32 {
		return verdicts.row(leveled{d.hash, level}, func() VerdictRow {
			row := VerdictRow{Action: uint8(d.Action), Level: level, Rule: rule(RuleRow{d.Reason, d.Tier, d.Rule})}
			logs := d.Logged()
			if len(logs) > 0 {
				row.Count, row.Log = uint8(len(logs)), uint32(len(m.Logs))
			}
			for _, l := range logs {
				m.Logs = append(m.Logs, rule(RuleRow{Reason: policy.ByRule, Rule: l}))
			}
			return row
		})
	}
	tables := map[Hash]uint32{}
	for _, h := range sortedHashes(n.Tables) {
		tables[h] = uint32(len(m.Spans))
		m.Spans = append(m.Spans, n.Tables[h].Rows(tables[h], verdict)...)
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
	m.IPv4 = len(n.Ranges[v4])
	for _, ranges := range n.Ranges {
		for _, r := range ranges {
			m.Ranges = append(m.Ranges, r.Row(atom))
		}
	}
	for _, a := range slices.SortedFunc(maps.Keys(n.Addresses), netip.Addr.Compare) {
		m.Addresses[a.As16()] = n.Addresses[a].Row(atom)
	}
	for p, table := range n.Peers {
		m.Peers[PeerKey{ruleSets[p.RuleSet], atom(p.Atom)}] = tables[table]
	}
	for _, name := range slices.SortedFunc(maps.Keys(n.Endpoints), compareNames) {
		m.EndpointOf[name] = uint32(len(m.Endpoints))
		m.Endpoints = append(m.Endpoints, n.EndpointRow(name, func(h Hash) uint32 { return ruleSets[h] }, func(h Hash) uint32 { return tables[h] }))
	}
	m.Verdicts, m.Rules = verdicts.rows, rules.rows
	return m
}

// EndpointRow returns the row of one of the Endpoints. ruleSet and table map names to row
// numbers.
func (n *Node) EndpointRow(name policy.NamespacedName, ruleSet, table func(Hash) uint32) (row EndpointRow) {
	for d, families := range n.Endpoints[name].RuleSets {
		for f, h := range families {
			rs, ok := n.RuleSets[h]
			if !ok || rs.Closed {
				continue
			}
			row.RuleSets[d][f] = ruleSet(h)
			for k, t := range rs.Defaults {
				row.Defaults[d][f][k] = table(t)
			}
			if rs.Selected {
				row.Flags |= SelectedIngress << d
			}
		}
	}
	return row
}

// Row returns the place as a row. atom maps atoms to numbers, and the zero Hash to 0.
func (p Place) Row(atom func(Hash) uint32) AddressRow {
	row := AddressRow{Atom: atom(p.Atom), Base: atom(p.Base)}
	if p.Pod {
		row.Kind = uint32(pods)
	}
	return row
}

// Row returns the range as a row. atom is as in Place.Row.
func (r Range) Row(atom func(Hash) uint32) RangeRow {
	b := r.From.As16()
	return RangeRow{From: halves(b), Atom: atom(r.Atom)}
}

func halves(b [16]byte) [2]uint64 {
	return [2]uint64{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

// Rows returns the table as rows, of which the first gets the given row number. verdict maps a decision and its level to a row
// number.
func (t *Table) Rows(first uint32, verdict func(d *Decision, level uint16) uint32) []SpanRow {
	rows := make([]SpanRow, classes, t.Size())
	var line func(Line) SpanRow
	line = func(l Line) SpanRow {
		if len(l) == 0 {
			return SpanRow{}
		}
		of := make([]SpanRow, len(l))
		for i, s := range l {
			of[i].From = s.From
			switch {
			case s.Decision != nil:
				of[i].Kind, of[i].Value = SpanVerdict, verdict(s.Decision, s.Level)
			case s.Sources != nil:
				by := line(*s.Sources)
				of[i].Kind, of[i].Value = SpanSources, first+uint32(len(rows))
				rows = append(rows, by)
			}
		}
		head := SpanRow{From: uint16(len(l) - 1), Kind: SpanLine, Value: first + uint32(len(rows))}
		rows = append(rows, of...)
		return head
	}
	for class, l := range t.Lines {
		head := line(l)
		rows[class] = head
	}
	return rows
}

// Size returns the number of rows that Rows returns.
func (t *Table) Size() int {
	n := int(classes)
	for _, l := range t.Lines {
		n += len(l)
		for _, s := range l {
			if s.Sources != nil {
				n += 1 + len(*s.Sources)
			}
		}
	}
	return n
}

// Logged returns the rules that log. A packet is logged by at most so many, the first ones.
func (d *Decision) Logged() []policy.RuleID { return d.Logs[:min(len(d.Logs), math.MaxUint8)] }

func compareNames(a, b policy.NamespacedName) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}
