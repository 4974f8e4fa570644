package fabric

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestWhenConnectionsOfBackendsEnd(t *testing.T) {
	const now, second = uint64(9000e9), uint64(time.Second)
	listeners := map[uint64]bool{1: true, 2: true}
	kept := programBackend{Listener: 1, Flags: backendTakes | backendKeeps}
	draining := programBackend{Listener: 2, Drain: 30, Flags: backendTakes | backendKeeps}
	ill := draining
	ill.Flags = 0
	ends := func(b programBackend, at uint64) programBackend { b.Expires, b.Flags = at, 0; return b }
	for name, c := range map[string]struct{ have, want, get map[uint64]programBackend }{
		"in service":        {nil, map[uint64]programBackend{7: draining}, map[uint64]programBackend{7: draining}},
		"removed":           {map[uint64]programBackend{7: kept}, nil, nil},
		"removed, drains":   {map[uint64]programBackend{7: draining}, nil, map[uint64]programBackend{7: ends(draining, now+30*second)}},
		"removed before":    {map[uint64]programBackend{7: ends(draining, now-second)}, nil, map[uint64]programBackend{7: ends(draining, now-second)}},
		"removed long ago":  {map[uint64]programBackend{7: ends(draining, now-3600*second)}, nil, nil},
		"back":              {map[uint64]programBackend{7: ends(draining, now+second)}, map[uint64]programBackend{7: draining}, map[uint64]programBackend{7: draining}},
		"becomes unhealthy": {map[uint64]programBackend{7: draining}, map[uint64]programBackend{7: ill}, map[uint64]programBackend{7: ends(ill, now+30*second)}},
		"stays unhealthy":   {map[uint64]programBackend{7: ends(ill, now+9)}, map[uint64]programBackend{7: ill}, map[uint64]programBackend{7: ends(ill, now+9)}},
		"listener gone":     {map[uint64]programBackend{7: {Listener: 3}}, nil, map[uint64]programBackend{7: {Listener: 3, Expires: now}}},
	} {
		if got := drained(c.have, c.want, listeners, now); !maps.Equal(got, c.get) {
			t.Errorf("%s: %+v, want %+v", name, got, c.get)
		}
	}
}

// A reader of the image: the backend that the program takes for a turn.
func TestImageOfListeners(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		top := twoPorts(nil, nil, nil)
		backends := drawBackends(t, 20)
		for i := range backends {
			backends[i].Healthy = rapid.IntRange(0, 3).Draw(t, "healthy") != 0
		}
		top.Balancers = []Balancer{{
			ID: "lb-1", VPC: "vpc-1",
			Addresses: []BalancerAddress{{Address: netip.MustParseAddr("10.1.0.100")}, {Address: netip.MustParseAddr("198.51.100.1"), Public: true}},
			Listeners: []Listener{{ID: "l", Protocol: protocolTCP, Port: 80, Scheduler: Scheduler(rapid.IntRange(0, int(TupleHash)).Draw(t, "scheduler")), Backends: backends}},
		}}
		if err := top.Validate(); err != nil {
			t.Fatal(err)
		}
		own := withOwn(*top)
		index := map[string]uint32{"eni-1": 1, "eni-2": 2, "slb-vpc-1": 3, "internet": 4}
		img, err := compile(&own, &Options{}, index, nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(img.listeners) != 3 { // the private address; the public one inside and outside
			t.Fatalf("%d listeners", len(img.listeners))
		}
		taking := map[netip.AddrPort]bool{}
		for _, b := range backends {
			if b.takes() {
				taking[b.Address] = true
			}
		}
		for key, l := range img.listeners {
			if key.Port != wire(80) || key.Proto != protocolTCP {
				t.Errorf("key %+v", key)
			}
			seen := map[uint32]bool{}
			if int(l.Slots) != len(img.tables[l.Table]) {
				t.Fatalf("%d slots, want %d", len(img.tables[l.Table]), l.Slots)
			}
			for i, s := range img.tables[l.Table] {
				if img.backends[s.Backend].Flags != backendTakes|backendKeeps {
					t.Errorf("slot %d has a backend with the flags %d", i, img.backends[s.Backend].Flags)
				}
				seen[s.Addr] = true
			}
			if len(seen) != len(taking) {
				t.Errorf("%d of %d backends have slots", len(seen), len(taking))
			}
		}
		if len(img.backends) != len(backends) {
			t.Errorf("%d of %d backends", len(img.backends), len(backends))
		}
		again, err := compile(&own, &Options{}, index, img.tables)
		if err != nil || !reflect.DeepEqual(again, img) {
			t.Errorf("with the tables of an earlier image another one is made, %v", err)
		}
	})
}

func TestValidateBalancers(t *testing.T) {
	at := netip.MustParseAddr
	good := func() *Topology {
		top := twoPorts(nil, nil, nil)
		top.Balancers = []Balancer{{ID: "lb-1", VPC: "vpc-1", Addresses: []BalancerAddress{{Address: at("10.1.0.100")}}, Listeners: []Listener{
			{ID: "l", Protocol: protocolTCP, Port: 80, Backends: []Backend{{Address: netip.MustParseAddrPort("10.1.0.2:80"), Weight: 1}}},
		}}}
		return top
	}
	if err := good().Validate(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Balancer, *Topology){
		"listed twice":                  func(_ *Balancer, top *Topology) { top.Balancers = append(top.Balancers, top.Balancers[0]) },
		"cannot name a namespace":       func(b *Balancer, _ *Topology) { b.VPC = "" },
		"must be IPv4":                  func(b *Balancer, _ *Topology) { b.Addresses[0].Address = at("::1") },
		"is on eni-2 and balancer lb-1": func(b *Balancer, _ *Topology) { b.Addresses[0].Address = at("10.1.0.2") },
		"protocol 1 must be":            func(b *Balancer, _ *Topology) { b.Listeners[0].Protocol = 1 },
		"port 0 must be":                func(b *Balancer, _ *Topology) { b.Listeners[0].Port = 0 },
		"have the same port": func(b *Balancer, _ *Topology) {
			b.Listeners = append(b.Listeners, Listener{ID: "m", Protocol: protocolTCP, Port: 80})
		},
		"no id of its own":                  func(b *Balancer, _ *Topology) { b.Listeners[0].ID = "" },
		"must be between 0 and 1 h":         func(b *Balancer, _ *Topology) { b.Listeners[0].Drain = 2 * time.Hour },
		"scheduler 9":                       func(b *Balancer, _ *Topology) { b.Listeners[0].Scheduler = 9 },
		"has the weight 101":                func(b *Balancer, _ *Topology) { b.Listeners[0].Backends[0].Weight = 101 },
		"must be an IPv4 address":           func(b *Balancer, _ *Topology) { b.Listeners[0].Backends[0].Address = netip.AddrPort{} },
		"range of its access list":          func(b *Balancer, _ *Topology) { b.Listeners[0].Access = &AccessList{Ranges: []netip.Prefix{{}}} },
		"a namespace of the fabric's own":   func(_ *Balancer, top *Topology) { top.Instances[0].ID = "slb-vpc-1" },
		"the outside namespace is called":   func(_ *Balancer, top *Topology) { top.VSwitches[0].VPC = "internet" },
		fmt.Sprint(maxBackends, " at most"): func(b *Balancer, _ *Topology) { b.Listeners[0].Backends = make([]Backend, maxBackends+1) },
	} {
		top := good()
		change(&top.Balancers[0], top)
		if err := top.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
}
