// Package bpfobj loads eBPF programs and maps, and opens the maps again that programs in the kernel
// have. It does not depend on how programs are attached (tc, netkit).
//
// Nothing is pinned. Each program holds all maps of its object, so all maps exist while one program
// does. Several objects can share maps: then a program of any of them is enough.
package bpfobj

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// Objects are loaded programs and their maps.
type Objects struct {
	Programs map[string]*ebpf.Program
	Maps     map[string]*ebpf.Map

	// former are maps of the former version, whose programs may still run.
	former map[string]*ebpf.Map

	tags map[string]string
	ids  []ebpf.MapID

	mu sync.Mutex
	// known are the ids of programs in the kernel that are ours, with their names.
	known map[int]string
}

// Load loads the programs of a specification. Constants must be set before (spec.Variables).
//
// It shares the maps of other loaded objects that have the same names, which must have the same
// shape. Maps of running programs are used again if name and shape are the same: their entries
// stay. So a map's name contains the version of its shape. The running programs are those of this
// object, in any version, and of objects that share maps with it.
func Load(spec *ebpf.CollectionSpec, running []ebpf.ProgramID, others ...*Objects) (*Objects, error) {
	// Kernels before 5.11 count maps against the limit of locked memory.
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("lift the limit of locked memory: %w", err)
	}
	have, err := mapsOf(running)
	if err != nil {
		return nil, err
	}
	keep, former, err := sort(have, spec)
	defer closeAll(keep) // the collection holds copies
	if err == nil {
		err = share(keep, spec, others)
	}
	if err != nil {
		return nil, errors.Join(err, closeAll(former))
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: keep})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("load the programs: %w", refusal(err)), closeAll(former))
	}
	o := &Objects{Programs: coll.Programs, Maps: coll.Maps, former: former, tags: map[string]string{}, known: map[int]string{}}
	if err := errors.Join(o.bind(), o.identify()); err != nil {
		return nil, errors.Join(err, o.Close())
	}
	return o, nil
}

// Needs is the feature that a kernel lacks if Load fails with one of Answers.
const Needs = "eBPF programs for tc with redirect_neigh and redirect_peer (Linux 5.10)"

// Answers are those of kernels that cannot run the programs.
var Answers = []error{ebpf.ErrNotSupported, unix.EOPNOTSUPP, unix.ENOSYS, unix.EINVAL}

// refusal adds ErrNotSupported to the error for a program that the verifier refuses: EACCES or
// E2BIG, and a log. Without a log they have another reason, such as a missing permission.
func refusal(err error) error {
	var refused *ebpf.VerifierError
	if errors.As(err, &refused) && len(refused.Log) > 0 && (errors.Is(err, unix.EACCES) || errors.Is(err, unix.E2BIG)) {
		return fmt.Errorf("%w: %w", ebpf.ErrNotSupported, err)
	}
	return err
}

// share puts the maps of other objects that the specification has too in the place of those of
// running programs. Each object has its own sections (.rodata).
func share(keep map[string]*ebpf.Map, spec *ebpf.CollectionSpec, others []*Objects) error {
	for _, o := range others {
		for name, m := range o.Maps {
			if spec.Maps[name] == nil || !shared(name) {
				continue
			}
			again, err := m.Clone()
			if err != nil {
				return fmt.Errorf("share map %s: %w", name, err)
			}
			if old := keep[name]; old != nil {
				err = old.Close()
			}
			keep[name] = again
			if err != nil {
				return fmt.Errorf("close map %s: %w", name, err)
			}
		}
	}
	return nil
}

// shared reports whether objects share maps with a name.
func shared(name string) bool { return !strings.HasPrefix(name, ".") }

// sort separates maps that the specification can use from those of other versions, and closes the
// rest. Maps of the newest program come first.
func sort(have []*ebpf.Map, spec *ebpf.CollectionSpec) (keep, former map[string]*ebpf.Map, err error) {
	keep, former = map[string]*ebpf.Map{}, map[string]*ebpf.Map{}
	var errs []error
	for _, m := range have {
		info, err := m.Info()
		if err != nil {
			errs = append(errs, fmt.Errorf("look at map %s: %w", m, err), m.Close())
			continue
		}
		into, s := keep, spec.Maps[info.Name]
		if s == nil {
			into = former
		}
		if into[info.Name] != nil || s != nil && !usable(m, spec, info.Name) {
			errs = append(errs, m.Close())
			continue
		}
		into[info.Name] = m
	}
	return keep, former, errors.Join(errs...)
}

// usable reports whether a map has the specified shape. Maps of constants must have the same values
// too: programs were compiled with them.
func usable(m *ebpf.Map, all *ebpf.CollectionSpec, name string) bool {
	spec := *all.Maps[name]
	var want []byte
	for _, v := range all.Variables {
		if v.SectionName != name {
			continue
		}
		if want == nil {
			want = make([]byte, spec.ValueSize)
			spec.Flags |= m.Flags() & unix.BPF_F_MMAPABLE // kernels that support it load them so
		}
		copy(want[v.Offset:], v.Value)
	}
	if spec.Compatible(m) != nil {
		return false
	}
	have := make([]byte, spec.ValueSize)
	return want == nil || m.Lookup(uint32(0), &have) == nil && bytes.Equal(have, want)
}

func closeAll(maps map[string]*ebpf.Map) error {
	var errs []error
	for _, m := range maps {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

// bind makes each program hold all maps, also those that it does not use: any program is enough to
// open all maps again.
func (o *Objects) bind() error {
	for program, p := range o.Programs {
		for name, m := range o.Maps {
			if err := p.BindMap(m); err != nil {
				return fmt.Errorf("bind map %s to program %s: %w", name, program, err)
			}
		}
	}
	return nil
}

func (o *Objects) identify() error {
	for name, m := range o.Maps {
		info, err := m.Info()
		if err != nil {
			return fmt.Errorf("look at map %s: %w", name, err)
		}
		id, ok := info.ID()
		if !ok {
			return fmt.Errorf("the kernel does not tell the id of map %s", name)
		}
		o.ids = append(o.ids, id)
	}
	for name, p := range o.Programs {
		info, err := p.Info()
		if err != nil {
			return fmt.Errorf("look at program %s: %w", name, err)
		}
		o.tags[name] = info.Tag
	}
	return nil
}

// Former returns a map of running programs that the specification does not have, or nil: one of the
// former version, whose programs may still use it.
func (o *Objects) Former(name string) *ebpf.Map { return o.former[name] }

// DropFormer closes these maps.
func (o *Objects) DropFormer() error {
	err := closeAll(o.former)
	o.former = nil
	return err
}

// Replace closes objects whose maps these share (Load). A map that both have stays open for those who have it from the others.
func (o *Objects) Replace(others *Objects) error {
	gone := &Objects{Programs: others.Programs, Maps: maps.Clone(others.Maps), former: others.former}
	for name, m := range gone.Maps {
		if o.Maps[name] != nil && shared(name) {
			o.Maps[name], gone.Maps[name] = m, o.Maps[name]
		}
	}
	return gone.Close()
}

// Close closes the objects; what is attached stays.
func (o *Objects) Close() error {
	var errs []error
	for _, p := range o.Programs {
		errs = append(errs, p.Close())
	}
	return errors.Join(append(errs, closeAll(o.Maps), closeAll(o.former))...)
}

// Problem returns the problem if the program with this id (0: none) runs where the named program
// should run, or "".
func (o *Objects) Problem(program string, id int) (string, error) {
	if id == 0 {
		return "program " + program + " is missing", nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.known[id] == program {
		return "", nil
	}
	l, err := inspect(ebpf.ProgramID(id))
	if err != nil {
		return "", err
	}
	if !o.runs(l, program) {
		return "program " + program + " is another version", nil
	}
	o.known[id] = program
	return "", nil
}

// runs reports whether a program in the kernel is the named program with all our maps and no other:
// the same code, not necessarily the same object.
func (o *Objects) runs(l loaded, name string) bool {
	if l.name != kernelName(name) || l.tag != o.tags[name] || len(l.maps) != len(o.ids) {
		return false
	}
	return !slices.ContainsFunc(o.ids, func(id ebpf.MapID) bool { return !slices.Contains(l.maps, id) })
}

// loaded is a program in the kernel.
type loaded struct {
	name, tag string
	maps      []ebpf.MapID
}

// inspect reads a program in the kernel, the zero value if it no longer exists.
func inspect(id ebpf.ProgramID) (loaded, error) {
	p, err := ebpf.NewProgramFromID(id)
	if errors.Is(err, os.ErrNotExist) {
		return loaded{}, nil
	}
	if err != nil {
		return loaded{}, fmt.Errorf("open program %d: %w", id, err)
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return loaded{}, fmt.Errorf("look at program %d: %w", id, err)
	}
	maps, _ := info.MapIDs()
	return loaded{name: info.Name, tag: info.Tag, maps: maps}, nil
}

// kernelName is the part of a name that the kernel keeps (BPF_OBJ_NAME_LEN).
func kernelName(name string) string { return name[:min(len(name), 15)] }

// Maps opens the maps of running programs, by name: of several with one name that of the newest program. The caller closes them.
func Maps(running []ebpf.ProgramID) (map[string]*ebpf.Map, error) {
	have, err := mapsOf(running)
	if err != nil {
		return nil, err
	}
	_, byName, err := sort(have, &ebpf.CollectionSpec{})
	if err != nil {
		return nil, errors.Join(err, closeAll(byName))
	}
	return byName, nil
}

// mapsOf opens the maps of running programs, those of the newest program first, each once.
func mapsOf(running []ebpf.ProgramID) ([]*ebpf.Map, error) {
	var list []*ebpf.Map
	opened := map[ebpf.MapID]bool{}
	running = slices.Compact(slices.Sorted(slices.Values(running)))
	for _, id := range slices.Backward(running) {
		l, err := inspect(id)
		for _, m := range l.maps {
			if opened[m] {
				continue
			}
			opened[m] = true
			var open *ebpf.Map
			if open, err = ebpf.NewMapFromID(m); err != nil {
				err = fmt.Errorf("open map %d: %w", m, err)
				break
			}
			list = append(list, open)
		}
		if err != nil {
			for _, m := range list {
				err = errors.Join(err, m.Close())
			}
			return nil, err
		}
	}
	return list, nil
}
