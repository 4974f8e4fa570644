package ebpf

import (
	"reflect"
	"testing"

	"github.com/cilium/ebpf"

	"terway.dev/terway/internal/datapath/claims"
)

// The programs tell nftables what a pod may not send to its node by the number that its rule has.
func TestPriorityDenied(t *testing.T) {
	for source, load := range map[string]func() (*ebpf.CollectionSpec, error){"policed.c": loadPoliced, "slowpath.c": loadSlowpath} {
		spec, err := load()
		if err != nil {
			t.Fatal(err)
		}
		if !has(spec, claims.PriorityDenied) {
			t.Errorf("no program of bpf/%s has the number %#x: PRIORITY_DENIED in bpf/judge.h must be claims.PriorityDenied", source, claims.PriorityDenied)
		}
	}
}

func has(spec *ebpf.CollectionSpec, number int64) bool {
	for _, program := range spec.Programs {
		for _, i := range program.Instructions {
			if i.Constant == number {
				return true
			}
		}
	}
	return false
}

// What judges pods without a fast path takes the place of what judges all pods, and the other way round: each program is in both, and each
// map has one shape. Without a fast path there are fewer maps.
func TestSlowPath(t *testing.T) {
	all, err := loadPoliced()
	if err != nil {
		t.Fatal(err)
	}
	spec, err := loadSlowpath()
	if err != nil {
		t.Fatal(err)
	}
	for name := range all.Programs {
		if netkit := name == FromNetkit || name == IntoNetkit; netkit != (spec.Programs[name] == nil) {
			t.Errorf("program %s: it is for netkit devices: %v, and in bpf/slowpath.c: %v", name, netkit, spec.Programs[name] != nil)
		}
	}
	for name, m := range spec.Maps {
		if other := all.Maps[name]; other == nil || !reflect.DeepEqual([]any{m.Type, m.KeySize, m.ValueSize, m.MaxEntries, m.Flags}, []any{other.Type, other.KeySize, other.ValueSize, other.MaxEntries, other.Flags}) {
			t.Errorf("map %s: in bpf/slowpath.c it is %v, in bpf/policed.c %v", name, m, other)
		}
	}
}
