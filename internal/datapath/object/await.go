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

	"terway.dev/terway/internal/datapath/attr"
)

// AwaitActive waits until a device of the node that is up is active, if it exists: the end of a
// pair that came up first had no carrier then, and the kernel activates it later, from a work
// queue. Packets that are sent to it before are lost, and losing a connection's first packet costs
// a second. Reading the device makes newer kernels activate it at once.
func AwaitActive(s *Site, d Device) error {
	index, err := s.Index(d)
	if err != nil || index == 0 {
		return err
	}
	b, err := s.NodeBatch()
	if err != nil {
		return err
	}
	return await(s.Ctx, d.String()+" to be active (is the other end up?)", func() (bool, error) {
		info := nl.NewIfInfomsg(unix.AF_UNSPEC)
		info.Index = int32(index)
		answer, err := b.Ask(request(unix.RTM_GETLINK, 0, info, nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(skipStats))))
		if err != nil {
			return false, fmt.Errorf("read %s: %w", d, err)
		}
		state := attr.Get(attr.After(answer, unix.SizeofIfInfomsg), unix.IFLA_OPERSTATE)
		return len(state) > 0 && netlink.LinkOperState(state[0]) == netlink.OperUp, nil
	})
}

// AwaitIPv6 waits until the pod's IPv6 addresses are usable: the kernel activates them from a work
// queue too, also without duplicate address detection.
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
				return false, nil // there is no route at all yet
			}
			if err == nil && len(answer) < unix.SizeofRtMsg {
				err = fmt.Errorf("an answer of %d bytes", len(answer))
			}
			if err != nil {
				return false, fmt.Errorf("look up the pod's route to %s: %w", a, err)
			}
			return nl.DeserializeRtMsg(answer).Type == unix.RTN_LOCAL, nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// skipStats keeps counters out of an answer about a device (RTEXT_FILTER_SKIP_STATS).
const skipStats = 1 << 3

const (
	// firstPause is about the time of an idle work queue.
	firstPause = 50 * time.Microsecond
	// longestPause bounds the extra wait for a device that is late.
	longestPause = 32 * time.Millisecond
	// patience is the longest wait.
	patience = 2 * time.Second
)

// await polls with growing pauses until a condition holds.
func await(ctx context.Context, what string, so func() (bool, error)) error {
	for waited, pause := time.Duration(0), firstPause; ; waited, pause = waited+pause, min(2*pause, longestPause) {
		if ok, err := so(); ok || err != nil {
			return err
		}
		if waited >= patience {
			return fmt.Errorf("timed out while waiting for %s", what)
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
