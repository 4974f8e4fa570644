package object

import (
	"errors"
	"fmt"
	"net"
	"path"
	"slices"
	"strconv"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/netlinkx"
)

// devconf has the kernel's numbers of the settings in Settings.Conf (linux/ip.h, IPV4_DEVCONF_…).
var devconf = map[string]int{"forwarding": 1, "rp_filter": 8, "accept_local": 23}

// change is one setting of a device: an attribute of RTM_SETLINK, a flag (IFF_…) to set, or a
// number of devconf with a value.
type change struct {
	// what names the setting and its value, wrong says what is wrong without it, "" if nothing that
	// needs a repair.
	what, wrong string

	attr  *nl.RtAttr
	flag  uint32
	conf  int
	value uint32
}

var up = change{what: "it up", wrong: "is down", flag: unix.IFF_UP}

// changes returns the differences to the device's settings. Conf, which netlink does not show, is
// always requested: the device may be newer than the view.
func (o Settings) changes(have *netlink.LinkAttrs) (list []change, err error) {
	attr := func(differs bool, kind int, data []byte, name, format string, is, want any) {
		if differs {
			value := fmt.Sprintf(format, want)
			wrong := fmt.Sprintf("has %s "+format+" instead of %s", name, is, value)
			list = append(list, change{what: name + " " + value, wrong: wrong, attr: nl.NewRtAttr(kind, data)})
		}
	}
	attr(o.MAC != nil && have.HardwareAddr.String() != o.MAC.String(), unix.IFLA_ADDRESS, o.MAC, "MAC", "%s", have.HardwareAddr, o.MAC)
	attr(o.MTU != 0 && have.MTU != o.MTU, unix.IFLA_MTU, nl.Uint32Attr(uint32(o.MTU)), "MTU", "%d", have.MTU, o.MTU)
	attr(o.Group != 0 && have.Group != o.Group, unix.IFLA_GROUP, nl.Uint32Attr(o.Group), "group", "%#x", have.Group, o.Group)
	if o.Alias != "" && have.Alias != o.Alias {
		list = append(list, change{what: fmt.Sprintf("alias %q", o.Alias), attr: nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(o.Alias))})
	}
	if o.NoARP && have.RawFlags&unix.IFF_NOARP == 0 {
		list = append(list, change{what: "ARP off", wrong: "answers ARP", flag: unix.IFF_NOARP})
	}
	if have.Flags&net.FlagUp == 0 {
		list = append(list, up)
	}
	for _, c := range o.Conf {
		number, known := devconf[path.Base(c.Path)]
		value, err := strconv.ParseUint(c.Value, 10, 32)
		if !known || err != nil {
			return nil, fmt.Errorf("sysctl net/%s to %q: must be a number, of one of %v", c.Path, c.Value, devconf)
		}
		list = append(list, change{what: fmt.Sprintf("sysctl net/%s to %s", c.Path, c.Value), conf: number, value: uint32(value)})
	}
	return list, nil
}

// linkRequest makes all changes of a device in one request: the kernel forgets neighbours when ARP
// is turned off, and notifies others of the device once.
func linkRequest(index int, list []change) *nl.NetlinkRequest {
	info := nl.NewIfInfomsg(unix.AF_UNSPEC)
	info.Index = int32(index)
	r := request(unix.RTM_SETLINK, 0, info)
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	conf := spec.AddRtAttr(unix.AF_INET, nil).AddRtAttr(unix.IFLA_INET_CONF, nil)
	for _, c := range list {
		switch {
		case c.attr != nil:
			r.AddData(c.attr)
		case c.flag != 0:
			info.Flags, info.Change = info.Flags|c.flag, info.Change|c.flag
		default:
			conf.AddRtAttr(c.conf, nl.Uint32Attr(c.value))
		}
	}
	if slices.ContainsFunc(list, func(c change) bool { return c.conf != 0 }) {
		r.AddData(spec)
	}
	return r
}

func (o Settings) at() Device { return o.Device }

// find returns the device, which must exist.
func (o Settings) find(s *Site) (*netlink.LinkAttrs, error) {
	link, err := s.Link(o.Device)
	if err == nil && link == nil {
		err = errors.New("it is not there")
	}
	if err != nil {
		return nil, err
	}
	return link.Attrs(), nil
}

func (o Settings) message(s *Site) (*nl.NetlinkRequest, error) {
	have, err := o.find(s)
	if err != nil {
		return nil, err
	}
	list, err := o.changes(have)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return linkRequest(have.Index, list), nil
}

// oneByOne makes each change separately after all were rejected together: for many in one request
// the kernel does not say which one it rejects, and skips the later ones.
func (o Settings) oneByOne(s *Site, b *netlinkx.Batch) error {
	have, err := o.find(s)
	if err != nil {
		return err
	}
	list, err := o.changes(have)
	if err != nil {
		return err
	}
	var all []*nl.NetlinkRequest
	for _, c := range list {
		all = append(all, linkRequest(have.Index, []change{c}))
	}
	refused, err := b.Do(all)
	errs := []error{err}
	for i, err := range refused {
		if err != nil {
			errs = append(errs, fmt.Errorf("set %s: %w", list[i].what, err))
		}
	}
	return errors.Join(errs...)
}
