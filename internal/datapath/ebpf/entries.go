package ebpf

import (
	"net/netip"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/fastpath"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/netlinkx"
)

// entries returns a pod's entries in the map of pods, by address.
func entries(p node.Endpoint) map[netip.Addr]fastpathPod {
	list := map[netip.Addr]fastpathPod{}
	for _, a := range p.Addresses {
		e := fastpathPod{Addr: addrKey(a), Ifindex: uint32(p.Index), Mtu: uint32(p.MTU)}
		copy(e.Macs[:6], p.PodMAC)
		copy(e.Macs[6:], p.HostMAC)
		// Without a gateway of the address's family the address cannot use the ENI.
		if gateway := netlinkx.OfFamily(p.ENI.Gateways, netlinkx.Family(a)); gateway.IsValid() {
			e.Eni, e.EniMtu, e.Gateway = uint32(p.ENI.Index), uint32(p.ENI.MTU), addrKey(gateway)
		}
		list[a] = e
	}
	return list
}

// sender returns the sources that the device's pod may use.
func sender(p node.Endpoint) fastpathSender {
	return fastpathSender{V4: addrKey(netlinkx.OfFamily(p.Addresses, netlink.FAMILY_V4)), V6: addrKey(netlinkx.OfFamily(p.Addresses, netlink.FAMILY_V6))}
}

func addrKey(a netip.Addr) fastpathAddr { return fastpathAddr{W: fastpath.Words(a)} }
