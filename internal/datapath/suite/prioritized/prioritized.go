// Package prioritized tests what the network priority of pods of one kind does: Run is the table. The
// classes of an ENI's queue count which packets have passed them.
//
// Only tests import it.
package prioritized

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/bandwidth"
	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/shaping"
	"terway.dev/terway/internal/datapath/suite/world"
	"terway.dev/terway/internal/testutil"
)

// Run runs all scenarios as subtests; make returns a node like the kit's, with the feature.
func Run(t *testing.T, k world.Kit, make func(world.Options, node.Feature) (world.Subject, error)) {
	k.New = func(o world.Options) (world.Subject, error) { return make(o, shaping.NewPriorities()) }
	k.ENIMbit = quick
	for _, s := range []struct {
		name string
		run  func(*testing.T, *env)
	}{
		{"every packet has its pod's class", everyPacketHasItsPodsClass},
		{"a pod's own priority does not count", ownPriorityDoesNotCount},
		{"an address is used again", addressIsUsedAgain},
		{"a pod moves to another ENI", podMoves},
		{"a queue is noticed and repaired", queueIsRepaired},
		{"the total changes and goes", totalChangesAndGoes},
		{"a discipline of others stays", disciplineOfOthersStays},
		{"nothing is left", nothingIsLeft},
		{"a guaranteed pod keeps its rate", guaranteedPodKeepsItsRate},
	} {
		t.Run(s.name, func(t *testing.T) {
			w := k.NewWorld(t, 2, 2)
			e := &env{w, w.Nodes[0], w.Nodes[1]}
			for _, n := range w.Nodes {
				n.Sync()
			}
			s.run(t, e)
		})
	}
}

type env struct {
	w      *world.World
	n0, n1 *world.Node
}

// quick is a total at which tests need not wait, in Mbit/s.
const quick = 4000

// pod adds a pod on eth1, which echoes on port 7.
func (e *env) pod(n *world.Node, priority bandwidth.Priority) *world.Pod {
	p := n.Describe(1, "4", "6")
	p.Spec.Priority = priority
	p.Add()
	p.Echo(7)
	return p
}

// classOf is where the packets of a priority belong.
var classOf = map[bandwidth.Priority]uint32{
	bandwidth.Guaranteed: netlink.MakeHandle(claims.QdiscENI, 0x10),
	bandwidth.Burstable:  netlink.MakeHandle(claims.QdiscENI, 0x20),
	bandwidth.BestEffort: netlink.MakeHandle(claims.QdiscENI, 0x30),
	"":                   netlink.MakeHandle(claims.QdiscENI, 0x20),
}

// queue is what the queue of an ENI has.
type queue struct {
	there bool
	bits  uint64 // the total per second
	// By class: bytes that have left, and those that wait.
	bytes map[uint32]uint64
	waits map[uint32]uint32
}

func look(t *testing.T, n *world.Node, device string) (q queue) {
	t.Helper()
	q.bytes, q.waits = map[uint32]uint64{}, map[uint32]uint32{}
	err := n.Do(func() error {
		link, err := netlink.LinkByName(device)
		if err != nil {
			return err
		}
		qdiscs, err := netlink.QdiscList(link)
		if err != nil {
			return err
		}
		for _, d := range qdiscs {
			a := d.Attrs()
			q.there = q.there || a.Parent == netlink.HANDLE_ROOT && a.Handle == netlink.MakeHandle(claims.QdiscENI, 0)
			if a.Statistics != nil && a.Statistics.Queue != nil {
				q.waits[a.Parent] = a.Statistics.Queue.Backlog
			}
		}
		classes, err := netlink.ClassList(link, 0)
		if err != nil {
			return err
		}
		for _, c := range classes {
			if htb, is := c.(*netlink.HtbClass); is {
				q.bytes[htb.Handle] = htb.Statistics.Basic.Bytes
				if htb.Handle == netlink.MakeHandle(claims.QdiscENI, 1) {
					q.bits = htb.Rate * 8
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return q
}

const (
	bulk = 4 << 20 // world.Bulk's, in each direction
	// little is more than what others send meanwhile.
	little = 64 << 10
)

// Leaves does something by which a pod sends the bytes of world.Bulk by an ENI, and asserts which class they had.
func Leaves(t *testing.T, what string, p *world.Pod, device string, priority bandwidth.Priority, do func()) {
	t.Helper()
	before := look(t, p.Node, device)
	do()
	after := look(t, p.Node, device)
	for name, class := range classOf {
		switch grown := after.bytes[class] - before.bytes[class]; {
		case class == classOf[priority] && grown < bulk:
			t.Errorf("%s: %d bytes had the class of %q, want %d or more", what, grown, name, bulk)
		case class != classOf[priority] && grown > little:
			t.Errorf("%s: %d bytes had the class of %q, which is not the pod's", what, grown, name)
		}
	}
}

// Of both families, on the slow path and on a connection's fast path, whoever has opened the connection.
func everyPacketHasItsPodsClass(t *testing.T, e *env) {
	far := e.pod(e.n1, "")
	e.n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, Port: 7, Endpoint: far.V4})
	type path struct {
		from *testutil.NS
		to   string
	}
	for _, priority := range []bandwidth.Priority{bandwidth.Guaranteed, bandwidth.Burstable, bandwidth.BestEffort, ""} {
		p := e.pod(e.n0, priority)
		paths := []path{{p.NS, world.At(far.V4, 7)}, {far.NS, world.At(p.V6, 7)}}
		if priority == bandwidth.Guaranteed {
			paths = append(paths, path{p.NS, world.At(far.V6, 7)}, path{far.NS, world.At(p.V4, 7)}, path{p.NS, world.At(world.ClusterIP, 7)})
		}
		for _, path := range paths {
			Leaves(t, fmt.Sprintf("%q: %s → %s", priority, path.from.Name, path.to), p, "eth1", priority, func() { world.Bulk(t, path.from, path.to) })
		}
		if err := e.n0.DP.CheckPod(context.Background(), e.n0.Desired, p.Spec); err != nil {
			t.Errorf("%q: %v", priority, err)
		}
		p.Del()
	}
}

// A pod may set any priority on its packets, such as the class of others or the handle of the queue.
func ownPriorityDoesNotCount(t *testing.T, e *env) {
	p, far := e.pod(e.n0, bandwidth.BestEffort), e.pod(e.n1, "")
	conn, err := p.Dial("udp", "", world.At(far.V6, 9), world.Patience)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	inbox := far.ListenPacket("udp", world.At(far.V6, 9))
	const size, each = 1000, 50 // fewer than fill the receiver's buffer
	before := look(t, e.n0, "eth1")
	for _, value := range []uint32{classOf[bandwidth.Guaranteed], classOf[bandwidth.Burstable], netlink.MakeHandle(claims.QdiscENI, 0), netlink.MakeHandle(claims.QdiscENI, 1)} {
		world.SetPriority(t, conn, value)
		for range each {
			if _, err := conn.Write(make([]byte, size)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := conn.Write([]byte(fmt.Sprintf("%x is over", value))); err != nil {
			t.Fatal(err)
		}
		world.Received(t, inbox, fmt.Sprintf("%x is over", value))
	}
	after := look(t, e.n0, "eth1")
	if got := after.bytes[classOf[bandwidth.BestEffort]] - before.bytes[classOf[bandwidth.BestEffort]]; got < 4*each*size {
		t.Errorf("%d bytes had the pod's class, want %d or more", got, 4*each*size)
	}
	for _, other := range []bandwidth.Priority{bandwidth.Guaranteed, bandwidth.Burstable} {
		if got := after.bytes[classOf[other]] - before.bytes[classOf[other]]; got > 10*size {
			t.Errorf("%d bytes had the class of %s", got, other)
		}
	}
}

// The pod that has an address has its class, whatever pods had before it, and whether the agent ran when they went.
func addressIsUsedAgain(t *testing.T, e *env) {
	far := e.pod(e.n1, "")
	heir := func(of *world.Pod, priority bandwidth.Priority) *world.Pod {
		p := e.n0.Describe(1, "4", "6")
		p.Spec.Addresses, p.V4, p.V6, p.Spec.Priority = of.Spec.Addresses, of.V4, of.V6, priority
		return p
	}
	sends := func(what string, p *world.Pod, priority bandwidth.Priority) {
		t.Helper()
		Leaves(t, what, p, "eth1", priority, func() { world.Bulk(t, p.NS, world.At(far.V4, 7)) })
	}
	first := e.pod(e.n0, bandwidth.Guaranteed)
	sends("the first", first, bandwidth.Guaranteed)
	first.Del()
	second := heir(first, "")
	second.Add()
	sends("after DEL", second, "")

	// Its device is deleted with its namespace, and the agent that starts then does not know it.
	second.Del()
	third := heir(first, bandwidth.BestEffort)
	third.Add()
	if third.Spec.Kind == claims.IPvlan { // only the kernel's end of the namespace deletes both devices
		third.Del()
	} else {
		e.n0.IP("link del " + third.Wiring.HostIfName)
	}
	e.n0.DP = e.n0.NewDatapath()
	e.n0.Sync()
	fourth := heir(first, bandwidth.Burstable)
	fourth.Add()
	sends("after a restart", fourth, bandwidth.Burstable)

	// DEL of the pod that had it comes late.
	fifth := heir(first, bandwidth.Guaranteed)
	fifth.Add()
	fourth.Del()
	sends("after a late DEL", fifth, bandwidth.Guaranteed)
	if repairs := e.n0.Sync(fifth); len(repairs) != 0 {
		t.Errorf("Sync repairs %q", repairs)
	}
	// Another one, without a new sandbox.
	fifth.Spec.Priority = bandwidth.BestEffort
	if repairs := e.n0.Sync(fifth); len(repairs) != 1 || !strings.Contains(repairs[0], "network priority of "+fifth.Wiring.HostIfName) {
		t.Errorf("Sync repairs %q", repairs)
	}
	sends("after a change", fifth, bandwidth.BestEffort)
	fifth.Spec.Priority = bandwidth.Burstable
	e.n0.Sync(fifth)
	sends("after another", fifth, bandwidth.Burstable)
}

func podMoves(t *testing.T, e *env) {
	p, far := e.pod(e.n0, bandwidth.Guaranteed), e.pod(e.n1, "")
	Leaves(t, "by eth1", p, "eth1", bandwidth.Guaranteed, func() { world.Bulk(t, p.NS, world.At(far.V4, 7)) })
	p.Del()
	p.Spec.ENI, p.Port = e.n0.MAC(2).String(), e.n0.Port(2)
	e.w.Assign(e.n0, 2, p.Spec.Addresses...)
	p.Add()
	Leaves(t, "by eth2", p, "eth2", bandwidth.Guaranteed, func() { world.Bulk(t, p.NS, world.At(far.V4, 7)) })
}

func queueIsRepaired(t *testing.T, e *env) {
	p, far := e.pod(e.n0, bandwidth.Guaranteed), e.pod(e.n1, "")
	tc := func(words string) func() { return func() { e.n0.Run("tc", strings.Fields(words)...) } }
	// The kernel makes no discipline one of another kind, nor changes HTB's default.
	anew := func(discipline string) func() {
		return func() {
			tc("qdisc del dev eth1 root")()
			tc("qdisc add dev eth1 root handle 747c: " + discipline)()
		}
	}
	for name, cut := range map[string]func(){
		"the queue":       tc("qdisc del dev eth1 root"),
		"the program":     tc("filter del dev eth1 egress pref " + fmt.Sprint(claims.PrefPriority)),
		"another total":   tc("class change dev eth1 classid 747c:1 htb rate 1gbit ceil 1gbit"),
		"another share":   tc("class change dev eth1 parent 747c:1 classid 747c:10 htb rate 1mbit ceil 1mbit prio 0"),
		"another order":   tc("class change dev eth1 parent 747c:1 classid 747c:10 htb rate 3760mbit ceil 4gbit prio 7"),
		"another class":   tc("class add dev eth1 parent 747c: classid 747c:99 htb rate 1gbit"),
		"another queue":   tc("qdisc replace dev eth1 parent 747c:20 handle 1: pfifo"),
		"another kind":    anew("pfifo"),
		"another default": anew("htb default 10 direct_qlen 0"),
		"a direct queue":  anew("htb default 20 direct_qlen 100"),
	} {
		cut()
		if repairs := e.n0.Sync(p); len(repairs) != 1 || !strings.Contains(repairs[0], "eth1") {
			t.Errorf("%s: Sync repairs %q", name, repairs)
		}
		if repairs := e.n0.Sync(p); len(repairs) != 0 {
			t.Errorf("%s: Sync repairs again %q", name, repairs)
		}
		if out := e.n0.Run("tc", "qdisc", "show", "dev", "eth1"); !strings.Contains(out, "htb 747c: root") || !strings.Contains(out, "default 0x20") || !strings.Contains(out, "direct_qlen 0") {
			t.Errorf("%s: afterwards there is %s", name, out)
		}
		Leaves(t, name, p, "eth1", bandwidth.Guaranteed, func() { world.Bulk(t, p.NS, world.At(far.V4, 7)) })
	}
}

// traces are the lines of tc about the feature.
func traces(n *world.Node) string {
	var left []string
	for _, device := range []string{"eth1", "eth2"} {
		for _, list := range [][]string{{"qdisc", "show", "dev", device}, {"filter", "show", "dev", device, "egress"}} {
			out, _ := n.Exec("tc", list...) // without clsact it fails
			for line := range strings.Lines(out) {
				if strings.Contains(line, "747c:") || strings.Contains(line, "tw_priority") {
					left = append(left, device+" "+line)
				}
			}
		}
	}
	return strings.Join(left, "")
}

// Connections go on meanwhile.
func totalChangesAndGoes(t *testing.T, e *env) {
	p, far := e.pod(e.n0, bandwidth.Guaranteed), e.pod(e.n1, "")
	talk := world.StartTalk(t, p.NS, "tcp", world.At(far.V4, 7))
	pods := []*world.Pod{p}
	set := func(mbit int, repairs int) {
		t.Helper()
		e.n0.Desired.ENIMbit = mbit
		if got := e.n0.Sync(pods...); len(got) != repairs {
			t.Errorf("total %d: Sync repairs %q, want %d", mbit, got, repairs)
		}
		talk.More(20)
		for _, device := range []string{"eth1", "eth2"} {
			if q := look(t, e.n0, device); q.there != (mbit != 0) || q.bits != uint64(mbit)*1e6 {
				t.Errorf("total %d: %s: %+v", mbit, device, q)
			}
		}
	}
	before := look(t, e.n0, "eth1")
	set(2000, 2) // a queue for each ENI
	set(100_000, 2)
	set(100_000, 0)
	if now := look(t, e.n0, "eth1"); now.bytes[classOf[bandwidth.Guaranteed]] < before.bytes[classOf[bandwidth.Guaranteed]] {
		t.Error("the queue was recreated")
	}
	// An agent is restarted, before and after the key is removed.
	e.n0.DP = e.n0.NewDatapath()
	set(100_000, 0)
	e.n0.DP = e.n0.NewDatapath()
	e.n0.Desired.ENIMbit = 0
	pods = append(pods, e.pod(e.n0, bandwidth.BestEffort)) // ADD may be late: it removes nothing
	if q := look(t, e.n0, "eth1"); !q.there {
		t.Error("ADD has removed the queue")
	}
	set(0, 4) // each ENI's queue and its program
	set(0, 0)
	if left := traces(e.n0); left != "" {
		t.Errorf("without a total there is %s", left)
	}
	e.n0.Desired.ENIMbit = quick
	e.n0.Sync(pods...)
	Leaves(t, "turned on again", p, "eth1", bandwidth.Guaranteed, func() { world.Bulk(t, p.NS, world.At(far.V4, 7)) })
	talk.End(t)
}

func disciplineOfOthersStays(t *testing.T, e *env) {
	e.n0.Run("tc", strings.Fields("qdisc replace dev eth1 root handle 1: pfifo")...)
	_, err := e.n0.TrySync()
	pods, obstacles, rest := datapath.Sort(err)
	if rest != nil || len(pods) != 0 || len(obstacles) != 1 || !strings.Contains(obstacles[0], "eth1: another program has given it the queueing discipline pfifo") {
		t.Errorf("Sync: obstacles %q, pods %v, %v", obstacles, pods, rest)
	}
	e.n0.NFT("delete table inet " + claims.TableName) // so that ADD prepares the node again
	p, far := e.pod(e.n0, bandwidth.Guaranteed), e.pod(e.n1, "")
	world.Bulk(t, p.NS, world.At(far.V4, 7))
	if out := e.n0.Run("tc", "qdisc", "show", "dev", "eth1"); !strings.Contains(out, "qdisc pfifo 1: root") {
		t.Errorf("the discipline of others is gone: %s", out)
	}
	e.n0.Run("tc", strings.Fields("qdisc del dev eth1 root")...)
	e.n0.Sync(p)
	Leaves(t, "afterwards", p, "eth1", bandwidth.Guaranteed, func() { world.Bulk(t, p.NS, world.At(far.V4, 7)) })
}

func nothingIsLeft(t *testing.T, e *env) {
	e.pod(e.n0, bandwidth.Guaranteed)
	if traces(e.n0) == "" {
		t.Fatal("nothing is there")
	}
	if err := e.n0.DP.Teardown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if left := traces(e.n0); left != "" {
		t.Errorf("after Teardown there is %s", left)
	}
}

// Three pods send all that they can by an ENI of 200 Mbit/s, a guaranteed one 50 Mbit/s of datagrams, which say when they were sent.
func guaranteedPodKeepsItsRate(t *testing.T, e *env) {
	e.n0.Desired.ENIMbit = 200
	e.n0.Sync()
	far := e.pod(e.n1, "")
	var others []*world.Pod
	for _, priority := range []bandwidth.Priority{"", bandwidth.Burstable, bandwidth.BestEffort} {
		others = append(others, e.pod(e.n0, priority))
	}
	guaranteed := e.pod(e.n0, bandwidth.Guaranteed)
	for i, p := range others {
		flood(t, p, far, 8000+i)
	}
	first := look(t, e.n0, "eth1")
	arrived, late := steady(t, guaranteed, far)
	last := look(t, e.n0, "eth1")
	if first.waits[classOf[""]]+last.waits[classOf[""]] == 0 {
		t.Error("nothing of the other pods waits: they have not used up the ENI")
	}
	usual, _ := steady(t, others[0], far)
	t.Logf("of 50 Mbit/s of the guaranteed pod %.3f arrived, after %s (p50) and %s (p99); of a burstable pod's %.3f",
		arrived, late[len(late)/2], late[len(late)*99/100], usual)
	if arrived < 0.95 {
		t.Errorf("%.3f of what the guaranteed pod has sent has arrived, want 0.95", arrived)
	}
}

// flood sends on some connections all that goes, until the test ends.
func flood(t *testing.T, from, to *world.Pod, port int) {
	t.Helper()
	l := to.Listen("tcp", world.At(to.V4, port))
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(io.Discard, conn) }()
		}
	}()
	var all sync.WaitGroup
	t.Cleanup(all.Wait) // after the connections are closed
	for range 8 {
		conn, err := from.Dial("tcp", "", world.At(to.V4, port), world.Patience)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		all.Go(func() {
			for text := make([]byte, 64<<10); ; {
				if _, err := conn.Write(text); err != nil {
					return
				}
			}
		})
	}
}

// steady sends 50 Mbit/s for some time. It returns how much of it has arrived, and after how long, sorted.
func steady(t *testing.T, from, to *world.Pod) (arrived float64, late []time.Duration) {
	t.Helper()
	const rate, frame, payload = 50_000_000 / 8, 1514, 1472
	const all = 2 * rate / frame // what two seconds take
	inbox := to.ListenPacket("udp", netip.AddrPortFrom(to.V4, 0).String())
	defer inbox.Close()
	conn, err := from.Dial("udp", "", inbox.LocalAddr().String(), world.Patience)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	epoch, start := time.Now(), time.Now()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for b := make([]byte, payload); len(late) < all; {
			if _, _, err := inbox.ReadFrom(b); err != nil {
				return
			}
			late = append(late, time.Since(epoch)-time.Duration(binary.LittleEndian.Uint64(b)))
		}
	}()
	sent := 0
	for ; sent < all; time.Sleep(time.Millisecond) {
		// What is due, but no burst for a time in which the machine stood still.
		due := min(int(time.Since(start).Seconds()*rate/frame), all)
		if due > sent+64 {
			start = start.Add(time.Duration(float64(due-sent-64) * frame / rate * 1e9))
			due = sent + 64
		}
		for ; sent < due; sent++ {
			b := make([]byte, payload)
			binary.LittleEndian.PutUint64(b, uint64(time.Since(epoch)))
			if _, err := conn.Write(b); err != nil && !errors.Is(err, unix.ENOBUFS) {
				t.Fatal(err)
			}
		}
	}
	if err := inbox.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	<-done
	if len(late) == 0 {
		t.Fatal("nothing has arrived")
	}
	slices.Sort(late)
	return float64(len(late)) / float64(sent), late
}
