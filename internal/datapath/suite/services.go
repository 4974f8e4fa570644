package suite

import (
	"fmt"
	"net/netip"
	"testing"

	"terway.dev/terway/internal/datapath/suite/world"
	"terway.dev/terway/internal/testutil"
)

func podToService(t *testing.T, k world.Kit) {
	_, n0, n1 := world.ServicesWorld(t, k)
	client, near, far := n0.AddPod(1), world.Serving(n0.AddPod(1)), world.Serving(n1.AddPod(1))
	for _, c := range world.FromPods(n0, client, near, far) {
		t.Run(c.Name, func(t *testing.T) {
			n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, Endpoint: c.Endpoint.V4, MasqAll: c.MasqAll})
			world.MustReach(t, client.NS, world.At(world.ClusterIP, 80), c.Endpoint.NS, c.Seen)
		})
	}
}

func nodeToService(t *testing.T, k world.Kit) {
	_, n0, n1 := world.ServicesWorld(t, k)
	for _, endpoint := range []*world.Pod{world.Serving(n0.AddPod(1)), world.Serving(n1.AddPod(1))} {
		n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, Endpoint: endpoint.V4})
		world.MustReach(t, n0.NS, world.At(world.ClusterIP, 80), endpoint.NS, n0.V4)
	}
}

// A pod reaches itself through its Service: the packet turns around in the node, with the node's
// address, and the pod gets no ICMP redirect.
func hairpin(t *testing.T, k world.Kit) {
	_, n0, _ := world.ServicesWorld(t, k)
	p := world.Serving(n0.AddPod(1))
	p.NFT(`table ip watch {
		counter redirects { }
		chain in { type filter hook input priority 0; icmp type redirect counter name redirects; }
	}`)
	for _, proxy := range []string{"older than the agent's rules", "newer"} {
		for _, masqAll := range []bool{false, true} {
			n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, Endpoint: p.V4, MasqAll: masqAll})
			t.Run(fmt.Sprintf("kube-proxy's rules are %s, all masqueraded: %t", proxy, masqAll), func(t *testing.T) {
				for range 3 {
					world.MustReach(t, p.NS, world.At(world.ClusterIP, 80), p.NS, n0.V4)
				}
			})
		}
		n0.NFT("delete table ip kube-proxy")
	}
	if got := world.Counter(t, p.NS, "ip", "watch", "redirects"); got != 0 {
		t.Errorf("the pod got %d ICMP redirects", got)
	}
}

func nodePort(t *testing.T, k world.Kit) {
	w, n0, n1 := world.ServicesWorld(t, k)
	near, far, client := world.Serving(n0.AddPod(1)), world.Serving(n1.AddPod(1)), n1.AddPod(1)
	for _, c := range append(world.IntoNodes(w, n0, n1, near, far, client),
		world.IntoNode{Name: "another node, local endpoint", From: n1.NS, Endpoint: near, Seen: n0.V4},
		world.IntoNode{Name: "the node's own pod, local endpoint", From: near.NS, Endpoint: near, Seen: n0.V4},
	) {
		t.Run(c.Name, func(t *testing.T) {
			n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, NodePort: 30080, Local: c.Local, Endpoint: c.Endpoint.V4})
			world.MustReach(t, c.From, world.At(n0.V4, 30080), c.Endpoint.NS, c.Seen)
		})
	}
}

// A connection continues after its first packet: only that one has kube-proxy's mark, but all are
// translated.
func masqueradedConnectionsCarryOn(t *testing.T, k world.Kit) {
	w, n0, n1 := world.ServicesWorld(t, k)
	near, far := n0.AddPod(1), n1.AddPod(1)
	for _, c := range []struct {
		name           string
		from           *testutil.NS
		endpoint       *world.Pod
		local, MasqAll bool
		to             string
	}{
		{"own pod by Service to another node, masqueraded", near.NS, far, false, true, world.At(world.ClusterIP, 80)},
		{"own pod by NodePort to another node", near.NS, far, false, false, world.At(n0.V4, 30080)},
		{"outside by NodePort to local pod", w.Outside, near, true, false, world.At(n0.V4, 30080)},
	} {
		t.Run(c.name, func(t *testing.T) {
			n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, NodePort: 30080, Local: c.local, Endpoint: c.endpoint.V4, MasqAll: c.MasqAll})
			l := c.endpoint.Listen("tcp", world.At(c.endpoint.V4, 80))
			defer l.Close()
			conn, err := c.from.Dial("tcp", "", c.to, world.Patience)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			peer, err := world.Accept(l)
			if err != nil {
				t.Fatal(err)
			}
			defer peer.Close()
			world.Exchange(t, conn, peer)
		})
	}
}

// hostPort writes the rules of the portmap plugin: DNAT of the node's port, masquerade (mark
// 0x2000) for the pod that calls itself.
func hostPort(t *testing.T, k world.Kit) {
	w, n0, n1 := world.ServicesWorld(t, k)
	p, other, far := world.Serving(n0.AddPod(1)), n0.AddPod(1), n1.AddPod(1)
	n0.NFT(fmt.Sprintf(`table ip cni_hostport {
		chain prerouting { type nat hook prerouting priority dstnat; fib daddr type local jump hostports; }
		chain output { type nat hook output priority -100; fib daddr type local jump hostports; }
		chain hostports { tcp dport 8088 jump entry; }
		chain entry { ip saddr %[1]s mark set mark or 0x2000
			tcp dport 8088 dnat to %[1]s:80; }
		chain postrouting { type nat hook postrouting priority srcnat; mark and 0x2000 == 0x2000 masquerade; }
	}`, p.V4))
	world.MustReach(t, w.Outside, world.At(n0.V4, 8088), p.NS, netip.MustParseAddr(world.OutsideV4))
	world.MustReach(t, n1.NS, world.At(n0.V4, 8088), p.NS, n1.V4)
	world.MustReach(t, n0.NS, world.At(n0.V4, 8088), p.NS, n0.V4)
	world.MustReach(t, far.NS, world.At(n0.V4, 8088), p.NS, far.V4)
	world.MustReach(t, other.NS, world.At(n0.V4, 8088), p.NS, other.V4)
	world.MustReach(t, p.NS, world.At(n0.V4, 8088), p.NS, n0.V4)
}

// With masquerade for outside, a Service whose endpoint is outside the VPC is outside too: the
// decision is made after the DNAT.
func serviceWithEndpointOutside(t *testing.T, k world.Kit) {
	w, n0, _ := world.ServicesWorld(t, k)
	n0.Desired.MasqueradeOutside = true
	n0.Sync()
	client := n0.AddPod(1)
	outside := netip.MustParseAddr(world.OutsideV4)
	world.Serve(w.Outside, world.At(outside, 80))
	n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, Endpoint: outside})
	world.MustReach(t, client.NS, world.At(world.ClusterIP, 80), w.Outside, n0.V4)
}

// DNS is UDP: a query through a Service and its answer.
func dnsOverService(t *testing.T, k world.Kit) {
	_, n0, n1 := world.ServicesWorld(t, k)
	client := n0.AddPod(1)
	for _, server := range []*world.Pod{n0.AddPod(1), n1.AddPod(1)} {
		n0.NFT("table ip dns\ndelete table ip dns")
		n0.NFT(fmt.Sprintf(`table ip dns {
			chain pre { type nat hook prerouting priority dstnat; ip daddr %s udp dport 53 dnat to %s:53; }
		}`, world.ClusterIP, server.V4))
		inbox := server.ListenPacket("udp", world.At(server.V4, 53))
		go func() {
			buf := make([]byte, 16)
			n, from, err := inbox.ReadFrom(buf)
			if err == nil {
				_, err = inbox.WriteTo(buf[:n], from)
			}
			if err != nil {
				t.Errorf("server: %v", err)
			}
		}()
		conn, err := client.Dial("udp", "", world.At(world.ClusterIP, 53), world.Patience)
		if err != nil {
			t.Fatal(err)
		}
		world.ExchangeUDP(t, conn)
	}
}
