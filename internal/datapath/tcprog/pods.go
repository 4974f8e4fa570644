package tcprog

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

// Pods is a map with an entry for each address of a pod. Its key is struct addr of
// bpf/common.h (see Words), and its value says which device on the node has the address.
type Pods[V comparable] struct {
	Map *ebpf.Map
	// Name is how the map is called in messages.
	Name string
	// Device is the index of the device that a value names.
	Device func(V) int
}

// Put writes an address's entry.
func (p Pods[V]) Put(a netip.Addr, v V) error {
	if err := p.Map.Put(Words(a), v); err != nil {
		return fmt.Errorf("add %s to map %s: %w", a, p.Name, err)
	}
	return nil
}

// Get reads an address's entry; ok is false if there is none.
func (p Pods[V]) Get(a netip.Addr) (v V, ok bool, err error) {
	switch err := p.Map.Lookup(Words(a), &v); {
	case errors.Is(err, ebpf.ErrKeyNotExist):
		return v, false, nil
	case err != nil:
		return v, false, fmt.Errorf("read %s from map %s: %w", a, p.Name, err)
	}
	return v, true, nil
}

// Delete removes an address's entry, if there is one.
func (p Pods[V]) Delete(a netip.Addr) error {
	if err := p.Map.Delete(Words(a)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("remove %s from map %s: %w", a, p.Name, err)
	}
	return nil
}

// List reads all entries.
func (p Pods[V]) List() (map[netip.Addr]V, error) {
	list := map[netip.Addr]V{}
	var key [4]uint32
	var value V
	it := p.Map.Iterate()
	for it.Next(&key, &value) {
		list[Addr(key)] = value
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("list map %s: %w", p.Name, err)
	}
	return list, nil
}

// Problem says what is wrong with an address's entry, or "".
func (p Pods[V]) Problem(a netip.Addr, want V) (string, error) {
	have, ok, err := p.Get(a)
	switch {
	case err != nil:
		return "", err
	case !ok:
		return fmt.Sprintf("entry %s of map %s is missing", a, p.Name), nil
	case have != want:
		return fmt.Sprintf("entry %s of map %s is wrong", a, p.Name), nil
	}
	return "", nil
}

// Prune removes addresses whose device is gone, and says how many others there are. One that
// cannot be removed keeps none of the rest.
// links are those that are known to be there.
func (p Pods[V]) Prune(h *netlink.Handle, links []netlink.Link) (repairs []string, left int, err error) {
	list, err := p.List()
	if err != nil {
		return nil, 0, err
	}
	var errs []error
	there := map[int]bool{}
	for _, l := range links {
		there[l.Attrs().Index] = true
	}
	for _, a := range slices.SortedFunc(maps.Keys(list), netip.Addr.Compare) {
		if index := p.Device(list[a]); there[index] || Exists(h, index) {
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

// Release removes the addresses of a device, or all that it has if none is named. An
// address that another device has by now stays.
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

// Exists says whether a device is there. If the kernel does not tell, it is.
func Exists(h *netlink.Handle, index int) bool {
	_, err := h.LinkByIndex(index)
	return !netlinkx.Gone(err)
}
