package agent

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"terway.dev/terway/internal/cnicall"
	"terway.dev/terway/internal/datapath"
)

// TestCrashAnywhere runs random histories of pods in which the agent is killed at
// any step, and checks after each restart that no address is shared, that the
// kernel has what the journal has, that policies know the same pods, and at the end that
// no address was lost.
func TestCrashAnywhere(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		const addresses = 4
		dir, err := os.MkdirTemp("", "crash")
		if err != nil {
			rt.Fatal(err)
		}
		defer os.RemoveAll(dir)
		e := &env{t: t, dir: dir, dp: &fakeDatapath{wired: map[string]datapath.Pod{}}, now: time.Unix(1_700_000_000, 0),
			dead: map[string]bool{}, links: map[string]bool{}}
		var policies *fakePolicies
		e.configure = func(o *Options) {
			policies = newFakePolicies()
			o.Policies = policies
		}
		e.start()
		defer func() { e.kill() }()
		e.want(addresses)
		e.a.WaitForAddress = 0

		answered := map[string]string{} // the addresses that the runtime got, by sandbox
		var sandboxes []string
		pick := func() string { return rapid.SampledFrom(sandboxes).Draw(rt, "sandbox") }

		// run makes a call that may be killed at a step. It returns whether the call was answered.
		run := func(killed bool, hook *func(step), call func() cnicall.Reply) (r cnicall.Reply) {
			at := step("")
			if killed {
				at = rapid.SampledFrom([]step{before, after}).Draw(rt, "killed")
				*hook = func(s step) {
					if s == at {
						runtime.Goexit()
					}
				}
			}
			done := make(chan struct{})
			go func() { defer close(done); r = call() }()
			<-done
			if killed {
				*hook = nil
				e.restart()
				e.a.WaitForAddress = 0
			}
			return r
		}
		add := func(killed bool) {
			s := fmt.Sprintf("s%d", len(sandboxes))
			if len(sandboxes) > 0 && rapid.Bool().Draw(rt, "again") {
				s = pick()
			} else {
				sandboxes = append(sandboxes, s)
			}
			if e.dead["/run/netns/"+s] {
				return
			}
			var got string
			run(killed, &e.dp.onAdd, func() cnicall.Reply {
				a, err := e.add(s)
				if err == nil {
					got = a
				}
				return cnicall.Reply{}
			})
			if got == "" {
				return
			}
			old, again := answered[s]
			if !again && e.isHeld(got) {
				rt.Fatalf("%s, which a load balancer has, given to %s", got, s)
			}
			if again && old != got {
				rt.Fatalf("ADD of %s answered %s, before %s", s, got, old)
			}
			for other, a := range answered {
				if a == got && other != s {
					rt.Fatalf("%s given to %s and %s", got, other, s)
				}
			}
			answered[s] = got
		}
		del := func(killed bool) {
			if len(sandboxes) == 0 {
				return
			}
			s := pick()
			r := run(killed, &e.dp.onDel, func() cnicall.Reply {
				r := e.do(context.Background(), "DEL", call(s))
				return r
			})
			if killed {
				// The runtime repeats a DEL that was not answered.
				r = e.do(context.Background(), "DEL", call(s))
			}
			if r.Error != nil {
				rt.Fatalf("DEL %s: %v", s, r.Error)
			}
			delete(answered, s)
		}
		rt.Repeat(map[string]func(*rapid.T){
			"add":        func(*rapid.T) { add(false) },
			"killed add": func(*rapid.T) { add(true) },
			"del":        func(*rapid.T) { del(false) },
			"killed del": func(*rapid.T) { del(true) },
			"sandbox dies": func(*rapid.T) {
				if len(sandboxes) > 0 {
					s := pick()
					e.dead["/run/netns/"+s] = true
					e.repair()
					delete(answered, s)
				}
			},
			"load balancers get and lose addresses": func(*rapid.T) {
				w := e.a.desired
				w.ENIs = slices.Clone(w.ENIs)
				w.ENIs[0].Addresses = slices.Clone(w.ENIs[0].Addresses)
				for i := range w.ENIs[0].Addresses {
					w.ENIs[0].Addresses[i].Held = rapid.Bool().Draw(rt, "held")
				}
				e.setDesired(w)
			},
			"wait": func(*rapid.T) { e.sleep(20 * time.Second); e.repair() },
			"": func(rt *rapid.T) {
				e.repair()
				byAddr := map[netip.Addr]string{}
				for s, p := range e.dp.wired {
					for _, a := range p.Addresses {
						if other, dup := byAddr[a]; dup {
							rt.Fatalf("%s is wired for %s and %s", a, other, s)
						}
						byAddr[a] = s
					}
				}
				for s, a := range answered {
					p, ok := e.dp.wired[s]
					if !ok || !slices.Contains(p.Addresses, netip.MustParsePrefix(a).Addr()) {
						rt.Fatalf("%s was answered %s but is wired as %+v", s, a, p)
					}
				}
				if differs := policies.hereAndInTheJournal(e.a); differs != "" {
					rt.Fatal(differs)
				}
				if c := e.a.pool.Count(e.now); c.Total != addresses || c.Used != len(e.a.entries) {
					rt.Fatalf("pool %+v with %d entries, want %d addresses in all", c, len(e.a.entries), addresses)
				}
			},
		})
		for _, s := range sandboxes {
			e.dead["/run/netns/"+s] = true
		}
		e.repair()
		if c := e.a.pool.Count(e.now); c.Used != 0 || c.Total != addresses || len(e.dp.wired) != 0 {
			rt.Fatalf("after all pods: %+v, wired %v; want nothing used", c, e.dp.wired)
		}
	})
}
