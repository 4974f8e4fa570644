package kernel

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// InScratch runs f in a new network namespace, to test what the kernel supports.
func InScratch(f func(*netlink.Handle) error) error {
	tried := make(chan error, 1)
	go func() { tried <- inScratch(f) }()
	return <-tried
}

// inScratch restores the thread's namespace: the thread may be the first of the process, by
// which other programs find the process's namespace.
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
