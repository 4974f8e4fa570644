package node

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/firewall"
	"terway.dev/terway/internal/datapath/object"
	"terway.dev/terway/internal/datapath/routing"
	"terway.dev/terway/internal/datapath/suite/world"
	"terway.dev/terway/internal/sysctl"
)

// The test above depends on the VPC's source check.
func TestWorldDropsSourceOnWrongENI(t *testing.T) {
	w := newWorld(t, 2, 2)
	n0, n1 := w.Nodes[0], w.Nodes[1]
	n0.Sync()
	n1.Sync()
	a, b := n0.AddPod(1), n1.AddPod(1)
	world.Serve(b.NS, world.At(b.V4, 80))
	// The pod's address leaves by the other ENI.
	n0.IP(fmt.Sprintf("rule add pref 590 from %s lookup %s", a.V4, n0.Table(2)))
	world.MustNotReach(t, a.NS, world.At(b.V4, 80))
	if w.Strict() == 0 {
		t.Error("the VPC dropped nothing")
	}
}

// The count of spoofed packets continues when the table is rewritten.
func TestCounterSurvivesRebuild(t *testing.T) {
	w := newWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	p := n.AddPod(1)
	p.IP("addr add 192.168.40.99/32 dev eth0")
	world.SendFrom(t, p.NS, "192.168.40.99:0", world.At(n.V4, 9))
	n.NFT("flush chain inet terway exit")
	if repairs := n.Sync(p); len(repairs) != 1 {
		t.Errorf("repairs %q", repairs)
	}
	if got, err := n.DP.Spoofed(); err != nil || got != 1 {
		t.Errorf("spoofed packets: %d, %v, want 1", got, err)
	}
}

// A repair names the piece that was wrong, and the kind of pods whose it is.
func TestRepairsNamePieces(t *testing.T) {
	w := newWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	p, other := n.AddPod(1), n.AddPod(1)
	for _, c := range []struct {
		piece string
		spoil func()
		pods  []datapath.Pod
	}{
		{datapath.PieceNFTables, func() { n.NFT("flush chain inet terway exit") }, []datapath.Pod{p.Spec, other.Spec}},
		{datapath.PieceRouting, func() { n.IP("route flush table " + n.Table(1)) }, []datapath.Pod{p.Spec, other.Spec}},
		{datapath.PiecePods, func() { n.IP("link set " + claims.HostIfName(p.Spec.Sandbox, p.Spec.IfName) + " down") }, []datapath.Pod{p.Spec, other.Spec}},
		{datapath.PieceRemains, func() {}, []datapath.Pod{p.Spec}},
	} {
		c.spoil()
		repairs, err := n.DP.Sync(t.Context(), n.Desired, c.pods)
		if err != nil || len(repairs) == 0 {
			t.Errorf("%s: repairs %v, error %v", c.piece, repairs, err)
		}
		for _, r := range repairs {
			kind := n.Desired.Kind
			if c.piece == datapath.PiecePods {
				kind = p.Spec.Kind
			}
			if r.Piece != c.piece || r.Kind != kind || r.What == "" {
				t.Errorf("%s of %q: repair %+v", c.piece, kind, r)
			}
		}
	}
}

// An ENI keeps its slot over restarts, whatever the order of the ENIs, and a detached ENI's slot is
// cleaned up.
func TestSlots(t *testing.T) {
	w := newWorld(t, 1, 3)
	n := w.Nodes[0]
	slots := func() map[string]int {
		m := map[string]int{}
		for mac, s := range own(n).state().enis {
			m[mac] = s.Slot
		}
		return m
	}
	n.Sync()
	before := slots()
	p := n.AddPod(3)
	n.DP = n.NewDatapath()
	slices.Reverse(n.Desired.ENIs)
	n.Sync(p)
	if fmt.Sprint(slots()) != fmt.Sprint(before) {
		t.Errorf("slots %v became %v over a restart", before, slots())
	}

	// eth2 is detached.
	n.IP("link del eth2")
	n.Desired.ENIs = slices.DeleteFunc(n.Desired.ENIs, func(e datapath.ENI) bool { return e.Device == "eth2" })
	repairs := n.Sync(p)
	if len(repairs) == 0 {
		t.Error("sync reports nothing about the vanished ENI")
	}
	slot := before[n.MAC(2).String()]
	all := n.IP("rule show") + n.IP("-6 rule show") + n.IP("route show table all") + n.IP("-6 route show table all")
	for _, trace := range []string{"eth2", fmt.Sprintf("table %d ", claims.TableLocal+slot), fmt.Sprintf("lookup %d", claims.TableLocal+slot)} {
		if strings.Contains(all, trace) {
			t.Errorf("%q is still there:\n%s", trace, all)
		}
	}
	// Its slot serves the next ENI.
	n.Plug(4)
	n.Desired.ENIs = append(n.Desired.ENIs, n.ENI(4))
	n.Sync(p)
	if got := slots()[n.MAC(4).String()]; got != slot {
		t.Errorf("the next ENI got slot %d, want the free %d", got, slot)
	}
	if got := slots()[n.MAC(3).String()]; got != before[n.MAC(3).String()] {
		t.Errorf("eth3's slot moved from %d to %d", before[n.MAC(3).String()], got)
	}
}

// A pod that was wired before a restart must survive the loss of the table before the first Sync of
// the new process.
func TestTableLostBetweenSyncs(t *testing.T) {
	w := newWorld(t, 2, 1)
	n := w.Nodes[0]
	n.Sync()
	w.Nodes[1].Sync()
	p, far := n.AddPod(1), world.Serving(w.Nodes[1].AddPod(1))
	n.NFT("delete table inet terway")
	q := n.AddPod(1)
	world.MustReach(t, q.NS, world.At(far.V4, 80), far.NS, q.V4)
	world.MustReach(t, p.NS, world.At(far.V4, 80), far.NS, p.V4)
}

// A sysctl that one pod's device rejects is an error of that pod, and prevents no other setting, of
// that pod or of others.
func TestSysctlsArePods(t *testing.T) {
	w := newWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	a, b := n.AddPod(1, "4", "6"), n.AddPod(1, "4", "6")
	d := own(n)
	d.procSys = t.TempDir() // a missing file is skipped
	file := func(p *world.Pod, name string) string {
		return filepath.Join(d.procSys, "net/ipv6/conf", p.Wiring.HostIfName, name)
	}
	for _, p := range []*world.Pod{a, b} {
		if err := os.MkdirAll(file(p, ""), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file(p, "forwarding"), []byte("0"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(file(p, "accept_ra"), 0o755); err != nil { // cannot be written
			t.Fatal(err)
		}
	}
	repairs, err := n.TrySync(a, b)
	pods, obstacles, node := datapath.Sort(err)
	if len(pods) != 2 || pods[0].Sandbox == pods[1].Sandbox || len(obstacles) != 0 || node != nil {
		t.Errorf("pods %v, obstacles %q, node %v; want one error for each pod", pods, obstacles, node)
	}
	if len(repairs) != 2 {
		t.Errorf("repairs %q", repairs)
	}
	for _, p := range []*world.Pod{a, b} {
		if got, err := os.ReadFile(file(p, "forwarding")); err != nil || string(got) != "1" {
			t.Errorf("forwarding of %s is %q, %v", p.Name, got, err)
		}
	}
}

// stubborn is a kind that cannot delete a pod.
type stubborn struct{ Plain }

func (stubborn) Objects(*Pod) Added { return Added{Before: []object.Object{stays{object.Loopback()}}} }

type stays struct{ object.Object }

func (stays) Del(*object.Site) error { return errors.New("no") }

// Leftovers of a pod that cannot be removed do not stop the node from serving others.
func TestLeftoverThatStays(t *testing.T) {
	w := newWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	gone := n.AddPod(1)
	n.DP = n.NewDatapath() // a restart: what is not in the journal is a leftover
	own(n).kinds = []Kind{stubborn{}}
	_, err := n.TrySync()
	pods, obstacles, node := datapath.Sort(err)
	if len(pods) != 0 || len(obstacles) != 1 || !strings.Contains(obstacles[0], gone.Wiring.HostIfName) || node != nil {
		t.Errorf("pods %v, obstacles %q, node %v; want an obstacle that names the device", pods, obstacles, node)
	}
}

func TestSyncRemovesLeftovers(t *testing.T) {
	w := newWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	keep := n.AddPod(1)
	before := world.DumpStable(n)
	n.AddPod(1, "4", "6")
	vanished := n.AddPod(1, "4", "6")
	vanished.Remove()
	n.NFT(`add element inet terway pods4 { "tw00000000000" . 192.168.40.77 : 0x00100000 }`)
	n.NFT(fmt.Sprintf(`add element inet terway pods4 { %q . 192.168.40.78 : 0x00100000 }`, keep.Wiring.HostIfName))
	n.IP("route add 192.168.40.79 dev " + keep.Wiring.HostIfName + " table 2100 proto 84")

	n.DP = n.NewDatapath() // a restart: what is not in the journal is a leftover
	if repairs := n.Sync(keep); len(repairs) == 0 {
		t.Error("Sync reports nothing")
	}
	if diff := world.Difference(before, world.DumpStable(n)); diff != "" {
		t.Errorf("leftovers:\n%s", diff)
	}
	if repairs := n.Sync(keep); len(repairs) != 0 {
		t.Errorf("second Sync reports %q", repairs)
	}
}

// A pod whose kind this agent does not have is neither repaired nor a leftover.
func TestSyncLeavesPodsOfOthersAlone(t *testing.T) {
	w := newWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	p, other := n.AddPod(1), n.AddPod(1)
	other.Spec.Kind = "of a newer version"
	n.IP("link set " + other.Wiring.HostIfName + " mtu 1400")
	n.DP = n.NewDatapath()
	before := world.DumpStable(n)
	for range 3 {
		if repairs := n.Sync(p, other); len(repairs) != 0 {
			t.Errorf("Sync repairs %q", repairs)
		}
	}
	if diff := world.Difference(before, world.DumpStable(n)); diff != "" {
		t.Errorf("it changed:\n%s", diff)
	}
}

// CIDRs that overlap, touch, or reach the last address are the same for the kernel: a second Sync
// finds nothing to do.
func TestInsideSetsInTheKernel(t *testing.T) {
	w := newWorld(t, 1, 1)
	n := w.Nodes[0]
	for _, cidrs := range [][]string{
		{"0.0.0.0/0", "::/0"},
		{"10.0.0.0/8", "10.1.0.0/16", "11.0.0.0/8", "255.255.0.0/16", "fd00::/8", "fd12::/16"},
		{},
	} {
		n.Desired.VPCCIDRs = nil
		for _, c := range cidrs {
			n.Desired.VPCCIDRs = append(n.Desired.VPCCIDRs, netip.MustParsePrefix(c))
		}
		if repairs := n.Sync(); len(repairs) == 0 {
			t.Errorf("%v: Sync reports no change", cidrs)
		}
		if repairs := n.Sync(); len(repairs) != 0 {
			t.Errorf("%v: second Sync reports %q", cidrs, repairs)
		}
	}
}

// Other programs' rules that cannot be read are an obstacle, whatever the reason, and not the
// node's failure: pods are served.
func TestForwardUnreadable(t *testing.T) {
	w := newWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	d := own(n)
	good := d.firewall
	d.firewall = firewall.New(netns.NsHandle(1<<20), d.tables) // no open file
	_, err := n.TrySync()
	if pods, obstacles, node := datapath.Sort(err); len(pods) != 0 || len(obstacles) != 1 || node != nil || !strings.Contains(obstacles[0], "generation") {
		t.Errorf("pods %v, obstacles %q, node %v; want one obstacle that names the generation", pods, obstacles, node)
	}
	d.firewall = good
	n.Sync()
}

// settings is a kind with sysctls of the node's device beside those that every pod has.
type settings struct{ Plain }

func (settings) Objects(p *Pod) Added {
	one := func(name string) []object.Object {
		return []object.Object{object.Sysctl{Setting: sysctl.Setting{Path: "ipv4/conf/" + p.Host.Name + "/" + name, Value: "1"}}}
	}
	return Added{Before: one("log_martians"), After: one("proxy_arp_pvlan")}
}

// Sync and CheckPod see the sysctls of all objects of a pod, whoever adds them.
func TestSysctlsOfKinds(t *testing.T) {
	w := newWorld(t, 1, 1)
	n := w.Nodes[0]
	own(n).kinds = []Kind{settings{Plain{"plain"}}}
	n.Sync()
	p := n.AddPod(1)
	if repairs := n.Sync(p); len(repairs) != 0 {
		t.Errorf("Sync of a new pod repairs %q", repairs)
	}
	for _, name := range []string{"log_martians", "proxy_arp_pvlan"} {
		path := "ipv4/conf/" + p.Wiring.HostIfName + "/" + name
		n.Sysctl(path, "0")
		if err := n.DP.CheckPod(t.Context(), n.Desired, p.Spec); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("CheckPod: %v, want %s", err, path)
		}
		if repairs := n.Sync(p); len(repairs) != 1 || !strings.Contains(repairs[0], path) {
			t.Errorf("Sync repairs %q, want %s", repairs, path)
		}
	}
}

// A pod's namespace that is no longer mounted is gone, though its file is there: Sync repairs what
// it can see, and the agent removes the pod.
func TestSyncWithALeftFile(t *testing.T) {
	w := newWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	p := n.AddPod(1)
	p.Spec.NetNS = world.LeftFile(t)
	n.IP("link set " + p.Wiring.HostIfName + " down")
	if repairs := n.Sync(p); len(repairs) == 0 {
		t.Error("Sync repairs nothing")
	}
	p.Remove()
	n.Sync(p)
}

// locked is a kind, and a feature, that looks whether the node's lock is held.
type locked struct {
	Plain
	node  *Node
	calls []string
	free  bool
}

func (k *locked) note(call string) {
	k.calls = append(k.calls, call)
	if k.node.nodeMu.TryLock() {
		k.node.nodeMu.Unlock()
		k.free = true
	}
}

func (k *locked) Choose(string) { k.note("choose") }

func (k *locked) Sync(*netlink.Handle, []netlink.Link, []routing.ENI) ([]string, error) {
	k.note("sync")
	return nil, nil
}

func (k *locked) Teardown(*netlink.Handle, []netlink.Link) error { k.note("teardown"); return nil }

type lockedFeature struct{ k *locked }

func (lockedFeature) Name() string                          { return "locked" }
func (lockedFeature) Objects(*Pod, []Point) []object.Object { return nil }
func (f lockedFeature) Teardown(*netlink.Handle) error      { f.k.note("teardown"); return nil }
func (f lockedFeature) Sync(*object.Site, datapath.Node, []netlink.Link, []routing.ENI) ([]string, error) {
	f.k.note("sync")
	return nil, nil
}

// No two calls that concern the whole node are made at once: an ADD may prepare the node while it
// is torn down.
func TestKindsHoldTheNodesLock(t *testing.T) {
	w := newWorld(t, 1, 1)
	n := w.Nodes[0]
	k := &locked{Plain: Plain{"plain"}, node: own(n)}
	own(n).kinds, own(n).features = []Kind{k}, []Feature{lockedFeature{k}}
	n.AddPod(1)
	n.Sync()
	if err := n.DP.Teardown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(k.calls); k.free || got != "[choose sync sync choose sync sync teardown teardown]" {
		t.Errorf("calls %s, without the lock: %v", got, k.free)
	}
}

// Teardown waits for devices of deleted pods without the node's lock: an ADD that makes devices,
// which their deletion waits for, may need it.
func TestTeardownWaitsUnlocked(t *testing.T) {
	w := newWorld(t, 1, 1)
	n := w.Nodes[0]
	n.AddPod(1)
	d := own(n)
	d.linkMu.Lock() // as an ADD does
	done := make(chan error, 1)
	go func() { done <- n.DP.Teardown(t.Context()) }()
	free := func() bool {
		if d.state().done != nil || !d.nodeMu.TryLock() {
			return false
		}
		d.nodeMu.Unlock()
		return true
	}
	for deadline := time.Now().Add(world.Patience); !free(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Error("the node's lock is held")
			break
		}
	}
	d.linkMu.Unlock()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// addressed is a feature with an object for each address of a pod; it records which are deleted.
type addressed struct{ deleted *[]netip.Addr }

func (addressed) Name() string { return "addressed" }
func (addressed) Sync(*object.Site, datapath.Node, []netlink.Link, []routing.ENI) ([]string, error) {
	return nil, nil
}
func (addressed) Teardown(*netlink.Handle) error { return nil }
func (f addressed) Objects(p *Pod, _ []Point) (list []object.Object) {
	for _, a := range p.Addresses {
		list = append(list, ofAddress{Object: object.Loopback(), address: a, deleted: f.deleted})
	}
	return list
}

type ofAddress struct {
	object.Addressed
	object.Object
	address netip.Addr
	deleted *[]netip.Addr
}

func (o ofAddress) Del(*object.Site) error { *o.deleted = append(*o.deleted, o.address); return nil }

// With an address that a pod does not have any more goes all that was made for it, by whomever, while
// the pod stays.
func TestSurplusAddresses(t *testing.T) {
	w := newWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	var deleted []netip.Addr
	own(n).features = []Feature{addressed{&deleted}}
	p, q := n.AddPod(1, "4", "6"), n.AddPod(1, "4", "6")
	n.IP("neigh add 192.168.40.77 lladdr 02:00:00:00:00:01 nud permanent dev " + p.Wiring.HostIfName)
	p.Spec.Addresses, q.Spec.Addresses = []netip.Addr{p.V4}, []netip.Addr{q.V6}
	repairs := strings.Join(n.Sync(p, q), "\n")
	for _, gone := range []netip.Addr{p.V6, q.V4, netip.MustParseAddr("192.168.40.77")} {
		if !strings.Contains(repairs, gone.String()) || !slices.Contains(deleted, gone) {
			t.Errorf("%s: repairs\n%s\nthe feature's objects of %v were deleted", gone, repairs, deleted)
		}
		have := n.IP("neigh show nud permanent") + n.IP("-6 neigh show nud permanent") + n.IP("route show table 2100") + n.IP("-6 route show table 2100")
		if strings.Contains(have, gone.String()+" ") {
			t.Errorf("%s is left:\n%s", gone, have)
		}
	}
	if slices.Contains(deleted, p.V4) || slices.Contains(deleted, q.V6) {
		t.Errorf("the feature's objects of %v were deleted", deleted)
	}
	if repairs := n.Sync(p, q); len(repairs) != 0 {
		t.Errorf("second Sync repairs %q", repairs)
	}
}
