package suite

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath/suite/world"
)

// Errors about an established connection reach the sender: the peer's port is closed, a router's link has
// a smaller MTU, the hop limit is reached.
func icmpErrorsArrive(t *testing.T, k world.Kit) {
	w, n0, n1 := world.ServicesWorld(t, k)
	a, near, far := n0.AddPod(1, "4", "6"), n0.AddPod(1, "4", "6"), n1.AddPod(1, "4", "6")
	for _, to := range []*world.Pod{near, far} {
		for _, address := range []netip.Addr{to.V4, to.V6} {
			inbox := to.ListenPacket("udp", world.At(address, 7))
			go world.Reflect(inbox)
			conn := world.Established(t, a, address)
			world.SetOption(t, conn, address.Is4(), unix.IP_TTL, unix.IPV6_UNICAST_HOPS, 1)
			world.SetOption(t, conn, address.Is4(), unix.IP_RECVERR, unix.IPV6_RECVERR, 1)
			world.Fails(t, conn, 10, unix.EHOSTUNREACH)
			conn = world.Established(t, a, address)
			if err := inbox.Close(); err != nil {
				t.Fatal(err)
			}
			world.Fails(t, conn, 10, unix.ECONNREFUSED)
		}
	}
	w.Fabric.IP(fmt.Sprintf("route replace %s dev %s mtu 1300", far.V4, far.Port))
	w.Fabric.IP(fmt.Sprintf("-6 route replace %s dev %s mtu 1300", far.V6, far.Port))
	for _, address := range []netip.Addr{far.V4, far.V6} {
		inbox := far.ListenPacket("udp", world.At(address, 7))
		go world.Reflect(inbox)
		conn := world.Established(t, a, address)
		world.SetOption(t, conn, address.Is4(), unix.IP_MTU_DISCOVER, unix.IPV6_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
		world.Fails(t, conn, 1400, unix.EMSGSIZE)
	}
}

// When an ENI disappears under an established connection, the pod gets an error at once, not only after
// the next Sync.
func vanishedENIIsUnreachable(t *testing.T, k world.Kit) {
	w := k.NewWorld(t, 2, 2)
	n := w.Nodes[0]
	n.Sync()
	w.Nodes[1].Sync()
	p, far := n.AddPod(2, "4", "6"), w.Nodes[1].AddPod(1, "4", "6")
	var conns []net.Conn
	for _, address := range []netip.Addr{far.V4, far.V6} {
		go world.Reflect(far.ListenPacket("udp", world.At(address, 7)))
		conn := world.Established(t, p, address)
		world.SetOption(t, conn, address.Is4(), unix.IP_RECVERR, unix.IPV6_RECVERR, 1)
		conns = append(conns, conn)
	}
	n.IP("link del eth2")
	for _, conn := range conns {
		world.Fails(t, conn, 10, unix.EHOSTUNREACH, unix.ENETUNREACH)
	}
}

// When the gateway of an ENI does not answer any more and the kernel has given it up, the pod gets an
// error after the next Sync, and its connections continue when the gateway is back. CheckPod finds no error all the time: a runtime
// may kill a pod for which CHECK fails.
func silentGatewayIsUnreachable(t *testing.T, k world.Kit) {
	w := k.NewWorld(t, 2, 1)
	n, port := w.Nodes[0], w.Nodes[0].Port(1)
	n.Sync()
	w.Nodes[1].Sync()
	p, far := n.AddPod(1, "4", "6"), w.Nodes[1].AddPod(1, "4", "6")
	var conns []net.Conn
	for _, address := range []netip.Addr{far.V4, far.V6} {
		go world.Reflect(far.ListenPacket("udp", world.At(address, 7)))
		conn := world.Established(t, p, address)
		world.SetOption(t, conn, address.Is4(), unix.IP_RECVERR, unix.IPV6_RECVERR, 1)
		conns = append(conns, conn)
	}
	for _, family := range []string{"ipv4", "ipv6"} {
		n.Sysctl(family+"/neigh/eth1/retrans_time_ms", "100") // instead of a second for each of three requests
	}
	w.Fabric.IPs("link set "+port+" arp off", "addr del "+world.PodGW6+"/128 dev "+port)
	n.IP("neigh flush dev eth1")
	n.IP("-6 neigh flush dev eth1")
	for _, conn := range conns {
		_, _ = conn.Write([]byte("x")) // triggers a request for the gateway
	}
	check := func(when string) {
		t.Helper()
		if err := n.DP.CheckPod(context.Background(), n.Desired, p.Spec); err != nil {
			t.Errorf("%s: CheckPod: %v", when, err)
		}
	}
	check("the gateway does not answer")
	for deadline := time.Now().Add(world.Patience); strings.Count(n.IP("neigh show dev eth1")+n.IP("-6 neigh show dev eth1"), "FAILED") < 2; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the kernel does not give the gateways up")
		}
	}
	n.Sync(p)
	check("the gateway does not answer, after Sync")
	for _, conn := range conns {
		world.Fails(t, conn, 10, unix.EHOSTUNREACH, unix.ENETUNREACH)
	}
	w.Fabric.IPs("link set "+port+" arp on", "addr add "+world.PodGW6+"/128 dev "+port+" nodad")
	w.Assign(n, 1, p.V4, p.V6) // the fabric has lost the pod's address
	for _, conn := range conns {
		world.Answered(t, conn)
	}
	check("the gateway is back")
	n.Sync(p)
	check("the gateway is back, after Sync")
	for _, conn := range conns {
		world.Answered(t, conn)
	}
	if repairs := n.Sync(p); len(repairs) != 0 {
		t.Errorf("Sync repairs %q", repairs)
	}
}

// Pods of one node whose ENIs have different MTUs, and an ENI whose MTU is smaller than the pod's
// device: the sender gets an error.
func smallerMTUOfAnotherPod(t *testing.T, k world.Kit) {
	w := k.NewWorld(t, 1, 2)
	n := w.Nodes[0]
	n.Desired.ENIs[1].MTU = 1400
	n.Sync()
	a, b := n.AddPod(1, "4", "6"), n.AddPod(2, "4", "6")
	for _, address := range []netip.Addr{b.V4, b.V6} {
		go world.Reflect(b.ListenPacket("udp", world.At(address, 7)))
		world.EchoOn(b.NS, world.At(address, 7))
		conn := world.Established(t, a, address)
		world.SetOption(t, conn, address.Is4(), unix.IP_MTU_DISCOVER, unix.IPV6_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
		world.Fails(t, conn, 1440, unix.EMSGSIZE)
		world.Bulk(t, a.NS, world.At(address, 7))
	}
}

// The node is a router, one hop, for every packet of a connection.
func nodeIsOneHop(t *testing.T, k world.Kit) {
	_, n0, n1 := world.ServicesWorld(t, k)
	a, near, far := n0.AddPod(1, "4", "6"), n0.AddPod(1, "4", "6"), n1.AddPod(1, "4", "6")
	for _, c := range []struct {
		to   *world.Pod
		want int
	}{{near, 63}, {far, 61}} { // far: two nodes and the VPC's router
		for _, address := range []netip.Addr{c.to.V4, c.to.V6} {
			inbox := c.to.ListenPacket("udp", world.At(address, 7)).(*net.UDPConn)
			world.SetOption(t, inbox, address.Is4(), unix.IP_RECVTTL, unix.IPV6_RECVHOPLIMIT, 1)
			conn, err := a.Dial("udp", "", world.At(address, 7), world.Patience)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			for i := range 4 {
				if _, err := conn.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
				if got := world.Hops(t, inbox); got != c.want {
					t.Errorf("packet %d to %s arrives with %d hops left, want %d", i, address, got, c.want)
				}
			}
		}
	}
}

func pingWorks(t *testing.T, k world.Kit) {
	w, n0, n1 := world.ServicesWorld(t, k)
	a, near, far := n0.AddPod(1, "4", "6"), n0.AddPod(1, "4", "6"), n1.AddPod(1, "4", "6")
	for _, to := range []netip.Addr{near.V4, near.V6, far.V4, far.V6, n0.V4, n0.V6, n1.V4, netip.MustParseAddr(world.OutsideV4)} {
		world.Ping(t, a.NS, to)
	}
	world.Ping(t, n0.NS, far.V4)
	world.Ping(t, n0.NS, near.V6)
	world.Ping(t, w.Outside, a.V4)
}
