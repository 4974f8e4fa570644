package ebpf

import (
	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/bpfobj"
	"terway.dev/terway/internal/datapath/fastpath"
	"terway.dev/terway/internal/datapath/tcfilter"
	"terway.dev/terway/internal/netlinkx"
)

// Supported returns nil if this kernel can run the kind, a datapath.UnsupportedError if it cannot,
// and another error if the test failed. It attaches the programs to a loopback.
func Supported() error {
	return Try(func(_ *netlink.Handle, b *netlinkx.Batch, o *bpfobj.Objects) error {
		return datapath.Lacks(tcfilter.Needs, podHooks.Attach(b, o, loopback), tcfilter.Answers...)
	})
}

// Try loads the programs in a new network namespace, also those for netkit devices, and calls f there.
func Try(f func(h *netlink.Handle, b *netlinkx.Batch, o *bpfobj.Objects) error) error {
	return fastpath.Try(func(running []ebpf.ProgramID, sizes fastpath.Sizes) (*fastpath.Objects, error) {
		return load(running, sizes, true)
	}, f)
}

// loopback is the index of lo in each namespace.
const loopback = 1
