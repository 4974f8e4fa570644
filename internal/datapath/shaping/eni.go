package shaping

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/bandwidth"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/object"
	"terway.dev/terway/internal/datapath/routing"
	"terway.dev/terway/internal/netlinkx"
)

// rank is a priority's class, below that of the total.
type rank struct {
	priority bandwidth.Priority
	class    uint32
	// percent of the total that the class has whatever the others send. Beyond it, a class gets what
	// those before it leave.
	percent uint64
}

// ranks are all, in order. What the last ones have keeps their pods alive while the first takes all it gets.
var ranks = []rank{
	{bandwidth.Guaranteed, netlink.MakeHandle(claims.QdiscENI, 0x10), 94},
	{bandwidth.Burstable, usual, 5},
	{bandwidth.BestEffort, netlink.MakeHandle(claims.QdiscENI, 0x30), 1},
}

// Handles of an ENI's root discipline, its class of the total, and the class of packets without an entry.
var (
	rootENI = netlink.MakeHandle(claims.QdiscENI, 0)
	total   = netlink.MakeHandle(claims.QdiscENI, 1)
	usual   = netlink.MakeHandle(claims.QdiscENI, 0x20)
)

// classOf returns a priority's class.
func classOf(p bandwidth.Priority) uint32 {
	for _, r := range ranks {
		if r.priority == p {
			return r.class
		}
	}
	return usual
}

// eniQueue is the root queueing discipline of an ENI of so many bits per second.
type eniQueue struct {
	f    *Priorities
	eni  routing.ENI
	bits uint64
}

// classes returns the classes of the queue, each behind its parent.
func (q eniQueue) classes() []class {
	all := shapeOf(q.bits, q.eni.MTU)
	list := []class{{handle: total, parent: rootENI, rate: all, ceil: all}}
	for i, r := range ranks {
		list = append(list, class{
			handle: r.class, parent: total, prio: uint32(i),
			rate: shapeOf(q.bits*r.percent/100, q.eni.MTU), ceil: all,
		})
	}
	return list
}

// queueOf is the handle of the queue of a rank's class. The kernel makes no queue another one under the same handle.
func queueOf(rank int, fair bool) uint32 {
	if !fair {
		rank += len(ranks)
	}
	return netlink.MakeHandle(claims.QdiscENI+1+uint16(rank), 0)
}

// look returns what of the ENI's queueing disciplines is missing or wrong, or "", and the root discipline if it has
// to be made anew. It is an error if another program has given the ENI one.
func (q eniQueue) look(s *object.Site, qdiscs []netlink.Qdisc) (problem string, spoiled netlink.Qdisc, err error) {
	root := slices.IndexFunc(qdiscs, func(d netlink.Qdisc) bool { return d.Attrs().Parent == netlink.HANDLE_ROOT })
	switch {
	case root < 0 || qdiscs[root].Attrs().Handle == 0: // the kernel's own
		return "it was missing", nil, nil
	case qdiscs[root].Attrs().Handle != rootENI:
		return "", nil, fmt.Errorf("another program has given it the queueing discipline %s; delete that: tc qdisc del dev %s root", qdiscs[root].Type(), q.eni.Device)
	}
	if htb, ok := qdiscs[root].(*netlink.Htb); !ok || htb.Defcls != usual&0xffff || htb.DirectQlen == nil || *htb.DirectQlen != 0 {
		return "it was another", qdiscs[root], nil
	}
	link := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: q.eni.Index}}
	have, err := netlinkx.List(s.Ctx, "classes of "+q.eni.Device, func() ([]netlink.Class, error) { return s.Node.ClassList(link, 0) })
	if err != nil {
		return "", nil, err
	}
	of := map[uint32]*netlink.HtbClass{}
	for _, c := range have {
		if htb, is := c.(*netlink.HtbClass); is { // else it is a flow of a queue
			of[htb.Handle] = htb
		}
	}
	for _, want := range q.classes() {
		c := of[want.handle]
		delete(of, want.handle)
		switch {
		case c == nil:
			problem = "a class was missing"
		case c.Rate != want.rate.rate || c.Ceil != want.ceil.rate || c.Prio != want.prio:
			problem = fmt.Sprintf("its class %s had %s of %s", netlink.HandleStr(want.handle), bandwidth.Rate(c.Rate*8), bandwidth.Rate(c.Ceil*8))
		}
	}
	if len(of) > 0 {
		return "it had classes of others", qdiscs[root], nil
	}
	for i := range ranks {
		if !slices.ContainsFunc(qdiscs, func(d netlink.Qdisc) bool {
			h := d.Attrs().Handle
			return h == queueOf(i, true) && d.Type() == "fq_codel" || h == queueOf(i, false) && d.Type() == "bfifo" && !q.f.fqCodel.has()
		}) {
			problem = "a class had another queue"
		}
	}
	return problem, nil, nil
}

// put makes the queue, or changes its numbers in place.
func (q eniQueue) put(d device) error {
	requests := []*nl.NetlinkRequest{d.htb(usual)}
	for _, c := range q.classes() {
		requests = append(requests, d.class(c))
	}
	refused, err := d.b.Do(requests)
	if err != nil {
		return err
	}
	switch root := refused[0]; {
	case errors.Is(root, unix.EEXIST):
		refused[0] = nil
	case root != nil && isUnknown(root):
		return fmt.Errorf("the kernel lacks HTB (CONFIG_NET_SCH_HTB): %w", root)
	}
	if err := errors.Join(refused...); err != nil {
		return fmt.Errorf("make qdisc htb and its classes: %w", err)
	}
	return q.putQueues(d)
}

// putQueues makes the queues of the classes, of 25 ms of the total: whoever sends alone has all of it.
func (q eniQueue) putQueues(d device) error {
	for {
		var requests []*nl.NetlinkRequest
		for i, r := range ranks {
			if q.f.fqCodel.lacks() {
				requests = append(requests, d.bfifo(shapeOf(q.bits, q.eni.MTU), queueOf(i, false), r.class))
			} else {
				requests = append(requests, d.fqCodel(queueOf(i, true), r.class))
			}
		}
		refused, err := d.b.Do(requests)
		if err == nil {
			err = errors.Join(refused...)
		}
		if err == nil || q.f.fqCodel.lacks() || !isUnknown(err) {
			if err == nil && !q.f.fqCodel.lacks() {
				q.f.fqCodel.set(true)
			}
			return err
		}
		q.f.fqCodel.set(false)
	}
}
