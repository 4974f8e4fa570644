package agent

import (
	"context"
	"errors"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/datapath"
)

// A node goes from one datapath to another: new pods get the new one, each pod is
// served by the one that wired it, over a restart too.
func TestMovingToAnotherDatapath(t *testing.T) {
	slow := &fakeDatapath{name: "slow", wired: map[string]datapath.Pod{}}
	e := newEnv(t, 8)
	e.others = []datapath.Datapath{slow}
	e.restart()
	wiredBy := func(sandbox string, want *fakeDatapath) {
		t.Helper()
		if p, ok := want.wired[sandbox]; !ok || p.Datapath != want.Name() {
			t.Errorf("pod %s is not wired by %s (fake %v, slow %v)", sandbox, want.Name(), e.dp.wired, slow.wired)
		}
	}
	move := func(name string) {
		t.Helper()
		w := e.a.want
		w.Datapath = name
		e.setWant(w)
		if got := e.a.Status(v1alpha1.NodeNetworkStatus{}).Datapath; name != "auto" && got != name {
			t.Errorf("status says %s, want %s", got, name)
		}
	}
	e.mustAdd("a")
	wiredBy("a", e.dp)
	move("slow")
	e.mustAdd("b")
	wiredBy("a", e.dp)
	wiredBy("b", slow)
	e.restart()
	fast, before := e.dp.syncs, slow.syncs
	e.repair()
	if e.dp.syncs != fast || slow.syncs != before+1 {
		t.Error("it is the chosen datapath that is synced, for the pods of both")
	}
	e.del("a")
	if len(e.dp.wired) != 0 || len(slow.wired) != 1 {
		t.Errorf("after DEL of a: fake %v, slow %v", e.dp.wired, slow.wired)
	}
	move("auto")
	e.mustAdd("c")
	wiredBy("c", e.dp)
	e.del("b")
	if len(slow.wired) != 0 {
		t.Errorf("after DEL of b: slow %v", slow.wired)
	}
}

// What a kernel lacks is said to who asks for it; auto takes what there is and says
// why; a node that serves goes on.
func TestLackingDatapath(t *testing.T) {
	e := newEnv(t, 2)
	e.lacking = map[string]error{"magic": errors.New("the kernel has no magic")}
	e.restart()
	why := func() string {
		for _, c := range e.a.Status(v1alpha1.NodeNetworkStatus{}).Conditions {
			if c.Type == v1alpha1.ConditionDatapathReady {
				return string(c.Status) + " " + c.Reason + ": " + c.Message
			}
		}
		return ""
	}
	if got := why(); !strings.HasPrefix(got, "True AutoLacking: ") || !strings.Contains(got, "not magic: the kernel has no magic") {
		t.Errorf("auto: condition %q", got)
	}
	w := e.a.want
	w.Datapath = "magic"
	e.setWant(w)
	if got := why(); !strings.HasPrefix(got, "True KeptWhileRunning: ") || !strings.Contains(got, "no magic") || !strings.Contains(got, "fake") {
		t.Errorf("asked while running: condition %q", got)
	}
	e.mustAdd("a")
	e.kill()
	e.start()
	if err := e.a.SetWant(w); err != nil {
		t.Fatal(err)
	}
	if err := e.a.Repair(context.Background()); err == nil || !strings.Contains(err.Error(), "does not work on this node: the kernel has no magic") {
		t.Errorf("asked at start: %v", err)
	}
	if got := why(); !strings.HasPrefix(got, "False Refused: ") || !strings.Contains(got, "no magic") {
		t.Errorf("asked at start: condition %q", got)
	}
}

// A kernel that cannot do what all datapaths build on wires nobody, and the node's condition
// names what it lacks instead of what it answered to the attempt.
func TestLackingAll(t *testing.T) {
	e := newEnv(t, 2)
	w := e.a.want
	e.kill()
	e.lacking = map[string]error{"fake": &datapath.UnsupportedError{Feature: "nftables", Err: errors.New("protocol not supported")}}
	e.start()
	if err := e.a.SetWant(w); err != nil {
		t.Fatal(err)
	}
	if err := e.a.Repair(context.Background()); err == nil || !strings.Contains(err.Error(), "this kernel lacks nftables") {
		t.Errorf("Repair: %v", err)
	}
	c := meta.FindStatusCondition(e.a.Status(v1alpha1.NodeNetworkStatus{}).Conditions, v1alpha1.ConditionDatapathReady)
	if c == nil || c.Status != metav1.ConditionFalse || c.Reason != v1alpha1.ReasonDatapathRefused || !strings.Contains(c.Message, "this kernel lacks nftables") {
		t.Errorf("condition %+v", c)
	}
	if _, err := e.add("a"); err == nil {
		t.Error("a pod was wired")
	}
}
