package ipam

import (
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestBothKindsShareTheSlots(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		enis := rapid.IntRange(1, 7).Draw(t, "enis")
		w := &world{
			s: State{
				MaxENIs: enis, MaxExclusive: rapid.IntRange(0, enis).Draw(t, "own"), PerENI: rapid.IntRange(1, 10).Draw(t, "per ENI"),
				Min: rapid.IntRange(0, 3).Draw(t, "min"), Max: 5, ExclusiveWarm: rapid.IntRange(0, 2).Draw(t, "warm"),
			},
			available: map[string]int{"v1": 500, "v2": 500},
		}
		free := func(own bool) {
			for i := range w.s.ENIs {
				for j := range w.s.ENIs[i].Addresses {
					if a := &w.s.ENIs[i].Addresses[j]; w.s.ENIs[i].Exclusive == own && a.Use == Used && rapid.Bool().Draw(t, "ends") {
						a.Use = Free
					}
				}
			}
		}
		for range rapid.IntRange(1, 12).Draw(t, "rounds") {
			switch rapid.IntRange(0, 6).Draw(t, "what") {
			case 0:
				w.s.Demand += rapid.IntRange(1, 20).Draw(t, "pods")
			case 1:
				w.s.ExclusiveDemand += rapid.IntRange(1, 8).Draw(t, "own pods")
			case 2:
				free(rapid.Bool().Draw(t, "kind"))
			case 3:
				w.run(t, w.compute(), rapid.IntRange(0, 4).Draw(t, "steps"))
			case 4:
				w.s.MaxExclusive = rapid.IntRange(0, enis).Draw(t, "another split")
			case 5:
				w.settle(t)
			case 6:
				w.hold(t)
			}
		}
		w.s.ExclusiveDemand = min(w.s.ExclusiveDemand, w.s.MaxExclusive)
		w.s.Demand = 0
		last := w.settle(t)
		own, used := 0, 0
		for _, e := range w.s.ENIs {
			if e.Exclusive {
				own++
				if len(e.Addresses) != 1 {
					t.Fatalf("an ENI for one pod has %d addresses", len(e.Addresses))
				}
				if e.used() {
					used++
				}
			}
		}
		for _, e := range w.s.ENIs {
			if shared := len(w.s.ENIs) - own; !e.Exclusive && e.busy() == 0 && shared > enis-max(w.s.MaxExclusive, own) {
				t.Fatalf("a shared ENI is idle: there are %d beside %d for pods of their own, of %d", shared, w.s.MaxExclusive, enis)
			}
		}
		if len(w.s.ENIs) > enis {
			t.Fatalf("%d ENIs, the type allows %d", len(w.s.ENIs), enis)
		}
		if w.s.ExclusiveDemand > 0 && own < w.s.MaxExclusive && len(w.s.ENIs) < enis {
			t.Fatalf("a pod waits for an ENI with %d of %d, %d in all of %d", own, w.s.MaxExclusive, len(w.s.ENIs), enis)
		}
		if w.s.ExclusiveDemand > 0 && last.Shortage == None {
			t.Fatal("a pod waits for an ENI and no shortage is named")
		}
		if w.s.ExclusiveDemand == 0 && own-used > max(0, w.s.MaxExclusive-used) {
			t.Fatalf("%d ENIs, %d in use, and %d may be", own, used, w.s.MaxExclusive)
		}
		if w.s.ExclusiveDemand == 0 && own-used > w.s.ExclusiveWarm+1 {
			t.Fatalf("%d free ENIs are kept, want at most %d", own-used, w.s.ExclusiveWarm+1)
		}
	})
}

func TestExclusivePlans(t *testing.T) {
	own := func(token string, use Use) ENI {
		return ENI{Token: token, Phase: Ready, VSwitch: "v1", Exclusive: true, Addresses: []Address{{Address: netip.AddrFrom4([4]byte{10, 0, token[0], 0}), Primary: true, Use: use}}}
	}
	held := func(token string, use Use) ENI {
		e := own(token, use)
		e.Addresses[0].Held = true
		return e
	}
	vs := []VSwitch{{ID: "v1", Available: 100}}
	for name, c := range map[string]struct {
		s    State
		want func(Plan) bool
	}{
		"a waiting pod and the warm one": {
			State{MaxENIs: 4, MaxExclusive: 3, ExclusiveWarm: 1, ExclusiveDemand: 1, PerENI: 10, VSwitches: vs},
			func(p Plan) bool {
				return len(p.Create) == 2 && p.Create[0] == Create{VSwitch: "v1", Addresses: 1, Exclusive: true}
			},
		},
		"the shared slots are not taken": {
			State{MaxENIs: 4, MaxExclusive: 1, ExclusiveDemand: 3, PerENI: 10, VSwitches: vs},
			func(p Plan) bool { return len(p.Create) == 1 && p.Missing == 2 && p.Shortage == TypeLimit },
		},
		"all in use": {
			State{MaxENIs: 2, MaxExclusive: 2, ExclusiveDemand: 1, PerENI: 10, VSwitches: vs, ENIs: []ENI{own("a", Used), own("b", Used)}},
			func(p Plan) bool { return p.Empty() && p.Shortage == TypeLimit && p.Missing == 1 },
		},
		"one whose address is held will not do": {
			State{MaxENIs: 2, MaxExclusive: 2, ExclusiveDemand: 1, PerENI: 10, VSwitches: vs, ENIs: []ENI{own("a", Used), held("b", Free)}},
			func(p Plan) bool { return p.Empty() && p.Shortage == TypeLimit },
		},
		"one whose address is held is not surplus": {
			State{MaxENIs: 3, ExclusiveWarm: 0, PerENI: 10, VSwitches: vs, ENIs: []ENI{held("a", Free)}},
			func(p Plan) bool { return p.Empty() },
		},
		"a resting one will do": {
			State{MaxENIs: 2, MaxExclusive: 2, ExclusiveDemand: 1, PerENI: 10, VSwitches: vs, ENIs: []ENI{own("a", Used), own("b", Cooling)}},
			func(p Plan) bool { return p.Empty() && p.Shortage == None },
		},
		"surplus goes, but for the warm one and one more": {
			State{MaxENIs: 5, MaxExclusive: 5, ExclusiveWarm: 1, PerENI: 10, VSwitches: vs, ENIs: []ENI{own("a", Free), own("b", Free), own("c", Used), own("d", Free)}},
			func(p Plan) bool { return len(p.Release) == 1 },
		},
		"none stays where none may be": {
			State{MaxENIs: 3, ExclusiveWarm: 0, PerENI: 10, VSwitches: vs, ENIs: []ENI{own("a", Free)}},
			func(p Plan) bool { return len(p.Release) == 1 },
		},
		"one on its way out is kept for a pod that waits": {
			State{MaxENIs: 1, MaxExclusive: 1, ExclusiveDemand: 1, PerENI: 10, VSwitches: vs, ENIs: []ENI{{Token: "a", Phase: Ready, VSwitch: "v1", Exclusive: true,
				Addresses: []Address{{Address: netip.AddrFrom4([4]byte{10, 0, 0, 1}), Primary: true, Releasing: true, Use: Released}}}}},
			func(p Plan) bool { return len(p.Keep) == 1 && len(p.Detach) == 0 },
		},
		"confirmed ones are detached": {
			State{MaxENIs: 1, MaxExclusive: 1, PerENI: 10, VSwitches: vs, ENIs: []ENI{{Token: "a", Phase: Ready, VSwitch: "v1", Exclusive: true,
				Addresses: []Address{{Address: netip.AddrFrom4([4]byte{10, 0, 0, 1}), Primary: true, Releasing: true, Use: Released}}}}},
			func(p Plan) bool { return slices.Equal(p.Detach, []string{"a"}) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			if p := Compute(c.s); !c.want(p) {
				t.Errorf("plan %+v", p)
			}
		})
	}
}
