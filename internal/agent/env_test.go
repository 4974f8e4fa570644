package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"terway.dev/terway/internal/agent/journal"
	"terway.dev/terway/internal/cnicall"
	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/object"
)

// fakeDatapath records what is wired. The privileged tests run the real datapath and plugin.
type fakeDatapath struct {
	mu                         sync.Mutex
	wired                      map[string]datapath.Pod
	failAdd, failDel, failSync error
	// onAdd and onDel are called at each step of AddPod and DelPod.
	onAdd, onDel func(step)
	// deleted has DelPod's arguments, by sandbox.
	deleted map[string]datapath.Pod
	syncs   int
	synced  datapath.Node // the argument of the last Sync
	choices []string
	lacking map[string]error
	// repairs are what Sync returns.
	repairs []datapath.Repair
	// capacity has Capacity's results, by kind.
	capacity map[string]string
	// alive reports whether a pod has a device.
	alive func(datapath.Pod) (bool, error)
	// counts has Counts' results, by sandbox.
	counts map[string][]object.Counts
	// read is how often Counts was called.
	read int
}

type step string

const (
	before step = "before" // nothing done yet
	after  step = "after"  // all done, the agent does not know yet
)

func (f *fakeDatapath) Choices() []string {
	if f.choices != nil {
		return f.choices
	}
	return []string{"fake"}
}

func (f *fakeDatapath) Lacking() map[string]error { return f.lacking }

func (d *fakeDatapath) Counts(_ context.Context, pods []datapath.Pod) ([][]object.Counts, error) {
	d.read++
	counts := make([][]object.Counts, len(pods))
	for i, p := range pods {
		counts[i] = d.counts[p.Sandbox]
	}
	return counts, nil
}

func (f *fakeDatapath) Capacity(kind string) string { return f.capacity[kind] }

func (f *fakeDatapath) Alive(p datapath.Pod) (bool, error) { return f.alive(p) }

func (f *fakeDatapath) AddPod(_ context.Context, _ datapath.Node, p datapath.Pod) (datapath.Wiring, error) {
	if f.onAdd != nil {
		f.onAdd(before)
	}
	f.mu.Lock()
	f.wired[p.Sandbox] = p // an unfinished ADD leaves wiring behind
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

func (f *fakeDatapath) Sync(_ context.Context, node datapath.Node, _ []datapath.Pod) ([]datapath.Repair, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.syncs++
	f.synced = node
	return f.repairs, f.failSync
}

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
}

const eniMAC = "00:16:3e:00:00:01"

func newEnv(t *testing.T, addresses int) *env {
	e := &env{t: t, dir: t.TempDir(), dp: &fakeDatapath{wired: map[string]datapath.Pod{}}, now: time.Unix(1_700_000_000, 0), dead: map[string]bool{}, links: map[string]bool{}}
	e.start()
	e.want(addresses)
	return e
}

// start starts the agent; a second call is a restart after a kill.
func (e *env) start() {
	e.t.Helper()
	j, err := journal.Open(e.dir)
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { _ = j.Close() }) // a second Close after restart is harmless
	o := Options{
		Log: slog.New(slog.DiscardHandler), Journal: j, Datapath: e.dp, WaitForAddress: 50 * time.Millisecond,
		Now: func() time.Time { e.mu.Lock(); defer e.mu.Unlock(); return e.now },
		Alive: func(p string) bool {
			e.mu.Lock()
			defer e.mu.Unlock()
			return !e.dead[p]
		},
		Devices: func() (map[string]Device, error) { return map[string]Device{eniMAC: {Name: "eth1", MTU: 1500}}, nil },
	}
	e.dp.alive = func(p datapath.Pod) (bool, error) {
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.links["tw"+p.Sandbox], nil
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

// kill ends the agent without any clean-up.
func (e *env) kill() {
	e.t.Helper()
	if err := e.a.Journal.Close(); err != nil {
		e.t.Fatal(err)
	}
}

func (e *env) restart() {
	e.t.Helper()
	want := e.a.desired
	e.kill()
	e.start()
	e.setDesired(want)
}

func (e *env) setDesired(w Desired) {
	e.t.Helper()
	if err := e.a.SetDesired(w); err != nil {
		e.t.Fatal(err)
	}
	e.repair()
}

func (e *env) want(addresses int) {
	e.t.Helper()
	mac, _ := net.ParseMAC(eniMAC)
	w := Desired{Known: true, Datapath: "auto", Cooling: time.Minute, Limit: addresses}
	eni := DesiredENI{Ready: true, ENI: datapath.ENI{ID: "eni-1", MAC: mac, Gateways: []netip.Addr{netip.MustParseAddr("192.168.63.253")}}}
	for i := range addresses {
		eni.Addresses = append(eni.Addresses, DesiredAddress{Address: netip.AddrFrom4([4]byte{192, 168, byte(32 + i/250), byte(1 + i%250)})})
	}
	w.ENIs = []DesiredENI{eni}
	e.setDesired(w)
}

func call(sandbox string) cnicall.Request {
	return cnicall.Request{ContainerID: sandbox, NetNS: "/run/netns/" + sandbox, IfName: "eth0",
		Args:   "K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod-" + sandbox,
		Config: []byte(`{"cniVersion":"1.1.0","name":"terway","type":"terway"}`)}
}

// do makes a call as the plugin does.
func (e *env) do(ctx context.Context, verb string, in cnicall.Request) cnicall.Reply {
	in.Verb = verb
	return e.a.Answer(ctx, in)
}

// says reports whether an error has the code and contains the text.
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
