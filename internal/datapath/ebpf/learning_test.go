package ebpf

import (
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	bpf "github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"terway.dev/terway/internal/datapath/fastpath"
	"terway.dev/terway/internal/datapath/suite/world"
	"terway.dev/terway/internal/datapath/tcfilter"
)

// counts returns the node's counters.
func counts(t *testing.T, n *world.Node) map[string]uint64 {
	t.Helper()
	c, err := own(n).Counters()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// The counter of forgotten connections counts those alone that were on the fast path: a Service's
// packets, which come in with one 5-tuple and leave with another, forget nothing.
func TestTranslatedPacketsForgetNothing(t *testing.T) {
	w := kit.NewWorld(t, 2, 1)
	n := w.Nodes[0]
	n.Sync()
	w.Nodes[1].Sync()
	a, near, far := n.AddPod(1, "4", "6"), n.AddPod(1, "4", "6"), w.Nodes[1].AddPod(1)
	for _, p := range []*world.Pod{near, far} {
		p.Echo(7)
	}
	n.KubeProxy(world.Service{ClusterIP: world.ClusterIP, Port: 7, Endpoint: far.V4}, world.Service{ClusterIP: world.ClusterIP6, Port: 7, Endpoint: near.V6})
	direct := world.StartTalk(t, a.NS, "udp", world.At(far.V4, 7))
	direct.More(5)
	before := counts(t, n)
	for _, network := range []string{"udp", "tcp"} {
		for _, to := range []netip.Addr{world.ClusterIP, world.ClusterIP6} {
			world.Talk(t, a.NS, network, world.At(to, 7), 100)
		}
	}
	direct.More(5)
	direct.End(t)
	after := counts(t, n)
	if after["forgotten"] != before["forgotten"] || after["asked"]-before["asked"] < 400 {
		t.Errorf("of %d packets on the slow path %d forgot a connection, want none", after["asked"]-before["asked"], after["forgotten"]-before["forgotten"])
	}
}

// Packets of a connection on the fast path that go through the host stack, because their ENI is not
// in the map, do not end it.
func TestPacketsOnTheSlowPathForgetNothing(t *testing.T) {
	w := kit.NewWorld(t, 2, 1)
	n := w.Nodes[0]
	n.Sync()
	w.Nodes[1].Sync()
	a, far := n.AddPod(1, "4", "6"), w.Nodes[1].AddPod(1, "4", "6")
	far.Echo(7)
	var conns []net.Conn
	for _, to := range []netip.Addr{far.V4, far.V6} {
		for _, network := range []string{"udp", "tcp"} {
			conn, err := a.Dial(network, "", world.At(to, 7), world.Patience)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close() })
			conns = append(conns, conn)
		}
	}
	exchange := func(when string) {
		t.Helper()
		for range 3 {
			for _, conn := range conns {
				world.Exchanged(t, conn, when)
			}
		}
	}
	exchange("at first")
	known := func() []string {
		return slices.Sorted(maps.Keys(maps.Collect(func(yield func(string, bool) bool) {
			for _, table := range []string{fastpath.MapKnown4, fastpath.MapKnown6} {
				for key, c := range connections(t, n, table) {
					if c.State == fastpath.StateDirect && !yield(key, true) {
						return
					}
				}
			}
		})))
	}
	was, before := known(), counts(t, n)
	if len(was) != len(conns) {
		t.Fatalf("%d connections are known, want %d", len(was), len(conns))
	}
	eni := uint32(index(n, "eth1"))
	if err := own(n).Loader.Objects.Maps[fastpath.MapENIs].Delete(eni); err != nil {
		t.Fatal(err)
	}
	exchange("without the ENI")
	if counts(t, n)["to-eni"] != before["to-eni"] {
		t.Error("packets took the fast path to an ENI that is not in the map: the test is blind")
	}
	n.Sync(a)
	exchange("with the ENI again")
	after := counts(t, n)
	if got := known(); !slices.Equal(got, was) || after["forgotten"] != before["forgotten"] {
		t.Errorf("%d of %d connections stay, %d were forgotten", len(got), len(was), after["forgotten"]-before["forgotten"])
	}
	if after["to-eni"] == before["to-eni"] {
		t.Error("nothing took the fast path again")
	}
}

// IPv6 packets with IPv4 addresses that are mapped are dropped where the pod sends them: they ask the
// host stack nothing, also with the addresses and ports of an IPv4 connection on the fast path.
func TestMappedAddressesAskNothing(t *testing.T) {
	w := kit.NewWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	a, near := n.AddPod(1), n.AddPod(1)
	near.Echo(7)
	conn := world.Established(t, a, near.V4)
	from := netip.MustParseAddrPort(conn.LocalAddr().String())
	mapped := func(a netip.Addr) netip.Addr { return netip.AddrFrom16(a.As16()) }
	before := counts(t, n)
	const frames = 5
	for range frames {
		etherType, packet := world.Datagram(netip.AddrPortFrom(mapped(from.Addr()), from.Port()), netip.AddrPortFrom(mapped(near.V4), 7), []byte("mapped"))
		a.SendFrame(a.Wiring.HostMAC, etherType, packet)
	}
	world.Exchanged(t, conn, "after them, on the same path")
	after := counts(t, n)
	if after["spoofed"]-before["spoofed"] != frames || after["asked"] != before["asked"] {
		t.Errorf("of %d frames %d were dropped, and %d asked", frames, after["spoofed"]-before["spoofed"], after["asked"]-before["asked"])
	}
}

// marker is a program of others behind a pod's, at the node's end of its veth: it notes the token
// that a packet has got and puts another in its place.
type marker struct {
	program *bpf.Program
	// tokens are the one to set (0: none), and the one that was found.
	tokens *bpf.Map
}

func newMarker(t *testing.T, n *world.Node, device string) marker {
	t.Helper()
	tokens, err := bpf.NewMap(&bpf.MapSpec{Type: bpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tokens.Close() })
	const tcIndex = 44 // offset in struct __sk_buff
	program, err := bpf.NewProgram(&bpf.ProgramSpec{Name: "others", Type: bpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, tokens.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
		asm.LoadMem(asm.R1, asm.R6, tcIndex, asm.Word),
		asm.JEq.Imm(asm.R1, 0, "out"), // it has none: it is on the fast path, or not parsed
		asm.StoreMem(asm.R0, 4, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.Word),
		asm.JEq.Imm(asm.R1, 0, "out"),
		asm.StoreMem(asm.R6, tcIndex, asm.R1, asm.Word),
		asm.Mov.Imm32(asm.R0, -1).WithSymbol("out"), // TC_ACT_UNSPEC
		asm.Return(),
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = program.Close() })
	attach(t, world.Others{Program: program}, n, device, tcfilter.Ingress)
	return marker{program, tokens}
}

func (m marker) set(t *testing.T, token uint32) {
	t.Helper()
	if err := m.tokens.Put(uint32(0), [2]uint32{token}); err != nil {
		t.Fatal(err)
	}
}

func (m marker) found(t *testing.T) uint32 {
	t.Helper()
	var v [2]uint32
	if err := m.tokens.Lookup(uint32(0), &v); err != nil {
		t.Fatal(err)
	}
	return v[1]
}

// A connection takes the fast path only by a packet that leaves the host stack with the token which
// the program gave it: one of another boot, or a guess, is not believed, though the packet leaves
// unchanged.
func TestTokensOfOthersAreNotBelieved(t *testing.T) {
	w := kit.NewWorld(t, 2, 1)
	n := w.Nodes[0]
	n.Sync()
	w.Nodes[1].Sync()
	a, far := n.AddPod(1, "4", "6"), w.Nodes[1].AddPod(1, "4", "6")
	m := newMarker(t, n, a.Wiring.HostIfName)
	secrets := own(n).Loader.Objects.Maps[fastpathMapTwNode1]
	for _, ends := range [][2]netip.Addr{{a.V4, far.V4}, {a.V6, far.V6}} {
		t.Run(ends[0].String(), func(t *testing.T) {
			inbox := far.ListenPacket("udp", world.At(ends[1], 9)) // it answers nothing
			// learns sends the connection's first packet, with a token in place of its own if it is
			// not 0.
			learns := func(token uint32) bool {
				t.Helper()
				clearConnections(t, n)
				m.set(t, token)
				before := counts(t, n)
				world.SendFrom(t, a.NS, world.At(ends[0], 5555), world.At(ends[1], 9))
				if err := inbox.SetReadDeadline(time.Now().Add(world.Patience)); err != nil {
					t.Fatal(err)
				}
				if _, _, err := inbox.ReadFrom(make([]byte, 8)); err != nil {
					t.Fatal(err)
				}
				after := counts(t, n)
				if after["asked"] != before["asked"]+1 {
					t.Fatalf("%d packets took the slow path, want 1", after["asked"]-before["asked"])
				}
				return after["learned"] != before["learned"]
			}
			if !learns(0) {
				t.Fatal("a packet with its own token is not believed")
			}
			former := m.found(t)
			boot(t, secrets)
			if !learns(0) {
				t.Fatal("after another boot a packet with its own token is not believed")
			}
			own := m.found(t)
			if own == former { // by chance
				boot(t, secrets)
				learns(0)
				own = m.found(t)
			}
			if learns(former) {
				t.Errorf("token %#x of another boot is believed, the packet's own is %#x", former, own)
			}
			// The highest bit is the policies' (TC_INDEX_REPLY), not the token's.
			for _, guess := range []uint32{1, own ^ 1, own ^ 0x4000, own ^ 0x7fff, own ^ 0xffff} {
				if guess != 0 && learns(guess) {
					t.Errorf("token %#x is believed, the packet's own is %#x", guess, own)
				}
			}
			if !learns(own) {
				t.Error("the packet's own token, set again, is not believed: the test is blind")
			}
		})
	}
}

// boot draws another secret.
func boot(t *testing.T, node *bpf.Map) {
	t.Helper()
	var v fastpathNode
	if err := node.Lookup(uint32(0), &v); err != nil {
		t.Fatal(err)
	}
	v.Secret = rand.Uint64() | 1
	if err := node.Put(uint32(0), v); err != nil {
		t.Fatal(err)
	}
}
