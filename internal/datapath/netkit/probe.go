package netkit

import (
	"fmt"

	bpf "github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/bpfobj"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/ebpf"
	"terway.dev/terway/internal/netlinkx"
)

// Supported returns why this kernel cannot run the datapath, or nil: a datapath.UnsupportedError,
// or the error that prevented the test. It creates a pair and attaches programs.
func Supported() error {
	if err := ebpf.Supported(); err != nil {
		return fmt.Errorf("it needs the datapath %s: %w", claims.EBPF, err)
	}
	return ebpf.Try(func(h *netlink.Handle, b *netlinkx.Batch, o *bpfobj.Objects) error {
		pair := &netlink.Netkit{LinkAttrs: netlink.NewLinkAttrs(), Mode: netlink.NETKIT_MODE_L3}
		pair.Name = "primary"
		peer := netlink.NewLinkAttrs()
		peer.Name = "peer"
		pair.SetPeerAttrs(&peer)
		if err := h.LinkAdd(pair); err != nil {
			return datapath.Lacks("netkit devices (CONFIG_NETKIT, Linux 6.8)", err, unix.EOPNOTSUPP)
		}
		made, err := h.LinkByName(pair.Name)
		if err != nil {
			return fmt.Errorf("find the netkit device for the test: %w", err)
		}
		here := &hooks{inside: func(f func() error) error { return f() }}
		err = here.Attach(b, o, made.Attrs().Index)
		return datapath.Lacks("eBPF programs in netkit devices (BPF_NETKIT_PRIMARY and _PEER, Linux 6.8)", err, unix.EINVAL, bpf.ErrNotSupported)
	})
}
