//go:build bench

package ipvlan

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"

	bpf "github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/fastpath"
	"terway.dev/terway/test/bench/packet"
)

// eniMAC is the ENI's and, which no real one is, the pods' next hop's too: a frame that is sent
// again and again must look the same each time.
var eniMAC = [6]uint8{2, 0, 0, 0, 0, 1}

// version is one set of programs, its maps filled.
type version struct {
	programs      map[string]*bpf.Program
	known, asking func(packet.Tuple) error
}

// TestPacket compares the programs with those in the directory BEFORE, if it is given.
func TestPacket(t *testing.T) {
	packet.Run(t, func(h *netlink.Handle, dir string) ([]packet.Cost, error) {
		after, err := current(t, h)
		if err != nil || dir == "" {
			return costs(nil, after), err
		}
		before, err := former(t, filepath.Join(dir, "slaves_bpfel.o"))
		if err != nil {
			return nil, err
		}
		return costs(before, after), nil
	})
}

func frame(program string, f packet.Tuple) []byte {
	b := f.Frame(packet.ACK)
	if program != fromENI { // the VPC's frames are for loopback, where they arrive here
		copy(b, eniMAC[:])
	}
	return b
}

func costs(before, after *version) (list []packet.Cost) {
	add := func(name, program string, f packet.Tuple, mark uint32, known bool, verdict uint32) {
		c := packet.Cost{Name: program + ": " + name, AtMost: packet.NoWorse}
		for _, side := range []struct {
			v  *version
			to **packet.Case
		}{{before, &c.Before}, {after, &c.After}} {
			if side.v == nil {
				continue
			}
			prepare := side.v.asking
			if known {
				prepare = side.v.known
			}
			*side.to = &packet.Case{
				Name: c.Name, Program: side.v.programs[program], Frame: frame(program, f), Mark: mark, Verdict: verdict,
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
		far, near, udp := tuple(packet.FarPod[i], true), tuple(packet.NearPod[i], true), tuple(packet.FarPod[i], false)
		service := tuple(packet.Services[i], true)
		add(family+" TCP", fromSlave, far, 0, true, packet.Undecided)
		add(family+" TCP to the VPC", toENI, far, 0, true, packet.Redirected)
		add(family+" TCP to a pod here", toENI, near, 0, true, packet.Redirected)
		add(family+" UDP to the VPC", toENI, udp, 0, true, packet.Redirected)
		add(family+" to a Service", toENI, service, 0, false, packet.Redirected)
		add(family+" from the host stack", toENI, far, claims.MarkOf(1), false, packet.Undecided)
		add(family+" TCP into a pod", fromENI, far.Back(), 0, true, packet.Undecided)
		add(family+" UDP into a pod", fromENI, udp.Back(), 0, true, packet.Undecided)
		add(family+" of a Service", fromENI, service.Back(), 0, false, packet.Redirected)
		add(family+" for nobody here", fromENI, packet.Tuple{From: far.To, To: service.To, TCP: true}, 0, false, packet.Undecided)
		add(family+" from the host stack", toSlave, service.Back(), 0, false, packet.Undecided)
	}
	return list
}

// current are the programs of this tree.
func current(t *testing.T, h *netlink.Handle) (*version, error) {
	o, err := load(nil, fastpath.SizesOf(131072))
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = o.Close() })
	var errs []error
	errs = append(errs, o.Maps[fastpath.MapENIs].Put(uint32(packet.Loopback), uint32(packet.Loopback)))
	errs = append(errs, packet.NeverAgain(o.Maps))
	for i := range packet.OwnPod {
		for _, a := range []netip.Addr{packet.OwnPod[i], packet.NearPod[i]} {
			errs = append(errs, table(o).Put(a, slavesSlave{
				Addr: addrKey(a), Host: packet.Loopback, Inner: packet.Loopback, Eni: packet.Loopback, Receiver: packet.Loopback, Mtu: 1500,
				Gateway: addrKey(packet.FarPod[i]), NextHop: eniMAC, EniMac: eniMAC,
			}))
		}
	}
	ask := func(f packet.Tuple, how func(map[string]*bpf.Map, *bpf.Program, []byte) error) error {
		program := fromENI
		if f.From.Addr() == packet.OwnPod[0] || f.From.Addr() == packet.OwnPod[1] {
			program = toENI
		}
		return how(o.Maps, o.Programs[program], frame(program, f))
	}
	return &version{
		programs: o.Programs,
		asking:   func(f packet.Tuple) error { return ask(f, packet.Ask) },
		known:    func(f packet.Tuple) error { return ask(f, packet.Know) },
	}, errors.Join(errs...)
}

// former are those of an object file of the version before, which had tw_flows_1.
func former(t *testing.T, path string) (*version, error) {
	spec, err := bpf.LoadCollectionSpec(path)
	if err != nil {
		return nil, err
	}
	flows := spec.Maps["tw_flows_1"]
	if flows == nil {
		return nil, fmt.Errorf("%s is not of the version before: it has no map tw_flows_1", path)
	}
	flows.MaxEntries = 262144
	coll, err := bpf.NewCollection(spec)
	if err != nil {
		return nil, err
	}
	t.Cleanup(coll.Close)
	for i := range packet.OwnPod {
		for _, a := range []netip.Addr{packet.OwnPod[i], packet.NearPod[i]} {
			if err := coll.Maps[formerSlaves].Put(fastpath.Words(a), formerSlave{1, 1, 1, 1, 1500, addrKey(packet.FarPod[i]), eniMAC, eniMAC}); err != nil {
				return nil, err
			}
		}
	}
	if err := coll.Maps[fastpath.MapENIs].Put(uint32(packet.Loopback), uint32(packet.Loopback)); err != nil {
		return nil, err
	}
	return &version{
		programs: coll.Programs,
		asking:   func(f packet.Tuple) error { return packet.AskFormer(coll.Maps["tw_flows_1"], f) },
		known:    func(f packet.Tuple) error { return packet.KnowFormer(coll.Maps["tw_flows_1"], f) },
	}, nil
}
