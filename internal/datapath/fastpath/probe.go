package fastpath

import (
	"errors"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/bpfobj"
	"terway.dev/terway/internal/kernel"
	"terway.dev/terway/internal/netlinkx"
)

// Try loads a kind's programs in a new network namespace and calls f there. The error is a
// datapath.UnsupportedError if the kernel cannot run them.
func Try(load func([]ebpf.ProgramID, Sizes) (*Objects, error), f func(h *netlink.Handle, b *netlinkx.Batch, o *bpfobj.Objects) error) error {
	return kernel.InScratch(func(h *netlink.Handle) error {
		b, err := netlinkx.NewBatch(netns.None())
		if err != nil {
			return err
		}
		defer b.Close()
		o, err := load(nil, SizesOf(16))
		if err != nil {
			return datapath.Lacks(bpfobj.Needs, err, bpfobj.Answers...)
		}
		return errors.Join(f(h, b, o.Objects), o.Close())
	})
}
