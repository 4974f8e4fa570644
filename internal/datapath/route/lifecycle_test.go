package route

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath"
)

// foreign puts things of others on a node, close to ours in number and name.
func foreign(n *testNode) {
	n.IP("rule add pref 500 from 10.1.0.0/16 lookup 2100")
	n.IP("rule add pref 512 to 10.2.0.0/16 lookup main")
	n.IP("rule add pref 600 fwmark 0x100000/0xff00000 lookup 77")
	n.IP("-6 rule add pref 600 from 2001:db8:9::/48 lookup 77")
	n.IP("route add 10.9.0.0/16 via " + nodeGW + " dev eth0 onlink")
	n.IP("route add 10.8.0.0/16 via " + nodeGW + " dev eth0 onlink table 2100")
	n.IP("route add 10.7.0.0/16 via " + nodeGW + " dev eth0 onlink table 2101")
	n.IP("link add tw0123456789a type veth peer name twpeer")
	n.IP("link add cali0123 type veth peer name twother")
	n.IP("link set cali0123 up")
	n.IP("link set cali0123 group 77")
	n.IP("addr add 169.254.1.1/32 dev cali0123 scope host")
	n.NFT(`
		table inet filter {
			chain input { type filter hook input priority 0; tcp dport 22 accept; }
		}
		table ip terway {
			set pods4 { type ipv4_addr; elements = { 192.0.2.1 }; }
		}
		table inet terway2 {
			chain x { }
		}`)
}

// dumpStable is dump without what the kernel does on its own a moment later: the
// operational state of a device, and IPv6 addresses becoming usable.
func dumpStable(n *testNode) string {
	n.w.t.Helper()
	n.settle()
	for deadline := time.Now().Add(patience); strings.Contains(n.IP("-6 addr show"), "tentative"); {
		if time.Now().After(deadline) {
			n.w.t.Fatal("an IPv6 address of the node stays tentative")
		}
		time.Sleep(5 * time.Millisecond)
	}
	var keep []string
	for _, l := range strings.Split(dump(n.NS), "\n") {
		if strings.HasPrefix(l, "anycast ") { // comes and goes with forwarding
			continue
		}
		// A device that was up once keeps the qdisc it got then.
		l = strings.Replace(l, " qdisc noop ", " qdisc noqueue ", 1)
		keep = append(keep, operState.ReplaceAllString(l, ""))
	}
	return strings.Join(keep, "\n")
}

var operState = regexp.MustCompile(`NO-CARRIER,|,LOWER_UP| state [A-Z]+`)

func TestNothingOfOthersIsTouchedAndNothingIsLeft(t *testing.T) {
	w := newWorld(t, 1, 2)
	n := w.nodes[0]
	n.Sysctl("ipv4/ip_forward", "1")
	n.Sysctl("ipv6/conf/all/forwarding", "1")
	foreign(n)
	bare := dumpStable(n)
	if repairs := n.sync(); len(repairs) == 0 {
		t.Error("the first sync reports nothing")
	}
	prepared := dumpStable(n)

	var pods []*testPod
	for i := range 6 {
		pods = append(pods, n.addPod(1+i%2, "4", "6"))
	}
	if again := n.sync(pods...); len(again) != 0 {
		t.Errorf("sync of a sound node repairs %q", again)
	}
	for _, p := range pods {
		p.del()
	}
	if diff := difference(prepared, dumpStable(n)); diff != "" {
		t.Errorf("pods left something behind:\n%s", diff)
	}
	if err := n.dp.Teardown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if diff := difference(bare, dumpStable(n)); diff != "" {
		t.Errorf("teardown left something behind or took something of others:\n%s", diff)
	}
}

func TestTeardownAndAgain(t *testing.T) {
	w := newWorld(t, 2, 1)
	n := w.nodes[0]
	n.sync()
	w.nodes[1].sync()
	old, far := n.addPod(1), serving(w.nodes[1].addPod(1))
	if err := n.dp.Teardown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := n.dp.Teardown(context.Background()); err != nil {
		t.Errorf("a second teardown: %v", err)
	}
	if err := n.dp.CheckPod(context.Background(), n.node, old.pod); err == nil {
		t.Error("a pod outlived the teardown")
	}
	p := n.addPod(1) // no Sync before it
	mustReach(t, p.NS, at(far.ip, 80), far.NS, p.ip)
	if repairs := n.sync(p); len(repairs) != 0 {
		t.Errorf("sync repairs %q", repairs)
	}
}

// Spoofed packets are counted on when the table is written anew.
func TestCounterSurvivesRebuild(t *testing.T) {
	w := newWorld(t, 1, 1)
	n := w.nodes[0]
	n.sync()
	p := n.addPod(1)
	p.IP("addr add 192.168.40.99/32 dev eth0")
	sendFrom(t, p.NS, "192.168.40.99:0", at(n.ip, 9))
	n.NFT("flush chain inet terway exit")
	if repairs := n.sync(p); len(repairs) != 1 {
		t.Errorf("repairs %q", repairs)
	}
	if got, err := n.dp.Spoofed(); err != nil || got != 1 {
		t.Errorf("spoofed packets: %d, %v, want 1", got, err)
	}
}

func TestRulesDoNotGrowWithPods(t *testing.T) {
	w := newWorld(t, 1, 2)
	n := w.nodes[0]
	n.sync()
	rules := func() int {
		return strings.Count(n.IP("rule show"), "\n") + strings.Count(n.IP("-6 rule show"), "\n")
	}
	before := rules()
	var pods []*testPod
	for i := range 100 {
		pods = append(pods, n.addPod(1+i%2))
	}
	if after := rules(); after != before {
		t.Errorf("%d rules with no pod, %d with 100", before, after)
	}
	first, last := pods[0], serving(pods[99])
	mustReach(t, first.NS, at(last.ip, 80), last.NS, first.ip)
	if repairs := n.sync(pods...); len(repairs) != 0 {
		t.Errorf("sync of a sound node repairs %q", repairs)
	}
}

func TestAddPodTwiceAndAfterRestart(t *testing.T) {
	w := newWorld(t, 2, 2)
	n := w.nodes[0]
	p := n.addPod(2, "4", "6") // without any Sync before
	other := w.nodes[1].addPod(1)
	first, before := p.wiring, dumpStable(n)
	p.add()
	if fmt.Sprint(first) != fmt.Sprint(p.wiring) {
		t.Errorf("second AddPod gives %+v, first gave %+v", p.wiring, first)
	}
	n.dp = n.newDatapath()
	if repairs := n.sync(p); len(repairs) != 0 {
		t.Errorf("sync after a restart repairs %q", repairs)
	}
	p.add()
	if diff := difference(before, dumpStable(n)); diff != "" {
		t.Errorf("repeated AddPod and restart changed:\n%s", diff)
	}
	serving(p)
	mustReach(t, other.NS, at(p.ip, 80), p.NS, other.ip)
	if _, err := net.ParseMAC(first.PodMAC.String()); err != nil || first.HostIfName == "" || len(first.Gateways) != 2 || first.MTU != 1500 {
		t.Errorf("wiring %+v", first)
	}
}

// A slot stays with its ENI over restarts, whatever the order of the ENIs, and a
// vanished ENI's is cleaned up.
func TestSlots(t *testing.T) {
	w := newWorld(t, 1, 3)
	n := w.nodes[0]
	slots := func() map[string]int {
		m := map[string]int{}
		for mac, s := range n.dp.state().enis {
			m[mac] = s.slot
		}
		return m
	}
	n.sync()
	before := slots()
	p := n.addPod(3)
	n.dp = n.newDatapath()
	slices.Reverse(n.node.ENIs)
	n.sync(p)
	if fmt.Sprint(slots()) != fmt.Sprint(before) {
		t.Errorf("slots %v became %v over a restart", before, slots())
	}

	// eth2 is unplugged.
	n.IP("link del eth2")
	n.node.ENIs = slices.DeleteFunc(n.node.ENIs, func(e datapath.ENI) bool { return e.Device == "eth2" })
	repairs := n.sync(p)
	if len(repairs) == 0 {
		t.Error("sync reports nothing about the vanished ENI")
	}
	slot := before[n.mac(2).String()]
	all := n.IP("rule show") + n.IP("-6 rule show") + n.IP("route show table all") + n.IP("-6 route show table all")
	for _, trace := range []string{"eth2", fmt.Sprintf("table %d ", TableLocal+slot), fmt.Sprintf("lookup %d", TableLocal+slot)} {
		if strings.Contains(all, trace) {
			t.Errorf("%q is still there:\n%s", trace, all)
		}
	}
	// Its slot serves the next ENI.
	n.plug(4)
	n.node.ENIs = append(n.node.ENIs, n.eni(4))
	n.sync(p)
	if got := slots()[n.mac(4).String()]; got != slot {
		t.Errorf("the next ENI got slot %d, want the free %d", got, slot)
	}
	if got := slots()[n.mac(3).String()]; got != before[n.mac(3).String()] {
		t.Errorf("eth3's slot moved from %d to %d", before[n.mac(3).String()], got)
	}
}

// An ENI that vanishes under its pods stops their way out, not their node's.
func TestStrandedPod(t *testing.T) {
	w := newWorld(t, 2, 2)
	n := w.nodes[0]
	n.sync()
	p, neighbour, far, late := n.addPod(2), serving(n.addPod(1)), w.nodes[1].addPod(1), n.describe(2)
	n.IP("link del eth2")
	n.node.ENIs = n.node.ENIs[:1]
	_, err := n.trySync(p, neighbour)
	if err == nil || !strings.Contains(err.Error(), n.mac(2).String()) || !strings.Contains(err.Error(), p.Name) {
		t.Errorf("sync: %v, want an error that names the pod and the ENI", err)
	}
	mustReach(t, p.NS, at(neighbour.ip, 80), neighbour.NS, p.ip)
	strict := w.strict()
	_, err = ask(p.NS, at(far.ip, 80))
	if err == nil || !strings.Contains(err.Error(), "unreachable") {
		t.Errorf("to another node: %v, want unreachable at once", err)
	}
	if w.strict() != strict {
		t.Error("packets left by an ENI that the address does not belong to")
	}
	if err := n.dp.CheckPod(context.Background(), n.node, p.pod); err == nil {
		t.Error("CheckPod finds nothing wrong")
	}
	if _, err := n.dp.AddPod(context.Background(), n.node, late.pod); err == nil {
		t.Error("AddPod on a vanished ENI works")
	}
}

func TestENIMTU(t *testing.T) {
	w := newWorld(t, 1, 1)
	n := w.nodes[0]
	n.node.ENIs[0].MTU = 1400
	n.sync()
	p := n.addPod(1)
	if p.wiring.MTU != 1400 || !strings.Contains(p.IP("link show eth0"), "mtu 1400") || !strings.Contains(n.IP("link show eth1"), "mtu 1400") {
		t.Errorf("MTU of the wiring is %d, want 1400 everywhere", p.wiring.MTU)
	}
	n.node.ENIs[0].MTU = 1450
	if repairs := n.sync(p); len(repairs) != 3 {
		t.Errorf("repairs %q, want one for the ENI and one for each end", repairs)
	}
	if !strings.Contains(p.IP("link show eth0"), "mtu 1450") {
		t.Error("the pod's MTU did not follow")
	}
}

func TestConcurrentPods(t *testing.T) {
	w := newWorld(t, 1, 2)
	n := w.nodes[0]
	var pods []*testPod
	for i := range 50 {
		pods = append(pods, n.describe(1+i%2, "4", "6"))
	}
	each := func(f func(*testPod) error) {
		t.Helper()
		var wg sync.WaitGroup
		errs := make([]error, len(pods))
		for i, p := range pods {
			wg.Go(func() { errs[i] = f(p) })
		}
		// Syncs with an old, empty list run into it all and must not matter.
		for range 3 {
			if _, err := n.dp.Sync(context.Background(), n.node, nil); err != nil {
				t.Errorf("Sync: %v", err)
			}
			break
		}
		wg.Wait()
		for i, err := range errs {
			if err != nil {
				t.Errorf("pod %d: %v", i, err)
			}
		}
	}
	each(func(p *testPod) error {
		_, err := n.dp.AddPod(context.Background(), n.node, p.pod)
		return err
	})
	for _, p := range pods {
		if err := n.dp.CheckPod(context.Background(), n.node, p.pod); err != nil {
			t.Error(err)
		}
	}
	serving(pods[49])
	mustReach(t, pods[0].NS, at(pods[49].ip, 80), pods[49].NS, pods[0].ip)
	each(func(p *testPod) error { return n.dp.DelPod(context.Background(), p.pod) })
	n.settle()
	if links := n.IP("-o link show"); strings.Contains(links, ": tw") {
		t.Errorf("devices are left:\n%s", links)
	}
	if elems, err := n.dp.nft.read(); err != nil || len(elems) != 0 {
		t.Errorf("elements %v are left, error %v", elems, err)
	}
	if routes := n.IP("route show table 2100"); routes != "" {
		t.Errorf("routes are left:\n%s", routes)
	}
}

func TestDelPodToleratesAbsence(t *testing.T) {
	w := newWorld(t, 1, 1)
	n := w.nodes[0]
	never := n.describe(1)
	never.del() // before anything of the datapath exists
	n.sync()
	never.del()

	p := n.addPod(1, "4", "6")
	p.del()
	p.del()

	q := n.addPod(1, "4", "6")
	q.Remove() // the namespace goes first, and the device with it
	q.pod.NetNS = ""
	q.del()

	// Addresses unknown: the device's name is enough.
	r := n.addPod(1, "4", "6")
	r.pod.Addresses = nil
	r.del()
	n.settle()
	if elems, err := n.dp.nft.read(); err != nil || len(elems) != 0 {
		t.Errorf("elements %v are left, error %v", elems, err)
	}
	if routes := n.IP("route show table 2100") + n.IP("-6 route show table 2100"); routes != "" {
		t.Errorf("routes are left:\n%s", routes)
	}
}

// An address moves to a new pod while the old one's device still exists.
func TestAddressReuse(t *testing.T) {
	w := newWorld(t, 1, 1)
	n := w.nodes[0]
	n.sync()
	client := n.addPod(1)
	old, next := n.addPod(1), n.describe(1)
	next.ip = old.ip
	next.pod.Addresses = []netip.Addr{old.ip}
	next.add()
	serving(next)
	mustReach(t, client.NS, at(next.ip, 80), next.NS, client.ip)
	old.del() // late, and must not take the new pod's route
	mustReach(t, client.NS, at(next.ip, 80), next.NS, client.ip)
	if repairs := n.sync(client, next); len(repairs) != 0 {
		t.Errorf("sync repairs %q", repairs)
	}
}

func TestAddPodRefuses(t *testing.T) {
	w := newWorld(t, 1, 1)
	n := w.nodes[0]
	n.sync()
	taken := n.describe(1)
	taken.IP("link add eth0 type veth peer name other")
	for _, c := range []struct {
		name string
		edit func(*datapath.Pod)
		want string
	}{
		{"no sandbox", func(p *datapath.Pod) { p.Sandbox = "" }, "Sandbox"},
		{"path in the interface", func(p *datapath.Pod) { p.IfName = "../eth0" }, "IfName"},
		{"no namespace", func(p *datapath.Pod) { p.NetNS = "" }, "NetNS"},
		{"namespace gone", func(p *datapath.Pod) { p.NetNS = "/run/netns/none" }, "/run/netns/none"},
		{"namespace of the node", func(p *datapath.Pod) { p.NetNS = n.Path }, "the node's own"},
		{"not a namespace", func(p *datapath.Pod) { p.NetNS = "/etc/hostname" }, "/etc/hostname"},
		{"no address", func(p *datapath.Pod) { p.Addresses = nil }, "Addresses"},
		{"two of a family", func(p *datapath.Pod) { p.Addresses = append(p.Addresses, n.ip) }, "Addresses"},
		{"unknown ENI", func(p *datapath.Pod) { p.ENI = "00:16:3e:ff:ff:ff" }, n.mac(1).String() + " eth1"},
		{"no MAC", func(p *datapath.Pod) { p.ENI = "eth1" }, "ENI"},
		{"device of others in the pod", func(p *datapath.Pod) { p.NetNS = taken.Path }, "already has a device eth0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := dumpStable(n)
			pod := n.describe(1).pod
			c.edit(&pod)
			_, err := n.dp.AddPod(context.Background(), n.node, pod)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), pod.Name) {
				t.Errorf("error %v, want one that names the pod and %q", err, c.want)
			}
			if diff := difference(before, dumpStable(n)); diff != "" {
				t.Errorf("a refused pod left:\n%s", diff)
			}
		})
	}
	if !strings.Contains(taken.IP("link show"), "eth0") {
		t.Error("the device of others is gone")
	}
}

// The node keeps its default routes from router advertisements when IPv6
// forwarding is turned on for the pods.
func TestForwardingKeepsRouterAdvertisements(t *testing.T) {
	w := newWorld(t, 1, 1)
	n := w.nodes[0]
	n.Sysctl("ipv4/ip_forward", "0")
	n.sync()
	for key, want := range map[string]string{
		"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1",
		"ipv6/conf/eth0/accept_ra": "2", "ipv6/conf/eth1/accept_ra": "0",
	} {
		if got := n.ReadSysctl(key); got != want {
			t.Errorf("%s is %s, want %s", key, got, want)
		}
	}
}

// A stacked device shares the ENI's MAC; the ENI is still found, by name or kind.
func TestFindDevice(t *testing.T) {
	mac := net.HardwareAddr{0, 0x16, 0x3e, 0, 0, 1}
	link := func(kind, name string) netlink.Link {
		return &netlink.GenericLink{LinkType: kind, LinkAttrs: netlink.LinkAttrs{Name: name, HardwareAddr: mac}}
	}
	links := []netlink.Link{link("macvlan", "mv0"), link("", "ens6"), link("veth", "eth1")}
	for _, c := range []struct{ device, want string }{{"eth1", "eth1"}, {"", "ens6"}, {"gone", "ens6"}} {
		got, err := findDevice(links, datapath.ENI{ID: "eni-1", MAC: mac, Device: c.device})
		if err != nil || got.Attrs().Name != c.want {
			t.Errorf("device %q: got %v, %v, want %s", c.device, got, err, c.want)
		}
	}
	if _, err := findDevice(links, datapath.ENI{ID: "eni-2", MAC: net.HardwareAddr{1, 2, 3, 4, 5, 6}}); err == nil || !strings.Contains(err.Error(), "eni-2") {
		t.Errorf("missing device: %v", err)
	}
}

// CIDRs that overlap, touch, or reach the last address are what they are for the
// kernel too: a second Sync finds nothing to do.
func TestInsideSetsInTheKernel(t *testing.T) {
	w := newWorld(t, 1, 1)
	n := w.nodes[0]
	for _, cidrs := range [][]string{
		{"0.0.0.0/0", "::/0"},
		{"10.0.0.0/8", "10.1.0.0/16", "11.0.0.0/8", "255.255.0.0/16", "fd00::/8", "fd12::/16"},
		{},
	} {
		n.node.VPCCIDRs = nil
		for _, c := range cidrs {
			n.node.VPCCIDRs = append(n.node.VPCCIDRs, netip.MustParsePrefix(c))
		}
		if repairs := n.sync(); len(repairs) == 0 {
			t.Errorf("%v: Sync reports no change", cidrs)
		}
		if repairs := n.sync(); len(repairs) != 0 {
			t.Errorf("%v: second Sync reports %q", cidrs, repairs)
		}
	}
}
