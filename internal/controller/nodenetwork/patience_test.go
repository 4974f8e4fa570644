package nodenetwork

import (
	"fmt"
	"testing"
	"time"

	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/vpcsim"
	"terway.dev/terway/internal/vpcsim/state"
)

// serveFor runs controller and agent for so long, with a step at least every five seconds.
func (g *rig) serveFor(name string, long time.Duration) {
	g.Helper()
	for end := g.Clock.Now().Add(long); g.Clock.Now().Before(end); {
		g.agent(name)
		wait, _ := g.once(name)
		g.Clock.Pass(min(max(wait, 100*time.Millisecond), 5*time.Second))
	}
}

// An ENI that takes longer to attach than an ADD waits arrives when its pods are between two
// attempts. It is not given back in that pause; not even with agents that do not keep their demand
// for a minute.
func TestWhatIsMadeForWaitingPodsOutlivesThePause(t *testing.T) {
	slow := func(_ *config.Config, o *vpcsim.Options) {
		o.Timing = state.Timing{CreateENI: time.Second, AttachENI: 28 * time.Second, DetachENI: 2 * time.Second, DeleteENI: time.Second}
	}
	for _, own := range []bool{false, true} {
		t.Run(fmt.Sprintf("own %t", own), func(t *testing.T) {
			g := newRig(t, []string{"192.168.32.0/24"}, slow, func(c *config.Config, _ *vpcsim.Options) {
				if own {
					c.ExclusiveENIs = 3
				}
			})
			g.r.Patience = 5 * time.Minute
			g.addNode("n1", "ecs.g6.2xlarge")
			g.once("n1")
			g.agent("n1")
			if own {
				for i := range 3 {
					g.pods["n1"][fmt.Sprintf("own-%d", i)] = ""
				}
			} else {
				g.addPods("n1", 14)
			}
			g.serveFor("n1", 25*time.Second)
			waiting := g.pods["n1"]
			g.pods["n1"] = map[string]string{}
			g.serveFor("n1", 36*time.Second)
			for _, e := range g.nn("n1").Spec.ENIs {
				for _, a := range e.Addresses {
					if a.Releasing {
						t.Errorf("%s is given back", a.Address)
					}
				}
			}
			g.pods["n1"] = waiting
			g.serveFor("n1", 2*time.Minute)
			for pod, a := range g.pods["n1"] {
				if a == "" {
					t.Errorf("pod %s has no address", pod)
				}
			}
			if n := g.Calls("UnassignPrivateIpAddresses") + g.Calls("DetachNetworkInterface"); n > 0 {
				t.Errorf("%d calls to give back", n)
			}
		})
	}
}

// Pods that start and stop in bursts cost calls once; what they no longer need is given back.
func TestBurstsCostCallsOnce(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"}, func(c *config.Config, _ *vpcsim.Options) { c.MinPoolSize, c.MaxPoolSize = 3, 8 })
	g.r.Patience = 5 * time.Minute
	g.addNode("n1", "ecs.g6.4xlarge")
	g.serveFor("n1", time.Minute)
	burst := func() {
		g.startPods("n1", 25)
		g.serveFor("n1", 2*time.Minute)
		g.stopPods("n1", 25)
		g.serveFor("n1", 2*time.Minute)
	}
	burst()
	assign, unassign := g.Calls("AssignPrivateIpAddresses"), g.Calls("UnassignPrivateIpAddresses")
	for range 3 {
		burst()
	}
	if a, u := g.Calls("AssignPrivateIpAddresses")-assign, g.Calls("UnassignPrivateIpAddresses")-unassign; a+u > 0 {
		t.Errorf("%d assign and %d unassign calls for bursts after the first, want none", a, u)
	}
	g.serveFor("n1", 15*time.Minute)
	if n := g.free("n1"); n > 8+len(g.nn("n1").Spec.ENIs) { // an ENI's primary may stay
		t.Errorf("%d free addresses a quarter of an hour after the last burst, want 8", n)
	}
	// A new controller starts its wait over, and then gives back as well.
	burst()
	g.restart()
	g.r.Patience = 5 * time.Minute
	g.serveFor("n1", 15*time.Minute)
	if n := g.free("n1"); n > 8+len(g.nn("n1").Spec.ENIs) {
		t.Errorf("%d free addresses a quarter of an hour after a restart, want 8", n)
	}
}
