package route

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"terway.dev/terway/internal/testutil"
)

// service is what kube-proxy is told of one Service with one endpoint.
type service struct {
	clusterIP netip.Addr
	nodePort  int
	local     bool // externalTrafficPolicy
	endpoint  netip.Addr
	masqAll   bool
}

var clusterIP = netip.MustParseAddr("172.21.0.10")

// kubeProxy writes the rules that kube-proxy in nftables mode makes of Services:
// DNAT in prerouting and output, the mark 0x4000 where the client's address must
// be hidden, masquerade of marked packets.
func (n *testNode) kubeProxy(services ...service) {
	var b strings.Builder
	b.WriteString(`table ip kube-proxy
	delete table ip kube-proxy
	table ip kube-proxy {
		chain mark-for-masquerade { mark set mark or 0x4000; }
		chain masquerading {
			mark and 0x4000 == 0 return
			mark set mark xor 0x4000
			masquerade fully-random
		}
		chain nat-postrouting { type nat hook postrouting priority srcnat; jump masquerading; }
	`)
	var dispatch strings.Builder
	for i, s := range services {
		fmt.Fprintf(&b, "chain endpoint-%d { ip saddr %s jump mark-for-masquerade\n meta l4proto tcp dnat to %s:80; }\n", i, s.endpoint, s.endpoint)
		fmt.Fprintf(&b, "chain service-%d {\n", i)
		if s.masqAll {
			b.WriteString("jump mark-for-masquerade\n")
		}
		fmt.Fprintf(&b, "goto endpoint-%d; }\n", i)
		fmt.Fprintf(&b, "chain external-%d {\n", i)
		if !s.local {
			b.WriteString("jump mark-for-masquerade\n")
		}
		fmt.Fprintf(&b, "goto endpoint-%d; }\n", i)
		fmt.Fprintf(&dispatch, "ip daddr %s tcp dport 80 goto service-%d\n", s.clusterIP, i)
		if s.nodePort != 0 {
			fmt.Fprintf(&dispatch, "ip daddr %s tcp dport %d goto external-%d\n", n.ip, s.nodePort, i)
		}
	}
	fmt.Fprintf(&b, "chain services { %s }\n", dispatch.String())
	b.WriteString(`
		chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
		chain nat-output { type nat hook output priority -100; jump services; }
	}`)
	n.NFT(b.String())
}

func servicesWorld(t *testing.T) (w *world, n0, n1 *testNode) {
	w = newWorld(t, 2, 1)
	n0, n1 = w.nodes[0], w.nodes[1]
	n0.sync()
	n1.sync()
	t.Cleanup(func() {
		if got := w.strict(); got != 0 {
			t.Errorf("the VPC dropped %d packets with a source on the wrong ENI", got)
		}
	})
	return w, n0, n1
}

func serving(p *testPod) *testPod {
	serve(p.NS, at(p.ip, 80))
	return p
}

func TestPodToService(t *testing.T) {
	_, n0, n1 := servicesWorld(t)
	client, near, far := n0.addPod(1), serving(n0.addPod(1)), serving(n1.addPod(1))
	for _, c := range []struct {
		name     string
		endpoint *testPod
		masqAll  bool
		seen     netip.Addr
	}{
		{"endpoint on the node", near, false, client.ip},
		{"endpoint on another node", far, false, client.ip},
		{"endpoint on the node, all masqueraded", near, true, n0.ip},
		{"endpoint on another node, all masqueraded", far, true, n0.ip},
	} {
		t.Run(c.name, func(t *testing.T) {
			n0.kubeProxy(service{clusterIP: clusterIP, endpoint: c.endpoint.ip, masqAll: c.masqAll})
			mustReach(t, client.NS, at(clusterIP, 80), c.endpoint.NS, c.seen)
		})
	}
}

func TestNodeToService(t *testing.T) {
	_, n0, n1 := servicesWorld(t)
	for _, endpoint := range []*testPod{serving(n0.addPod(1)), serving(n1.addPod(1))} {
		n0.kubeProxy(service{clusterIP: clusterIP, endpoint: endpoint.ip})
		mustReach(t, n0.NS, at(clusterIP, 80), endpoint.NS, n0.ip)
	}
}

// A pod reaches itself by its Service: the packet turns round in the node, with
// the node's address, and the pod is not told to take another way.
func TestHairpin(t *testing.T) {
	_, n0, _ := servicesWorld(t)
	p := serving(n0.addPod(1))
	n0.kubeProxy(service{clusterIP: clusterIP, endpoint: p.ip})
	p.NFT(`table ip watch {
		counter redirects { }
		chain in { type filter hook input priority 0; icmp type redirect counter name redirects; }
	}`)
	for range 3 {
		mustReach(t, p.NS, at(clusterIP, 80), p.NS, n0.ip)
	}
	if got := nftCounter(t, p.NS, "ip", "watch", "redirects"); got != 0 {
		t.Errorf("the pod got %d ICMP redirects", got)
	}
}

func TestNodePort(t *testing.T) {
	w, n0, n1 := servicesWorld(t)
	near, far, client := serving(n0.addPod(1)), serving(n1.addPod(1)), n1.addPod(1)
	outside := netip.MustParseAddr(outsideIP)
	for _, c := range []struct {
		name     string
		from     *testutil.NS
		endpoint *testPod
		local    bool
		seen     netip.Addr
	}{
		{"outside, local endpoint", w.outside, near, false, n0.ip},
		{"outside, remote endpoint", w.outside, far, false, n0.ip},
		// No masquerade: the reply must still leave as the node, by eth0.
		{"outside, externalTrafficPolicy Local", w.outside, near, true, outside},
		{"another node, local endpoint", n1.NS, near, false, n0.ip},
		{"another node, externalTrafficPolicy Local", n1.NS, near, true, n1.ip},
		{"a pod of another node, externalTrafficPolicy Local", client.NS, near, true, client.ip},
		{"the node's own pod, local endpoint", near.NS, near, false, n0.ip},
		{"the node's own pod, remote endpoint", near.NS, far, false, n0.ip},
	} {
		t.Run(c.name, func(t *testing.T) {
			n0.kubeProxy(service{clusterIP: clusterIP, nodePort: 30080, local: c.local, endpoint: c.endpoint.ip})
			mustReach(t, c.from, at(n0.ip, 30080), c.endpoint.NS, c.seen)
		})
	}
}

// A connection carries on after its first packet: kube-proxy's mark is on that
// one only, the NAT is on all.
func TestMasqueradedConnectionsCarryOn(t *testing.T) {
	w, n0, n1 := servicesWorld(t)
	near, far := n0.addPod(1), n1.addPod(1)
	for _, c := range []struct {
		name           string
		from           *testutil.NS
		endpoint       *testPod
		local, masqAll bool
		to             string
	}{
		{"own pod by Service to another node, masqueraded", near.NS, far, false, true, at(clusterIP, 80)},
		{"own pod by NodePort to another node", near.NS, far, false, false, at(n0.ip, 30080)},
		{"outside by NodePort to local pod", w.outside, near, true, false, at(n0.ip, 30080)},
	} {
		t.Run(c.name, func(t *testing.T) {
			n0.kubeProxy(service{clusterIP: clusterIP, nodePort: 30080, local: c.local, endpoint: c.endpoint.ip, masqAll: c.masqAll})
			l := c.endpoint.Listen("tcp", at(c.endpoint.ip, 80))
			defer l.Close()
			conn, err := c.from.Dial("tcp", "", c.to, patience)
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
func TestHostPort(t *testing.T) {
	w, n0, n1 := servicesWorld(t)
	p, other, far := serving(n0.addPod(1)), n0.addPod(1), n1.addPod(1)
	n0.NFT(fmt.Sprintf(`table ip cni_hostport {
		chain prerouting { type nat hook prerouting priority dstnat; fib daddr type local jump hostports; }
		chain output { type nat hook output priority -100; fib daddr type local jump hostports; }
		chain hostports { tcp dport 8088 jump entry; }
		chain entry { ip saddr %[1]s mark set mark or 0x2000
			tcp dport 8088 dnat to %[1]s:80; }
		chain postrouting { type nat hook postrouting priority srcnat; mark and 0x2000 == 0x2000 masquerade; }
	}`, p.ip))
	mustReach(t, w.outside, at(n0.ip, 8088), p.NS, netip.MustParseAddr(outsideIP))
	mustReach(t, n1.NS, at(n0.ip, 8088), p.NS, n1.ip)
	mustReach(t, n0.NS, at(n0.ip, 8088), p.NS, n0.ip)
	mustReach(t, far.NS, at(n0.ip, 8088), p.NS, far.ip)
	mustReach(t, other.NS, at(n0.ip, 8088), p.NS, other.ip)
	mustReach(t, p.NS, at(n0.ip, 8088), p.NS, n0.ip)
}

// With masquerade for outside, a Service whose endpoint is outside the VPC is
// outside too: the decision is made after the DNAT.
func TestServiceWithEndpointOutside(t *testing.T) {
	w, n0, _ := servicesWorld(t)
	n0.node.MasqueradeOutside = true
	n0.sync()
	client := n0.addPod(1)
	outside := netip.MustParseAddr(outsideIP)
	serve(w.outside, at(outside, 80))
	n0.kubeProxy(service{clusterIP: clusterIP, endpoint: outside})
	mustReach(t, client.NS, at(clusterIP, 80), w.outside, n0.ip)
}

// DNS is UDP: a question by Service and its answer.
func TestDNSOverService(t *testing.T) {
	_, n0, n1 := servicesWorld(t)
	client := n0.addPod(1)
	for _, server := range []*testPod{n0.addPod(1), n1.addPod(1)} {
		n0.NFT("table ip dns\ndelete table ip dns")
		n0.NFT(fmt.Sprintf(`table ip dns {
			chain pre { type nat hook prerouting priority dstnat; ip daddr %s udp dport 53 dnat to %s:53; }
		}`, clusterIP, server.ip))
		inbox := server.ListenPacket("udp", at(server.ip, 53))
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
		conn, err := client.Dial("udp", "", at(clusterIP, 53), patience)
		if err != nil {
			t.Fatal(err)
		}
		exchangeUDP(t, conn)
	}
}
