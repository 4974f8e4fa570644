package suite

import (
	"fmt"
	"net/netip"
	"testing"

	"terway.dev/terway/internal/testutil"
)

// fromPod is a way from a pod to a Service, and whom its endpoint sees.
type fromPod struct {
	name     string
	endpoint *Pod
	masqAll  bool
	seen     netip.Addr
}

// fromPods are the ways from a pod of a node to endpoints on that node and on another.
func fromPods(n *Node, client, near, far *Pod) []fromPod {
	return []fromPod{
		{"endpoint on the node", near, false, client.V4},
		{"endpoint on another node", far, false, client.V4},
		{"endpoint on the node, all masqueraded", near, true, n.V4},
		{"endpoint on another node, all masqueraded", far, true, n.V4},
	}
}

// intoNode is a way to a Service by a node's port, and whom its endpoint sees.
type intoNode struct {
	name     string
	from     *testutil.NS
	endpoint *Pod
	local    bool
	seen     netip.Addr
}

// intoNodes are the ways into n0, where near is; far and client are pods of n1.
func intoNodes(w *World, n0, n1 *Node, near, far, client *Pod) []intoNode {
	outside := netip.MustParseAddr(OutsideV4)
	return []intoNode{
		{"outside, local endpoint", w.Outside, near, false, n0.V4},
		{"outside, remote endpoint", w.Outside, far, false, n0.V4},
		// No masquerade: the reply must still leave as the node, by eth0.
		{"outside, externalTrafficPolicy Local", w.Outside, near, true, outside},
		{"another node, externalTrafficPolicy Local", n1.NS, near, true, n1.V4},
		{"a pod of another node, externalTrafficPolicy Local", client.NS, near, true, client.V4},
		{"the node's own pod, remote endpoint", near.NS, far, false, n0.V4},
	}
}

func podToService(t *testing.T, k Kit) {
	_, n0, n1 := servicesWorld(t, k)
	client, near, far := n0.AddPod(1), Serving(n0.AddPod(1)), Serving(n1.AddPod(1))
	for _, c := range fromPods(n0, client, near, far) {
		t.Run(c.name, func(t *testing.T) {
			n0.KubeProxy(Service{ClusterIP: ClusterIP, Endpoint: c.endpoint.V4, MasqAll: c.masqAll})
			MustReach(t, client.NS, At(ClusterIP, 80), c.endpoint.NS, c.seen)
		})
	}
}

func nodeToService(t *testing.T, k Kit) {
	_, n0, n1 := servicesWorld(t, k)
	for _, endpoint := range []*Pod{Serving(n0.AddPod(1)), Serving(n1.AddPod(1))} {
		n0.KubeProxy(Service{ClusterIP: ClusterIP, Endpoint: endpoint.V4})
		MustReach(t, n0.NS, At(ClusterIP, 80), endpoint.NS, n0.V4)
	}
}

// A pod reaches itself by its Service: the packet turns round in the node, with
// the node's address, and the pod is not told to take another way.
func hairpin(t *testing.T, k Kit) {
	_, n0, _ := servicesWorld(t, k)
	p := Serving(n0.AddPod(1))
	n0.KubeProxy(Service{ClusterIP: ClusterIP, Endpoint: p.V4})
	p.NFT(`table ip watch {
		counter redirects { }
		chain in { type filter hook input priority 0; icmp type redirect counter name redirects; }
	}`)
	for range 3 {
		MustReach(t, p.NS, At(ClusterIP, 80), p.NS, n0.V4)
	}
	if got := Counter(t, p.NS, "ip", "watch", "redirects"); got != 0 {
		t.Errorf("the pod got %d ICMP redirects", got)
	}
}

func nodePort(t *testing.T, k Kit) {
	w, n0, n1 := servicesWorld(t, k)
	near, far, client := Serving(n0.AddPod(1)), Serving(n1.AddPod(1)), n1.AddPod(1)
	for _, c := range append(intoNodes(w, n0, n1, near, far, client),
		intoNode{"another node, local endpoint", n1.NS, near, false, n0.V4},
		intoNode{"the node's own pod, local endpoint", near.NS, near, false, n0.V4},
	) {
		t.Run(c.name, func(t *testing.T) {
			n0.KubeProxy(Service{ClusterIP: ClusterIP, NodePort: 30080, Local: c.local, Endpoint: c.endpoint.V4})
			MustReach(t, c.from, At(n0.V4, 30080), c.endpoint.NS, c.seen)
		})
	}
}

// A connection carries on after its first packet: kube-proxy's mark is on that
// one only, the NAT is on all.
func masqueradedConnectionsCarryOn(t *testing.T, k Kit) {
	w, n0, n1 := servicesWorld(t, k)
	near, far := n0.AddPod(1), n1.AddPod(1)
	for _, c := range []struct {
		name           string
		from           *testutil.NS
		endpoint       *Pod
		local, MasqAll bool
		to             string
	}{
		{"own pod by Service to another node, masqueraded", near.NS, far, false, true, At(ClusterIP, 80)},
		{"own pod by NodePort to another node", near.NS, far, false, false, At(n0.V4, 30080)},
		{"outside by NodePort to local pod", w.Outside, near, true, false, At(n0.V4, 30080)},
	} {
		t.Run(c.name, func(t *testing.T) {
			n0.KubeProxy(Service{ClusterIP: ClusterIP, NodePort: 30080, Local: c.local, Endpoint: c.endpoint.V4, MasqAll: c.MasqAll})
			l := c.endpoint.Listen("tcp", At(c.endpoint.V4, 80))
			defer l.Close()
			conn, err := c.from.Dial("tcp", "", c.to, Patience)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			peer, err := accept(l)
			if err != nil {
				t.Fatal(err)
			}
			defer peer.Close()
			exchange(t, conn, peer)
		})
	}
}

// hostPort as the portmap plugin writes it: DNAT of the node's port, masquerade
// (mark 0x2000) for the pod that calls itself.
func hostPort(t *testing.T, k Kit) {
	w, n0, n1 := servicesWorld(t, k)
	p, other, far := Serving(n0.AddPod(1)), n0.AddPod(1), n1.AddPod(1)
	n0.NFT(fmt.Sprintf(`table ip cni_hostport {
		chain prerouting { type nat hook prerouting priority dstnat; fib daddr type local jump hostports; }
		chain output { type nat hook output priority -100; fib daddr type local jump hostports; }
		chain hostports { tcp dport 8088 jump entry; }
		chain entry { ip saddr %[1]s mark set mark or 0x2000
			tcp dport 8088 dnat to %[1]s:80; }
		chain postrouting { type nat hook postrouting priority srcnat; mark and 0x2000 == 0x2000 masquerade; }
	}`, p.V4))
	MustReach(t, w.Outside, At(n0.V4, 8088), p.NS, netip.MustParseAddr(OutsideV4))
	MustReach(t, n1.NS, At(n0.V4, 8088), p.NS, n1.V4)
	MustReach(t, n0.NS, At(n0.V4, 8088), p.NS, n0.V4)
	MustReach(t, far.NS, At(n0.V4, 8088), p.NS, far.V4)
	MustReach(t, other.NS, At(n0.V4, 8088), p.NS, other.V4)
	MustReach(t, p.NS, At(n0.V4, 8088), p.NS, n0.V4)
}

// With masquerade for outside, a Service whose endpoint is outside the VPC is
// outside too: the decision is made after the DNAT.
func serviceWithEndpointOutside(t *testing.T, k Kit) {
	w, n0, _ := servicesWorld(t, k)
	n0.Desired.MasqueradeOutside = true
	n0.Sync()
	client := n0.AddPod(1)
	outside := netip.MustParseAddr(OutsideV4)
	Serve(w.Outside, At(outside, 80))
	n0.KubeProxy(Service{ClusterIP: ClusterIP, Endpoint: outside})
	MustReach(t, client.NS, At(ClusterIP, 80), w.Outside, n0.V4)
}

// DNS is UDP: a question by Service and its answer.
func dnsOverService(t *testing.T, k Kit) {
	_, n0, n1 := servicesWorld(t, k)
	client := n0.AddPod(1)
	for _, server := range []*Pod{n0.AddPod(1), n1.AddPod(1)} {
		n0.NFT("table ip dns\ndelete table ip dns")
		n0.NFT(fmt.Sprintf(`table ip dns {
			chain pre { type nat hook prerouting priority dstnat; ip daddr %s udp dport 53 dnat to %s:53; }
		}`, ClusterIP, server.V4))
		inbox := server.ListenPacket("udp", At(server.V4, 53))
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
		conn, err := client.Dial("udp", "", At(ClusterIP, 53), Patience)
		if err != nil {
			t.Fatal(err)
		}
		exchangeUDP(t, conn)
	}
}
