package shaping

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/object"
	"terway.dev/terway/internal/datapath/routing"
)

// Feature limits the bandwidth of a node's pods. It implements node.Feature.
type Feature struct {
	// The queueing disciplines that the kernel may have.
	htb, fqCodel, tbf known
	mu                sync.Mutex
	// seen has the limits for which objects were in place, by the pod's device on the node and the
	// object (guard).
	seen map[string]map[string]uint64
}

// known is what is known of something that the kernel may have: nothing, until it was asked for or seen.
type known struct{ is atomic.Int32 }

func (k *known) has() bool   { return k.is.Load() > 0 }
func (k *known) lacks() bool { return k.is.Load() < 0 }

func (k *known) set(has bool) {
	if has {
		k.is.Store(1)
	} else {
		k.is.Store(-1)
	}
}

// New returns the feature.
func New() *Feature { return &Feature{} }

// Name implements node.Feature.
func (*Feature) Name() string { return "bandwidth limits" }

// Sync implements node.Feature: nothing is the node's.
func (*Feature) Sync(*object.Site, datapath.Node, []netlink.Link, []routing.ENI) ([]string, error) {
	return nil, nil
}

// Teardown implements node.Feature.
func (*Feature) Teardown(*netlink.Handle) error { return nil }

// Objects implements node.Feature.
func (f *Feature) Objects(p *node.Pod, points []node.Point) []object.Object {
	if p.Limits == nil {
		return nil
	}
	return append(f.direction(p, points, false, p.Limits.Ingress), f.direction(p, points, true, p.Limits.Egress)...)
}

// direction returns the objects that limit one direction; bits is 0 if it has no limit any more.
func (f *Feature) direction(p *node.Pod, points []node.Point, fromPod bool, bits uint64) []object.Object {
	guarded := func(what string) guard { return guard{f, p.Host.Name, what, bits} }
	q := &queue{pod: p, fromPod: fromPod}
	var inside []node.Point
	for _, at := range points {
		if at.FromPod != fromPod {
			continue
		}
		if at.Device.InPod {
			inside = append(inside, at)
		} else if !at.Ingress && (!at.Bypassed || at.Queued) {
			q.on = at.Device
		}
	}
	// All that a pod sends leaves by its own devices, and all that it gets arrives by them.
	if len(inside) == 1 && !inside[0].Ingress {
		q.on = inside[0].Device
	}
	q.inside, q.guard = inside, guarded(fmt.Sprintf("queue, from the pod: %t", fromPod))
	if len(inside) == 1 && q.on.Name != "" {
		return []object.Object{q}
	}
	q.on = object.Device{Name: claims.ShaperIngress, InPod: true}
	if fromPod {
		q.on.Name = claims.ShaperEgress
	}
	if bits == 0 {
		return []object.Object{noDetour{q, inside}}
	}
	list := []object.Object{ifb{guarded(q.on.Name), q.on}, q}
	for _, at := range inside {
		list = append(list, detour{guarded(fmt.Sprintf("%s, ingress: %t", at.Device.Name, at.Ingress)), at, q.on})
	}
	return list
}
