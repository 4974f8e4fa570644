// Package linkkind tells which devices of a node are Terway's and which may be an ENI. All other
// packages use it: with a second definition a pod's device could one day be taken for an ENI.
//
// It examines a given device, reads nothing from the kernel and changes nothing.
package linkkind

import (
	"strings"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/claims"
)

// The kernel's names of the kinds of device that pods have.
const (
	Veth   = "veth"
	Netkit = "netkit"
	IPvlan = "ipvlan"
)

// IsPodDevice reports whether a link is the node's end of a pod's devices: by kind and name, and by
// our group or, if somebody changed that, by the MAC that is derived from the name, or by the
// alias.
func IsPodDevice(l netlink.Link) bool {
	a, kind := l.Attrs(), l.Type()
	if !claims.IsPodDeviceName(a.Name) {
		return false
	}
	switch a.Group {
	case claims.GroupPod, claims.GroupExclusive, claims.GroupDying:
		return kind == Veth || kind == Netkit || kind == IPvlan
	}
	switch kind {
	case Veth:
		return a.HardwareAddr.String() == claims.HostMAC(a.Name).String()
	case Netkit, IPvlan: // have no MAC, or the ENI's
		return strings.HasPrefix(a.Alias, claims.AliasPrefix)
	}
	return false
}

// IsDying reports whether a device belonged to a deleted pod and is about to be deleted.
func IsDying(l netlink.Link) bool { return l.Attrs().Group == claims.GroupDying }

// IsReceiver reports whether the host stack receives packets for pods of an ENI by this device.
func IsReceiver(l netlink.Link) bool { return isReceiver(l.Type(), l.Attrs().Name) }

func isReceiver(kind, name string) bool { return kind == IPvlan && claims.IsReceiverName(name) }

// LeadsOut reports whether packets that the host stack forwards may leave the node by a device: it has Ethernet frames,
// is no part of another one, and is no pod's.
func LeadsOut(l netlink.Link) bool {
	a := l.Attrs()
	return a.EncapType == "ether" && a.MasterIndex == 0 && !IsReceiver(l) && !IsPodDevice(l)
}

// IsStacked reports whether a link is of a kind that has the MAC of a link below it.
func IsStacked(l netlink.Link) bool { return isStacked(l.Type()) }

func isStacked(kind string) bool {
	switch kind {
	case "vlan", IPvlan, "macvlan", "macvtap", "bridge", "bond", "team":
		return true
	}
	return false
}

// MayBeENI reports whether a device may be an ENI: it is not ours, and not stacked on another
// device.
func MayBeENI(l netlink.Link) bool { return mayBeENI(l.Type(), l.Attrs().Name) }

func mayBeENI(kind, name string) bool {
	return !isStacked(kind) && !strings.HasPrefix(name, claims.DevicePrefix)
}

// MayServeENI reports whether a device may be an ENI or the receiver of one, by its kind and name:
// it is for the monitor, which reads the kernel's messages itself.
func MayServeENI(kind, name string) bool { return mayBeENI(kind, name) || isReceiver(kind, name) }
