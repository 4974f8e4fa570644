package ipam

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// world is a node, its agent and a cloud that executes one call at a time, so that a plan can
// be abandoned after any step as in a crash.
type world struct {
	s         State
	next      uint32
	available map[string]int
	tokens    int
}

func (w *world) address() netip.Addr {
	w.next++
	return netip.AddrFrom4([4]byte{10, byte(w.next >> 16), byte(w.next >> 8), byte(w.next)})
}

func (w *world) eni(token string) *ENI {
	i := slices.IndexFunc(w.s.ENIs, func(e ENI) bool { return e.Token == token })
	return &w.s.ENIs[i]
}

func (w *world) find(a netip.Addr) *Address {
	for i := range w.s.ENIs {
		for j := range w.s.ENIs[i].Addresses {
			if w.s.ENIs[i].Addresses[j].Address == a {
				return &w.s.ENIs[i].Addresses[j]
			}
		}
	}
	return nil
}

// run executes at most steps steps of a plan, and checks that each is allowed.
func (w *world) run(t *rapid.T, p Plan, steps int) {
	ok := func() bool { steps--; return steps >= 0 }
	for _, a := range p.Keep {
		if !ok() {
			return
		}
		ad := w.find(a)
		ad.Releasing = false
		if ad.Use == Released {
			ad.Use = Free
		}
	}
	for _, a := range p.Assign {
		if !ok() {
			return
		}
		e := w.eni(a.Token)
		if a.N < 1 || a.N > BatchSize || e.Phase != Ready || len(e.Addresses)+a.N > w.s.PerENI {
			t.Fatalf("assign %d to ENI with %d of %d addresses, phase %v", a.N, len(e.Addresses), w.s.PerENI, e.Phase)
		}
		if w.available[e.VSwitch] < a.N {
			t.Fatalf("assign %d from vSwitch with %d", a.N, w.available[e.VSwitch])
		}
		w.available[e.VSwitch] -= a.N
		for range a.N {
			e.Addresses = append(e.Addresses, Address{Address: w.address()})
		}
	}
	for _, c := range p.Create {
		if !ok() {
			return
		}
		if len(w.s.ENIs) >= w.s.MaxENIs || c.Addresses < 1 || c.Addresses > w.s.PerENI || w.available[c.VSwitch] < c.Addresses {
			t.Fatalf("create %+v with %d of %d ENIs, %d addresses left", c, len(w.s.ENIs), w.s.MaxENIs, w.available[c.VSwitch])
		}
		w.available[c.VSwitch] -= c.Addresses
		w.tokens++
		w.s.ENIs = append(w.s.ENIs, ENI{Token: string(rune('A' + w.tokens)), VSwitch: c.VSwitch, Requested: c.Addresses, Exclusive: c.Exclusive})
	}
	for _, a := range p.Release {
		if !ok() {
			return
		}
		if ad := w.find(a); ad.Use != Free || ad.Releasing || ad.Held {
			t.Fatalf("release of %+v", *ad)
		} else {
			ad.Releasing = true
		}
	}
	for _, u := range p.Unassign {
		if !ok() {
			return
		}
		e := w.eni(u.Token)
		for _, a := range u.Addresses {
			if ad := w.find(a); ad.Use != Released || !ad.Releasing || ad.Primary || ad.Held {
				t.Fatalf("unassign of %+v", *ad)
			}
			e.Addresses = slices.DeleteFunc(e.Addresses, func(x Address) bool { return x.Address == a })
			w.available[e.VSwitch]++
		}
	}
	for _, d := range p.Detach {
		if !ok() {
			return
		}
		for _, a := range w.eni(d).Addresses {
			if a.Use != Released || a.Held {
				t.Fatalf("detach of an ENI with %+v", a)
			}
		}
		w.eni(d).Phase = Detaching
	}
}

// advance completes what the cloud has started, and lets the agent confirm.
func (w *world) advance() {
	w.s.ENIs = slices.DeleteFunc(w.s.ENIs, func(e ENI) bool {
		if e.Phase == Detaching {
			w.available[e.VSwitch] += len(e.Addresses)
			return true
		}
		return false
	})
	for i := range w.s.ENIs {
		e := &w.s.ENIs[i]
		switch e.Phase {
		case Creating:
			for j := range e.Requested {
				e.Addresses = append(e.Addresses, Address{Address: w.address(), Primary: j == 0})
			}
			e.Phase = Attaching
		case Attaching:
			e.Phase = Ready
		case Ready:
			for j := range e.Addresses {
				if a := &e.Addresses[j]; a.Releasing && a.Use == Free {
					a.Use = Released
				}
			}
		}
	}
	// Waiting pods get free addresses.
	for i := range w.s.ENIs {
		for j := range w.s.ENIs[i].Addresses {
			a := &w.s.ENIs[i].Addresses[j]
			demand := &w.s.Demand
			if w.s.ENIs[i].Exclusive {
				demand = &w.s.ExclusiveDemand
			}
			if *demand > 0 && w.s.ENIs[i].Phase == Ready && a.free() {
				a.Use = Used
				*demand--
			}
		}
	}
}

// hold lets load balancers get addresses of pods, and lose some.
func (w *world) hold(t *rapid.T) {
	for i := range w.s.ENIs {
		for j := range w.s.ENIs[i].Addresses {
			if a := &w.s.ENIs[i].Addresses[j]; a.Use == Used || a.Held {
				a.Held = rapid.Bool().Draw(t, "held")
			}
		}
	}
}

func (w *world) count() (used, free, total int) {
	for _, e := range w.s.ENIs {
		free += e.free()
		for _, a := range e.Addresses {
			total++
			if a.Use == Used {
				used++
			}
		}
	}
	return used, free, total
}

func (w *world) compute() Plan {
	w.s.VSwitches = nil
	for _, id := range []string{"v1", "v2"} {
		w.s.VSwitches = append(w.s.VSwitches, VSwitch{ID: id, Available: w.available[id]})
	}
	return Compute(w.s)
}

// settle runs plans until there is nothing left to do.
func (w *world) settle(t *rapid.T) Plan {
	for range 200 {
		p := w.compute()
		before := len(w.s.ENIs)
		if p.Empty() && !slices.ContainsFunc(w.s.ENIs, func(e ENI) bool { return e.Phase != Ready }) {
			w.advance()
			if q := w.compute(); q.Empty() && before == len(w.s.ENIs) {
				return q
			}
		}
		w.run(t, p, 1<<30)
		w.advance()
	}
	t.Fatalf("no rest after 200 rounds: %+v", w.s)
	return Plan{}
}

func TestConvergesWithinLimits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		minFree := rapid.IntRange(0, 5).Draw(t, "min")
		w := &world{
			s: State{
				MaxENIs: rapid.IntRange(1, 7).Draw(t, "enis"), PerENI: rapid.IntRange(1, 30).Draw(t, "per ENI"),
				Min: minFree, Max: minFree + rapid.IntRange(0, 8).Draw(t, "max-min"),
				Policy: rapid.SampledFrom([]Policy{MostAvailable, Ordered}).Draw(t, "policy"),
			},
			available: map[string]int{
				"v1": rapid.IntRange(0, 150).Draw(t, "v1"), "v2": rapid.IntRange(0, 150).Draw(t, "v2"),
			},
		}
		pot := w.available["v1"] + w.available["v2"]
		for range rapid.IntRange(1, 12).Draw(t, "rounds") {
			switch rapid.IntRange(0, 4).Draw(t, "what") {
			case 0: // pods come
				w.s.Demand += rapid.IntRange(1, 40).Draw(t, "pods")
			case 1: // pods go
				n := rapid.IntRange(1, 40).Draw(t, "gone")
				for i := range w.s.ENIs {
					for j := range w.s.ENIs[i].Addresses {
						if a := &w.s.ENIs[i].Addresses[j]; n > 0 && a.Use == Used {
							a.Use = Free
							n--
						}
					}
				}
			case 2: // a crash during a plan
				w.run(t, w.compute(), rapid.IntRange(0, 4).Draw(t, "steps"))
			case 3:
				w.settle(t)
			case 4:
				w.hold(t)
			}
		}
		w.s.Demand = min(w.s.Demand, w.s.MaxENIs*w.s.PerENI)
		last := w.settle(t)
		used, free, total := w.count()
		capacity := w.s.MaxENIs * w.s.PerENI
		if total > capacity {
			t.Fatalf("%d addresses, the type allows %d", total, capacity)
		}
		if total+w.available["v1"]+w.available["v2"] != pot {
			t.Fatalf("addresses lost: %d held, %v left of %d", total, w.available, pot)
		}
		if w.s.Demand == 0 && free > w.s.Max && !slices.ContainsFunc(w.s.ENIs, func(e ENI) bool { return e.busy() > 0 }) && free > w.s.Max+w.s.PerENI {
			t.Fatalf("%d free, want at most %d (an ENI's primary may stay)", free, w.s.Max)
		}
		want := used + w.s.Demand + w.s.Min
		if free < w.s.Min || w.s.Demand > 0 {
			// Only a limit may prevent it, and the plan must name it.
			if last.Shortage == None {
				t.Fatalf("%d used, %d free, %d waiting, want %d; no shortage named", used, free, w.s.Demand, want)
			}
			if last.Shortage == TypeLimit && total < capacity {
				t.Fatalf("TypeLimit named with %d of %d addresses", total, capacity)
			}
		}
	})
}

func TestPlans(t *testing.T) {
	ready := func(token string, n int, use ...Use) ENI {
		e := ENI{Token: token, Phase: Ready, VSwitch: "v1"}
		for i := range n {
			a := Address{Address: netip.AddrFrom4([4]byte{10, 0, token[0], byte(i)}), Primary: i == 0}
			if i < len(use) {
				a.Use = use[i]
			}
			e.Addresses = append(e.Addresses, a)
		}
		return e
	}
	held := func(e ENI, of ...int) ENI {
		for _, i := range of {
			e.Addresses[i].Held = true
		}
		return e
	}
	releasing := func(e ENI, of ...int) ENI {
		for _, i := range of {
			e.Addresses[i].Releasing = true
		}
		return e
	}
	vs := []VSwitch{{ID: "v1", Available: 100}, {ID: "v2", Available: 200}}
	for name, c := range map[string]struct {
		s    State
		want func(Plan) bool
	}{
		"a new node gets its minimum in one call": {
			State{MaxENIs: 3, PerENI: 10, Min: 3, Max: 8, VSwitches: vs},
			func(p Plan) bool { return len(p.Create) == 1 && p.Create[0] == Create{VSwitch: "v2", Addresses: 3} },
		},
		"what ENIs of others can still ask for is not free": {
			State{MaxENIs: 3, PerENI: 10, Min: 3, Max: 8, VSwitches: []VSwitch{{ID: "v1", Available: 100}, {ID: "v2", Available: 200, Promised: 101}}},
			func(p Plan) bool { return len(p.Create) == 1 && p.Create[0].VSwitch == "v1" },
		},
		"where all is promised what is free is taken": {
			State{MaxENIs: 3, PerENI: 10, Min: 3, Max: 8, VSwitches: []VSwitch{{ID: "v1", Available: 2, Promised: 300}, {ID: "v2", Available: 9, Promised: 300}}},
			func(p Plan) bool { return len(p.Create) == 1 && p.Create[0] == Create{VSwitch: "v2", Addresses: 3} },
		},
		"ordered takes the first vSwitch": {
			State{MaxENIs: 3, PerENI: 10, Min: 3, Max: 8, VSwitches: vs, Policy: Ordered},
			func(p Plan) bool { return len(p.Create) == 1 && p.Create[0].VSwitch == "v1" },
		},
		"room on an ENI comes before a new one": {
			State{MaxENIs: 3, PerENI: 10, Min: 2, Max: 8, Demand: 3, ENIs: []ENI{ready("a", 2, Used, Used)}, VSwitches: vs},
			func(p Plan) bool { return len(p.Create) == 0 && len(p.Assign) == 1 && p.Assign[0] == Assign{"a", 5} },
		},
		"room on an ENI that is being attached is waited for": {
			State{MaxENIs: 3, PerENI: 10, Min: 2, Demand: 12, ENIs: []ENI{{Token: "a", Phase: Attaching, VSwitch: "v1", Addresses: ready("a", 2).Addresses}}, VSwitches: vs},
			func(p Plan) bool { return len(p.Assign) == 0 && len(p.Create) == 1 && p.Create[0].Addresses == 4 },
		},
		"what is kept is not unassigned": {
			State{MaxENIs: 3, PerENI: 10, Min: 1, Max: 8, VSwitches: vs, ENIs: []ENI{{Token: "a", Phase: Ready, VSwitch: "v1", Addresses: []Address{
				{Address: netip.AddrFrom4([4]byte{10, 0, 0, 1}), Primary: true, Use: Used},
				{Address: netip.AddrFrom4([4]byte{10, 0, 0, 2}), Releasing: true, Use: Released},
				{Address: netip.AddrFrom4([4]byte{10, 0, 0, 3}), Releasing: true, Use: Released},
				{Address: netip.AddrFrom4([4]byte{10, 0, 0, 4}), Releasing: true, Use: Released, Going: true},
			}}}},
			func(p Plan) bool {
				return len(p.Keep) == 1 && len(p.Unassign) == 1 && len(p.Unassign[0].Addresses) == 2 && !slices.Contains(p.Unassign[0].Addresses, p.Keep[0])
			},
		},
		"what is being unassigned cannot be kept": {
			State{MaxENIs: 1, PerENI: 3, Min: 1, VSwitches: vs, ENIs: []ENI{{Token: "a", Phase: Ready, VSwitch: "v1", Addresses: []Address{
				{Address: netip.AddrFrom4([4]byte{10, 0, 0, 1}), Primary: true, Use: Used},
				{Address: netip.AddrFrom4([4]byte{10, 0, 0, 2}), Releasing: true, Use: Released, Going: true},
			}}}},
			func(p Plan) bool { return len(p.Keep) == 0 && len(p.Assign) == 1 && len(p.Unassign) == 1 },
		},
		"what the cloud refused is not asked, and no other reason is given": {
			State{MaxENIs: 2, PerENI: 3, Demand: 1, NoCreate: true, VSwitches: vs, ENIs: []ENI{ready("a", 2, Used, Used)}, Max: 1},
			func(p Plan) bool { return len(p.Assign) == 1 && len(p.Create) == 0 && p.Shortage == None },
		},
		"all that is left was refused": {
			State{MaxENIs: 2, PerENI: 2, Demand: 1, NoCreate: true, VSwitches: vs, ENIs: []ENI{ready("a", 2, Used, Used)}, Max: 1},
			func(p Plan) bool { return p.Empty() && p.Shortage == Refused },
		},
		"addresses not certain yet take room and are waited for": {
			State{MaxENIs: 1, PerENI: 4, Min: 2, Max: 4, VSwitches: vs, ENIs: []ENI{{Token: "a", Phase: Ready, VSwitch: "v1", Unknown: 2, Addresses: ready("a", 2, Used, Used).Addresses}}},
			func(p Plan) bool { return p.Empty() && p.Shortage == None },
		},
		"an ENI that a pod took before it saw the mark serves on": {
			State{MaxENIs: 1, PerENI: 2, Demand: 1, VSwitches: vs, ENIs: []ENI{{Token: "a", Phase: Ready, VSwitch: "v1", Addresses: []Address{
				{Address: netip.AddrFrom4([4]byte{10, 0, 0, 1}), Primary: true, Releasing: true, Use: Used},
				{Address: netip.AddrFrom4([4]byte{10, 0, 0, 2}), Use: Used},
			}}}},
			func(p Plan) bool { return len(p.Keep) == 1 && p.Missing == 1 },
		},
		"demand beyond the type": {
			State{MaxENIs: 1, PerENI: 2, Demand: 1, ENIs: []ENI{ready("a", 2, Used, Used)}, VSwitches: vs},
			func(p Plan) bool { return p.Empty() && p.Shortage == TypeLimit && p.Missing == 1 },
		},
		"a parked vSwitch is not asked": {
			State{MaxENIs: 1, PerENI: 2, Min: 1, VSwitches: []VSwitch{{ID: "v1", Available: 9, Parked: true}}},
			func(p Plan) bool { return p.Empty() && p.Shortage == VSwitchFull },
		},
		"room only in a vSwitch that is not configured, and no slot": {
			State{MaxENIs: 1, PerENI: 2, Demand: 1, VSwitches: []VSwitch{{ID: "v2", Available: 9}}, ENIs: []ENI{ready("a", 1, Used)}},
			func(p Plan) bool { return p.Empty() && p.Shortage == NoENISlot && p.Missing == 1 },
		},
		"room only in a vSwitch that is full, and no slot": {
			State{MaxENIs: 1, PerENI: 2, Demand: 1, VSwitches: []VSwitch{{ID: "v1"}, {ID: "v2", Available: 9}}, ENIs: []ENI{ready("a", 1, Used)}},
			func(p Plan) bool { return p.Empty() && p.Shortage == NoENISlot },
		},
		"all vSwitches are full": {
			State{MaxENIs: 1, PerENI: 2, Demand: 1, VSwitches: []VSwitch{{ID: "v1"}}, ENIs: []ENI{ready("a", 1, Used)}},
			func(p Plan) bool { return p.Empty() && p.Shortage == VSwitchFull },
		},
		"idle ENIs go whole, the primary of a busy one stays": {
			State{MaxENIs: 3, PerENI: 3, Max: 1, ENIs: []ENI{ready("a", 3, Free, Used), ready("b", 2)}, VSwitches: vs},
			func(p Plan) bool {
				return slices.Equal(p.Release, []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 'b', 0}), netip.AddrFrom4([4]byte{10, 0, 'b', 1}), netip.AddrFrom4([4]byte{10, 0, 'a', 2})})
			},
		},
		"held addresses are neither free nor surplus, and keep their ENI": {
			State{MaxENIs: 3, PerENI: 5, Min: 1, Max: 1, ENIs: []ENI{held(ready("a", 3, Used), 1, 2), held(ready("b", 3), 0)}, VSwitches: vs},
			func(p Plan) bool {
				return slices.Equal(p.Release, []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 'b', 1})}) && len(p.Assign) == 0
			},
		},
		"what is held when the node has confirmed stays": {
			State{MaxENIs: 3, PerENI: 3, Max: 1, VSwitches: vs, ENIs: []ENI{
				held(releasing(ready("a", 3, Used, Released, Released), 1, 2), 1),
				held(releasing(ready("b", 2, Released, Released), 0, 1), 1),
			}},
			func(p Plan) bool {
				return len(p.Detach) == 0 && len(p.Unassign) == 1 && slices.Equal(p.Unassign[0].Addresses, []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 'a', 2})})
			},
		},
		"a held address does not serve the pod that waits": {
			State{MaxENIs: 1, PerENI: 3, Demand: 1, VSwitches: vs, ENIs: []ENI{held(ready("a", 3, Used, Used), 2)}},
			func(p Plan) bool { return p.Missing == 1 && p.Shortage == TypeLimit },
		},
		"cooling addresses are neither free nor surplus": {
			State{MaxENIs: 3, PerENI: 5, Min: 1, Max: 1, ENIs: []ENI{ready("a", 3, Used, Cooling, Cooling)}, VSwitches: vs},
			func(p Plan) bool { return len(p.Release) == 0 && len(p.Assign) == 1 },
		},
	} {
		t.Run(name, func(t *testing.T) {
			if p := Compute(c.s); !c.want(p) {
				t.Errorf("plan %+v", p)
			}
		})
	}
}

// What a burst of pods needed stays for the next one; what no burst has needed for all of
// Patience is given back.
func TestSurplusIsGivenBackWhenNothingHasNeededIt(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	const patience = 5 * time.Minute
	type look struct {
		at      time.Duration
		surplus int
		due     int
	}
	for name, looks := range map[string][]look{
		"constant":                             {{0, 9, 0}, {patience - 1, 9, 0}, {patience, 9, 9}},
		"bursts take all of it":                {{0, 9, 0}, {4 * time.Minute, 0, 0}, {6 * time.Minute, 9, 0}, {10 * time.Minute, 0, 0}, {14 * time.Minute, 9, 0}},
		"bursts take some of it":               {{0, 9, 0}, {4 * time.Minute, 2, 0}, {5 * time.Minute, 9, 2}, {9 * time.Minute, 7, 0}, {10 * time.Minute, 7, 7}},
		"a clock that is set back begins anew": {{0, 9, 0}, {-time.Hour, 9, 0}, {-time.Hour + patience, 9, 9}},
	} {
		t.Run(name, func(t *testing.T) {
			var s Surplus
			for _, l := range looks {
				var due int
				if due, s = s.due(l.surplus, start.Add(l.at), patience); due != l.due {
					t.Fatalf("at %v: %d of %d are given back, want %d", l.at, due, l.surplus, l.due)
				}
			}
		})
	}
}

// A plan without the last plan's surplus gives back later, never sooner.
func TestPatienceOfPlans(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	eni := func(token byte, own bool, n int) ENI {
		e := ENI{Token: string(rune(token)), Phase: Ready, VSwitch: "v1", Exclusive: own}
		for i := range n {
			e.Addresses = append(e.Addresses, Address{Address: netip.AddrFrom4([4]byte{10, 0, token, byte(i)}), Primary: i == 0})
		}
		return e
	}
	s := State{MaxENIs: 7, MaxExclusive: 4, PerENI: 10, Max: 1, Patience: time.Minute, Now: now,
		ENIs: []ENI{eni('a', false, 5), eni('b', true, 1), eni('c', true, 1), eni('d', true, 1)}}
	p := Compute(s)
	if !p.Empty() || p.Surplus != (Surplus{now, 4}) || p.ExclusiveSurplus != (Surplus{now, 2}) {
		t.Fatalf("plan %+v", p)
	}
	s.Now = now.Add(time.Minute)
	if again := Compute(s); !again.Empty() {
		t.Errorf("without memory: plan %+v", again)
	}
	s.Surplus, s.ExclusiveSurplus = p.Surplus, p.ExclusiveSurplus
	if p := Compute(s); len(p.Release) != 4+2 {
		t.Errorf("after a minute: plan %+v", p)
	}
	// Exclusive ENIs beyond the limit do not wait; shared ones do.
	s.MaxExclusive, s.ExclusiveSurplus, s.Surplus = 1, Surplus{}, Surplus{}
	if p := Compute(s); len(p.Release) != 2 {
		t.Errorf("without room: plan %+v", p)
	}
}
