package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/datapath"
)

func TestStatusVerb(t *testing.T) {
	e := newEnv(t, 1)
	full := e.a.desired
	none := full
	none.ENIs, none.MinPool = nil, 1

	e.kill()
	e.start()
	if err := e.status(); !says(err, types.ErrPluginNotAvailable, "controller") {
		t.Errorf("STATUS before there is a desired state: %v, want code 50 and why", err)
	}
	e.a.SetWhyNoMore("QuotaExceeded: no more ENIs")
	e.setDesired(none)
	if err := e.status(); !says(err, types.ErrPluginNotAvailable, "QuotaExceeded") {
		t.Errorf("STATUS without an ENI: %v, want code 50 and the controller's reason", err)
	}
	e.setDesired(full)
	if err := e.status(); err != nil {
		t.Errorf("STATUS of a ready node: %v", err)
	}
	// A node that becomes NotReady loses its pods: a lost ENI, a full pool or one failed repair must not
	// cause that.
	e.mustAdd("a")
	e.setDesired(none)
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
	if err := e.a.SetDesired(Desired{Known: true, Datapath: "magic"}); err != nil {
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

// A pod that cannot be repaired, or a dead one that cannot be removed, must not make the node unready
// for other pods. The pod gets one event.
func TestPodProblemKeepsNodeReady(t *testing.T) {
	for name, c := range map[string]struct {
		reason string
		damage func(*env)
	}{
		"it has removed a program": {"NetworkPolicyRemoved", func(e *env) {
			e.dp.failSync = errors.Join(&datapath.PodError{Sandbox: "a", IfName: "eth0", Err: &datapath.Tampered{What: "its ENI is not on the node", Of: datapath.OfPolicies}})
		}},
		"it has removed a queue": {"BandwidthLimitRemoved", func(e *env) {
			e.dp.failSync = errors.Join(&datapath.PodError{Sandbox: "a", IfName: "eth0", Err: &datapath.Tampered{What: "its ENI is not on the node", Of: datapath.OfLimits}})
		}},
		"its ENI is lost": {reasonNotRepaired, func(e *env) {
			e.dp.failSync = errors.Join(&datapath.PodError{Sandbox: "a", IfName: "eth0", Err: errors.New("its ENI is not on the node")})
		}},
		"its sandbox is gone and its ENI does not come back": {reasonNotRemoved, func(e *env) {
			e.dead["/run/netns/a"] = true
			e.dp.failDel = errors.New("its ENI is not on the node")
		}},
		"its link cannot be listed": {reasonNotRemoved, func(e *env) {
			e.dead["/run/netns/a"] = true
			e.dp.alive = func(datapath.Pod) (bool, error) { return false, errors.New("its ENI is not on the node") }
		}},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t, 3)
			var events []string
			e.configure = func(o *Options) {
				o.PodEvent = func(pod PodRef, reason, note string) {
					events = append(events, fmt.Sprintf("%s/%s %s: %s", pod.Namespace, pod.Name, reason, note))
				}
			}
			e.restart()
			e.mustAdd("a")
			c.damage(e)
			for range tolerated + 1 {
				e.repair()
			}
			if ok, why := e.a.Ready(); !ok {
				t.Errorf("the node is not ready: %s", why)
			}
			if len(events) != 1 || !strings.HasPrefix(events[0], "default/pod-a "+c.reason+": ") || !strings.Contains(events[0], "its ENI is not on the node") {
				t.Errorf("events on the pod: %q", events)
			}
			e.mustAdd("b")
			e.restart()
			e.mustAdd("c")
		})
	}
}

// Obstacles are named in the condition, and the node continues to serve.
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
		t.Errorf("DatapathReady is %+v, and there is no obstacle any more", c)
	}
}
