// Package object is a pod's network as data: what there is in the kernel for a pod is a list
// of objects, each of which can say whether it is as it should be, be put, and be taken away.
// Adding a pod puts the list in order, checking finds the first that is missing, repairing puts
// from the first that is missing on, and deleting goes the list backwards.
//
// The package has the objects that netlink and /proc/sys know; nftables elements, programs and
// entries of maps are those of the packages that own them. An object must never touch what its
// fields do not name.
package object

import (
	"context"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"terway.dev/terway/internal/kernel"
	"terway.dev/terway/internal/netlinkx"
)

// Object is one thing in the kernel that a pod needs. What is in the pod's namespace is passed
// over, without an error, at a Site that has none.
type Object interface {
	// Name is for people.
	Name() string
	// Have says, in a sentence, what is missing or wrong, or "". It changes nothing.
	Have(*Site) (problem string, err error)
	// Put makes the object, or makes it right. Those before it in its list are there.
	Put(*Site) error
	// Del takes it away. That it is not there, or what it is a part of, is no error.
	Del(*Site) error
}

// Slow is an Object whose Put waits for the kernel long enough that other pods need not wait
// with it.
type Slow interface {
	Object
	Slow()
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

// Site is where a pod's objects are, for one call: two namespaces and what was found in them.
type Site struct {
	Ctx context.Context
	// Node is a socket in the node's namespace, NodeNS; netns.None() is the process's own.
	Node   *netlink.Handle
	NodeNS netns.NsHandle
	// Pod is nil if the pod's namespace is gone or out of sight.
	Pod *netlinkx.Namespace
	// ProcSys is where sysctls are.
	ProcSys string
	// View is the node at one moment, which Have looks at.
	View *View
	// Later has something done after the call, such as a deletion that waits for RCU.
	Later func(func() error)

	// NodeBatch is a socket in the node's namespace for several requests at once, which stays
	// the caller's.
	NodeBatch func() (*netlinkx.Batch, error)

	links  map[Device]netlink.Link
	inside map[int]*inside
}

// handle is the socket in a device's namespace, or nil.
func (s *Site) handle(d Device) (*netlink.Handle, error) {
	if !d.InPod {
		return s.Node, nil
	}
	if s.Pod == nil {
		return nil, nil
	}
	return s.Pod.Handle()
}

// Found notes a device that was made or found.
func (s *Site) Found(d Device, l netlink.Link) {
	if s.links == nil {
		s.links = map[Device]netlink.Link{}
	}
	s.links[d] = l
}

// Link is a device, or nil if there is none. It is looked for once.
func (s *Site) Link(d Device) (netlink.Link, error) {
	if l, ok := s.links[d]; ok {
		return l, nil
	}
	if !d.InPod && s.View != nil {
		l := s.View.ByName[d.Name]
		s.Found(d, l)
		return l, nil
	}
	h, err := s.handle(d)
	if err != nil || h == nil {
		return nil, err
	}
	l, err := Find(h, d.Name)
	if err == nil {
		s.Found(d, l)
	}
	return l, err
}

// Index is a device's, 0 if there is none.
func (s *Site) Index(d Device) (int, error) {
	l, err := s.Link(d)
	if err != nil || l == nil {
		return 0, err
	}
	return l.Attrs().Index, nil
}

// Find is the device of that name, or nil.
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

// OpenNode opens the node's namespace itself, for what wants a file.
func (s *Site) OpenNode() (netns.NsHandle, error) {
	var ns netns.NsHandle
	err := kernel.InNS(s.NodeNS, func() (err error) {
		ns, err = netns.Get()
		return err
	})
	if err != nil {
		return ns, fmt.Errorf("open the node's network namespace: %w", err)
	}
	return ns, nil
}

// Close leaves the pod's namespace.
func (s *Site) Close() {
	if s.Pod != nil {
		s.Pod.Close()
	}
}

// Put puts a list in order. Sysctls that follow each other are written in one visit to their
// namespace, and what is put by netlink requests to one namespace goes there in one message. done
// is how many there were before the first that failed.
func Put(s *Site, list []Object) (done int, err error) {
	for done < len(list) && err == nil {
		var n int
		if requests := together(list[done:]); requests > 0 {
			n, err = send(s, list[done:done+requests])
		} else if _, ok := list[done].(Sysctl); ok {
			n, err = writeSysctls(s, list[done:])
		} else if err = list[done].Put(s); err == nil {
			n = 1
		} else if _, is := list[done].(requester); !is { // else the error says so
			err = named(list[done], err)
		}
		done += n
	}
	return done, err
}

// named is an error that says of which object it is.
func named(o Object, err error) error { return fmt.Errorf("%s: %w", o.Name(), err) }

// Del takes a list away, the last first, and goes on after an error.
func Del(s *Site, list []Object) (errs []error) {
	for i := len(list) - 1; i >= 0; i-- {
		if err := list[i].Del(s); err != nil {
			errs = append(errs, named(list[i], err))
		}
	}
	return errs
}

// stays is for what goes with its device, or is not looked at there.
type stays struct{}

func (stays) Del(*Site) error { return nil }
