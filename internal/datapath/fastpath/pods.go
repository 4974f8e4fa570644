package fastpath

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/netlinkx"
)

// Pods are the entries of pods' addresses: an array indexed by number, and a map from address to
// number. An entry begins with its address (struct addr of bpf/common.h, see Words), by which a
// program sees that the number still belongs to the address. It names the address's device on the
// node.
type Pods[V comparable] struct {
	Objects *Objects
	Map     *ebpf.Map
	// Name is the array's name in messages.
	Name string
	// Device returns the index of an entry's device.
	Device func(V) int
}

// Put writes an address's entry.
func (p Pods[V]) Put(a netip.Addr, v V) error {
	number, err := p.Objects.numbers.of(a)
	if err != nil {
		return err
	}
	fresh := number == 0
	if fresh {
		if number, err = p.Objects.numbers.free(p.Map.MaxEntries()); err != nil {
			return fmt.Errorf("add %s to map %s: %w", a, p.Name, err)
		}
	}
	if err := p.Map.Put(number, v); err != nil {
		return fmt.Errorf("add %s to map %s: %w", a, p.Name, err)
	}
	if fresh {
		return p.Objects.numbers.set(a, number)
	}
	return nil
}

// PutAll writes entries.
func (p Pods[V]) PutAll(entries map[netip.Addr]V) error {
	for a, v := range entries {
		if err := p.Put(a, v); err != nil {
			return err
		}
	}
	return nil
}

// Get reads an address's entry; ok is false if there is none.
func (p Pods[V]) Get(a netip.Addr) (v V, ok bool, err error) {
	number, err := p.Objects.numbers.of(a)
	if err != nil || number == 0 {
		return v, false, err
	}
	v, err = p.at(number)
	var none V
	return v, v != none, err
}

func (p Pods[V]) at(number uint32) (v V, err error) {
	if err := p.Map.Lookup(number, &v); err != nil {
		return v, fmt.Errorf("read entry %d of map %s: %w", number, p.Name, err)
	}
	return v, nil
}

// Delete removes an address's entry, if there is one.
func (p Pods[V]) Delete(a netip.Addr) error {
	number, err := p.Objects.numbers.of(a)
	if err != nil || number == 0 {
		return err
	}
	// The array first: connections use it. An empty entry is unused.
	var none V
	if err := p.Map.Put(number, none); err != nil {
		return fmt.Errorf("remove %s from map %s: %w", a, p.Name, err)
	}
	return p.Objects.numbers.drop(a)
}

// List reads all entries.
func (p Pods[V]) List() (map[netip.Addr]V, error) {
	all, err := p.Objects.numbers.list()
	if err != nil {
		return nil, err
	}
	list := map[netip.Addr]V{}
	for a, number := range all {
		if list[a], err = p.at(number); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// Problem returns what is wrong with the first wrong entry, or "".
func (p Pods[V]) Problem(entries map[netip.Addr]V) (string, error) {
	for a, want := range entries {
		have, ok, err := p.Get(a)
		switch {
		case err != nil:
			return "", err
		case !ok:
			return fmt.Sprintf("entry %s of map %s is missing", a, p.Name), nil
		case have != want:
			return fmt.Sprintf("entry %s of map %s is wrong", a, p.Name), nil
		}
	}
	return "", nil
}

// Prune removes addresses whose device no longer exists, and returns how many addresses are left.
// It goes on after an address that it cannot remove. links are devices that exist.
func (p Pods[V]) Prune(h *netlink.Handle, links []netlink.Link) (repairs []string, left int, err error) {
	list, err := p.List()
	if err != nil {
		return nil, 0, err
	}
	var errs []error
	there := Existing(h, links)
	for _, a := range slices.SortedFunc(maps.Keys(list), netip.Addr.Compare) {
		if there(p.Device(list[a])) {
			left++
			continue
		}
		if err := p.Delete(a); err != nil {
			errs = append(errs, err)
			left++
			continue
		}
		repairs = append(repairs, fmt.Sprintf("removed %s from map %s: its device is gone", a, p.Name))
	}
	return repairs, left, errors.Join(errs...)
}

// Release removes the given addresses of a device, or all that it has if none is given. An address
// that another device has in the meantime stays.
func (p Pods[V]) Release(h *netlink.Handle, index int, addresses []netip.Addr) error {
	if len(addresses) == 0 {
		list, err := p.List()
		if err != nil {
			return err
		}
		for a, v := range list {
			if p.Device(v) == index {
				addresses = append(addresses, a)
			}
		}
	}
	var errs []error
	for _, a := range addresses {
		v, ok, err := p.Get(a)
		if holder := p.Device(v); err != nil || !ok || holder != index && Exists(h, holder) {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, p.Delete(a))
	}
	return errors.Join(errs...)
}

// Exists reports whether a device exists, true if the kernel returns another error.
func Exists(h *netlink.Handle, index int) bool {
	_, err := h.LinkByIndex(index)
	return !netlinkx.Gone(err)
}

// Existing returns a function that reports whether the device with an index exists; links are devices
// that do.
func Existing(h *netlink.Handle, links []netlink.Link) func(index int) bool {
	there := map[int]bool{}
	for _, l := range links {
		there[l.Attrs().Index] = true
	}
	return func(index int) bool { return there[index] || index != 0 && Exists(h, index) }
}
