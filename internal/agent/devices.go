package agent

import (
	"context"
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// stacked are kinds of links that share the MAC of the link below them.
var stacked = map[string]bool{"vlan": true, "ipvlan": true, "macvlan": true, "macvtap": true, "bridge": true, "bond": true}

// LinksByMAC lists the links of this network namespace that may be ENIs. Links
// whose names begin with ownPrefix are the agent's own and left out.
func LinksByMAC(ownPrefix string) func() (map[string]Device, error) {
	return func() (map[string]Device, error) {
		links, err := netlink.LinkList()
		if err != nil {
			return nil, fmt.Errorf("list links: %w", err)
		}
		out := map[string]Device{}
		for _, l := range links {
			at := l.Attrs()
			if len(at.HardwareAddr) != 6 || stacked[l.Type()] || strings.HasPrefix(at.Name, ownPrefix) {
				continue
			}
			out[at.HardwareAddr.String()] = Device{Name: at.Name, MTU: at.MTU}
		}
		return out, nil
	}
}

// WatchLinks calls changed whenever a link appears, changes or goes, until ctx is done.
func WatchLinks(ctx context.Context, changed func()) error {
	updates := make(chan netlink.LinkUpdate, 64)
	done := make(chan struct{})
	if err := netlink.LinkSubscribeWithOptions(updates, done, netlink.LinkSubscribeOptions{}); err != nil {
		return fmt.Errorf("subscribe to link changes: %w", err)
	}
	go func() {
		defer close(done)
		for {
			select {
			case _, ok := <-updates:
				if !ok {
					return // the repair loop finds hot-plugged devices a little later
				}
				changed()
			case <-ctx.Done():
				return
			}
		}
	}()
	return nil
}

// nsfsMagic is the type of the file system of namespaces (linux/magic.h: NSFS_MAGIC).
const nsfsMagic = 0x6e736673

// SandboxAlive reports whether path is a network namespace. A sandbox's path
// stays behind as an empty file when a runtime is killed between unmounting and
// removing it; that is a dead one.
func SandboxAlive(path string) bool {
	var fs unix.Statfs_t
	for {
		err := unix.Statfs(path, &fs)
		if err == unix.EINTR {
			continue
		}
		return err == nil && fs.Type == nsfsMagic
	}
}
