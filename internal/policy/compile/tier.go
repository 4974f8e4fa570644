package compile

import (
	"slices"

	"terway.dev/terway/internal/policy"
)

// A tier has its policies in order. Each policy has a number, with gaps between, so that a new
// policy renumbers no other.
type tier struct {
	name    string
	action  policy.Action // the tier's Default
	index   int           // position among the tiers
	objects []*object
}

// gap is the distance between the numbers of policies that are appended one after the other.
const gap = 1 << 32

func (t *tier) insert(at int, o *object) {
	o.tier = t
	t.objects = slices.Insert(t.objects, at, o)
	before, after := uint64(0), uint64(0)
	if at > 0 {
		before = t.objects[at-1].order
	}
	if after = before + 2*gap; at+1 < len(t.objects) {
		after = t.objects[at+1].order
	}
	o.order = before + (after-before)/2
	if after < before || o.order == before {
		for i, o := range t.objects {
			o.order = uint64(i+1) * gap
		}
	}
}

func (t *tier) at(o *object) int {
	i, _ := slices.BinarySearchFunc(t.objects, o.order, func(o *object, order uint64) int {
		switch {
		case o.order < order:
			return -1
		case o.order > order:
			return 1
		}
		return 0
	})
	return i
}

func (t *tier) remove(o *object) {
	at := t.at(o)
	t.objects = slices.Delete(t.objects, at, at+1)
}

// setTiers sets the order of the tiers. Removed tiers have no policies.
func (c *Compiler) setTiers(b *batch, list []policy.Tier) {
	was := map[string]*tier{}
	for _, t := range c.tiers {
		was[t.name] = t
	}
	old := c.tiers
	c.tiers = nil
	changed := false
	for i, n := range list {
		t := was[n.Name]
		if t == nil {
			t = &tier{name: n.Name}
		}
		changed = changed || i >= len(old) || old[i] != t || t.action != n.Default
		t.index, t.action = i, n.Default
		c.tiers = append(c.tiers, t)
	}
	if !changed {
		return
	}
	for _, cl := range c.classes {
		if cl.objects == nil || len(cl.objects[0])+len(cl.objects[1]) > 0 {
			b.reorder(cl)
		}
	}
}
