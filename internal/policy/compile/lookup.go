package compile

import (
	"net/netip"
	"sort"

	"terway.dev/terway/internal/policy"
)

// A Packet is the first packet of a connection.
type Packet struct {
	Endpoint                    uint32
	Direction                   policy.Direction
	Peer                        netip.Addr
	Protocol                    uint8
	SourcePort, DestinationPort uint16
	ICMPType, ICMPCode          uint8
}

// Lookup returns the row of Verdicts for a packet. The eBPF program does the same, step by
// step: it finds the address's atom in a hash map or in the ranges, the table of the rule set
// for the atom or else for its base, and the span of the port in it. If that span's decision is
// not final, it does the same in the default table.
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
		verdict, said = m.find(table+uint32(class), number, p.SourcePort)
		if said && m.Verdicts[verdict].Level == levelFinal {
			return verdict
		}
	}
	byDefault, _ := m.find(e.Defaults[p.Direction][f][at.Kind]+uint32(class), number, p.SourcePort)
	if said && m.Verdicts[verdict].Level < m.Verdicts[byDefault].Level {
		return verdict
	}
	return byDefault
}

func (m *Maps) rangeAtom(a netip.Addr) uint32 {
	ranges := m.Ranges[:m.IPv4]
	if a.Is6() {
		ranges = m.Ranges[m.IPv4:]
	}
	of := halves(a.As16())
	return ranges[sort.Search(len(ranges), func(i int) bool {
		from := ranges[i].From
		return from[0] > of[0] || from[0] == of[0] && from[1] > of[1]
	})-1].Atom
}

// find returns the verdict for a number in a line; false: the line has none.
func (m *Maps) find(line uint32, number, source uint16) (uint32, bool) {
	row := m.span(line, number)
	if row.Kind == SpanSources {
		row = m.span(row.Value, source)
	}
	return row.Value, row.Kind == SpanVerdict
}

func (m *Maps) span(line uint32, number uint16) SpanRow {
	head := m.Spans[line]
	if head.Kind != SpanLine {
		return SpanRow{}
	}
	rows := m.Spans[head.Value:][:int(head.From)+1]
	return rows[sort.Search(len(rows), func(i int) bool { return rows[i].From > number })-1]
}

// Decision returns the decision in a row of Verdicts.
func (m *Maps) Decision(verdict uint32) policy.Decision {
	v := m.Verdicts[verdict]
	r := m.Rules[v.Rule]
	d := policy.Decision{Action: policy.Action(v.Action), Reason: r.Reason, Tier: r.Tier, Rule: r.Rule}
	for _, l := range m.Logs[v.Log : v.Log+uint32(v.Count)] {
		d.Logs = append(d.Logs, m.Rules[l].Rule)
	}
	return d
}
