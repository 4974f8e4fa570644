package object

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/netlinkx"
	"terway.dev/terway/internal/sysctl"
	"terway.dev/terway/internal/testutil"
)

// site is a node with a device v, and a pod with its peer w.
func site(t *testing.T) (s *Site, node, pod *testutil.NS) {
	t.Helper()
	testutil.RequireRoot(t)
	node, pod = testutil.NewNS(t, "node"), testutil.NewNS(t, "pod")
	node.IP("link add v type veth peer name w netns " + pod.Name)
	n, err := netlinkx.Enter(node.Path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	h, err := n.Handle()
	if err != nil {
		t.Fatal(err)
	}
	s = &Site{Ctx: t.Context(), Node: h, NodeNS: n.NS, ProcSys: "/proc/sys", NodeBatch: n.Batch}
	t.Cleanup(s.Close)
	if s.Pod, err = netlinkx.Enter(pod.Path); err != nil {
		t.Fatal(err)
	}
	return s, node, pod
}

var v = Device{Name: "v"}

// One request makes all settings of a device, and Have sees them.
func TestSettings(t *testing.T) {
	s, node, _ := site(t)
	want := Settings{
		Device: v, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 9}, MTU: 1400, Group: 7, NoARP: true, Alias: "whose",
		Conf: []sysctl.Setting{{Path: "ipv4/conf/v/rp_filter", Value: "2"}, {Path: "ipv4/conf/v/accept_local", Value: "1"}, {Path: "ipv4/conf/v/forwarding", Value: "1"}},
	}
	problem := func() string {
		t.Helper()
		links, err := netlinkx.List(t.Context(), "devices", s.Node.LinkList)
		if err != nil {
			t.Fatal(err)
		}
		s.links = nil
		if s.View, err = Look(t.Context(), s.Node, links, nil, nil); err != nil {
			t.Fatal(err)
		}
		if err := s.View.ReadSysctls(s.ProcSys, s.NodeNS, []Object{want}); err != nil {
			t.Fatal(err)
		}
		found, err := want.Have(s)
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	put := func(when string) {
		t.Helper()
		if done, err := Put(s, []Object{want}); done != 1 || err != nil {
			t.Fatalf("%s: %d were put, %v", when, done, err)
		}
		if got := problem(); got != "" {
			t.Errorf("%s: %s", when, got)
		}
	}
	put("of a new device") // no Have was called before
	for _, c := range [][2]string{
		{"link set v address 02:00:00:00:00:01", "MAC"}, {"link set v mtu 1300", "MTU"}, {"link set v group 8", "group"},
		{"link set v arp on", "ARP"}, {"link set v down", "down"},
	} {
		node.IP(c[0])
		if got := problem(); !strings.Contains(got, c[1]) {
			t.Errorf("after %s: %q, want one that says %q", c[0], got, c[1])
		}
		put("after " + c[0])
	}
	for _, c := range want.Conf {
		node.Sysctl(c.Path, "0")
		if got := problem(); !strings.Contains(got, c.Path) {
			t.Errorf("after %s is 0: %q", c.Path, got)
		}
		put("after " + c.Path + " was 0")
		if got := node.ReadSysctl(c.Path); got != c.Value {
			t.Errorf("%s is %s, want %s", c.Path, got, c.Value)
		}
	}
	if out := node.IP("-d link show v"); !strings.Contains(out, "alias whose") {
		t.Errorf("no alias: %s", out)
	}
	want.Conf = []sysctl.Setting{{Path: "ipv4/conf/v/tag", Value: "1"}}
	s.View = nil
	if _, err := Put(s, []Object{want}); err == nil || !strings.Contains(err.Error(), "ipv4/conf/v/tag") {
		t.Errorf("a setting that it does not know: %v", err)
	}
}

// A setting that the kernel rejects is named, with the value and the kernel's error. It prevents
// none of the other settings of its device.
func TestRefused(t *testing.T) {
	s, node, pod := site(t)
	settings := Settings{Device: v, MTU: 1 << 20, Group: 7, Alias: "whose", Conf: []sysctl.Setting{{Path: "ipv4/conf/v/rp_filter", Value: "2"}}}
	address := netip.MustParseAddr("192.0.2.1")
	behind := Neighbour(v, address, net.HardwareAddr{2, 0, 0, 0, 0, 9})
	done, err := Put(s, []Object{settings, behind})
	if done != 0 || !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "device v: set MTU 1048576: invalid argument: mtu greater") {
		t.Errorf("%d were put, %v; want one that names the device, the MTU, and says why", done, err)
	}
	if strings.Contains(err.Error(), "group") {
		t.Errorf("it names what was set: %v", err)
	}
	out := node.IP("-d link show v")
	for _, part := range []string{"group 7", "alias whose", ",UP"} {
		if !strings.Contains(out, part) {
			t.Errorf("no %q: %s", part, out)
		}
	}
	if got := node.ReadSysctl("ipv4/conf/v/rp_filter"); got != "2" {
		t.Errorf("rp_filter is %s", got)
	}

	node.IP("link set v up")
	for _, c := range []struct {
		object Object
		says   string
	}{
		{PodRoute(v, address, netip.MustParseAddr("192.0.2.9")), "route to 192.0.2.1 dev v in table 2100: set source address 192.0.2.9: invalid argument"},
		{Neighbour(v, netip.MustParseAddr("224.0.0.1"), net.HardwareAddr{2, 0, 0, 0}), "neighbour 224.0.0.1 dev v: set MAC 02:00:00:00: invalid argument"},
		{Settings{Device: Device{Name: "none"}}, "device none: it is not there"},
		{Address(Device{Name: "w", InPod: true}, netip.MustParseAddr("ff02::9"), nil), "address ff02::9 of the pod's w: "},
	} {
		s.links = nil
		done, err := Put(s, []Object{behind, c.object})
		if err == nil || done > 1 || !strings.HasPrefix(err.Error(), c.says) {
			t.Errorf("%d were put, %v; want %q", done, err, c.says)
		}
	}

	// Together they are rejected, one by one not: the later object is put, though it failed at
	// first.
	node.IP("link set v down")
	pod.IP("link set w down")
	s.links = map[Device]netlink.Link{}
	gone := Settings{Device: v, MTU: 1300}
	b, err := s.NodeBatch()
	if err != nil {
		t.Fatal(err)
	}
	if err := gone.oneByOne(s, b); err != nil {
		t.Errorf("nothing is refused: %v", err)
	}
	if out := node.IP("link show v"); !strings.Contains(out, "mtu 1300") || !strings.Contains(out, ",UP") {
		t.Errorf("one by one: %s", out)
	}
}

// The pod's address is usable when the wait is over.
func TestAwaitIPv6(t *testing.T) {
	s, _, pod := site(t)
	w := Device{Name: "w", InPod: true}
	a := netip.MustParseAddr("2001:db8::9")
	if _, err := Put(s, []Object{Settings{Device: w}, Address(w, a, nil)}); err != nil {
		t.Fatal(err)
	}
	if err := AwaitIPv6(s, []netip.Addr{netip.MustParseAddr("192.0.2.1"), a}); err != nil {
		t.Fatal(err)
	}
	if out := pod.IP("-6 route show table local"); !strings.Contains(out, "local "+a.String()) {
		t.Errorf("the address is not in use: %s", out)
	}
	over, cancel := context.WithCancelCause(t.Context())
	why := errors.New("nobody waits any more")
	cancel(why)
	s.Ctx = over
	if err := AwaitIPv6(s, []netip.Addr{netip.MustParseAddr("2001:db8::10")}); !errors.Is(err, why) || !strings.Contains(err.Error(), "2001:db8::10") {
		t.Errorf("an address that the pod has not: %v", err)
	}
}
