package ipvlan

import (
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"terway.dev/terway/internal/datapath/bpfobj"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/fastpath"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/tcfilter"
	"terway.dev/terway/internal/netlinkx"
)

// Names of programs and maps in bpf/ipvlan.c.
const (
	fromSlave = slavesProgTwFromSlave
	toSlave   = slavesProgTwToSlave
	fromENI   = slavesProgTwEniSlaves
	toENI     = slavesProgTwSlavesEni

	// Only bpf/policed_ipvlan.c has these.
	intoStack = policedProgTwIntoStack
	intoSlave = policedProgTwIntoSlave
	byENI     = policedProgTwReceiver

	mapSlaves = slavesMapTwSlaves2
)

const filters = tcfilter.Filters(claims.PrefIPvlan)

var (
	eniHooks = []tcfilter.Hook{{Parent: tcfilter.Ingress, Program: fromENI}, {Parent: tcfilter.Egress, Program: toENI}}
	// Without policies only the first one of each is there, and none at the receiver.
	hostHooks     = fastpath.TC{Filters: filters, Hooks: []tcfilter.Hook{{Parent: tcfilter.Egress, Program: toSlave}, {Parent: tcfilter.Ingress, Program: intoStack}}}
	innerHooks    = fastpath.TC{Filters: filters, Hooks: []tcfilter.Hook{{Parent: tcfilter.Egress, Program: fromSlave}, {Parent: tcfilter.Ingress, Program: intoSlave}}}
	receiverHooks = fastpath.TC{Filters: filters, Hooks: []tcfilter.Hook{{Parent: tcfilter.Ingress, Program: byENI}}}
)

func load(running []ebpf.ProgramID, sizes fastpath.Sizes) (*fastpath.Objects, error) {
	spec, err := loadSlaves()
	if err != nil {
		return nil, fmt.Errorf("read the programs: %w", err)
	}
	spec.Maps[mapSlaves].MaxEntries = fastpath.MaxPods
	return fastpath.Load(running, spec, sizes)
}

// loadJudging loads the programs that enforce policies, by the maps of others that do.
func loadJudging(running []ebpf.ProgramID, sizes fastpath.Sizes, by *fastpath.Objects) (*fastpath.Objects, error) {
	spec, err := loadPoliced()
	if err != nil {
		return nil, fmt.Errorf("read the programs that enforce policies: %w", err)
	}
	plain, err := loadSlaves()
	if err != nil {
		return nil, fmt.Errorf("read the programs: %w", err)
	}
	spec.Maps[mapSlaves].MaxEntries = fastpath.MaxPods
	// Each kind has connections of its own.
	share := &fastpath.Objects{Objects: &bpfobj.Objects{Maps: map[string]*ebpf.Map{}}}
	for name, m := range by.Maps {
		if s := spec.Maps[name]; s != nil && plain.Maps[name] == nil {
			share.Maps[name], s.MaxEntries = m, m.MaxEntries()
		}
	}
	return fastpath.Load(running, spec, sizes, share)
}

// table returns the entries of pods.
func table(o *fastpath.Objects) fastpath.Pods[slavesSlave] {
	return fastpath.Pods[slavesSlave]{Objects: o, Map: o.Maps[mapSlaves], Name: mapSlaves, Device: func(e slavesSlave) int { return int(e.Host) }}
}

// entries returns a pod's entries in the map of slaves, by address: host is the index of its device
// on the node, receiver that of its ENI's receiver.
func entries(p *node.Pod, host, receiver int) map[netip.Addr]slavesSlave {
	list := map[netip.Addr]slavesSlave{}
	for _, a := range p.Addresses {
		e := slavesSlave{
			Addr: addrKey(a), Host: uint32(host), Inner: uint32(innerIndex(p.Host.Name)), Eni: uint32(p.ENI.Index), Receiver: uint32(receiver),
			Mtu: uint32(p.ENI.MTU), Gateway: addrKey(netlinkx.OfFamily(p.ENI.Gateways, netlinkx.Family(a))),
		}
		copy(e.NextHop[:], p.HostMAC)
		copy(e.EniMac[:], p.ENI.MAC)
		list[a] = e
	}
	return list
}

func addrKey(a netip.Addr) slavesAddr { return slavesAddr{W: fastpath.Words(a)} }
