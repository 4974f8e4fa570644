package ebpf

import (
	"errors"
	"fmt"
	"runtime"

	bpf "github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Supported says why this kernel cannot run the datapath, or nil. It tries: it attaches
// the programs to a loopback.
func Supported() error {
	return Try(func(h *netlink.Handle, programs map[string]*bpf.Program) error {
		return attach(h, loopback, podPlaces, programs)
	})
}

// Try loads the programs and calls f in a network namespace made for it.
func Try(f func(h *netlink.Handle, programs map[string]*bpf.Program) error) error {
	o, err := load(16, nil)
	if err != nil {
		return err
	}
	tried := make(chan error, 1)
	go func() { tried <- inScratch(func(h *netlink.Handle) error { return f(h, o.programs) }) }()
	return errors.Join(<-tried, o.close())
}

// loopback is the index of lo in every namespace.
const loopback = 1

// inScratch runs f in a network namespace of its own and comes back: the thread may be
// the process's first, by which others tell where the process is.
func inScratch(f func(*netlink.Handle) error) error {
	runtime.LockOSThread()
	own, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open own network namespace: %w", err)
	}
	defer own.Close()
	err = func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace to try in: %w", err)
		}
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open route netlink socket: %w", err)
		}
		defer h.Close()
		return f(h)
	}()
	if back := netns.Set(own); back != nil {
		// The thread stays locked and ends with the goroutine.
		return errors.Join(err, fmt.Errorf("return to own network namespace: %w", back))
	}
	runtime.UnlockOSThread()
	return err
}
