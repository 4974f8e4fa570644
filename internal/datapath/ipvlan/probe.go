package ipvlan

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"terway.dev/terway/internal/datapath/bpfobj"
	"terway.dev/terway/internal/datapath/fastpath"
	"terway.dev/terway/internal/datapath/tcfilter"
	"terway.dev/terway/internal/kernel"
	"terway.dev/terway/internal/netlinkx"
)

// Supported returns nil if this kernel can run the kind, a datapath.UnsupportedError if it cannot,
// and another error if the test failed. It tries in a network namespace of its own.
func Supported() error { return kernel.InScratch(probe) }

func probe(h *netlink.Handle) error {
	parent := netlink.NewVeth(netlink.LinkAttrs{Name: "parent", TxQLen: -1})
	parent.PeerName = "peer"
	if err := h.LinkAdd(parent); err != nil {
		return bpfobj.Lacking("veth devices (CONFIG_VETH)", err)
	}
	link, err := h.LinkByName("parent")
	if err != nil {
		return fmt.Errorf("find device to probe with: %w", err)
	}
	index := link.Attrs().Index
	slave := &netlink.IPVlan{LinkAttrs: netlink.LinkAttrs{Name: "slave", TxQLen: -1, ParentIndex: index}, Mode: netlink.IPVLAN_MODE_L2}
	if err := h.LinkAdd(slave); err != nil {
		return bpfobj.Lacking("ipvlan devices (CONFIG_IPVLAN, module ipvlan)", err)
	}
	o, err := load(h, fastpath.SizesOf(1))
	if err != nil {
		return bpfobj.Lacking(bpfobj.Needs, err)
	}
	defer o.Close()
	b, err := netlinkx.NewBatch(netns.None())
	if err != nil {
		return err
	}
	defer b.Close()
	if err := filters.Attach(b, o.Objects, index, eniHooks); err != nil {
		return bpfobj.Lacking(tcfilter.Needs, err)
	}
	return nil
}
