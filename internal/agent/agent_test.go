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

	cniv1 "terway.dev/terway/api/cni/v1"
	"terway.dev/terway/internal/agent/journal"
	"terway.dev/terway/internal/datapath"
)

// fakeDatapath remembers what is wired. It is a stand-in below unit tests; the
// real datapath and plugin are driven in the privileged tests.
type fakeDatapath struct {
	mu      sync.Mutex
	wired   map[string]datapath.Pod
	failAdd error
	failDel error
}

func (f *fakeDatapath) Name() string { return "fake" }

func (f *fakeDatapath) AddPod(_ context.Context, _ datapath.Node, p datapath.Pod) (datapath.Wiring, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wired[p.Sandbox] = p // an unfinished ADD leaves something behind
	if f.failAdd != nil {
		return datapath.Wiring{}, f.failAdd
	}
	return datapath.Wiring{HostIfName: "tw" + p.Sandbox, HostMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, PodMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2},
		MTU: 1500, Gateways: []netip.Addr{netip.MustParseAddr("169.254.1.1")}}, nil
}

func (f *fakeDatapath) DelPod(_ context.Context, p datapath.Pod) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failDel != nil {
		return f.failDel
	}
	delete(f.wired, p.Sandbox)
	return nil
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
	return nil, nil
}
func (f *fakeDatapath) Teardown(context.Context) error { return nil }

type env struct {
	t    *testing.T
	dir  string
	dp   *fakeDatapath
	a    *Agent
	svc  *Service
	mu   sync.Mutex
	now  time.Time
	dead map[string]bool
}

const eniMAC = "00:16:3e:00:00:01"

func newEnv(t *testing.T, addresses int) *env {
	e := &env{t: t, dir: t.TempDir(), dp: &fakeDatapath{wired: map[string]datapath.Pod{}}, now: time.Unix(1_700_000_000, 0), dead: map[string]bool{}}
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
	a, err := New(Options{
		Log: slog.New(slog.DiscardHandler), Journal: j, Datapaths: []datapath.Datapath{e.dp}, WaitForAddress: 50 * time.Millisecond,
		Now: func() time.Time { e.mu.Lock(); defer e.mu.Unlock(); return e.now },
		Alive: func(p string) bool {
			e.mu.Lock()
			defer e.mu.Unlock()
			return !e.dead[p]
		},
		Devices: func() (map[string]Device, error) { return map[string]Device{eniMAC: {Name: "eth1", MTU: 1500}}, nil },
	})
	if err != nil {
		e.t.Fatal(err)
	}
	e.a, e.svc = a, &Service{Agent: a}
}

func (e *env) restart() {
	e.t.Helper()
	want := e.a.want
	if err := e.a.Journal.Close(); err != nil {
		e.t.Fatal(err)
	}
	e.start()
	if err := e.a.SetWant(want); err != nil {
		e.t.Fatal(err)
	}
	if err := e.a.Repair(context.Background()); err != nil {
		e.t.Fatal(err)
	}
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
	if err := e.a.SetWant(w); err != nil {
		e.t.Fatal(err)
	}
	if err := e.a.Repair(context.Background()); err != nil {
		e.t.Fatal(err)
	}
}

func call(sandbox string) *cniv1.Request {
	return &cniv1.Request{ContainerId: sandbox, Netns: "/run/netns/" + sandbox, IfName: "eth0",
		Args:   "K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod-" + sandbox,
		Config: []byte(`{"cniVersion":"1.1.0","name":"terway","type":"terway"}`)}
}

func (e *env) add(sandbox string) (string, *cniv1.Error) {
	e.t.Helper()
	r, err := e.svc.Add(context.Background(), call(sandbox))
	if err != nil {
		e.t.Fatal(err)
	}
	if r.GetError() != nil {
		return "", r.GetError()
	}
	var res struct {
		IPs []struct{ Address string }
	}
	if err := json.Unmarshal(r.GetResult(), &res); err != nil {
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

func (e *env) del(sandbox string) {
	e.t.Helper()
	r, err := e.svc.Del(context.Background(), call(sandbox))
	if err != nil || r.GetError() != nil {
		e.t.Fatalf("DEL %s: %v %v", sandbox, err, r.GetError())
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

// A kill between the journal and the answer: the next agent's Repair, or the
// runtime's next ADD or DEL, must bring the address back.
func TestKilledInTheMiddleOfAdd(t *testing.T) {
	for _, next := range []string{"add", "del", "sandbox gone"} {
		t.Run(next, func(t *testing.T) {
			e := newEnv(t, 1)
			e.dp.failAdd, e.dp.failDel = errors.New("killed"), errors.New("killed")
			if _, err := e.add("a"); err == nil {
				t.Fatal("ADD succeeded")
			}
			e.dp.failAdd, e.dp.failDel = nil, nil
			switch next {
			case "sandbox gone":
				e.dead["/run/netns/a"] = true
				e.restart()
			case "del":
				e.restart()
				e.del("a")
			case "add":
				e.restart()
			}
			e.sleep(time.Minute)
			e.mustAdd("a")
			if c := e.a.pool.Count(e.now); c.Used != 1 || c.Total != 1 {
				t.Errorf("pool %+v, want one used of one", c)
			}
		})
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
	for { // the demand must be seen before it is served
		<-e.a.Dirty()
		e.a.mu.Lock()
		n := len(e.a.waiting)
		e.a.mu.Unlock()
		if n == 1 {
			break
		}
	}
	e.want(1)
	if got := <-done; got != "192.168.32.1/32" {
		t.Errorf("ADD answered %q", got)
	}
}

func TestControllersReasonReachesThePod(t *testing.T) {
	e := newEnv(t, 0)
	e.a.want.Why = "VSwitchFull: vSwitch vsw-1 has no address left"
	if _, err := e.add("a"); err == nil || !strings.Contains(err.Msg, "VSwitchFull: vSwitch vsw-1") || err.Code != uint32(types.ErrTryAgainLater) {
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
			r, err := e.svc.Add(context.Background(), call(id))
			if err != nil || r.GetError() != nil {
				t.Errorf("ADD %s: %v %v", id, err, r.GetError())
				return
			}
			var res struct {
				IPs []struct{ Address string }
			}
			if err := json.Unmarshal(r.GetResult(), &res); err != nil {
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
	if r, err := e.svc.GC(context.Background(), gc); err != nil || r.GetError() != nil {
		t.Fatalf("GC: %v %v", err, r.GetError())
	}
	if _, ok := e.dp.wired["b"]; !ok || len(e.dp.wired) != 1 {
		t.Errorf("wired %v, want only b", e.dp.wired)
	}
	gc.Config = []byte(`{"cniVersion":"1.1.0","name":"another","type":"terway","cni.dev/valid-attachments":[]}`)
	if r, err := e.svc.GC(context.Background(), gc); err != nil || r.GetError() != nil {
		t.Fatalf("GC: %v %v", err, r.GetError())
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
		return []byte(`{"cniVersion":"1.1.0","name":"terway","type":"terway","prevResult":{"cniVersion":"1.1.0","ips":[{"address":"` + a + `"}]}}`)
	}
	check.Config = conf(addr)
	if r, _ := e.svc.Check(context.Background(), check); r.GetError() != nil {
		t.Errorf("CHECK of a sound pod: %v", r.GetError())
	}
	check.Config = conf("192.168.99.99/32")
	if r, _ := e.svc.Check(context.Background(), check); r.GetError() == nil || !strings.Contains(r.GetError().GetMsg(), "192.168.99.99") {
		t.Errorf("CHECK with another address: %v", r.GetError())
	}
	delete(e.dp.wired, "a")
	check.Config = conf(addr)
	if r, _ := e.svc.Check(context.Background(), check); r.GetError() == nil || !strings.Contains(r.GetError().GetMsg(), "host link") {
		t.Errorf("CHECK of a broken pod: %v", r.GetError())
	}
}

func TestStatusVerb(t *testing.T) {
	e := newEnv(t, 1)
	if r, _ := e.svc.Status(context.Background(), call("")); r.GetError() != nil {
		t.Errorf("STATUS of a ready node: %v", r.GetError())
	}
	e.a.want.ENIs = nil
	if err := e.a.Repair(context.Background()); err != nil {
		t.Fatal(err)
	}
	if r, _ := e.svc.Status(context.Background(), call("")); r.GetError().GetCode() != uint32(types.ErrPluginNotAvailable) {
		t.Errorf("STATUS without an ENI: %v, want code 50", r.GetError())
	}
}

func TestUnknownDatapathSaysWhatThereIs(t *testing.T) {
	e := &env{t: t, dir: t.TempDir(), dp: &fakeDatapath{wired: map[string]datapath.Pod{}}, dead: map[string]bool{}}
	e.start()
	if err := e.a.SetWant(Want{Known: true, Datapath: "magic"}); err != nil {
		t.Fatal(err)
	}
	if err := e.a.Repair(context.Background()); err == nil || !strings.Contains(err.Error(), `"magic"`) || !strings.Contains(err.Error(), "fake") {
		t.Errorf("error %v, want the name and the choices", err)
	}
}
