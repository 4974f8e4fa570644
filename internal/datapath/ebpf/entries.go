package ebpf

import (
	"encoding/binary"
	"net/netip"

	"terway.dev/terway/internal/datapath/route"
)

// entries are a pod's in the map of pods, by address.
func entries(p route.Place) map[netip.Addr]shortcutPod {
	list := map[netip.Addr]shortcutPod{}
	for _, a := range p.Addresses {
		e := shortcutPod{Ifindex: uint32(p.Index), Mtu: uint32(p.MTU)}
		copy(e.Macs[:6], p.PodMAC)
		copy(e.Macs[6:], p.HostMAC)
		for _, gateway := range p.ENI.Gateways {
			if gateway.Is4() == a.Is4() {
				// Without a gateway of the address's family the ENI is of no use to it.
				e.Eni, e.EniMtu, e.Gateway = uint32(p.ENI.Index), uint32(p.ENI.MTU), addrKey(gateway)
			}
		}
		list[a] = e
	}
	return list
}

// addrKey is struct addr of bpf/common.h: IPv4 is mapped into IPv6, all in network
// byte order.
func addrKey(a netip.Addr) (key shortcutAddr) {
	b := a.As16()
	for i := range key.W {
		key.W[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return key
}

func addrOf(key shortcutAddr) netip.Addr {
	var b [16]byte
	for i, w := range key.W {
		binary.NativeEndian.PutUint32(b[4*i:], w)
	}
	return netip.AddrFrom16(b).Unmap()
}
