package object

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/netlinkx"
)

// requester is an Object that is put by a request to one namespace; several of them are sent at
// once.
type requester interface {
	Object
	// at returns its device.
	at() Device
	// message returns nil if the object is already right.
	message(*Site) (*nl.NetlinkRequest, error)
}

// requested is a requester at a device, which goes with the device unless it can be deleted before.
type requested struct {
	Addressed
	on   Device
	name string
	// sets is what the request sets beside what the name says, for errors; or "".
	sets string
	// have reports whether the object exists; the index is 0 if the device does not, which the
	// object that makes it reports.
	have    func(s *Site, index int) (bool, error)
	request func(index int) *nl.NetlinkRequest
	// del deletes it while the device exists; may be nil.
	del func(s *Site, index int) error
	// removeFromOthers is called after the kernel's answer that the address is in use; may be nil.
	removeFromOthers func() error
}

func (o requested) Name() string { return o.name }

func (o requested) Have(s *Site) (string, error) {
	index, err := s.Index(o.on)
	if err != nil {
		return "", err
	}
	if has, err := o.have(s, index); err != nil || has {
		return "", err
	}
	return o.name + " is missing", nil
}

func (o requested) Put(s *Site) error {
	_, err := send(s, []Object{o})
	if o.removeFromOthers != nil && errors.Is(err, unix.EADDRINUSE) {
		if err = o.removeFromOthers(); err == nil {
			_, err = send(s, []Object{o})
		}
	}
	return err
}

func (o requested) Del(s *Site) error {
	if o.del == nil {
		return nil
	}
	index, err := s.Index(o.on)
	if err != nil || index == 0 {
		return err
	}
	if err := o.del(s, index); err != nil && !netlinkx.Gone(err) {
		return fmt.Errorf("remove: %w", err)
	}
	return nil
}

func (o requested) at() Device { return o.on }

func (o requested) message(s *Site) (*nl.NetlinkRequest, error) {
	index, err := s.Index(o.on)
	if err != nil {
		return nil, err
	}
	return o.request(index), nil
}

// together returns how many objects at the beginning of a list are put by one message; 0 if the
// first is not a requester.
func together(list []Object) (n int) {
	var inPod bool
	for ; n < len(list); n++ {
		r, ok := list[n].(requester)
		if !ok || n > 0 && r.at().InPod != inPod {
			break
		}
		if o, ok := r.(requested); ok && o.removeFromOthers != nil {
			break // it may need a second attempt
		}
		inPod = r.at().InPod
	}
	return n
}

// send puts requesters of one namespace in one message. done is how many came before the first that
// failed, or before those that must be put again.
func send(s *Site, list []Object) (done int, err error) {
	in := list[0].(requester).at()
	if in.InPod && s.Pod == nil {
		return len(list), nil
	}
	var all []*nl.NetlinkRequest
	var of []int // which object a request belongs to
	for i, o := range list {
		r, err := o.(requester).message(s)
		if err != nil {
			return 0, named(o, err)
		}
		if r != nil {
			all, of = append(all, r), append(of, i)
		}
	}
	if len(all) == 0 {
		return len(list), nil
	}
	b, err := s.Batch(in)
	if err != nil {
		return 0, err
	}
	refused, err := b.Do(all)
	if err != nil {
		return 0, fmt.Errorf("%s and what follows it: %w", list[0].Name(), err)
	}
	for i, err := range refused {
		if err == nil {
			continue
		}
		switch o := list[of[i]].(type) {
		case Settings:
			if err = o.oneByOne(s, b); err == nil {
				return of[i] + 1, nil // later requests may have failed because of it
			}
		case requested:
			if o.sets != "" {
				err = fmt.Errorf("set %s: %w", o.sets, err)
			}
		}
		return of[i], named(list[of[i]], err)
	}
	return len(list), nil
}

// Batch returns the socket in a device's namespace for several requests at once; the pod's must be
// there.
func (s *Site) Batch(d Device) (*netlinkx.Batch, error) {
	if !d.InPod {
		return s.NodeBatch()
	}
	return s.Pod.Batch()
}

func request(kind, flags int, parts ...nl.NetlinkRequestData) *nl.NetlinkRequest {
	r := nl.NewNetlinkRequest(kind, flags)
	for _, p := range parts {
		r.AddData(p)
	}
	return r
}
