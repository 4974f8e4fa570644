package ebpf

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Supported says why this kernel cannot run the datapath, or nil. It tries: it loads the
// programs and attaches them to the loopback of a network namespace made for it.
func Supported() error {
	o, err := load(16, nil)
	if err != nil {
		return err
	}
	tried := make(chan error, 1)
	go func() {
		// Never unlocked: the thread, and the namespace with it, end with the goroutine.
		runtime.LockOSThread()
		tried <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("make a network namespace to try in: %w", err)
			}
			h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
			if err != nil {
				return fmt.Errorf("open route netlink socket: %w", err)
			}
			defer h.Close()
			const loopback = 1
			return attach(h, o, loopback, podPlaces)
		}()
	}()
	return errors.Join(<-tried, o.close())
}
