package fastpath

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/bpfobj"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/object"
	"terway.dev/terway/internal/datapath/tcfilter"
	"terway.dev/terway/internal/netlinkx"
)

// Judging is a kind that has programs of its own for its pods' packets, among them some that enforce policies.
type Judging interface {
	// Judge makes the next Sync, and every pod from now on, have programs that enforce policies by the maps of these objects, which stay
	// the caller's; nil: programs that enforce none.
	Judge(by *Objects) error
}

// Hooks attaches programs to a device.
type Hooks interface {
	// Attach attaches them and replaces ours that are there, each atomically; b is a socket in the
	// device's namespace.
	Attach(b *netlinkx.Batch, o *bpfobj.Objects, index int) error
	// Problem returns what is wrong with the first program that is missing or has another version, or
	// "".
	Problem(h *netlink.Handle, o *bpfobj.Objects, index int) (string, error)
}

// TC attaches programs by tc filters.
type TC struct {
	Filters tcfilter.Filters
	Hooks   []tcfilter.Hook
}

func (t TC) Attach(b *netlinkx.Batch, o *bpfobj.Objects, index int) error {
	return t.Filters.Attach(b, o, index, t.Hooks)
}

func (t TC) Problem(h *netlink.Handle, o *bpfobj.Objects, index int) (string, error) {
	return t.Filters.Problem(h, o, index, t.Hooks)
}

// Programs are the programs of a pod's devices, which disappear with them.
type Programs struct {
	Loader *Loader
	At     []At
	// Guards names the pod's device on the node if the pod can remove the programs and must not.
	Guards string
}

var _ node.Guarded = Programs{}

// At are the programs of one device.
type At struct {
	Device object.Device
	Hooks  Hooks
}

func (o Programs) Name() string { return "programs of " + o.At[0].Device.String() }

func (o Programs) Put(s *object.Site) error {
	objects, err := o.Loader.Loaded(s.Node)
	if err != nil {
		return err
	}
	for _, at := range o.At {
		if at.Device.InPod && s.Pod == nil {
			continue
		}
		index, err := s.Index(at.Device)
		if err != nil {
			return err
		}
		b, err := s.Batch(at.Device)
		if err != nil {
			return err
		}
		if err := at.Hooks.Attach(b, objects, index); err != nil {
			return fmt.Errorf("%s: %w", at.Device, err)
		}
	}
	return nil
}

func (o Programs) Have(s *object.Site) (string, error) {
	objects, err := o.Loader.Loaded(s.Node)
	if err != nil {
		return "", err
	}
	for _, at := range o.At {
		index, err := s.Index(at.Device)
		if err != nil {
			return "", err
		}
		if index == 0 {
			continue // the object that makes the device reports it
		}
		h, err := s.Handle(at.Device)
		if err != nil {
			return "", err
		}
		problem, err := at.Hooks.Problem(h, objects, index)
		if err != nil {
			return "", err
		}
		if problem != "" {
			return fmt.Sprintf("%s: %s", at.Device, problem), nil
		}
	}
	if o.Guards != "" && s.Pod != nil {
		o.Loader.Lock()
		defer o.Loader.Unlock()
		if o.Loader.seen == nil {
			o.Loader.seen = map[string]bool{}
		}
		o.Loader.seen[o.Guards] = true
	}
	return "", nil
}

// Enforces implements node.Guarded.
func (Programs) Enforces() datapath.Enforced { return datapath.OfPolicies }

// WasThere implements node.Guarded.
func (o Programs) WasThere() bool {
	o.Loader.Lock()
	defer o.Loader.Unlock()
	return o.Loader.seen[o.Guards]
}

func (o Programs) Del(*object.Site) error {
	o.Loader.Lock()
	defer o.Loader.Unlock()
	delete(o.Loader.seen, o.Guards)
	return nil
}

// Entries are the entries of a pod's addresses in its kind's map of pods.
type Entries[V comparable] struct {
	object.Addressed
	Loader *Loader
	Pod    *node.Pod
	// Table is the map among the loaded objects.
	Table func(*Objects) Pods[V]
	// Of returns the entries of the pod with this device on the node. With prepare it first makes what
	// they need on the pod's ENI. problem is what of that is missing, or "". The caller holds the
	// loader's lock and has loaded the objects.
	Of func(h *netlink.Handle, device *netlink.LinkAttrs, prepare bool) (entries map[netip.Addr]V, problem string, err error)
}

func (o Entries[V]) Name() string { return "map entries of " + o.Pod.Host.String() }

func (o Entries[V]) Put(s *object.Site) error {
	problem, err := o.with(s, true, func(entries map[netip.Addr]V) (string, error) { return "", o.Table(o.Loader.Objects).PutAll(entries) })
	if err == nil && problem != "" {
		err = errors.New(problem)
	}
	return err
}

func (o Entries[V]) Have(s *object.Site) (string, error) {
	return o.with(s, false, func(entries map[netip.Addr]V) (string, error) { return o.Table(o.Loader.Objects).Problem(entries) })
}

func (o Entries[V]) with(s *object.Site, prepare bool, f func(map[netip.Addr]V) (string, error)) (problem string, err error) {
	link, err := s.Link(o.Pod.Host)
	if err != nil || link == nil {
		return "", err // the object that makes the device reports it
	}
	o.Loader.Lock()
	defer o.Loader.Unlock()
	if err := o.Loader.Load(s.Node); err != nil {
		return "", err
	}
	entries, problem, err := o.Of(s.Node, link.Attrs(), prepare)
	if err != nil || problem != "" {
		return problem, err
	}
	return f(entries)
}

// Del implements object.Object. An address that another device has in the meantime stays.
func (o Entries[V]) Del(s *object.Site) error {
	index, err := s.Index(o.Pod.Host)
	if err != nil {
		return err
	}
	o.Loader.Lock()
	defer o.Loader.Unlock()
	if there, err := o.Loader.Find(s.Node); err != nil || !there || !o.Loader.Objects.Direct() {
		return err
	}
	return o.Table(o.Loader.Objects).Release(s.Node, index, o.Pod.Addresses)
}
