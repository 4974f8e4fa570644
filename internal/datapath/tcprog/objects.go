package tcprog

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"github.com/vishvananda/netlink"
)

// Objects are loaded programs and their maps.
type Objects struct {
	Programs map[string]*ebpf.Program
	Maps     map[string]*ebpf.Map

	tags map[string]string
	ids  []ebpf.MapID

	mu sync.Mutex
	// known are the ids of programs in the kernel that are ours, by name.
	known map[int]string
}

// Load loads the programs. Maps that a program on a device in the namespace of h has, of
// the same name and shape, are used again: what they remember stays. A name of a map
// therefore carries the version of its shape.
func (p Filters) Load(h *netlink.Handle, spec *ebpf.CollectionSpec) (*Objects, error) {
	names := map[string]bool{}
	for name := range spec.Programs {
		names[name] = true
	}
	// Kernels before 5.11 count maps against the limit of locked memory.
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("lift the limit of locked memory: %w", err)
	}
	have, err := p.find(h, names)
	defer func() {
		for _, m := range have {
			_ = m.Close() // the collection holds a copy
		}
	}()
	if err != nil {
		return nil, err
	}
	keep := map[string]*ebpf.Map{}
	for name, m := range have {
		if s := spec.Maps[name]; s != nil && s.Compatible(m) == nil {
			keep[name] = m
		}
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: keep})
	if err != nil {
		return nil, fmt.Errorf("load the programs: %w", err)
	}
	o := &Objects{Programs: coll.Programs, Maps: coll.Maps, tags: map[string]string{}, known: map[int]string{}}
	if err := errors.Join(o.bind(), o.identify()); err != nil {
		return nil, errors.Join(err, o.Close())
	}
	return o, nil
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

// Close lets go of the objects; what filters hold stays.
func (o *Objects) Close() error {
	var errs []error
	for _, p := range o.Programs {
		errs = append(errs, p.Close())
	}
	for _, m := range o.Maps {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

// Wrong names the first program that is not in its place on a device, or is another
// version than ours, or "".
func (p Filters) Wrong(h *netlink.Handle, o *Objects, index int, hooks []Hook) (string, error) {
	for _, k := range hooks {
		id, err := p.attached(h, index, k.Parent)
		if err != nil {
			return "", err
		}
		if problem, err := o.Check(k.Program, id); err != nil || problem != "" {
			return problem, err
		}
	}
	return "", nil
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
	l, err := inspect(id)
	if err != nil {
		return "", err
	}
	if !o.runs(l, program) {
		return "program " + program + " is another version", nil
	}
	o.known[id] = program
	return "", nil
}

// runs says whether what a filter holds is our program of that name, with all our maps. It
// need not be the same object: the code is.
func (o *Objects) runs(l loaded, name string) bool {
	if l.name != kernelName(name) || l.tag != o.tags[name] {
		return false
	}
	return !slices.ContainsFunc(o.ids, func(id ebpf.MapID) bool { return !slices.Contains(l.maps, id) })
}

// loaded is a program that a filter holds.
type loaded struct {
	name, tag string
	maps      []ebpf.MapID
}

// inspect looks at a program in the kernel; a program that is gone is the zero one.
func inspect(id int) (loaded, error) {
	p, err := ebpf.NewProgramFromID(ebpf.ProgramID(id))
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

// find opens the maps of the first program with one of the names, on any device.
func (p Filters) find(h *netlink.Handle, names map[string]bool) (map[string]*ebpf.Map, error) {
	known := map[string]bool{}
	for name := range names {
		known[kernelName(name)] = true
	}
	devices, err := Devices(h)
	if err != nil {
		return nil, err
	}
	for _, index := range devices {
		for _, parent := range []uint32{Ingress, Egress} {
			id, err := p.attached(h, index, parent)
			if err != nil {
				return nil, fmt.Errorf("device with index %d: %w", index, err)
			}
			if id == 0 {
				continue
			}
			l, err := inspect(id)
			if err != nil {
				return nil, err
			}
			if known[l.name] && len(l.maps) > 0 {
				return openMaps(l.maps)
			}
		}
	}
	return nil, nil
}

// openMaps opens the maps of a program by name.
func openMaps(ids []ebpf.MapID) (map[string]*ebpf.Map, error) {
	maps := map[string]*ebpf.Map{}
	for _, id := range ids {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			return maps, fmt.Errorf("open map %d: %w", id, err)
		}
		info, err := m.Info()
		if err != nil {
			return maps, errors.Join(fmt.Errorf("look at map %d: %w", id, err), m.Close())
		}
		if maps[info.Name] != nil {
			if err := m.Close(); err != nil {
				return maps, err
			}
			continue
		}
		maps[info.Name] = m
	}
	return maps, nil
}
