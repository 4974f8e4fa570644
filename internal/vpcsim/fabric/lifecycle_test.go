package fabric_test

import (
	"context"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"terway.dev/terway/internal/testutil"
	"terway.dev/terway/internal/vpcsim/fabric"
)

func TestRestartKeepsConnectionsAndDataPlane(t *testing.T) {
	w := newWorld(t, nil)
	w.instance(1)
	w.instance(2)
	w.apply()
	c := connect(t, w, 1, 2, "10.1.0.2:7001")
	c.exchange([]byte("before"))
	before := w.run(1, "ip", "-o", "link", "show", "eth0")
	count := w.counters(1).OutPackets

	// The process ends without closing or applying anything.
	gone := w.f
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	c.exchange([]byte("while no process runs"))

	w.f = w.open()
	w.instance(3)
	w.apply()
	c.exchange([]byte("after"))
	w.mustPing(3, "10.1.0.1")
	if after := w.run(1, "ip", "-o", "link", "show", "eth0"); after != before {
		t.Errorf("the device was replaced:\n%s%s", before, after)
	}
	if now := w.counters(1).OutPackets; now <= count {
		t.Errorf("the counters were reset: %d before, %d after", count, now)
	}

	// What was removed from the topology meanwhile is removed by the first Apply.
	if err := w.f.Close(); err != nil {
		t.Fatal(err)
	}
	w.f = w.open()
	w.top.Instances = w.top.Instances[:2]
	w.apply()
	c.exchange([]byte("after the second"))
	if left, _ := kernelState(t, w.opts.Prefix); len(left) != 3 {
		t.Errorf("namespaces: %v", left)
	}
}

func TestApplyIsIdempotent(t *testing.T) {
	w := newWorld(t, nil)
	w.instance(1)
	w.instance(2)
	w.apply()
	c := connect(t, w, 1, 2, "10.1.0.2:7001")
	links := w.run(1, "ip", "-o", "link")
	for range 3 {
		w.apply()
	}
	c.exchange([]byte("still"))
	if now := w.run(1, "ip", "-o", "link"); now != links {
		t.Errorf("the devices changed:\n%s%s", links, now)
	}
}

func TestSecondaryEnisAreBareAndTakeTheLowestFreeName(t *testing.T) {
	w := newWorld(t, nil)
	w.instance(1)
	w.instance(2)
	w.apply()
	// The guest has taken a name.
	w.run(1, "ip", "link", "add", "eth1", "type", "veth", "peer", "name", "taken")
	w.top.Instances[0].Ports = append(w.top.Instances[0].Ports, w.eni(11, false))
	w.apply()
	link := w.run(1, "ip", "-o", "link", "show", "eth2")
	if !strings.Contains(link, "00:16:3e:00:00:0b") || !strings.Contains(link, "state DOWN") {
		t.Errorf("eth2: %s", link)
	}
	if addrs := w.run(1, "ip", "-o", "addr", "show", "eth2"); addrs != "" {
		t.Errorf("a hot-plugged ENI has addresses: %s", addrs)
	}
	if eth0 := w.run(1, "ip", "-o", "-4", "addr", "show", "eth0"); !strings.Contains(eth0, "10.1.0.1/24") {
		t.Errorf("eth0: %s", eth0)
	}
	// As the node's agent does.
	w.run(1, "ip", "link", "set", "eth2", "up")
	w.run(1, "ip", "addr", "add", "10.1.0.11/32", "dev", "lo")
	w.run(1, "ip", "rule", "add", "from", "10.1.0.11", "lookup", "11")
	w.run(1, "ip", "route", "add", "default", "via", "10.1.0.253", "dev", "eth2", "onlink", "table", "11")
	w.mustPing(2, "10.1.0.11")
}

func TestDetachTakesARenamedAndMovedDevice(t *testing.T) {
	w := newWorld(t, nil)
	w.instance(1)
	w.instance(2)
	w.top.Instances[0].Ports = append(w.top.Instances[0].Ports, w.eni(11, false), w.eni(12, false))
	w.apply()
	pod := testutil.NewNS(t, "pod")
	w.run(1, "ip", "link", "set", "eth1", "name", "renamed")
	w.run(1, "ip", "link", "set", "renamed", "netns", pod.Path)
	pod.IP("link set renamed name eth0")
	pod.IP("link set eth0 up")
	pod.IP("addr add 10.1.0.11/24 dev eth0")
	w.mustPing(2, "10.1.0.11")

	w.top.Instances[0].Ports = w.top.Instances[0].Ports[:1]
	w.apply()
	for _, links := range []string{pod.IP("-o link"), w.run(1, "ip", "-o", "link")} {
		if strings.Contains(links, "00:16:3e:00:00:0b") || strings.Contains(links, "00:16:3e:00:00:0c") {
			t.Errorf("a detached ENI is still a device: %s", links)
		}
	}
	w.mustNotPing(2, "10.1.0.11")
	// It can be attached to another instance.
	w.top.Instances[1].Ports = append(w.top.Instances[1].Ports, w.eni(11, false))
	w.apply()
	if link := w.run(2, "ip", "-o", "link", "show", "eth1"); !strings.Contains(link, "00:16:3e:00:00:0b") {
		t.Errorf("eth1 of i-2: %s", link)
	}
}

func TestEniMovesBetweenInstancesInOneApply(t *testing.T) {
	w := newWorld(t, nil)
	w.instance(1)
	w.instance(2)
	w.top.Instances[0].Ports = append(w.top.Instances[0].Ports, w.eni(11, false))
	w.apply()
	w.top.Instances[1].Ports = append(w.top.Instances[1].Ports, w.top.Instances[0].Ports[1])
	w.top.Instances[0].Ports = w.top.Instances[0].Ports[:1]
	w.apply()
	if link := w.run(2, "ip", "-o", "link", "show", "eth1"); !strings.Contains(link, "00:16:3e:00:00:0b") {
		t.Errorf("eth1 of i-2: %s", link)
	}
}

func TestRoutesToAnInstance(t *testing.T) {
	w := newWorld(t, nil)
	w.instance(1)
	w.instance(2)
	w.apply()
	// i-2 has a pod network behind it, as with Flannel and VPC routes.
	w.run(2, "ip", "addr", "add", "172.20.2.1/32", "dev", "lo")
	w.dropped(1, "no-route", func() { w.mustNotPing(1, "172.20.2.1") })
	w.top.RouteTables[0].Routes = []fabric.Route{
		{Prefix: netip.MustParsePrefix("172.20.0.0/16")},
		{Prefix: netip.MustParsePrefix("172.20.2.0/24"), NextHops: []string{"eni-2"}},
	}
	w.apply()
	w.mustPing(1, "172.20.2.1")
	// In the other direction i-2 may send from the range that is routed to it, also with
	// Strict.
	w.mustPing(2, "10.1.0.1", from("172.20.2.1"))
	w.dropped(1, "no-route", func() { w.mustNotPing(1, "172.20.3.1") })

	w.port("eni-2").SourceDestCheck = true
	w.apply()
	w.dropped(1, "source-dest-check", func() { w.mustNotPing(1, "172.20.2.1") })
	w.dropped(2, "source-dest-check", func() { w.mustNotPing(2, "10.1.0.1", from("172.20.2.1")) })

	// A default route does not apply to unused addresses of a vSwitch.
	w.port("eni-2").SourceDestCheck = false
	w.top.RouteTables[0].Routes = []fabric.Route{{Prefix: netip.MustParsePrefix("0.0.0.0/0"), NextHops: []string{"eni-2"}}}
	w.apply()
	w.mustPing(1, "172.20.2.1")
	w.dropped(1, "no-route", func() { w.mustNotPing(1, "10.1.0.77") })

	// Each family has its own default route.
	w.top.RouteTables[0].Routes = []fabric.Route{{Prefix: netip.MustParsePrefix("::/0"), NextHops: []string{"eni-2"}}}
	w.apply()
	w.dropped(1, "no-route", func() { w.mustNotPing(1, "172.20.2.1") })
	w.run(2, "ip", "addr", "add", "2001:db8:2::1/128", "dev", "lo", "nodad")
	w.mustPing(1, "2001:db8:2::1")
}

func TestDeletedInstanceIsGone(t *testing.T) {
	w := newWorld(t, nil)
	w.instance(1)
	w.instance(2)
	w.apply()
	path := w.ns(2)
	w.top.Instances = w.top.Instances[:1]
	w.apply()
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("%s: %v", path, err)
	}
	if _, err := w.f.NetNSPath("i-2"); err == nil {
		t.Error("a deleted instance has a namespace")
	}
	w.dropped(1, "no-route", func() { w.mustNotPing(1, "10.1.0.2") })
}

func TestNamesOfNamespaces(t *testing.T) {
	w := newWorld(t, nil)
	w.instance(1).Name = "node-1"
	w.instance(2).Name = "node-1"
	w.instance(3).Name = "no/name"
	w.instance(4).Name = "fabric"
	w.apply()
	var names []string
	for n := 1; n <= 4; n++ {
		names = append(names, strings.TrimPrefix(filepath.Base(w.ns(n)), w.opts.Prefix))
	}
	if want := []string{"node-1", "i-2", "i-3", "i-4"}; !slices.Equal(names, want) {
		t.Errorf("namespaces %v, want %v", names, want)
	}
	w.top.Instances[0].Name = "renamed"
	w.apply()
	if got := filepath.Base(w.ns(1)); got != w.opts.Prefix+"node-1" {
		t.Errorf("a renamed instance is in %s", got)
	}
}

func TestForeignNamespacesAreLeftAlone(t *testing.T) {
	w := newWorld(t, nil)
	w.instance(1)
	w.apply()
	// Another fabric whose prefix starts with this one's.
	other := newWorld(t, func(o *fabric.Options) { o.Prefix = w.opts.Prefix + "x-" })
	other.instance(7)
	other.apply()
	if err := w.f.Destroy(); err != nil {
		t.Fatal(err)
	}
	if left, _ := kernelState(t, other.opts.Prefix); len(left) != 2 {
		t.Errorf("the other fabric's namespaces: %v", left)
	}
	if got := other.counters(7); got.Drops == nil {
		t.Error("the other fabric's counters are gone")
	}
}

func TestListenAndDial(t *testing.T) {
	w := newWorld(t, nil)
	w.instance(1)
	w.apply()
	l, err := w.f.Listen("i-1", "tcp", "100.100.100.200:80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			_, _ = io.WriteString(c, "metadata")
			_ = c.Close()
		}
	}()
	c, err := w.f.Dial(context.Background(), "i-1", "tcp", "100.100.100.200:80")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, err := io.ReadAll(c); err != nil || string(got) != "metadata" {
		t.Errorf("read %q: %v", got, err)
	}
	if lo := w.run(1, "ip", "-o", "addr", "show", "lo"); !strings.Contains(lo, "100.100.100.200/32 scope host") {
		t.Errorf("lo: %s", lo)
	}
	if _, err := w.f.Dial(context.Background(), "i-1", "tcp", "name.example:80"); err == nil {
		t.Error("Dial resolved a name")
	}
	if _, err := w.f.Listen("i-9", "tcp", "127.0.0.1:0"); err == nil {
		t.Error("Listen in an instance that is not there")
	}
}

func TestVlanTaggedFramesAreDropped(t *testing.T) {
	w := newWorld(t, nil)
	w.instance(1)
	w.apply()
	w.dropped(1, "not-ip", func() { w.sendFrame(1, tagged(gratuitousARP([]byte{0, 0x16, 0x3e, 0, 0, 1}, "10.1.0.2"), 5)) })
}

func TestBandwidth(t *testing.T) {
	w := newWorld(t, nil)
	w.instance(1).Limit = fabric.Bandwidth{Out: 20_000_000}
	w.instance(2)
	w.apply()
	c := connect(t, w, 1, 2, "10.1.0.2:7001")
	w.dropped(1, "bandwidth", func() { c.exchange(make([]byte, 3_000_000)) })
	w.top.Instances[0].Limit = fabric.Bandwidth{}
	w.apply()
	before := w.counters(1).Drops["bandwidth"]
	c.exchange(make([]byte, 3_000_000))
	if now := w.counters(1).Drops["bandwidth"]; now != before {
		t.Errorf("%d frames dropped without a limit", now-before)
	}
}

func TestContradictionsAreRefused(t *testing.T) {
	f, err := fabric.New(fabric.Options{Prefix: "never-"})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t}
	w.top.VSwitches = []fabric.VSwitch{{ID: "vsw-a", VPC: "vpc-1", CIDR: netip.MustParsePrefix("10.1.0.0/24")}}
	for name, change := range map[string]func(top *fabric.Topology){
		"address 10.1.0.1":         func(top *fabric.Topology) { top.Instances[1].Ports[0].Addresses = []netip.Addr{addr("10.1.0.1")} },
		"eni-1 is attached":        func(top *fabric.Topology) { top.Instances[1].Ports[0].ENI = "eni-1" },
		`vSwitch "vsw-z"`:          func(top *fabric.Topology) { top.Instances[0].Ports[0].VSwitch = "vsw-z" },
		"MTU 9":                    func(top *fabric.Topology) { top.Instances[0].Ports[0].MTU = 9 },
		"i-2 is listed twice":      func(top *fabric.Topology) { top.Instances[0].ID = "i-2" },
		"must be a unicast":        func(top *fabric.Topology) { top.Instances[0].Ports[0].MAC[0] = 1 },
		"has 2 primary ENIs":       func(top *fabric.Topology) { top.Instances[0].Ports = append(top.Instances[0].Ports, w.eni(9, true)) },
		"17 security groups":       func(top *fabric.Topology) { top.Instances[0].Ports[0].SecurityGroups = make([]string, 17) },
		"in VPC vpc-2 and its vSw": func(top *fabric.Topology) { top.Instances[0].Ports[0].VPC = "vpc-2" },
	} {
		w.top.Instances = nil
		w.instance(1)
		w.instance(2)
		change(&w.top)
		if err := f.Apply(context.Background(), w.top); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("want an error with %q, got %v", name, err)
		}
	}
	if _, err := fabric.New(fabric.Options{Prefix: "a/b"}); err == nil {
		t.Error("a prefix with a slash was accepted")
	}
}
