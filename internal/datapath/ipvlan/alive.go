package ipvlan

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/linkkind"
	"terway.dev/terway/internal/datapath/object"
	"terway.dev/terway/internal/datapath/routing"
)

// Alive implements node.Kind. A veth disappears with its other end; an ipvlan device on the node
// stays, but the kernel refuses to give the ENI's receiver an address that another device of the
// ENI has.
func (k *Kind) Alive(h *netlink.Handle, link netlink.Link) (bool, error) {
	if link.Type() != linkkind.IPvlan {
		return true, nil
	}
	// The pod's device on the node cannot be used: the kernel drops its routes with its last address.
	asked, err := object.Find(h, claims.ReceiverName(link.Attrs().HardwareAddr)) // the ENI's MAC
	if err != nil || asked == nil || !linkkind.IsReceiver(asked) {
		return true, err // not known to be dead
	}
	addresses, err := routing.PodAddresses(context.Background(), h, link.Attrs().Index)
	if err != nil {
		return false, err
	}
	for _, a := range addresses {
		addr := &netlink.Addr{IPNet: netipx.AddrIPNet(a)}
		if a.Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		err := h.AddrAdd(asked, addr)
		if errors.Is(err, unix.EADDRINUSE) {
			return true, nil
		}
		if err != nil {
			return false, fmt.Errorf("try whether %s is in use: %w", a, err)
		}
		if err := h.AddrDel(asked, addr); err != nil {
			return false, fmt.Errorf("remove %s from %s: %w", a, asked.Attrs().Name, err)
		}
	}
	return false, nil
}
