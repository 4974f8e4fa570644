package flowlog

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
)

// mapEvents is a map of bpf/flows.h.
const mapEvents = "tw_told_1"

// Bits of an event's flags.
const (
	isDenied  = 1 << iota // FLOW_DENIED
	byEgress              // FLOW_EGRESS
	byIngress             // FLOW_INGRESS
	isRunning             // FLOW_RUNNING
	toNode                // FLOW_TO_NODE
	allFlags  = 1<<iota - 1
)

// eventSize is that of struct flow_event.
const eventSize = 80

// An event is struct flow_event.
type event struct {
	at            time.Duration // since the boot
	src, dst, pod netip.Addr    // pod is invalid if it is src
	rule, log     [2]uint32     // by policy.Direction
	sport, dport  uint16
	proto         uint8
	icmp          [2]uint8
	flags         uint8
}

// read decodes an event.
func read(b []byte) (e event, err error) {
	if len(b) < eventSize {
		return e, fmt.Errorf("an event has %d bytes: want %d", len(b), eventSize)
	}
	le := binary.LittleEndian
	e.at = time.Duration(le.Uint64(b))
	for i, into := range []*netip.Addr{&e.src, &e.dst, &e.pod} {
		*into = netip.AddrFrom16([16]byte(b[8+16*i:])).Unmap()
	}
	if e.pod.IsUnspecified() {
		e.pod = netip.Addr{}
	}
	for i := range e.rule {
		e.rule[i], e.log[i] = le.Uint32(b[56+4*i:]), le.Uint32(b[64+4*i:])
	}
	e.sport, e.dport = le.Uint16(b[72:]), le.Uint16(b[74:])
	e.proto, e.icmp, e.flags = b[76], [2]uint8(b[77:]), b[79]
	switch {
	case e.at < 0:
		return e, fmt.Errorf("an event is of %d ns after the boot", uint64(e.at))
	case e.src.Is4() != e.dst.Is4() || e.pod.IsValid() && e.pod.Is4() != e.src.Is4():
		return e, fmt.Errorf("an event is of %s, %s and %s: want addresses of one family", e.src, e.dst, e.pod)
	case e.flags&^allFlags != 0 || e.flags&(byEgress|byIngress) == 0:
		return e, fmt.Errorf("an event has flags %#x: want some of %#x, with a direction that was judged", e.flags, allFlags)
	}
	return e, nil
}
