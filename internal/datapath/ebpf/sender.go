package ebpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/fastpath"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/object"
	"terway.dev/terway/internal/netlinkx"
)

// sender is the entry, by its index, of the sources that a pod's device may use.
type sender struct {
	k   *Kind
	pod *node.Pod
}

func (o sender) Name() string {
	return fmt.Sprintf("entry of %s in map %s", o.pod.Host.Name, mapSenders)
}

func (o sender) value() fastpathSender {
	of := func(family int) fastpathAddr { return addrKey(netlinkx.OfFamily(o.pod.Addresses, family)) }
	return fastpathSender{V4: of(netlink.FAMILY_V4), V6: of(netlink.FAMILY_V6)}
}

func (o sender) Put(s *object.Site) error {
	index, err := s.Index(o.pod.Host)
	if err != nil {
		return err
	}
	o.k.Lock()
	defer o.k.Unlock()
	if err := o.k.Load(s.Node); err != nil {
		return err
	}
	return o.k.Loader.Objects.Maps[mapSenders].Put(uint32(index), o.value())
}

func (o sender) Have(s *object.Site) (string, error) {
	index, err := s.Index(o.pod.Host)
	if err != nil || index == 0 {
		return "", err // the object that makes the device reports it
	}
	o.k.Lock()
	defer o.k.Unlock()
	if err := o.k.Load(s.Node); err != nil {
		return "", err
	}
	var have fastpathSender
	err = o.k.Loader.Objects.Maps[mapSenders].Lookup(uint32(index), &have)
	switch {
	case errors.Is(err, ebpf.ErrKeyNotExist):
		return o.Name() + " is missing", nil
	case err != nil:
		return "", fmt.Errorf("read %s: %w", o.Name(), err)
	case have != o.value():
		return o.Name() + " is wrong", nil
	}
	return "", nil
}

func (o sender) Del(s *object.Site) error {
	index, err := s.Index(o.pod.Host)
	if err != nil || index == 0 {
		return err
	}
	o.k.Lock()
	defer o.k.Unlock()
	if there, err := o.k.Find(s.Node); err != nil || !there {
		return err
	}
	return o.k.deleteSender(uint32(index))
}

// deleteSender removes a device's entry. The caller holds the lock.
func (k *Kind) deleteSender(index uint32) error {
	if err := k.Loader.Objects.Maps[mapSenders].Delete(index); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("remove device with index %d from map %s: %w", index, mapSenders, err)
	}
	return nil
}

// pruneSenders removes devices that no longer exist. That is no repair: they send nothing, and a
// pod whose device was made again leaves an entry. links are devices that exist. The caller holds
// the lock.
func (k *Kind) pruneSenders(h *netlink.Handle, links []netlink.Link) error {
	var gone []uint32
	var index uint32
	var value fastpathSender
	there := fastpath.Existing(h, links)
	it := k.Loader.Objects.Maps[mapSenders].Iterate()
	for it.Next(&index, &value) {
		if !there(int(index)) {
			gone = append(gone, index)
		}
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("list map %s: %w", mapSenders, err)
	}
	var errs []error
	for _, index := range gone {
		errs = append(errs, k.deleteSender(index))
	}
	return errors.Join(errs...)
}
