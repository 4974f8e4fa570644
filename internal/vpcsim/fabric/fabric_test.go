package fabric_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/testutil"
	"terway.dev/terway/internal/vpcsim/fabric"
)

// kernelState returns the kernel's state, which a test must restore.
func kernelState(t *testing.T, prefix string) (ours []string, programs map[ebpf.ProgramID]bool) {
	t.Helper()
	ours, err := filepath.Glob("/run/netns/" + prefix + "*")
	if err != nil {
		t.Fatal(err)
	}
	programs = map[ebpf.ProgramID]bool{}
	for id := ebpf.ProgramID(0); ; {
		next, err := ebpf.ProgramGetNextID(id)
		if err != nil {
			break
		}
		id = next
		if p, err := ebpf.NewProgramFromID(id); err == nil {
			if info, err := p.Info(); err == nil && info.Name == "fabric_port" {
				programs[id] = true
			}
			p.Close()
		}
	}
	return ours, programs
}

// world is a fabric with a topology that a test changes.
type world struct {
	t    *testing.T
	opts fabric.Options
	f    *fabric.Fabric
	top  fabric.Topology
}

// newWorld has one VPC, one vSwitch, one route table and one normal group.
func newWorld(t *testing.T, change func(*fabric.Options)) *world {
	t.Helper()
	testutil.RequireRoot(t)
	var b [4]byte
	if _, err := rand.Read(b[:]); err != nil {
		t.Fatal(err)
	}
	opts := fabric.Options{
		Prefix: "t" + hex.EncodeToString(b[:]) + "-",
		Strict: true,
		Logger: slog.New(slog.NewTextHandler(testWriter{t}, nil)),
	}
	if change != nil {
		change(&opts)
	}
	w := &world{t: t, opts: opts}
	w.f = w.open()
	t.Cleanup(func() {
		if err := w.f.Destroy(); err != nil {
			t.Error(err)
		}
		if left, _ := kernelState(t, opts.Prefix); len(left) != 0 {
			t.Errorf("left over: %v", left)
		}
	})
	w.top = fabric.Topology{
		VSwitches: []fabric.VSwitch{{
			ID: "vsw-a", VPC: "vpc-1",
			CIDR: netip.MustParsePrefix("10.1.0.0/24"), Gateway: netip.MustParseAddr("10.1.0.253"),
			CIDR6: netip.MustParsePrefix("2001:db8:1::/64"), Gateway6: netip.MustParseAddr("2001:db8:1::fffd"),
			RouteTable: "vtb-1",
		}},
		RouteTables:    []fabric.RouteTable{{ID: "vtb-1", VPC: "vpc-1"}},
		SecurityGroups: []fabric.SecurityGroup{{ID: "sg-1", InnerAccept: true, AcceptEgress: true}},
	}
	return w
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func (w *world) open() *fabric.Fabric {
	w.t.Helper()
	f, err := fabric.New(w.opts)
	if err != nil {
		w.t.Fatal(err)
	}
	return f
}

// instance adds a running instance i-<n> with the primary ENI eni-<n> and 10.1.0.<n>, 2001:db8:1::<n>.
func (w *world) instance(n int) *fabric.Instance {
	w.top.Instances = append(w.top.Instances, fabric.Instance{
		ID: fmt.Sprintf("i-%d", n), Running: true,
		Ports: []fabric.Port{w.eni(n, true)},
	})
	return &w.top.Instances[len(w.top.Instances)-1]
}

func (w *world) eni(n int, primary bool) fabric.Port {
	return fabric.Port{
		ENI: fmt.Sprintf("eni-%d", n), VPC: "vpc-1", VSwitch: "vsw-a", Primary: primary, MTU: 1500,
		MAC:            [6]byte{0x00, 0x16, 0x3e, 0, 0, byte(n)},
		Addresses:      []netip.Addr{addr("10.1.0.%d", n), addr("2001:db8:1::%x", n)},
		SecurityGroups: []string{"sg-1"},
	}
}

func addr(format string, args ...any) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf(format, args...))
}

func (w *world) port(eni string) *fabric.Port {
	for i := range w.top.Instances {
		for j := range w.top.Instances[i].Ports {
			if p := &w.top.Instances[i].Ports[j]; p.ENI == eni {
				return p
			}
		}
	}
	w.t.Fatalf("no ENI %s in the topology", eni)
	return nil
}

func (w *world) apply() {
	w.t.Helper()
	if err := w.f.Apply(context.Background(), w.top); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) ns(n int) string {
	w.t.Helper()
	path, err := w.f.NetNSPath(fmt.Sprintf("i-%d", n))
	if err != nil {
		w.t.Fatal(err)
	}
	return path
}

// try runs a program in instance n.
func (w *world) try(n int, args ...string) (string, error) {
	w.t.Helper()
	cmd := exec.Command("nsenter", append([]string{"--net=" + w.ns(n)}, args...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

func (w *world) run(n int, args ...string) string {
	w.t.Helper()
	out, err := w.try(n, args...)
	if err != nil {
		w.t.Fatalf("in i-%d: %s: %v\n%s", n, strings.Join(args, " "), err, out)
	}
	return out
}

func (w *world) counters(n int) fabric.Counters {
	w.t.Helper()
	all, err := w.f.Counters()
	if err != nil {
		w.t.Fatal(err)
	}
	return all[fmt.Sprintf("eni-%d", n)]
}

// dropped checks that do causes a drop with this reason.
func (w *world) dropped(n int, reason string, do func()) {
	w.t.Helper()
	before := w.counters(n).Drops[reason]
	do()
	if after := w.counters(n); after.Drops[reason] <= before {
		w.t.Errorf("eni-%d: nothing more was dropped for %s: %+v", n, reason, after)
	}
}

func TestTwoInstancesExchangeTCPUDPICMP(t *testing.T) {
	w := newWorld(t, nil)
	w.instance(1)
	w.instance(2)
	w.apply()
	w.mustPing(1, "10.1.0.2")
	w.mustPing(2, "10.1.0.1")
	w.mustPing(1, "10.1.0.2", size(4000)) // fragments
	w.mustPing(1, "2001:db8:1::2")
	w.mustPing(2, "2001:db8:1::1", size(4000))
	for _, address := range []string{"10.1.0.2:7001", "[2001:db8:1::2]:7001"} {
		payload := bytes.Repeat([]byte("all of it, "), 100000)
		conn := connect(t, w, 1, 2, address)
		conn.exchange(payload)
		conn.close()
	}
	if c := w.counters(1); c.OutPackets == 0 || c.InPackets == 0 || c.OutBytes < 2_000_000 {
		t.Errorf("counters of eni-1: %+v", c)
	}
	if reply := w.ping(1, "10.1.0.2", ttl(1)); reply.err != nil || reply.ttl != 64 {
		t.Errorf("a packet with TTL 1 and its reply: %+v", reply)
	}
	neighbour := w.run(1, "ip", "neigh", "show", "10.1.0.2")
	if !strings.Contains(neighbour, "ee:ff:ff:ff:ff:ff") {
		t.Errorf("10.1.0.2 is not at the fabric's MAC: %s", neighbour)
	}
	w.mustNotPing(1, "10.1.0.253")
	neighbour = w.run(1, "ip", "neigh", "show", "10.1.0.253")
	if !strings.Contains(neighbour, "ee:ff:ff:ff:ff:ff") {
		t.Errorf("the gateway is not at the fabric's MAC: %s", neighbour)
	}
}

func TestUDP(t *testing.T) {
	w := newWorld(t, nil)
	w.instance(1)
	w.instance(2)
	w.apply()
	for _, to := range []string{"10.1.0.2", "2001:db8:1::2"} {
		w.mustPing(1, to)
		if got := udpEcho(t, w, 1, 2, to, "over UDP"); got != "over UDP" {
			t.Errorf("to %s: echoed %q", to, got)
		}
	}
}

func TestSpoofedSourcesAreDroppedAndCounted(t *testing.T) {
	w := newWorld(t, nil)
	w.instance(1)
	w.instance(2)
	w.apply()
	w.mustPing(1, "10.1.0.2")

	w.run(1, "ip", "addr", "add", "10.1.0.9/32", "dev", "eth0")
	w.dropped(1, "spoofed-ip", func() { w.mustNotPing(1, "10.1.0.2", from("10.1.0.9")) })

	w.port("eni-1").SourceDestCheck = true
	w.apply()
	w.dropped(1, "source-dest-check", func() { w.mustNotPing(1, "10.1.0.2", from("10.1.0.9")) })
	w.port("eni-1").SourceDestCheck = false

	in := w.counters(2).InPackets
	w.run(1, "ip", "link", "set", "eth0", "address", "00:16:3e:00:00:77")
	w.dropped(1, "spoofed-mac", func() { w.mustNotPing(1, "10.1.0.2") })
	if now := w.counters(2).InPackets; now != in {
		t.Errorf("%d spoofed packets arrived", now-in)
	}
	w.run(1, "ip", "link", "set", "eth0", "address", "00:16:3e:00:00:01")
	w.apply()
	w.mustPing(1, "10.1.0.2")
}

// Later fragments belong to the first one of the same ENI: a first fragment of another ENI with
// the same source does not let them pass.
func TestFragmentsOfOthersSayNothing(t *testing.T) {
	w := newWorld(t, nil)
	for n := range 3 {
		w.instance(n + 1)
	}
	w.apply()
	fragment := func(n byte, offset uint16) []byte {
		ip := []byte{0x45, 0, 0, 36, 3, 9, byte(offset >> 8), byte(offset), 64, unix.IPPROTO_UDP, 0, 0, 10, 1, 0, 1, 10, 1, 0, 2}
		binary.BigEndian.PutUint16(ip[10:], checksum(ip))
		frame := append([]byte{2, 0, 0, 0, 0, 9, 0, 0x16, 0x3e, 0, 0, n, 8, 0}, ip...)
		return append(frame, 0, 5, 0, 7, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	}
	const first, later = 0x2000, 2
	w.dropped(3, "spoofed-ip", func() { w.sendFrame(3, fragment(3, first)) })
	w.dropped(1, "fragment", func() { w.sendFrame(1, fragment(1, later)) })
	in := w.counters(2).InPackets
	w.sendFrame(1, fragment(1, first))
	w.sendFrame(1, fragment(1, later))
	if now := w.counters(2).InPackets; now != in+2 {
		t.Errorf("%d of the ENI's own 2 fragments arrived", now-in)
	}
}

func TestWithoutStrictAnEniMaySendFromAnywhere(t *testing.T) {
	w := newWorld(t, func(o *fabric.Options) { o.Strict = false })
	w.instance(1)
	w.instance(2)
	w.apply()
	w.run(1, "ip", "addr", "add", "10.1.0.9/32", "dev", "eth0")
	before := w.counters(2).InPackets
	w.mustNotPing(1, "10.1.0.2", from("10.1.0.9"))
	if w.counters(2).InPackets == before {
		t.Errorf("a foreign source did not pass: %+v", w.counters(1))
	}
	w.port("eni-1").SourceDestCheck = true
	w.apply()
	w.dropped(1, "source-dest-check", func() { w.mustNotPing(1, "10.1.0.2", from("10.1.0.9")) })
}

func TestUnassignedAddressStopsAtOnceAndMovedAddressMoves(t *testing.T) {
	w := newWorld(t, nil)
	w.instance(1)
	w.instance(2)
	w.instance(3)
	secondary := addr("10.1.0.20")
	own := w.port("eni-2").Addresses
	w.port("eni-2").Addresses = append(slices.Clone(own), secondary)
	w.apply()
	w.run(2, "ip", "addr", "add", "10.1.0.20/32", "dev", "eth0")
	w.run(3, "ip", "addr", "add", "10.1.0.20/32", "dev", "eth0")
	w.mustPing(1, "10.1.0.20")
	w.mustPing(2, "10.1.0.1", from("10.1.0.20"))

	w.port("eni-2").Addresses = own
	w.apply()
	w.dropped(1, "no-route", func() { w.mustNotPing(1, "10.1.0.20") })
	w.dropped(2, "spoofed-ip", func() { w.mustNotPing(2, "10.1.0.1", from("10.1.0.20")) })

	w.port("eni-3").Addresses = append(w.port("eni-3").Addresses, secondary)
	w.apply()
	before := w.counters(3).InPackets
	w.mustPing(1, "10.1.0.20")
	if w.counters(3).InPackets == before {
		t.Error("the moved address is not delivered to its new ENI")
	}
}

func TestPrefixes(t *testing.T) {
	w := newWorld(t, nil)
	w.instance(1)
	w.instance(2)
	w.port("eni-2").Prefixes = []netip.Prefix{
		netip.MustParsePrefix("10.1.0.64/28"), netip.MustParsePrefix("2001:db8:1:0:5::/80"),
	}
	w.apply()
	w.run(2, "ip", "addr", "add", "10.1.0.70/32", "dev", "eth0")
	w.run(2, "ip", "addr", "add", "2001:db8:1:0:5::7/128", "dev", "eth0", "nodad")
	w.mustPing(1, "10.1.0.70")
	w.mustPing(2, "10.1.0.1", from("10.1.0.70"))
	w.mustPing(1, "2001:db8:1:0:5::7")
	w.port("eni-2").Prefixes = nil
	w.apply()
	w.mustNotPing(1, "10.1.0.70")
}

func TestBroadcastMulticastAndGratuitousArp(t *testing.T) {
	w := newWorld(t, nil)
	w.instance(1)
	w.instance(2)
	w.apply()
	w.mustPing(1, "10.1.0.2")
	w.dropped(1, "broadcast", func() { w.mustNotPing(1, "10.1.0.255") })
	w.dropped(1, "broadcast", func() { w.mustNotPing(1, "224.0.0.1") })
	// A gratuitous ARP for a neighbour's address changes nothing.
	w.dropped(1, "neighbour", func() { w.sendFrame(1, gratuitousARP([]byte{0, 0x16, 0x3e, 0, 0, 1}, "10.1.0.2")) })
	in := w.counters(2).InPackets
	w.mustPing(1, "10.1.0.2")
	if w.counters(2).InPackets == in {
		t.Error("10.1.0.2 is not delivered to eni-2")
	}
}

func TestVpcsAreApart(t *testing.T) {
	w := newWorld(t, nil)
	w.instance(1)
	w.instance(2)
	w.top.VSwitches = append(w.top.VSwitches, fabric.VSwitch{
		ID: "vsw-b", VPC: "vpc-2", CIDR: netip.MustParsePrefix("10.1.0.0/24"), Gateway: addr("10.1.0.253"), RouteTable: "vtb-2",
	})
	p := w.port("eni-2")
	p.VPC, p.VSwitch, p.Addresses = "vpc-2", "vsw-b", p.Addresses[:1]
	w.apply()
	w.dropped(1, "no-route", func() { w.mustNotPing(1, "10.1.0.2") })
}

func TestMTU(t *testing.T) {
	w := newWorld(t, nil)
	w.instance(1)
	w.instance(2)
	w.instance(3)
	w.port("eni-1").MTU = 8500
	w.port("eni-2").MTU = 8500
	w.apply()
	if out := w.run(1, "ip", "link", "show", "eth0"); !strings.Contains(out, "mtu 8500") {
		t.Errorf("eth0: %s", out)
	}
	w.mustPing(1, "10.1.0.2", size(8472), dontFragment)
	w.dropped(1, "mtu", func() { w.mustNotPing(1, "10.1.0.3", size(1473), dontFragment) })
	w.mustPing(1, "10.1.0.3", size(1472), dontFragment)
	w.run(3, "ip", "link", "set", "eth0", "mtu", "9000")
	w.dropped(3, "mtu", func() { w.mustNotPing(3, "10.1.0.1", size(8000), dontFragment) })
}

func TestStoppedInstanceHasNoCarrier(t *testing.T) {
	w := newWorld(t, nil)
	w.instance(1)
	w.instance(2)
	w.apply()
	w.mustPing(1, "10.1.0.2")
	l, err := w.f.Listen("i-2", "tcp", "100.100.100.200:80")
	if err != nil {
		t.Fatal(err)
	}
	w.top.Instances[1].Running = false
	w.apply()
	if _, err := l.Accept(); err == nil {
		t.Error("the listener of a stopped instance accepts")
	}
	if out := w.run(2, "ip", "link", "show", "eth0"); !strings.Contains(out, "NO-CARRIER") {
		t.Errorf("eth0 of a stopped instance: %s", out)
	}
	w.dropped(1, "down", func() { w.mustNotPing(1, "10.1.0.2") })
	w.top.Instances[1].Running = true
	w.apply()
	w.mustPing(1, "10.1.0.2")
}

func TestDestroyLeavesNothing(t *testing.T) {
	w := newWorld(t, nil)
	_, before := kernelState(t, w.opts.Prefix)
	w.instance(1)
	w.instance(2)
	w.apply()
	w.mustPing(1, "10.1.0.2")
	if ours, _ := kernelState(t, w.opts.Prefix); len(ours) != 3 {
		t.Fatalf("namespaces: %v", ours)
	}
	// Destroy only needs the prefix.
	if err := w.f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.open().Destroy(); err != nil {
		t.Fatal(err)
	}
	ours, after := kernelState(t, w.opts.Prefix)
	if len(ours) != 0 {
		t.Errorf("namespaces left: %v", ours)
	}
	for id := range after {
		if !before[id] {
			waitForProgramEnd(t, id)
		}
	}
	if _, err := os.Stat("/run/netns/" + w.opts.Prefix + "fabric"); !os.IsNotExist(err) {
		t.Errorf("the switch's namespace: %v", err)
	}
}
