package pool

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var t0 = time.Unix(1_700_000_000, 0)

func addr(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 168, 32, byte(i)}) }

func offers(n int) []Offer {
	var o []Offer
	for i := range n {
		o = append(o, Offer{Address: addr(i + 1), ENI: "eni", Usable: true})
	}
	return o
}

func TestLongestRestedFirst(t *testing.T) {
	p := New()
	p.Update(offers(3))
	a, _ := p.Take(Holder{Key: "a"}, t0)
	b, _ := p.Take(Holder{Key: "b"}, t0)
	p.Free(b.Addresses[0], "b", t0)
	p.Free(a.Addresses[0], "a", t0.Add(time.Second))
	var got []netip.Addr
	for i := range 3 {
		o, ok := p.Take(Holder{Key: fmt.Sprint(i)}, t0.Add(time.Minute))
		if !ok {
			t.Fatal("no address")
		}
		got = append(got, o.Addresses...)
	}
	if want := []netip.Addr{addr(3), addr(2), addr(1)}; !slices.Equal(got, want) {
		t.Errorf("order %v, want %v: never held, then freed first, then freed last", got, want)
	}
}

func TestCoolingAddressIsNotGiven(t *testing.T) {
	p := New()
	p.SetCooling(time.Minute)
	p.Update(offers(1))
	o, _ := p.Take(Holder{Key: "a"}, t0)
	p.Free(o.Addresses[0], "a", t0)
	if _, ok := p.Take(Holder{Key: "b"}, t0.Add(59*time.Second)); ok {
		t.Error("address given while it rests")
	}
	if at, ok := p.NextCooled(t0); !ok || !at.Equal(t0.Add(time.Minute)) {
		t.Errorf("NextCooled = %v %v", at, ok)
	}
	if _, ok := p.Take(Holder{Key: "b"}, t0.Add(time.Minute)); !ok {
		t.Error("address not given after its rest")
	}
}

func TestAddressOfALoadBalancerIsNotGiven(t *testing.T) {
	p := New()
	p.SetCooling(time.Minute)
	own := Offer{Address: addr(100), ENI: "own", Usable: true, Exclusive: true}
	held, free := append(offers(1), own), append(offers(1), own)
	held[0].Held, held[1].Held = true, true
	p.Update(free)
	a, _ := p.Take(Holder{Key: "a"}, t0)
	b, _ := p.TakeExclusive(Holder{Key: "b"}, t0)
	p.Update(held)
	if used, _, _ := p.Report(t0); len(used) != 2 {
		t.Errorf("used %v: the pods keep their addresses", used)
	}
	p.Free(a.Addresses[0], "a", t0)
	p.Free(b.Addresses[0], "b", t0)
	later := t0.Add(time.Hour)
	if _, ok := p.Take(Holder{Key: "c"}, later); ok {
		t.Error("an address that a load balancer has was given to a pod")
	}
	if _, ok := p.TakeExclusive(Holder{Key: "c"}, later); ok {
		t.Error("an ENI whose address a load balancer has was given to a pod")
	}
	if _, ok := p.NextCooled(t0); ok {
		t.Error("it says when the address can be used, which is not known")
	}
	if c := p.Count(later); c.Held != 2 {
		t.Errorf("count %+v", c)
	}
	p.Update(free)
	if _, ok := p.Take(Holder{Key: "c"}, later); !ok {
		t.Error("not given when no load balancer has it any more")
	}
	if _, ok := p.TakeExclusive(Holder{Key: "c"}, later); !ok {
		t.Error("the ENI was not given when no load balancer has its address any more")
	}
}

func TestReleaseHandshake(t *testing.T) {
	p := New()
	p.Update(offers(2))
	o, _ := p.Take(Holder{Key: "a", Pod: "d/a"}, t0)
	asked := offers(2)
	for i := range asked {
		asked[i].Releasing = true
	}
	p.Update(asked)
	if _, _, released := p.Report(t0); !slices.Equal(released, []netip.Addr{addr(2)}) {
		t.Errorf("released %v: only the free one may be confirmed", released)
	}
	if _, ok := p.Take(Holder{Key: "b"}, t0); ok {
		t.Error("a released address was given to a pod")
	}
	p.Free(o.Addresses[0], "a", t0)
	if _, _, released := p.Report(t0); len(released) != 2 {
		t.Errorf("released %v, want both", released)
	}
	if left := p.Update(nil); len(left) != 2 {
		t.Errorf("left %v, want both", left)
	}
	if c := p.Count(t0); c.Total != 0 {
		t.Errorf("count %+v, want nothing", c)
	}
}

func TestReleaseTakenBack(t *testing.T) {
	p := New()
	o := offers(1)
	o[0].Releasing = true
	p.Update(o)
	o[0].Releasing = false
	p.Update(o)
	if _, ok := p.Take(Holder{Key: "a"}, t0); !ok {
		t.Error("address not usable after the controller took the release back")
	}
}

func TestHeldAddressOutlivesItsOffer(t *testing.T) {
	p := New()
	p.Update(offers(1))
	o, _ := p.Take(Holder{Key: "a", Pod: "d/a"}, t0)
	p.Update(nil)
	if used, _, _ := p.Report(t0); len(used) != 1 {
		t.Errorf("used %v: a pod's address must be reported while the pod lives", used)
	}
	p.Free(o.Addresses[0], "a", t0)
	if c := p.Count(t0); c.Total != 0 {
		t.Errorf("count %+v, want nothing", c)
	}
}

func TestRestoreRefusesTwoHolders(t *testing.T) {
	p := New()
	if err := p.Restore(addr(1), "eni", &Holder{Key: "a"}, time.Time{}); err != nil {
		t.Fatal(err)
	}
	if err := p.Restore(addr(1), "eni", &Holder{Key: "b"}, time.Time{}); err == nil {
		t.Error("one address restored for two holders")
	}
}

func TestReturnedAddressIsUsedLastButNeedNotRest(t *testing.T) {
	p := New()
	p.SetCooling(time.Minute)
	p.Update(offers(2))
	l, _ := p.Take(Holder{Key: "a"}, t0)
	p.Return(l.Addresses[0], "a", t0)
	for _, want := range []netip.Addr{addr(2), addr(1)} {
		l, ok := p.Take(Holder{Key: want.String()}, t0)
		if !ok || l.Addresses[0] != want {
			t.Errorf("got %v %v, want %s", l, ok, want)
		}
	}
}

func TestDualStackTakesBothFamiliesOfOneENI(t *testing.T) {
	v6 := func(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", i)) }
	p := New()
	p.Update([]Offer{
		{Address: addr(1), ENI: "one", Usable: true}, // all its IPv6 addresses are in use
		{Address: v6(1), ENI: "one", Usable: true},
		{Address: addr(2), ENI: "one", Usable: true},
		{Address: addr(3), ENI: "two", Usable: true},
		{Address: v6(3), ENI: "two", Usable: true},
	})
	for _, want := range []Lease{
		{ENI: "one", Addresses: []netip.Addr{addr(1), v6(1)}},
		{ENI: "two", Addresses: []netip.Addr{addr(3), v6(3)}},
	} {
		l, ok := p.Take(Holder{Key: want.ENI}, t0)
		if !ok || l.ENI != want.ENI || !slices.Equal(l.Addresses, want.Addresses) {
			t.Fatalf("got %v %v, want %v", l, ok, want)
		}
	}
	if l, ok := p.Take(Holder{Key: "third"}, t0); ok {
		t.Errorf("got %v although no ENI has both families left", l)
	}
}

// TestPoolModel compares random histories with a simple model of which holder has which address.
func TestPoolModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const cooling = 30 * time.Second
		p := New()
		p.SetCooling(cooling)
		now := t0
		held := map[string]netip.Addr{} // key → address
		freed := map[netip.Addr]time.Time{}
		offered := map[netip.Addr]Offer{}
		next := 0
		t.Repeat(map[string]func(*rapid.T){
			"offer": func(t *rapid.T) {
				var list []Offer
				clear(offered)
				for _, i := range rapid.SliceOfNDistinct(rapid.IntRange(1, 8), 0, 8, rapid.ID).Draw(t, "addresses") {
					o := Offer{
						Address: addr(i), ENI: "eni",
						Usable:    rapid.Bool().Draw(t, "usable"),
						Releasing: rapid.Bool().Draw(t, "releasing"),
						Held:      rapid.Bool().Draw(t, "held"),
					}
					list = append(list, o)
					offered[o.Address] = o
				}
				p.Update(list)
				for a := range freed {
					if _, ok := offered[a]; !ok {
						delete(freed, a) // it left the node; if it comes back it has no history
					}
				}
			},
			"take": func(t *rapid.T) {
				next++
				key := fmt.Sprint(next)
				l, ok := p.Take(Holder{Key: key}, now)
				if !ok {
					return
				}
				o := struct{ Address netip.Addr }{l.Addresses[0]}
				for k, a := range held {
					if a == o.Address {
						t.Fatalf("%s given to %s and %s", a, k, key)
					}
				}
				if f, ok := freed[o.Address]; ok && now.Sub(f) < cooling {
					t.Fatalf("%s given %v after it was freed", o.Address, now.Sub(f))
				}
				if w := offered[o.Address]; !w.Usable || w.Releasing || w.Held {
					t.Fatalf("%s given although offered as %+v", o.Address, w)
				}
				held[key] = o.Address
			},
			"free": func(t *rapid.T) {
				if len(held) == 0 {
					return
				}
				keys := make([]string, 0, len(held))
				for k := range held {
					keys = append(keys, k)
				}
				slices.Sort(keys)
				k := rapid.SampledFrom(keys).Draw(t, "key")
				p.Free(held[k], k, now)
				if _, ok := offered[held[k]]; ok {
					freed[held[k]] = now
				}
				delete(held, k)
			},
			"wait": func(t *rapid.T) { now = now.Add(time.Duration(rapid.IntRange(1, 40).Draw(t, "s")) * time.Second) },
			"": func(t *rapid.T) {
				used, coolingNow, released := p.Report(now)
				if len(used) != len(held) {
					t.Fatalf("%d used, %d held", len(used), len(held))
				}
				for _, u := range used {
					if held[u.Key] != u.Address {
						t.Fatalf("%s reported for %s, which holds %s", u.Address, u.Key, held[u.Key])
					}
				}
				for _, a := range released {
					if !offered[a].Releasing {
						t.Fatalf("%s confirmed though the controller did not ask for it", a)
					}
				}
				c := p.Count(now)
				if c.Used+c.Free+c.Cooling+c.Held+c.Releasing+c.Unusable != c.Total {
					t.Fatalf("count %+v does not add up", c)
				}
				for _, a := range coolingNow {
					if slices.Contains(released, a) {
						t.Fatalf("%s both cooling and released", a)
					}
				}
			},
		})
	})
}

// Once confirmed, the cloud may give the address to another node within a second.
func TestReleaseIsConfirmedOnlyAfterTheRest(t *testing.T) {
	p := New()
	p.SetCooling(time.Minute)
	p.Update(offers(1))
	if _, ok := p.Take(Holder{Key: "a", Pod: "d/a"}, t0); !ok {
		t.Fatal("no address")
	}
	asked := offers(1)
	asked[0].Releasing = true
	p.Update(asked)
	p.Free(addr(1), "a", t0)
	if _, cooling, released := p.Report(t0.Add(59 * time.Second)); len(released) != 0 || len(cooling) != 1 {
		t.Errorf("released %v, cooling %v while the address rests", released, cooling)
	}
	if _, cooling, released := p.Report(t0.Add(time.Minute)); len(released) != 1 || len(cooling) != 0 {
		t.Errorf("released %v, cooling %v after its rest", released, cooling)
	}
}

func TestAnENIForOnePodIsGivenWhole(t *testing.T) {
	p := New()
	p.SetCooling(time.Minute)
	own := func(n int) Offer {
		return Offer{Address: addr(100 + n), ENI: fmt.Sprint("own", n), Usable: true, Exclusive: true}
	}
	p.Update([]Offer{own(1), own(2), offers(1)[0]})
	if l, ok := p.Take(Holder{Key: "s"}, t0); !ok || l.Addresses[0] != addr(1) {
		t.Errorf("Take gives %v, want the shared address", l)
	}
	if l, ok := p.Take(Holder{Key: "s2"}, t0); ok {
		t.Errorf("Take gives %v, an ENI that is for one pod", l)
	}
	a, ok := p.TakeExclusive(Holder{Key: "a"}, t0)
	if !ok || a.ENI != "own1" {
		t.Fatalf("TakeExclusive gives %v", a)
	}
	p.Free(a.Addresses[0], "a", t0)
	// First the address that has rested; then the one that still cools.
	if l, _ := p.TakeExclusive(Holder{Key: "b"}, t0); l.ENI != "own2" {
		t.Errorf("TakeExclusive gives %v, want the ENI that has rested", l)
	}
	if l, ok := p.TakeExclusive(Holder{Key: "c"}, t0); !ok || l.ENI != "own1" {
		t.Errorf("TakeExclusive gives %v, want the ENI that rests", l)
	}
	if l, ok := p.TakeExclusive(Holder{Key: "d"}, t0); ok {
		t.Errorf("TakeExclusive gives %v, which is held", l)
	}
}
