package monitor

import (
	"context"
	"syscall"

	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath/attr"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/routing"
)

// routeGroups are the groups of the route socket.
var routeGroups = []uint{
	unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR,
	unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
	unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
	unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF,
}

// From linux/netconf.h and linux/fib_rules.h.
const (
	netconfIfindex    = 1
	netconfForwarding = 2
	netconfRPFilter   = 3
	netconfAll        = -1 // NETCONFA_IFINDEX_ALL

	ruleHeader    = unix.SizeofRtMsg // struct fib_rule_hdr has the form of struct rtmsg
	rulePriority  = 6
	ifAddrMessage = unix.SizeofIfAddrmsg
)

func (m *Monitor) watchRoute(ctx context.Context) error {
	s, err := listenTo(m.NetNS, unix.NETLINK_ROUTE, routeGroups...)
	if err != nil {
		return err
	}
	if err := s.ask(unix.RTM_GETLINK, make([]byte, unix.SizeofIfInfomsg)); err != nil {
		s.file.Close()
		return err
	}
	ls := &links{m: m, by: map[int32]link{}}
	m.subscribed("route")
	return s.each(ctx, func(h syscall.NlMsghdr, b []byte) {
		switch h.Type {
		case unix.RTM_NEWLINK:
			ls.changed(b)
		case unix.RTM_DELLINK:
			ls.gone(b)
		case unix.RTM_DELADDR:
			ls.addressGone(b)
		case unix.RTM_DELROUTE:
			ls.routeGone(b)
		case unix.RTM_NEWROUTE:
			ls.routeNew(b, h.Flags&unix.NLM_F_REPLACE != 0)
		case unix.RTM_DELRULE:
			m.ruleGone(b)
		case unix.RTM_NEWNETCONF:
			ls.netconf(b)
		}
	})
}

// addressGone: without our address the kernel's reverse path check on an ENI is strict.
func (ls *links) addressGone(b []byte) {
	if len(b) < ifAddrMessage {
		return
	}
	l, known := ls.by[int32(native.Uint32(b[4:]))]
	if !known || !ls.eni(l) || !routing.IsENIAddress(attr.Get(attr.After(b, ifAddrMessage), unix.IFA_LOCAL)) {
		return
	}
	ls.m.report("the address of device %s of an ENI is gone", l.name)
}

// routeEvent has the properties of a route that count.
type routeEvent struct {
	table int
	ours  bool
	oif   int32
}

func parseRoute(b []byte) (r routeEvent, ok bool) {
	if len(b) < unix.SizeofRtMsg {
		return r, false
	}
	attrs := attr.After(b, unix.SizeofRtMsg)
	r.table, r.ours, r.oif = int(b[4]), b[5] == claims.Protocol, int32(uint32Of(attr.Get(attrs, unix.RTA_OIF)))
	if table := attr.Get(attrs, unix.RTA_TABLE); table != nil {
		r.table = int(uint32Of(table))
	}
	return r, r.table >= claims.TableLocal && r.table <= claims.TableLocal+claims.MaxENIs
}

// routeGone: a pod's route is removed with the pod, which the message does not show.
func (ls *links) routeGone(b []byte) {
	r, ok := parseRoute(b)
	switch {
	case !ok || !r.ours:
	case r.table > claims.TableLocal:
		ls.m.report("a route of an ENI is gone from table %d", r.table)
	case ls.m.Pod(ls.by[r.oif].name):
		ls.m.report("a route of a pod is gone from table %d", r.table)
	}
}

// routeNew: somebody replaced one of our routes.
func (ls *links) routeNew(b []byte, replaces bool) {
	if r, ok := parseRoute(b); ok && !r.ours && replaces {
		ls.m.report("a route in table %d was replaced", r.table)
	}
}

func (m *Monitor) ruleGone(b []byte) {
	attrs := attr.After(b, ruleHeader)
	if origin := attr.Get(attrs, unix.FRA_PROTOCOL); len(origin) > 0 && origin[0] == claims.Protocol {
		m.report("a rule with priority %d is gone", uint32Of(attr.Get(attrs, rulePriority)))
	}
}

// netconf: systemd-sysctl applies sysctl.d to each new device, a moment after us.
func (ls *links) netconf(b []byte) {
	attrs := attr.After(b, 1) // struct netconfmsg is the family
	index := int32(uint32Of(attr.Get(attrs, netconfIfindex)))
	switch l, known := ls.by[index]; {
	case attr.Get(attrs, netconfForwarding) == nil && attr.Get(attrs, netconfRPFilter) == nil:
	case index == netconfAll:
		ls.m.report("rp_filter or forwarding of all devices was set")
	case known && ls.eni(l):
		ls.m.report("rp_filter or forwarding of device %s of an ENI was set", l.name)
	}
}
