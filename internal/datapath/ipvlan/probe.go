package ipvlan

import (
	"errors"
	"fmt"

	bpf "github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/tcprog"
)

// Supported says why this kernel cannot run the datapath, or nil: a datapath.UnsupportedError, or
// what kept it from finding out. It tries in a network namespace of its own.
func Supported() error { return tcprog.InScratch(probe) }

func probe(h *netlink.Handle) error {
	parent := netlink.NewVeth(netlink.LinkAttrs{Name: "parent", TxQLen: -1})
	parent.PeerName = "peer"
	if err := h.LinkAdd(parent); err != nil {
		return unsupported("veth devices (CONFIG_VETH)", err)
	}
	link, err := h.LinkByName("parent")
	if err != nil {
		return fmt.Errorf("find device to probe with: %w", err)
	}
	index := link.Attrs().Index
	slave := &netlink.IPVlan{LinkAttrs: netlink.LinkAttrs{Name: "slave", TxQLen: -1, ParentIndex: index}, Mode: netlink.IPVLAN_MODE_L2}
	if err := h.LinkAdd(slave); err != nil {
		return unsupported("ipvlan devices (CONFIG_IPVLAN, module ipvlan)", err)
	}
	o, err := load(h, 1)
	if err != nil {
		return unsupported("eBPF programs for tc with redirect_neigh (Linux 5.10)", err)
	}
	defer o.Close()
	if err := filters.Attach(h, o, index, eniHooks); err != nil {
		return unsupported("tc filters with eBPF (CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_BPF)", err)
	}
	return nil
}

// unsupported tells a missing feature from a request that failed for another reason, such
// as a missing right.
func unsupported(feature string, err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return fmt.Errorf("probe for %s: %w", feature, err)
	}
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) || errors.Is(err, bpf.ErrNotSupported) {
		return &datapath.UnsupportedError{Feature: feature, Err: err}
	}
	return fmt.Errorf("probe for %s: %w", feature, err)
}
