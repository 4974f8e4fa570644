package ebpf

import (
	"errors"
	"fmt"
	"os"
	"slices"

	bpf "github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
)

// Names of programs and maps in bpf/shortcut.c. A map's name carries the version of its
// shape: one of another shape is not taken over.
const (
	fromPod = "tw_from_pod"
	fromENI = "tw_from_eni"
	toENI   = "tw_to_eni"

	mapPods     = "tw_pods_1"
	mapFlows    = "tw_flows_1"
	mapCounters = "tw_counters_1"
)

// Programs that datapaths beside this one put on their pods' devices, and how the names of
// all begin.
const (
	ProgramPrefix = "tw_"
	FromNetkit    = "tw_from_netkit"
	ToPod         = "tw_to_pod"
)

// maxPods bounds the addresses of local pods: more than any instance type carries.
const maxPods = 16384

// objects are the loaded programs and their maps.
type objects struct {
	programs              map[string]*bpf.Program
	tags                  map[string]string
	pods, flows, counters *bpf.Map
	maps                  []bpf.MapID
}

// load loads the programs. Maps of the same name and shape among those given are used
// again: then flows that go directly go on doing so.
func load(flows int, have map[string]*bpf.Map) (*objects, error) {
	// Kernels before 5.11 count maps against the limit of locked memory.
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("lift the limit of locked memory: %w", err)
	}
	spec, err := loadShortcut()
	if err != nil {
		return nil, fmt.Errorf("read the programs: %w", err)
	}
	spec.Maps[mapPods].MaxEntries = maxPods
	spec.Maps[mapFlows].MaxEntries = uint32(flows)
	keep := map[string]*bpf.Map{}
	for name, m := range have {
		if s := spec.Maps[name]; s != nil && s.Compatible(m) == nil {
			keep[name] = m
		}
	}
	coll, err := bpf.NewCollectionWithOptions(spec, bpf.CollectionOptions{MapReplacements: keep})
	if err != nil {
		return nil, fmt.Errorf("load the programs: %w", err)
	}
	o := &objects{programs: coll.Programs, tags: map[string]string{},
		pods: coll.Maps[mapPods], flows: coll.Maps[mapFlows], counters: coll.Maps[mapCounters]}
	if err := o.identify(); err != nil {
		return nil, errors.Join(err, o.close())
	}
	return o, nil
}

func (o *objects) identify() error {
	for _, m := range []*bpf.Map{o.pods, o.flows, o.counters} {
		info, err := m.Info()
		if err != nil {
			return fmt.Errorf("look at map: %w", err)
		}
		id, ok := info.ID()
		if !ok {
			return errors.New("the kernel does not tell a map's id")
		}
		o.maps = append(o.maps, id)
	}
	for name, p := range o.programs {
		info, err := p.Info()
		if err != nil {
			return fmt.Errorf("look at program %s: %w", name, err)
		}
		o.tags[name] = info.Tag
	}
	return nil
}

func (o *objects) close() error {
	var errs []error
	for _, p := range o.programs {
		errs = append(errs, p.Close())
	}
	for _, m := range []*bpf.Map{o.pods, o.flows, o.counters} {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

// loaded is a program that a filter holds.
type loaded struct {
	name, tag string
	maps      []bpf.MapID
}

// inspect looks at a program in the kernel; a program that is gone is the zero one.
func inspect(id int) (loaded, error) {
	p, err := bpf.NewProgramFromID(bpf.ProgramID(id))
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

// runs says whether what a filter holds is our program of that name, with our maps. It
// need not be the same object: the code is.
func (o *objects) runs(l loaded, name string) bool {
	if l.name != name || l.tag != o.tags[name] {
		return false
	}
	for _, id := range l.maps {
		if !slices.Contains(o.maps, id) {
			return false
		}
	}
	return len(l.maps) > 0
}

// openMaps opens the maps of a program by name.
func openMaps(ids []bpf.MapID) (map[string]*bpf.Map, error) {
	maps := map[string]*bpf.Map{}
	for _, id := range ids {
		m, err := bpf.NewMapFromID(id)
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
