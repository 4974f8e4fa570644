package shaping

import (
	"errors"
	"fmt"
	"math"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/bandwidth"
	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/object"
	"terway.dev/terway/internal/netlinkx"
)

// queue is the root queueing discipline of a device, which limits what leaves by it.
type queue struct {
	// guard has the limit in bits per second; 0: it was removed, and there is no queue.
	guard
	pod     *node.Pod
	on      object.Device
	fromPod bool
	// inside are the pod's own devices by which the packets come or go.
	inside []node.Point
}

// Handles of the disciplines and of HTB's only class.
var (
	rootHTB   = netlink.MakeHandle(claims.QdiscHTB, 0)
	rootTBF   = netlink.MakeHandle(claims.QdiscTBF, 0)
	onlyClass = netlink.MakeHandle(claims.QdiscHTB, 1)
	fifo      = netlink.MakeHandle(claims.QdiscFIFO, 0)
	inFIFO    = netlink.MakeHandle(claims.QdiscFIFO, 1)
	fqCodel   = netlink.MakeHandle(claims.QdiscFQCodel, 0)
)

// quantum is not needed where no two classes have one prio; without it the kernel computes one and warns that it is too
// large or small.
const quantum = 60000

// open is a rate at which nothing waits, in bytes per second.
const open = bandwidth.Highest / 8

func (o *queue) Name() string {
	direction := "to"
	if o.fromPod {
		direction = "from"
	}
	if o.bits == 0 {
		return fmt.Sprintf("no bandwidth limit of what %s sends %s the pod", o.on, direction)
	}
	return fmt.Sprintf("bandwidth limit of %s, by %s, for packets %s the pod", bandwidth.Rate(o.bits), o.on, direction)
}

// found is what a device has.
type found struct {
	// root is the kind of its root discipline if that is ours, else "".
	root string
	// spoiled: it has our handle, but is not as we make it.
	spoiled bool
	// rate in bytes per second.
	rate uint64
	// child: the class has a queue. fair: a queue of each flow, below or in its place.
	child, fair bool
	backlog     bool
}

// look reads what a device has.
func (o *queue) look(s *object.Site, link netlink.Link) (is found, err error) {
	list, err := s.Qdiscs(o.on, link.Attrs().Index)
	if err != nil {
		return is, err
	}
	for _, q := range list {
		a := q.Attrs()
		switch {
		case a.Parent == netlink.HANDLE_ROOT && a.Handle == rootHTB:
			is.root = q.Type()
			htb, ok := q.(*netlink.Htb)
			is.spoiled = !ok || htb.Defcls != onlyClass&0xffff || htb.DirectQlen == nil || *htb.DirectQlen != 0
		case a.Parent == netlink.HANDLE_ROOT && a.Handle == rootTBF:
			is.root = q.Type()
			tbf, ok := q.(*netlink.Tbf)
			if is.spoiled = !ok; ok {
				is.rate, is.child = tbf.Rate, true
			}
		case a.Handle == fqCodel && q.Type() == "fq_codel" && (a.Parent == inFIFO || a.Parent == onlyClass):
			is.fair, is.child = true, is.child || a.Parent == onlyClass
			o.f.fqCodel.set(true)
		case a.Parent == onlyClass:
			is.child = a.Handle == fifo && (q.Type() == "tbf" || q.Type() == "bfifo")
		}
		if a.Statistics != nil && a.Statistics.Queue != nil && a.Statistics.Queue.Backlog > 0 {
			is.backlog = true
		}
	}
	if is.root != "htb" || is.spoiled {
		return is, nil
	}
	h, err := s.Handle(o.on)
	if err != nil {
		return is, err
	}
	classes, err := netlinkx.List(s.Ctx, "classes of "+o.on.String(), func() ([]netlink.Class, error) { return h.ClassList(link, 0) })
	if err != nil {
		return is, err
	}
	for _, c := range classes {
		class, ok := c.(*netlink.HtbClass)
		switch {
		case !ok: // the child's
		case class.Handle != onlyClass || class.Rate != class.Ceil:
			is.spoiled = true // somebody else's
		default:
			is.rate = class.Rate
		}
	}
	return is, nil
}

// Have implements object.Object.
func (o *queue) Have(s *object.Site) (string, error) {
	link, err := s.Link(o.on)
	if err != nil {
		return "", err
	}
	if link == nil {
		o.unsaw()
		return "", nil // the object that makes the device reports it
	}
	is, err := o.look(s, link)
	switch {
	case err != nil:
		return "", err
	case o.bits == 0 && is.root != "":
		return fmt.Sprintf("%s has a queue for a bandwidth limit that was removed", o.on), nil
	case o.bits == 0:
		return "", nil
	case is.root == "":
		return o.Name() + " is missing", nil
	case is.spoiled || !is.child || is.root == "htb" && !is.fair && o.f.fqCodel.has():
		return o.Name() + " is wrong", nil
	case is.rate != shapeOf(o.bits, 0).rate:
		return fmt.Sprintf("%s is %s", o.Name(), bandwidth.Rate(is.rate*8)), nil
	}
	if o.on.InPod {
		o.saw()
	}
	return "", nil
}

// Put implements object.Object. It changes the numbers of an existing queue in place: what waits in it
// stays.
func (o *queue) Put(s *object.Site) error {
	if o.on.InPod && s.Pod == nil {
		return nil
	}
	link, err := s.Link(o.on)
	if err == nil && link == nil {
		err = errors.New("the device does not exist")
	}
	if err != nil {
		return err
	}
	b, err := s.Batch(o.on)
	if err != nil {
		return err
	}
	var is found
	if s.View != nil { // a new pod has none
		if is, err = o.look(s, link); err != nil {
			return err
		}
	}
	d := device{b, int32(link.Attrs().Index)}
	if o.bits == 0 {
		return d.remove(is)
	}
	if is.spoiled {
		if err := d.remove(is); err != nil {
			return err
		}
	}
	mtu, err := o.mtu(s, link)
	if err != nil {
		return err
	}
	return o.f.put(d, shapeOf(o.bits, mtu))
}

// mtu returns the largest MTU of the devices whose packets pass the queue. That of an exclusive ENI is not known from
// the desired state, and an ifb has another.
func (o *queue) mtu(s *object.Site, link netlink.Link) (int, error) {
	largest := max(link.Attrs().MTU, o.pod.MTU)
	for _, at := range o.inside {
		l, err := s.Link(at.Device)
		if err != nil {
			return 0, err
		}
		if l != nil {
			largest = max(largest, l.Attrs().MTU)
		}
	}
	return largest, nil
}

// Counts implements object.Counting.
func (o *queue) Counts(s *object.Site) (c object.Counts, ok bool, err error) {
	link, err := s.Link(o.on)
	if err != nil || link == nil || o.on.InPod && s.Pod == nil {
		return c, false, err
	}
	list, err := s.Qdiscs(o.on, link.Attrs().Index)
	if err != nil {
		return c, false, err
	}
	c.FromPod = o.fromPod
	for _, q := range list {
		a := q.Attrs()
		if a.Statistics == nil || a.Statistics.Basic == nil || a.Statistics.Queue == nil {
			continue
		}
		if a.Parent == netlink.HANDLE_ROOT && (a.Handle == rootHTB || a.Handle == rootTBF) {
			c.Bytes, ok = a.Statistics.Basic.Bytes, true
		}
		// HTB does not count segments of packets that its child takes apart.
		if a.Parent == onlyClass || a.Handle == rootTBF {
			c.Drops = uint64(a.Statistics.Queue.Drops)
		}
	}
	return c, ok, nil
}

// device sends requests about one device.
type device struct {
	b     *netlinkx.Batch
	index int32
}

// Answers of kernels that do not know a queueing discipline.
var unknown = []error{unix.ENOENT, unix.EOPNOTSUPP}

func isUnknown(err error) bool {
	return errors.Is(err, unknown[0]) || errors.Is(err, unknown[1])
}

// put makes the queue, or changes its numbers.
func (f *Feature) put(d device, s shape) error {
	if f.htb.lacks() {
		return d.putTBF(s)
	}
	for {
		children := f.children(d, s)
		refused, err := d.b.Do(append([]*nl.NetlinkRequest{d.htb(onlyClass), d.class(limitedTo(s))}, children...))
		if err != nil {
			return err
		}
		root, class, child := refused[0], refused[1], refused[2]
		switch {
		case root != nil && isUnknown(root):
			f.htb.set(false)
			return d.putTBF(s)
		case root != nil && !errors.Is(root, unix.EEXIST):
			return fmt.Errorf("add qdisc htb: %w", root)
		case class != nil:
			return fmt.Errorf("set the rate of class 1 of qdisc htb: %w", class)
		case child != nil && isUnknown(child) && !f.tbf.lacks():
			f.tbf.set(false)
		case child != nil && isUnknown(child) && !f.fqCodel.lacks():
			f.fqCodel.set(false)
		case child != nil:
			return fmt.Errorf("set the queue of qdisc htb: %w", child)
		case len(children) == 1:
			return nil
		case refused[3] != nil && isUnknown(refused[3]):
			f.fqCodel.set(false) // TBF has a queue of its own
			return nil
		case refused[3] != nil:
			return fmt.Errorf("set the queue of each flow, fq_codel: %w", refused[3])
		default:
			f.fqCodel.set(true)
			return nil
		}
	}
}

// children are the class's queue: fair to flows if the kernel can, else one of limited length. Either is in a
// TBF that never delays: all that TBF does is to take apart packets of several segments that are too large for
// the queue and the burst. Its numbers, other than its kind, can be changed while packets wait.
func (f *Feature) children(d device, s shape) []*nl.NetlinkRequest {
	switch {
	case !f.tbf.lacks():
		list := []*nl.NetlinkRequest{d.tbf(shape{rate: never, queue: s.queue, largest: s.largest}, fifo, onlyClass)}
		if !f.fqCodel.lacks() {
			list = append(list, d.fqCodel(fqCodel, inFIFO))
		}
		return list
	case !f.fqCodel.lacks():
		return []*nl.NetlinkRequest{d.fqCodel(fqCodel, onlyClass)}
	}
	return []*nl.NetlinkRequest{d.bfifo(s, fifo, onlyClass)}
}

// bfifo is one queue, which has room for packets of many segments.
func (d device) bfifo(s shape, handle, parent uint32) *nl.NetlinkRequest {
	return d.request(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, "bfifo", handle, parent,
		nl.NewRtAttr(nl.TCA_OPTIONS, nl.Uint32Attr(max(s.queue, 2*segmented))))
}

// fqCodel has a queue for each flow.
func (d device) fqCodel(handle, parent uint32) *nl.NetlinkRequest {
	return d.request(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, "fq_codel", handle, parent, nil)
}

// never is a rate at which the kernel computes 0 ns for any packet, in bytes per second.
const never = 1 << 60

// putTBF is for kernels without HTB.
func (d device) putTBF(s shape) error {
	s.largest = uint32(min(float64(s.rate)*s.burst.Seconds(), math.MaxInt32))
	refused, err := d.b.Do([]*nl.NetlinkRequest{d.tbf(s, rootTBF, netlink.HANDLE_ROOT)})
	if err != nil {
		return err
	}
	if isUnknown(refused[0]) {
		return &datapath.UnsupportedError{Feature: "HTB (CONFIG_NET_SCH_HTB) and TBF (CONFIG_NET_SCH_TBF): it can limit no pod's bandwidth", Err: refused[0]}
	}
	if refused[0] != nil {
		return fmt.Errorf("set qdisc tbf: %w", refused[0])
	}
	return nil
}

// tbf takes apart what is larger than its bucket.
func (d device) tbf(s shape, handle, parent uint32) *nl.NetlinkRequest {
	options := nl.NewRtAttr(nl.TCA_OPTIONS, nil)
	parms := nl.TcTbfQopt{Rate: rateSpec(s.rate), Limit: s.queue}
	options.AddRtAttr(nl.TCA_TBF_PARMS, parms.Serialize())
	options.AddRtAttr(nl.TCA_TBF_BURST, nl.Uint32Attr(s.largest))
	if s.rate > math.MaxUint32 {
		options.AddRtAttr(nl.TCA_TBF_RATE64, nl.Uint64Attr(s.rate))
	}
	return d.request(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, "tbf", handle, parent, options)
}

// htb is the root discipline of classes. A packet without a class (which only its priority can say) has this
// one. A packet whose priority is the discipline's handle, which a pod can set, would leave at once:
// with a direct queue of length 0 it is dropped.
func (d device) htb(usual uint32) *nl.NetlinkRequest {
	options := nl.NewRtAttr(nl.TCA_OPTIONS, nil)
	glob := nl.TcHtbGlob{Version: 3, Rate2Quantum: 10, Defcls: usual & 0xffff}
	options.AddRtAttr(nl.TCA_HTB_INIT, glob.Serialize())
	options.AddRtAttr(nl.TCA_HTB_DIRECT_QLEN, nl.Uint32Attr(0))
	return d.request(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_REPLACE|unix.NLM_F_EXCL, "htb", usual&0xffff0000, netlink.HANDLE_ROOT, options)
}

// class is a class of HTB. It has rate; up to ceil it gets what other classes of its parent leave, those of
// a lower prio first.
type class struct {
	handle, parent, prio uint32
	rate, ceil           shape
}

// limitedTo is the only class of a pod's queue.
func limitedTo(s shape) class { return class{handle: onlyClass, parent: rootHTB, rate: s, ceil: s} }

func (d device) class(c class) *nl.NetlinkRequest {
	options := nl.NewRtAttr(nl.TCA_OPTIONS, nil)
	parms := nl.TcHtbCopt{
		Rate: rateSpec(c.rate.rate), Ceil: rateSpec(c.ceil.rate), Buffer: ticks(c.rate.burst), Cbuffer: ticks(c.ceil.burst),
		Quantum: quantum, Prio: c.prio,
	}
	options.AddRtAttr(nl.TCA_HTB_PARMS, parms.Serialize())
	if c.rate.rate > math.MaxUint32 {
		options.AddRtAttr(nl.TCA_HTB_RATE64, nl.Uint64Attr(c.rate.rate))
	}
	if c.ceil.rate > math.MaxUint32 {
		options.AddRtAttr(nl.TCA_HTB_CEIL64, nl.Uint64Attr(c.ceil.rate))
	}
	return d.request(unix.RTM_NEWTCLASS, unix.NLM_F_CREATE, "htb", c.handle, c.parent, options)
}

// remove removes our root discipline. What waits in it would be lost: first the rate is opened, and
// the next call, with the next Sync, finds it empty.
func (d device) remove(is found) error {
	if is.root == "" {
		return nil
	}
	kind, handle := is.root, rootHTB
	if is.root == "tbf" {
		handle = rootTBF
	}
	if is.root == "htb" && !is.spoiled && is.backlog && is.rate != open {
		refused, err := d.b.Do([]*nl.NetlinkRequest{d.class(limitedTo(shape{rate: open, burst: longBurst}))})
		return errors.Join(append(refused, err)...)
	}
	refused, err := d.b.Do([]*nl.NetlinkRequest{d.request(unix.RTM_DELQDISC, 0, kind, handle, netlink.HANDLE_ROOT, nil)})
	if err == nil && refused[0] != nil && !netlinkx.Gone(refused[0]) {
		err = fmt.Errorf("remove qdisc %s: %w", kind, refused[0])
	}
	return err
}

// rateSpec is a rate of packets with Ethernet headers; one that is too large is also in an attribute
// of its own.
func rateSpec(rate uint64) nl.TcRateSpec {
	return nl.TcRateSpec{Linklayer: nl.LINKLAYER_ETHERNET, Rate: uint32(min(rate, math.MaxUint32))}
}

func (d device) request(message, flags int, kind string, handle, parent uint32, options *nl.RtAttr) *nl.NetlinkRequest {
	r := nl.NewNetlinkRequest(message, flags)
	r.AddData(&nl.TcMsg{Family: nl.FAMILY_ALL, Ifindex: d.index, Handle: handle, Parent: parent})
	r.AddData(nl.NewRtAttr(nl.TCA_KIND, nl.ZeroTerminated(kind)))
	if options != nil {
		r.AddData(options)
	}
	return r
}
