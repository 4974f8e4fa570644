package linkkind

import (
	"net"
	"testing"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/claims"
)

func TestWhoseALinkIs(t *testing.T) {
	pod, receiver := claims.HostIfName("sandbox", "eth0"), claims.ReceiverName(net.HardwareAddr{0, 0x16, 0x3e, 0, 0, 1})
	foreign := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	type is struct{ pod, dying, receiver, eni bool }
	for name, c := range map[string]struct {
		kind string
		netlink.LinkAttrs
		is
	}{
		"a pod's veth":                          {Veth, netlink.LinkAttrs{Name: pod, Group: claims.GroupPod}, is{pod: true}},
		"one beside an ENI of its own":          {Veth, netlink.LinkAttrs{Name: pod, Group: claims.GroupExclusive}, is{pod: true}},
		"one that is about to go":               {Netkit, netlink.LinkAttrs{Name: pod, Group: claims.GroupDying}, is{pod: true, dying: true}},
		"its group changed, its MAC stayed":     {Veth, netlink.LinkAttrs{Name: pod, HardwareAddr: claims.HostMAC(pod)}, is{pod: true}},
		"its group and its MAC changed":         {Veth, netlink.LinkAttrs{Name: pod, HardwareAddr: foreign, Alias: claims.AliasPrefix + "a/b"}, is{}},
		"a netkit device without group":         {Netkit, netlink.LinkAttrs{Name: pod, Alias: claims.AliasPrefix + "a/b"}, is{pod: true}},
		"an ipvlan device without either":       {IPvlan, netlink.LinkAttrs{Name: pod}, is{}},
		"another kind in our group":             {"dummy", netlink.LinkAttrs{Name: pod, Group: claims.GroupPod}, is{}},
		"another's name in our group":           {Veth, netlink.LinkAttrs{Name: "veth0", Group: claims.GroupPod}, is{eni: true}},
		"a receiver":                            {IPvlan, netlink.LinkAttrs{Name: receiver}, is{receiver: true}},
		"another kind with a receiver's name":   {Veth, netlink.LinkAttrs{Name: receiver}, is{}},
		"another's ipvlan device":               {IPvlan, netlink.LinkAttrs{Name: "ipvl0"}, is{}},
		"a network card":                        {"device", netlink.LinkAttrs{Name: "eth1", HardwareAddr: foreign}, is{eni: true}},
		"a VLAN on it":                          {"vlan", netlink.LinkAttrs{Name: "eth1.7", HardwareAddr: foreign}, is{}},
		"a device of ours that means something": {"device", netlink.LinkAttrs{Name: "tw-new"}, is{}},
	} {
		l := &netlink.GenericLink{LinkAttrs: c.LinkAttrs, LinkType: c.kind}
		if got := (is{IsPodDevice(l), IsDying(l), IsReceiver(l), MayBeENI(l)}); got != c.is {
			t.Errorf("%s: %+v, want %+v", name, got, c.is)
		}
		if got, want := MayServeENI(c.kind, c.Name), c.is.eni || c.is.receiver; got != want {
			t.Errorf("%s: may be an ENI or its receiver: %t, want %t", name, got, want)
		}
	}
}
