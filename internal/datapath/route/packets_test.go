package route

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/testutil"
)

func TestPodsOfOneNodeTalkWithoutLeavingIt(t *testing.T) {
	w := newWorld(t, 1, 2)
	n := w.nodes[0]
	n.sync()
	a, b := n.addPod(1, "4", "6"), n.addPod(2, "4", "6")
	serve(b.NS, at(b.ip, 80))
	serve(b.NS, at(b.ip6, 80))
	before := w.crossed()
	mustReach(t, a.NS, at(b.ip, 80), b.NS, a.ip)
	mustReach(t, a.NS, at(b.ip6, 80), b.NS, a.ip6)
	if after := w.crossed(); after != before {
		t.Errorf("%d packets of the pods left the node", after-before)
	}
}

func TestPodsOfTwoNodesTalkByTheirENI(t *testing.T) {
	w := newWorld(t, 2, 2)
	n0, n1 := w.nodes[0], w.nodes[1]
	n0.sync()
	n1.sync()
	for e := 1; e <= 2; e++ {
		a, b := n0.addPod(e, "4", "6"), n1.addPod(3-e, "4", "6")
		serve(b.NS, at(b.ip, 80))
		serve(b.NS, at(b.ip6, 80))
		before := w.crossed()
		mustReach(t, a.NS, at(b.ip, 80), b.NS, a.ip)
		mustReach(t, a.NS, at(b.ip6, 80), b.NS, a.ip6)
		if w.crossed() == before {
			t.Error("no packet of the pods crossed the VPC: the test is blind")
		}
	}
	if got := w.strict(); got != 0 {
		t.Errorf("the VPC dropped %d packets with a source on the wrong ENI", got)
	}
}

// The VPC's check is what makes the test above mean something.
func TestWorldDropsSourceOnWrongENI(t *testing.T) {
	w := newWorld(t, 2, 2)
	n0, n1 := w.nodes[0], w.nodes[1]
	n0.sync()
	n1.sync()
	a, b := n0.addPod(1), n1.addPod(1)
	serve(b.NS, at(b.ip, 80))
	// The pod's address leaves by the other ENI.
	n0.IP(fmt.Sprintf("rule add pref 590 from %s lookup %d", a.ip, TableLocal+n0.dp.state().enis[n0.mac(2).String()].slot))
	mustNotReach(t, a.NS, at(b.ip, 80))
	if w.strict() == 0 {
		t.Error("the VPC dropped nothing")
	}
}

func TestNodeAndPods(t *testing.T) {
	w := newWorld(t, 2, 1)
	n0, n1 := w.nodes[0], w.nodes[1]
	n0.sync()
	n1.sync()
	a, b := n0.addPod(1, "4", "6"), n1.addPod(1, "4", "6")
	for _, p := range []*testPod{a, b} {
		serve(p.NS, at(p.ip, 80))
		serve(p.NS, at(p.ip6, 80))
	}
	for _, n := range w.nodes {
		serve(n.NS, at(n.ip, 8080))
		serve(n.NS, at(n.ip6, 8080))
	}
	before := w.crossed()
	mustReach(t, n0.NS, at(a.ip, 80), a.NS, n0.ip)
	mustReach(t, n0.NS, at(a.ip6, 80), a.NS, n0.ip6)
	mustReach(t, a.NS, at(n0.ip, 8080), n0.NS, a.ip)
	mustReach(t, a.NS, at(n0.ip6, 8080), n0.NS, a.ip6)
	if after := w.crossed(); after != before {
		t.Errorf("node and own pod: %d packets left the node", after-before)
	}
	mustReach(t, n0.NS, at(b.ip, 80), b.NS, n0.ip)
	mustReach(t, n0.NS, at(b.ip6, 80), b.NS, n0.ip6)
	mustReach(t, a.NS, at(n1.ip, 8080), n1.NS, a.ip)
	mustReach(t, a.NS, at(n1.ip6, 8080), n1.NS, a.ip6)
	if got := w.strict(); got != 0 {
		t.Errorf("the VPC dropped %d packets with a source on the wrong ENI", got)
	}
}

// A node may ask for strict reverse path checks; that must not cost its pods
// their traffic, though the way to a peer is the primary ENI's in the main table.
func TestReversePathFilterOfTheNode(t *testing.T) {
	for _, mode := range []string{"0", "1", "2"} {
		t.Run("all="+mode, func(t *testing.T) {
			w := newWorld(t, 2, 1)
			for _, n := range w.nodes {
				n.Sysctl("ipv4/conf/all/rp_filter", mode)
				n.Sysctl("ipv4/conf/default/rp_filter", mode)
				n.Sysctl("ipv4/conf/eth0/rp_filter", mode)
				n.sync()
			}
			a, b := w.nodes[0].addPod(1), w.nodes[1].addPod(1)
			serve(b.NS, at(b.ip, 80))
			serve(a.NS, at(a.ip, 80))
			mustReach(t, a.NS, at(b.ip, 80), b.NS, a.ip)
			mustReach(t, w.nodes[1].NS, at(a.ip, 80), a.NS, w.nodes[1].ip)
			if got := w.nodes[0].ReadSysctl("ipv4/conf/all/rp_filter"); got != mode {
				t.Errorf("all/rp_filter is %s, was %s", got, mode)
			}
			if got := w.nodes[0].ReadSysctl("ipv4/conf/eth0/rp_filter"); got != mode {
				t.Errorf("eth0/rp_filter is %s, was %s", got, mode)
			}
		})
	}
}

// sendFrom sends one datagram with a source address that the pod gave itself.
func sendFrom(t *testing.T, ns *testutil.NS, source, to string) {
	t.Helper()
	conn, err := ns.Dial("udp", source, to, patience)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
}

func TestSpoofedSourceIsDroppedInTheNode(t *testing.T) {
	w := newWorld(t, 1, 1)
	n := w.nodes[0]
	n.sync()
	a, victim, target := n.addPod(1, "4", "6"), n.addPod(1, "4", "6"), n.addPod(1, "4", "6")
	for i, c := range []struct{ stolen, own, target netip.Addr }{
		{victim.ip, a.ip, target.ip}, {victim.ip6, a.ip6, target.ip6}, {n.ip, a.ip, target.ip},
	} {
		bits := fmt.Sprintf("/%d", c.stolen.BitLen())
		a.IP("addr add " + c.stolen.String() + bits + " dev eth0 nodad")
		inbox := target.ListenPacket("udp", at(c.target, 9+i))
		before, err := n.dp.Spoofed()
		if err != nil {
			t.Fatal(err)
		}
		sendFrom(t, a.NS, at(c.stolen, 0), at(c.target, 9+i))
		after, err := n.dp.Spoofed()
		if err != nil {
			t.Fatal(err)
		}
		if after != before+1 {
			t.Errorf("from %s: %d packets were counted as spoofed, want 1", c.stolen, after-before)
		}
		// What the pod may send comes through, so the silence above was not chance.
		sendFrom(t, a.NS, at(c.own, 0), at(c.target, 9+i))
		if err := inbox.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		_, from, err := inbox.ReadFrom(make([]byte, 8))
		if err != nil {
			t.Fatalf("own source: %v", err)
		}
		if got := netip.MustParseAddrPort(from.String()).Addr(); got != c.own {
			t.Errorf("first packet that arrived is from %s, want %s", got, c.own)
		}
	}
}

// A router in the VPC that cannot pass a large packet says so to the pod.
func TestFragmentationNeededReachesThePod(t *testing.T) {
	w := newWorld(t, 2, 1)
	n0, n1 := w.nodes[0], w.nodes[1]
	n0.sync()
	n1.sync()
	a, b := n0.addPod(1, "4", "6"), n1.addPod(1, "4", "6")
	w.fabric.IP(fmt.Sprintf("route replace %s dev %s mtu 1300", b.ip, n1.port(1)))
	w.fabric.IP(fmt.Sprintf("-6 route replace %s dev %s mtu 1300", b.ip6, n1.port(1)))
	for _, to := range []netip.Addr{b.ip, b.ip6} {
		t.Run(to.String(), func(t *testing.T) {
			conn, err := a.Dial("udp", "", at(to, 9), patience)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			raw, err := conn.(*net.UDPConn).SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			var opt error
			if err := raw.Control(func(fd uintptr) {
				if to.Is4() {
					opt = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
				} else {
					opt = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO)
				}
			}); err != nil || opt != nil {
				t.Fatal(err, opt)
			}
			for deadline := time.Now().Add(patience); ; {
				_, err := conn.Write(make([]byte, 1400))
				if errors.Is(err, unix.EMSGSIZE) {
					return
				}
				if time.Now().After(deadline) {
					t.Fatalf("the pod never learned of the smaller MTU (last error %v)", err)
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
}

func TestMasqueradeOutside(t *testing.T) {
	w := newWorld(t, 1, 1)
	n := w.nodes[0]
	serve(w.outside, at(netip.MustParseAddr(outsideIP), 80))
	serve(w.outside, at(netip.MustParseAddr(outsideIP6), 80))
	n.sync()
	a := n.addPod(1, "4", "6")
	serve(a.NS, at(a.ip, 80))
	out, out6 := outsideIP+":80", "["+outsideIP6+"]:80"
	mustReach(t, a.NS, out, w.outside, a.ip)

	n.node.MasqueradeOutside = true
	// The VPC's IPv6 range of the test holds the outside too; without it, outside
	// is outside.
	n.node.VPCCIDRs = []netip.Prefix{netip.MustParsePrefix(vpcCIDR), netip.MustParsePrefix("2001:db8::/44")}
	n.sync(a)
	mustReach(t, a.NS, out, w.outside, n.ip)
	mustReach(t, a.NS, out6, w.outside, n.ip6)
	// Who comes from outside is answered by the address that was asked.
	mustReach(t, w.outside, at(a.ip, 80), a.NS, netip.MustParseAddr(outsideIP))

	n.node.MasqueradeOutside = false
	n.sync(a)
	mustReach(t, a.NS, out, w.outside, a.ip)
	if got := w.strict(); got != 0 {
		t.Errorf("the VPC dropped %d packets with a source on the wrong ENI", got)
	}
}

// A long connection outlives a change of the configuration: its way out was
// decided by its first packet.
func TestMasqueradeKeepsConnections(t *testing.T) {
	w := newWorld(t, 1, 1)
	n := w.nodes[0]
	n.sync()
	a := n.addPod(1)
	for _, first := range []bool{false, true} {
		t.Run(fmt.Sprintf("masquerade=%v at first", first), func(t *testing.T) {
			n.node.MasqueradeOutside = first
			n.sync(a)
			l := w.outside.Listen("tcp", outsideIP+":0")
			conn, err := a.Dial("tcp", "", l.Addr().String(), patience)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			peer, err := accept(l)
			if err != nil {
				t.Fatal(err)
			}
			defer peer.Close()
			n.node.MasqueradeOutside = !first
			n.sync(a)
			exchange(t, conn, peer)
		})
	}
}

func accept(l net.Listener) (net.Conn, error) {
	if err := l.(*net.TCPListener).SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	return l.Accept()
}

func exchange(t *testing.T, a, b net.Conn) {
	t.Helper()
	buf := make([]byte, 4)
	for _, pair := range [][2]net.Conn{{a, b}, {b, a}, {a, b}} {
		if err := pair[1].SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := pair[0].Write([]byte("ping")); err != nil {
			t.Fatal(err)
		}
		if _, err := pair[1].Read(buf); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDeletedPodIsUnreachableAtOnce(t *testing.T) {
	w := newWorld(t, 2, 1)
	n0, n1 := w.nodes[0], w.nodes[1]
	n0.sync()
	n1.sync()
	a, b, c := n0.addPod(1, "4", "6"), n0.addPod(1, "4", "6"), n1.addPod(1, "4", "6")
	serve(a.NS, at(a.ip, 80))
	serve(a.NS, at(a.ip6, 80))
	mustReach(t, c.NS, at(a.ip, 80), a.NS, c.ip)
	a.del()
	// Peers are told, not left waiting: the packet does not go back into the VPC.
	for _, from := range []*testPod{c, b} {
		for _, to := range []netip.Addr{a.ip, a.ip6} {
			if from == b && to.Is6() {
				continue // one family shows it for the way out of the node
			}
			_, err := ask(from.NS, at(to, 80))
			if err == nil {
				t.Errorf("%s still reaches %s", from.Name, to)
			}
			if from == c && !errors.Is(err, unix.EHOSTUNREACH) && !errors.Is(err, unix.ENETUNREACH) {
				t.Errorf("%s → %s: %v, want unreachable", from.Name, to, err)
			}
		}
	}
}

func exchangeUDP(t *testing.T, conn net.Conn) {
	t.Helper()
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("question")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 16)
	n, err := conn.Read(buf)
	if err != nil || string(buf[:n]) != "question" {
		t.Errorf("answer %q, error %v", buf[:n], err)
	}
}
