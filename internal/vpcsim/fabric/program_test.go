package fabric

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"pgregory.net/rapid"

	"terway.dev/terway/internal/testutil"
)

// These tests run the program on single packets without devices: BPF_PROG_TEST_RUN with lo as
// the sending port. They see only the verdict.

const (
	verdictDrop    = 2 // TC_ACT_SHOT
	verdictDeliver = 7 // TC_ACT_REDIRECT
	sendingPort    = 1 // lo's ifindex in every namespace
	receivingPort  = 4711
)

var senderMAC = [6]byte{0, 0x16, 0x3e, 0, 0, 1}

// bench is the program with maps of its own.
type bench struct {
	objs *programObjects
}

func newBench(t *testing.T) *bench {
	testutil.RequireRoot(t)
	objs := &programObjects{}
	if err := loadProgramObjects(objs, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { objs.Close() })
	return &bench{objs}
}

type fataler interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

// set fills the maps with a topology of one sender and one receiver, and clears the flows.
func (b *bench) set(t fataler, top *Topology) {
	t.Helper()
	img, err := compile(top, &Options{Strict: true}, map[string]uint32{"eni-1": sendingPort, "eni-2": receivingPort}, nil)
	if err != nil {
		t.Fatal(err)
	}
	replace(t, b.objs.Ports, img.ports)
	replace(t, b.objs.Addrs, img.addrs)
	replace(t, b.objs.Routes, img.routes)
	replace(t, b.objs.Rules, img.rules)
	replace(t, b.objs.Flows, map[programFlowKey]programFlow{})
}

func replace[K, V comparable](t fataler, m *ebpf.Map, want map[K]V) {
	t.Helper()
	tb := &table[K, V]{name: "test", m: m}
	if err := tb.put(want); err != nil {
		t.Fatal(err)
	}
	if err := tb.prune(want); err != nil {
		t.Fatal(err)
	}
}

// send runs the program on one frame.
func (b *bench) send(t fataler, frame []byte) uint32 {
	t.Helper()
	ctx := make([]byte, 192) // struct __sk_buff
	binary.NativeEndian.PutUint32(ctx[40:], sendingPort)
	verdict, err := b.objs.FabricPort.Run(&ebpf.RunOptions{Data: frame, Context: ctx})
	if err != nil {
		t.Fatalf("run the program on %x: %v", frame, err)
	}
	return verdict
}

func twoPorts(groups1, groups2 []string, all []SecurityGroup) *Topology {
	port := func(n byte, groups []string) Port {
		return Port{
			ENI: "eni-" + string('0'+rune(n)), VPC: "vpc-1", VSwitch: "vsw-a", MAC: [6]byte{0, 0x16, 0x3e, 0, 0, n}, MTU: 1500,
			Addresses: []netip.Addr{
				netip.AddrFrom4([4]byte{10, 1, 0, n}),
				netip.AddrFrom16([16]byte{0x20, 0x01, 0xd, 0xb8, 15: n}),
			},
			SecurityGroups: groups,
		}
	}
	return &Topology{
		VSwitches: []VSwitch{{ID: "vsw-a", VPC: "vpc-1", CIDR: netip.MustParsePrefix("10.1.0.0/24"), CIDR6: netip.MustParsePrefix("2001:db8::/64")}},
		Instances: []Instance{
			{ID: "i-1", Running: true, Ports: []Port{port(1, groups1)}},
			{ID: "i-2", Running: true, Ports: []Port{port(2, groups2)}},
		},
		SecurityGroups: all,
	}
}

// segment is a packet as the rules see it.
type segment struct {
	src, dst     netip.Addr
	protocol     uint8
	sport, dport uint16
}

func (s segment) frame() []byte {
	f := append(append(virtualMAC[:len(virtualMAC):len(virtualMAC)], senderMAC[:]...), 0x08, 0)
	body := make([]byte, 20)
	binary.BigEndian.PutUint16(body, s.sport)
	binary.BigEndian.PutUint16(body[2:], s.dport)
	switch s.protocol {
	case 6:
		body[12], body[13] = 5<<4, 0x02 // SYN
	case 1:
		body[0] = 8
	case 58:
		body[0] = 128
	}
	if s.src.Is4() {
		ip := make([]byte, 20)
		ip[0], ip[8], ip[9] = 0x45, 64, s.protocol
		binary.BigEndian.PutUint16(ip[2:], uint16(20+len(body)))
		copy(ip[12:], s.src.AsSlice())
		copy(ip[16:], s.dst.AsSlice())
		return append(append(f, ip...), body...)
	}
	f[12], f[13] = 0x86, 0xdd
	ip := make([]byte, 40)
	ip[0], ip[6], ip[7] = 0x60, s.protocol, 64
	binary.BigEndian.PutUint16(ip[4:], uint16(len(body)))
	copy(ip[8:], s.src.AsSlice())
	copy(ip[24:], s.dst.AsSlice())
	return append(append(f, ip...), body...)
}

// naive evaluates the groups as in the documentation, for one end of a new flow.
func naive(groups []string, all []SecurityGroup, peerGroups []string, d Direction, s segment) bool {
	local, peer := s.src, s.dst
	if d == Ingress {
		local, peer = s.dst, s.src
	}
	isMember := func(id string) bool {
		for _, g := range peerGroups {
			if g == id {
				return true
			}
		}
		return false
	}
	ports := s.protocol == 6 || s.protocol == 17
	best, found, verdict := 0, false, false
	inner, fallback := false, false
	for _, id := range groups {
		for i := range all {
			g := &all[i]
			if g.ID != id {
				continue
			}
			inner = inner || g.InnerAccept && isMember(id)
			fallback = fallback || d == Ingress && g.AcceptIngress || d == Egress && g.AcceptEgress
			for _, r := range g.Rules {
				if r.Direction != d || r.Protocol != 0 && r.Protocol != s.protocol ||
					r.Peer.IsValid() && !r.Peer.Contains(peer) || r.Local.IsValid() && !r.Local.Contains(local) ||
					r.PeerGroup != "" && !isMember(r.PeerGroup) ||
					ports && r.Ports != (PortRange{}) && (s.dport < r.Ports.From || s.dport > r.Ports.To) ||
					ports && r.SourcePorts != (PortRange{}) && (s.sport < r.SourcePorts.From || s.sport > r.SourcePorts.To) {
					continue
				}
				switch {
				case !found || r.Priority < best:
					best, found, verdict = r.Priority, true, r.Accept
				case r.Priority == best && !r.Accept:
					verdict = false
				}
			}
		}
	}
	if found {
		return verdict
	}
	return inner || fallback
}

func drawRule(t *rapid.T) Rule {
	r := Rule{
		Direction: rapid.SampledFrom([]Direction{Ingress, Egress}).Draw(t, "direction"),
		Accept:    rapid.Bool().Draw(t, "accept"),
		Priority:  rapid.IntRange(1, 4).Draw(t, "priority"),
		Protocol:  rapid.SampledFrom([]uint8{0, 0, 1, 6, 17, 58}).Draw(t, "protocol"),
	}
	if r.Protocol == 6 || r.Protocol == 17 {
		from := rapid.Uint16Range(1, 6).Draw(t, "from")
		r.Ports = PortRange{from, from + rapid.Uint16Range(0, 3).Draw(t, "more")}
		if rapid.Bool().Draw(t, "source ports") {
			r.SourcePorts = PortRange{1, 3}
		}
	}
	ranges := []string{"10.1.0.0/24", "10.1.0.1/32", "10.1.0.2/31", "0.0.0.0/0", "::/0", "2001:db8::/64", "2001:db8::1/128", "192.168.0.0/16"}
	switch rapid.SampledFrom([]string{"any", "range", "group"}).Draw(t, "peer") {
	case "range":
		r.Peer = netip.MustParsePrefix(rapid.SampledFrom(ranges).Draw(t, "range"))
	case "group":
		r.PeerGroup = rapid.SampledFrom([]string{"sg-a", "sg-b", "sg-c"}).Draw(t, "group")
	}
	if rapid.IntRange(0, 4).Draw(t, "local") == 0 {
		r.Local = netip.MustParsePrefix(rapid.SampledFrom(ranges).Draw(t, "near range"))
	}
	return r
}

func TestProgramJudgesAsANaiveReaderOfTheRules(t *testing.T) {
	b := newBench(t)
	delivered, dropped := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		ids := []string{"sg-a", "sg-b", "sg-c"}
		var all []SecurityGroup
		for _, id := range ids {
			all = append(all, SecurityGroup{
				ID: id, InnerAccept: rapid.Bool().Draw(t, "inner"),
				AcceptEgress: rapid.IntRange(0, 3).Draw(t, "egress") != 0, AcceptIngress: rapid.IntRange(0, 3).Draw(t, "ingress") == 0,
				Rules: rapid.SliceOfN(rapid.Custom(drawRule), 0, 5).Draw(t, "rules"),
			})
		}
		draw := rapid.SliceOfNDistinct(rapid.SampledFrom(ids), 1, 3, rapid.ID)
		g1, g2 := draw.Draw(t, "sender's groups"), draw.Draw(t, "receiver's groups")
		top := twoPorts(g1, g2, all)
		b.set(t, top)
		for range 8 {
			v6 := rapid.IntRange(0, 1).Draw(t, "family")
			s := segment{
				src:      top.Instances[0].Ports[0].Addresses[v6],
				dst:      top.Instances[1].Ports[0].Addresses[v6],
				protocol: rapid.SampledFrom([]uint8{6, 17, [2]uint8{1, 58}[v6]}).Draw(t, "protocol"),
				sport:    rapid.Uint16Range(1, 9).Draw(t, "sport"),
				dport:    rapid.Uint16Range(1, 9).Draw(t, "dport"),
			}
			want := naive(g1, all, g2, Egress, s) && naive(g2, all, g1, Ingress, s)
			replace(t, b.objs.Flows, map[programFlowKey]programFlow{})
			got := b.send(t, s.frame()) == verdictDeliver
			if got != want {
				t.Fatalf("%+v: delivered %v, want %v", s, got, want)
			}
			if got {
				delivered++
			} else {
				dropped++
			}
		}
	})
	if delivered < 20 || dropped < 20 {
		t.Errorf("%d delivered, %d dropped: the distribution is too uneven to prove anything", delivered, dropped)
	}
}

func TestProgramDropsWhatItCannotRead(t *testing.T) {
	b := newBench(t)
	open := []SecurityGroup{{ID: "sg", AcceptEgress: true, AcceptIngress: true}}
	top := twoPorts([]string{"sg"}, []string{"sg"}, open)
	b.set(t, top)
	whole := segment{
		src: top.Instances[0].Ports[0].Addresses[0], dst: top.Instances[1].Ports[0].Addresses[0],
		protocol: 6, sport: 1, dport: 2,
	}.frame()
	if b.send(t, whole) != verdictDeliver {
		t.Fatal("a good frame is not delivered")
	}
	rapid.Check(t, func(t *rapid.T) {
		frame := append([]byte{}, whole...)
		// Change anything but the source MAC, which would end the program too early.
		for range rapid.IntRange(1, 6).Draw(t, "changes") {
			frame[rapid.IntRange(12, len(frame)-1).Draw(t, "at")] = rapid.Byte().Draw(t, "byte")
		}
		// BPF_PROG_TEST_RUN itself rejects a frame that is too short for its type.
		if shortest := map[bool]int{false: 34, true: 54}[frame[12] == 0x86 && frame[13] == 0xdd]; shortest < len(frame) {
			frame = frame[:rapid.IntRange(shortest, len(frame)).Draw(t, "length")]
		}
		switch verdict := b.send(t, frame); verdict {
		case verdictDrop, verdictDeliver:
		default:
			t.Fatalf("verdict %d on %x: the frame goes up the switch's own stack", verdict, frame)
		}
		frame[6] ^= 2
		if b.send(t, frame) != verdictDrop {
			t.Fatalf("a frame with another source MAC passed: %x", frame)
		}
	})
}
