//go:build bench

package ebpf

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	bpf "github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/fastpath"
	"terway.dev/terway/test/bench/packet"
)

// version is one set of programs, its maps filled.
type version struct {
	programs map[string]*bpf.Program
	// known makes a connection one that goes directly; asking one that the stack keeps.
	known, asking func(packet.Tuple) error
	// undecided is what a program returns that leaves a packet to the stack.
	undecided map[string]uint32
}

// TestPacket compares the programs with those in the directory BEFORE, if it is given.
func TestPacket(t *testing.T) {
	packet.Run(t, func(h *netlink.Handle, dir string) ([]packet.Cost, error) {
		after, err := current(t, h)
		if err != nil || dir == "" {
			return costs(nil, after), err
		}
		before, err := former(t, filepath.Join(dir, "fastpath_bpfel.o"))
		if err != nil {
			return nil, err
		}
		return costs(before, after), nil
	})
}

// Goals: a packet of a connection that goes directly, and any other.
const (
	hot     = 0.7
	noWorse = packet.NoWorse
)

const redirected = packet.Redirected

// strays are packets from the VPC for addresses that no pod has.
const strays = " for nobody here"

func costs(before, after *version) (list []packet.Cost) {
	add := func(name, program string, f packet.Tuple, mark uint32, direct bool, goal float64) {
		c := packet.Cost{Name: program + ": " + name, AtMost: goal}
		for _, side := range []struct {
			v  *version
			to **packet.Case
		}{{before, &c.Before}, {after, &c.After}} {
			if side.v == nil {
				continue
			}
			verdict := uint32(redirected)
			switch {
			case strings.HasSuffix(name, strays):
				verdict = undecided
			case !direct:
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
		tuple := func(to netip.Addr, tcp bool) packet.Tuple {
			port++
			return packet.Tuple{From: netip.AddrPortFrom(packet.OwnPod[i], port), To: netip.AddrPortFrom(to, 80), TCP: tcp}
		}
		far, near := tuple(packet.FarPod[i], true), tuple(packet.NearPod[i], true)
		farUDP, service, farService := tuple(packet.FarPod[i], false), tuple(packet.Services[i], true), tuple(packet.FarPod[i], true)
		for _, program := range []string{fromPod, FromNetkit} {
			add(family+" TCP to the VPC", program, far, 0, true, hot)
			add(family+" TCP to a pod here", program, near, 0, true, hot)
			add(family+" UDP to the VPC", program, farUDP, 0, true, hot)
			add(family+" to a Service", program, service, 0, false, noWorse)
		}
		add(family+" TCP into a pod", fromENI, far.Back(), 0, true, hot)
		add(family+" UDP into a pod", fromENI, farUDP.Back(), 0, true, hot)
		add(family+" of a Service", fromENI, farService.Back(), 0, false, noWorse)
		add(family+strays, fromENI, packet.Tuple{From: far.To, To: netip.AddrPortFrom(packet.Services[i], 80), TCP: true}, 0, false, noWorse)
		add(family+" from the fast path", toENI, far, 0, false, 0)
		add(family+" from the host stack", toENI, far, claims.MarkOf(1), false, noWorse)
		add(family+" from the host stack", ToPod, service.Back(), 0, false, noWorse)
	}
	return list
}

// undecided is what programs return that leave a packet to the stack.
const undecided = packet.Undecided

// current are the programs of this tree.
func current(t *testing.T, h *netlink.Handle) (*version, error) {
	o, err := load(nil, fastpath.SizesOf(131072), true)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = o.Close() })
	var errs []error
	errs = append(errs, o.FollowConntrack())
	errs = append(errs, o.Maps[fastpath.MapENIs].Put(uint32(packet.Loopback), uint32(packet.Loopback)))
	for i := range packet.OwnPod {
		for _, a := range []netip.Addr{packet.OwnPod[i], packet.NearPod[i]} {
			errs = append(errs, table(o).Put(a, fastpathPod{
				Addr: addrKey(a), Ifindex: packet.Loopback, Mtu: 1500, Eni: packet.Loopback, EniMtu: 1500, Gateway: addrKey(packet.Gateways[i]),
			}))
		}
	}
	errs = append(errs, packet.NeverAgain(o.Maps))
	from := func(f packet.Tuple) *bpf.Program {
		if f.From.Addr() == packet.OwnPod[0] || f.From.Addr() == packet.OwnPod[1] {
			return o.Programs[fromPod]
		}
		return o.Programs[fromENI]
	}
	return &version{
		programs:  o.Programs,
		asking:    func(f packet.Tuple) error { return packet.Ask(o.Maps, from(f), f.Frame(packet.ACK)) },
		known:     func(f packet.Tuple) error { return packet.Know(o.Maps, from(f), f.Frame(packet.ACK)) },
		undecided: map[string]uint32{fromPod: undecided, FromNetkit: undecided, fromENI: undecided, toENI: undecided, ToPod: undecided},
	}, errors.Join(errs...)
}

// former are those of an object file of the version before, which had tw_flows_1.
func former(t *testing.T, path string) (*version, error) {
	spec, err := bpf.LoadCollectionSpec(path)
	if err != nil {
		return nil, err
	}
	if spec.Maps["tw_flows_1"] == nil {
		return nil, fmt.Errorf("%s is not of the version before: it has no map tw_flows_1", path)
	}
	spec.Maps["tw_flows_1"].MaxEntries = 262144
	coll, err := bpf.NewCollection(spec)
	if err != nil {
		return nil, err
	}
	t.Cleanup(coll.Close)
	type pod struct {
		Ifindex, Mtu, Eni, EniMtu uint32
		Gateway                   [4]uint32
		Macs                      [12]uint8
		_                         uint32
	}
	for i := range packet.OwnPod {
		p := pod{Ifindex: packet.Loopback, Mtu: 1500, Eni: packet.Loopback, EniMtu: 1500, Gateway: fastpath.Words(packet.Gateways[i])}
		for _, a := range []netip.Addr{packet.OwnPod[i], packet.NearPod[i]} {
			if err := coll.Maps["tw_pods_1"].Put(fastpath.Words(a), p); err != nil {
				return nil, err
			}
		}
	}
	if err := coll.Maps["tw_enis_1"].Put(uint32(packet.Loopback), uint32(packet.Loopback)); err != nil {
		return nil, err
	}
	flows := coll.Maps["tw_flows_1"]
	return &version{
		programs:  coll.Programs,
		asking:    func(f packet.Tuple) error { return packet.AskFormer(flows, f) },
		known:     func(f packet.Tuple) error { return packet.KnowFormer(flows, f) },
		undecided: map[string]uint32{fromPod: 0, FromNetkit: 0, fromENI: 0, toENI: undecided, ToPod: 0},
	}, nil
}
