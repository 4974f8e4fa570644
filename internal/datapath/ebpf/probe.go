package ebpf

import (
	"errors"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/tcprog"
	"terway.dev/terway/internal/kernel"
)

// Supported says why this kernel cannot run the datapath, or nil: a datapath.UnsupportedError,
// or what kept it from finding out. It tries: it attaches the programs to a loopback.
func Supported() error {
	return Try(func(h *netlink.Handle, o *tcprog.Objects) error {
		return tcprog.Lacking(tcprog.NeedsFilters, veth{}.Attach(h, o, loopback))
	})
}

// Try loads the programs and calls f in a network namespace made for it.
func Try(f func(h *netlink.Handle, o *tcprog.Objects) error) error {
	return kernel.InScratch(func(h *netlink.Handle) error {
		o, err := load(h, tcprog.SizesOf(16))
		if err != nil {
			return tcprog.Lacking(tcprog.NeedsPrograms, err)
		}
		return errors.Join(f(h, o), o.Close())
	})
}

// loopback is the index of lo in every namespace.
const loopback = 1
