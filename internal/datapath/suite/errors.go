package suite

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/testutil"
)

// option sets an IP option of a socket, by family.
func option(t testing.TB, conn any, is4 bool, v4, v6, value int) {
	t.Helper()
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var opt error
	if err := raw.Control(func(fd uintptr) {
		if is4 {
			opt = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, v4, value)
		} else {
			opt = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, v6, value)
		}
	}); err != nil || opt != nil {
		t.Fatal(err, opt)
	}
}

// fails sends datagrams until one fails with an error that an ICMP message brought.
func fails(t testing.TB, conn net.Conn, size int, want ...error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(Patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		_, err = conn.Write(make([]byte, size))
		if slices.ContainsFunc(want, func(w error) bool { return errors.Is(err, w) }) {
			return
		}
	}
	t.Errorf("%s → %s: %d bytes: the sender never got %q (last error %v)", conn.LocalAddr(), conn.RemoteAddr(), size, want, err)
}

// established is a UDP flow of which several packets went both ways.
func established(t testing.TB, from *Pod, to netip.Addr) net.Conn {
	t.Helper()
	conn, err := from.Dial("udp", "", At(to, 7), Patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	for range 3 {
		if err := conn.SetDeadline(time.Now().Add(Patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte("ping")); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 8)); err != nil {
			t.Fatalf("%s → %s: %v", from.Name, to, err)
		}
	}
	return conn
}

// Errors about a flow that has long been running reach who sent the packet: the peer's
// port is closed, a router's link is too small, the hops are used up.
func icmpErrorsArrive(t *testing.T, k Kit) {
	w, n0, n1 := servicesWorld(t, k)
	a, near, far := n0.AddPod(1, "4", "6"), n0.AddPod(1, "4", "6"), n1.AddPod(1, "4", "6")
	for _, to := range []*Pod{near, far} {
		for _, address := range []netip.Addr{to.V4, to.V6} {
			inbox := to.ListenPacket("udp", At(address, 7))
			go reflect(inbox)
			conn := established(t, a, address)
			option(t, conn, address.Is4(), unix.IP_TTL, unix.IPV6_UNICAST_HOPS, 1)
			option(t, conn, address.Is4(), unix.IP_RECVERR, unix.IPV6_RECVERR, 1)
			fails(t, conn, 10, unix.EHOSTUNREACH)
			conn = established(t, a, address)
			if err := inbox.Close(); err != nil {
				t.Fatal(err)
			}
			fails(t, conn, 10, unix.ECONNREFUSED)
		}
	}
	w.Fabric.IP(fmt.Sprintf("route replace %s dev %s mtu 1300", far.V4, far.Port))
	w.Fabric.IP(fmt.Sprintf("-6 route replace %s dev %s mtu 1300", far.V6, far.Port))
	for _, address := range []netip.Addr{far.V4, far.V6} {
		inbox := far.ListenPacket("udp", At(address, 7))
		go reflect(inbox)
		conn := established(t, a, address)
		option(t, conn, address.Is4(), unix.IP_MTU_DISCOVER, unix.IPV6_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
		fails(t, conn, 1400, unix.EMSGSIZE)
	}
}

// An ENI vanishes under a flow that has long been running: the pod is told at once, and
// not only when somebody has looked at the node.
func vanishedENIIsUnreachable(t *testing.T, k Kit) {
	w := k.NewWorld(t, 2, 2)
	n := w.Nodes[0]
	n.Sync()
	w.Nodes[1].Sync()
	p, far := n.AddPod(2, "4", "6"), w.Nodes[1].AddPod(1, "4", "6")
	var flows []net.Conn
	for _, address := range []netip.Addr{far.V4, far.V6} {
		go reflect(far.ListenPacket("udp", At(address, 7)))
		conn := established(t, p, address)
		option(t, conn, address.Is4(), unix.IP_RECVERR, unix.IPV6_RECVERR, 1)
		flows = append(flows, conn)
	}
	n.IP("link del eth2")
	for _, conn := range flows {
		fails(t, conn, 10, unix.EHOSTUNREACH, unix.ENETUNREACH)
	}
}

// The gateway of an ENI does not answer any more: once a Sync has seen it the pod is told, and
// when the gateway is back its flows go on. Its pods are wired right all the time: a runtime may
// kill a pod for which CHECK fails.
func silentGatewayIsUnreachable(t *testing.T, k Kit) {
	w := k.NewWorld(t, 2, 1)
	n, port := w.Nodes[0], w.Nodes[0].Port(1)
	n.Sync()
	w.Nodes[1].Sync()
	p, far := n.AddPod(1, "4", "6"), w.Nodes[1].AddPod(1, "4", "6")
	var flows []net.Conn
	for _, address := range []netip.Addr{far.V4, far.V6} {
		go reflect(far.ListenPacket("udp", At(address, 7)))
		conn := established(t, p, address)
		option(t, conn, address.Is4(), unix.IP_RECVERR, unix.IPV6_RECVERR, 1)
		flows = append(flows, conn)
	}
	for _, family := range []string{"ipv4", "ipv6"} {
		n.Sysctl(family+"/neigh/eth1/retrans_time_ms", "100") // not a second for each of three questions
	}
	w.Fabric.IPs("link set "+port+" arp off", "addr del "+PodGW6+"/128 dev "+port)
	n.IP("neigh flush dev eth1")
	n.IP("-6 neigh flush dev eth1")
	for _, conn := range flows {
		_, _ = conn.Write([]byte("x")) // the gateway is asked for
	}
	check := func(when string) {
		t.Helper()
		if err := n.DP.CheckPod(context.Background(), n.Desired, p.Spec); err != nil {
			t.Errorf("%s: CheckPod: %v", when, err)
		}
	}
	check("the gateway is silent")
	n.Sync(p)
	check("the gateway is silent, which Sync has seen")
	for _, conn := range flows {
		fails(t, conn, 10, unix.EHOSTUNREACH, unix.ENETUNREACH)
	}
	w.Fabric.IPs("link set "+port+" arp on", "addr add "+PodGW6+"/128 dev "+port+" nodad")
	w.Assign(n, 1, p.V4, p.V6) // the fabric has forgotten the pod
	for _, conn := range flows {
		answered(t, conn)
	}
	check("the gateway is back")
	n.Sync(p)
	check("the gateway is back, which Sync has seen")
	for _, conn := range flows {
		answered(t, conn)
	}
	if repairs := n.Sync(p); len(repairs) != 0 {
		t.Errorf("Sync repairs %q", repairs)
	}
}

// answered sends until there is an answer.
func answered(t testing.TB, conn net.Conn) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(Patience); time.Now().Before(deadline); {
		if err = conn.SetDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err = conn.Write([]byte("ping")); err != nil {
			continue
		}
		if _, err = conn.Read(make([]byte, 8)); err == nil {
			return
		}
	}
	t.Errorf("%s → %s: no answer: %v", conn.LocalAddr(), conn.RemoteAddr(), err)
}

func reflect(inbox net.PacketConn) {
	buf := make([]byte, 65536)
	for {
		n, from, err := inbox.ReadFrom(buf)
		if err != nil {
			return // closed
		}
		if _, err := inbox.WriteTo(buf[:n], from); err != nil {
			return
		}
	}
}

// Pods of one node whose ENIs have different MTUs, and an ENI whose MTU is smaller than
// the pod's device: the sender is told.
func smallerMTUOfAnotherPod(t *testing.T, k Kit) {
	w := k.NewWorld(t, 1, 2)
	n := w.Nodes[0]
	n.Desired.ENIs[1].MTU = 1400
	n.Sync()
	a, b := n.AddPod(1, "4", "6"), n.AddPod(2, "4", "6")
	for _, address := range []netip.Addr{b.V4, b.V6} {
		go reflect(b.ListenPacket("udp", At(address, 7)))
		echo(b.NS, At(address, 7))
		conn := established(t, a, address)
		option(t, conn, address.Is4(), unix.IP_MTU_DISCOVER, unix.IPV6_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
		fails(t, conn, 1440, unix.EMSGSIZE)
		bulk(t, a.NS, At(address, 7))
	}
}

// The node is a router, one hop, for each packet of a flow alike.
func nodeIsOneHop(t *testing.T, k Kit) {
	_, n0, n1 := servicesWorld(t, k)
	a, near, far := n0.AddPod(1, "4", "6"), n0.AddPod(1, "4", "6"), n1.AddPod(1, "4", "6")
	for _, c := range []struct {
		to   *Pod
		want int
	}{{near, 63}, {far, 61}} { // far: two nodes and the VPC's router
		for _, address := range []netip.Addr{c.to.V4, c.to.V6} {
			inbox := c.to.ListenPacket("udp", At(address, 7)).(*net.UDPConn)
			option(t, inbox, address.Is4(), unix.IP_RECVTTL, unix.IPV6_RECVHOPLIMIT, 1)
			conn, err := a.Dial("udp", "", At(address, 7), Patience)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			for i := range 4 {
				if _, err := conn.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
				if got := hops(t, inbox); got != c.want {
					t.Errorf("packet %d to %s arrives with %d hops left, want %d", i, address, got, c.want)
				}
			}
		}
	}
}

// hops is what is left of the next datagram's TTL or hop limit.
func hops(t testing.TB, inbox *net.UDPConn) int {
	t.Helper()
	if err := inbox.SetReadDeadline(time.Now().Add(Patience)); err != nil {
		t.Fatal(err)
	}
	oob := make([]byte, 64)
	_, n, _, _, err := inbox.ReadMsgUDP(make([]byte, 8), oob)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		t.Fatal(messages, err)
	}
	return int(binary.NativeEndian.Uint32(messages[0].Data))
}

// ping asks for echoes and wants as many answers.
func ping(t testing.TB, from *testutil.NS, to netip.Addr) {
	t.Helper()
	network, request := "ip4:icmp", byte(8)
	if to.Is6() {
		network, request = "ip6:ipv6-icmp", 128
	}
	conn, err := from.Dial(network, "", to.String(), Patience)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(Patience)); err != nil {
		t.Fatal(err)
	}
	for sequence := range byte(4) {
		message := []byte{request, 0, 0, 0, 0x12, 0x34, 0, sequence}
		if to.Is4() { // the kernel fills in ICMPv6's
			binary.BigEndian.PutUint16(message[2:], ^(uint16(request)<<8 + 0x1234 + uint16(sequence)))
		}
		if _, err := conn.Write(message); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 256)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				t.Errorf("%s: ping %s: no answer to packet %d: %v", from.Name, to, sequence, err)
				return
			}
			reply := buf[:n]
			if to.Is4() && n > 20 {
				reply = reply[20:] // behind the IP header
			}
			// An echo reply of either family.
			if len(reply) >= 8 && (reply[0] == 0 || reply[0] == 129) && reply[4] == 0x12 && reply[7] == sequence {
				break
			}
		}
	}
}

func pingWorks(t *testing.T, k Kit) {
	w, n0, n1 := servicesWorld(t, k)
	a, near, far := n0.AddPod(1, "4", "6"), n0.AddPod(1, "4", "6"), n1.AddPod(1, "4", "6")
	for _, to := range []netip.Addr{near.V4, near.V6, far.V4, far.V6, n0.V4, n0.V6, n1.V4, netip.MustParseAddr(OutsideV4)} {
		ping(t, a.NS, to)
	}
	ping(t, n0.NS, far.V4)
	ping(t, n0.NS, near.V6)
	ping(t, w.Outside, a.V4)
}
