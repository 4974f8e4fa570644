package exclusive

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/bpfobj"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/fastpath"
	"terway.dev/terway/internal/datapath/linkkind"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/object"
	"terway.dev/terway/internal/datapath/tcfilter"
	"terway.dev/terway/internal/netlinkx"
)

// The filters on the node, and those in pods.
const (
	onNode = tcfilter.Filters(claims.PrefTurn)
	inPods = tcfilter.Filters(claims.PrefOwnENI)
)

// maxAddresses is the size of the map of pods' devices: more than ENIs of any node.
const maxAddresses = 1024

var (
	leaving  = []tcfilter.Hook{{Parent: tcfilter.Egress, Program: programsProgTwTurn}}
	vethHook = []tcfilter.Hook{{Parent: tcfilter.Ingress, Program: programsProgTwOut}, {Parent: tcfilter.Egress, Program: programsProgTwLeave}}
	eniHooks = []tcfilter.Hook{{Parent: tcfilter.Ingress, Program: programsProgTwIn}, {Parent: tcfilter.Egress, Program: programsProgTwLeave}}
)

// turns has the programs of bpf/exclusive.c, by which packets that the node has translated turn around and leave by the pod's own ENI.
// They are loaded with the node's first such pod. Where they cannot be, such packets leave with the node's address.
type turns struct {
	node *node.Node

	mu      sync.Mutex
	loaded  *bpfobj.Objects
	lacks   error
	devices bool  // the node's devices have the programs, as the last Sync or pod saw them
	blocked error // why one of them cannot
}

// lacking returns why packets cannot turn around on this node, or nil.
func (t *turns) lacking() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return errors.Join(t.lacks, t.blocked)
}

// load loads the programs, with the maps of those that run. The caller holds the lock.
func (t *turns) load(h *netlink.Handle) error {
	if t.loaded != nil || t.lacks != nil {
		return nil
	}
	running, err := onNode.Programs(h)
	if err != nil {
		return err
	}
	spec, err := loadPrograms()
	if err != nil {
		return fmt.Errorf("read the programs for pods with an ENI of their own: %w", err)
	}
	spec.Maps[programsMapTwOwnEni1].MaxEntries = maxAddresses
	err = errors.Join(spec.Variables[programsVarSlotMask].Set(uint32(claims.MarkMask)), spec.Variables[programsVarSlotOwn].Set(claims.MarkOf(claims.SlotOwnENI)))
	if err != nil {
		return fmt.Errorf("set the constants of the programs: %w", err)
	}
	o, err := bpfobj.Load(spec, running)
	if err == nil {
		t.loaded = o
		return nil
	}
	err = datapath.Lacks(bpfobj.Needs, err, bpfobj.Answers...)
	var unsupported *datapath.UnsupportedError
	if errors.As(err, &unsupported) {
		slog.Warn("what pods with an ENI of their own send to Services leaves with the node's address", "reason", err)
		t.lacks = err
		return nil
	}
	return err
}

// prepare makes the node ready for a pod.
func (t *turns) prepare(ctx context.Context, h *netlink.Handle) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ready(ctx, h)
}

// ready is prepare. The caller holds the lock.
func (t *turns) ready(ctx context.Context, h *netlink.Handle) error {
	if t.devices {
		return nil
	}
	if err := t.load(h); err != nil || t.loaded == nil {
		return err
	}
	links, err := netlinkx.List(ctx, "devices", h.LinkList)
	if err == nil {
		_, err = t.attach(h, links)
	}
	_, _, err = datapath.Sort(err) // Sync says what is in the way
	return err
}

// attach attaches the programs to the devices by which packets leave the node. The caller holds the lock.
func (t *turns) attach(h *netlink.Handle, links []netlink.Link) (repairs []string, err error) {
	var errs []error
	t.blocked = nil
	for _, l := range links {
		if !linkkind.LeadsOut(l) {
			continue
		}
		index, name := l.Attrs().Index, l.Attrs().Name
		problem, err := onNode.Problem(h, t.loaded, index, leaving)
		if err == nil && problem != "" {
			var b *netlinkx.Batch
			if b, err = t.node.Batch(); err == nil {
				err = onNode.Attach(b, t.loaded, index, leaving)
			}
			if err == nil {
				repairs = append(repairs, fmt.Sprintf("attached a program for pods with an ENI of their own to %s: %s", name, problem))
			}
		}
		switch {
		case errors.Is(err, tcfilter.ErrIngress):
			t.blocked = &datapath.Obstacle{What: fmt.Sprintf("what pods with an ENI of their own send to Services leaves with the node's address, because of device %s: %v", name, err)}
			errs = append(errs, t.blocked)
		case err != nil && !netlinkx.Gone(err):
			errs = append(errs, fmt.Errorf("device %s: %w", name, err))
		}
	}
	t.devices = true
	return repairs, errors.Join(errs...)
}

// sync corrects the programs on the node's devices, and removes them with the last pod; links are all devices, nil if they were not listed.
func (t *turns) sync(h *netlink.Handle, links []netlink.Link) ([]string, error) {
	if links == nil {
		return nil, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	pods := map[uint32]bool{}
	for _, l := range links {
		if linkkind.IsPodDevice(l) && l.Attrs().Group == claims.GroupExclusive {
			pods[uint32(l.Attrs().Index)] = true
		}
	}
	if len(pods) > 0 {
		if err := t.load(h); err != nil || t.loaded == nil {
			return nil, err
		}
	}
	used := false // also by pods that are younger than the list
	var err error
	if t.loaded != nil {
		used, err = t.prune(h, pods)
	}
	if len(pods) == 0 && !used {
		t.devices = false
		_, swept := onNode.Sweep(h, links, func(netlink.Link) bool { return false }, false)
		return nil, errors.Join(err, swept)
	}
	repairs, attached := t.attach(h, links)
	return repairs, errors.Join(err, attached)
}

// prune removes entries of devices that are gone; used is whether others are left. The caller holds the lock.
func (t *turns) prune(h *netlink.Handle, pods map[uint32]bool) (used bool, err error) {
	var gone []programsAddr
	var key programsAddr
	var value programsOwnEni
	it := t.entries().Iterate()
	for it.Next(&key, &value) {
		if !pods[value.Host] {
			if _, err := h.LinkByIndex(int(value.Host)); netlinkx.Gone(err) { // else it is younger than the list
				gone = append(gone, key)
				continue
			}
		}
		used = true
	}
	errs := []error{it.Err()}
	for _, key := range gone {
		errs = append(errs, t.remove(key))
	}
	return used, errors.Join(errs...)
}

func (t *turns) entries() *ebpf.Map { return t.loaded.Maps[programsMapTwOwnEni1] }

func (t *turns) remove(key programsAddr) error {
	if err := t.entries().Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("remove an address from map %s: %w", programsMapTwOwnEni1, err)
	}
	return nil
}

func (t *turns) teardown(h *netlink.Handle, links []netlink.Link) error {
	t.mu.Lock()
	t.devices = false
	t.mu.Unlock()
	_, err := onNode.Sweep(h, links, linkkind.IsPodDevice, true)
	return errors.Join(err, t.close())
}

// close closes the programs; those that are attached go on.
func (t *turns) close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.loaded == nil {
		return nil
	}
	o := t.loaded
	t.loaded, t.devices = nil, false
	return o.Close()
}

// objects returns a pod's programs, and last the entries by which they begin to work.
func (t *turns) objects(p *node.Pod, eth object.Device) []object.Object {
	if t.lacking() != nil {
		return nil
	}
	return []object.Object{
		attached{t, p.Host, onNode, leaving}, attached{t, p.Inner, inPods, vethHook}, attached{t, eth, inPods, eniHooks},
		entry{turns: t, pod: p, eth: eth},
	}
}

// attached are programs on one of a pod's devices, which go with it.
type attached struct {
	*turns
	on      object.Device
	filters tcfilter.Filters
	hooks   []tcfilter.Hook
}

func (o attached) Name() string {
	return "programs by which packets of the pod leave by its ENI, on " + o.on.String()
}

func (o attached) Have(s *object.Site) (string, error) {
	index, err := s.Index(o.on)
	if err != nil || index == 0 {
		return "", err // the object that makes the device reports it
	}
	h, err := s.Handle(o.on)
	if err != nil {
		return "", err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.load(s.Node); err != nil || o.loaded == nil {
		return "", err
	}
	problem, err := o.filters.Problem(h, o.loaded, index, o.hooks)
	if err == nil && problem != "" {
		problem = fmt.Sprintf("%s: %s", o.on, problem)
	}
	return problem, err
}

func (o attached) Put(s *object.Site) error {
	if o.on.InPod && s.Pod == nil {
		return nil
	}
	index, err := s.Index(o.on)
	if err != nil {
		return err
	}
	b, err := s.Batch(o.on)
	if err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.load(s.Node); err != nil || o.loaded == nil {
		return err
	}
	return o.filters.Attach(b, o.loaded, index, o.hooks)
}

func (attached) Del(*object.Site) error { return nil }

// entry has the pod's devices in the programs' map, by its addresses.
type entry struct {
	object.Addressed
	*turns
	pod *node.Pod
	eth object.Device
}

func (o entry) Name() string {
	return fmt.Sprintf("entries of %s in map %s", o.pod.Host.Name, programsMapTwOwnEni1)
}

func keyOf(a netip.Addr) programsAddr { return programsAddr{W: fastpath.Words(a)} }

// value returns the entry; ok is false if a device is missing, which the object that makes it reports.
func (o entry) value(s *object.Site) (v programsOwnEni, ok bool, err error) {
	if s.Pod == nil {
		return v, false, nil
	}
	for _, d := range []struct {
		on object.Device
		to *uint32
	}{{o.pod.Host, &v.Host}, {o.pod.Inner, &v.Veth}, {o.eth, &v.Eni}} {
		index, err := s.Index(d.on)
		if err != nil || index == 0 {
			return v, false, err
		}
		*d.to = uint32(index)
	}
	return v, true, nil
}

func (o entry) Have(s *object.Site) (string, error) {
	want, ok, err := o.value(s)
	if err != nil || !ok {
		return "", err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.load(s.Node); err != nil || o.loaded == nil {
		return "", err
	}
	for _, a := range o.pod.Addresses {
		var have programsOwnEni
		err := o.entries().Lookup(keyOf(a), &have)
		switch {
		case errors.Is(err, ebpf.ErrKeyNotExist):
			return fmt.Sprintf("entry %s of map %s is missing", a, programsMapTwOwnEni1), nil
		case err != nil:
			return "", fmt.Errorf("read entry %s of map %s: %w", a, programsMapTwOwnEni1, err)
		case have != want:
			return fmt.Sprintf("entry %s of map %s is wrong", a, programsMapTwOwnEni1), nil
		}
	}
	return "", nil
}

func (o entry) Put(s *object.Site) error {
	want, ok, err := o.value(s)
	if err != nil || !ok {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	// The last Sync may have found no such pod, and removed what is on the node's devices.
	if err := o.ready(s.Ctx, s.Node); err != nil || o.loaded == nil {
		return err
	}
	for _, a := range o.pod.Addresses {
		if err := o.entries().Put(keyOf(a), want); err != nil {
			return fmt.Errorf("add %s to map %s: %w", a, programsMapTwOwnEni1, err)
		}
	}
	return nil
}

// Del implements object.Object. An address that another device has in the meantime stays.
func (o entry) Del(s *object.Site) error {
	host, err := s.Index(o.pod.Host)
	if err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.loaded == nil {
		if running, err := onNode.Programs(s.Node); err != nil || len(running) == 0 {
			return err
		}
		if err := o.load(s.Node); err != nil || o.loaded == nil {
			return err
		}
	}
	for _, a := range o.pod.Addresses {
		var have programsOwnEni
		if err := o.entries().Lookup(keyOf(a), &have); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("read entry %s of map %s: %w", a, programsMapTwOwnEni1, err)
		}
		if _, err := s.Node.LinkByIndex(int(have.Host)); int(have.Host) != host && !netlinkx.Gone(err) {
			continue
		}
		if err := o.remove(keyOf(a)); err != nil {
			return err
		}
	}
	return nil
}
