package node

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/netlinkx"
)

// awaitActive waits for the end of the pair that came up first. It had no carrier
// then, and the kernel activates it later, from a work queue; what is sent to it
// until then is lost, and a connection's first packet with it costs a second.
// Asking for the device makes newer kernels catch up at once.
func awaitActive(ctx context.Context, h *netlink.Handle, name string, index int) error {
	return await(ctx, "device "+name+" to be active (is the other end up?)", func() (bool, error) {
		link, err := h.LinkByIndex(index)
		if err != nil {
			return false, fmt.Errorf("look at device %s: %w", name, err)
		}
		return link.Attrs().OperState == netlink.OperUp, nil
	})
}

// awaitIPv6 waits until the pod's IPv6 addresses are its own: the kernel takes
// them into use from a work queue too, also without duplicate address detection.
func awaitIPv6(ctx context.Context, ph *netlink.Handle, addresses []netip.Addr) error {
	for _, a := range addresses {
		if !a.Is6() {
			continue
		}
		own := &netlink.Route{Table: unix.RT_TABLE_LOCAL, Dst: netipx.AddrIPNet(a)}
		if err := await(ctx, "address "+a.String()+" to be in use in the pod", func() (bool, error) {
			routes, err := netlinkx.List(ctx, "the pod's own addresses", func() ([]netlink.Route, error) {
				return ph.RouteListFiltered(netlink.FAMILY_V6, own, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_DST)
			})
			return len(routes) > 0, err
		}); err != nil {
			return err
		}
	}
	return nil
}

// await asks until it is so, a little later each time.
func await(ctx context.Context, what string, so func() (bool, error)) error {
	for try := range activeTries {
		if ok, err := so(); ok || err != nil {
			return err
		}
		timer := time.NewTimer(time.Duration(try+1) * time.Millisecond)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("wait for %s: %w", what, context.Cause(ctx))
		}
	}
	return fmt.Errorf("waited in vain for %s", what)
}

// activeTries adds up to about two seconds.
const activeTries = 64
