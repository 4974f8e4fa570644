package policymap

import (
	"errors"
	"fmt"
	"math/bits"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// A FullError says that a map cannot have as many rows as the rules need.
type FullError struct {
	Map         string
	Rows, Limit uint32
}

func (e *FullError) Error() string {
	return fmt.Sprintf("%s: the policies of this node's pods need %d rows, and it may have %d: use fewer rules, or wider selectors and networks", e.Map, e.Rows, e.Limit)
}

// A store is what both halves of a map should hold.
type store interface {
	// fit gives a half, which does not hold, room for it.
	fit(half int) error
	// fill brings the half to it, once there is room.
	fill(half int) error
	// stale says whether a half may hold something else.
	stale(half int) bool
	// adds says whether all that is to be written into a half is in rows that held nothing, and there is room.
	adds(half int) bool
	// settle says that what it should hold does.
	settle()
	// check compares a half with the kernel, notes what is to be written and returns it.
	check(half int) ([]string, error)
	close() error
}

// halves are the kernel's maps of a store.
type halves struct {
	shape *ebpf.MapSpec // of a half
	limit uint32
	outer *ebpf.Map
	inner [2]*ebpf.Map
	size  [2]uint32
	blank [2]bool // nothing is written yet
}

// smallest is how many rows a map has room for at least.
const smallest = 64

// newHalf is a map for one half.
func newHalf(shape *ebpf.MapSpec, size uint32) (*ebpf.Map, error) {
	spec := shape.Copy()
	spec.MaxEntries = size
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return nil, fmt.Errorf("make map %s for %d rows: %w", shape.Name, size, err)
	}
	return m, nil
}

// grow gives a half a new map if it has none that is big enough.
func (h *halves) grow(half int, rows uint32) error {
	if rows > h.limit {
		return &FullError{h.shape.Name, rows, h.limit}
	}
	if h.inner[half] != nil && rows <= h.size[half] {
		return nil
	}
	size := min(h.limit, max(smallest, uint32(1)<<bits.Len32(rows-1)))
	m, err := newHalf(h.shape, size)
	if err != nil {
		return err
	}
	if err := h.outer.Put(uint32(half), m); err != nil {
		return errors.Join(fmt.Errorf("put a new half %d into map %s: %w", half, h.shape.Name, err), m.Close())
	}
	was := h.inner[half]
	h.inner[half], h.size[half], h.blank[half] = m, size, true
	if was != nil {
		return was.Close()
	}
	return nil
}

// hasRoom says whether a half's map is written to and has room for so many rows.
func (h *halves) hasRoom(half, rows int) bool {
	return h.inner[half] != nil && !h.blank[half] && rows <= int(h.size[half])
}

// put writes a row.
func (h *halves) put(half int, key, row any) error {
	err := h.inner[half].Put(key, row)
	if errors.Is(err, unix.E2BIG) {
		return &FullError{h.shape.Name, h.size[half] + 1, h.size[half]}
	}
	if err != nil {
		return fmt.Errorf("write row %v of map %s: %w", key, h.shape.Name, err)
	}
	return nil
}

// holds says whether the programs find this half's map, and gives it up if not.
func (h *halves) holds(half int) (bool, error) {
	if h.inner[half] == nil {
		return true, nil // the next one is new
	}
	same, err := holds(h.outer, uint32(half), h.inner[half])
	if err != nil || same {
		return same, err
	}
	m := h.inner[half]
	h.inner[half], h.size[half] = nil, 0
	return false, m.Close()
}

// holds says whether an element of a map of maps is this map.
func holds(outer *ebpf.Map, key uint32, inner *ebpf.Map) (bool, error) {
	info, err := inner.Info()
	if err != nil {
		return false, fmt.Errorf("look at a half of map %s: %w", outer, err)
	}
	id, ok := info.ID()
	if !ok {
		return false, fmt.Errorf("the kernel does not tell the id of a half of map %s", outer)
	}
	var is uint32
	switch err := outer.Lookup(key, &is); {
	case errors.Is(err, ebpf.ErrKeyNotExist):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("read element %d of map %s: %w", key, outer, err)
	}
	return ebpf.MapID(is) == id, nil
}

func (h *halves) close() error {
	var errs []error
	for _, m := range h.inner {
		if m != nil {
			errs = append(errs, m.Close())
		}
	}
	return errors.Join(errs...)
}

// difference says where the kernel has something else.
func (h *halves) difference(half int, row, has, want any) string {
	return fmt.Sprintf("%s, half %d, row %v: %+v, want %+v", h.shape.Name, half, row, has, want)
}

// lost says that a half is another map.
func (h *halves) lost(half int) []string {
	return []string{fmt.Sprintf("%s, half %d: another map", h.shape.Name, half)}
}

// An array has rows by number.
type array[R comparable] struct {
	halves
	rows  []R
	dirty [2]map[uint32]struct{}
	// replaced: since the last change that holds, a row that held something is another one, or is gone.
	replaced bool
}

// set makes a row what it should be, and says whether that is another one.
func (a *array[R]) set(i uint32, r R) bool {
	for uint32(len(a.rows)) <= i {
		var none R
		a.rows = append(a.rows, none)
		a.mark(uint32(len(a.rows) - 1)) // the kernel may have a former one there
	}
	was := a.rows[i]
	if was == r {
		return false
	}
	var none R
	a.replaced = a.replaced || was != none
	a.rows[i] = r
	a.mark(i)
	return true
}

func (a *array[R]) mark(i uint32) {
	for half := range a.dirty {
		if a.dirty[half] == nil {
			a.dirty[half] = map[uint32]struct{}{}
		}
		a.dirty[half][i] = struct{}{}
	}
}

// trim leaves so many rows.
func (a *array[R]) trim(rows uint32) {
	if n := uint32(len(a.rows)); rows < n {
		a.replaced = true
		a.rows = a.rows[:rows]
		for half := range a.dirty {
			for i := range a.dirty[half] {
				if i >= rows {
					delete(a.dirty[half], i)
				}
			}
		}
	}
}

func (a *array[R]) stale(half int) bool {
	return a.inner[half] == nil || a.blank[half] || len(a.dirty[half]) > 0
}

func (a *array[R]) adds(half int) bool { return !a.replaced && a.hasRoom(half, len(a.rows)) }

func (a *array[R]) settle() { a.replaced = false }

func (a *array[R]) fit(half int) error { return a.grow(half, max(1, uint32(len(a.rows)))) }

func (a *array[R]) fill(half int) error {
	if a.blank[half] {
		var none R
		for i, r := range a.rows {
			if r == none {
				continue
			}
			if err := a.put(half, uint32(i), r); err != nil {
				return err
			}
		}
		a.blank[half] = false
		clear(a.dirty[half])
		return nil
	}
	for i := range a.dirty[half] {
		if err := a.put(half, i, a.rows[i]); err != nil {
			return err
		}
		delete(a.dirty[half], i)
	}
	return nil
}

func (a *array[R]) check(half int) (differ []string, err error) {
	if ok, err := a.holds(half); err != nil || !ok {
		return a.lost(half), err
	}
	if a.stale(half) {
		return nil, nil // it is to be written anyway
	}
	for i, want := range a.rows {
		var has R
		if err := a.inner[half].Lookup(uint32(i), &has); err != nil {
			return nil, fmt.Errorf("read row %d of map %s: %w", i, a.shape.Name, err)
		}
		if has != want {
			differ = append(differ, a.difference(half, i, has, want))
			a.mark(uint32(i))
		}
	}
	return differ, nil
}

// A hash has rows by key.
type hash[K, V comparable] struct {
	halves
	rows     map[K]V
	dirty    [2]map[K]struct{}
	replaced bool // as in array
	// grows, if not nil, says that a row may become another one while it is read.
	grows func(was, now V) bool
}

func (h *hash[K, V]) mark(k K) {
	for half := range h.dirty {
		if h.dirty[half] == nil {
			h.dirty[half] = map[K]struct{}{}
		}
		h.dirty[half][k] = struct{}{}
	}
}

// become makes the rows these.
func (h *hash[K, V]) become(rows map[K]V) {
	for k := range h.rows {
		if _, ok := rows[k]; !ok {
			h.remove(k)
		}
	}
	for k, v := range rows {
		h.set(k, v)
	}
}

// set makes a row what it should be.
func (h *hash[K, V]) set(k K, v V) {
	was, ok := h.rows[k]
	if ok && was == v {
		return
	}
	h.replaced = h.replaced || ok && (h.grows == nil || !h.grows(was, v))
	h.mark(k)
	if h.rows == nil {
		h.rows = map[K]V{}
	}
	h.rows[k] = v
}

// remove removes a row that is there.
func (h *hash[K, V]) remove(k K) {
	h.replaced = true
	h.mark(k)
	delete(h.rows, k)
}

func (h *hash[K, V]) stale(half int) bool {
	return h.inner[half] == nil || h.blank[half] || len(h.dirty[half]) > 0
}

func (h *hash[K, V]) adds(half int) bool { return !h.replaced && h.hasRoom(half, len(h.rows)) }

func (h *hash[K, V]) settle() { h.replaced = false }

func (h *hash[K, V]) fit(half int) error { return h.grow(half, max(1, uint32(len(h.rows)))) }

func (h *hash[K, V]) fill(half int) error {
	if h.blank[half] {
		for k, v := range h.rows {
			if err := h.put(half, k, v); err != nil {
				return err
			}
		}
		h.blank[half] = false
		clear(h.dirty[half])
		return nil
	}
	// What goes makes room.
	for k := range h.dirty[half] {
		if _, ok := h.rows[k]; ok {
			continue
		}
		if err := h.inner[half].Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("delete row %v of map %s: %w", k, h.shape.Name, err)
		}
		delete(h.dirty[half], k)
	}
	for k := range h.dirty[half] {
		if err := h.put(half, k, h.rows[k]); err != nil {
			return err
		}
		delete(h.dirty[half], k)
	}
	return nil
}

func (h *hash[K, V]) check(half int) (differ []string, err error) {
	if ok, err := h.holds(half); err != nil || !ok {
		return h.lost(half), err
	}
	if h.stale(half) {
		return nil, nil
	}
	var k K
	var v V
	seen := make(map[K]struct{}, len(h.rows))
	rows := h.inner[half].Iterate()
	for rows.Next(&k, &v) {
		seen[k] = struct{}{}
		want, ok := h.rows[k]
		switch {
		case !ok:
			differ = append(differ, h.difference(half, k, v, "none"))
		case v != want:
			differ = append(differ, h.difference(half, k, v, want))
		default:
			continue
		}
		h.mark(k)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read map %s: %w", h.shape.Name, err)
	}
	for k, want := range h.rows {
		if _, ok := seen[k]; !ok {
			differ = append(differ, h.difference(half, k, "none", want))
			h.mark(k)
		}
	}
	return differ, nil
}
