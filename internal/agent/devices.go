package agent

import (
	"context"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/linkkind"
	"terway.dev/terway/internal/netlinkx"
)

// LinksByMAC lists the links of this network namespace that may be ENIs. It prefers the permanent
// address: a pod may have changed the MAC of its exclusive ENI.
func LinksByMAC() (map[string]Device, error) {
	links, err := netlinkx.List(context.Background(), "links", netlink.LinkList)
	if err != nil {
		return nil, err
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

// SandboxAlive reports whether there is a network namespace at path, true if the kernel does not
// tell. When a runtime is killed between unmounting and removing a sandbox's path, an empty file
// stays behind; that sandbox is dead.
func SandboxAlive(path string) bool {
	ns, err := netlinkx.Enter(path)
	if err == nil {
		ns.Close()
	}
	return !netlinkx.Gone(err)
}
