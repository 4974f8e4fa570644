package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/agent/journal"
	"terway.dev/terway/internal/cnicall"
	"terway.dev/terway/internal/datapath"
)

// fakeDatapath remembers what is wired. It is a stand-in below unit tests; the
// real datapath and plugin are driven in the privileged tests.
type fakeDatapath struct {
	mu                         sync.Mutex
	wired                      map[string]datapath.Pod
	failAdd, failDel, failSync error
	// onAdd and onDel are called at the steps of AddPod and DelPod.
	onAdd, onDel func(step)
	// deleted is what DelPod was given, by sandbox.
	deleted map[string]datapath.Pod
	// name is "fake" if empty.
	name  string
	syncs int
}

type step string

const (
	before step = "before" // nothing done yet
	after  step = "after"  // all done, the agent does not know yet
)

func (f *fakeDatapath) Name() string {
	if f.name != "" {
		return f.name
	}
	return "fake"
}

func (f *fakeDatapath) AddPod(_ context.Context, _ datapath.Node, p datapath.Pod) (datapath.Wiring, error) {
	if f.onAdd != nil {
		f.onAdd(before)
	}
	f.mu.Lock()
	f.wired[p.Sandbox] = p // an unfinished ADD leaves something behind
	fail := f.failAdd
	f.mu.Unlock()
	if fail != nil {
		return datapath.Wiring{}, fail
	}
	if f.onAdd != nil {
		f.onAdd(after)
	}
	return datapath.Wiring{HostIfName: "tw" + p.Sandbox, HostMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, PodMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2},
		MTU: 1500, Gateways: []netip.Addr{netip.MustParseAddr("169.254.1.1")}}, nil
}

func (f *fakeDatapath) DelPod(_ context.Context, p datapath.Pod) error {
	if f.onDel != nil {
		f.onDel(before)
	}
	f.mu.Lock()
	fail := f.failDel
	if fail == nil {
		delete(f.wired, p.Sandbox)
		if f.deleted == nil {
			f.deleted = map[string]datapath.Pod{}
		}
		f.deleted[p.Sandbox] = p
	}
	f.mu.Unlock()
	if f.onDel != nil {
		f.onDel(after)
	}
	return fail
}

func (f *fakeDatapath) CheckPod(_ context.Context, _ datapath.Node, p datapath.Pod) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.wired[p.Sandbox]; !ok {
		return fmt.Errorf("pod %s: host link is missing", p.Name)
	}
	return nil
}

func (f *fakeDatapath) Sync(context.Context, datapath.Node, []datapath.Pod) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.syncs++
	return nil, f.failSync
}

func (f *fakeDatapath) Teardown(context.Context) error { return nil }

type env struct {
	t     *testing.T
	dir   string
	dp    *fakeDatapath
	a     *Agent
	mu    sync.Mutex
	now   time.Time
	dead  map[string]bool // namespaces that are not visible
	links map[string]bool // links whose namespace is alive though not visible
	// configure, if set, changes the options of the next start.
	configure func(*Options)
	// others are datapaths beside dp, less fast.
	others  []datapath.Datapath
	lacking map[string]error
}

const eniMAC = "00:16:3e:00:00:01"

func newEnv(t *testing.T, addresses int) *env {
	e := &env{t: t, dir: t.TempDir(), dp: &fakeDatapath{wired: map[string]datapath.Pod{}}, now: time.Unix(1_700_000_000, 0), dead: map[string]bool{}, links: map[string]bool{}}
	e.start()
	e.want(addresses)
	return e
}

// start opens the agent; called again it is a restart after a kill.
func (e *env) start() {
	e.t.Helper()
	j, err := journal.Open(e.dir)
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { _ = j.Close() }) // a second Close after restart is harmless
	o := Options{
		Log: slog.New(slog.DiscardHandler), Journal: j, Datapaths: append([]datapath.Datapath{e.dp}, e.others...), Lacking: e.lacking, WaitForAddress: 50 * time.Millisecond,
		Now: func() time.Time { e.mu.Lock(); defer e.mu.Unlock(); return e.now },
		Alive: func(p string) bool {
			e.mu.Lock()
			defer e.mu.Unlock()
			return !e.dead[p]
		},
		Devices: func() (map[string]Device, error) { return map[string]Device{eniMAC: {Name: "eth1", MTU: 1500}}, nil },
		HasLink: func(name string) (bool, error) {
			e.mu.Lock()
			defer e.mu.Unlock()
			return e.links[name], nil
		},
	}
	if e.configure != nil {
		e.configure(&o)
	}
	a, err := New(o)
	if err != nil {
		e.t.Fatal(err)
	}
	e.a = a
}

// kill ends the agent as a kill does: nothing is tidied up.
func (e *env) kill() {
	e.t.Helper()
	if err := e.a.Journal.Close(); err != nil {
		e.t.Fatal(err)
	}
}

func (e *env) restart() {
	e.t.Helper()
	want := e.a.want
	e.kill()
	e.start()
	e.setWant(want)
}

func (e *env) setWant(w Want) {
	e.t.Helper()
	if err := e.a.SetWant(w); err != nil {
		e.t.Fatal(err)
	}
	e.repair()
}

func (e *env) want(addresses int) {
	e.t.Helper()
	mac, _ := net.ParseMAC(eniMAC)
	w := Want{Known: true, Datapath: "auto", Cooling: time.Minute, Limit: addresses}
	eni := WantENI{Ready: true, ENI: datapath.ENI{ID: "eni-1", MAC: mac, Gateways: []netip.Addr{netip.MustParseAddr("192.168.63.253")}}}
	for i := range addresses {
		eni.Addresses = append(eni.Addresses, WantAddress{Address: netip.AddrFrom4([4]byte{192, 168, byte(32 + i/250), byte(1 + i%250)})})
	}
	w.ENIs = []WantENI{eni}
	e.setWant(w)
}

func call(sandbox string) cnicall.Request {
	return cnicall.Request{ContainerID: sandbox, NetNS: "/run/netns/" + sandbox, IfName: "eth0",
		Args:   "K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod-" + sandbox,
		Config: []byte(`{"cniVersion":"1.1.0","name":"terway","type":"terway"}`)}
}

// do asks as the plugin does.
func (e *env) do(ctx context.Context, verb string, in cnicall.Request) cnicall.Reply {
	in.Verb = verb
	return e.a.Answer(ctx, in)
}

// says whether an error has the code and names the text.
func says(err *cnicall.Error, code uint, text string) bool {
	return err != nil && err.Code == code && strings.Contains(err.Msg, text)
}

func (e *env) add(sandbox string) (string, *cnicall.Error) {
	e.t.Helper()
	r := e.do(context.Background(), "ADD", call(sandbox))
	if r.Error != nil {
		return "", r.Error
	}
	var res struct {
		IPs []struct{ Address string }
	}
	if err := json.Unmarshal(r.Result, &res); err != nil {
		e.t.Fatal(err)
	}
	return res.IPs[0].Address, nil
}

func (e *env) mustAdd(sandbox string) string {
	e.t.Helper()
	a, err := e.add(sandbox)
	if err != nil {
		e.t.Fatalf("ADD %s: %v", sandbox, err)
	}
	return a
}

func (e *env) key(sandbox string) journal.Key { return journal.Key{Sandbox: sandbox, IfName: "eth0"} }

func (e *env) del(sandbox string) {
	e.t.Helper()
	r := e.do(context.Background(), "DEL", call(sandbox))
	if r.Error != nil {
		e.t.Fatalf("DEL %s: %v", sandbox, r.Error)
	}
}

func (e *env) sleep(d time.Duration) {
	e.mu.Lock()
	e.now = e.now.Add(d)
	e.mu.Unlock()
}

func TestAddTwiceGivesTheSameAnswer(t *testing.T) {
	e := newEnv(t, 3)
	first := e.mustAdd("a")
	if again := e.mustAdd("a"); again != first {
		t.Errorf("second ADD answered %s, first %s", again, first)
	}
	e.restart()
	if again := e.mustAdd("a"); again != first {
		t.Errorf("ADD after restart answered %s, first %s", again, first)
	}
	if other := e.mustAdd("b"); other == first {
		t.Errorf("two pods have %s", other)
	}
}

func TestDelIsIdempotentAndRestsTheAddress(t *testing.T) {
	e := newEnv(t, 1)
	addr := e.mustAdd("a")
	e.del("a")
	e.del("a")
	e.del("never-was")
	if _, err := e.add("b"); err == nil || !strings.Contains(err.Msg, "1 resting") || !strings.Contains(err.Msg, "1m0s") {
		t.Errorf("ADD while the address rests: %v, want the reason and the time", err)
	}
	e.restart() // the rest is remembered
	if _, err := e.add("b"); err == nil {
		t.Error("restart shortened the rest")
	}
	e.sleep(time.Minute)
	if got := e.mustAdd("b"); got != addr {
		t.Errorf("got %s, want %s", got, addr)
	}
}

func TestFailedWiringLeavesNothing(t *testing.T) {
	e := newEnv(t, 1)
	e.dp.failAdd = errors.New("no such device")
	if _, err := e.add("a"); err == nil || !strings.Contains(err.Msg, "no such device") {
		t.Errorf("error %v, want the cause", err)
	}
	if len(e.dp.wired) != 0 {
		t.Errorf("wired %v, want nothing", e.dp.wired)
	}
	e.dp.failAdd = nil
	e.sleep(time.Minute)
	e.mustAdd("a")
}

// A pod whose namespace cannot be seen, but whose link is alive, keeps its address:
// the agent's view of the mounts is wrong, not the pod.
func TestHiddenSandboxIsKept(t *testing.T) {
	e := newEnv(t, 1)
	e.mustAdd("a")
	e.dead["/run/netns/a"], e.links["twa"] = true, true
	e.repair()
	if len(e.dp.wired) != 1 {
		t.Error("a living pod was unwired")
	}
	delete(e.links, "twa")
	e.repair()
	if len(e.dp.wired) != 0 {
		t.Error("a dead pod was kept")
	}
}

func TestGCLeavesWhatIsBeingWired(t *testing.T) {
	e := newEnv(t, 1)
	e.dp.onAdd = func(step) {
		gc := call("")
		gc.Config = []byte(`{"cniVersion":"1.1.0","name":"terway","cni.dev/valid-attachments":[]}`)
		if r := e.do(context.Background(), "GC", gc); r.Error != nil {
			t.Errorf("GC: %v", r.Error)
		}
	}
	e.mustAdd("a")
	if len(e.dp.wired) != 1 {
		t.Error("GC took the pod that was being wired")
	}
}

func TestAddInANamespaceThatIsGone(t *testing.T) {
	e := newEnv(t, 1)
	e.dead["/run/netns/a"] = true
	if _, err := e.add("a"); !says(err, types.ErrInvalidNetNS, "/run/netns/a") {
		t.Errorf("error %v, want code 8 naming the path", err)
	}
}

func TestStoppingAgentLetsWaitersGo(t *testing.T) {
	e := newEnv(t, 0)
	e.a.WaitForAddress = time.Hour
	done := make(chan *cnicall.Error)
	go func() { _, err := e.add("a"); done <- err }()
	e.awaitDemand(1)
	e.a.Close()
	if err := <-done; !says(err, types.ErrTryAgainLater, "restarted") {
		t.Errorf("error %v, want code 11 and why", err)
	}
}

func TestClientThatGoesAwayStopsWaiting(t *testing.T) {
	e := newEnv(t, 0)
	e.a.WaitForAddress = time.Hour
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if r := e.do(ctx, "ADD", call("a")); r.Error == nil {
			t.Errorf("ADD: %v", r)
		}
	}()
	e.awaitDemand(1)
	cancel()
	<-done
}

// The kubelet pauses between two attempts, and each has a sandbox of its own, which the
// runtime takes down when the attempt has failed. What is made for the pod meanwhile is
// still for it.
func TestAPodsDemandOutlivesThePauseBetweenAttempts(t *testing.T) {
	attempt := func(e *env, sandbox string) *cnicall.Error {
		in := call(sandbox)
		in.Args = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0"
		return e.do(context.Background(), "ADD", in).Error
	}
	demand := func(e *env) int { return e.a.Status(v1alpha1.NodeNetworkStatus{}).Demand }
	e := newEnv(t, 0)
	if err := attempt(e, "first"); err == nil {
		t.Fatal("there was an address")
	}
	e.del("first")
	e.sleep(20 * time.Second)
	if n := demand(e); n != 1 {
		t.Errorf("demand %d in the pause, want 1", n)
	}
	if err := attempt(e, "second"); err == nil {
		t.Fatal("there was an address")
	}
	if n := demand(e); n != 1 {
		t.Errorf("demand %d after two attempts of one pod, want 1", n)
	}
	e.want(2)
	e.sleep(10 * time.Second)
	if err := attempt(e, "third"); err != nil {
		t.Fatal(err)
	}
	if n := demand(e); n != 0 {
		t.Errorf("demand %d when the pod has its address, want 0", n)
	}
	// A pod that does not come again is not waited for longer than a minute.
	e.want(0)
	if err := attempt(e, "fourth"); err == nil {
		t.Fatal("there was an address")
	}
	e.sleep(patient)
	if n := demand(e); n != 0 {
		t.Errorf("demand %d for a pod that has not come again, want 0", n)
	}
}

// awaitDemand waits until n pods wait for an address.
func (e *env) awaitDemand(n int) {
	for {
		e.a.mu.Lock()
		got := len(e.a.waiting)
		e.a.mu.Unlock()
		if got == n {
			return
		}
		<-e.a.Dirty()
	}
}

func TestDeadSandboxIsFreed(t *testing.T) {
	e := newEnv(t, 1)
	e.mustAdd("a")
	e.dead["/run/netns/a"] = true
	if err := e.a.Repair(context.Background()); err != nil {
		t.Fatal(err)
	}
	if len(e.dp.wired) != 0 {
		t.Error("the wiring of a dead sandbox is still there")
	}
	e.sleep(time.Minute)
	e.mustAdd("b")
}

func TestWaitingAddIsServedWhenAnAddressComes(t *testing.T) {
	e := newEnv(t, 0)
	e.a.WaitForAddress = 10 * time.Second
	done := make(chan string)
	go func() {
		a, err := e.add("a")
		if err != nil {
			a = err.Msg
		}
		done <- a
	}()
	e.awaitDemand(1)
	e.want(1)
	if got := <-done; got != "192.168.32.1/32" {
		t.Errorf("ADD answered %q", got)
	}
}

func TestControllersReasonReachesThePod(t *testing.T) {
	e := newEnv(t, 0)
	e.a.want.Why = "VSwitchFull: vSwitch vsw-1 has no address left"
	if _, err := e.add("a"); err == nil || !strings.Contains(err.Msg, "VSwitchFull: vSwitch vsw-1") || err.Code != types.ErrTryAgainLater {
		t.Errorf("error %v, want the controller's reason and code 11", err)
	}
}

func TestManyAddsAtOnce(t *testing.T) {
	const n = 300
	e := newEnv(t, n)
	var mu sync.Mutex
	seen := map[string]string{}
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			id := fmt.Sprintf("s%d", i)
			r := e.do(context.Background(), "ADD", call(id))
			if r.Error != nil {
				t.Errorf("ADD %s: %v", id, r.Error)
				return
			}
			var res struct {
				IPs []struct{ Address string }
			}
			if err := json.Unmarshal(r.Result, &res); err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if other, dup := seen[res.IPs[0].Address]; dup {
				t.Errorf("%s and %s share %s", id, other, res.IPs[0].Address)
			}
			seen[res.IPs[0].Address] = id
		})
	}
	wg.Wait()
	if len(seen) != n {
		t.Errorf("%d addresses, want %d", len(seen), n)
	}
}

func TestGC(t *testing.T) {
	e := newEnv(t, 3)
	for _, s := range []string{"a", "b", "c"} {
		e.mustAdd(s)
	}
	gc := call("")
	gc.Config = []byte(`{"cniVersion":"1.1.0","name":"terway","type":"terway","cni.dev/valid-attachments":[{"containerID":"b","ifname":"eth0"}]}`)
	if r := e.do(context.Background(), "GC", gc); r.Error != nil {
		t.Fatalf("GC: %v", r.Error)
	}
	if _, ok := e.dp.wired["b"]; !ok || len(e.dp.wired) != 1 {
		t.Errorf("wired %v, want only b", e.dp.wired)
	}
	gc.Config = []byte(`{"cniVersion":"1.1.0","name":"another","type":"terway","cni.dev/valid-attachments":[]}`)
	if r := e.do(context.Background(), "GC", gc); r.Error != nil {
		t.Fatalf("GC: %v", r.Error)
	}
	if len(e.dp.wired) != 1 {
		t.Error("GC of another network took a pod of ours")
	}
}

func TestCheck(t *testing.T) {
	e := newEnv(t, 1)
	addr := e.mustAdd("a")
	check := call("a")
	conf := func(a string) []byte {
		return []byte(`{"cniVersion":"1.1.0","name":"terway","type":"terway","prevResult":{"cniVersion":"1.1.0",
			"interfaces":[{"name":"twa"},{"name":"eth0","sandbox":"/run/netns/a"}],"ips":[{"address":"` + a + `"}]}}`)
	}
	check.Config = conf(addr)
	if r := e.do(context.Background(), "CHECK", check); r.Error != nil {
		t.Errorf("CHECK of a sound pod: %v", r.Error)
	}
	check.Config = conf("192.168.99.99/32")
	if r := e.do(context.Background(), "CHECK", check); r.Error == nil || !strings.Contains(r.Error.Msg, "192.168.99.99") {
		t.Errorf("CHECK with another address: %v", r.Error)
	}
	delete(e.dp.wired, "a")
	check.Config = conf(addr)
	if r := e.do(context.Background(), "CHECK", check); r.Error == nil || !strings.Contains(r.Error.Msg, "host link") {
		t.Errorf("CHECK of a broken pod: %v", r.Error)
	}
}

func (e *env) status() *cnicall.Error {
	e.t.Helper()
	r := e.do(context.Background(), "STATUS", call(""))
	return r.Error
}

func (e *env) repair() {
	e.t.Helper()
	if err := e.a.Repair(context.Background()); err != nil {
		e.t.Fatal(err)
	}
}

func TestStatusVerb(t *testing.T) {
	e := newEnv(t, 1)
	full := e.a.want
	none := full
	none.ENIs, none.MinPool, none.Why = nil, 1, "QuotaExceeded: no more ENIs"

	e.kill()
	e.start()
	if err := e.status(); !says(err, types.ErrPluginNotAvailable, "controller") {
		t.Errorf("STATUS before the controller spoke: %v, want code 50 and why", err)
	}
	e.setWant(none)
	if err := e.status(); !says(err, types.ErrPluginNotAvailable, "QuotaExceeded") {
		t.Errorf("STATUS without an ENI: %v, want code 50 and the controller's reason", err)
	}
	e.setWant(full)
	if err := e.status(); err != nil {
		t.Errorf("STATUS of a ready node: %v", err)
	}
	// A node that becomes NotReady loses its pods: neither a lost ENI, nor a full
	// pool, nor one failed look at the kernel is worth that.
	e.mustAdd("a")
	e.setWant(none)
	if err := e.status(); err != nil {
		t.Errorf("STATUS after the ENI went: %v", err)
	}
	e.dp.failSync = errors.New("dump interrupted")
	for i := range tolerated {
		if err := e.status(); err != nil {
			t.Errorf("STATUS after %d failed repairs: %v", i, err)
		}
		if err := e.a.Repair(context.Background()); err == nil {
			t.Fatal("repair succeeded")
		}
	}
	if err := e.status(); !says(err, types.ErrLimitedConnectivity, "dump interrupted") {
		t.Errorf("STATUS after %d failed repairs: %v, want code 51 and why", tolerated, err)
	}
	e.dp.failSync = nil
	e.repair()
	if err := e.status(); err != nil {
		t.Errorf("STATUS after the kernel agrees again: %v", err)
	}
}

func TestUnknownDatapathSaysWhatThereIs(t *testing.T) {
	e := &env{t: t, dir: t.TempDir(), dp: &fakeDatapath{wired: map[string]datapath.Pod{}}, dead: map[string]bool{}, links: map[string]bool{}}
	e.start()
	if err := e.a.SetWant(Want{Known: true, Datapath: "magic"}); err != nil {
		t.Fatal(err)
	}
	if err := e.a.Repair(context.Background()); err == nil || !strings.Contains(err.Error(), `"magic"`) || !strings.Contains(err.Error(), "fake") {
		t.Errorf("error %v, want the name and the choices", err)
	}
	for _, c := range e.a.Status(v1alpha1.NodeNetworkStatus{}).Conditions {
		if c.Status != "False" || !strings.Contains(c.Message, `"magic"`) {
			t.Errorf("condition %s is %s: %s; want False and the reason", c.Type, c.Status, c.Message)
		}
	}
}

// A pod that cannot be wired, or a dead one that cannot be unwired, must not cost the
// other pods their node. It hears of it once.
func TestOnePodsTroubleIsNotTheNodes(t *testing.T) {
	for name, c := range map[string]struct {
		reason  string
		trouble func(*env)
	}{
		"its ENI is lost": {reasonNotRepaired, func(e *env) {
			e.dp.failSync = errors.Join(&datapath.PodError{Sandbox: "a", IfName: "eth0", Err: errors.New("its ENI is not on the node")})
		}},
		"its sandbox is gone and its ENI does not come back": {reasonNotRemoved, func(e *env) {
			e.dead["/run/netns/a"] = true
			e.dp.failDel = errors.New("its ENI is not on the node")
		}},
		"its link cannot be looked for": {reasonNotRemoved, func(e *env) {
			e.dead["/run/netns/a"] = true
			e.a.HasLink = func(string) (bool, error) { return false, errors.New("its ENI is not on the node") }
		}},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t, 3)
			var told []string
			e.configure = func(o *Options) {
				o.Tell = func(pod PodRef, reason, note string) {
					told = append(told, fmt.Sprintf("%s/%s %s: %s", pod.Namespace, pod.Name, reason, note))
				}
			}
			e.restart()
			e.mustAdd("a")
			c.trouble(e)
			for range tolerated + 1 {
				e.repair()
			}
			if ok, why := e.a.Ready(); !ok {
				t.Errorf("the node is not ready: %s", why)
			}
			if len(told) != 1 || !strings.HasPrefix(told[0], "default/pod-a "+c.reason+": ") || !strings.Contains(told[0], "its ENI is not on the node") {
				t.Errorf("the pod was told %q", told)
			}
			e.mustAdd("b")
			e.restart()
			e.mustAdd("c")
		})
	}
}

// What others on the node do is named where people look, and the node goes on.
func TestObstaclesAreNamed(t *testing.T) {
	e := newEnv(t, 2)
	e.dp.failSync = errors.Join(&datapath.Obstacle{What: "chain forward drops"})
	for range tolerated + 1 {
		e.repair()
	}
	if ok, why := e.a.Ready(); !ok {
		t.Errorf("the node is not ready: %s", why)
	}
	e.mustAdd("a")
	condition := func() metav1.Condition {
		t.Helper()
		c := meta.FindStatusCondition(e.a.Status(v1alpha1.NodeNetworkStatus{}).Conditions, v1alpha1.ConditionDatapathReady)
		if c == nil {
			t.Fatal("no condition DatapathReady")
		}
		return *c
	}
	if c := condition(); c.Status != metav1.ConditionFalse || c.Reason != v1alpha1.ReasonDatapathObstructed || c.Message != "chain forward drops" {
		t.Errorf("DatapathReady is %+v", c)
	}
	e.dp.failSync = nil
	e.repair()
	if c := condition(); c.Status != metav1.ConditionTrue {
		t.Errorf("DatapathReady is %+v, and nothing is in the way any more", c)
	}
}
