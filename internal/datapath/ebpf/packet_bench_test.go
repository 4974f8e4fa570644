//go:build bench

package ebpf

import (
	"net/netip"
	"os"
	"testing"

	bpf "github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/tcprog"
	"terway.dev/terway/internal/testutil"
	"terway.dev/terway/test/bench/packet"
)

// The ends of what is measured: a local pod, another, one of another node, a Service.
var (
	ownPod   = [2]netip.Addr{netip.MustParseAddr("192.168.32.5"), netip.MustParseAddr("2001:db8::5")}
	nearPod  = [2]netip.Addr{netip.MustParseAddr("192.168.32.9"), netip.MustParseAddr("2001:db8::9")}
	farPod   = [2]netip.Addr{netip.MustParseAddr("192.168.40.7"), netip.MustParseAddr("2001:db8::1:7")}
	services = [2]netip.Addr{netip.MustParseAddr("172.21.0.10"), netip.MustParseAddr("fd00:21::10")}
	gateways = [2]netip.Addr{netip.MustParseAddr("192.168.63.253"), netip.MustParseAddr("2001:db8::fd")}
)

// version is one set of programs, its maps filled.
type version struct {
	programs map[string]*bpf.Program
	// known makes a flow one that goes directly; asking one that the stack keeps.
	known, asking func(packet.Flow) error
	// undecided is what a program returns that leaves a packet to the stack.
	undecided map[string]uint32
}

// TestPacket compares the programs with those of the object file BEFORE, if it is given:
//
//	git show REVISION:internal/datapath/ebpf/shortcut_bpfel.o > before.o
//	BEFORE=$PWD/before.o make bench-packet
//
// With GATE=1 it fails if a goal is missed.
func TestPacket(t *testing.T) {
	testutil.RequireRoot(t)
	rounds, err := packet.Number("ROUNDS", 41)
	if err != nil {
		t.Fatal(err)
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	after := current(t)
	var before *version
	if path := os.Getenv("BEFORE"); path != "" {
		before = former(t, path)
	}
	missed, err := packet.Compare(os.Stdout, rounds, costs(t, before, after))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range missed {
		if os.Getenv("GATE") != "" {
			t.Error(m)
		}
	}
}

// Goals: a packet of a connection that goes directly, and any other.
const (
	hot     = 0.7
	noWorse = 1.05 // as before, but for the noise
)

const redirected = 7 // TC_ACT_REDIRECT

func costs(t *testing.T, before, after *version) (list []packet.Cost) {
	t.Helper()
	add := func(name, program string, f packet.Flow, mark uint32, direct bool, goal float64) {
		t.Helper()
		c := packet.Cost{Name: program + ": " + name, AtMost: goal}
		for _, side := range []struct {
			v  *version
			to **packet.Case
		}{{before, &c.Before}, {after, &c.After}} {
			if side.v == nil {
				continue
			}
			verdict := uint32(redirected)
			if !direct {
				verdict = side.v.undecided[program]
			}
			prepare := side.v.asking
			if direct {
				prepare = side.v.known
			}
			*side.to = &packet.Case{
				Name: c.Name, Program: side.v.programs[program], Frame: f.Frame(packet.ACK), Mark: mark, Verdict: verdict,
				Prepare: func() error { return prepare(f) },
			}
		}
		list = append(list, c)
	}
	for i, family := range []string{"IPv4", "IPv6"} {
		port := uint16(40000)
		flow := func(to netip.Addr, tcp bool) packet.Flow {
			port++
			return packet.Flow{From: netip.AddrPortFrom(ownPod[i], port), To: netip.AddrPortFrom(to, 80), TCP: tcp}
		}
		far, near := flow(farPod[i], true), flow(nearPod[i], true)
		farUDP, service := flow(farPod[i], false), flow(services[i], true)
		for _, program := range []string{fromPod, FromNetkit} {
			add(family+" TCP to the VPC", program, far, 0, true, hot)
			add(family+" TCP to a pod here", program, near, 0, true, hot)
			add(family+" UDP to the VPC", program, farUDP, 0, true, hot)
			add(family+" to a Service", program, service, 0, false, noWorse)
		}
		add(family+" TCP into a pod", fromENI, far.Back(), 0, true, hot)
		add(family+" UDP into a pod", fromENI, farUDP.Back(), 0, true, hot)
		add(family+" for the node", fromENI, packet.Flow{From: far.To, To: netip.AddrPortFrom(services[i], 80), TCP: true}, 0, false, noWorse)
		add(family+" past the stack", toENI, far, 0, false, 0)
		add(family+" by the stack", toENI, far, claims.MarkOf(1), false, noWorse)
		add(family+" by the stack", ToPod, service.Back(), 0, false, noWorse)
	}
	return list
}

// current are the programs of this tree.
func current(t *testing.T) *version {
	t.Helper()
	spec, err := loadShortcut()
	if err != nil {
		t.Fatal(err)
	}
	return shapeOne(t, spec)
}

// former are those of another object file.
func former(t *testing.T, path string) *version {
	t.Helper()
	spec, err := bpf.LoadCollectionSpec(path)
	if err != nil {
		t.Fatal(err)
	}
	return shapeOne(t, spec)
}

// shapeOne fills the maps of the version with tw_flows_1.
func shapeOne(t *testing.T, spec *bpf.CollectionSpec) *version {
	t.Helper()
	spec.Maps["tw_flows_1"].MaxEntries = 262144
	coll, err := bpf.NewCollection(spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(coll.Close)
	type pod struct {
		Ifindex, Mtu, Eni, EniMtu uint32
		Gateway                   [4]uint32
		Macs                      [12]uint8
		_                         uint32
	}
	type key struct {
		Src, Dst     [4]uint32
		Sport, Dport [2]byte
		Proto        uint8
		_            [3]uint8
	}
	type flow struct {
		Since        uint64
		State, _zero uint32
	}
	for i := range ownPod {
		p := pod{Ifindex: packet.Loopback, Mtu: 1500, Eni: packet.Loopback, EniMtu: 1500, Gateway: tcprog.Words(gateways[i])}
		for _, a := range []netip.Addr{ownPod[i], nearPod[i]} {
			if err := coll.Maps["tw_pods_1"].Put(tcprog.Words(a), p); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := coll.Maps["tw_enis_1"].Put(uint32(packet.Loopback), uint32(packet.Loopback)); err != nil {
		t.Fatal(err)
	}
	put := func(f packet.Flow, state uint32) error {
		k := key{Src: tcprog.Words(f.From.Addr()), Dst: tcprog.Words(f.To.Addr()), Proto: 17}
		if f.TCP {
			k.Proto = 6
		}
		k.Sport, k.Dport = big(f.From.Port()), big(f.To.Port())
		return coll.Maps["tw_flows_1"].Put(k, flow{Since: now(t), State: state})
	}
	return &version{
		programs: coll.Programs,
		known: func(f packet.Flow) error {
			if err := put(f, 2); err != nil {
				return err
			}
			return put(f.Back(), 2)
		},
		asking:    func(f packet.Flow) error { return put(f, 1) },
		undecided: map[string]uint32{fromPod: 0, FromNetkit: 0, fromENI: ^uint32(0), toENI: ^uint32(0), ToPod: 0},
	}
}

// now is the clock that programs read.
func now(t *testing.T) uint64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		t.Fatal(err)
	}
	return uint64(ts.Nano())
}

func big(port uint16) [2]byte { return [2]byte{byte(port >> 8), byte(port)} }
