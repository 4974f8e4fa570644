package agent

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
)

const exclusiveMAC = "00:16:3e:00:00:02"

// mixed is a node with one shared ENI of one address and one exclusive ENI.
func mixed(t *testing.T) (e *env, onNode map[string]Device) {
	e = newEnv(t, 1)
	onNode = map[string]Device{eniMAC: {Name: "eth1", MTU: 1500}, exclusiveMAC: {Name: "eth2", MTU: 1500}}
	e.configure = func(o *Options) {
		o.Devices = func() (map[string]Device, error) { return onNode, nil }
		o.WantsENI = func(_ context.Context, _, name string) (bool, error) { return strings.HasPrefix(name, "pod-own"), nil }
	}
	want := e.a.desired
	e.kill()
	e.start()
	mac, _ := net.ParseMAC(exclusiveMAC)
	want.ExclusiveENIs, want.Offers = 1, 1
	want.ENIs = append(want.ENIs, DesiredENI{Ready: true, Exclusive: true,
		ENI:       datapath.ENI{ID: "eni-2", MAC: mac, Gateways: []netip.Addr{netip.MustParseAddr("192.168.63.253")}},
		Addresses: []DesiredAddress{{Address: netip.MustParseAddr("192.168.40.1")}}})
	e.setDesired(want)
	return e, onNode
}

func TestAPodThatAsksHasAnENIOfItsOwn(t *testing.T) {
	e, onNode := mixed(t)
	if got := e.mustAdd("own1"); got != "192.168.40.1/32" {
		t.Errorf("address %s, want the ENI's", got)
	}
	if got := e.mustAdd("shared"); got == "192.168.40.1/32" {
		t.Errorf("a pod that did not ask has the ENI")
	}
	if own := e.dp.wired["own1"].Exclusive; own == nil || own.ID != "eni-2" || len(own.Gateways) != 1 {
		t.Errorf("the datapath was given %+v", own)
	}
	if own := e.dp.wired["shared"].Exclusive; own != nil {
		t.Errorf("the datapath was given %+v for a pod that did not ask", own)
	}
	if n := len(e.a.node.ENIs); n != 1 {
		t.Errorf("the datapath has %d shared ENIs, want 1", n)
	}
	// The device is in the pod now; a restart must still know whose it is.
	delete(onNode, exclusiveMAC)
	e.restart()
	if again := e.mustAdd("own1"); again != "192.168.40.1/32" {
		t.Errorf("ADD after a restart answered %s", again)
	}
	if own := PodOf(e.a.lookup(e.key("own1"))).Exclusive; own == nil || own.MAC.String() != exclusiveMAC {
		t.Errorf("after a restart the pod's ENI is %+v", own)
	}
}

func TestAPodWaitsForAnENI(t *testing.T) {
	e, onNode := mixed(t)
	e.mustAdd("own1")
	delete(onNode, exclusiveMAC)
	e.repair()
	e.a.WaitForAddress = time.Hour
	ctx, cancel := context.WithCancel(context.Background())
	waiting := make(chan struct{})
	go func() { defer close(waiting); e.do(ctx, "ADD", call("own2")) }()
	deadline := time.Now().Add(20 * time.Second)
	for e.a.Status(v1alpha1.NodeNetworkStatus{}).ENIDemand != 1 {
		if time.Now().After(deadline) {
			t.Fatal("the demand for an ENI is not reported")
		}
		time.Sleep(time.Millisecond)
	}
	if st := e.a.Status(v1alpha1.NodeNetworkStatus{}); st.Demand != 0 {
		t.Errorf("demand for addresses of shared ENIs is %d", st.Demand)
	}
	cancel()
	<-waiting
	e.a.WaitForAddress = 50 * time.Millisecond
	if _, err := e.add("own2"); err == nil || !strings.Contains(err.Msg, "the node may have 1") || !strings.Contains(err.Msg, "wait for a pod to end") {
		t.Errorf("error %v, want how many there are and what to do", err)
	}
	// The first pod ends: its ENI serves the next at once, though it rests.
	e.del("own1")
	if _, err := e.add("own2"); err == nil {
		t.Error("the ENI was given before its device is back on the node")
	}
	onNode[exclusiveMAC] = Device{Name: "eth2", MTU: 1500}
	e.repair()
	if got := e.mustAdd("own2"); got != "192.168.40.1/32" {
		t.Errorf("address %s", got)
	}
}

// Moving an ENI into its pod and back does not change the node: it causes no repair, and the next
// pod can have the ENI at once.
func TestAnExclusiveENIsWayIsNoReasonToRepair(t *testing.T) {
	e, onNode := mixed(t)
	mac, _ := net.ParseMAC(exclusiveMAC)
	heeds := func(want bool, when string) {
		t.Helper()
		if got := e.a.wantsDevice(mac); got != want {
			t.Errorf("%s: the device's changes request a repair: %v, want %v", when, got, want)
		}
	}
	heeds(true, "on the node, for no pod yet")
	e.dp.onAdd = func(at step) {
		delete(onNode, exclusiveMAC)
		heeds(false, "ADD, "+string(at))
	}
	e.dp.onDel = func(at step) {
		heeds(false, "DEL, "+string(at))
		if at == after {
			onNode[exclusiveMAC] = Device{Name: "eth2", MTU: 1500}
		}
	}
	syncs := e.dp.syncs
	for range 2 {
		if got := e.mustAdd("own1"); got != "192.168.40.1/32" {
			t.Errorf("address %s", got)
		}
		heeds(true, "in the pod")
		e.a.refreshDevices()
		e.del("own1")
		heeds(true, "back")
	}
	if e.dp.syncs != syncs {
		t.Errorf("%d repairs, want none", e.dp.syncs-syncs)
	}
}

func TestModeExclusive(t *testing.T) {
	e, _ := mixed(t)
	w := e.a.desired
	w.Mode = claims.ModeExclusive
	e.setDesired(w)
	e.a.WantsENI = nil // must not be called
	if got := e.mustAdd("any"); got != "192.168.40.1/32" {
		t.Errorf("address %s, want the ENI's", got)
	}
}

func TestNobodyKnowsWhetherThePodAsked(t *testing.T) {
	e, _ := mixed(t)
	e.a.WantsENI = func(context.Context, string, string) (bool, error) {
		return false, errors.New("the kubelet does not answer")
	}
	if _, err := e.add("own1"); err == nil || !strings.Contains(err.Msg+err.Details, "the kubelet does not answer") || !strings.Contains(err.Msg, "aliyun/eni") {
		t.Errorf("error %v, want what is unknown and why", err)
	}
	if len(e.dp.wired) != 0 {
		t.Error("the pod was wired anyway")
	}
}

// An ADD may arrive before a starting agent has the desired state: a pod that requests an exclusive
// ENI must not get an address of a shared one.
func TestAddBeforeTheControllersWord(t *testing.T) {
	e, _ := mixed(t)
	want := e.a.desired
	e.kill()
	e.start()
	e.a.WaitForAddress = time.Minute
	got := make(chan string, 1)
	go func() { a, _ := e.add("own1"); got <- a }()
	time.Sleep(50 * time.Millisecond) // long enough for a wrong decision
	e.setDesired(want)
	if a := <-got; a != "192.168.40.1/32" {
		t.Errorf("address %s, want the ENI's", a)
	}
}

// A reboot ends every sandbox, empties /run with the journal, and returns the ENIs' devices to the
// node: no earlier pod may keep an ENI.
func TestAfterARebootNoENIIsHeld(t *testing.T) {
	e, onNode := mixed(t)
	e.mustAdd("own1")
	e.mustAdd("shared")
	delete(onNode, exclusiveMAC)
	e.repair()
	want := e.a.desired
	e.kill()
	e.dir = t.TempDir()
	clear(e.dp.wired)
	e.dead["/run/netns/own1"], e.dead["/run/netns/shared"] = true, true
	onNode[exclusiveMAC] = Device{Name: "eth2", MTU: 1500}
	e.start()
	e.setDesired(want)
	if st := e.a.Status(v1alpha1.NodeNetworkStatus{}); len(st.Used) != 0 {
		t.Errorf("in use after the reboot: %v", st.Used)
	}
	if got := e.mustAdd("own2"); got != "192.168.40.1/32" {
		t.Errorf("address %s, want the ENI's", got)
	}
	if got := e.mustAdd("shared2"); got == "192.168.40.1/32" {
		t.Error("a pod that did not ask has the ENI")
	}
}

// A pod with the annotation must have been counted by the scheduler, which the resource shows.
// Otherwise it gets an error, never a shared address.
func TestAskedByAnnotation(t *testing.T) {
	for name, c := range map[string]struct {
		pod, value string
		want       func(*Desired)
		address    string
		err        []string
	}{
		"counted":                          {pod: "own1", value: "true", address: "192.168.40.1/32"},
		"not counted":                      {pod: "shared", value: "true", err: []string{"default/pod-shared", "exclusive-eni", "without the resource aliyun/eni", "admission.enabled", "limits {aliyun/eni: 1}"}},
		"not counted, nothing is offered":  {pod: "shared", value: "true", want: func(w *Desired) { w.ExclusiveENIs, w.Offers = 0, 0 }, err: []string{"without the resource aliyun/eni"}},
		"not counted, every pod has one":   {pod: "any", value: "true", want: func(w *Desired) { w.Mode = claims.ModeExclusive }, address: "192.168.40.1/32"},
		"does not ask":                     {pod: "shared", value: "false", address: "192.168.32.1/32"},
		"does not ask, every pod has one":  {pod: "any", value: "false", want: func(w *Desired) { w.Mode = claims.ModeExclusive }, address: "192.168.40.1/32"},
		"yes, created without the webhook": {pod: "own1", value: "yes", err: []string{"default/pod-own1", "exclusive-eni", `"yes"`, `want "true"`}},
	} {
		t.Run(name, func(t *testing.T) {
			e, _ := mixed(t)
			if c.want != nil {
				w := e.a.desired
				c.want(&w)
				e.setDesired(w)
			}
			in := call(c.pod)
			in.Config = []byte(`{"cniVersion":"1.1.0","name":"terway","type":"terway","runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"` +
				claims.AnnotationExclusiveENI + `":"` + c.value + `"}}}`)
			r := e.do(t.Context(), "ADD", in)
			if (r.Error != nil) != (c.err != nil) {
				t.Fatalf("error %v, want one with %q", r.Error, c.err)
			}
			for _, part := range c.err {
				if !strings.Contains(r.Error.Msg, part) {
					t.Errorf("error %q, want %q in it", r.Error.Msg, part)
				}
			}
			if c.err != nil && len(e.dp.wired) != 0 {
				t.Error("the pod was wired anyway")
			}
			if c.address != "" && !strings.Contains(string(r.Result), c.address) {
				t.Errorf("result %s, want %s", r.Result, c.address)
			}
		})
	}
}

// The kubelet is told how many ENIs pods can have now, not how many the node may have later.
func TestOffersWhatCanBeHad(t *testing.T) {
	e := newEnv(t, 0)
	heard := -1
	e.configure = func(o *Options) { o.OfferENIs = func(n int) { heard = n } }
	e.restart()
	nn := &v1alpha1.NodeNetwork{Spec: v1alpha1.NodeNetworkSpec{Datapath: "auto", ExclusiveENIs: 3}}
	say := func() int {
		t.Helper()
		w, err := ParseDesired(nn, nil)
		if err != nil {
			t.Fatal(err)
		}
		e.setDesired(w)
		return heard
	}
	if n := say(); n != 3 {
		t.Errorf("a controller from before that field: %d are offered, want all 3", n)
	}
	for _, want := range []int{0, 2} {
		nn.Spec.OfferedENIs = &want
		if n := say(); n != want {
			t.Errorf("%d of 3 are offered, want %d", n, want)
		}
	}
}

// A pod that was counted before the node's exclusive ENIs went to 0 gets an error with the reason,
// never a shared address. A restart does not change that.
func TestGivenBeforeNoneWereOffered(t *testing.T) {
	e, _ := mixed(t)
	refused := func(when string) {
		t.Helper()
		if a, err := e.add("own1"); err == nil || !strings.Contains(err.Msg, "exclusive_enis") {
			t.Errorf("%s: address %s, error %v; want why there is no ENI", when, a, err)
		}
	}
	node, nn := unversioned(nodeObjects(1, "192.168.32.1"))
	nn.Spec.Datapath, nn.Spec.ExclusiveENIs = "auto", 1
	api, c := fakeCluster(t, interceptor.Funcs{}, node, nn)
	s := NewNodeSync(e.a, c, "node-1")
	take := func(spec func(*v1alpha1.NodeNetwork)) {
		t.Helper()
		got := &v1alpha1.NodeNetwork{}
		if err := api.Get(t.Context(), client.ObjectKeyFromObject(nn), got); err != nil {
			t.Fatal(err)
		}
		spec(got)
		got.Generation++
		if err := api.Update(t.Context(), got); err != nil {
			t.Fatal(err)
		}
		if err := s.receive(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		e.repair()
	}
	take(func(*v1alpha1.NodeNetwork) {})
	take(func(nn *v1alpha1.NodeNetwork) { nn.Spec.ExclusiveENIs = 0 })
	refused("in the same process")
	for _, hears := range []string{"reads the NodeNetwork", "uses the journal"} {
		e.kill()
		e.start()
		s = NewNodeSync(e.a, c, "node-1")
		if hears == "reads the NodeNetwork" {
			take(func(nn *v1alpha1.NodeNetwork) { nn.Spec.Pool.Max++ })
		} else if err := s.restoreSaved(); err != nil {
			t.Fatal(err)
		}
		e.repair()
		refused("a restarted agent that " + hears)
	}
	if a := e.mustAdd("shared"); a != "192.168.32.1/32" {
		t.Errorf("a pod that did not ask has %s", a)
	}
	// On a node that never offered one, ADD does not call the kubelet.
	plain := newEnv(t, 1)
	plain.a.WantsENI = func(context.Context, string, string) (bool, error) {
		t.Error("the kubelet was asked")
		return false, nil
	}
	plain.mustAdd("own1")
}

// In mode exclusive, pods that did not request an ENI take ENIs too, and the scheduler does not count
// them: the error says what to set.
func TestNoENILeftInModeExclusive(t *testing.T) {
	e, _ := mixed(t)
	w := e.a.desired
	w.Mode = claims.ModeExclusive
	e.setDesired(w)
	e.mustAdd("any")
	if _, err := e.add("other"); err == nil || !strings.Contains(err.Msg, "only pods that ask for aliyun/eni") || !strings.Contains(err.Msg, "maxPods to 1 ") {
		t.Errorf("error %v, want who is counted and kubelet's maxPods", err)
	}
	w.Offers, w.ExclusiveENIs = 0, 3 // the pod was not counted
	e.setDesired(w)
	if _, err := e.add("other"); err == nil || !strings.Contains(err.Msg, "the slots of 2") {
		t.Errorf("error %v, want that others occupy the slots", err)
	}
}

// A pod may have changed all of its device but the name. AddPod returned the name, so it is known to
// be Terway's.
func TestDelSaysThatThePodWasWired(t *testing.T) {
	e, _ := mixed(t)
	e.mustAdd("own1")
	e.del("own1")
	if got := e.dp.deleted["own1"].State; got != datapath.Wired {
		t.Errorf("DelPod was given the state %v", got)
	}
}

// On a node in mode exclusive a pod that did not request an ENI takes one that the scheduler counts
// as free: the agent reports how many.
func TestUncountedENIs(t *testing.T) {
	e, _ := mixed(t)
	w := e.a.desired
	w.Mode = claims.ModeExclusive
	e.setDesired(w)
	uncounted := func() int { return e.a.Status(v1alpha1.NodeNetworkStatus{}).UncountedENIs }
	e.mustAdd("any")
	if n := uncounted(); n != 1 {
		t.Errorf("%d ENIs are uncounted, want 1", n)
	}
	e.restart()
	if n := uncounted(); n != 1 {
		t.Errorf("%d ENIs are uncounted after a restart, want 1", n)
	}
	e.del("any")
	e.repair()
	e.mustAdd("own1")
	if n := uncounted(); n != 0 {
		t.Errorf("%d ENIs are uncounted, the pod asked for its own", n)
	}
}

// If the kubelet did not answer for a pod, it is asked again, once it answers; also by an agent that
// was restarted in between.
func TestUncountedUntilTheKubeletSpeaks(t *testing.T) {
	for name, want := range map[string]int{"own1": 0, "any": 1} {
		for _, restart := range []bool{false, true} {
			e, _ := mixed(t)
			w := e.a.desired
			w.Mode = claims.ModeExclusive
			e.setDesired(w)
			uncounted := func() int { return e.a.Status(v1alpha1.NodeNetworkStatus{}).UncountedENIs }
			speaks := e.a.WantsENI
			silent := func(context.Context, string, string) (bool, error) {
				return false, errors.New("the kubelet does not answer")
			}
			e.a.WantsENI = silent
			if e.mustAdd(name); uncounted() != 1 {
				t.Fatalf("%s: %d ENIs are uncounted while it is not known, want 1", name, uncounted())
			}
			if e.repair(); uncounted() != 1 {
				t.Fatalf("%s: %d ENIs are uncounted while it is not known, want 1", name, uncounted())
			}
			if restart {
				e.restart()
			}
			asked := 0
			e.a.WantsENI = func(ctx context.Context, namespace, name string) (bool, error) {
				asked++
				return speaks(ctx, namespace, name)
			}
			e.repair()
			if e.repair(); uncounted() != want || asked > 1 {
				t.Errorf("%s: %d ENIs are uncounted, want %d; asked %d times", name, uncounted(), want, asked)
			}
			if e.restart(); uncounted() != want {
				t.Errorf("%s: %d ENIs are uncounted after a restart, want %d", name, uncounted(), want)
			}
		}
	}
}
