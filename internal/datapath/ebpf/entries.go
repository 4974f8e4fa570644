package ebpf

import (
	"net/netip"

	"terway.dev/terway/internal/datapath/fastpath"
	"terway.dev/terway/internal/datapath/node"
)

// entries returns a pod's entries in the map of pods, by address.
func entries(p node.Place) map[netip.Addr]shortcutPod {
	list := map[netip.Addr]shortcutPod{}
	for _, a := range p.Addresses {
		e := shortcutPod{Addr: addrKey(a), Ifindex: uint32(p.Index), Mtu: uint32(p.MTU)}
		copy(e.Macs[:6], p.PodMAC)
		copy(e.Macs[6:], p.HostMAC)
		for _, gateway := range p.ENI.Gateways {
			if gateway.Is4() == a.Is4() {
				// Without a gateway of the address's family the address cannot use the ENI.
				e.Eni, e.EniMtu, e.Gateway = uint32(p.ENI.Index), uint32(p.ENI.MTU), addrKey(gateway)
			}
		}
		list[a] = e
	}
	return list
}

// sender returns the sources that the device's pod may use.
func sender(p node.Place) (s shortcutSender) {
	for _, a := range p.Addresses {
		if a.Is4() {
			s.V4 = addrKey(a)
		} else {
			s.V6 = addrKey(a)
		}
	}
	return s
}

func addrKey(a netip.Addr) shortcutAddr { return shortcutAddr{W: fastpath.Words(a)} }
