package shaping

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/bpfobj"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/linkkind"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/object"
	"terway.dev/terway/internal/datapath/routing"
	"terway.dev/terway/internal/datapath/tcfilter"
	"terway.dev/terway/internal/netlinkx"
)

// Priorities lets packets leave the node's shared ENIs by the network priority of their pods, while
// the node has a total for its ENIs (datapath.Node.ENIMbit). It implements node.Feature.
//
// Whatever keeps it from that is an obstacle: pods have their network without it.
type Priorities struct {
	fqCodel known
	mu      sync.Mutex
	// objects are the program and its map; nil while it is off.
	objects *bpfobj.Objects
	// clean: it is off, and a Sync has found nothing of it.
	clean bool
}

// NewPriorities returns the feature.
func NewPriorities() *Priorities { return &Priorities{} }

const (
	filters = tcfilter.Filters(claims.PrefPriority)
	// maxRanks is the largest number of addresses with an entry, as fastpath.MaxPods.
	maxRanks = 16384
)

// eniHooks attach the program that says to which class a packet belongs. What others let pass, it sees.
var eniHooks = []tcfilter.Hook{{Parent: tcfilter.Egress, Program: priorityProgTwPriority}}

// Name implements node.Feature.
func (*Priorities) Name() string { return "network priorities" }

// Sync implements node.Feature.
func (f *Priorities) Sync(s *object.Site, want datapath.Node, links []netlink.Link, enis []routing.ENI) (repairs []string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	on := want.ENIMbit != 0
	if !on && (links == nil || f.clean) {
		return nil, nil
	}
	qdiscs, err := object.Qdiscs(s.Ctx, s.Node)
	if err != nil {
		return nil, err
	}
	if !on {
		repairs, err = leave(s.Node, links, qdiscs, nil)
		f.clean = err == nil && len(repairs) == 0
		return repairs, errors.Join(err, f.unload())
	}
	f.clean = false
	if err := f.load(s.Node); err != nil {
		return nil, &datapath.Obstacle{What: fmt.Sprintf("network priorities have no effect: %v", err)}
	}
	var errs []error
	shared := map[int]bool{}
	for _, e := range enis {
		shared[e.Index] = true
		r, err := f.prepare(s, eniQueue{f, e, uint64(want.ENIMbit) * 1e6}, qdiscs[e.Index])
		repairs = append(repairs, r...)
		if err != nil && !netlinkx.Gone(err) {
			errs = append(errs, &datapath.Obstacle{What: fmt.Sprintf("network priorities have no effect on what leaves by %s: %v", e.Device, err)})
		}
	}
	if links != nil {
		r, err := leave(s.Node, links, qdiscs, shared)
		repairs, errs = append(repairs, r...), append(errs, err, f.prune(s.Node, links))
	}
	return repairs, errors.Join(errs...)
}

// load loads the program, with the map of those that run. The caller holds the lock.
func (f *Priorities) load(h *netlink.Handle) error {
	if f.objects != nil {
		return nil
	}
	running, err := filters.Programs(h)
	if err != nil {
		return err
	}
	spec, err := loadPriority()
	if err != nil {
		return fmt.Errorf("read the program: %w", err)
	}
	spec.Maps[priorityMapTwRanks1].MaxEntries = maxRanks
	if err := spec.Variables[priorityVarUsualClass].Set(usual); err != nil {
		return fmt.Errorf("set constant %s: %w", priorityVarUsualClass, err)
	}
	f.objects, err = bpfobj.Load(spec, running)
	return err
}

func (f *Priorities) unload() error {
	if f.objects == nil {
		return nil
	}
	err := f.objects.Close()
	f.objects = nil
	return err
}

// prepare makes an ENI's queue and attaches its program; qdiscs are what the ENI has. The caller holds the lock.
func (f *Priorities) prepare(s *object.Site, q eniQueue, qdiscs []netlink.Qdisc) (repairs []string, err error) {
	e := q.eni
	b, err := s.NodeBatch()
	if err != nil {
		return nil, err
	}
	problem, err := filters.Problem(s.Node, f.objects, e.Index, eniHooks)
	if err == nil && problem != "" {
		err = filters.Attach(b, f.objects, e.Index, eniHooks)
		repairs = append(repairs, fmt.Sprintf("attached programs to %s: %s", e.Device, problem))
	}
	if err != nil {
		return nil, err
	}
	problem, spoiled, err := q.look(s, qdiscs)
	if err != nil || problem == "" {
		return repairs, err
	}
	if spoiled != nil {
		if err := s.Node.QdiscDel(spoiled); err != nil && !netlinkx.Gone(err) {
			return repairs, fmt.Errorf("remove the queue: %w", err)
		}
	}
	if err := q.put(device{b, int32(e.Index)}); err != nil {
		return repairs, err
	}
	return append(repairs, fmt.Sprintf("made the queue of %s for network priorities: %s", e.Device, problem)), nil
}

// leave removes everything from devices other than these.
func leave(h *netlink.Handle, links []netlink.Link, qdiscs map[int][]netlink.Qdisc, but map[int]bool) (repairs []string, err error) {
	var errs []error
	for _, l := range links {
		of := qdiscs[l.Attrs().Index]
		root := slices.IndexFunc(of, func(q netlink.Qdisc) bool {
			return q.Attrs().Parent == netlink.HANDLE_ROOT && q.Attrs().Handle == rootENI
		})
		if root < 0 || but[l.Attrs().Index] {
			continue
		}
		if err := h.QdiscDel(of[root]); err != nil && !netlinkx.Gone(err) {
			errs = append(errs, fmt.Errorf("remove the queue of %s for network priorities: %w", l.Attrs().Name, err))
			continue
		}
		repairs = append(repairs, "removed the queue of "+l.Attrs().Name+" for network priorities")
	}
	r, err := filters.Sweep(h, links, func(l netlink.Link) bool { return but[l.Attrs().Index] || linkkind.IsPodDevice(l) }, true)
	return append(repairs, r...), errors.Join(append(errs, err)...)
}

// prune removes the entries of devices that no longer exist, which send nothing. links are devices
// that exist. The caller holds the lock.
func (f *Priorities) prune(h *netlink.Handle, links []netlink.Link) error {
	there := map[int]bool{}
	for _, l := range links {
		there[l.Attrs().Index] = true
	}
	var gone [][16]byte
	var key [16]byte
	var value priorityRank
	it := f.ranks().Iterate()
	for it.Next(&key, &value) {
		if device := int(value.Device); !there[device] && !exists(h, device) { // it may be newer than the list
			gone = append(gone, key)
		}
	}
	errs := []error{it.Err()}
	for _, key := range gone {
		errs = append(errs, f.forget(key))
	}
	return errors.Join(errs...)
}

func (f *Priorities) ranks() *ebpf.Map { return f.objects.Maps[priorityMapTwRanks1] }

func (f *Priorities) forget(key [16]byte) error {
	if err := f.ranks().Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("remove an address from map %s: %w", priorityMapTwRanks1, err)
	}
	return nil
}

// exists reports whether a device exists, true if the kernel returns another error.
func exists(h *netlink.Handle, index int) bool {
	_, err := h.LinkByIndex(index)
	return !netlinkx.Gone(err)
}

// Teardown implements node.Feature.
func (f *Priorities) Teardown(h *netlink.Handle) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	links, err := h.LinkList()
	if err != nil {
		return fmt.Errorf("list devices: %w", err)
	}
	qdiscs, err := object.Qdiscs(context.Background(), h)
	if err != nil {
		return err
	}
	_, err = leave(h, links, qdiscs, nil)
	return errors.Join(err, f.unload())
}

// Objects implements node.Feature. Every pod has one, as an address may have an entry of the pod that
// had it before.
func (f *Priorities) Objects(p *node.Pod, _ []node.Point) []object.Object {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.objects == nil || p.Exclusive != nil {
		return nil
	}
	return []object.Object{entries{f: f, pod: p}}
}

// entries are the classes of a pod's addresses in the program's map. The usual class needs none.
type entries struct {
	object.Addressed
	f   *Priorities
	pod *node.Pod
}

func (o entries) Name() string { return "network priority of " + o.pod.Host.Name }

// want is the entry of each address; the zero value is none.
func (o entries) want(index int) (v priorityRank) {
	if class := classOf(o.pod.Priority); class != usual {
		v.Class, v.Device = class, uint32(index)
	}
	return v
}

// each calls f with the addresses whose entry is not that of want, while the map exists.
func (o entries) each(s *object.Site, differ func(key [16]byte, want, have priorityRank) error) error {
	index, err := s.Index(o.pod.Host)
	if err != nil {
		return err
	}
	o.f.mu.Lock()
	defer o.f.mu.Unlock()
	if o.f.objects == nil {
		return nil
	}
	want := o.want(index)
	for _, a := range o.pod.Addresses {
		key, have := a.As16(), priorityRank{}
		if err := o.f.ranks().Lookup(key, &have); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("look up %s in map %s: %w", a, priorityMapTwRanks1, err)
		}
		if err := differ(key, want, have); err != nil {
			return err
		}
	}
	return nil
}

func (o entries) Have(s *object.Site) (problem string, err error) {
	if index, err := s.Index(o.pod.Host); err != nil || index == 0 {
		return "", err // the object that makes the device reports it
	}
	err = o.each(s, func(_ [16]byte, want, have priorityRank) error {
		if have != want {
			problem = o.Name() + " is missing or wrong in map " + priorityMapTwRanks1
		}
		return nil
	})
	return problem, err
}

func (o entries) Put(s *object.Site) error {
	return o.each(s, func(key [16]byte, want, have priorityRank) error {
		switch none := (priorityRank{}); {
		case have == want:
			return nil
		case want == none:
			return o.f.forget(key)
		}
		return o.f.ranks().Put(key, want)
	})
}

// Del implements object.Object. An entry that another device has in the meantime stays.
func (o entries) Del(s *object.Site) error {
	index, err := s.Index(o.pod.Host)
	if err != nil {
		return err
	}
	return o.each(s, func(key [16]byte, _, have priorityRank) error {
		if device := int(have.Device); device == 0 || device != index && exists(s.Node, device) {
			return nil
		}
		return o.f.forget(key)
	})
}
