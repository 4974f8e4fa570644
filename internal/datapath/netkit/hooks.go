package netkit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	bpf "github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath/bpfobj"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/ebpf"
	"terway.dev/terway/internal/datapath/fastpath"
	"terway.dev/terway/internal/datapath/linkkind"
	"terway.dev/terway/internal/netlinkx"
)

// hooks attaches programs at the two attach points of a pair. Both are addressed by the index of
// the node's end.
//
// The programs are attached to the device itself and not by a bpf_link: a link would need a pin to
// outlive the agent, and somebody would have to remove the pin.
type hooks struct {
	// inside runs a function in the node's namespace: the kernel looks the device up in the
	// caller's namespace.
	inside func(func() error) error
}

var _ fastpath.Hooks = (*hooks)(nil)

// attachPoint is one direction through the pair. The programs run when the other end sends.
type attachPoint struct {
	attach bpf.AttachType
	// program runs here, or judging while policies are enforced.
	program, judging string
}

var attachPoints = []attachPoint{
	{bpf.AttachNetkitPeer, ebpf.FromNetkit, ebpf.FromNetkit}, {bpf.AttachNetkitPrimary, ebpf.ToPod, ebpf.IntoNetkit},
}

// judges reports whether objects enforce policies.
func judges(o *bpfobj.Objects) bool { return o.Programs[ebpf.IntoNetkit] != nil }

// of returns the program among these objects.
func (p attachPoint) of(o *bpfobj.Objects) string {
	if judges(o) {
		return p.judging
	}
	return p.program
}

// Attach implements fastpath.Hooks. A program that already runs is left alone.
func (k *hooks) Attach(b *netlinkx.Batch, o *bpfobj.Objects, index int) error {
	if judges(o) { // first: the pair lets in only what this one has let pass
		if err := ebpf.BeforeNetkit.Attach(b, o, index); err != nil {
			return err
		}
	}
	return k.inside(func() error {
		for _, p := range attachPoints {
			if err := put(index, p, o.Programs[p.of(o)]); err != nil {
				return fmt.Errorf("attach program %s: %w", p.of(o), err)
			}
		}
		return nil
	})
}

func put(index int, p attachPoint, program *bpf.Program) error {
	old, _, err := ours(index, p.attach)
	if err != nil {
		return err
	}
	options := link.RawAttachProgramOptions{Target: index, Program: program, Attach: p.attach}
	if old != nil {
		defer old.Close()
		options.Anchor = link.ReplaceProgram(old)
	}
	err = link.RawAttachProgram(options)
	if errors.Is(err, unix.EEXIST) {
		return nil // the same program
	}
	return err
}

func (k *hooks) Problem(h *netlink.Handle, o *bpfobj.Objects, index int) (problem string, err error) {
	if judges(o) {
		if problem, err = ebpf.BeforeNetkit.Problem(h, o, index); err != nil || problem != "" {
			return problem, err
		}
	}
	err = k.inside(func() error {
		for _, p := range attachPoints {
			id, err := held(index, p)
			if err != nil {
				return err
			}
			if problem, err = o.Problem(p.of(o), int(id)); err != nil || problem != "" {
				return err
			}
		}
		return nil
	})
	return problem, err
}

// running returns the ids of our programs in all pods' pairs.
func (k *hooks) running(h *netlink.Handle) (list []bpf.ProgramID, err error) {
	links, err := netlinkx.List(context.Background(), "devices", h.LinkList)
	if err != nil {
		return nil, err
	}
	err = k.inside(func() error {
		for _, l := range links {
			// The kernel shows no programs by a pair's other end.
			if pair, ok := l.(*netlink.Netkit); !ok || !pair.IsPrimary() || !linkkind.IsPodDevice(l) {
				continue
			}
			for _, p := range attachPoints {
				id, err := held(l.Attrs().Index, p)
				if err != nil {
					return fmt.Errorf("device %s: %w", l.Attrs().Name, err)
				}
				if id != 0 {
					list = append(list, id)
				}
			}
		}
		return nil
	})
	return list, err
}

// held returns the id of our program at an attach point, or 0.
func held(index int, p attachPoint) (bpf.ProgramID, error) {
	program, id, err := ours(index, p.attach)
	if err != nil || program == nil {
		return 0, err
	}
	return id, program.Close()
}

// ours opens our program at an attach point, or returns nil. There may be programs of others as
// well.
func ours(index int, attach bpf.AttachType) (*bpf.Program, bpf.ProgramID, error) {
	there, err := link.QueryPrograms(link.QueryOptions{Target: index, Attach: attach})
	if netlinkx.Gone(err) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("query the programs at %s: %w", attach, err)
	}
	for _, a := range there.Programs {
		program, err := bpf.NewProgramFromID(a.ID)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, 0, fmt.Errorf("open program %d: %w", a.ID, err)
		}
		info, err := program.Info()
		if err == nil && strings.HasPrefix(info.Name, claims.ProgramPrefix) {
			return program, a.ID, nil
		}
		if err := errors.Join(err, program.Close()); err != nil {
			return nil, 0, fmt.Errorf("read program %d: %w", a.ID, err)
		}
	}
	return nil, 0, nil
}
