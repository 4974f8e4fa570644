// Package policyask asks the kernel what policies say of a packet: it runs bpf/policy.h, by which packets are judged, on the maps by
// which they are judged (BPF_PROG_TEST_RUN). It must never attach a program or write into a map.
package policyask

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"terway.dev/terway/internal/datapath/bpfobj"
	"terway.dev/terway/internal/policy/compile"
)

// An Asker has the programs that ask.
type Asker struct{ objects *bpfobj.Objects }

// Load loads them, with the maps of policy.h, which are found by their names and stay the caller's.
func Load(maps map[string]*ebpf.Map) (*Asker, error) {
	spec, err := loadPrograms()
	if err != nil {
		return nil, fmt.Errorf("read the programs that ask about policies: %w", err)
	}
	shared := map[string]*ebpf.Map{}
	for name := range spec.Maps {
		if maps[name] == nil {
			return nil, fmt.Errorf("map %s is not there", name)
		}
		shared[name] = maps[name]
	}
	o, err := bpfobj.Load(spec, nil, &bpfobj.Objects{Maps: shared})
	if err != nil {
		return nil, err
	}
	return &Asker{o}, nil
}

// Close removes the programs from the kernel.
func (a *Asker) Close() error { return a.objects.Close() }

// Packet is struct pol_packet of bpf/policy.h.
type Packet struct {
	Peer                         [16]byte
	SourcePort, DestinationPort  uint16
	Protocol, ICMPType, ICMPCode uint8
	_                            uint8
}

// PacketOf returns what is asked about a packet.
func PacketOf(p compile.Packet) Packet {
	return Packet{Peer: p.Peer.As16(), SourcePort: p.SourcePort, DestinationPort: p.DestinationPort, Protocol: p.Protocol, ICMPType: p.ICMPType, ICMPCode: p.ICMPCode}
}

// question is struct question of bpf/policy_ask.c.
type question struct {
	_                   [16]byte
	Endpoint, Direction uint32
	Own                 [16]byte
	Packet              Packet
	Verdict             compile.VerdictRow
}

func (a *Asker) run(program string, q *question) (uint32, error) {
	var b bytes.Buffer
	if err := binary.Write(&b, binary.LittleEndian, q); err != nil {
		return 0, err
	}
	out := make([]byte, b.Len())
	number, err := a.objects.Programs[program].Run(&ebpf.RunOptions{Data: b.Bytes(), DataOut: out, Repeat: 1})
	if err != nil {
		return 0, fmt.Errorf("run %s: %w", program, err)
	}
	return number, binary.Read(bytes.NewReader(out), binary.LittleEndian, q)
}

// Ask returns the kernel's verdict: its number and its row. The number has a meaning only until the rules change.
func (a *Asker) Ask(about compile.Packet) (uint32, compile.VerdictRow, error) {
	q := question{Endpoint: about.Endpoint, Direction: uint32(about.Direction), Packet: PacketOf(about)}
	number, err := a.run(programsProgTwPolAsk, &q)
	return number, q.Verdict, err
}

// Endpoint returns the number that the kernel has for an address of an endpoint; 0: none, and nothing passes.
func (a *Asker) Endpoint(own netip.Addr) (uint32, error) {
	return a.run(programsProgTwPolEndpoint, &question{Own: own.As16()})
}
