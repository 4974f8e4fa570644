package policed

import (
	"encoding/binary"
	"fmt"
	stdnet "net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/suite/world"
	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/selector"
	"terway.dev/terway/internal/testutil"
)

type scenario struct {
	name string
	run  func(*testing.T, *env)
	// alone: it changes more of its world than pods, Services and policies.
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
		{"a late answer opens nothing", lateAnswer, true},
		{"an answer of a Service after a silence opens nothing", lateAnswerOfService, true},
		{"an answer of the node for a Service opens nothing", nodeAnswersForService, true},
		{"an allowed connection survives changes", allowedConnectionSurvives, false},
		{"fragments", fragments, false},
		{"ICMP errors", icmpErrors, false},
		{"a pod sends no errors about connections of others", errorsOfOthers, false},
		{"a pod that nobody knows is closed", unknownPodIsClosed, false},
		{"replies are translated back", repliesAreTranslatedBack, false},
		{"a SYN in fragments is judged", synInFragmentsIsJudged, false},
		{"every address of the node is judged", everyAddressOfTheNode, true},
		{"what is forwarded is judged whatever it is", whateverIsForwarded, false},
		{"the server goes on when connections are forgotten", serverGoesOn, false},
		{"the node's connections go on when they are forgotten", nodeGoesOn, false},
		{"a pod's device is made anew", deviceMadeAnew, false},
		{"a silent connection is none", silentConnectionIsNone, true},
		{"verdicts are told and counted", verdictsAreTold, true},
		{"turned off", turnedOff, true},
		{"an agent that has not turned them on or off", notDecided, true},
		{"turned off while a call works on a pod", turnedOffBesideACall, true},
		{"turned on and off under traffic", turnedOnAndOff, true},
		{"teardown", tornDown, true},
		{"qdisc ingress of others", ingressOfOthers, true},
	}
	if k.Exclusive {
		list = append(list, scenario{"pods with shared ENIs beside", sharedBeside, true}, scenario{"a pod removes its programs", programsRemoved, true}, scenario{"a forged source opens nothing", forgedOpensNothing, true})
	}
	var shared *env
	for _, s := range list {
		all.Run(s.name, func(t *testing.T) {
			if s.alone {
				s.run(t, newEnv(t, k, make))
				return
			}
			if shared == nil {
				shared = newEnv(all, k, make)
			}
			defer shared.clear(t)
			s.run(t, shared)
		})
	}
}

// newEnv makes a world that lasts as long as the test. Its nodes answer on port 8080, and a host outside the VPC on port 80.
func newEnv(t *testing.T, k world.Kit, make Make) *env {
	c := New()
	kit := c.Kit(k, make)
	e := &env{Cluster: c, kit: kit, w: kit.NewWorld(t, 2, 1)}
	e.n0, e.n1 = e.w.Nodes[0], e.w.Nodes[1]
	for _, n := range e.w.Nodes {
		n.Sync()
		world.Serve(n.NS, world.At(n.V4, 8080))
		world.Serve(n.NS, world.At(n.V6, 8080))
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

// byNode returns what ingress policies of a pod must allow for what reaches it by its node, from clients that others see as s. A pod with
// an ENI of its own sees the node.
func (e *env) byNode(s policy.AddrSet) policy.AddrSet {
	if e.kit.Exclusive {
		return node(0)
	}
	return s
}

// path is one on which connections are opened.
type path struct {
	name string
	from *testutil.NS
	to   string
	// backend is what egress policies of pod "client" must allow; nil if no pod opens it.
	backend *policy.AddrSet
	// server and seen are the pod that answers, and what its ingress policies must allow; no pod if empty.
	server string
	seen   policy.AddrSet
}

// Each path is open without policies, closed by a policy that allows something else, and open by one that names the real other end.
func eachPathIsJudged(t *testing.T, e *env) {
	w, n0, n1 := e.w, e.n0, e.n1
	n0.Desired.MasqueradeOutside = true
	n0.Sync()
	client, near, far := e.pod(n0, "client"), e.pod(n0, "near"), e.pod(n1, "far")
	e.pod(n1, "other")
	outside := netip.MustParseAddr(world.OutsideV4)
	balancer := "100.64.0.7"
	w.Outside.IP("addr add " + balancer + "/32 dev eth0")
	w.Fabric.IP("route add " + balancer + "/32 dev outside")
	set := func(s policy.AddrSet) *policy.AddrSet { return &s }
	none := func() { n0.KubeProxy() }
	service := func(s world.Service) func() {
		s.ClusterIP = world.ClusterIP
		return func() { n0.KubeProxy(s) }
	}
	nodePort, cluster := world.At(n0.V4, 30080), world.At(world.ClusterIP, 80)
	hostPort := func() {
		n0.KubeProxy()
		n0.NFT(fmt.Sprintf(`table ip cni_hostport {
			chain prerouting { type nat hook prerouting priority dstnat; fib daddr type local tcp dport 8088 dnat to %s:80; }
		}`, near.V4))
	}
	for _, p := range []struct {
		path
		prepare func()
	}{
		{path{"pod of the node", client.NS, world.At(near.V4, 80), set(app("near")), "near", app("client")}, none},
		{path{"pod of the node, IPv6", client.NS, world.At(near.V6, 80), set(app("near")), "near", app("client")}, none},
		{path{"pod of another node", client.NS, world.At(far.V4, 80), set(app("far")), "far", app("client")}, none},
		{path{"pod of another node, IPv6", client.NS, world.At(far.V6, 80), set(app("far")), "far", app("client")}, none},
		{path{"Service, endpoint on the node", client.NS, cluster, set(app("near")), "near", e.byNode(app("client"))}, service(world.Service{Endpoint: near.V4})},
		{path{"Service, endpoint on another node", client.NS, cluster, set(app("far")), "far", e.byNode(app("client"))}, service(world.Service{Endpoint: far.V4})},
		{path{"Service, endpoint on the node, masqueraded", client.NS, cluster, set(app("near")), "near", node(0)}, service(world.Service{Endpoint: near.V4, MasqAll: true})},
		{path{"Service, endpoint on another node, masqueraded", client.NS, cluster, set(app("far")), "far", node(0)}, service(world.Service{Endpoint: far.V4, MasqAll: true})},
		{path{"NodePort from outside, endpoint on the node", w.Outside, nodePort, nil, "near", node(0)}, service(world.Service{NodePort: 30080, Endpoint: near.V4})},
		{path{"NodePort from outside, endpoint on another node", w.Outside, nodePort, nil, "far", node(0)}, service(world.Service{NodePort: 30080, Endpoint: far.V4})},
		{path{"NodePort from outside, externalTrafficPolicy Local", w.Outside, nodePort, nil, "near", e.byNode(net(world.OutsideV4 + "/32"))}, service(world.Service{NodePort: 30080, Local: true, Endpoint: near.V4})},
		{path{"NodePort from another node, externalTrafficPolicy Local", n1.NS, nodePort, nil, "near", e.byNode(node(1))}, service(world.Service{NodePort: 30080, Local: true, Endpoint: near.V4})},
		{path{"NodePort from a pod of another node, externalTrafficPolicy Local", far.NS, nodePort, nil, "near", e.byNode(app("far"))}, service(world.Service{NodePort: 30080, Local: true, Endpoint: near.V4})},
		{path{"NodePort from the node's own pod, endpoint on another node", client.NS, nodePort, set(app("far")), "far", node(0)}, service(world.Service{NodePort: 30080, Endpoint: far.V4})},
		{path{"own node", client.NS, world.At(n0.V4, 8080), set(node(0)), "", policy.AddrSet{}}, none},
		{path{"own node, IPv6", client.NS, world.At(n0.V6, 8080), set(node(0)), "", policy.AddrSet{}}, none},
		{path{"another node", client.NS, world.At(n1.V4, 8080), set(node(1)), "", policy.AddrSet{}}, none},
		{path{"from another node", n1.NS, world.At(near.V4, 80), nil, "near", node(1)}, none},
		{path{"outside, masqueraded", client.NS, world.At(outside, 80), set(net(world.OutsideV4 + "/32")), "", policy.AddrSet{}}, none},
		{path{"Service, endpoint outside", client.NS, cluster, set(net(world.OutsideV4 + "/32")), "", policy.AddrSet{}}, service(world.Service{Endpoint: outside})},
		{path{"from outside", w.Outside, world.At(near.V4, 80), nil, "near", net(world.OutsideV4 + "/32")}, none},
		{path{"hostPort from outside", w.Outside, world.At(n0.V4, 8088), nil, "near", e.byNode(net(world.OutsideV4 + "/32"))}, hostPort},
		{path{"hostPort from a pod of the node", client.NS, world.At(n0.V4, 8088), set(app("near")), "near", e.byNode(app("client"))}, func() {}},
	} {
		t.Run(p.name, func(t *testing.T) {
			p.prepare()
			e.apply(t)
			reaches(t, p.from, p.to, true)
			if p.backend != nil {
				e.apply(t, outOf("client", app("other")))
				reaches(t, p.from, p.to, false)
				e.apply(t, outOf("client", *p.backend))
				reaches(t, p.from, p.to, true)
			}
			if p.server != "" {
				e.apply(t, into(p.server, app("other")))
				reaches(t, p.from, p.to, false)
				e.apply(t, into(p.server, p.seen))
				reaches(t, p.from, p.to, true)
			}
			if p.backend != nil && p.server != "" {
				e.apply(t, outOf("client", *p.backend), into(p.server, p.seen))
				reaches(t, p.from, p.to, true)
			}
		})
	}
	t.Run("load balancer", func(t *testing.T) {
		n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, NodePort: 30080, Local: true, Endpoint: near.V4})
		for _, c := range []struct {
			peers policy.AddrSet
			want  bool
		}{{e.byNode(net("100.64.0.0/10")), true}, {net(world.OutsideV4 + "/32"), false}} {
			e.apply(t, into("near", c.peers))
			conn, err := w.Outside.Dial("tcp", balancer+":0", nodePort, 500*time.Millisecond)
			if err == nil {
				conn.Close()
			}
			if (err == nil) != c.want {
				t.Errorf("from %s with %v allowed: %v", balancer, c.peers.Nets, err)
			}
		}
	})
	if got := w.Strict(); got != 0 {
		t.Errorf("the VPC dropped %d packets with a source on the wrong ENI", got)
	}
}

// What a pod sends to itself is not judged.
func podReachesItself(t *testing.T, e *env) {
	p := e.pod(e.n0, "self")
	e.n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, Endpoint: p.V4})
	e.apply(t, into("self"), outOf("self"))
	for range 3 {
		world.MustReach(t, p.NS, world.At(world.ClusterIP, 80), p.NS, e.n0.V4)
	}
	reaches(t, p.NS, world.At(e.n1.V4, 8080), false)
}

// The node reaches its pods whatever policies say, TCP and UDP, and the pods' answers arrive.
func probesPass(t *testing.T, e *env) {
	p := e.pod(e.n0, "closed")
	e.apply(t, into("closed"), outOf("closed"))
	for _, a := range []netip.Addr{p.V4, p.V6} {
		reaches(t, e.n0.NS, world.At(a, 80), true)
		reaches(t, e.n1.NS, world.At(a, 80), false)
		conn, err := e.n0.Dial("udp", "", world.At(a, 7), world.Patience)
		if err != nil {
			t.Fatal(err)
		}
		world.ExchangeUDP(t, conn)
		world.Ping(t, e.n0.NS, a)
	}
	reaches(t, p.NS, world.At(e.n0.V4, 8080), false)
}

// kube-proxy gives clients of a NodePort the node's address; that makes them no probes.
func masqueradedClientIsNoProbe(t *testing.T, e *env) {
	p := e.pod(e.n0, "closed")
	e.n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, NodePort: 30080, Endpoint: p.V4})
	reaches(t, e.w.Outside, world.At(e.n0.V4, 30080), true)
	e.apply(t, into("closed"))
	reaches(t, e.w.Outside, world.At(e.n0.V4, 30080), false)
	reaches(t, e.n0.NS, world.At(e.n0.V4, 30080), true)
}

// A running connection ends with the rules that allowed it, whichever direction denies it, and goes on when they come back.
func runningConnectionIsCut(t *testing.T, e *env) {
	client, near, far := e.pod(e.n0, "client"), e.pod(e.n0, "near"), e.pod(e.n1, "far")
	e.n0.Echo(7)
	e.n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, Port: 7, Endpoint: near.V4})
	for _, c := range []struct {
		name, to string
		cut      policy.Policy
	}{
		{"pod of the node, egress", world.At(near.V4, 7), outOf("client")},
		{"pod of the node, ingress", world.At(near.V4, 7), into("near")},
		{"pod of the node, IPv6, egress", world.At(near.V6, 7), outOf("client")},
		{"pod of another node, egress", world.At(far.V4, 7), outOf("client")},
		{"pod of another node, ingress", world.At(far.V4, 7), into("far")},
		{"Service, egress", world.At(world.ClusterIP, 7), outOf("client")},
		{"Service, ingress", world.At(world.ClusterIP, 7), into("near")},
		{"own node, egress", world.At(e.n0.V4, 7), outOf("client")},
	} {
		for _, network := range []string{"tcp", "udp"} {
			t.Run(c.name+", "+network, func(t *testing.T) {
				e.apply(t)
				conn, err := client.Dial(network, "", c.to, world.Patience)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				for range 5 {
					world.Exchanged(t, conn, "allowed")
				}
				e.apply(t, c.cut)
				if err := conn.SetDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
					t.Fatal(err)
				}
				if _, err := conn.Write([]byte("ping")); err != nil {
					t.Fatal(err)
				}
				if n, err := conn.Read(make([]byte, 4)); err == nil {
					t.Errorf("denied: %d bytes came back", n)
				}
				e.apply(t)
				if network == "udp" {
					world.Answered(t, conn)
					return
				}
				// TCP sends again what was lost.
				if err := conn.SetDeadline(time.Now().Add(2 * world.Patience)); err != nil {
					t.Fatal(err)
				}
				if _, err := conn.Read(make([]byte, 4)); err != nil {
					t.Errorf("allowed again: %v", err)
				}
			})
		}
	}
}

// An answer on a connection that has been denied in the meantime does not make the one who answers its opener: with that the
// denied end's packets would be answers, and allowed. When both have been silent, either may open one that is allowed to it.
func lateAnswer(t *testing.T, e *env) {
	e.n0.Sysctl("netfilter/nf_conntrack_udp_timeout", "1")
	e.n1.Sysctl("netfilter/nf_conntrack_udp_timeout", "1")
	client, near, far := e.pod(e.n0, "client"), e.pod(e.n0, "near"), e.pod(e.n1, "far")
	e.n0.Sync(client, near)
	e.n1.Sync(far)
	for _, c := range []struct {
		name   string
		server *world.Pod
	}{{"near", near}, {"far", far}} {
		t.Run(c.name, func(t *testing.T) {
			e.apply(t)
			ours, theirs := client.ListenPacket("udp", world.At(client.V4, 9)), c.server.ListenPacket("udp", world.At(c.server.V4, 9))
			defer ours.Close()
			world.Send(t, ours, theirs, "question")
			world.Received(t, theirs, "question")
			world.Send(t, theirs, ours, "answer")
			world.Received(t, ours, "answer")
			e.apply(t, into(c.name))
			world.Send(t, ours, theirs, "denied")
			world.Send(t, theirs, ours, "late")
			world.Send(t, ours, theirs, "denied again")
			time.Sleep(1500 * time.Millisecond)
			world.Send(t, theirs, ours, "question of the server")
			if got := world.Received(t, ours, "question of the server"); got != "question of the server" {
				t.Errorf("the client got %q", got)
			}
			world.Send(t, ours, theirs, "answer of the client")
			if got := world.Received(t, theirs, "answer of the client"); got != "answer of the client" {
				t.Errorf("the server got %q", got)
			}
		})
	}
}

// A server answers after a silence, which conntrack has outlived: the answer has the Service's address. The client's packets to the Service
// are no answers of it then, by which they would be translated to any backend without being judged.
func lateAnswerOfService(t *testing.T, e *env) {
	e.n0.Sysctl("netfilter/nf_conntrack_udp_timeout", "3")
	client, near := e.pod(e.n0, "client"), e.pod(e.n0, "near")
	e.n0.Sync(client, near)
	e.n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, Port: 9, Endpoint: near.V4})
	e.apply(t)
	ours, theirs := client.ListenPacket("udp", world.At(client.V4, 9)), near.ListenPacket("udp", world.At(near.V4, 9))
	service := stdnet.UDPAddrFromAddrPort(netip.AddrPortFrom(world.ClusterIP, 9))
	ask := func(text string) {
		t.Helper()
		if _, err := ours.WriteTo([]byte(text), service); err != nil {
			t.Fatal(err)
		}
	}
	ask("question")
	world.Received(t, theirs, "question")
	world.Send(t, theirs, ours, "answer")
	world.Received(t, ours, "answer")
	time.Sleep(2400 * time.Millisecond)
	world.Send(t, theirs, ours, "late answer")
	world.Received(t, ours, "late answer")
	e.apply(t, outOf("client"))
	ask("denied")
	e.apply(t, outOf("client", app("near")))
	ask("allowed")
	if strings.Contains(world.Received(t, theirs, "allowed"), "denied") {
		t.Error("what the client may not send arrived, as an answer to the late one")
	}
}

// The node answers for a Service, with the Service's address. When the Service gets another endpoint, what the client sends to it is judged
// by that one, and is no answer to the node.
func nodeAnswersForService(t *testing.T, e *env) {
	client, near := e.pod(e.n0, "client"), e.pod(e.n0, "near")
	service := world.Service{ClusterIP: world.ClusterIP, Port: 9, Endpoint: e.n0.V4}
	e.n0.KubeProxy(service)
	e.apply(t)
	ours, theirs := client.ListenPacket("udp", world.At(client.V4, 9)), near.ListenPacket("udp", world.At(near.V4, 9))
	node0 := e.n0.ListenPacket("udp", world.At(e.n0.V4, 9))
	ask := func(text string) {
		t.Helper()
		if _, err := ours.WriteTo([]byte(text), stdnet.UDPAddrFromAddrPort(netip.AddrPortFrom(world.ClusterIP, 9))); err != nil {
			t.Fatal(err)
		}
	}
	ask("question")
	world.Received(t, node0, "question")
	world.Send(t, node0, ours, "answer")
	world.Received(t, ours, "answer")
	service.Endpoint = near.V4
	e.n0.KubeProxy(service)
	// As kube-proxy does when an endpoint for UDP is gone.
	if err := e.n0.Do(func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) }); err != nil {
		t.Fatal(err)
	}
	e.apply(t, outOf("client", node(0)))
	ask("denied")
	e.apply(t, outOf("client", node(0), app("near")))
	ask("allowed")
	if strings.Contains(world.Received(t, theirs, "allowed"), "denied") {
		t.Error("what the client may not send arrived, as an answer to the node")
	}
}

// No packet of an allowed connection is lost while rules change 200 times.
func allowedConnectionSurvives(t *testing.T, e *env) {
	client, near, far := e.pod(e.n0, "client"), e.pod(e.n0, "near"), e.pod(e.n1, "far")
	e.n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, Port: 7, Endpoint: far.V4})
	allow := []policy.Policy{outOf("client", app("near"), app("far")), into("near", app("client")), into("far", app("client"), e.byNode(app("client")))}
	e.apply(t, allow...)
	var talks []*world.Talking
	for _, network := range []string{"tcp", "udp"} {
		for _, to := range []string{world.At(near.V4, 7), world.At(near.V6, 7), world.At(far.V4, 7), world.At(world.ClusterIP, 7)} {
			talks = append(talks, world.StartTalk(t, client.NS, network, to))
		}
	}
	for _, k := range talks {
		k.More(20)
	}
	for i := range 200 {
		e.apply(t, append([]policy.Policy{outOf(fmt.Sprint("nobody", i)), into("near", app("client"), app(fmt.Sprint("other", i)))}, allow[0], allow[2])...)
	}
	for _, k := range talks {
		k.End(t)
	}
}

// Datagrams in fragments arrive if they are allowed, and not if they are not.
func fragments(t *testing.T, e *env) {
	client, near, far := e.pod(e.n0, "client"), e.pod(e.n0, "near"), e.pod(e.n1, "far")
	for _, to := range []netip.Addr{near.V4, near.V6, far.V4, far.V6} {
		e.apply(t, outOf("client", app("near"), app("far")), into("near", app("client")), into("far", app("client")))
		conn, err := client.Dial("udp", "", world.At(to, 7), world.Patience)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		exchange := func(patience time.Duration) (int, error) {
			if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Write(make([]byte, 4000)); err != nil {
				t.Fatal(err)
			}
			return conn.Read(make([]byte, 8000))
		}
		for range 3 {
			if n, err := exchange(world.Patience); err != nil || n != 4000 {
				t.Errorf("%s: %d of 4000 bytes came back: %v", to, n, err)
			}
		}
		e.apply(t, outOf("client"))
		if n, err := exchange(200 * time.Millisecond); err == nil {
			t.Errorf("%s: denied, and %d bytes came back", to, n)
		}
	}
}

// An error about an allowed connection reaches the pod whose rules allow no ICMP.
func icmpErrors(t *testing.T, e *env) {
	client, near, far := e.pod(e.n0, "client"), e.pod(e.n0, "near"), e.pod(e.n1, "far")
	udp := []policy.Traffic{{Protocols: &[256]bool{17: true}}}
	out, in := outOf("client", app("near"), app("far")), into("client")
	out.Rules[policy.Egress][0].Traffic = udp
	e.apply(t, out, in)
	e.n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, Port: 9, Endpoint: far.V4})
	for _, to := range []netip.Addr{near.V4, near.V6, far.V4, far.V6, world.ClusterIP} {
		conn, err := client.Dial("udp", "", world.At(to, 9), world.Patience)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		world.Fails(t, conn, 10, unix.ECONNREFUSED)
	}
}

// A pod has no new connections before its node knows its rules; then it has those that are allowed.
func unknownPodIsClosed(t *testing.T, e *env) {
	known := e.pod(e.n0, "known")
	e.mu.Lock()
	e.late = true
	e.mu.Unlock()
	p := e.pod(e.n0, "late")
	reaches(t, p.NS, world.At(known.V4, 80), false)
	reaches(t, known.NS, world.At(p.V4, 80), false)
	reaches(t, known.NS, world.At(p.V6, 80), false)
	reaches(t, e.n1.NS, world.At(p.V4, 80), false)
	reaches(t, e.n0.NS, world.At(p.V4, 80), true)
	e.apply(t)
	reaches(t, p.NS, world.At(known.V4, 80), true)
	reaches(t, known.NS, world.At(p.V6, 80), true)
	ingress, egress, err := e.n0.DP.(*Node).Denied()
	if err != nil || ingress == 0 || egress == 0 {
		t.Errorf("%d packets were denied by ingress, %d by egress (error %v): want some each", ingress, egress, err)
	}
}

// A pod is no router: an error that it sends about a connection of another pod is a packet like any other.
func errorsOfOthers(t *testing.T, e *env) {
	client, other, far := e.pod(e.n0, "client"), e.pod(e.n0, "other"), e.pod(e.n1, "far")
	udp := outOf("client", app("far"))
	udp.Rules[policy.Egress][0].Traffic = []policy.Traffic{{Protocols: &[256]bool{17: true}}}
	e.apply(t, udp, outOf("other"))
	conn, err := client.Dial("udp", "", world.At(far.V4, 7), world.Patience)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	world.ExchangeUDP(t, conn)
	at := conn.LocalAddr().(*stdnet.UDPAddr).AddrPort()
	send := func(from *world.Pod, text string) {
		_, quoted := world.Datagram(netip.AddrPortFrom(far.V4, 7), netip.AddrPortFrom(client.V4, at.Port()), []byte(text))
		etherType, packet := world.Packet(from.V4, far.V4, unix.IPPROTO_ICMP, append([]byte{3, 3, 0, 0, 0, 0, 0, 0}, quoted...))
		from.SendOut(etherType, packet)
	}
	watch := world.NewWatch(t, far.NS)
	send(other, "of the other pod")
	send(client, "of the client")
	if !watch.Await("of the client") {
		t.Error("an error about the client's own connection did not arrive")
	}
	if watch.Has("of the other pod") {
		t.Error("an error about the client's connection arrived from another pod, which may send nothing")
	}
}

// Replies arrive where nothing may be opened, whatever was translated on the way.
func repliesAreTranslatedBack(t *testing.T, e *env) {
	e.n0.Desired.MasqueradeOutside = true
	e.n0.Sync()
	client, near, far := e.pod(e.n0, "client"), e.pod(e.n0, "near"), e.pod(e.n1, "far")
	outside := netip.MustParseAddr(world.OutsideV4)
	e.apply(t, outOf("client", app("near"), app("far"), net(world.OutsideV4+"/32")), into("client"))
	for _, s := range []world.Service{{Endpoint: near.V4}, {Endpoint: far.V4}, {Endpoint: near.V4, MasqAll: true}, {Endpoint: far.V4, MasqAll: true}, {Endpoint: outside}} {
		s.ClusterIP = world.ClusterIP
		e.n0.KubeProxy(s)
		reaches(t, client.NS, world.At(world.ClusterIP, 80), true)
	}
	reaches(t, client.NS, world.At(outside, 80), true)
	reaches(t, far.NS, world.At(client.V4, 80), false)
}

// The first fragment of a SYN has no flags of TCP; what the frame has in their place does not count.
func synInFragmentsIsJudged(t *testing.T, e *env) {
	client, near := e.pod(e.n0, "client"), e.pod(e.n0, "near")
	e.n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, Endpoint: near.V4})
	watch := world.NewWatch(t, near.NS)
	send := func(port uint16, text string) {
		etherType, parts := world.SYNFragments(netip.AddrPortFrom(client.V4, port), netip.AddrPortFrom(world.ClusterIP, 80), port, fmt.Appendf(nil, "%-40s", text))
		behind := make([]byte, 12)
		behind[13-8] = 0x10 // ACK
		client.SendFrame(client.Wiring.HostMAC, etherType, append(parts[0], behind...))
		client.SendFrame(client.Wiring.HostMAC, etherType, parts[1])
	}
	e.apply(t, outOf("client"))
	send(5001, "a denied SYN")
	e.apply(t, outOf("client", app("near")))
	send(5002, "an allowed SYN")
	if !watch.Await("an allowed SYN") {
		t.Error("an allowed SYN in fragments did not arrive")
	}
	if watch.Has("a denied SYN") {
		t.Error("a denied SYN in fragments arrived")
	}
}

// A pod reaches its node by no address that its policies do not allow, also by those that no device has, and by nothing that cannot be read.
func everyAddressOfTheNode(t *testing.T, e *env) {
	client := e.pod(e.n0, "client")
	e.n0.IPs("link add more type veth peer name end", "addr add 192.0.2.1/24 brd 192.0.2.255 dev more", "link set more up", "link set end up",
		"route add local 198.51.100.0/24 dev lo")
	deny, allow := outOf("client"), outOf("client", net("0.0.0.0/0"))
	send := func(etherType uint16, packet []byte) { client.SendFrame(client.Wiring.HostMAC, etherType, packet) }
	from := netip.AddrPortFrom(client.V4, 5000)
	datagrams := e.n0.ListenPacket("ip4:udp", "0.0.0.0")
	for _, to := range []string{"192.0.2.1", "192.0.2.255", "198.51.100.7"} {
		at := netip.AddrPortFrom(netip.MustParseAddr(to), 5000)
		e.apply(t, deny)
		send(world.Datagram(from, at, []byte("denied")))
		e.apply(t, allow)
		send(world.Datagram(from, at, []byte("allowed")))
		if strings.Contains(world.Received(t, datagrams, "allowed"), "denied") {
			t.Errorf("a denied datagram arrived at %s", to)
		}
	}
	segments := e.n0.ListenPacket("ip4:tcp", "0.0.0.0")
	at := netip.AddrPortFrom(e.n0.V4, 5000)
	e.apply(t, deny)
	etherType, parts := world.SYNFragments(from, at, 1, []byte("denied"))
	send(etherType, parts[0])
	send(etherType, parts[1])
	e.apply(t, allow)
	send(world.SYN(from, at, []byte("allowed")))
	if strings.Contains(world.Received(t, segments, "allowed"), "denied") {
		t.Error("a denied SYN in fragments arrived")
	}
}

// Neighbour discovery and DHCPv6 are of a link: what is forwarded is neither. What has too many headers to be read goes nowhere.
func whateverIsForwarded(t *testing.T, e *env) {
	client, far := e.pod(e.n0, "client"), e.pod(e.n1, "far")
	watch := world.NewWatch(t, far.NS)
	noUDP := outOf("client", app("far"))
	noUDP.Rules[policy.Egress] = append([]policy.Rule{{Action: policy.Deny, Traffic: []policy.Traffic{{Protocols: &[256]bool{17: true}}}}}, noUDP.Rules[policy.Egress]...)
	datagram := func(from, to uint16, text string) []byte {
		_, packet := world.Datagram(netip.AddrPortFrom(client.V6, from), netip.AddrPortFrom(far.V6, to), []byte(text))
		return packet
	}
	for _, c := range []struct {
		name string
		deny policy.Policy
		send func(text string) []byte
	}{
		{"an answer of DHCPv6", outOf("client"), func(text string) []byte { return datagram(547, 546, text) }},
		{"a neighbour solicitation", outOf("client"), func(text string) []byte {
			_, packet := world.Packet(client.V6, far.V6, unix.IPPROTO_ICMPV6, append([]byte{135, 0, 0, 0}, text...))
			return packet
		}},
		{"a datagram behind two headers", noUDP, func(text string) []byte { return extended(datagram(5000, 5000, text), 2) }},
		{"a datagram behind nine headers", noUDP, func(text string) []byte {
			if strings.HasPrefix(text, "allowed") {
				return datagram(5000, 5000, text)
			}
			return extended(datagram(5000, 5000, text), 9)
		}},
	} {
		e.apply(t, c.deny)
		client.SendOut(unix.ETH_P_IPV6, c.send("denied: "+c.name))
		e.apply(t, outOf("client", app("far")))
		client.SendOut(unix.ETH_P_IPV6, c.send("allowed: "+c.name))
		if !watch.Await("allowed: " + c.name) {
			t.Errorf("%s did not arrive", c.name)
		}
		if watch.Has("denied: " + c.name) {
			t.Errorf("%s arrived, and was denied", c.name)
		}
	}
}

// extended puts options for the destination, without any, behind the header of an IPv6 packet.
func extended(packet []byte, headers int) []byte {
	ip, payload := slices.Clone(packet[:40]), packet[40:]
	binary.BigEndian.PutUint16(ip[4:], uint16(8*headers+len(payload)))
	last := ip[6]
	ip[6] = unix.IPPROTO_DSTOPTS
	for i := range headers {
		next := byte(unix.IPPROTO_DSTOPTS)
		if i == headers-1 {
			next = last
		}
		ip = append(ip, next, 0, 1, 4, 0, 0, 0, 0)
	}
	return append(ip, payload...)
}

// forget empties a node's tables of connections.
func (e *env) forget(t *testing.T, n *world.Node) {
	t.Helper()
	if err := n.DP.(*Node).evict(); err != nil {
		t.Fatal(err)
	}
}

// Whoever sends first after a connection was forgotten is not taken for its opener.
func serverGoesOn(t *testing.T, e *env) {
	client := e.pod(e.n0, "client")
	for _, c := range []struct {
		name   string
		server *world.Pod
	}{{"near", e.pod(e.n0, "near")}, {"far", e.pod(e.n1, "far")}} {
		for _, a := range []netip.Addr{c.server.V4, c.server.V6} {
			e.apply(t, outOf("client", app(c.name)), into("client"))
			l := c.server.Listen("tcp", world.At(a, 9))
			ours, err := client.Dial("tcp", "", world.At(a, 9), world.Patience)
			if err != nil {
				t.Fatal(err)
			}
			defer ours.Close()
			theirs, err := world.Accept(l)
			if err != nil {
				t.Fatal(err)
			}
			defer theirs.Close()
			for range 3 {
				world.Exchange(t, ours, theirs)
				e.forget(t, e.n0)
				for range 3 {
					world.Exchange(t, theirs, ours)
				}
			}
		}
	}
}

// A pod that may open nothing answers the node, and is the first to send after a connection was forgotten.
func nodeGoesOn(t *testing.T, e *env) {
	p := e.pod(e.n0, "closed")
	e.apply(t, into("closed"), outOf("closed"))
	for _, a := range []netip.Addr{p.V4, p.V6} {
		l := p.Listen("tcp", world.At(a, 9))
		ours, err := e.n0.Dial("tcp", "", world.At(a, 9), world.Patience)
		if err != nil {
			t.Fatal(err)
		}
		defer ours.Close()
		theirs, err := world.Accept(l)
		if err != nil {
			t.Fatal(err)
		}
		defer theirs.Close()
		world.Exchange(t, ours, theirs)
		e.forget(t, e.n0)
		world.Exchange(t, theirs, ours)
	}
}

// A pod whose device was made anew goes on with its sockets.
func deviceMadeAnew(t *testing.T, e *env) {
	client, far := e.pod(e.n0, "client"), e.pod(e.n1, "far")
	e.apply(t, outOf("client", app("far")), into("client"))
	conn := world.Established(t, client, far.V4)
	client.Del()
	e.n0.Settle()
	client.Add()
	e.apply(t, outOf("client", app("far")), into("client"), into("other"))
	world.Answered(t, conn)
}

// After a silence the other end of a connection without a handshake may not send first.
func silentConnectionIsNone(t *testing.T, e *env) {
	e.n0.Sysctl("netfilter/nf_conntrack_udp_timeout", "1")
	client, far := e.pod(e.n0, "client"), e.pod(e.n1, "far")
	e.n0.Sync(client)
	e.apply(t, outOf("client", app("far")), into("client"))
	ours, theirs := client.ListenPacket("udp", world.At(client.V4, 9)), far.ListenPacket("udp", world.At(far.V4, 9))
	exchange := func(question, answer string) string {
		world.Send(t, ours, theirs, question)
		world.Received(t, theirs, question)
		world.Send(t, theirs, ours, answer)
		return world.Received(t, ours, answer)
	}
	exchange("question", "answer")
	time.Sleep(1500 * time.Millisecond)
	world.Send(t, theirs, ours, "unasked")
	time.Sleep(100 * time.Millisecond) // it is not to meet the next question
	if strings.Contains(exchange("question again", "answer again"), "unasked") {
		t.Error("what nobody had asked for arrived")
	}
}

// When policies are turned off nothing is judged, and nothing of them is left on the node.
func turnedOff(t *testing.T, e *env) {
	near, far := e.pod(e.n0, "near"), e.pod(e.n1, "far")
	e.apply(t, into("near"), outOf("near"))
	reaches(t, far.NS, world.At(near.V4, 80), false)
	dp := e.n0.DP.(*Node)
	if err := dp.turnOff(); err != nil {
		t.Fatal(err)
	}
	e.n0.Sync(near)
	// What runs now is no reason to turn policies on: this process has turned them off.
	if _, err := dp.Prepare(); err != nil {
		t.Fatal(err)
	}
	e.n0.Sync(near)
	reaches(t, far.NS, world.At(near.V4, 80), true)
	reaches(t, near.NS, world.At(far.V4, 80), true)
	reaches(t, near.NS, world.At(far.V6, 80), true)
	if repairs := e.n0.Sync(near); len(repairs) != 0 {
		t.Errorf("another Sync repairs %q", repairs)
	}
	if tables := e.n0.Run("nft", "list", "tables"); strings.Contains(tables, "policy") {
		t.Errorf("tables that are left:\n%s", tables)
	}
	list := []*testutil.NS{e.n0.NS}
	if e.kit.Exclusive {
		list = append(list, near.NS)
	}
	for _, ns := range list {
		for _, direction := range []string{"ingress", "egress"} {
			if filters := ns.Run("tc", "filter", "show", "dev", "eth0", direction); strings.Contains(filters, "tw_") {
				t.Errorf("programs that are left on eth0 of %s, %s:\n%s", ns.Name, direction, filters)
			}
		}
	}
}

// What an earlier agent enforces stays until the next one turns it off: it may have failed to load programs.
func notDecided(t *testing.T, e *env) {
	near, far := e.pod(e.n0, "near"), e.pod(e.n1, "far")
	e.apply(t, into("near"))
	if err := e.n0.DP.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	e.mu.Lock()
	e.silent = true
	e.mu.Unlock()
	e.n0.DP = e.n0.NewDatapath()
	for range 2 {
		e.n0.Sync(near)
		reaches(t, far.NS, world.At(near.V4, 80), false)
		reaches(t, near.NS, world.At(far.V4, 80), true)
	}
	if err := e.n0.DP.(*Node).Off(); err != nil {
		t.Fatal(err)
	}
	e.n0.Sync(near)
	reaches(t, far.NS, world.At(near.V4, 80), true)
}

// A pod that Sync could not come to when policies were turned off is not judged for ever.
func turnedOffBesideACall(t *testing.T, e *env) {
	near, far := e.pod(e.n0, "near"), e.pod(e.n1, "far")
	e.apply(t, into("near"))
	if err := e.n0.DP.(*Node).turnOff(); err != nil {
		t.Fatal(err)
	}
	near.Spec.State = datapath.Unwired
	for range 3 {
		e.n0.Sync(near)
	}
	near.Spec.State = datapath.Wired
	e.n0.Sync(near)
	reaches(t, far.NS, world.At(near.V4, 80), true)
	if repairs := e.n0.Sync(near); len(repairs) != 0 {
		t.Errorf("another Sync repairs %q", repairs)
	}
}

// Turning policies on and off cuts no connection that is allowed, and leaves nothing. A packet may be lost.
func turnedOnAndOff(t *testing.T, e *env) {
	dp := e.n0.DP.(*Node)
	client, near, far := e.pod(e.n0, "client"), e.pod(e.n0, "near"), e.pod(e.n1, "far")
	e.n0.Echo(7)
	e.n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, Port: 7, NodePort: 30007, Endpoint: far.V4})
	e.apply(t, outOf("client", app("near"), app("far"), node(0)), into("near", app("client")))
	var talks []*world.Talking
	talk := func(from *testutil.NS, to string, networks ...string) {
		for _, network := range networks {
			talks = append(talks, world.StartRepeatingTalk(t, from, network, to))
		}
	}
	for _, to := range []string{world.At(near.V4, 7), world.At(near.V6, 7), world.At(far.V4, 7), world.At(world.ClusterIP, 7), world.At(e.n0.V4, 7)} {
		talk(client.NS, to, "tcp", "udp")
	}
	talk(e.n0.NS, world.At(near.V4, 7), "tcp")
	talk(e.w.Outside, world.At(e.n0.V4, 30007), "tcp")
	more := func() {
		for _, k := range talks {
			k.More(20)
		}
	}
	qdiscs := func() string { return e.n0.Run("tc", "qdisc", "show") }
	more()
	was := qdiscs()
	for range 3 {
		if err := dp.turnOff(); err != nil {
			t.Fatal(err)
		}
		e.n0.Sync(client, near)
		more()
		reaches(t, e.n1.NS, world.At(near.V4, 80), true)
		if is := qdiscs(); is != was {
			t.Errorf("the qdiscs are\n%s\nwant those that were there before policies were turned off:\n%s", is, was)
		}
		if err := dp.turnOnAgain(); err != nil {
			t.Fatal(err)
		}
		e.n0.Sync(client, near)
		more()
		reaches(t, e.n1.NS, world.At(near.V4, 80), false)
		if repairs := e.n0.Sync(client, near); len(repairs) != 0 {
			t.Errorf("Sync of a sound node repairs %q", repairs)
		}
	}
	for _, k := range talks {
		k.End(t)
	}
}

// After Teardown policies are off. They can be turned on again.
func tornDown(t *testing.T, e *env) {
	dp, far := e.n0.DP.(*Node), e.pod(e.n1, "far")
	e.pod(e.n0, "near").Del()
	if err := dp.Teardown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if ingress, egress, err := dp.Denied(); ingress != 0 || egress != 0 || err != nil {
		t.Errorf("%d packets were denied by ingress, %d by egress (error %v): want none", ingress, egress, err)
	}
	if err := dp.turnOff(); err != nil {
		t.Fatal(err)
	}
	if err := dp.turnOnAgain(); err != nil {
		t.Fatal(err)
	}
	e.n0.Sync()
	near := e.pod(e.n0, "near")
	reaches(t, far.NS, world.At(near.V4, 80), true)
	e.apply(t, into("near"))
	reaches(t, far.NS, world.At(near.V4, 80), false)
}

// Where another program's qdisc leaves no place for ours, this is said, and nothing is attached where it does harm.
func ingressOfOthers(t *testing.T, e *env) {
	dp := e.n0.DP.(*Node)
	if err := dp.turnOff(); err != nil {
		t.Fatal(err)
	}
	e.n0.Sync()
	e.n0.Run("tc", "qdisc", "del", "dev", "eth0", "clsact")
	e.n0.Run("tc", "qdisc", "add", "dev", "eth0", "ingress")
	if err := dp.turnOnAgain(); err != nil {
		t.Fatal(err)
	}
	_, err := e.n0.TrySync()
	_, obstacles, rest := datapath.Sort(err)
	if len(obstacles) != 1 || !strings.Contains(obstacles[0], "eth0") || rest != nil {
		t.Errorf("Sync says %v, want an obstacle about eth0", err)
	}
	if filters := e.n0.Run("tc", "filter", "show", "dev", "eth0", "ingress"); strings.Contains(filters, "tw_") {
		t.Errorf("programs on eth0:\n%s", filters)
	}
	e.n0.Run("tc", "qdisc", "del", "dev", "eth0", "ingress")
	e.n0.Sync()
	if filters := e.n0.Run("tc", "filter", "show", "dev", "eth0", "egress"); !strings.Contains(filters, "tw_to_other") {
		t.Errorf("programs on eth0 when the qdisc is gone:\n%s", filters)
	}
}
