package shaping

import (
	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/object"
)

// guard remembers whether an object was in place in the pod's namespace, where the pod may remove it.
type guard struct {
	f *Feature
	// host is the pod's device on the node, what the object's place among those of the pod.
	host, what string
	// bits is the limit for which the object is needed: after a change it has to be seen again.
	bits uint64
}

var _, _, _ node.Guarded = &queue{}, ifb{}, detour{}

func (g guard) saw() {
	g.f.mu.Lock()
	defer g.f.mu.Unlock()
	if g.f.seen == nil {
		g.f.seen = map[string]map[string]uint64{}
	}
	if g.f.seen[g.host] == nil {
		g.f.seen[g.host] = map[string]uint64{}
	}
	g.f.seen[g.host][g.what] = g.bits
}

// unsaw: the object's device is gone, and a new one has none.
func (g guard) unsaw() {
	g.f.mu.Lock()
	defer g.f.mu.Unlock()
	delete(g.f.seen[g.host], g.what)
}

// WasThere implements node.Guarded.
func (g guard) WasThere() bool {
	g.f.mu.Lock()
	defer g.f.mu.Unlock()
	return g.bits != 0 && g.f.seen[g.host][g.what] == g.bits
}

// Enforces implements node.Guarded.
func (guard) Enforces() datapath.Enforced { return datapath.OfLimits }

// Del implements object.Object: the object disappears with the pod's devices or its namespace.
func (g guard) Del(*object.Site) error {
	g.f.mu.Lock()
	defer g.f.mu.Unlock()
	delete(g.f.seen, g.host)
	return nil
}
