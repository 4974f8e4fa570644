package route

import (
	"fmt"

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
