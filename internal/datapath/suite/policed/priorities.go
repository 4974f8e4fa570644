package policed

import (
	"testing"

	"terway.dev/terway/internal/bandwidth"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/suite/prioritized"
	"terway.dev/terway/internal/datapath/suite/world"
)

// The programs that judge use a packet's priority, as the queue of an ENI does: neither takes what the other one has written for its
// own, whichever was attached last.
func packetsHaveTheirClass(t *testing.T, e *env) {
	pod := func(n *world.Node, app string, priority bandwidth.Priority) *world.Pod {
		p := n.Describe(1, "4", "6")
		p.Spec.Priority = priority
		return e.start(p, app)
	}
	client, far, other := pod(e.n0, "client", bandwidth.Guaranteed), pod(e.n1, "far", ""), pod(e.n1, "other", "")
	e.apply(t, outOf("client", app("far")))
	judged := func(when string) {
		t.Helper()
		prioritized.Leaves(t, when+", opened by the pod", client, "eth1", bandwidth.Guaranteed, func() { world.Bulk(t, client.NS, world.At(far.V4, 7)) })
		prioritized.Leaves(t, when+", opened by the other", client, "eth1", bandwidth.Guaranteed, func() { world.Bulk(t, far.NS, world.At(client.V6, 7)) })
		for _, to := range []string{world.At(other.V4, 80), world.At(other.V6, 80), world.At(e.n0.V4, 8080), world.At(e.n0.V6, 8080)} {
			reaches(t, client.NS, to, false)
		}
	}
	judged("at first")

	inbox := e.n0.ListenPacket("udp", world.At(e.n0.V4, 9))
	conn, err := client.Dial("udp", "", world.At(e.n0.V4, 9), world.Patience)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, priority := range []uint32{0, claims.QdiscENI<<16 | 0x10, claims.QdiscENI << 16} {
		world.SetPriority(t, conn, priority)
		if _, err := conn.Write([]byte("denied")); err != nil {
			t.Fatal(err)
		}
	}
	e.apply(t, outOf("client", app("far"), node(0)))
	if _, err := conn.Write([]byte("allowed")); err != nil {
		t.Fatal(err)
	}
	if got := world.Received(t, inbox, "allowed"); got != "allowed" {
		t.Errorf("the node has got %q", got)
	}
	e.apply(t, outOf("client", app("far")))

	e.n0.Run("tc", "filter", "del", "dev", "eth1", "egress")
	e.n0.Sync(client)
	judged("after all programs were attached again")
	e.n0.DP = e.n0.NewDatapath()
	e.n0.Sync(client)
	judged("after a restart")
	total := e.n0.Desired.ENIMbit
	e.n0.Desired.ENIMbit = 0
	e.n0.Sync(client)
	reaches(t, client.NS, world.At(far.V4, 80), true)
	reaches(t, client.NS, world.At(other.V4, 80), false)
	reaches(t, client.NS, world.At(e.n0.V4, 8080), false)
	e.n0.Desired.ENIMbit = total
	e.n0.Sync(client)
	judged("after priorities were turned off and on")
}
