// Package bpfobj loads eBPF programs and their maps, and finds the maps again that programs in
// the kernel have, whoever holds these: the package knows neither tc nor netkit.
//
// Nothing is pinned. A program holds its maps, all of its object's, so whichever program is
// left, all maps are.
package bpfobj

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// Objects are loaded programs and their maps.
type Objects struct {
	Programs map[string]*ebpf.Program
	Maps     map[string]*ebpf.Map

	// former are maps of a version before, while it may still be at work.
	former map[string]*ebpf.Map

	tags map[string]string
	ids  []ebpf.MapID

	mu sync.Mutex
	// known are the ids of programs in the kernel that are ours, by name.
	known map[int]string
}

// Load loads the programs. Maps of programs that run, if these have names of the
// specification's, and of the same name and shape, are used again: what they remember stays. A
// name of a map therefore carries the version of its shape. Constants are set before
// (spec.Variables).
func Load(spec *ebpf.CollectionSpec, running []ebpf.ProgramID) (*Objects, error) {
	names := map[string]bool{}
	for name := range spec.Programs {
		names[kernelName(name)] = true
	}
	// Kernels before 5.11 count maps against the limit of locked memory.
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("lift the limit of locked memory: %w", err)
	}
	have, err := mapsOf(running, names)
	if err != nil {
		return nil, err
	}
	keep, former, err := sort(have, spec)
	defer closeAll(keep) // the collection holds copies
	if err != nil {
		return nil, errors.Join(err, closeAll(former))
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: keep})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("load the programs: %w", err), closeAll(former))
	}
	o := &Objects{Programs: coll.Programs, Maps: coll.Maps, former: former, tags: map[string]string{}, known: map[int]string{}}
	if err := errors.Join(o.bind(), o.identify()); err != nil {
		return nil, errors.Join(err, o.Close())
	}
	return o, nil
}

// sort tells maps that a specification can use from those of other versions, and closes what
// is left. Those of the newest program come first.
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

// usable says whether a map that is there is what is specified. Of constants the values
// count too: programs were made with them.
func usable(m *ebpf.Map, all *ebpf.CollectionSpec, name string) bool {
	spec := *all.Maps[name]
	var want []byte
	for _, v := range all.Variables {
		if v.SectionName != name {
			continue
		}
		if want == nil {
			want = make([]byte, spec.ValueSize)
			spec.Flags |= m.Flags() & unix.BPF_F_MMAPABLE // where the kernel can, they are loaded so
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

// bind lets each program hold all maps, also those that it does not use: whichever is found
// later, all maps are.
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

// Former is a map that the programs found have and the specification has not, or nil: one of
// a version before, which may still be at work.
func (o *Objects) Former(name string) *ebpf.Map { return o.former[name] }

// DropFormer lets go of these maps.
func (o *Objects) DropFormer() error {
	err := closeAll(o.former)
	o.former = nil
	return err
}

// Close lets go of the objects; what runs stays.
func (o *Objects) Close() error {
	var errs []error
	for _, p := range o.Programs {
		errs = append(errs, p.Close())
	}
	return errors.Join(append(errs, closeAll(o.Maps), closeAll(o.former))...)
}

// Check says what is wrong if the program with that id (0: none) runs where one of ours
// should, or "".
func (o *Objects) Check(program string, id int) (string, error) {
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

// runs says whether what runs is our program of that name, with all our maps. It need not be
// the same object: the code is.
func (o *Objects) runs(l loaded, name string) bool {
	if l.name != kernelName(name) || l.tag != o.tags[name] {
		return false
	}
	return !slices.ContainsFunc(o.ids, func(id ebpf.MapID) bool { return !slices.Contains(l.maps, id) })
}

// loaded is a program in the kernel.
type loaded struct {
	name, tag string
	maps      []ebpf.MapID
}

// inspect looks at a program in the kernel; a program that is gone is the zero one.
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

// kernelName is what the kernel keeps of a name (BPF_OBJ_NAME_LEN).
func kernelName(name string) string { return name[:min(len(name), 15)] }

// mapsOf opens the maps of the programs with one of the names: of the newest first, and each
// once.
func mapsOf(running []ebpf.ProgramID, names map[string]bool) ([]*ebpf.Map, error) {
	var list []*ebpf.Map
	opened := map[ebpf.MapID]bool{}
	running = slices.Compact(slices.Sorted(slices.Values(running)))
	for _, id := range slices.Backward(running) {
		l, err := inspect(id)
		if err == nil && !names[l.name] {
			continue
		}
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
