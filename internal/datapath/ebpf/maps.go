package ebpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/fastpath"
	"terway.dev/terway/internal/datapath/node"
)

// The maps by index of a device. The caller of each function holds the lock.

func (s *fastPath) putSender(p node.Endpoint) error {
	if err := s.Objects.Maps[mapSenders].Put(uint32(p.Index), sender(p)); err != nil {
		return fmt.Errorf("add device %s to map %s: %w", p.Device, mapSenders, err)
	}
	return nil
}

// senderProblem returns what is wrong with a device's entry, or "".
func (s *fastPath) senderProblem(p node.Endpoint) (string, error) {
	var have fastpathSender
	err := s.Objects.Maps[mapSenders].Lookup(uint32(p.Index), &have)
	switch {
	case errors.Is(err, ebpf.ErrKeyNotExist):
		return fmt.Sprintf("entry of %s in map %s is missing", p.Device, mapSenders), nil
	case err != nil:
		return "", fmt.Errorf("read device %s from map %s: %w", p.Device, mapSenders, err)
	case have != sender(p):
		return fmt.Sprintf("entry of %s in map %s is wrong", p.Device, mapSenders), nil
	}
	return "", nil
}

func (s *fastPath) deleteSender(index uint32) error {
	if err := s.Objects.Maps[mapSenders].Delete(index); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("remove device with index %d from map %s: %w", index, mapSenders, err)
	}
	return nil
}

// pruneSenders removes devices that no longer exist. That is no repair: they send nothing, and a
// pod whose device was made again leaves an entry. links are devices that exist.
func (s *fastPath) pruneSenders(h *netlink.Handle, links []netlink.Link) error {
	there := map[uint32]bool{}
	for _, l := range links {
		there[uint32(l.Attrs().Index)] = true
	}
	var gone []uint32
	var index uint32
	var value fastpathSender
	it := s.Objects.Maps[mapSenders].Iterate()
	for it.Next(&index, &value) {
		if !there[index] && !fastpath.Exists(h, int(index)) {
			gone = append(gone, index)
		}
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("list map %s: %w", mapSenders, err)
	}
	var errs []error
	for _, index := range gone {
		errs = append(errs, s.deleteSender(index))
	}
	return errors.Join(errs...)
}
