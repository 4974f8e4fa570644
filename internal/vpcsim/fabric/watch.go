package fabric

import (
	"context"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Notify registers lost, which is called when a port disappears that Apply did not remove. A
// port is one end of a veth: it disappears with the other end, when a guest destroys the
// namespace into which it had moved the ENI. (The kernel moves a real card back to the instance
// in this case. The next Apply does the same.) Notify must be called before the first Apply.
func (f *Fabric) Notify(lost func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lost = lost
}

// watch watches the switch's devices until release. The caller holds mu.
func (f *Fabric) watch() error {
	if f.lost == nil {
		return nil
	}
	lost, path := f.lost, f.switchPath()
	ctx, stop := context.WithCancel(context.Background())
	updates, hangUp, err := subscribe(ctx, path)
	if err != nil {
		stop()
		return err
	}
	f.unwatch = stop
	go func() {
		for ctx.Err() == nil {
			for u := range updates { // until the socket breaks or is closed
				if u.Header.Type == unix.RTM_DELLINK && f.isPort(uint32(u.Attrs().Index)) {
					lost()
				}
			}
			hangUp()
			if updates, hangUp = f.resubscribe(ctx, path); ctx.Err() == nil {
				lost() // Apply finds what the broken socket did not report
			}
		}
	}()
	return nil
}

// subscribe subscribes to the devices of a namespace. The channel is closed when the socket
// breaks: the kernel returns ENOBUFS to a reader that is too slow.
func subscribe(ctx context.Context, path string) (<-chan netlink.LinkUpdate, context.CancelFunc, error) {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return nil, nil, fmt.Errorf("watch the ports: %w", err)
	}
	defer ns.Close()
	ctx, hangUp := context.WithCancel(ctx)
	updates := make(chan netlink.LinkUpdate, 64)
	err = netlink.LinkSubscribeWithOptions(updates, ctx.Done(), netlink.LinkSubscribeOptions{
		Namespace: &ns,
		// Large enough for the removal of all ports of a fabric at once.
		ReceiveBufferSize: 4 << 20,
	})
	if err != nil {
		hangUp()
		return nil, nil, fmt.Errorf("watch the ports: %w", err)
	}
	return updates, hangUp, nil
}

// again is the pause between two attempts of resubscribe.
const again = time.Second

// resubscribe subscribes again, until it succeeds.
func (f *Fabric) resubscribe(ctx context.Context, path string) (<-chan netlink.LinkUpdate, context.CancelFunc) {
	for ctx.Err() == nil {
		updates, hangUp, err := subscribe(ctx, path)
		if err == nil {
			f.opts.Logger.Warn("the socket that watches the ports broke: it was replaced")
			return updates, hangUp
		}
		f.opts.Logger.Error("the socket that watches the ports broke", "error", err)
		select {
		case <-time.After(again):
		case <-ctx.Done():
		}
	}
	return nil, nil
}

func (f *Fabric) isPort(ifindex uint32) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, d := range f.devices {
		if d.ifindex == ifindex {
			return true
		}
	}
	return false
}
