package podroute

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"

	"terway.dev/terway/internal/vpcsim"
	"terway.dev/terway/internal/vpcsim/faults"
	"terway.dev/terway/internal/vpcsim/state"
)

// cluster has nodes that come and go at random, and which node should have which block.
type cluster struct {
	*rig
	t         *rapid.T
	instances []string
	nodes     map[string]int // the instance, by name
	blocks    map[string]int
}

func newCluster(t *rapid.T, options ...func(*vpcsim.Options)) *cluster {
	c := &cluster{rig: newRig(t, options...), t: t, nodes: map[string]int{}, blocks: map[string]int{}}
	for range 5 {
		c.instances = append(c.instances, c.instance())
	}
	c.rig.foreign("172.20.99.0/24", c.instances[0], "theirs")
	return c
}

// change makes a node come, go, or come back as another instance or with another block.
func (c *cluster) change() {
	for range rapid.IntRange(1, 4).Draw(c.t, "changes") {
		n := rapid.IntRange(0, 4).Draw(c.t, "node")
		name := fmt.Sprintf("n%d", n)
		if _, there := c.nodes[name]; there {
			c.leave(name)
			delete(c.nodes, name)
			delete(c.blocks, name)
		}
		if rapid.IntRange(0, 3).Draw(c.t, "goes") > 0 {
			c.nodes[name] = rapid.IntRange(0, 4).Draw(c.t, "instance")
			// Blocks of different nodes never overlap here; package entries tests that.
			c.blocks[name] = n*10 + rapid.IntRange(0, 2).Draw(c.t, "block")
			c.register(name, c.instances[c.nodes[name]], blockN(c.blocks[name]))
		}
	}
}

// rest lets the controller finish and checks that the table is what the nodes need.
func (c *cluster) rest() {
	c.Helper()
	c.restart()
	c.run(3 * minute)
	for name, block := range c.blocks {
		if got, want := c.leads(blockN(block)), c.instances[c.nodes[name]]; got != want {
			c.Fatalf("%s leads to %q, want %s of node %s", blockN(block), got, want, name)
		}
		c.want(name, corev1.ConditionFalse, "RouteCreated")
	}
	left := len(c.custom(0))
	if c.leads("172.20.99.0/24") != c.instances[0] {
		c.Fatalf("somebody else's entry is gone")
	}
	left--
	if len(c.nodes) > 0 && left != len(c.nodes) || len(c.nodes) == 0 && c.r.vpc != "" && left != 0 {
		c.Fatalf("%d entries for %d nodes: %+v", left, len(c.nodes), c.custom(0))
	}
}

// Whenever the controller is killed, its successor finishes the work.
func TestKilledAnywhere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newCluster(t)
		for range rapid.IntRange(1, 6).Draw(t, "rounds") {
			c.change()
			c.fuse.Light(rapid.IntRange(0, 8).Draw(t, "writes until it is killed"), rapid.Bool().Draw(t, "the last write is carried out"))
			c.run(time.Duration(rapid.IntRange(1, 15).Draw(t, "seconds")) * time.Second)
		}
		c.rest()
	})
}

// The same holds with all kinds of faults in the cloud.
func TestTroubledCloud(t *testing.T) {
	share := func(p float64) *float64 { return &p }
	kinds := []faults.Rule{
		{Name: "lost", Action: "*RouteEntries", LostAnswer: true, Probability: share(0.5)},
		{Name: "throttled", Action: "*", Error: &faults.Error{Code: "Throttling"}, Probability: share(0.3)},
		{Name: "broken", Action: "*", Error: &faults.Error{Code: "InternalError", Status: 500}, Probability: share(0.3)},
		{Name: "conflict", Action: "*RouteEntries", Error: &faults.Error{Code: "TaskConflict"}, Probability: share(0.5)},
		{Name: "lock", Action: "*RouteEntries", Error: &faults.Error{Code: "OperationFailed.DistibuteLock"}, Probability: share(0.5)},
		{Name: "stale", Action: "DescribeRouteEntryList", Stale: faults.Duration(5 * time.Second), Probability: share(0.5)},
		{Name: "stale instances", Action: "DescribeInstances", Stale: faults.Duration(5 * time.Second), Probability: share(0.5)},
		{Name: "quota", Action: "CreateRouteEntries", Error: &faults.Error{Code: "QuotaExceeded"}, Probability: share(0.5)},
	}
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64Range(1, 1000).Draw(t, "seed")
		c := newCluster(t, func(o *vpcsim.Options) { o.Seed = seed })
		for range rapid.IntRange(1, 5).Draw(t, "rounds") {
			k := rapid.SampledFrom(kinds).Draw(t, "fault")
			// An old list hides entries that are changing, and so does the client's own retry.
			c.stale = k.Stale > 0 || k.LostAnswer
			c.Fault(k)
			c.change()
			if rapid.IntRange(0, 3).Draw(t, "the VPC is busy") == 0 {
				cidr := fmt.Sprintf("192.168.%d.0/24", 32+c.serial)
				_ = c.Sim.Write(t.Context(), func(s state.API) error { // refused while the VPC is busy
					_, err := s.CreateVSwitch(state.CreateVSwitchRequest{VpcId: c.vpc, ZoneId: zone, CidrBlock: cidr})
					return err
				})
			}
			c.run(time.Duration(rapid.IntRange(1, 100).Draw(t, "seconds")) * time.Second)
			c.Sim.RemoveFault(k.Name)
			if rapid.Bool().Draw(t, "restart") {
				c.restart()
			}
		}
		c.Clock.Pass(10 * time.Second)
		c.stale = false
		c.rest()
	})
}
