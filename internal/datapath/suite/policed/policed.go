package policed

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath/suite/world"
	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/selector"
	"terway.dev/terway/internal/testutil"
)

// Run runs all scenarios as subtests.
func Run(t *testing.T, k world.Kit, make Make) {
	for _, s := range []struct {
		name string
		run  func(*testing.T, *env)
	}{
		{"each path is judged", eachPathIsJudged},
		{"a pod reaches itself by its Service", podReachesItself},
		{"the node's probes pass", probesPass},
		{"what a masqueraded client opens is no probe", masqueradedClientIsNoProbe},
		{"a running connection is cut", runningConnectionIsCut},
		{"an allowed connection survives changes", allowedConnectionSurvives},
		{"fragments", fragments},
		{"ICMP errors", icmpErrors},
		{"a pod that nobody knows is closed", unknownPodIsClosed},
		{"turned off", turnedOff},
	} {
		t.Run(s.name, func(t *testing.T) {
			c := New()
			kit := c.Kit(k, make)
			e := &env{Cluster: c, w: kit.NewWorld(t, 2, 1)}
			e.n0, e.n1 = e.w.Nodes[0], e.w.Nodes[1]
			e.n0.Sync()
			e.n1.Sync()
			s.run(t, e)
		})
	}
}

// env is a world of two nodes that enforce policies.
type env struct {
	*Cluster
	w      *world.World
	n0, n1 *world.Node
}

// pod adds a pod with a label app, which answers on port 80 and echoes on port 7.
func (e *env) pod(n *world.Node, app string) *world.Pod {
	p := n.Describe(1, "4", "6")
	e.mu.Lock()
	e.labels[p.Spec.Name] = policy.Labels{"app": app}
	e.mu.Unlock()
	p.Add()
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
	for _, n := range e.w.Nodes {
		world.Serve(n.NS, world.At(n.V4, 8080))
		world.Serve(n.NS, world.At(n.V6, 8080))
	}
	outside := netip.MustParseAddr(world.OutsideV4)
	world.Serve(w.Outside, world.At(outside, 80))
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
		{path{"Service, endpoint on the node", client.NS, cluster, set(app("near")), "near", app("client")}, service(world.Service{Endpoint: near.V4})},
		{path{"Service, endpoint on another node", client.NS, cluster, set(app("far")), "far", app("client")}, service(world.Service{Endpoint: far.V4})},
		{path{"Service, endpoint on the node, masqueraded", client.NS, cluster, set(app("near")), "near", node(0)}, service(world.Service{Endpoint: near.V4, MasqAll: true})},
		{path{"Service, endpoint on another node, masqueraded", client.NS, cluster, set(app("far")), "far", node(0)}, service(world.Service{Endpoint: far.V4, MasqAll: true})},
		{path{"NodePort from outside, endpoint on the node", w.Outside, nodePort, nil, "near", node(0)}, service(world.Service{NodePort: 30080, Endpoint: near.V4})},
		{path{"NodePort from outside, endpoint on another node", w.Outside, nodePort, nil, "far", node(0)}, service(world.Service{NodePort: 30080, Endpoint: far.V4})},
		{path{"NodePort from outside, externalTrafficPolicy Local", w.Outside, nodePort, nil, "near", net(world.OutsideV4 + "/32")}, service(world.Service{NodePort: 30080, Local: true, Endpoint: near.V4})},
		{path{"NodePort from another node, externalTrafficPolicy Local", n1.NS, nodePort, nil, "near", node(1)}, service(world.Service{NodePort: 30080, Local: true, Endpoint: near.V4})},
		{path{"NodePort from a pod of another node, externalTrafficPolicy Local", far.NS, nodePort, nil, "near", app("far")}, service(world.Service{NodePort: 30080, Local: true, Endpoint: near.V4})},
		{path{"NodePort from the node's own pod, endpoint on another node", client.NS, nodePort, set(app("far")), "far", node(0)}, service(world.Service{NodePort: 30080, Endpoint: far.V4})},
		{path{"own node", client.NS, world.At(n0.V4, 8080), set(node(0)), "", policy.AddrSet{}}, none},
		{path{"own node, IPv6", client.NS, world.At(n0.V6, 8080), set(node(0)), "", policy.AddrSet{}}, none},
		{path{"another node", client.NS, world.At(n1.V4, 8080), set(node(1)), "", policy.AddrSet{}}, none},
		{path{"from another node", n1.NS, world.At(near.V4, 80), nil, "near", node(1)}, none},
		{path{"outside, masqueraded", client.NS, world.At(outside, 80), set(net(world.OutsideV4 + "/32")), "", policy.AddrSet{}}, none},
		{path{"Service, endpoint outside", client.NS, cluster, set(net(world.OutsideV4 + "/32")), "", policy.AddrSet{}}, service(world.Service{Endpoint: outside})},
		{path{"from outside", w.Outside, world.At(near.V4, 80), nil, "near", net(world.OutsideV4 + "/32")}, none},
		{path{"hostPort from outside", w.Outside, world.At(n0.V4, 8088), nil, "near", net(world.OutsideV4 + "/32")}, hostPort},
		{path{"hostPort from a pod of the node", client.NS, world.At(n0.V4, 8088), set(app("near")), "near", app("client")}, func() {}},
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
		}{{net("100.64.0.0/10"), true}, {net(world.OutsideV4 + "/32"), false}} {
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
	world.Serve(e.n1.NS, world.At(e.n1.V4, 8080))
	e.apply(t, into("self"), outOf("self"))
	for range 3 {
		world.MustReach(t, p.NS, world.At(world.ClusterIP, 80), p.NS, e.n0.V4)
	}
	reaches(t, p.NS, world.At(e.n1.V4, 8080), false)
}

// The node reaches its pods whatever policies say, TCP and UDP, and the pods' answers arrive.
func probesPass(t *testing.T, e *env) {
	p := e.pod(e.n0, "closed")
	world.Serve(e.n0.NS, world.At(e.n0.V4, 8080))
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

// No packet of an allowed connection is lost while rules change 200 times.
func allowedConnectionSurvives(t *testing.T, e *env) {
	client, near, far := e.pod(e.n0, "client"), e.pod(e.n0, "near"), e.pod(e.n1, "far")
	e.n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, Port: 7, Endpoint: far.V4})
	allow := []policy.Policy{outOf("client", app("near"), app("far")), into("near", app("client")), into("far", app("client"))}
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

// When policies are turned off nothing is judged, and nothing of them is left on the node.
func turnedOff(t *testing.T, e *env) {
	near, far := e.pod(e.n0, "near"), e.pod(e.n1, "far")
	e.apply(t, into("near"), outOf("near"))
	reaches(t, far.NS, world.At(near.V4, 80), false)
	if err := e.n0.DP.(*Node).turnOff(); err != nil {
		t.Fatal(err)
	}
	e.n0.Sync(near)
	reaches(t, far.NS, world.At(near.V4, 80), true)
	reaches(t, near.NS, world.At(far.V4, 80), true)
	reaches(t, near.NS, world.At(far.V6, 80), true)
	if repairs := e.n0.Sync(near); len(repairs) != 0 {
		t.Errorf("a second Sync repairs %q", repairs)
	}
	if tables := e.n0.Run("nft", "list", "tables"); strings.Contains(tables, "policy") {
		t.Errorf("tables that are left:\n%s", tables)
	}
	if filters := e.n0.Run("tc", "filter", "show", "dev", "eth0", "egress"); strings.Contains(filters, "tw_") {
		t.Errorf("programs that are left on eth0:\n%s", filters)
	}
}
