//go:build bench

package bench

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/agent/request"
	"terway.dev/terway/internal/testutil"
	"terway.dev/terway/test/bench/report"
)

// Bursts of pods, and how often a single pod is wired in a round.
var bursts = []int{30, 100}

const alone = 7

// settle is the pause before the call for a single pod: after its answer an agent reports to
// the API server, which must not be part of the next measurement.
const settle = 30 * time.Millisecond

// mostENIs is the number of exclusive ENIs of a node here: more than almost all instance types
// have.
const mostENIs = 30

// arm is a way to wire pods, on its own node.
type arm struct {
	name string
	n    *node
	// most is the maximum number of pods.
	most  int
	boxes []*testutil.NS
	// call does an ADD or DEL of pod number i, in the node's namespace.
	call   func(verb string, i int, id string, ns *testutil.NS) error
	serial int
	// agent is the process id of the node's agent, or 0.
	agent int
	// annotations are those of its pods.
	annotations map[string]string
	// leaves are devices that a pod's namespace keeps until it is removed.
	leaves []string
}

// burst calls ADD for so many pods at once, then DEL, and returns how long each took until the
// last answer.
func (a *arm) burst(pods int) (add, del time.Duration, err error) {
	a.serial++
	for _, verb := range []string{"ADD", "DEL"} {
		if pods == 1 {
			time.Sleep(settle)
		}
		took, err := a.all(verb, pods)
		if err != nil {
			return 0, 0, fmt.Errorf("%s: %w", a.name, err)
		}
		if verb == "ADD" {
			add = took
		} else {
			del = took
		}
	}
	return add, del, a.emptied(pods)
}

// emptied makes the first namespaces like new ones.
func (a *arm) emptied(pods int) error {
	for _, ns := range a.boxes[:pods] {
		for _, device := range a.leaves {
			if _, err := ns.Exec("ip", "link", "del", device); err != nil {
				return fmt.Errorf("%s: %w", a.name, err)
			}
		}
		if err := empty(ns); err != nil {
			return fmt.Errorf("%s: %w", a.name, err)
		}
	}
	return nil
}

func (a *arm) all(verb string, pods int) (time.Duration, error) {
	errs := make([]error, pods)
	start := make(chan struct{})
	var ready, done sync.WaitGroup
	for i := range pods {
		ready.Add(1)
		done.Go(func() {
			errs[i] = a.n.Do(func() error {
				if pods == 1 {
					first(0, true)
				}
				ready.Done()
				<-start
				return a.call(verb, i, fmt.Sprintf("%s-%d-%d", a.name, a.serial, i), a.boxes[i])
			})
		})
	}
	ready.Wait()
	began := time.Now()
	close(start)
	done.Wait()
	return time.Since(began), errors.Join(errs...)
}

// first gives a thread (0 is the caller), and the programs that it executes, a realtime
// priority (sched(7): SCHED_RR), or the normal one again. A call switches between two processes
// and back. On a busy machine each of them would wait for a CPU each time, and the result would
// depend on the load. On an idle machine it changes nothing.
//
// It is for a single pod. Many such threads would keep the kernel's own threads, for which they
// wait (RTNL), from running: some bursts took a second.
func first(thread int, yes bool) {
	a := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL}
	if yes {
		a.Policy, a.Priority = unix.SCHED_RR, 1
	}
	// Without permission the results are noisier, not wrong.
	_ = unix.SchedSetAttr(thread, &a, 0)
}

// firstAll does this for every thread of a process; new threads inherit it.
func firstAll(pid int, yes bool) error {
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return fmt.Errorf("threads of the agent: %w", err)
	}
	for _, t := range threads {
		id, err := strconv.Atoi(t.Name())
		if err != nil {
			return fmt.Errorf("threads of the agent: %w", err)
		}
		first(id, yes)
	}
	return nil
}

// empty waits until the namespace has no device but lo, so that the next pod finds the state of
// a new one.
func empty(ns *testutil.NS) error {
	for try := range 1000 {
		var names []os.DirEntry
		if err := ns.Do(func() (err error) {
			names, err = os.ReadDir("/proc/sys/net/ipv4/neigh")
			return err
		}); err != nil {
			return err
		}
		if len(names) <= 2 { // default and lo
			return nil
		}
		time.Sleep(time.Duration(try) * time.Millisecond)
	}
	return fmt.Errorf("%s keeps its device", ns.Name)
}

// TestCNI measures ADD and DEL from a plugin's execution to its answer, alternating between the
// arms.
func TestCNI(t *testing.T) {
	rounds := number(t, "ROUNDS", 7)
	b := begin(t, "bench-cni")
	b.progress("building the plugins")
	dir := buildPrograms(t, "./cmd/terway", "./test/bench/floor", "./test/bench/idle")
	list, notes := chosen(t)
	arms := arms(b, dir, list)
	for _, a := range arms {
		b.progress("%s: a first pod", a.name)
		if _, _, err := a.burst(1); err != nil {
			t.Fatal(err)
		}
	}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	// Single pods first: work that a burst leaves behind would be part of their results.
	for round := range rounds {
		singles := map[report.Key][]float64{}
		for range alone {
			for _, a := range turns(arms, round) {
				add, del, err := a.burst(1)
				if err != nil {
					t.Fatal(err)
				}
				for name, took := range map[string]time.Duration{"add_single": add, "del_single": del} {
					k := report.Key{Datapath: a.name, Metric: name}
					singles[k] = append(singles[k], ms(took))
				}
			}
		}
		for k, values := range singles {
			b.run.Add(round, k, report.Median(values))
		}
		b.progress("one at a time, round %d of %d", round+1, rounds)
	}
	for _, a := range arms {
		if a.agent == 0 {
			continue
		}
		if err := firstAll(a.agent, false); err != nil {
			t.Fatal(err)
		}
	}
	for round := range rounds {
		for _, size := range bursts {
			for _, a := range turns(arms, round) {
				if size > a.most {
					continue
				}
				add, del, err := a.burst(size)
				if err != nil {
					t.Fatal(err)
				}
				b.run.Add(round, report.Key{Datapath: a.name, Metric: fmt.Sprintf("add_burst%d", size)}, ms(add))
				b.run.Add(round, report.Key{Datapath: a.name, Metric: fmt.Sprintf("del_burst%d", size)}, ms(del))
			}
		}
		b.progress("bursts, round %d of %d", round+1, rounds)
	}
	b.finish(cniComparisons(list), append(notes,
		"ptp and bridge: containernetworking/plugins "+pluginVersion(t)+" with host-local. A burst's figure is the time until the last answer."))
}

// turns returns the arms in the order of a round: every other round is reversed.
func turns(arms []*arm, round int) []*arm {
	order := slices.Clone(arms)
	if round%2 == 1 {
		slices.Reverse(order)
	}
	return order
}

// floorOf is the name of the arm of the bare netlink program for a datapath's objects.
func floorOf(k kind) string {
	if k.own {
		return "floor with an ENI"
	}
	return "floor"
}

func cniComparisons(list []kind) (out []report.Comparison) {
	compare := func(of, metric, to, suffix string, g report.Goal) {
		out = append(out, report.Comparison{
			Name: metric + "_vs_" + suffix, Unit: "ms", Of: report.Key{Datapath: of, Metric: metric},
			To: report.Key{Datapath: to, Metric: metric}, Baseline: to, Goal: g,
		})
	}
	for _, k := range list {
		for _, verb := range []string{"add", "del"} {
			single, burst := report.Goal{AtMost: 1.5}, report.Goal{AtMost: 1}
			if verb == "add" && k.add != 0 {
				single.AtMost = k.add
			}
			if !k.own { // nothing that waits for RCU
				burst.AtMost = 0.35
			}
			compare(k.name, verb+"_single", floorOf(k), "floor", single)
			for _, other := range []string{"ptp", "bridge"} {
				compare(k.name, verb+"_single", other, other, report.Goal{AtMost: 1})
				for _, size := range bursts {
					if !k.own || size <= mostENIs {
						compare(k.name, fmt.Sprintf("%s_burst%d", verb, size), other, other, burst)
					}
				}
			}
		}
	}
	for _, other := range []string{"ptp", "bridge", "idle program"} {
		for _, verb := range []string{"add", "del"} {
			compare(other, verb+"_single", "floor", "floor", report.Goal{})
		}
	}
	return out
}

// arms returns the ways to wire a pod, each with its node.
func arms(b *bench, dir string, list []kind) (out []*arm) {
	t := b.t
	v := newVPC(t)
	var nodes []*node
	add := func(name string, most int, own bool) *arm {
		n := v.node(true)
		a := &arm{name: name, n: n, most: most}
		if own {
			for i := range most {
				n.own = append(n.own, v.eni(n, i+1))
			}
		} else {
			shared := v.eni(n, upTo(250)...)
			n.shared = &shared
		}
		nodes, out = append(nodes, n), append(out, a)
		return a
	}
	floors := map[string]bool{}
	var starts []func() // called when the instances exist
	floor := func(name string, most int, own bool) {
		if floors[name] {
			return
		}
		floors[name] = true
		f := add(name, most, own)
		f.call = func(verb string, i int, id string, ns *testutil.NS) error { return f.floor(dir, verb, i, id, ns) }
		starts = append(starts, func() {
			f.n.NFT("table inet " + floorTable + " {\n map pods { type ifname . ipv4_addr : mark; }\n}")
		})
	}
	for _, k := range list {
		most := bursts[len(bursts)-1]
		if k.own {
			most = mostENIs
		}
		floor(floorOf(k), most, k.own)
		a := add(k.name, most, k.own)
		starts = append(starts, func() { a.startAgent(k, dir) })
	}
	floor("floor", bursts[len(bursts)-1], false)
	for _, name := range []string{"ptp", "bridge"} {
		a := add(name, bursts[len(bursts)-1], false)
		p := reference(t, dir, name, a.n.routed())
		a.call = func(verb string, _ int, id string, ns *testutil.NS) error {
			_, err := p.call(verb, id, ns.Path)
			return err
		}
	}
	idle := add("idle program", 1, false)
	idle.call = func(string, int, string, *testutil.NS) error { return exec.Command(dir + "/idle").Run() }
	b.progress("%d instances on the fabric", len(nodes))
	v.open(nodes...)
	for _, a := range out {
		for i := range a.most {
			a.boxes = append(a.boxes, testutil.NewNS(t, fmt.Sprintf("node%d-pod%d", a.n.number, i)))
		}
	}
	for _, start := range starts {
		start()
	}
	return out
}

const floorTable = "floor"

// floor executes the bare netlink program.
func (a *arm) floor(dir, verb string, i int, id string, ns *testutil.NS) error {
	order := map[string]any{
		"Name": "floor" + hex.EncodeToString([]byte{byte(i)}), "Address": a.n.pod(i + 1), "Node": a.n.V4, "Table": floorTable,
	}
	if a.n.shared == nil {
		order["Device"], order["Gateway"] = a.n.own[i].MAC.String(), a.n.own[i].Gateways[0]
	}
	raw, err := json.Marshal(order)
	if err != nil {
		return err
	}
	p := plugin{dir: dir, name: "floor", config: string(raw)}
	_, err = p.execute(verb, id, ns.Path)
	return err
}

// inMemory makes a directory in memory, like /run on a node, where the agent has its journal.
func inMemory(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=700"); err != nil {
		t.Fatalf("mount a file system in memory: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// startAgent starts the arm's agent; its calls go through the plugin.
func (a *arm) startAgent(k kind, dir string) {
	a.startJob(k, dir, job{Datapath: k.name, Spec: v1alpha1.NodeNetworkSpec{Datapath: "auto"}}, "default")
}

// startJob starts a job's agent, whose pods are in a namespace.
func (a *arm) startJob(k kind, dir string, j job, namespace string) {
	n := a.n
	j.Dir, j.NodeIP = inMemory(n.t), n.V4.String()
	j.Spec = v1alpha1.NodeNetworkSpec{
		VPCCIDRs: []string{vpcCIDR}, ServiceCIDRs: []string{"172.21.0.0/20"}, Datapath: j.Spec.Datapath,
		// A short cooling period: the benchmark reuses addresses sooner than a cluster.
		Pool: v1alpha1.Pool{Min: 1, Max: 300, CoolingSeconds: 1}, Limits: v1alpha1.Limits{MaxPods: 300},
	}
	if p := os.Getenv("PROFILE"); p != "" {
		j.Profile = p + "." + a.name
	}
	enis := n.own
	if n.shared != nil {
		enis = append(enis, *n.shared)
	} else {
		j.Spec.Mode, j.Spec.ExclusiveENIs = "exclusive", len(enis)
	}
	for i, e := range enis {
		eni := v1alpha1.ENI{
			Token: e.ID, ID: e.ID, MAC: e.MAC.String(), Phase: v1alpha1.ENIReady, Exclusive: n.shared == nil,
			CIDRs: []string{podsCIDR}, Gateways: []string{e.Gateways[0].String()},
		}
		numbers := upTo(250)
		if eni.Exclusive {
			numbers = []int{i + 1}
		}
		for _, p := range numbers {
			eni.Addresses = append(eni.Addresses, v1alpha1.Address{Address: n.pod(p).String()})
		}
		j.Spec.ENIs = append(j.Spec.ENIs, eni)
	}
	a.agent = n.start(j)
	config, err := json.Marshal(map[string]any{
		"cniVersion": "1.0.0", "name": "terway", "type": "terway", "socket": j.socket(),
		"runtimeConfig": map[string]any{request.CapabilityAnnotations: a.annotations},
	})
	if err != nil {
		n.t.Fatal(err)
	}
	a.call = func(verb string, i int, id string, ns *testutil.NS) error {
		p := plugin{dir: dir, name: "terway", config: string(config), args: fmt.Sprintf("IgnoreUnknown=1;K8S_POD_NAMESPACE=%s;K8S_POD_NAME=pod-%d;K8S_POD_UID=%s", namespace, i, id)}
		_, err := p.call(verb, id, ns.Path)
		return err
	}
}
