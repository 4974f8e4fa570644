package ebpf

import (
	"errors"
	"fmt"
	"os"
	"strings"

	bpf "github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The tc filters that hold the programs. Ours are known by their priority and the
// program's name; filters of others on the same device run before and after by theirs.
const (
	// filterPriority is what `tc filter show` calls pref (route.Protocol's number).
	filterPriority = 84
	filterHandle   = 1
)

// place is one end of one device where a program runs.
type place struct {
	parent  uint32
	program string
}

var (
	podPlaces = []place{{netlink.HANDLE_MIN_INGRESS, fromPod}, {netlink.HANDLE_MIN_EGRESS, ToPod}}
	eniPlaces = []place{{netlink.HANDLE_MIN_INGRESS, fromENI}, {netlink.HANDLE_MIN_EGRESS, toENI}}
)

// attach puts programs on a device, or others in the place of those that are there; no
// packet passes in between.
func attach(h *netlink.Handle, index int, places []place, programs map[string]*bpf.Program) error {
	if err := h.QdiscAdd(clsact(index)); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add qdisc clsact: %w", err)
	}
	for _, p := range places {
		f := filter(index, p.parent)
		f.Fd, f.Name, f.DirectAction = programs[p.program].FD(), p.program, true
		if err := h.FilterReplace(f); err != nil {
			return fmt.Errorf("attach program %s: %w", p.program, err)
		}
	}
	return nil
}

func clsact(index int) *netlink.Clsact {
	return &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
}

func filter(index int, parent uint32) *netlink.BpfFilter {
	return &netlink.BpfFilter{FilterAttrs: netlink.FilterAttrs{
		LinkIndex: index, Parent: parent, Handle: filterHandle, Protocol: unix.ETH_P_ALL, Priority: filterPriority,
	}}
}

// attached is the id of our program in one place, or 0. others says that there are more
// filters, which are not ours.
func attached(h *netlink.Handle, index int, parent uint32) (id int, others bool, err error) {
	link := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}
	for {
		list, err := h.FilterList(link, parent)
		switch {
		case errors.Is(err, netlink.ErrDumpInterrupted):
			continue
		case gone(err):
			return 0, false, nil
		case err != nil:
			return 0, false, fmt.Errorf("list tc filters: %w", err)
		}
		id, others = 0, false
		for _, f := range list {
			b, ok := f.(*netlink.BpfFilter)
			if ok && b.Priority == filterPriority && strings.HasPrefix(b.Name, ProgramPrefix) {
				id = b.Id
			} else {
				others = true
			}
		}
		return id, others, nil
	}
}

// held is what runs in places of a device.
func held(h *netlink.Handle, index int, places []place) ([]Held, error) {
	var list []Held
	for _, p := range places {
		id, _, err := attached(h, index, p.parent)
		if err != nil {
			return nil, err
		}
		list = append(list, Held{Program: p.program, ID: id})
	}
	return list, nil
}

// filters are the Hooks of a pod with a veth.
type filters struct{}

// Attach implements Hooks.
func (filters) Attach(h *netlink.Handle, index int, programs map[string]*bpf.Program) error {
	return attach(h, index, podPlaces, programs)
}

// Held implements Hooks.
func (filters) Held(h *netlink.Handle, index int) ([]Held, error) { return held(h, index, podPlaces) }

// detach takes our filters from a device, and the qdisc if nobody else uses it.
func detach(h *netlink.Handle, index int) (found bool, err error) {
	used := false
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		id, others, err := attached(h, index, parent)
		if err != nil {
			return found, err
		}
		used = used || others
		if id == 0 {
			continue
		}
		found = true
		if err := h.FilterDel(filter(index, parent)); err != nil && !gone(err) {
			return found, fmt.Errorf("remove tc filter: %w", err)
		}
	}
	if !found || used {
		return found, nil
	}
	if err := h.QdiscDel(clsact(index)); err != nil && !gone(err) {
		return found, fmt.Errorf("remove qdisc clsact: %w", err)
	}
	return found, nil
}

// gone says that a device, qdisc or filter was not there. The kernel says EINVAL when a
// device has no such qdisc.
func gone(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) || errors.Is(err, os.ErrNotExist)
}
