package fabric

import (
	"context"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Notify has lost called when a port goes that Apply did not take. A port is one end
// of a veth: it goes with the other end, when a guest destroys the namespace into which
// it had moved the ENI. (A real card has no other end: the kernel moves it back to the
// instance. The next Apply makes it so.) It must be called before the first Apply.
func (f *Fabric) Notify(lost func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lost = lost
}

// watch listens to the switch's devices until release. The caller holds mu.
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
				lost() // what the broken socket did not say is found by looking
			}
		}
	}()
	return nil
}

// subscribe listens to the devices of a namespace. The channel is closed when the socket
// breaks: the kernel says ENOBUFS to a listener that is too slow.
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
		// Large enough for every port of a fabric to go at once.
		ReceiveBufferSize: 4 << 20,
	})
	if err != nil {
		hangUp()
		return nil, nil, fmt.Errorf("watch the ports: %w", err)
	}
	return updates, hangUp, nil
}

// again is how long resubscribe waits before it tries once more.
const again = time.Second

// resubscribe subscribes anew, however often it takes.
func (f *Fabric) resubscribe(ctx context.Context, path string) (<-chan netlink.LinkUpdate, context.CancelFunc) {
	for ctx.Err() == nil {
		updates, hangUp, err := subscribe(ctx, path)
		if err == nil {
			f.opts.Logger.Warn("the socket that watched the ports broke: watching by another")
			return updates, hangUp
		}
		f.opts.Logger.Error("the socket that watched the ports broke", "error", err)
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
