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

// Encode makes resources from a node's part and the list of open namespaces, as the hub makes
// them piece by piece.
func Encode(n *compile.Node, open []Named) []Named {
	out := slices.Clone(open)
	addresses := map[compile.Bucket][]compile.AddressPlace{}
	for _, a := range slices.SortedFunc(maps.Keys(n.Addresses), netip.Addr.Compare) {
		b := compile.BucketOf(a)
		addresses[b] = append(addresses[b], compile.AddressPlace{Addr: a, Place: n.Addresses[a]})
	}
	for _, list := range addresses {
		out = append(out, EncodeAddresses(list))
	}
	out = append(out, EncodeRanges(n.Ranges)...)
	for _, t := range n.Tables {
		out = append(out, EncodeTable(t))
	}
	peers := map[compile.Hash][]compile.AtomTable{}
	for p, t := range n.Peers {
		peers[p.RuleSet] = append(peers[p.RuleSet], compile.AtomTable{Atom: p.Atom, Table: t})
	}
	for name, rs := range n.RuleSets {
		list := peers[name]
		slices.SortFunc(list, func(a, b compile.AtomTable) int { return bytes.Compare(a.Atom[:], b.Atom[:]) })
		out = append(out, EncodeRuleSet(&compile.RuleSetPiece{Name: name, RuleSet: rs, Peers: list})...)
	}
	for name, e := range n.Endpoints {
		out = append(out, EncodeEndpoint(name, &e))
	}
	return out
}

// EncodeAddresses makes a resource from the addresses of a bucket, in order.
func EncodeAddresses(list []compile.AddressPlace) Named {
	m := &Addresses{}
	places := map[compile.Place]*Place{}
	for _, a := range list {
		p := places[a.Place]
		if p == nil {
			p = &Place{Atom: hash(a.Atom), Base: hash(a.Base), Pod: a.Pod}
			places[a.Place] = p
			m.Places = append(m.Places, p)
		}
		p.Addresses = append(p.Addresses, a.AsSlice())
	}
	return named(Kind_KIND_ADDRESSES, m)
}

// EncodeRanges makes resources from the ranges of both families.
func EncodeRanges(ranges [2][]compile.Range) (out []Named) {
	for _, ranges := range ranges {
		at := func(r compile.Range) []byte { return r.From.AsSlice() }
		for list := range cut(ranges, at) {
			m := &Ranges{}
			for _, r := range list {
				m.Ranges = append(m.Ranges, &Range{From: r.From.AsSlice(), Atom: hash(r.Atom)})
			}
			out = append(out, named(Kind_KIND_RANGES, m))
		}
	}
	return out
}

// EncodeRuleSet makes resources from a rule set and its peers, without the tables. The rule set
// is the last one.
func EncodeRuleSet(p *compile.RuleSetPiece) (out []Named) {
	for list := range cut(p.Peers, func(p compile.AtomTable) []byte { return p.Atom[:] }) {
		m := &Peers{RuleSet: p.Name[:]}
		for _, p := range list {
			m.Peers = append(m.Peers, &Peer{Atom: hash(p.Atom), Table: hash(p.Table)})
		}
		out = append(out, named(Kind_KIND_PEERS, m))
	}
	return append(out, named(Kind_KIND_RULE_SET, &RuleSet{
		Name: p.Name[:], Defaults: [][]byte{hash(p.Defaults[0]), hash(p.Defaults[1])}, Selected: p.Selected, Closed: p.Closed,
	}))
}

// EncodeEndpoint makes a resource from an endpoint.
func EncodeEndpoint(name policy.NamespacedName, e *compile.Endpoint) Named {
	m := &Endpoint{Namespace: name.Namespace, Pod: name.Name}
	for _, a := range e.Addresses {
		m.Addresses = append(m.Addresses, a.AsSlice())
	}
	for _, families := range e.RuleSets {
		for _, rs := range families {
			m.RuleSets = append(m.RuleSets, hash(rs))
		}
	}
	return named(Kind_KIND_ENDPOINT, m)
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

// hash returns the bytes of a hash, nil for the zero Hash.
func hash(h compile.Hash) []byte {
	if h == (compile.Hash{}) {
		return nil
	}
	return h[:]
}

// A list is split after each entry whose checksum ends in five zero bits: one entry in 32 on
// average. So a change of one entry sends about 32 entries, and a list of 30,000 has 1,000
// names. Addresses are not split so, as they have buckets.
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
