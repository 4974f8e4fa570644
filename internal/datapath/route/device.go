package route

import (
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/netlinkx"
)

// What a Linker needs so that its devices are a pod's like others.

// Retire puts a device in a pod among those that DeleteRetired deletes.
func Retire(h *netlink.Handle, l netlink.Link) error {
	if err := h.LinkSetGroup(l, claims.GroupDying); err != nil && !netlinkx.Gone(err) {
		return fmt.Errorf("move device %s to the group of dying devices: %w", l.Attrs().Name, err)
	}
	return nil
}

// DeleteRetired deletes what Retire marked in the namespace.
func DeleteRetired(ns netns.NsHandle) error { return delGroup(ns, claims.GroupDying) }

// EnsureReceiver makes a device beside an ENI's own fit to give the host stack what the
// ENI receives: it gets what ensureDevice gives the ENI.
func (d *Datapath) EnsureReceiver(h *netlink.Handle, link netlink.Link) ([]string, error) {
	name := link.Attrs().Name
	// Before it is up: it has the ENI's MAC, and must not make the ENI's own link-local
	// address of it.
	list := append(d.receiverSysctls(name), sysctl{"ipv6/conf/" + name + "/addr_gen_mode", "1"})
	repairs, err := setSysctls(d.procSys, d.ns, list)
	if err != nil {
		return repairs, fmt.Errorf("device %s: %w", name, err)
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := h.LinkSetUp(link); err != nil {
			return repairs, fmt.Errorf("set %s up: %w", name, err)
		}
		repairs = append(repairs, "set "+name+" up")
	}
	added, err := addENIAddress(h, link)
	if added {
		repairs = append(repairs, fmt.Sprintf("added %s to %s", claims.Gateway4, name))
	}
	return repairs, err
}
