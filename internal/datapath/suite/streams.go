package suite

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"terway.dev/terway/internal/datapath/suite/world"
)

func bulkArrivesWhole(t *testing.T, k world.Kit) {
	_, n0, n1 := world.ServicesWorld(t, k)
	a, near, far := n0.AddPod(1, "4", "6"), n0.AddPod(1, "4", "6"), n1.AddPod(1, "4", "6")
	for _, n := range []*world.Node{n0, n1} {
		world.EchoOn(n.NS, world.At(n.V4, 7))
	}
	n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, Port: 7, Endpoint: far.V4})
	for _, p := range []*world.Pod{near, far} {
		world.EchoOn(p.NS, world.At(p.V4, 7))
		world.EchoOn(p.NS, world.At(p.V6, 7))
		world.Bulk(t, a.NS, world.At(p.V4, 7))
		world.Bulk(t, a.NS, world.At(p.V6, 7))
		world.Bulk(t, n0.NS, world.At(p.V4, 7))
	}
	world.Bulk(t, a.NS, world.At(n0.V4, 7))
	world.Bulk(t, a.NS, world.At(n1.V4, 7))
	world.Bulk(t, a.NS, world.At(world.ClusterIP, 7))
}

// The agent restarts repeatedly, and no connection is affected: every request by TCP or UDP is
// answered.
func restartInMidTraffic(t *testing.T, k world.Kit) {
	w, n0, n1 := world.ServicesWorld(t, k)
	a, near, far := n0.AddPod(1, "4", "6"), n0.AddPod(1, "4", "6"), n1.AddPod(1, "4", "6")
	n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, Port: 7, NodePort: 30007, Endpoint: far.V4})
	for _, p := range []*world.Pod{a, near, far} {
		world.EchoOn(p.NS, world.At(p.V4, 7))
		world.EchoOn(p.NS, world.At(p.V6, 7))
		go world.Reflect(p.ListenPacket("udp", world.At(p.V4, 7)))
	}
	talks := []*world.Talking{
		world.StartTalk(t, a.NS, "tcp", world.At(near.V4, 7)), world.StartTalk(t, a.NS, "tcp", world.At(far.V4, 7)),
		world.StartTalk(t, a.NS, "tcp", world.At(near.V6, 7)), world.StartTalk(t, a.NS, "tcp", world.At(far.V6, 7)),
		world.StartTalk(t, far.NS, "tcp", world.At(a.V4, 7)), world.StartTalk(t, n0.NS, "tcp", world.At(a.V4, 7)),
		world.StartTalk(t, a.NS, "tcp", world.At(world.ClusterIP, 7)), world.StartTalk(t, w.Outside, "tcp", world.At(n0.V4, 30007)),
		world.StartTalk(t, a.NS, "udp", world.At(near.V4, 7)), world.StartTalk(t, far.NS, "udp", world.At(a.V4, 7)),
	}
	for _, k := range talks {
		k.More(20)
	}
	for range 5 {
		n0.DP = n0.NewDatapath()
		n0.Sync(a, near)
		// Other pods are added and deleted meanwhile.
		n0.AddPod(1, "4", "6").Del()
	}
	for _, k := range talks {
		k.End(t)
	}
}

// Datagrams larger than the MTU, between small ones.
func fragmentsArrive(t *testing.T, k world.Kit) {
	_, n0, n1 := world.ServicesWorld(t, k)
	a, near, far := n0.AddPod(1, "4", "6"), n0.AddPod(1, "4", "6"), n1.AddPod(1, "4", "6")
	for _, to := range []*world.Pod{near, far} {
		for _, address := range []netip.Addr{to.V4, to.V6} {
			go world.Reflect(to.ListenPacket("udp", world.At(address, 7)))
			conn, err := a.Dial("udp", "", world.At(address, 7), world.Patience)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			buf := make([]byte, 65536)
			for _, size := range []int{100, 4000, 100, 20000, 1473, 100} {
				sent := bytes.Repeat([]byte{byte(size)}, size)
				if err := conn.SetDeadline(time.Now().Add(world.Patience)); err != nil {
					t.Fatal(err)
				}
				if _, err := conn.Write(sent); err != nil {
					t.Fatal(err)
				}
				n, err := conn.Read(buf)
				if err != nil || !bytes.Equal(buf[:n], sent) {
					t.Errorf("to %s: %d bytes went, %d came back: %v", address, size, n, err)
				}
			}
		}
	}
}
