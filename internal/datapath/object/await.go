package object

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// AwaitActive waits until a device of the node that is up is active, if it is there: the end of a
// pair that came up first had no carrier then, and the kernel activates it later, from a work
// queue. What is sent to it until then is lost, and a connection's first packet with it costs a
// second. Asking for the device makes newer kernels catch up at once.
func AwaitActive(s *Site, d Device) error {
	index, err := s.Index(d)
	if err != nil || index == 0 {
		return err
	}
	return await(s.Ctx, d.String()+" to be active (is the other end up?)", func() (bool, error) {
		link, err := s.Node.LinkByIndex(index)
		if err != nil {
			return false, fmt.Errorf("look at %s: %w", d, err)
		}
		return link.Attrs().OperState == netlink.OperUp, nil
	})
}

// AwaitIPv6 waits until the pod's IPv6 addresses are its own: the kernel takes them into use from a
// work queue too, also without duplicate address detection.
func AwaitIPv6(s *Site, addresses []netip.Addr) error {
	for _, a := range addresses {
		if !a.Is6() || s.Pod == nil {
			continue
		}
		b, err := s.Pod.Batch()
		if err != nil {
			return err
		}
		if err := await(s.Ctx, "address "+a.String()+" to be in use in the pod", func() (bool, error) {
			way := &nl.RtMsg{RtMsg: unix.RtMsg{Family: unix.AF_INET6, Dst_len: 128}}
			answer, err := b.Ask(request(unix.RTM_GETROUTE, 0, way, nl.NewRtAttr(unix.RTA_DST, a.AsSlice())))
			if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) {
				return false, nil // there is no way at all yet
			}
			if err == nil && len(answer) < unix.SizeofRtMsg {
				err = fmt.Errorf("an answer of %d bytes", len(answer))
			}
			if err != nil {
				return false, fmt.Errorf("ask the pod for its way to %s: %w", a, err)
			}
			return nl.DeserializeRtMsg(answer).Type == unix.RTN_LOCAL, nil
		}); err != nil {
			return err
		}
	}
	return nil
}

const (
	// firstPause is about what a work queue takes that has nothing else to do.
	firstPause = 50 * time.Microsecond
	// longestPause bounds what a device that comes late costs beyond.
	longestPause = 32 * time.Millisecond
	// patience is how long something is waited for.
	patience = 2 * time.Second
)

// await asks until it is so, a little later each time.
func await(ctx context.Context, what string, so func() (bool, error)) error {
	for waited, pause := time.Duration(0), firstPause; ; waited, pause = waited+pause, min(2*pause, longestPause) {
		if ok, err := so(); ok || err != nil {
			return err
		}
		if waited >= patience {
			return fmt.Errorf("waited in vain for %s", what)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("wait for %s: %w", what, context.Cause(ctx))
		}
	}
}
