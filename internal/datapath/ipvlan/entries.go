package ipvlan

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/tcprog"
)

// Names of programs and maps in bpf/ipvlan.c.
const (
	fromSlave = "tw_from_slave"
	toSlave   = "tw_to_slave"
	fromENI   = "tw_eni_slaves"
	toENI     = "tw_slaves_eni"

	mapSlaves = "tw_slaves_2"

	// maxSlaves bounds the addresses of local pods: more than any instance type carries.
	maxSlaves = 16384
)

const filters = tcprog.Filters(claims.PrefIPvlan)

var (
	eniHooks   = []tcprog.Hook{{Parent: tcprog.Ingress, Program: fromENI}, {Parent: tcprog.Egress, Program: toENI}}
	hostHooks  = []tcprog.Hook{{Parent: tcprog.Egress, Program: toSlave}}
	innerHooks = []tcprog.Hook{{Parent: tcprog.Egress, Program: fromSlave}}
)

func load(h *netlink.Handle, sizes tcprog.Sizes) (*tcprog.Objects, error) {
	spec, err := loadSlaves()
	if err != nil {
		return nil, fmt.Errorf("read the programs: %w", err)
	}
	spec.Maps[tcprog.MapPods].MaxEntries = maxSlaves
	spec.Maps[mapSlaves].MaxEntries = maxSlaves
	sizes.Set(spec)
	if err := tcprog.SetConstants(spec); err != nil {
		return nil, err
	}
	return filters.Load(h, spec)
}

// entries are a pod's in the map of slaves, by address. receiver is the index of its
// ENI's receiver.
func entries(p node.Place, receiver int) map[netip.Addr]slavesSlave {
	list := map[netip.Addr]slavesSlave{}
	for _, a := range p.Addresses {
		e := slavesSlave{
			Addr: addrKey(a), Host: uint32(p.Index), Inner: uint32(innerIndex(p.Device)), Eni: uint32(p.ENI.Index), Receiver: uint32(receiver),
			Mtu: uint32(p.ENI.MTU),
		}
		copy(e.NextHop[:], p.HostMAC)
		copy(e.EniMac[:], p.ENI.MAC)
		for _, gateway := range p.ENI.Gateways {
			if gateway.Is4() == a.Is4() {
				e.Gateway = addrKey(gateway)
			}
		}
		list[a] = e
	}
	return list
}

func addrKey(a netip.Addr) slavesAddr { return slavesAddr{W: tcprog.Words(a)} }
