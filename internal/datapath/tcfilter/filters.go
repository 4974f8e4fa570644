// Package tcfilter attaches eBPF programs to devices by tc filters. Each kind of pod has a slot
// (pref) of its own.
//
// A device holds its filters and a filter its program: they outlive the agent and disappear with
// the device. The filters are of tc's older type (clsact) on every kernel: tcx waits for an RCU
// grace period (10 ms and more) for each attachment, with the kernel's lock for network devices
// held; a whole ADD takes a tenth of that.
//
// The package must never touch a filter of others (see Filters).
package tcfilter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath/bpfobj"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/netlinkx"
)

// Filters are one kind's filters, known by their priority (pref in `tc filter show`) and the
// program's name prefix. Filters of others on the device run before them by a smaller pref; those
// with a larger pref see the packets for which our program returns TC_ACT_UNSPEC, and no others.
type Filters uint16

const handle = 1

// Needs is the feature that a kernel lacks if Attach fails with one of Answers.
const Needs = "tc filters with eBPF (CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_BPF, Linux 4.5)"

// Answers are those of kernels that do not know the qdisc, the filter or one of its attributes.
var Answers = []error{unix.EOPNOTSUPP, unix.ENOENT, unix.EINVAL}

// Ingress and Egress are a device's two attach points.
const (
	Ingress = netlink.HANDLE_MIN_INGRESS
	Egress  = netlink.HANDLE_MIN_EGRESS
)

// Hook is an attach point of a device and the name of its program. Objects without that program have none there: a filter of ours
// that another version of them has left is removed. The program reads the class as skb->tc_classid, 0 if there is none.
type Hook struct {
	Parent  uint32
	Program string
	Class   uint16
}

// Attach attaches programs to a device and replaces ours that are there, each atomically. All of it
// is one message; b is a socket in the device's network namespace.
func (p Filters) Attach(b *netlinkx.Batch, o *bpfobj.Objects, index int, hooks []Hook) error {
	all := []*nl.NetlinkRequest{tcRequest(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_EXCL, "clsact",
		&nl.TcMsg{Ifindex: int32(index), Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT})}
	for _, k := range hooks {
		at := &nl.TcMsg{Ifindex: int32(index), Handle: handle, Parent: k.Parent, Info: netlink.MakeHandle(uint16(p), nl.Swap16(unix.ETH_P_ALL))}
		if o.Programs[k.Program] == nil {
			all = append(all, tcRequest(unix.RTM_DELTFILTER, 0, "bpf", at))
			continue
		}
		f := tcRequest(unix.RTM_NEWTFILTER, unix.NLM_F_CREATE, "bpf", at)
		options := nl.NewRtAttr(nl.TCA_OPTIONS, nil)
		options.AddRtAttr(nl.TCA_BPF_FD, nl.Uint32Attr(uint32(o.Programs[k.Program].FD())))
		options.AddRtAttr(nl.TCA_BPF_NAME, nl.ZeroTerminated(k.Program))
		if k.Class != 0 {
			options.AddRtAttr(nl.TCA_BPF_CLASSID, nl.Uint32Attr(uint32(k.Class)))
		}
		options.AddRtAttr(nl.TCA_BPF_FLAGS, nl.Uint32Attr(nl.TCA_BPF_FLAG_ACT_DIRECT))
		f.AddData(options)
		all = append(all, f)
	}
	refused, err := b.Do(all)
	if err != nil {
		return fmt.Errorf("attach programs: %w", err)
	}
	if err := refused[0]; err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add qdisc clsact: %w", err)
	}
	for i, k := range hooks {
		err := refused[i+1]
		switch {
		case err == nil || o.Programs[k.Program] == nil && gone(err):
		case o.Programs[k.Program] == nil:
			return fmt.Errorf("remove program %s: %w", k.Program, err)
		default:
			return fmt.Errorf("attach program %s: %w", k.Program, err)
		}
	}
	return nil
}

func tcRequest(kind, flags int, what string, at *nl.TcMsg) *nl.NetlinkRequest {
	r := nl.NewNetlinkRequest(kind, flags)
	r.AddData(at)
	r.AddData(nl.NewRtAttr(nl.TCA_KIND, nl.ZeroTerminated(what)))
	return r
}

func clsact(index int) *netlink.Clsact {
	return &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
}

// list returns the filters at an attach point, none if the device has no clsact qdisc.
func list(h *netlink.Handle, index int, parent uint32) ([]netlink.Filter, error) {
	link := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}
	filters, err := netlinkx.List(context.Background(), "tc filters", func() ([]netlink.Filter, error) { return h.FilterList(link, parent) })
	if gone(err) {
		return nil, nil
	}
	return filters, err
}

func (p Filters) filter(index int, parent uint32) *netlink.BpfFilter {
	return &netlink.BpfFilter{FilterAttrs: netlink.FilterAttrs{
		LinkIndex: index, Parent: parent, Handle: handle, Protocol: unix.ETH_P_ALL, Priority: uint16(p),
	}}
}

// attached returns the id of our program at an attach point, or 0.
func (p Filters) attached(h *netlink.Handle, index int, parent uint32) (id int, err error) {
	there, err := list(h, index, parent)
	for _, f := range there {
		if b, ok := f.(*netlink.BpfFilter); ok && b.Priority == uint16(p) && strings.HasPrefix(b.Name, claims.ProgramPrefix) {
			id = b.Id
		}
	}
	return id, err
}

// Problem returns what is wrong with the first program that is missing or has another version, or
// "". The error is ErrIngress if it cannot be attached.
func (p Filters) Problem(h *netlink.Handle, o *bpfobj.Objects, index int, hooks []Hook) (string, error) {
	for _, k := range hooks {
		id, err := p.attached(h, index, k.Parent)
		if err != nil {
			return "", err
		}
		if o.Programs[k.Program] == nil {
			if id != 0 {
				return "program " + k.Program + " is still there", nil
			}
			continue
		}
		problem, err := o.Problem(k.Program, id)
		if err == nil && problem != "" {
			err = noIngress(h, index)
		}
		if err != nil {
			return "", err
		}
		if problem != "" {
			return problem, nil
		}
	}
	return "", nil
}

// Before returns filters of others at these attach points that see packets before ours: they have a smaller pref, or the same one.
func (p Filters) Before(h *netlink.Handle, index int, hooks []Hook) (found []netlink.Filter, err error) {
	for _, k := range hooks {
		there, err := list(h, index, k.Parent)
		if err != nil {
			return nil, err
		}
		for _, f := range there {
			b, isBPF := f.(*netlink.BpfFilter)
			ours := f.Attrs().Priority == uint16(p) && isBPF && f.Attrs().Handle == handle && strings.HasPrefix(b.Name, claims.ProgramPrefix)
			if f.Attrs().Priority <= uint16(p) && !ours {
				found = append(found, f)
			}
		}
	}
	return found, nil
}

// Remove removes a filter that Before has returned, and all with its pref if that is not ours.
func (p Filters) Remove(h *netlink.Handle, f netlink.Filter) error {
	all := &netlink.GenericFilter{FilterAttrs: *f.Attrs(), FilterType: f.Type()}
	if all.Priority != uint16(p) {
		all.Handle = 0
	}
	if err := h.FilterDel(all); err != nil && !gone(err) {
		return fmt.Errorf("remove the tc filter with pref %d: %w", all.Priority, err)
	}
	return nil
}

// Other reports whether a device has a filter of ours with another program than these, or another
// version.
func (p Filters) Other(h *netlink.Handle, o *bpfobj.Objects, index int, hooks []Hook) (bool, error) {
	for _, k := range hooks {
		id, err := p.attached(h, index, k.Parent)
		if err != nil {
			return false, err
		}
		if id == 0 {
			continue
		}
		if problem, err := o.Problem(k.Program, id); err != nil || problem != "" {
			return problem != "", err
		}
	}
	return false, nil
}

// ErrIngress: the device has qdisc ingress. It has one list of filters, so that a program for what the
// device sends would take the place of the one for what it receives.
var ErrIngress = errors.New("another program has given the device the qdisc ingress, which has no place for filters of what it sends: let that program use clsact, or delete the qdisc (tc qdisc del dev DEVICE ingress)")

// noIngress returns ErrIngress if a device has that qdisc.
func noIngress(h *netlink.Handle, index int) error {
	qdiscs, err := qdiscsOf(h, index)
	if err == nil && slices.ContainsFunc(qdiscs, func(q netlink.Qdisc) bool { return q.Type() == "ingress" }) {
		err = ErrIngress
	}
	return err
}

func qdiscsOf(h *netlink.Handle, index int) ([]netlink.Qdisc, error) {
	link := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}
	return netlinkx.List(context.Background(), "qdiscs", func() ([]netlink.Qdisc, error) { return h.QdiscList(link) })
}

// Programs returns the ids of the programs of our filters on all devices.
func (p Filters) Programs(h *netlink.Handle) ([]ebpf.ProgramID, error) {
	devices, err := Devices(h)
	if err != nil {
		return nil, err
	}
	var list []ebpf.ProgramID
	for _, index := range devices {
		for _, parent := range []uint32{Ingress, Egress} {
			id, err := p.attached(h, index, parent)
			if err != nil {
				return nil, fmt.Errorf("device with index %d: %w", index, err)
			}
			if id != 0 {
				list = append(list, ebpf.ProgramID(id))
			}
		}
	}
	return list, nil
}

// Detach removes our filters from a device. The qdisc stays: another agent may be about to add a
// filter, which would disappear with it, and on a device that is up the kernel drops what is being
// sent when its qdisc goes (qdisc_graft). An empty qdisc costs nothing.
func (p Filters) Detach(h *netlink.Handle, index int) (found bool, err error) {
	for _, parent := range []uint32{Ingress, Egress} {
		id, err := p.attached(h, index, parent)
		if err != nil {
			return found, err
		}
		if id == 0 {
			continue
		}
		found = true
		if err := h.FilterDel(p.filter(index, parent)); err != nil && !gone(err) {
			return found, fmt.Errorf("remove tc filter: %w", err)
		}
	}
	return found, nil
}

// uninstall removes our filters from a device, and the qdisc if nobody else uses it.
func (p Filters) uninstall(h *netlink.Handle, index int) (found bool, err error) {
	if found, err = p.Detach(h, index); err != nil || !found {
		return found, err
	}
	if used, err := inUse(h, index); err != nil || used {
		return true, err
	}
	if err := h.QdiscDel(clsact(index)); err != nil && !gone(err) {
		return true, fmt.Errorf("remove qdisc clsact: %w", err)
	}
	return true, nil
}

// Sweep removes our filters from devices that need not keep them and returns what it did; at the end
// of the kind on a node it removes qdiscs too that nobody else uses. It continues after an error
// with one device.
func (p Filters) Sweep(h *netlink.Handle, links []netlink.Link, keep func(netlink.Link) bool, end bool) (repairs []string, err error) {
	devices, err := Devices(h)
	if err != nil {
		return nil, err
	}
	remove := p.Detach
	if end {
		remove = p.uninstall
	}
	var errs []error
	for _, l := range links {
		if !slices.Contains(devices, l.Attrs().Index) || keep(l) {
			continue
		}
		found, err := remove(h, l.Attrs().Index)
		if err != nil {
			errs = append(errs, fmt.Errorf("device %s: %w", l.Attrs().Name, err))
		}
		if found {
			repairs = append(repairs, "removed programs from "+l.Attrs().Name)
		}
	}
	return repairs, errors.Join(errs...)
}

// RemoveEmpty removes the qdiscs clsact without filters from devices: those that Detach has left, when no agent follows. It continues after
// an error with one device.
func RemoveEmpty(h *netlink.Handle, links []netlink.Link) error {
	devices, err := Devices(h)
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range links {
		index := l.Attrs().Index
		if !slices.Contains(devices, index) {
			continue
		}
		used, err := inUse(h, index)
		if err == nil && !used {
			err = h.QdiscDel(clsact(index))
		}
		if err != nil && !gone(err) {
			errs = append(errs, fmt.Errorf("device %s: remove qdisc clsact: %w", l.Attrs().Name, err))
		}
	}
	return errors.Join(errs...)
}

// inUse reports whether a device's clsact has filters, or a block shared with other devices, which
// the device's filters do not show while it is empty.
func inUse(h *netlink.Handle, index int) (bool, error) {
	qdiscs, err := qdiscsOf(h, index)
	if err != nil {
		return false, err
	}
	if slices.ContainsFunc(qdiscs, func(q netlink.Qdisc) bool { return q.Type() == "clsact" && q.Attrs().IngressBlock != nil }) {
		return true, nil
	}
	in, err := list(h, index, Ingress)
	if err != nil || len(in) > 0 {
		return true, err
	}
	out, err := list(h, index, Egress)
	return len(out) > 0, err
}

// Devices returns the indexes of devices with a clsact qdisc.
func Devices(h *netlink.Handle) ([]int, error) {
	qdiscs, err := netlinkx.List(context.Background(), "qdiscs", func() ([]netlink.Qdisc, error) { return h.QdiscList(nil) })
	if err != nil {
		return nil, err
	}
	var list []int
	for _, q := range qdiscs {
		if q.Type() == "clsact" {
			list = append(list, q.Attrs().LinkIndex)
		}
	}
	return list, nil
}

// gone reports whether a device, qdisc or filter does not exist. The kernel returns EINVAL for a
// device without the qdisc.
func gone(err error) bool { return netlinkx.Gone(err) || errors.Is(err, unix.EINVAL) }
