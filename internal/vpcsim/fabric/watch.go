package fabric

import (
	"fmt"

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
func (f *Fabric) watch(ns netns.NsHandle) error {
	if f.lost == nil {
		return nil
	}
	lost, done := f.lost, make(chan struct{})
	updates := make(chan netlink.LinkUpdate, 64)
	err := netlink.LinkSubscribeWithOptions(updates, done, netlink.LinkSubscribeOptions{
		Namespace: &ns,
		// Large enough for every port of a fabric to go at once.
		ReceiveBufferSize: 4 << 20,
		// What a broken socket did not say is found by looking.
		ErrorCallback: func(error) { lost() },
	})
	if err != nil {
		return fmt.Errorf("watch the ports: %w", err)
	}
	f.unwatch = done
	go func() {
		for u := range updates {
			if u.Header.Type != unix.RTM_DELLINK {
				continue
			}
			f.mu.Lock()
			known := false
			for _, d := range f.devices {
				known = known || d.ifindex == uint32(u.Attrs().Index)
			}
			f.mu.Unlock()
			if known {
				lost()
			}
		}
	}()
	return nil
}
