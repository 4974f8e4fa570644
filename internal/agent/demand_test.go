package agent

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cnicall"
)

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

// The kubelet pauses between two attempts, and each attempt has its own sandbox, which the runtime
// removes when the attempt has failed. What the controller makes in the pause stays for the pod.
func TestAPodsDemandOutlivesThePauseBetweenAttempts(t *testing.T) {
	attempt := func(e *env, sandbox string) *cnicall.Error {
		in := call(sandbox)
		in.Args = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0"
		return e.do(context.Background(), "ADD", in).Error
	}
	demand := func(e *env) int {
		st := e.a.Status(v1alpha1.NodeNetworkStatus{})
		// The one with which the pod began to wait: the report does not change with each attempt.
		if st.Demand == 1 && !slices.Equal(st.WaitingSandboxes, []string{"first"}) || st.Demand == 0 && len(st.WaitingSandboxes) > 0 {
			t.Errorf("demand %d, sandboxes %q", st.Demand, st.WaitingSandboxes)
		}
		return st.Demand
	}
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
		t.Errorf("demand %d after the pod got its address, want 0", n)
	}
	// The demand of a pod that does not try again ends after a minute.
	e.want(0)
	if err := attempt(e, "fourth"); err == nil {
		t.Fatal("there was an address")
	}
	e.sleep(demandTTL)
	if n := demand(e); n != 0 {
		t.Errorf("demand %d for a pod that has not tried again, want 0", n)
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
	e.a.whyNoMore = "VSwitchFull: vSwitch vsw-1 has no address left"
	if _, err := e.add("a"); err == nil || !strings.Contains(err.Msg, "VSwitchFull: vSwitch vsw-1") || err.Code != types.ErrTryAgainLater {
		t.Errorf("error %v, want the controller's reason and code 11", err)
	}
}
