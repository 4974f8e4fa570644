package ebpf

import (
	"errors"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/bpfobj"
	"terway.dev/terway/internal/datapath/fastpath"
	"terway.dev/terway/internal/datapath/tcfilter"
	"terway.dev/terway/internal/kernel"
)

// Supported says why this kernel cannot run the datapath, or nil: a datapath.UnsupportedError,
// or what kept it from finding out. It tries: it attaches the programs to a loopback.
func Supported() error {
	return Try(func(h *netlink.Handle, o *bpfobj.Objects) error {
		return bpfobj.Lacking(tcfilter.Needs, veth{}.Attach(h, o, loopback))
	})
}

// Try loads the programs and calls f in a network namespace made for it.
func Try(f func(h *netlink.Handle, o *bpfobj.Objects) error) error {
	return kernel.InScratch(func(h *netlink.Handle) error {
		o, err := load(h, fastpath.SizesOf(16))
		if err != nil {
			return bpfobj.Lacking(bpfobj.Needs, err)
		}
		return errors.Join(f(h, o.Objects), o.Close())
	})
}

// loopback is the index of lo in every namespace.
const loopback = 1
