package ebpf

import (
	"net/netip"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/route"
	"terway.dev/terway/internal/datapath/tcprog"
)

// Variant is a datapath that is this one with other devices for its pods. The pods of
// both share the maps and the ENIs' programs, so they have shortcuts to each other.
type Variant struct {
	Name  string
	Pair  route.Pair
	Hooks Hooks
}

// Hooks are where a pod's programs run.
type Hooks interface {
	// Attach puts programs on the node's end of a pod's pair, or in the place of ours
	// that are there; no packet passes in between.
	Attach(h *netlink.Handle, o *tcprog.Objects, index int) error
	// Wrong names the first program that is not in its place there, or "".
	Wrong(h *netlink.Handle, o *tcprog.Objects, index int) (string, error)
}

// variant implements route.Pairer for a Variant. What is the node's is done by shortcuts,
// for the pods of all.
type variant struct {
	*shortcuts
	of Variant
}

var _ route.Pairer = variant{}

// Name implements route.Extension.
func (v variant) Name() string { return v.of.Name }

// Pair implements route.Pairer.
func (v variant) Pair() route.Pair { return v.of.Pair }

// Wire implements route.Extension.
func (v variant) Wire(h *netlink.Handle, p route.Place) error { return v.wire(h, p, v.of.Hooks) }

// Problems implements route.Extension.
func (v variant) Problems(h *netlink.Handle, p route.Place) ([]string, error) {
	return v.problems(h, p, v.of.Hooks)
}

// Sync implements route.Extension.
func (variant) Sync(*netlink.Handle, []netlink.Link, []route.ENIPlace) ([]string, error) {
	return nil, nil
}

// Unwire implements route.Extension.
func (variant) Unwire(*netlink.Handle, int, []netip.Addr) error { return nil }

// Teardown implements route.Extension.
func (variant) Teardown(*netlink.Handle, []netlink.Link) error { return nil }
