package exclusive

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/suite/world"
)

// withKinds makes each node's datapath with a kind that prepare may change, and returns those of the node with a path.
func withKinds(prepare func(Kind)) (world.Kit, map[string]Kind) {
	k, kinds := kit, map[string]Kind{}
	k.New = func(o world.Options) (world.Subject, error) {
		kind := New().(Kind)
		prepare(kind)
		kinds[o.NetNS] = kind
		return node.New(node.Options{NetNS: o.NetNS, Log: o.Log, Kinds: []node.Kind{kind, node.Plain{KindName: claims.Route}}})
	}
	return k, kinds
}

// ownPods returns two nodes of which eth2 and eth3 are exclusive.
func ownPods(t *testing.T, k world.Kit) (w *world.World, n0, n1 *world.Node) {
	w = k.NewWorld(t, 2, 3)
	for _, n := range w.Nodes {
		n.Desired.ENIs = n.Desired.ENIs[:1]
		n.KubeProxy() // before the agent
		n.Sync()
	}
	return w, w.Nodes[0], w.Nodes[1]
}

func talk(t *testing.T, p *world.Pod, network, to string, bytes int) {
	t.Helper()
	conn, err := p.Dial(network, "", to, world.Patience)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 3 {
		exchange(t, conn, bytes)
	}
}

func exchange(t *testing.T, conn net.Conn, bytes int) {
	t.Helper()
	if _, err := conn.Write(make([]byte, bytes)); err != nil {
		t.Fatal(err)
	}
	for got := 0; got < bytes; {
		n, err := conn.Read(make([]byte, bytes))
		if err != nil {
			t.Fatalf("%s to %s: %d of %d bytes came back: %v", conn.LocalAddr(), conn.RemoteAddr(), got, bytes, err)
		}
		got += n
	}
}

// TCP and UDP by Services, IPv4 and IPv6, also packets in fragments, errors, and more at once than a packet holds.
func TestEveryProtocolTurnsAround(t *testing.T) {
	w, n0, n1 := twoNodes(t)
	n0.Desired.ServiceCIDRs = append(n0.Desired.ServiceCIDRs, netip.MustParsePrefix(world.ServiceCIDR6))
	n0.Sync()
	own, near, far := add(n0, 2), add(n0, 3), add(n1, 2)
	shared, farShared := n0.AddPod(1, "4", "6"), n1.AddPod(1, "4", "6")
	for _, p := range []*world.Pod{near, far, shared, farShared, own} {
		p.Echo(7)
		n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, Port: 7, Endpoint: p.V4}, world.Service{ClusterIP: world.ClusterIP6, Port: 7, Endpoint: p.V6})
		for _, c := range []struct {
			to    netip.Addr
			bytes int
			name  string
		}{{world.ClusterIP, 100, "IPv4"}, {world.ClusterIP, 4000, "IPv4, in fragments"}, {world.ClusterIP6, 100, "IPv6"}, {world.ClusterIP6, 4000, "IPv6, in fragments"}} {
			t.Run(fmt.Sprintf("%s, UDP, %s", p.Name, c.name), func(t *testing.T) { talk(t, own, "udp", world.At(c.to, 7), c.bytes) })
		}
		for _, to := range []netip.Addr{world.ClusterIP, world.ClusterIP6} {
			t.Run(fmt.Sprintf("%s, TCP to %s", p.Name, to), func(t *testing.T) { talk(t, own, "tcp", world.At(to, 7), 60_000) })
		}
	}
	n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, Port: 9, Endpoint: far.V4}, world.Service{ClusterIP: world.ClusterIP6, Port: 9, Endpoint: far.V6})
	for _, to := range []netip.Addr{world.ClusterIP, world.ClusterIP6} {
		conn, err := own.Dial("udp", "", world.At(to, 9), world.Patience)
		if err != nil {
			t.Fatal(err)
		}
		world.Fails(t, conn, 10, unix.ECONNREFUSED)
		conn.Close()
	}
	if got := w.Strict(); got != 0 {
		t.Errorf("the VPC dropped %d packets with a source on the wrong ENI", got)
	}
}

// What the pod opens by itself to the endpoint of a Service has its answers, from the port of a connection that was the node's.
func TestADirectConnectionAfterATranslatedOne(t *testing.T) {
	_, n0, n1 := twoNodes(t)
	own, far := add(n0, 2), add(n1, 2)
	far.Echo(7)
	n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, Port: 7, Endpoint: far.V4})
	for _, network := range []string{"tcp", "udp"} {
		for _, to := range []netip.Addr{world.ClusterIP, far.V4, world.ClusterIP, far.V4} {
			conn, err := own.Dial(network, world.At(own.V4, 5000), world.At(to, 7), world.Patience)
			if err != nil {
				t.Fatalf("%s to %s: %v", network, to, err)
			}
			exchange(t, conn, 100)
			if tcp, is := conn.(*net.TCPConn); is { // no TIME_WAIT, which keeps the port
				if err := tcp.SetLinger(0); err != nil {
					t.Fatal(err)
				}
			}
			conn.Close()
			n0.Forget()
		}
	}
}

// Connections go on when the agent restarts, though a packet may be lost when a device gets its first program; those that an older one masqueraded stay so, and new ones have the pod's address.
func TestTurnsBeginUnderTraffic(t *testing.T) {
	old := true
	k, kinds := withKinds(func(kind Kind) {
		if old {
			kind.turns.lacks = errors.New("an agent that knows nothing of it")
		}
	})
	_, n0, n1 := ownPods(t, k)
	own, far := add(n0, 2), serving(add(n1, 2))
	far.Echo(7)
	n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, Port: 7, Endpoint: far.V4}, world.Service{ClusterIP: world.ClusterIP, Endpoint: far.V4})
	reaches := func(seen netip.Addr) {
		t.Helper()
		world.MustReach(t, own.NS, world.At(world.ClusterIP, 80), far.NS, seen)
	}
	var talks []*world.Talking
	begin := func() {
		t.Helper()
		for _, network := range []string{"tcp", "udp"} {
			talks = append(talks, world.StartRepeatingTalk(t, own.NS, network, world.At(world.ClusterIP, 7)))
		}
		for _, k := range talks {
			k.More(20)
		}
	}
	n0.Sync(own)
	reaches(n0.V4)
	begin()
	old = false
	for range 2 {
		n0.DP = n0.NewDatapath()
		n0.Sync(own)
		if err := kinds[n0.Path].turns.lacking(); err != nil {
			t.Fatal(err)
		}
		if repairs := n0.Sync(own); len(repairs) != 0 {
			t.Errorf("another Sync repairs %q", repairs)
		}
		reaches(own.V4)
		begin()
	}
	for _, k := range talks {
		k.End(t)
	}
}

// What is on the node goes with the pods, however they end, and with the datapath.
func TestTurnsGoWithTheirPods(t *testing.T) {
	k, kinds := withKinds(func(Kind) {})
	_, n0, _ := ownPods(t, k)
	turns := kinds[n0.Path].turns
	entries := func() (n int) {
		var key programsAddr
		var value programsOwnEni
		it := turns.entries().Iterate()
		for it.Next(&key, &value) {
			n++
		}
		return n
	}
	programs := func() bool {
		return strings.Contains(n0.Run("tc", "filter", "show", "dev", "eth0", "egress"), "tw_turn")
	}
	if programs() {
		t.Error("programs without a pod")
	}
	a, b := add(n0, 2), add(n0, 3)
	if entries() != 4 || !programs() {
		t.Errorf("%d entries, want 4; programs: %t", entries(), programs())
	}
	a.Del()
	if entries() != 2 {
		t.Errorf("%d entries after DEL, want 2", entries())
	}
	n0.IP("link del " + b.Wiring.HostIfName)
	n0.Sync()
	if entries() != 0 || programs() {
		t.Errorf("%d entries when the last pod is gone, want none; programs: %t", entries(), programs())
	}
	// Sync leaves the qdiscs of the programs that it removes.
	if err := n0.DP.Teardown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if qdiscs := n0.Run("tc", "qdisc", "show"); strings.Contains(qdiscs, "clsact") {
		t.Errorf("after Teardown there is a qdisc of programs that are gone:\n%s", qdiscs)
	}
	n0.Sync()
	n0.Settle()
	n0.IP("link set " + nodeName(n0.MAC(2)) + " name eth2")
	add(n0, 2)
	if err := n0.DP.Teardown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if programs() {
		t.Error("programs after Teardown")
	}
}

// What a pod removes of its own is put back.
func TestTurnsAreRepaired(t *testing.T) {
	_, n0, n1 := twoNodes(t)
	own, far := add(n0, 2), serving(add(n1, 2))
	n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, Endpoint: far.V4})
	n0.Sync(own)
	for cut, do := range map[string]func(){
		"veth1":   func() { own.Run("tc", "filter", "del", "dev", "veth1", "ingress") },
		"ingress": func() { own.Run("tc", "filter", "del", "dev", "eth0", "ingress") },
		"egress":  func() { own.Run("tc", "qdisc", "del", "dev", "eth0", "clsact") },
		"host":    func() { n0.Run("tc", "filter", "del", "dev", own.Wiring.HostIfName, "egress") },
		"node":    func() { n0.Run("tc", "filter", "del", "dev", "eth0", "egress") },
	} {
		do()
		if repairs := n0.Sync(own); len(repairs) == 0 {
			t.Errorf("%s: Sync repairs nothing", cut)
		}
		if repairs := n0.Sync(own); len(repairs) != 0 {
			t.Errorf("%s: another Sync repairs %q", cut, repairs)
		}
		world.MustReach(t, own.NS, world.At(world.ClusterIP, 80), far.NS, own.V4)
	}
}

// Where another program leaves no place for the programs, Services see the node.
func TestNothingTurnsWithoutPrograms(t *testing.T) {
	_, n0, n1 := twoNodes(t)
	far := serving(add(n1, 2))
	n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, Endpoint: far.V4})
	n0.Run("tc", "qdisc", "add", "dev", "eth0", "ingress")
	own := add(n0, 2)
	reaches := func(seen netip.Addr) {
		t.Helper()
		world.MustReach(t, own.NS, world.At(world.ClusterIP, 80), far.NS, seen)
	}
	reaches(n0.V4)
	_, err := n0.TrySync(own)
	if _, obstacles, rest := datapath.Sort(err); len(obstacles) != 1 || !strings.Contains(obstacles[0], "eth0") || rest != nil {
		t.Errorf("Sync says %v, want an obstacle about eth0", err)
	}
	reaches(n0.V4)
	n0.Run("tc", "qdisc", "del", "dev", "eth0", "ingress")
	n0.Sync(own)
	reaches(own.V4)
}
