// Package limited tests what limits of a pod's bandwidth do, on the pods of one kind: Run is the table.
// No scenario measures a speed: what the queue counted, and the most that may have left it in the
// time, show that packets pass it.
//
// Only tests import it.
package limited

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/bandwidth"
	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/object"
	"terway.dev/terway/internal/datapath/shaping"
	"terway.dev/terway/internal/datapath/suite/world"
	"terway.dev/terway/internal/testutil"
)

// Run runs all scenarios as subtests; make returns a node like the kit's, with the feature.
func Run(t *testing.T, k world.Kit, make func(world.Options, node.Feature) (world.Subject, error)) {
	run(t, k, make, scenarios)
}

// RunMeasured runs those that measure rates.
func RunMeasured(t *testing.T, k world.Kit, make func(world.Options, node.Feature) (world.Subject, error)) {
	run(t, k, make, measured)
}

type scenario struct {
	name string
	run  func(*testing.T, *env)
}

var (
	measured = []scenario{
		{"no more than the limit leaves", noMoreThanTheLimitLeaves},
		{"large packets are taken apart", largePacketsAreTakenApart},
	}
	scenarios = append([]scenario{
		{"every path passes the queue", everyPathPassesTheQueue},
		{"pods without a limit have no queue", podsWithoutALimitHaveNoQueue},
		{"a limit of a running pod", limitOfARunningPod},
		{"a queue is noticed and repaired", queueIsNoticedAndRepaired},
		{"a way to a queue is noticed and repaired", wayIsNoticedAndRepaired},
		{"no priority passes by the queue", noPriorityPassesByTheQueue},
		{"a limit is added twice and after a restart", addedTwice},
		{"nothing is left", nothingIsLeft},
	}, measured...)
)

func run(t *testing.T, k world.Kit, make func(world.Options, node.Feature) (world.Subject, error), list []scenario) {
	k.New = func(o world.Options) (world.Subject, error) { return make(o, shaping.New()) }
	for _, s := range list {
		t.Run(s.name, func(t *testing.T) {
			w, n0, n1 := world.ServicesWorld(t, k)
			s.run(t, &env{w, n0, n1})
		})
	}
}

type env struct {
	w      *world.World
	n0, n1 *world.Node
}

// quick is a limit at which tests need not wait.
const quick = 800e6

// pod adds a pod with limits, nil for none, which echoes on port 7.
func (e *env) pod(n *world.Node, limits *bandwidth.Limits) *world.Pod {
	p := n.Describe(1, "4", "6")
	p.Spec.Limits = limits
	p.Add()
	echo(p)
	return p
}

func echo(p *world.Pod) {
	world.EchoOn(p.NS, world.At(p.V4, 7))
	world.EchoOn(p.NS, world.At(p.V6, 7))
}

// counted is what the queue of one direction has counted.
type counted struct {
	bytes              uint64
	drops              uint32
	rate               uint64 // bits per second
	there              bool
	fair               bool // flows have queues of their own
	device, discipline string
	tbf                bool // the kernel has no HTB
}

// queue reads a pod's queue of one direction, wherever it is.
func queue(t *testing.T, p *world.Pod, fromPod bool) (c counted) {
	t.Helper()
	read := func(ns *testutil.NS, device string) {
		err := ns.Do(func() error {
			link, err := netlink.LinkByName(device)
			if _, none := err.(netlink.LinkNotFoundError); none {
				return nil
			}
			if err != nil {
				return err
			}
			qdiscs, err := netlink.QdiscList(link)
			if err != nil {
				return err
			}
			i := slices.IndexFunc(qdiscs, func(q netlink.Qdisc) bool {
				h := q.Attrs().Handle
				return q.Attrs().Parent == netlink.HANDLE_ROOT && (q.Type() == "htb" && h == netlink.MakeHandle(claims.QdiscHTB, 0) || q.Type() == "tbf" && h == netlink.MakeHandle(claims.QdiscTBF, 0))
			})
			if i < 0 {
				return nil
			}
			if c.there {
				return fmt.Errorf("%s has a queue for the same direction as %s", device, c.device)
			}
			c.there, c.device = true, device
			if root, is := qdiscs[i].(*netlink.Tbf); is {
				c.tbf, c.discipline, c.rate = true, root.Type(), root.Rate*8
				c.bytes, c.drops = root.Statistics.Basic.Bytes, root.Statistics.Queue.Drops
				return nil
			}
			for _, q := range qdiscs {
				if q.Attrs().Parent == netlink.MakeHandle(claims.QdiscHTB, 1) {
					c.discipline = q.Type()
					c.drops = q.Attrs().Statistics.Queue.Drops
				}
				c.fair = c.fair || q.Type() == "fq_codel" && q.Attrs().Parent == netlink.MakeHandle(claims.QdiscFIFO, 1)
			}
			classes, err := netlink.ClassList(link, 0)
			if err != nil {
				return err
			}
			for _, class := range classes {
				if htb, ok := class.(*netlink.HtbClass); ok {
					c.bytes, c.rate = htb.Statistics.Basic.Bytes, htb.Rate*8
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if fromPod {
		for _, device := range []string{"eth0", claims.ExclusiveIfName, claims.ShaperEgress} {
			read(p.NS, device)
		}
		return c
	}
	read(p.Node.NS, p.Wiring.HostIfName)
	read(p.NS, claims.ShaperIngress)
	return c
}

// All that a pod sends and gets passes its queues, whoever the other end is, also on a connection's
// fast path.
func everyPathPassesTheQueue(t *testing.T, e *env) {
	p := e.pod(e.n0, &bandwidth.Limits{Ingress: quick, Egress: quick})
	near, far := e.pod(e.n0, nil), e.pod(e.n1, nil)
	limitedFar := e.pod(e.n1, &bandwidth.Limits{Ingress: quick, Egress: quick})
	e.n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, Port: 7, Endpoint: p.V4})
	for _, n := range []*world.Node{e.n0, e.n1} {
		world.EchoOn(n.NS, world.At(n.V4, 7))
	}
	const size = 4 << 20 // world.Bulk's, in each direction
	for _, path := range []struct {
		name string
		from *testutil.NS
		to   string
	}{
		{"from a pod of the node", near.NS, world.At(p.V4, 7)},
		{"from a pod of the node, IPv6", near.NS, world.At(p.V6, 7)},
		{"to a pod of the node", p.NS, world.At(near.V4, 7)},
		{"from a pod of another node", far.NS, world.At(p.V4, 7)},
		{"from a pod of another node, IPv6", far.NS, world.At(p.V6, 7)},
		{"to a pod of another node", p.NS, world.At(far.V4, 7)},
		{"to a limited pod of another node", p.NS, world.At(limitedFar.V4, 7)},
		{"from the node", e.n0.NS, world.At(p.V4, 7)},
		{"to the node", p.NS, world.At(e.n0.V4, 7)},
		{"to another node", p.NS, world.At(e.n1.V4, 7)},
		{"by a Service", near.NS, world.At(world.ClusterIP, 7)},
		{"to itself by a Service", p.NS, world.At(world.ClusterIP, 7)},
	} {
		in, out := queue(t, p, false), queue(t, p, true)
		world.Bulk(t, path.from, path.to)
		in, out = grown(in, queue(t, p, false)), grown(out, queue(t, p, true))
		if in.bytes < size || out.bytes < size {
			t.Errorf("%s: the queues counted %d bytes to the pod and %d from it, want %d or more", path.name, in.bytes, out.bytes, size)
		}
	}
	if in, out := queue(t, limitedFar, false), queue(t, limitedFar, true); in.bytes < size || out.bytes < size {
		t.Errorf("the queues of the other limited pod counted %d bytes to it and %d from it", in.bytes, out.bytes)
	}
}

func grown(before, after counted) counted {
	after.bytes -= before.bytes
	after.drops -= before.drops
	return after
}

// In any time no more leaves a queue than the limit, its burst and one packet, and the limit is used. It is so small that
// an emulated processor can do it beside others: if the machine stands still for longer than the burst lasts, the rate is lower
// meanwhile, so one period that is close to the limit is enough.
func noMoreThanTheLimitLeaves(t *testing.T, e *env) {
	const limit, burst, packet = 2e6, 8 << 10, 2 * 1514 // larger ones are taken apart
	const period, periods, nearly = 500 * time.Millisecond, 60, 0.85
	p := e.pod(e.n0, &bandwidth.Limits{Ingress: limit, Egress: limit})
	near := e.pod(e.n0, nil)
	for _, to := range []string{world.At(near.V4, 7), world.At(near.V6, 7)} {
		stop := saturate(t, p.NS, to)
		var best [2]float64
		for n := 0; n < periods && min(best[0], best[1]) < nearly; n++ {
			var from, upTo [2]counted
			before := time.Now()
			from[0], from[1] = queue(t, p, false), queue(t, p, true)
			time.Sleep(period)
			upTo[0], upTo[1] = queue(t, p, false), queue(t, p, true)
			took := time.Since(before)
			for i := range best {
				passed := float64(grown(from[i], upTo[i]).bytes)
				if most := limit/8*took.Seconds() + burst + packet; passed > most {
					t.Errorf("%s, from the pod %t: %.0f bytes in %s, at most %.0f may have passed", to, i == 1, passed, took, most)
				}
				best[i] = max(best[i], passed/(limit/8*took.Seconds()))
			}
		}
		stop()
		t.Logf("%s: rate ÷ limit %.3f to the pod, %.3f from it", to, best[0], best[1])
		if min(best[0], best[1]) < nearly {
			t.Errorf("%s: the highest rate was %.2f of the limit to the pod and %.2f from it, want %.2f or more", to, best[0], best[1], nearly)
		}
	}
	for _, fromPod := range []bool{false, true} {
		if q := queue(t, p, fromPod); q.rate != limit || q.discipline != "tbf" || q.fair != (hasFQCodel(t, near) && !q.tbf) {
			t.Errorf("queue %+v, want fq_codel: %t", q, hasFQCodel(t, near))
		} else {
			t.Logf("%s: HTB: %t, fq_codel: %t", q.device, !q.tbf, q.fair)
		}
	}
	before := [2]counted{queue(t, p, false), queue(t, p, true)}
	read, err := e.n0.DP.(counting).Counts(context.Background(), []datapath.Pod{near.Spec, p.Spec})
	if err != nil {
		t.Fatal(err)
	}
	if len(read) != 2 || len(read[0]) != 0 || len(read[1]) != 2 {
		t.Fatalf("the node counts %+v, want nothing for the pod without a limit and two directions", read)
	}
	for i, got := range read[1] {
		after := queue(t, p, i == 1)
		if got.FromPod != (i == 1) || got.Bytes < before[i].bytes || got.Bytes > after.bytes || got.Drops < uint64(before[i].drops) || got.Drops > uint64(after.drops) {
			t.Errorf("the node counts %+v, the queue has %+v and then %+v", got, before[i], after)
		}
	}
}

// saturate sends to an echo server all that goes, until it is stopped.
func saturate(t *testing.T, from *testutil.NS, to string) (stop func()) {
	t.Helper()
	conn, err := from.Dial("tcp", "", to, world.Patience)
	if err != nil {
		t.Fatal(err)
	}
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(io.Discard, conn) })
	both.Go(func() {
		for text := make([]byte, 16<<10); ; {
			if _, err := conn.Write(text); err != nil {
				return
			}
		}
	})
	return func() {
		_ = conn.Close() // that ends both; nothing is left to say
		both.Wait()
	}
}

// hasFQCodel tries whether the kernel has it.
func hasFQCodel(t *testing.T, scratch *world.Pod) (has bool) {
	t.Helper()
	err := scratch.Do(func() error {
		q := netlink.NewFqCodel(netlink.QdiscAttrs{LinkIndex: 1, Parent: netlink.HANDLE_ROOT, Handle: netlink.MakeHandle(1, 0)})
		switch err := netlink.QdiscReplace(q); {
		case errors.Is(err, unix.ENOENT):
			return nil
		case err != nil:
			return err
		}
		has = true
		return netlink.QdiscDel(q)
	})
	if err != nil {
		t.Fatal(err)
	}
	return has
}

// A packet of many segments (GSO), which is longer than the burst of a small limit, does not leave at once.
func largePacketsAreTakenApart(t *testing.T, e *env) {
	const limit, burst, packet = 2e6, 8 << 10, 2 * 1514
	p, near := e.pod(e.n0, &bandwidth.Limits{Ingress: limit, Egress: limit}), e.pod(e.n0, nil)
	for _, path := range []struct{ from, to *world.Pod }{{near, p}, {p, near}} {
		inbox := path.to.ListenPacket("udp", world.At(path.to.V4, 9))
		conn, err := path.from.Dial("udp", "", world.At(path.to.V4, 9), world.Patience)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		raw, err := conn.(syscall.Conn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var set error
		segments := func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, 1200) }
		if err := raw.Control(segments); err != nil || set != nil {
			t.Fatal(err, set)
		}
		before, start := queue(t, p, path.from == p), time.Now()
		if _, err := conn.Write(append([]byte("large"), make([]byte, 50*1200-5)...)); err != nil {
			t.Fatal(err)
		}
		world.Received(t, inbox, "large")
		now := grown(before, queue(t, p, path.from == p))
		if most := limit/8*time.Since(start).Seconds() + burst + packet; now.bytes == 0 || float64(now.bytes) > most {
			t.Errorf("%s → %s: %d bytes have passed, want some, and at most %.0f", path.from.Name, path.to.Name, now.bytes, most)
		}
	}
}

// counting is what the agent reads of a node.
type counting interface {
	Counts(ctx context.Context, pods []datapath.Pod) ([][]object.Counts, error)
}

// Neither a pod without limits nor the direction without one has a queue.
func podsWithoutALimitHaveNoQueue(t *testing.T, e *env) {
	plain := e.pod(e.n0, nil)
	egress := e.pod(e.n0, &bandwidth.Limits{Egress: quick})
	ingress := e.pod(e.n0, &bandwidth.Limits{Ingress: quick})
	for _, c := range []struct {
		name            string
		p               *world.Pod
		ingress, egress bool
	}{{"none", plain, false, false}, {"egress", egress, false, true}, {"ingress", ingress, true, false}} {
		if in, out := queue(t, c.p, false), queue(t, c.p, true); in.there != c.ingress || out.there != c.egress {
			t.Errorf("limit %s: queue to the pod %t, from it %t", c.name, in.there, out.there)
		}
	}
	world.Bulk(t, egress.NS, world.At(ingress.V4, 7))
	world.Bulk(t, ingress.NS, world.At(plain.V4, 7))
	world.Bulk(t, plain.NS, world.At(egress.V4, 7))
	if repairs := e.n0.Sync(plain, egress, ingress); len(repairs) != 0 {
		t.Errorf("Sync of new pods repairs %q", repairs)
	}
}

// A limit comes, changes and goes while the pod runs, by Sync. Its connections go on, and what waits
// in a queue that changes is not dropped.
func limitOfARunningPod(t *testing.T, e *env) {
	p, near := e.pod(e.n0, nil), e.pod(e.n0, nil)
	far := e.pod(e.n1, nil)
	talks := []*world.Talking{
		world.StartTalk(t, near.NS, "tcp", world.At(p.V4, 7)), world.StartTalk(t, p.NS, "tcp", world.At(far.V6, 7)),
		world.StartTalk(t, e.n0.NS, "tcp", world.At(p.V4, 7)),
	}
	set := func(l bandwidth.Limits, repairs bool) {
		t.Helper()
		p.Spec.Limits = &l
		if got := e.n0.Sync(p, near); len(got) == 0 && repairs {
			t.Errorf("Sync with limits %s repaired nothing", l)
		}
		err := e.n0.DP.CheckPod(context.Background(), e.n0.Desired, p.Spec)
		// A queue in which packets wait is removed by a later Sync: they are not dropped.
		for deadline := time.Now().Add(20 * time.Second); err != nil && (l.Ingress == 0 || l.Egress == 0) && time.Now().Before(deadline); {
			time.Sleep(10 * time.Millisecond)
			e.n0.Sync(p, near)
			err = e.n0.DP.CheckPod(context.Background(), e.n0.Desired, p.Spec)
		}
		if err != nil {
			t.Errorf("limits %s: %v", l, err)
		}
		for _, k := range talks {
			k.More(20)
		}
		for direction, want := range map[bool]uint64{false: l.Ingress, true: l.Egress} {
			if q := queue(t, p, direction); q.rate != want {
				t.Errorf("limits %s: from the pod %t: %+v", l, direction, q)
			}
		}
	}
	set(bandwidth.Limits{Ingress: quick, Egress: quick}, true)
	// Saturated, and not so little that nothing waits.
	set(bandwidth.Limits{Ingress: 40e6, Egress: 40e6}, true)
	in, out := queue(t, p, false), queue(t, p, true)
	set(bandwidth.Limits{Ingress: 80e6, Egress: 60e6}, true)
	set(bandwidth.Limits{Ingress: 80e6, Egress: 60e6}, false)
	in, out = grown(in, queue(t, p, false)), grown(out, queue(t, p, true))
	if in.drops+out.drops != 0 {
		t.Errorf("%d and %d packets were dropped", in.drops, out.drops)
	}
	if in.bytes == 0 || out.bytes == 0 || in.bytes > 1<<40 || out.bytes > 1<<40 {
		t.Errorf("the queues counted %d and %d bytes: were they recreated?", in.bytes, out.bytes)
	}
	world.Bulk(t, near.NS, world.At(p.V4, 7))
	set(bandwidth.Limits{Egress: 60e6}, true)
	set(bandwidth.Limits{}, true)
	world.Bulk(t, near.NS, world.At(p.V4, 7))
	// A very high one, which needs 64 bits.
	set(bandwidth.Limits{Ingress: 100e9, Egress: bandwidth.Highest}, true)
	if repairs := e.n0.Sync(p, near); len(repairs) != 0 {
		t.Errorf("Sync repairs %q", repairs)
	}
	for _, k := range talks {
		k.End(t)
	}
}

// What somebody removes or changes is noticed and repaired; a pod may do that in its own namespace.
func queueIsNoticedAndRepaired(t *testing.T, e *env) {
	p := e.pod(e.n0, &bandwidth.Limits{Ingress: quick, Egress: quick})
	tc := func(fromPod bool, words string) func() {
		return func() {
			q := queue(t, p, fromPod)
			args := strings.Fields(strings.ReplaceAll(words, "DEV", q.device))
			if fromPod || q.device != p.Wiring.HostIfName {
				p.Run("tc", args...)
			} else {
				e.n0.Run("tc", args...)
			}
		}
	}
	e.saw(t, p)
	for _, fromPod := range []bool{false, true} {
		inPod := fromPod || queue(t, p, fromPod).device != p.Wiring.HostIfName
		for name, cut := range map[string]func(){
			"removed":         tc(fromPod, "qdisc del dev DEV root"),
			"another":         tc(fromPod, "qdisc replace dev DEV root handle 1: pfifo"),
			"another rate":    tc(fromPod, "class change dev DEV classid 7478:1 htb rate 1gbit ceil 1gbit"),
			"a second class":  tc(fromPod, "class add dev DEV parent 7478: classid 7478:2 htb rate 1gbit"),
			"without a queue": tc(fromPod, "qdisc del dev DEV parent 7478:1"),
			"a queue of all":  tc(fromPod, "qdisc replace dev DEV parent 747a:1 handle 1: bfifo"),
		} {
			if name == "a queue of all" && !queue(t, p, fromPod).fair {
				continue // it has one
			}
			cut()
			check := func() error { return e.n0.DP.CheckPod(context.Background(), e.n0.Desired, p.Spec) }
			if err := check(); err == nil || !strings.Contains(err.Error(), "bandwidth limit of 800 Mbit/s") {
				t.Errorf("%s, from the pod %t: CheckPod: %v", name, fromPod, err)
			}
			repairs, removed := e.repairs(t, p)
			if len(repairs) != 1 || !strings.Contains(repairs[0], "bandwidth limit of 800 Mbit/s") {
				t.Errorf("%s, from the pod %t: Sync repairs %q", name, fromPod, repairs)
			}
			if inPod != (len(removed) == 1) || inPod && !strings.Contains(removed[0], "bandwidth limit of 800 Mbit/s") {
				t.Errorf("%s, from the pod %t: Sync says of the pod %q", name, fromPod, removed)
			}
			if err := check(); err != nil {
				t.Errorf("%s, from the pod %t: after Sync: %v", name, fromPod, err)
			}
			if q := queue(t, p, fromPod); q.rate != quick {
				t.Errorf("%s, from the pod %t: after Sync: %+v", name, fromPod, q)
			}
		}
	}
	if repairs := e.n0.Sync(p); len(repairs) != 0 {
		t.Errorf("Sync repairs %q", repairs)
	}
}

// saw lets the node see that a pod's limits are in place.
func (e *env) saw(t *testing.T, pods ...*world.Pod) {
	t.Helper()
	if repairs := e.n0.Sync(pods...); len(repairs) != 0 {
		t.Errorf("Sync repairs %q", repairs)
	}
}

// repairs runs Sync, and returns its repairs and what it says that pods have removed of their limits.
func (e *env) repairs(t *testing.T, pods ...*world.Pod) (repairs, removed []string) {
	t.Helper()
	repairs, err := e.n0.TrySync(pods...)
	single, _, rest := datapath.Sort(err)
	if rest != nil {
		t.Errorf("Sync: %v", rest)
	}
	for _, p := range single {
		var what *datapath.Tampered
		if errors.As(p, &what) && what.Of == datapath.OfLimits {
			removed = append(removed, p.Error())
		} else {
			t.Errorf("Sync: %v", p)
		}
	}
	return repairs, removed
}

// The same of what sends packets to a queue that is not at their own device.
func wayIsNoticedAndRepaired(t *testing.T, e *env) {
	p := e.pod(e.n0, &bandwidth.Limits{Ingress: quick, Egress: quick})
	near := e.pod(e.n0, nil)
	e.saw(t, p, near)
	for _, fromPod := range []bool{false, true} {
		q, hook := queue(t, p, fromPod), map[bool]string{false: "ingress", true: "egress"}[fromPod]
		if q.device != claims.ShaperIngress && q.device != claims.ShaperEgress {
			continue
		}
		for name, cut := range map[string]func(){
			"the filter":         func() { p.Run("tc", "filter", "del", "dev", "eth0", hook, "pref", fmt.Sprint(claims.PrefShaping)) },
			"all filters":        func() { p.Run("tc", "qdisc", "del", "dev", "eth0", "clsact") },
			"the device is down": func() { p.IP("link set " + q.device + " down") },
			"the device":         func() { p.IP("link del " + q.device) },
		} {
			cut()
			says := "tw-"
			if name == "all filters" { // a program of the kind's may have been another
				says = "device eth0 of the pod"
			}
			if err := e.n0.DP.CheckPod(context.Background(), e.n0.Desired, p.Spec); err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%s, %s: CheckPod: %v", hook, name, err)
			}
			if repairs, removed := e.repairs(t, p, near); len(repairs) == 0 || len(removed) == 0 {
				t.Errorf("%s, %s: Sync repairs %q and says of the pod %q", hook, name, repairs, removed)
			}
			if err := e.n0.DP.CheckPod(context.Background(), e.n0.Desired, p.Spec); err != nil {
				t.Errorf("%s, %s: after Sync: %v", hook, name, err)
			}
			before := queue(t, p, fromPod)
			world.Bulk(t, near.NS, world.At(p.V4, 7))
			if now := grown(before, queue(t, p, fromPod)); now.bytes < 4<<20 {
				t.Errorf("%s, %s: the queue counted %d bytes", hook, name, now.bytes)
			}
		}
	}
	if repairs := e.n0.Sync(p, near); len(repairs) != 0 {
		t.Errorf("Sync repairs %q", repairs)
	}
}

// HTB lets packets with the priority of its own handle leave at once. A pod may set any on its packets, for its
// own queue and for that of a pod that it sends to.
func noPriorityPassesByTheQueue(t *testing.T, e *env) {
	limits := &bandwidth.Limits{Ingress: quick, Egress: quick}
	p, near := e.pod(e.n0, limits), e.pod(e.n0, nil)
	for _, path := range []struct{ from, to *world.Pod }{{p, near}, {near, p}} {
		inbox := path.to.ListenPacket("udp", world.At(path.to.V6, 9))
		conn, err := path.from.Dial("udp", "", world.At(path.to.V6, 9), world.Patience)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		priority := func(value int) {
			raw, err := conn.(syscall.Conn).SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			var set error
			if err := raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PRIORITY, value) }); err != nil || set != nil {
				t.Fatal(err, set)
			}
		}
		send := func(text string) {
			if _, err := conn.Write([]byte(text)); err != nil && !errors.Is(err, unix.ENOBUFS) {
				t.Fatal(err)
			}
		}
		before := queue(t, p, path.from == p)
		send("first")
		world.Received(t, inbox, "first")
		// Of the class, of none, of the discipline.
		for _, value := range []int{claims.QdiscHTB<<16 | 1, claims.QdiscHTB<<16 | 2, claims.QdiscHTB << 16} {
			priority(value)
			for range 10 {
				send("some")
			}
		}
		priority(0)
		send("last")
		got := world.Received(t, inbox, "last")
		arrived := uint64(len("first")+len("last")) + uint64(len(got))
		if now := grown(before, queue(t, p, path.from == p)); now.bytes < arrived {
			t.Errorf("%s → %s: %d bytes arrived, the queue counted %d", path.from.Name, path.to.Name, arrived, now.bytes)
		}
		// The host stack sets the priority anew.
		if n := strings.Count(got, "some"); path.from == p && n > 20 {
			t.Errorf("%s → %s: %d packets arrived, want not those with the priority of the discipline", path.from.Name, path.to.Name, n)
		}
	}
}

func addedTwice(t *testing.T, e *env) {
	p := e.pod(e.n0, &bandwidth.Limits{Ingress: quick, Egress: quick})
	near := e.pod(e.n0, nil)
	p.Add()
	e.n0.DP = e.n0.NewDatapath()
	if repairs := e.n0.Sync(p, near); len(repairs) != 0 {
		t.Errorf("Sync after a restart repairs %q", repairs)
	}
	p.Add()
	world.Bulk(t, near.NS, world.At(p.V4, 7))
}

// After DelPod, or when the agent was away, the node and the pod's namespace have nothing of a limit.
func nothingIsLeft(t *testing.T, e *env) {
	qdiscs := func(ns *testutil.NS) string {
		out := ns.Run("tc", "qdisc", "show")
		if i := strings.Index(out, "htb 747"); i >= 0 {
			return out[i:]
		}
		return ""
	}
	p, kept := e.pod(e.n0, &bandwidth.Limits{Ingress: quick, Egress: quick}), e.pod(e.n0, &bandwidth.Limits{Ingress: quick, Egress: quick})
	p.Del()
	e.n0.Settle()
	e.n0.Sync(kept)
	if q := queue(t, kept, false); !q.there {
		t.Error("the other pod's queue is gone")
	}
	e.n0.DP = e.n0.NewDatapath()
	e.n0.Sync() // the journal does not have the other pod
	e.n0.Settle()
	if left := qdiscs(e.n0.NS); left != "" {
		t.Errorf("on the node: %s", left)
	}
}
