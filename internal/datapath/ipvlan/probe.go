package ipvlan

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/bpfobj"
	"terway.dev/terway/internal/datapath/fastpath"
	"terway.dev/terway/internal/datapath/tcfilter"
	"terway.dev/terway/internal/netlinkx"
)

// Supported returns nil if this kernel can run the kind, a datapath.UnsupportedError if it cannot,
// and another error if the test failed. It tries in a network namespace of its own.
func Supported() error { return fastpath.Try(load, probe) }

func probe(h *netlink.Handle, b *netlinkx.Batch, o *bpfobj.Objects) error {
	parent := netlink.NewVeth(netlink.LinkAttrs{Name: "parent", TxQLen: -1})
	parent.PeerName = "peer"
	if err := h.LinkAdd(parent); err != nil {
		return datapath.Lacks("veth devices (CONFIG_VETH)", err, unix.EOPNOTSUPP)
	}
	link, err := h.LinkByName("parent")
	if err != nil {
		return fmt.Errorf("find device to probe with: %w", err)
	}
	index := link.Attrs().Index
	slave := &netlink.IPVlan{LinkAttrs: netlink.LinkAttrs{Name: "slave", TxQLen: -1, ParentIndex: index}, Mode: netlink.IPVLAN_MODE_L2}
	if err := h.LinkAdd(slave); err != nil {
		return datapath.Lacks("ipvlan devices (CONFIG_IPVLAN, module ipvlan)", err, unix.EOPNOTSUPP)
	}
	return datapath.Lacks(tcfilter.Needs, filters.Attach(b, o, index, eniHooks), tcfilter.Answers...)
}
