// Package object describes a pod's network as data: a list of kernel objects, each of which can be
// checked, put, and deleted. Adding a pod puts the list in order, checking finds the first object
// that is missing, repairing puts the objects from the first missing one on, and deleting goes
// through the list in reverse.
//
// The package has the objects of netlink and /proc/sys; nftables elements, programs and map entries
// are in the packages that own them. An object must not touch anything that its fields do not name.
package object

import (
	"context"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"terway.dev/terway/internal/netlinkx"
)

// Object is one thing in the kernel that a pod needs. At a Site without the pod's namespace,
// objects inside the pod are skipped without an error.
type Object interface {
	// Name is for people.
	Name() string
	// Have returns what is missing or wrong, in a sentence, or "". It changes nothing.
	Have(*Site) (problem string, err error)
	// Put makes the object, or corrects it. The objects before it in its list exist.
	Put(*Site) error
	// Del deletes it. A missing object, or a missing parent, is no error.
	Del(*Site) error
}

// Slow is an Object whose Put waits for the kernel so long that other pods should not wait with it.
type Slow interface {
	Object
	Slow()
}

// Addressed is embedded by objects that have their pod's addresses in them: they are also deleted for
// an address that a pod does not have any more, while the pod stays.
type Addressed struct{}

// HasAddresses marks the object.
func (Addressed) HasAddresses() {}

// WithAddresses returns those of a list that embed Addressed.
func WithAddresses(list []Object) []Object {
	return slices.DeleteFunc(list, func(o Object) bool {
		_, is := o.(interface{ HasAddresses() })
		return !is
	})
}

// Device is one of a pod's devices, on the node or in the pod.
type Device struct {
	Name  string
	InPod bool
}

func (d Device) String() string {
	if d.InPod {
		return fmt.Sprintf("device %s of the pod", d.Name)
	}
	return "device " + d.Name
}

// Site is the context of one call for a pod: its two namespaces and what was found in them.
type Site struct {
	Ctx context.Context
	// Node is a socket in the node's namespace, NodeNS; netns.None() is the process's own.
	Node   *netlink.Handle
	NodeNS netns.NsHandle
	// Pod is nil if the pod's namespace is gone or not visible.
	Pod *netlinkx.Namespace
	// ProcSys is where sysctls are.
	ProcSys string
	// View is the state of the node at one moment, which Have reads.
	View *View
	// Later runs a function after the call, such as a deletion that waits for RCU.
	Later func(func() error)

	// NodeBatch returns a socket in the node's namespace for several requests at once; the caller
	// keeps it.
	NodeBatch func() (*netlinkx.Batch, error)

	links  map[Device]netlink.Link
	listed map[listKey]any
	inPod  map[int][]netlink.Qdisc // see Qdiscs
}

// Handle returns the socket in a device's namespace, or nil.
func (s *Site) Handle(d Device) (*netlink.Handle, error) {
	if !d.InPod {
		return s.Node, nil
	}
	if s.Pod == nil {
		return nil, nil
	}
	return s.Pod.Handle()
}

// Found records a device that was made or found.
func (s *Site) Found(d Device, l netlink.Link) {
	if s.links == nil {
		s.links = map[Device]netlink.Link{}
	}
	s.links[d] = l
}

// Link returns a device, or nil if there is none. It is looked up once.
func (s *Site) Link(d Device) (netlink.Link, error) {
	if l, ok := s.links[d]; ok {
		return l, nil
	}
	if !d.InPod && s.View != nil {
		l := s.View.ByName[d.Name]
		s.Found(d, l)
		return l, nil
	}
	h, err := s.Handle(d)
	if err != nil || h == nil {
		return nil, err
	}
	l, err := Find(h, d.Name)
	if err == nil {
		s.Found(d, l)
	}
	return l, err
}

// Index returns a device's index, 0 if there is none.
func (s *Site) Index(d Device) (int, error) {
	if d.Name == "lo" {
		return 1, nil // in each namespace
	}
	l, err := s.Link(d)
	if err != nil || l == nil {
		return 0, err
	}
	return l.Attrs().Index, nil
}

// Find returns the device with a name, or nil.
func Find(h *netlink.Handle, name string) (netlink.Link, error) {
	l, err := h.LinkByName(name)
	if netlinkx.Gone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up device %s: %w", name, err)
	}
	return l, nil
}

// Close closes the pod's namespace.
func (s *Site) Close() {
	if s.Pod != nil {
		s.Pod.Close()
	}
}

// Put puts a list in order. Consecutive sysctls are written in one visit to their namespace, and
// consecutive netlink requests to one namespace are sent in one message. done is how many objects
// came before the first that failed.
func Put(s *Site, list []Object) (done int, err error) {
	for done < len(list) && err == nil {
		var n int
		if requests := together(list[done:]); requests > 0 {
			n, err = send(s, list[done:done+requests])
		} else if _, ok := list[done].(Sysctl); ok {
			n, err = writeSysctls(s, list[done:])
		} else if err = list[done].Put(s); err == nil {
			n = 1
		} else if _, is := list[done].(requester); !is { // else the error names it already
			err = named(list[done], err)
		}
		done += n
	}
	return done, err
}

// named returns an error that names its object.
func named(o Object, err error) error { return fmt.Errorf("%s: %w", o.Name(), err) }

// Del deletes a list in reverse order, and continues after an error.
func Del(s *Site, list []Object) (errs []error) {
	for i := len(list) - 1; i >= 0; i-- {
		if err := list[i].Del(s); err != nil {
			errs = append(errs, named(list[i], err))
		}
	}
	return errs
}

// stays is embedded by objects that are deleted with their device, or not deleted.
type stays struct{}

func (stays) Del(*Site) error { return nil }
