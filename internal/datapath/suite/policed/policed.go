package policed

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"terway.dev/terway/internal/datapath/suite/world"
	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/selector"
	"terway.dev/terway/internal/testutil"
)

type scenario struct {
	name string
	run  func(*testing.T, *env)
	// alone: it changes more of its world than what can be put back. A world of its own costs the loading of all programs twice.
	alone bool
}

// Run runs all scenarios as subtests, or only those with these names.
func Run(all *testing.T, k world.Kit, make Make, only ...string) {
	list := []scenario{
		{"each path is judged", eachPathIsJudged, false},
		{"a pod reaches itself by its Service", podReachesItself, false},
		{"the node's probes pass", probesPass, false},
		{"what a masqueraded client opens is no probe", masqueradedClientIsNoProbe, false},
		{"a running connection is cut", runningConnectionIsCut, false},
		{"a late answer opens nothing", lateAnswer, false},
		{"an answer of a Service after a silence opens nothing", lateAnswerOfService, false},
		{"an answer of the node for a Service opens nothing", nodeAnswersForService, false},
		{"an allowed connection survives changes", allowedConnectionSurvives, false},
		{"fragments", fragments, false},
		{"ICMP errors", icmpErrors, false},
		{"ICMP errors about a Service", errorsAboutAService, false},
		{"a pod sends no errors about connections of others", errorsOfOthers, false},
		{"a pod that nobody knows is closed", unknownPodIsClosed, false},
		{"replies are translated back", repliesAreTranslatedBack, false},
		{"a SYN in fragments is judged", synInFragmentsIsJudged, false},
		{"every address of the node is judged", everyAddressOfTheNode, false},
		{"what is forwarded is judged whatever it is", whateverIsForwarded, false},
		{"the server goes on when connections are forgotten", serverGoesOn, false},
		{"the node's connections go on when they are forgotten", nodeGoesOn, false},
		{"a pod's device is recreated", deviceMadeAnew, false},
		{"a silent connection is none", silentConnectionIsNone, false},
		{"verdicts are told and counted", verdictsAreTold, true},
		{"turned off", turnedOff, false},
		{"an agent that has not turned them on or off", notDecided, true},
		{"turned off while a call works on a pod", turnedOffBesideACall, false},
		{"turned on and off under traffic", turnedOnAndOff, false},
		{"teardown", tornDown, true},
		{"qdisc ingress of others", ingressOfOthers, true},
		{"no place for programs at one pod", noPlaceAtOnePod, false},
	}
	if !k.Exclusive { // else the VPC drops them
		list = append(list, scenario{"spoofed sources are dropped and counted", spoofedSources, false})
	} else {
		list = append(list, scenario{"pods with shared ENIs beside", sharedBeside, true}, scenario{"a pod removes its programs", programsRemoved, true}, scenario{"a forged source opens nothing", forgedOpensNothing, true})
	}
	if k.ENIMbit > 0 {
		list = append(list, scenario{"packets have their pods' class", packetsHaveTheirClass, false})
	}
	for _, name := range only {
		if !slices.ContainsFunc(list, func(s scenario) bool { return s.name == name }) {
			all.Fatalf("no scenario is called %q", name)
		}
	}
	var shared *env
	for _, s := range list {
		if len(only) > 0 && !slices.Contains(only, s.name) {
			continue
		}
		all.Run(s.name, func(t *testing.T) {
			if s.alone {
				s.run(t, newEnv(t, k, make))
				return
			}
			if shared == nil {
				shared = newEnv(all, k, make)
			}
			t.Cleanup(func() { shared.clear(t) })
			s.run(t, shared)
		})
	}
}

// newEnv makes a world that lasts as long as the test. Its nodes answer on port 8080 and echo on port 7, and a host outside the VPC on port 80.
func newEnv(t *testing.T, k world.Kit, make Make) *env {
	c := New()
	kit := c.Kit(k, make)
	e := &env{Cluster: c, kit: kit, w: kit.NewWorld(t, 2, 1)}
	e.n0, e.n1 = e.w.Nodes[0], e.w.Nodes[1]
	for _, n := range e.w.Nodes {
		n.KubeProxy() // before the agent
		n.Sync()
		world.Serve(n.NS, world.At(n.V4, 8080))
		world.Serve(n.NS, world.At(n.V6, 8080))
		n.Echo(7)
	}
	world.Serve(e.w.Outside, world.At(netip.MustParseAddr(world.OutsideV4), 80))
	return e
}

// clear takes a scenario's pods, Services and policies away.
func (e *env) clear(t *testing.T) {
	for _, p := range e.added {
		p.Del()
	}
	e.added = nil
	e.n0.KubeProxy()
	e.n1.KubeProxy()
	e.mu.Lock()
	e.late = false
	e.mu.Unlock()
	e.forget(t, e.n0)
	e.forget(t, e.n1)
	e.apply(t)
}

// env is a world of two nodes that enforce policies.
type env struct {
	*Cluster
	kit    world.Kit
	w      *world.World
	n0, n1 *world.Node
	added  []*world.Pod
}

// pod adds a pod with a label app, which answers on port 80 and echoes on port 7.
func (e *env) pod(n *world.Node, app string) *world.Pod {
	return e.start(n.Describe(1, "4", "6"), app)
}

// forgetUDPAfter sets how long a node's connection tracking keeps a UDP connection without answer, until the test ends.
func forgetUDPAfter(t *testing.T, n *world.Node, seconds string) {
	const key = "netfilter/nf_conntrack_udp_timeout"
	was := strings.TrimSpace(n.ReadSysctl(key))
	n.Sysctl(key, seconds)
	t.Cleanup(func() { n.Sysctl(key, was) })
}

// off turns policies off on a node, until the test ends.
func (e *env) off(t *testing.T, n *world.Node) {
	t.Helper()
	node := n.DP.(*Node)
	if err := node.turnOff(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if node.writer != nil {
			return
		}
		if err := node.turnOnAgain(); err != nil {
			t.Fatal(err)
		}
	})
}

// start is pod for one that is described.
func (e *env) start(p *world.Pod, app string) *world.Pod {
	e.mu.Lock()
	e.labels[p.Spec.Name] = policy.Labels{"app": app}
	e.mu.Unlock()
	p.Add()
	e.added = append(e.added, p)
	world.Serve(p.NS, world.At(p.V4, 80))
	world.Serve(p.NS, world.At(p.V6, 80))
	p.Echo(7)
	return p
}

// apply must succeed.
func (e *env) apply(t *testing.T, policies ...policy.Policy) {
	t.Helper()
	if err := e.Apply(policies...); err != nil {
		t.Fatal(err)
	}
}

func app(name string) policy.AddrSet {
	return policy.AddrSet{Pods: &policy.PodSelector{Pods: selector.In("app", name)}}
}

func node(number int) policy.AddrSet {
	return policy.AddrSet{Nodes: selector.In("node", fmt.Sprint(number))}
}

func net(list ...string) (s policy.AddrSet) {
	for _, n := range list {
		s.Nets = append(s.Nets, netip.MustParsePrefix(n))
	}
	return s
}

// only allows a pod one direction with these peers, and nothing else in it.
func only(direction policy.Direction, of string, peers ...policy.AddrSet) policy.Policy {
	p := policy.Policy{
		Ref:     policy.Ref{Kind: "NetworkPolicy", Namespace: "default", Name: fmt.Sprint(of, "-", direction)},
		Subject: policy.PodSelector{Namespace: "default", Pods: selector.In("app", of)},
	}
	p.Directions[direction] = true
	if len(peers) == 0 {
		return p
	}
	rule := policy.Rule{Action: policy.Allow}
	for _, s := range peers {
		rule.Peers = append(rule.Peers, policy.Match{In: []policy.AddrSet{s}})
	}
	p.Rules[direction] = []policy.Rule{rule}
	return p
}

func into(of string, peers ...policy.AddrSet) policy.Policy {
	return only(policy.Ingress, of, peers...)
}

func outOf(of string, peers ...policy.AddrSet) policy.Policy {
	return only(policy.Egress, of, peers...)
}

// reaches asserts whether a server answers.
func reaches(t *testing.T, from *testutil.NS, to string, want bool) {
	t.Helper()
	if !want {
		world.MustNotReach(t, from, to)
		return
	}
	if _, err := world.Ask(from, to); err != nil {
		t.Errorf("%s → %s: %v", from.Name, to, err)
	}
}
