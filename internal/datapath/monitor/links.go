package monitor

import (
	"net"

	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath/attr"
	"terway.dev/terway/internal/datapath/linkkind"
)

// link has the properties of a link that count.
type link struct {
	name   string
	kind   string // the kernel's name of it; empty for network cards
	mac    string // six bytes; the permanent one if there is one: a pod may change the MAC of its exclusive ENI
	up     bool
	mtu    uint32
	group  uint32
	master uint32
}

func (l link) hardware() net.HardwareAddr { return net.HardwareAddr(l.mac) }

// links has the links of the namespace by index, as the kernel reported them.
type links struct {
	m  *Monitor
	by map[int32]link
}

// parseLink reads RTM_NEWLINK and RTM_DELLINK.
func parseLink(b []byte) (index int32, l link, ok bool) {
	// A bridge reports its ports in messages of another family.
	if len(b) < unix.SizeofIfInfomsg || b[0] != unix.AF_UNSPEC {
		return 0, link{}, false
	}
	index = int32(native.Uint32(b[4:]))
	l.up = native.Uint32(b[8:])&unix.IFF_UP != 0
	attrs := attr.After(b, unix.SizeofIfInfomsg)
	mac := attr.Get(attrs, unix.IFLA_ADDRESS)
	if own := attr.Get(attrs, unix.IFLA_PERM_ADDRESS); len(own) == 6 {
		mac = own
	}
	l.name, l.mac = attr.Text(attr.Get(attrs, unix.IFLA_IFNAME)), string(mac)
	l.kind = attr.Text(attr.Get(attrs, unix.IFLA_LINKINFO, unix.IFLA_INFO_KIND))
	l.mtu, l.group, l.master = uint32Of(attr.Get(attrs, unix.IFLA_MTU)), uint32Of(attr.Get(attrs, unix.IFLA_GROUP)), uint32Of(attr.Get(attrs, unix.IFLA_MASTER))
	return index, l, true
}

func uint32Of(v []byte) uint32 {
	if len(v) < 4 {
		return 0
	}
	return native.Uint32(v)
}

// changed records the new state of a link.
func (ls *links) changed(b []byte) {
	index, now, ok := parseLink(b)
	if !ok {
		return
	}
	was, known := ls.by[index]
	ls.by[index] = now
	switch {
	case known && now == was:
	case ls.eni(now) || known && ls.eni(was):
		switch {
		case !known:
			ls.m.report("device %s of an ENI appeared", now.name)
		case was.up && !now.up:
			ls.m.report("device %s of an ENI went down", now.name)
		case now.up && !was.up: // its routes were removed when it went down
			ls.m.report("device %s of an ENI came up", now.name)
		default:
			ls.m.report("device %s of an ENI changed", now.name)
		}
	case !known: // its ADD makes a pod's device
	case ls.m.Pod(was.name) || ls.m.Pod(now.name):
		ls.m.report("device %s of a pod changed", was.name)
	}
}

func (ls *links) gone(b []byte) {
	index, last, ok := parseLink(b)
	if !ok {
		return
	}
	if was, known := ls.by[index]; known {
		last = was
	}
	delete(ls.by, index)
	switch {
	case ls.eni(last):
		ls.m.report("device %s of an ENI is gone", last.name)
	case ls.m.Pod(last.name):
		ls.m.report("device %s of a pod is gone", last.name)
	}
}

// eni reports whether it is an ENI's device or receiver, and no other with its MAC: pods' ipvlan
// devices have it, also while an ADD creates or a DEL removes them.
func (ls *links) eni(l link) bool {
	return len(l.mac) == 6 && linkkind.MayServeENI(l.kind, l.name) && ls.m.ENI(l.hardware())
}
