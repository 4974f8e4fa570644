package bpfobj

import (
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"terway.dev/terway/internal/testutil"
)

// object is the specification of one program, which uses the first of the maps.
func object(program string, maps ...string) *ebpf.CollectionSpec {
	spec := &ebpf.CollectionSpec{Maps: map[string]*ebpf.MapSpec{}, Programs: map[string]*ebpf.ProgramSpec{}}
	for _, name := range maps {
		spec.Maps[name] = &ebpf.MapSpec{Name: name, Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: 8}
	}
	spec.Programs[program] = &ebpf.ProgramSpec{Name: program, Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.LoadMapPtr(asm.R1, 0).WithReference(maps[0]),
		asm.Mov.Imm(asm.R0, 0),
		asm.Return(),
	}}
	return spec
}

// load loads an object and closes it at the end of the test.
func load(t *testing.T, spec *ebpf.CollectionSpec, running []ebpf.ProgramID, others ...*Objects) *Objects {
	t.Helper()
	o, err := Load(spec, running, others...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = o.Close() })
	return o
}

func mapID(t *testing.T, m *ebpf.Map) ebpf.MapID {
	t.Helper()
	info, err := m.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	return id
}

// attached keeps an object's program in the kernel, as a device does, and returns its id.
func attached(t *testing.T, o *Objects, program string) []ebpf.ProgramID {
	t.Helper()
	held, err := o.Programs[program].Clone()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = held.Close() })
	info, err := held.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	return []ebpf.ProgramID{id}
}

// Two objects share a map. After a restart of the agent either object is loaded first, and a program
// of either is enough to find the shared map, and one of the first object to find all of its maps,
// with their entries.
func TestObjectsShareMaps(t *testing.T) {
	testutil.RequireRoot(t)
	first, second := object("tw_first", "tw_pods_9", "tw_first_9"), object("tw_second", "tw_pods_9", "tw_second_9")
	for _, stays := range []string{"tw_first", "tw_second"} {
		t.Run(stays+" stays", func(t *testing.T) {
			a := load(t, first.Copy(), nil)
			b := load(t, second.Copy(), nil, a)
			pods, own := mapID(t, a.Maps["tw_pods_9"]), mapID(t, a.Maps["tw_first_9"])
			if got := mapID(t, b.Maps["tw_pods_9"]); got != pods {
				t.Errorf("the second object has map %d, the first one %d", got, pods)
			}
			for _, name := range []string{"tw_pods_9", "tw_first_9"} {
				if err := a.Maps[name].Put(uint32(1), uint32(7)); err != nil {
					t.Fatal(err)
				}
			}
			running := attached(t, map[string]*Objects{"tw_first": a, "tw_second": b}[stays], stays)
			for _, o := range []*Objects{a, b} {
				if err := o.Close(); err != nil {
					t.Fatal(err)
				}
			}
			for name, again := range map[string]func() (a, b *Objects){
				"the first one": func() (*Objects, *Objects) {
					a := load(t, first.Copy(), running)
					return a, load(t, second.Copy(), running, a)
				},
				"the second one": func() (*Objects, *Objects) {
					b := load(t, second.Copy(), running)
					return load(t, first.Copy(), running, b), b
				},
			} {
				a, b := again()
				if got, its := mapID(t, a.Maps["tw_pods_9"]), mapID(t, b.Maps["tw_pods_9"]); got != pods || its != pods {
					t.Errorf("%s is loaded again before the other: maps %d and %d, want %d", name, got, its, pods)
				}
				found := []*ebpf.Map{b.Maps["tw_pods_9"]}
				if stays == "tw_first" {
					found = append(found, a.Maps["tw_first_9"])
				}
				if got := mapID(t, a.Maps["tw_first_9"]); (got == own) != (stays == "tw_first") {
					t.Errorf("%s is loaded again before the other: map %d of the first object, was %d", name, got, own)
				}
				for _, m := range found {
					var v uint32
					if err := m.Lookup(uint32(1), &v); err != nil || v != 7 {
						t.Errorf("%s is loaded again before the other: %s has %d, %v; want 7", name, m, v, err)
					}
				}
			}
		})
	}
}

// Objects that do not agree about a map do not share it.
func TestSharedMapsHaveOneShape(t *testing.T) {
	testutil.RequireRoot(t)
	a := load(t, object("tw_first", "tw_pods_9"), nil)
	other := object("tw_second", "tw_pods_9")
	other.Maps["tw_pods_9"].MaxEntries = 16
	o, err := Load(other, nil, a)
	if err == nil {
		_ = o.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "tw_pods_9") || !strings.Contains(err.Error(), "MaxEntries") {
		t.Errorf("error %v, want one that names the map and the sizes", err)
	}
}

// Objects replace others while somebody writes into a map that both have. A program of either is another version for the other,
// though its code is the same: it would keep maps that nobody needs, or lacks some.
func TestReplace(t *testing.T) {
	testutil.RequireRoot(t)
	less, more := object("tw_first", "tw_pods_9"), object("tw_first", "tw_pods_9", "tw_more_9")
	old := load(t, less.Copy(), nil)
	for _, spec := range []*ebpf.CollectionSpec{more, less, more} {
		held := old.Maps["tw_pods_9"]
		running := attached(t, old, "tw_first")
		o := load(t, spec.Copy(), running, old)
		if problem, err := o.Problem("tw_first", int(running[0])); err != nil || problem == "" {
			t.Errorf("%d maps: the program with %d is taken for the one with these (%v)", len(o.Maps), len(old.Maps), err)
		}
		if err := o.Replace(old); err != nil {
			t.Fatal(err)
		}
		if o.Maps["tw_pods_9"] != held {
			t.Errorf("%d maps: the shared one is not that of the objects before", len(o.Maps))
		}
		if err := held.Put(uint32(1), uint32(7)); err != nil {
			t.Errorf("%d maps: the shared one is closed: %v", len(o.Maps), err)
		}
		byName, err := Maps(attached(t, o, "tw_first"))
		if err != nil || len(byName) != len(o.Maps) || mapID(t, byName["tw_pods_9"]) != mapID(t, held) {
			t.Errorf("%d maps: the program's are %v (%v)", len(o.Maps), byName, err)
		}
		if err := closeAll(byName); err != nil {
			t.Error(err)
		}
		old = o
	}
}
