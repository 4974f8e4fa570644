package exclusive

import (
	"net/netip"
	"strings"
	"testing"

	"terway.dev/terway/internal/bandwidth"
	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/shaping"
	"terway.dev/terway/internal/datapath/suite/limited"
	"terway.dev/terway/internal/datapath/suite/world"
)

// What limits of their bandwidth do to pods of this kind.
func TestLimits(t *testing.T) {
	limited.Run(t, exclusiveKit(), func(o world.Options, f node.Feature) (world.Subject, error) { return newSubject(o, f) })
}

// Network priority has no effect on pods of this kind, who share their ENI with nobody: it has no queue, and no address of theirs has a class.
func TestPriorityHasNoEffect(t *testing.T) {
	k := exclusiveKit()
	k.ENIMbit = 4000
	f := shaping.NewPriorities()
	k.New = func(o world.Options) (world.Subject, error) { return newSubject(o, f) }
	w := k.NewWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	if out := n.Run("tc", "qdisc", "show", "dev", "eth1"); !strings.Contains(out, "htb 747c: root") {
		t.Errorf("the shared ENI has no queue: %s", out)
	}
	p := n.Describe(1, "4", "6")
	p.Spec.Priority = bandwidth.Guaranteed
	p.Add()
	if repairs := n.Sync(p); len(repairs) != 0 {
		t.Errorf("Sync repairs %q", repairs)
	}
	if out := p.Run("tc", "qdisc", "show"); strings.Contains(out, "htb") {
		t.Errorf("the pod has a queue: %s", out)
	}
	world.Ping(t, p.NS, netip.MustParseAddr(world.PodGW))
	share, own := &node.Pod{}, &node.Pod{Pod: datapath.Pod{Exclusive: &datapath.ENI{}}}
	if in, out := f.Objects(share, nil), f.Objects(own, nil); len(in) != 1 || len(out) != 0 {
		t.Errorf("a pod has %d objects, want 1, with an exclusive ENI %d, want none", len(in), len(out))
	}
}

// A limit that comes later lets packets of the ENI's own MTU pass, which nobody has told the agent.
func TestLimitOfLargePackets(t *testing.T) {
	k := exclusiveKit()
	k.New = func(o world.Options) (world.Subject, error) { return newSubject(o, shaping.New()) }
	w := k.NewWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	p := n.Describe(1, "4")
	n.IP("link set eth" + strings.TrimPrefix(p.Port, "n0e") + " mtu 8500")
	w.Fabric.IP("link set " + p.Port + " mtu 8500")
	p.Add()
	p.Spec.Limits = &bandwidth.Limits{Egress: 10e6}
	n.Sync(p)
	to := world.At(netip.MustParseAddr(world.PodGW), 9)
	inbox := w.Fabric.ListenPacket("udp", to)
	conn, err := p.Dial("udp", "", to, world.Patience)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(append([]byte("large"), make([]byte, 8000)...)); err != nil {
		t.Fatal(err)
	}
	world.Received(t, inbox, "large")
}
