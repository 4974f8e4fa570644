package fabric

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
)

// table keeps a map of the kernel equal to the result of compile. It remembers what it wrote,
// so that a change costs as many system calls as there are differences.
type table[K, V comparable] struct {
	name string
	m    *ebpf.Map
	have map[K]V
	// settled removes from a value what the program changes by itself.
	settled func(V) V
}

// read reads the map's contents; it is needed once, and again after a failed write.
func (t *table[K, V]) read() error {
	have := map[K]V{}
	var k K
	var v V
	it := t.m.Iterate()
	for it.Next(&k, &v) {
		if t.settled != nil {
			v = t.settled(v)
		}
		have[k] = v
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("read the map %s: %w", t.name, err)
	}
	t.have = have
	return nil
}

// put adds and changes entries. A changed entry is never absent in between.
func (t *table[K, V]) put(want map[K]V) error {
	if t.have == nil {
		if err := t.read(); err != nil {
			return err
		}
	}
	for k, v := range want {
		if old, ok := t.have[k]; ok && old == v {
			continue
		}
		if err := t.m.Put(k, v); err != nil {
			t.have = nil
			return fmt.Errorf("write %+v to the map %s: %w", k, t.name, err)
		}
		t.have[k] = v
	}
	return nil
}

// prune removes entries that are not in want.
func (t *table[K, V]) prune(want map[K]V) error {
	for k := range t.have {
		if _, ok := want[k]; ok {
			continue
		}
		if err := t.m.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			t.have = nil
			return fmt.Errorf("delete %+v from the map %s: %w", k, t.name, err)
		}
		delete(t.have, k)
	}
	return nil
}

// slotTables keeps the map slots. A table's name is the hash of what it is computed from, so a
// change costs as much as the tables that are new.
type slotTables struct {
	m    *ebpf.Map
	have map[uint64][]programSlot // what was written; nil: see the map
}

// put adds tables.
func (t *slotTables) put(want map[uint64][]programSlot) error {
	if t.have == nil {
		if err := t.read(); err != nil {
			return err
		}
	}
	for id, slots := range want {
		if slices.Equal(t.have[id], slots) {
			continue
		}
		for i, s := range slots {
			if err := t.m.Put(programSlotKey{Table: id, Index: uint32(i)}, s); err != nil {
				t.have = nil
				return fmt.Errorf("write slot %d of table %x to the map slots: %w", i, id, err)
			}
		}
		t.have[id] = slots
	}
	return nil
}

// prune removes tables that are not in want.
func (t *slotTables) prune(want map[uint64][]programSlot) error {
	for id, slots := range t.have {
		if _, ok := want[id]; ok {
			continue
		}
		for i := range slots {
			if err := t.m.Delete(programSlotKey{Table: id, Index: uint32(i)}); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				t.have = nil
				return fmt.Errorf("delete slot %d of table %x from the map slots: %w", i, id, err)
			}
		}
		delete(t.have, id)
	}
	return nil
}

// read reads the map. A table that was not written to its end has empty slots, or is too short.
func (t *slotTables) read() error {
	have := map[uint64][]programSlot{}
	var key programSlotKey
	var slot programSlot
	it := t.m.Iterate()
	for it.Next(&key, &slot) {
		slots := have[key.Table]
		if missing := int(key.Index) + 1 - len(slots); missing > 0 {
			slots = append(slots, make([]programSlot, missing)...)
		}
		slots[key.Index], have[key.Table] = slot, slots
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("read the map slots: %w", err)
	}
	t.have = have
	return nil
}
