package policed

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"terway.dev/terway/internal/datapath/suite/world"
	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/testutil"
)

// byNode returns what ingress policies of a pod must allow for what reaches it by a port of its node, from clients elsewhere that others see
// as s. A pod with an ENI of its own sees the node.
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

// judge asserts that a path is open without policies, closed by a policy that allows something else, and open by one that names the real other end.
func (e *env) judge(t *testing.T, p path) {
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
}

// The paths to and from pods.
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
	otherService := func(s world.Service) func() {
		s.ClusterIP = world.ClusterIP
		return func() { n0.KubeProxy(); n1.KubeProxy(s) }
	}
	otherPort := world.At(n1.V4, 30080)
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
		{path{"NodePort from outside, externalTrafficPolicy Local", w.Outside, nodePort, nil, "near", e.byNode(net(world.OutsideV4 + "/32"))}, service(world.Service{NodePort: 30080, Local: true, Endpoint: near.V4})},
		{path{"NodePort from another node, externalTrafficPolicy Local", n1.NS, nodePort, nil, "near", e.byNode(node(1))}, service(world.Service{NodePort: 30080, Local: true, Endpoint: near.V4})},
		{path{"NodePort from a pod of another node, externalTrafficPolicy Local", far.NS, nodePort, nil, "near", e.byNode(app("far"))}, service(world.Service{NodePort: 30080, Local: true, Endpoint: near.V4})},
		{path{"NodePort from the node's own pod, endpoint on another node", client.NS, nodePort, set(app("far")), "far", node(0)}, service(world.Service{NodePort: 30080, Endpoint: far.V4})},
		{path{"NodePort from the node's own pod, endpoint on the node", client.NS, nodePort, set(app("near")), "near", node(0)}, service(world.Service{NodePort: 30080, Endpoint: near.V4})},
		{path{"NodePort of another node", client.NS, otherPort, set(node(1)), "far", node(1)}, otherService(world.Service{NodePort: 30080, Endpoint: far.V4})},
		{path{"own node", client.NS, world.At(n0.V4, 8080), set(node(0)), "", policy.AddrSet{}}, none},
		{path{"own node, IPv6", client.NS, world.At(n0.V6, 8080), set(node(0)), "", policy.AddrSet{}}, none},
		{path{"another node", client.NS, world.At(n1.V4, 8080), set(node(1)), "", policy.AddrSet{}}, none},
		{path{"from another node", n1.NS, world.At(near.V4, 80), nil, "near", node(1)}, none},
		{path{"outside, masqueraded", client.NS, world.At(outside, 80), set(net(world.OutsideV4 + "/32")), "", policy.AddrSet{}}, none},
		{path{"Service, endpoint outside", client.NS, cluster, set(net(world.OutsideV4 + "/32")), "", policy.AddrSet{}}, service(world.Service{Endpoint: outside})},
		{path{"from outside", w.Outside, world.At(near.V4, 80), nil, "near", net(world.OutsideV4 + "/32")}, none},
		{path{"hostPort from outside", w.Outside, world.At(n0.V4, 8088), nil, "near", e.byNode(net(world.OutsideV4 + "/32"))}, hostPort},
		{path{"hostPort from a pod of the node", client.NS, world.At(n0.V4, 8088), set(app("near")), "near", app("client")}, func() {}},
	} {
		t.Run(p.name, func(t *testing.T) {
			p.prepare()
			e.judge(t, p.path)
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
