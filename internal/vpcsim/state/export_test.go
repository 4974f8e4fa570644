package state

import (
	"fmt"
	"maps"
	"reflect"
)

// CheckIndex compares the index with a new one, and checks that there are no verdicts on servers
// that are gone.
func (s *State) CheckIndex() error {
	for id, l := range s.data.NLBListeners {
		c, _ := checkedNLB(&s.data, id)
		for key := range l.Verdicts {
			if !c.has(key) {
				return fmt.Errorf("listener %s has a verdict on %s, which is none of its servers", id, key)
			}
		}
	}
	want := newIndex(&s.data)
	for id, p := range s.index.pools {
		v := s.data.VSwitches[id]
		for i := range p.fresh {
			if a := addrAt(v.CidrBlock, nth(i, sizeOf(v.CidrBlock))); usable(v.CidrBlock, a) && p.holder[a] == "" && !p.freed[a] {
				return fmt.Errorf("vSwitch %s: %s was never assigned, and is skipped", id, a)
			}
		}
		q := want.pools[id]
		if q == nil || p.held4 != q.held4 || !maps.Equal(p.holder, q.holder) || !maps.Equal(p.freed, q.freed) {
			return fmt.Errorf("pool of vSwitch %s: %+v, want %+v", id, p, q)
		}
	}
	have := *s.index
	have.pools, want.pools = nil, nil
	if !reflect.DeepEqual(&have, want) && !(len(have.enis) == 0 && len(want.enis) == 0) {
		return fmt.Errorf("index %+v, want %+v", have, *want)
	}
	return nil
}
