package policymap

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
)

// chance makes rows that no compiler makes, but may.
type chance struct{ *rand.Rand }

// numbers are so many at most in order, the first one 0.
func (r chance) numbers(most int, of func() uint64) []uint64 {
	list := []uint64{0}
	for range r.IntN(most) {
		list = append(list, of())
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// port is one of few, and of the largest.
func (r chance) port() uint64 {
	if r.IntN(8) == 0 {
		return 65535 - uint64(r.IntN(2))
	}
	return uint64(r.IntN(12))
}

func (r chance) v4() uint64 {
	if r.IntN(8) == 0 {
		return 1<<32 - 1
	}
	return uint64(r.IntN(30)) << (r.IntN(4) * 8)
}

func (r chance) address() netip.Addr {
	if r.IntN(2) == 0 {
		return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, uint32(r.v4()))))
	}
	halves := [2]uint64{r.v4(), r.v4()}
	return netip.AddrFrom16([16]byte(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, halves[0]), halves[1])))
}

func (r chance) maps() *compile.Maps {
	const ruleSets, atoms, verdicts = 4, 6, 12
	m := &compile.Maps{
		Endpoints: make([]compile.EndpointRow, 7), Addresses: map[[16]byte]compile.AddressRow{}, Peers: map[compile.PeerKey]uint32{},
		Spans: make([]compile.SpanRow, compile.FirstTable), Verdicts: make([]compile.VerdictRow, verdicts),
	}
	m.Verdicts[0].Action = uint8(policy.Deny)
	for i := range m.Verdicts[1:] {
		m.Verdicts[i+1] = compile.VerdictRow{Action: uint8(1 + r.IntN(2)), Level: uint16(r.IntN(4)), Rule: uint32(r.IntN(100)), Log: uint32(r.IntN(9)), Count: uint8(r.IntN(9))}
	}
	var line func(sources bool) compile.SpanRow
	line = func(sources bool) compile.SpanRow {
		if sources && r.IntN(10) == 0 {
			return compile.SpanRow{}
		}
		var rows []compile.SpanRow
		for _, n := range r.numbers(9, r.port) {
			row := compile.SpanRow{From: uint16(n)}
			switch k := r.IntN(8); {
			case k == 0:
			case k < 3 && sources:
				by := line(false)
				row.Kind, row.Value = compile.SpanSources, uint32(len(m.Spans))
				m.Spans = append(m.Spans, by)
			default:
				row.Kind, row.Value = compile.SpanVerdict, uint32(1+r.IntN(verdicts-1))
			}
			rows = append(rows, row)
		}
		head := compile.SpanRow{From: uint16(len(rows) - 1), Kind: compile.SpanLine, Value: uint32(len(m.Spans))}
		m.Spans = append(m.Spans, rows...)
		return head
	}
	tables := []uint32{0}
	for range 9 {
		var heads []compile.SpanRow
		for range compile.FirstTable {
			heads = append(heads, line(true))
		}
		tables = append(tables, uint32(len(m.Spans)))
		m.Spans = append(m.Spans, heads...)
	}
	table := func() uint32 { return tables[r.IntN(len(tables))] }
	for i := range m.Endpoints[1:] {
		for d := range 2 {
			for f := range 2 {
				if r.IntN(10) > 0 {
					m.Endpoints[i+1].RuleSets[d][f] = uint32(1 + r.IntN(ruleSets-1))
				}
				for k := range 2 {
					m.Endpoints[i+1].Defaults[d][f][k] = table()
				}
			}
		}
	}
	for _, n := range r.numbers(12, r.v4) {
		m.Ranges = append(m.Ranges, compile.RangeRow{From: [2]uint64{0, 0xffff<<32 | n}, Atom: uint32(r.IntN(atoms))})
	}
	m.IPv4 = len(m.Ranges)
	for _, high := range r.numbers(4, r.v4) {
		for _, low := range r.numbers(4, r.v4) {
			m.Ranges = append(m.Ranges, compile.RangeRow{From: [2]uint64{high, low}, Atom: uint32(r.IntN(atoms))})
		}
	}
	for range r.IntN(20) {
		m.Addresses[r.address().As16()] = compile.AddressRow{Atom: uint32(r.IntN(atoms)), Base: uint32(r.IntN(atoms)), Kind: uint32(r.IntN(2))}
	}
	for range r.IntN(ruleSets * atoms) {
		m.Peers[compile.PeerKey{RuleSet: uint32(1 + r.IntN(ruleSets-1)), Atom: uint32(r.IntN(atoms))}] = table()
	}
	return m
}

// become makes an array's rows these.
func (a *array[R]) become(rows []R) {
	for i, r := range rows {
		a.set(uint32(i), r)
	}
	a.trim(uint32(len(rows)))
}

// Step by step, whatever the rows are.
func TestTheKernelLooksUpAsMapsDo(t *testing.T) {
	t.Parallel()
	k := newKernel(t, DefaultLimits)
	said, worlds := map[uint32]int{}, few(150)
	for seed := range uint64(worlds) {
		r := chance{rand.New(rand.NewPCG(seed, 16))}
		m := r.maps()
		k.endpoints.become(m.Endpoints)
		addresses := map[[16]byte]addressRow{}
		for a, row := range m.Addresses {
			addresses[a] = addressRow{row, uint32(r.IntN(3))}
		}
		for range 5 {
			a := r.address().As16()
			if _, known := addresses[a]; !known {
				addresses[a] = addressRow{compile.AddressRow{Kind: inRanges}, uint32(r.IntN(3))}
			}
		}
		k.addresses.become(addresses)
		k.ranges.become(m.Ranges)
		k.ipv4 = uint32(m.IPv4)
		k.peers.become(m.Peers)
		k.spans.become(m.Spans)
		k.verdicts.become(m.Verdicts)
		if err := k.commit(); err != nil {
			t.Fatal(err)
		}
		for range 400 {
			p := compile.Packet{
				Endpoint: uint32(r.IntN(20) % len(m.Endpoints)), Direction: policy.Direction(r.IntN(2)), Peer: r.address(),
				Protocol:   []uint8{policy.TCPProtocol, policy.UDPProtocol, policy.SCTPProtocol, policy.ICMPProtocol, policy.ICMPv6Protocol, 0, 7, 255}[r.IntN(8)],
				SourcePort: uint16(r.port()), DestinationPort: uint16(r.port()), ICMPType: uint8(r.IntN(2)), ICMPCode: uint8(r.port()),
			}
			want := m.Lookup(p)
			got, row, err := k.Ask(p)
			if err != nil {
				t.Fatal(err)
			}
			if got != want || row != m.Verdicts[want] {
				t.Fatalf("seed %d: %+v: verdict %d, %+v; want %d, %+v", seed, p, got, row, want, m.Verdicts[want])
			}
			said[want]++
		}
	}
	t.Log(said)
	if said[0] > worlds*400/2 {
		t.Error("most packets meet no rule: the rows are too simple")
	}
}
