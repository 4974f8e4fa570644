package wire

import (
	"bytes"
	"hash/crc32"
	"maps"
	"net/netip"
	"slices"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
)

// Encode makes resources from a node's part and the list of open namespaces. A resource comes
// after those that it refers to. table makes the resource of a Table; a caller with many nodes
// can cache it.
func Encode(n *compile.Node, open []Named, table func(*compile.Table) Named) []Named {
	out := slices.Clone(open)
	out = append(out, encodeAddresses(n)...)
	for _, ranges := range n.Ranges {
		at := func(r compile.Range) []byte { return r.From.AsSlice() }
		for list := range cut(ranges, at) {
			m := &Ranges{}
			for _, r := range list {
				m.Ranges = append(m.Ranges, &Range{From: r.From.AsSlice(), Atom: hash(r.Atom)})
			}
			out = append(out, named(Kind_KIND_RANGES, m))
		}
	}
	for _, t := range n.Tables {
		out = append(out, table(t))
	}
	out = append(out, encodePeers(n)...)
	for name, rs := range n.RuleSets {
		out = append(out, named(Kind_KIND_RULE_SET, &RuleSet{
			Name: name[:], Defaults: [][]byte{hash(rs.Defaults[0]), hash(rs.Defaults[1])}, Selected: rs.Selected, Closed: rs.Closed,
		}))
	}
	for name, e := range n.Endpoints {
		m := &Endpoint{Namespace: name.Namespace, Pod: name.Name}
		for _, a := range e.Addresses {
			m.Addresses = append(m.Addresses, a.AsSlice())
		}
		for _, families := range e.RuleSets {
			for _, rs := range families {
				m.RuleSets = append(m.RuleSets, hash(rs))
			}
		}
		out = append(out, named(Kind_KIND_ENDPOINT, m))
	}
	return out
}

// EncodeNamespaces makes resources from a list of open namespaces.
func EncodeNamespaces(open []string) (out []Named) {
	slices.Sort(open)
	for list := range cut(open, func(s string) []byte { return []byte(s) }) {
		out = append(out, named(Kind_KIND_NAMESPACES, &Namespaces{Open: list}))
	}
	return out
}

// EncodeTable makes a resource from a table.
func EncodeTable(t *compile.Table) Named {
	m := &Table{Name: t.Hash[:]}
	decisions := map[compile.Hash]uint32{}
	var spans func(compile.Line) []*Span
	spans = func(l compile.Line) (out []*Span) {
		for _, s := range l {
			o := &Span{From: uint32(s.From), Level: uint32(s.Level)}
			switch {
			case s.Decision != nil:
				name := s.Decision.Name()
				if decisions[name] == 0 {
					m.Decisions = append(m.Decisions, encodeDecision(s.Decision.Decision))
					decisions[name] = uint32(len(m.Decisions))
				}
				o.Decision = decisions[name]
			case s.Sources != nil:
				o.Sources = spans(*s.Sources)
			}
			out = append(out, o)
		}
		return out
	}
	for class, l := range t.Lines {
		if len(l) > 0 {
			m.Lines = append(m.Lines, &Line{Class: uint32(class), Spans: spans(l)})
		}
	}
	return named(Kind_KIND_TABLE, m)
}

func encodeDecision(d policy.Decision) *Decision {
	rule := func(r policy.RuleID) *Rule {
		if r == (policy.RuleID{}) {
			return nil
		}
		return &Rule{Kind: r.Policy.Kind, Namespace: r.Policy.Namespace, Name: r.Policy.Name, Direction: uint32(r.Direction), Number: uint32(r.Number)}
	}
	m := &Decision{Action: uint32(d.Action), Reason: uint32(d.Reason), Tier: d.Tier, Rule: rule(d.Rule)}
	for _, l := range d.Logs {
		m.Logs = append(m.Logs, rule(l))
	}
	return m
}

func encodeAddresses(n *compile.Node) (out []Named) {
	at := func(a netip.Addr) []byte { return a.AsSlice() }
	for list := range cut(slices.SortedFunc(maps.Keys(n.Addresses), netip.Addr.Compare), at) {
		m := &Addresses{}
		places := map[compile.Place]*Place{}
		for _, a := range list {
			p := n.Addresses[a]
			if places[p] == nil {
				places[p] = &Place{Atom: hash(p.Atom), Base: hash(p.Base), Pod: p.Pod}
				m.Places = append(m.Places, places[p])
			}
			places[p].Addresses = append(places[p].Addresses, a.AsSlice())
		}
		out = append(out, named(Kind_KIND_ADDRESSES, m))
	}
	return out
}

func encodePeers(n *compile.Node) (out []Named) {
	atoms := map[compile.Hash][]compile.Hash{}
	for p := range n.Peers {
		atoms[p.RuleSet] = append(atoms[p.RuleSet], p.Atom)
	}
	for rs, list := range atoms {
		slices.SortFunc(list, func(a, b compile.Hash) int { return bytes.Compare(a[:], b[:]) })
		for list := range cut(list, func(a compile.Hash) []byte { return a[:] }) {
			m := &Peers{RuleSet: rs[:]}
			for _, a := range list {
				m.Peers = append(m.Peers, &Peer{Atom: hash(a), Table: hash(n.Peers[compile.Peer{RuleSet: rs, Atom: a}])})
			}
			out = append(out, named(Kind_KIND_PEERS, m))
		}
	}
	return out
}

// hash returns the bytes of a hash, nil for the zero Hash.
func hash(h compile.Hash) []byte {
	if h == (compile.Hash{}) {
		return nil
	}
	return h[:]
}

// A list is split after each entry whose checksum ends in five zero bits: one entry in 32 on
// average. So a change of one entry sends about 32 entries, and a list of 30,000 has 1,000
// names.
const (
	cutMask = 1<<5 - 1
	// longest limits a part; random checksums do not reach it.
	longest = 512
)

// cut yields the parts of a sorted list. The positions of the cuts depend only on the entries
// there.
func cut[E any](list []E, key func(E) []byte) func(func([]E) bool) {
	return func(yield func([]E) bool) {
		first := 0
		for i, e := range list {
			if i+1 < len(list) && i+1-first < longest && crc32.ChecksumIEEE(key(e))&cutMask != 0 {
				continue
			}
			if !yield(list[first : i+1]) {
				return
			}
			first = i + 1
		}
	}
}
