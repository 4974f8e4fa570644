package compile

import (
	"encoding/binary"
	"net/netip"
	"sort"

	"terway.dev/terway/internal/policy"
)

// A Packet is what is looked up: the first one of a connection.
type Packet struct {
	Endpoint                    uint32
	Direction                   policy.Direction
	Peer                        netip.Addr
	Protocol                    uint8
	SourcePort, DestinationPort uint16
	ICMPType, ICMPCode          uint8
}

// Lookup is the row of Verdicts for a packet. It is what the kernel's program does, step by
// step: the address's atom from a hash map or by a search in the ranges, the rule set's
// table for the atom or else for its base, a search for the number in it, and the same in the
// default table if what was found does not win against everything.
func (m *Maps) Lookup(p Packet) uint32 {
	e := &m.Endpoints[p.Endpoint]
	f := familyOf(p.Peer)
	rs := e.RuleSets[p.Direction][f]
	if rs == 0 {
		return 0
	}
	at, ok := m.Addresses[p.Peer.As16()]
	if !ok {
		at.Atom = m.rangeAtom(p.Peer)
		at.Base = at.Atom
	}
	class, number := ClassOf(p.Protocol), uint16(p.Protocol)
	switch class {
	case TCP, UDP, SCTP:
		number = p.DestinationPort
	case ICMP, ICMPv6:
		number = uint16(p.ICMPType)<<8 | uint16(p.ICMPCode)
	}
	verdict, said := uint32(0), false
	table, ok := m.Peers[PeerKey{rs, at.Atom}]
	if !ok && at.Base != at.Atom {
		table = m.Peers[PeerKey{rs, at.Base}]
	}
	if table != 0 {
		verdict, said = m.find(m.Tables[table][class], number, p.SourcePort)
		if said && m.Verdicts[verdict].Level == levelFinal {
			return verdict
		}
	}
	byDefault, _ := m.find(m.Tables[e.Defaults[p.Direction][f][at.Kind]][class], number, p.SourcePort)
	if said && m.Verdicts[verdict].Level < m.Verdicts[byDefault].Level {
		return verdict
	}
	return byDefault
}

func (m *Maps) rangeAtom(a netip.Addr) uint32 {
	b := a.As16()
	if a.Is4() {
		from := binary.BigEndian.Uint32(b[12:])
		return m.Ranges4[sort.Search(len(m.Ranges4), func(i int) bool { return m.Ranges4[i].From > from })-1].Atom
	}
	high, low := binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
	return m.Ranges6[sort.Search(len(m.Ranges6), func(i int) bool {
		r := m.Ranges6[i].From
		return r[0] > high || r[0] == high && r[1] > low
	})-1].Atom
}

// find is the verdict of a line, and false if it says nothing of the number.
func (m *Maps) find(s Slice, number, source uint16) (uint32, bool) {
	if s.Count == 0 {
		return 0, false
	}
	row := m.span(s, number)
	if row.Kind == SpanSources {
		row = m.span(m.Sources[row.Value], source)
	}
	return row.Value, row.Kind == SpanVerdict
}

func (m *Maps) span(s Slice, number uint16) SpanRow {
	rows := m.Spans[s.First : s.First+s.Count]
	return rows[sort.Search(len(rows), func(i int) bool { return rows[i].From > number })-1]
}

// Decision is what a row of Verdicts says.
func (m *Maps) Decision(verdict uint32) policy.Decision {
	v := m.Verdicts[verdict]
	r := m.Rules[v.Rule]
	d := policy.Decision{Action: policy.Action(v.Action), Reason: r.Reason, Tier: r.Tier, Rule: r.Rule}
	for _, l := range m.Logs[v.Log : v.Log+uint32(v.Count)] {
		d.Logs = append(d.Logs, m.Rules[l].Rule)
	}
	return d
}
