package fabric

import (
	"context"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"terway.dev/terway/internal/netlinkx"
)

const filterName = "vpcsim_fabric"

// loadSwitch loads the program. It reuses the maps of the program that an earlier process left
// on lo, if they have the form that this program needs.
func loadSwitch(h *netlink.Handle, lo netlink.Link) (*programObjects, bool, error) {
	spec, err := loadProgram()
	if err != nil {
		return nil, false, fmt.Errorf("read the embedded program: %w", err)
	}
	old, err := oldMaps(h, lo, spec)
	if err != nil {
		return nil, false, err
	}
	defer func() {
		for _, m := range old {
			m.Close()
		}
	}()
	objs := &programObjects{}
	if err := spec.LoadAndAssign(objs, &ebpf.CollectionOptions{MapReplacements: old}); err != nil {
		return nil, false, fmt.Errorf("load the switch's program: %w", err)
	}
	return objs, len(old) > 0, nil
}

// oldMaps returns all maps of the program on lo, or none.
func oldMaps(h *netlink.Handle, lo netlink.Link, spec *ebpf.CollectionSpec) (map[string]*ebpf.Map, error) {
	filters, err := netlinkx.List(context.Background(), "the filters of the switch's lo",
		func() ([]netlink.Filter, error) { return h.FilterList(lo, netlink.HANDLE_MIN_INGRESS) })
	if err != nil {
		return nil, err
	}
	maps := map[string]*ebpf.Map{}
	for _, filter := range filters {
		bpf, ok := filter.(*netlink.BpfFilter)
		if !ok || bpf.Id == 0 {
			continue
		}
		prog, err := ebpf.NewProgramFromID(ebpf.ProgramID(bpf.Id))
		if err != nil {
			return nil, fmt.Errorf("open the program that an earlier process left: %w", err)
		}
		defer prog.Close()
		info, err := prog.Info()
		if err != nil {
			return nil, fmt.Errorf("ask for the maps that an earlier process left: %w", err)
		}
		ids, _ := info.MapIDs()
		for _, id := range ids {
			m, err := ebpf.NewMapFromID(id)
			if err != nil {
				return nil, fmt.Errorf("open a map that an earlier process left: %w", err)
			}
			mi, err := m.Info()
			if err != nil {
				m.Close()
				return nil, fmt.Errorf("ask for a map that an earlier process left: %w", err)
			}
			want := spec.Maps[mi.Name]
			if want == nil || want.Compatible(m) != nil || maps[mi.Name] != nil {
				m.Close()
				continue
			}
			maps[mi.Name] = m
		}
	}
	if len(maps) != len(spec.Maps) {
		for _, m := range maps {
			m.Close()
		}
		return nil, nil
	}
	return maps, nil
}

// attach attaches the program to the device's ingress and replaces an older one without a gap.
func attach(h *netlink.Handle, ifindex int, prog *ebpf.Program) error {
	qdisc := &netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: ifindex,
			Handle:    netlink.MakeHandle(0xffff, 0),
			Parent:    netlink.HANDLE_CLSACT,
		},
		QdiscType: "clsact",
	}
	if err := h.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add clsact: %w", err)
	}
	filter := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: ifindex,
			Parent:    netlink.HANDLE_MIN_INGRESS,
			Handle:    1,
			Protocol:  unix.ETH_P_ALL,
			Priority:  1,
		},
		Fd:           prog.FD(),
		Name:         filterName,
		DirectAction: true,
	}
	if err := h.FilterReplace(filter); err != nil {
		return fmt.Errorf("attach the program: %w", err)
	}
	return nil
}

func detach(h *netlink.Handle, ifindex int) error {
	qdisc := &netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: ifindex,
			Handle:    netlink.MakeHandle(0xffff, 0),
			Parent:    netlink.HANDLE_CLSACT,
		},
		QdiscType: "clsact",
	}
	if err := h.QdiscDel(qdisc); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("remove clsact: %w", err)
	}
	return nil
}
