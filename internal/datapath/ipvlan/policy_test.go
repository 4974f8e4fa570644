//go:build vm

package ipvlan

import (
	"errors"
	"maps"
	"net"
	"net/netip"
	"strings"
	"testing"

	bpf "github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/ebpf"
	"terway.dev/terway/internal/datapath/fastpath"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/suite/policed"
	"terway.dev/terway/internal/datapath/suite/world"
	"terway.dev/terway/internal/datapath/tcfilter"
	"terway.dev/terway/internal/testutil"
)

// enforcer is the node's, with the tables of connections of this kind.
type enforcer struct {
	*ebpf.Policy
	k *Kind
}

func (e enforcer) Prepare() (map[string]*bpf.Map, error) {
	all, err := e.Policy.Prepare()
	if err != nil {
		return nil, err
	}
	e.k.Lock()
	defer e.k.Unlock()
	if e.k.Loader.Objects == nil {
		return all, nil
	}
	all = maps.Clone(all)
	for _, name := range []string{fastpath.MapKnown4, fastpath.MapKnown6, fastpath.MapPending4, fastpath.MapPending6} {
		all[name] = e.k.Loader.Objects.Maps[name]
	}
	return all, nil
}

func newPoliced(o world.Options) (world.Subject, policed.Enforcer, error) { return policedWith(o) }

func policedWith(o world.Options, features ...node.Feature) (world.Subject, policed.Enforcer, error) {
	programs := ebpf.New(4096)
	k, p := New(4096, programs), programs.Policy()
	n, err := node.New(node.Options{NetNS: o.NetNS, Log: o.Log, Kinds: []node.Kind{programs, k, node.Plain{KindName: claims.Route}}, Features: append(features, p)})
	return &subject{n, k}, enforcer{p, k}, err
}

// What policies do to pods of this kind.
func TestPolicy(t *testing.T) { policed.Run(t, kit, newPoliced) }

// policedWorld is a world of two nodes that enforce policies, none of which there are.
func policedWorld(t *testing.T) *world.World {
	w := policed.New().Kit(kit, newPoliced).NewWorld(t, 2, 2)
	w.Nodes[0].Sync()
	w.Nodes[1].Sync()
	return w
}

// Allowed connections take the fast path while policies are on.
func TestPolicedConnectionsGoDirectly(t *testing.T) {
	w := policedWorld(t)
	n0, n1 := w.Nodes[0], w.Nodes[1]
	a, near, far := n0.AddPod(1, "4", "6"), n0.AddPod(2), n1.AddPod(1)
	for _, c := range []struct {
		to      *world.Pod
		counter string
	}{{near, "to-pod"}, {far, "to-eni"}} {
		count := func() uint64 {
			t.Helper()
			counts, err := n0.DP.(*policed.Node).Subject.(*subject).kind.Counters()
			if err != nil {
				t.Fatal(err)
			}
			return counts[c.counter]
		}
		c.to.Echo(7)
		conn, err := a.Dial("tcp", "", world.At(c.to.V4, 7), world.Patience)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		before := count()
		for range 5 {
			world.Exchanged(t, conn, "allowed")
		}
		if got := count() - before; got < 5 {
			t.Errorf("%s: %d packets took the fast path, want those of 5 exchanges", c.to.Name, got)
		}
	}
}

// write sends a frame by a pod's eth0, past the programs at what the device sends. said is the protocol that the kernel is told of.
func write(t *testing.T, p *world.Pod, dst, src net.HardwareAddr, mark int, said, etherType uint16, packet []byte) {
	t.Helper()
	if err := p.Do(func() error {
		device, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := errors.Join(unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1), unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, mark)); err != nil {
			return err
		}
		frame := append(append(append([]byte{}, dst...), src...), byte(etherType>>8), byte(etherType))
		return unix.Sendto(fd, append(frame, packet...), 0, &unix.SockaddrLinklayer{Protocol: said<<8 | said>>8, Ifindex: device.Index, Halen: 6})
	}); err != nil && !errors.Is(err, unix.ENOBUFS) {
		t.Fatal(err)
	}
}

// A pod that writes frames past the programs of its own device, which needs CAP_NET_RAW alone, reaches nobody by them.
func TestFramesPastThePrograms(t *testing.T) {
	w := policedWorld(t)
	n0, n1 := w.Nodes[0], w.Nodes[1]
	thief, victim, target, far := n0.AddPod(1, "4", "6"), n0.AddPod(1, "4", "6"), n0.AddPod(1, "4", "6"), n1.AddPod(1, "4", "6")
	eni, own := thief.Wiring.PodMAC, thief.Wiring.HostMAC
	inboxes := map[netip.Addr]net.PacketConn{}
	for _, a := range []netip.Addr{target.V4, target.V6, far.V4, far.V6, n0.V4, n0.V6} {
		ns := map[netip.Addr]*testutil.NS{target.V4: target.NS, target.V6: target.NS, far.V4: far.NS, far.V6: far.NS}[a]
		if ns == nil {
			ns = n0.NS
		}
		inboxes[a] = ns.ListenPacket("udp", world.At(a, 5000))
	}
	datagram := func(from *world.Pod, to netip.Addr, text string) (uint16, []byte) {
		source := from.V4
		if to.Is6() {
			source = from.V6
		}
		return world.Datagram(netip.AddrPortFrom(source, 5000), netip.AddrPortFrom(to, 5000), []byte(text))
	}
	for to, inbox := range inboxes {
		for name, c := range map[string]struct{ dst, src net.HardwareAddr }{
			"the ENI's MAC": {eni, eni}, "two equal MACs": {own, own}, "broadcast": {net.HardwareAddr{255, 255, 255, 255, 255, 255}, eni},
			"the gateway": {world.MACOf(t, w.Fabric, n0.Port(1)), eni}, "the next hop": {own, eni}, "the other's next hop": {victim.Wiring.HostMAC, eni},
		} {
			for _, from := range []*world.Pod{thief, victim} {
				for _, mark := range []int{0, int(claims.MarkOf(1))} {
					kind, packet := datagram(from, to, "past them to "+name)
					for _, said := range []uint16{kind, kind ^ unix.ETH_P_IP ^ unix.ETH_P_IPV6, 0x88b5 /* for experiments */} {
						write(t, thief, c.dst, c.src, mark, said, kind, packet)
					}
				}
			}
		}
		kind, packet := datagram(thief, to, "through them")
		thief.SendFrame(own, kind, packet)
		if got := world.Received(t, inbox, "through them"); strings.Contains(got, "past them") {
			t.Errorf("what the pod's own programs have not seen arrived at %s: %q", to, got)
		}
	}
}

// What a pod removes from its own device is put back, what it puts before it is removed, and both are said.
func TestPodRemovesItsProgram(t *testing.T) {
	n0 := policedWorld(t).Nodes[0]
	p := n0.AddPod(1, "4", "6")
	n0.Sync(p)
	accepts := world.NewOthers(t, 0)
	before := func(parent uint32) func() error {
		return func() error {
			eth0, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			return netlink.FilterAdd(&netlink.BpfFilter{
				FilterAttrs: netlink.FilterAttrs{LinkIndex: eth0.Attrs().Index, Parent: parent, Handle: 7, Protocol: unix.ETH_P_ALL, Priority: 1},
				Fd:          accepts.Program.FD(), Name: "others", DirectAction: true,
			})
		}
	}
	remove := func(direction string) func() error {
		return func() error { p.Run("tc", "filter", "del", "dev", "eth0", direction, "pref", "85"); return nil }
	}
	for _, c := range []struct {
		name string
		do   func() error
		says string
	}{
		{"remove egress", remove("egress"), fromSlave + " is missing"}, {"remove ingress", remove("ingress"), intoSlave + " is missing"},
		{"before egress", before(tcfilter.Egress), "is before program"}, {"before ingress", before(tcfilter.Ingress), "is before program"},
	} {
		if err := p.Do(c.do); err != nil {
			t.Fatal(err)
		}
		_, err := n0.TrySync(p)
		pods, _, rest := datapath.Sort(err)
		var removed *datapath.Tampered
		if rest != nil || len(pods) != 1 || !errors.As(pods[0], &removed) || removed.Of != datapath.OfPolicies || !strings.Contains(pods[0].Error(), c.says) {
			t.Errorf("%s: Sync says %v, want %q", c.name, err, c.says)
		}
		if repairs := n0.Sync(p); len(repairs) != 0 {
			t.Errorf("%s: another Sync repairs %q", c.name, repairs)
		}
	}
}

// Programs of policies that are left over go when policies are off, and none of them makes a pod lose packets.
func TestNoneIsLeft(t *testing.T) {
	w := policedWorld(t)
	n0, n1 := w.Nodes[0], w.Nodes[1]
	p, far := n0.AddPod(1, "4", "6"), world.Serving(n1.AddPod(1))
	if err := n0.DP.(*policed.Node).Off(); err != nil {
		t.Fatal(err)
	}
	n0.Sync(p)
	world.MustReach(t, p.NS, world.At(far.V4, 80), far.NS, p.V4)
	for _, shown := range []string{
		n0.Run("tc", "filter", "show", "dev", p.Wiring.HostIfName, "ingress"), p.Run("tc", "filter", "show", "dev", "eth0", "ingress"),
		n0.Run("tc", "filter", "show", "dev", claims.ReceiverName(n0.MAC(1)), "ingress"),
	} {
		if strings.Contains(shown, "tw_") {
			t.Errorf("left:\n%s", shown)
		}
	}
	if repairs := n0.Sync(p); len(repairs) != 0 {
		t.Errorf("another Sync repairs %q", repairs)
	}
}
