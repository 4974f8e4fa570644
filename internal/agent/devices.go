package agent

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath/linkkind"
)

// LinksByMAC lists the links of this network namespace that may be ENIs. The permanent
// address counts where there is one: a pod may have changed the MAC of its own ENI.
func LinksByMAC() (map[string]Device, error) {
	links, err := wholeDump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	out := map[string]Device{}
	for _, l := range links {
		at := l.Attrs()
		mac := at.HardwareAddr
		if len(at.PermHWAddr) == 6 {
			mac = at.PermHWAddr
		}
		if len(mac) != 6 || !linkkind.MayBeENI(l) {
			continue
		}
		out[mac.String()] = Device{Name: at.Name, MTU: at.MTU}
	}
	return out, nil
}

// dumps is how often a dump is tried that changes of links interrupt. Each takes
// well under a millisecond, a burst of pods changes links for longer.
const dumps = 100

// wholeDump repeats a netlink dump until nothing changed while it ran.
func wholeDump[T any](dump func() ([]T, error)) (list []T, err error) {
	for range dumps {
		if list, err = dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return list, err
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
