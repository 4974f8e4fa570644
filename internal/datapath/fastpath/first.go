package fastpath

import (
	"fmt"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/object"
)

// First is the absence of filters that see packets before a pod's programs, on a device that the pod may configure: such a filter
// decides, and the programs do not run.
type First struct {
	// Programs are on one device, by TC.
	Programs Programs
	TC       TC
}

var _ node.Guarded = First{}

func (o First) device() object.Device { return o.Programs.At[0].Device }

// Enforces implements node.Guarded.
func (First) Enforces() datapath.Enforced { return datapath.OfPolicies }

// WasThere implements node.Guarded.
func (o First) WasThere() bool { return o.Programs.WasThere() }

func (o First) Name() string { return "no filters before the programs of " + o.device().String() }

func (o First) Have(s *object.Site) (string, error) {
	found, _, err := o.before(s)
	if err != nil || len(found) == 0 {
		return "", err
	}
	f := found[0]
	return fmt.Sprintf("%s: a filter (%s, pref %d) is before program %s", o.device(), f.Type(), f.Attrs().Priority, o.TC.Hooks[0].Program), nil
}

func (o First) Put(s *object.Site) error {
	found, h, err := o.before(s)
	if err != nil {
		return err
	}
	for _, f := range found {
		if err := o.TC.Filters.Remove(h, f); err != nil {
			return fmt.Errorf("%s: %w", o.device(), err)
		}
	}
	return nil
}

// Del implements object.Object.
func (First) Del(*object.Site) error { return nil }

func (o First) before(s *object.Site) (found []netlink.Filter, h *netlink.Handle, err error) {
	index, err := s.Index(o.device())
	if err != nil || index == 0 {
		return nil, nil, err // the object that makes the device reports it
	}
	if h, err = s.Handle(o.device()); err != nil || h == nil {
		return nil, nil, err
	}
	found, err = o.TC.Filters.Before(h, index, o.TC.Hooks)
	return found, h, err
}
