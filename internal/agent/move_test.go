package agent

import (
	"context"
	"errors"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/agent/journal"
	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
)

// When a node changes its datapath, new pods get the new kind, and existing pods keep theirs, also
// after a restart.
func TestMovingToAnotherDatapath(t *testing.T) {
	e := newEnv(t, 8)
	e.dp.choices = []string{"fake", "slow"}
	e.restart()
	wiredAs := func(sandbox, want string) {
		t.Helper()
		if p, ok := e.dp.wired[sandbox]; !ok || p.Kind != want {
			t.Errorf("pod %s is not wired as %s: %v", sandbox, want, e.dp.wired)
		}
	}
	move := func(name string) {
		t.Helper()
		w := e.a.desired
		w.Datapath = name
		e.setDesired(w)
		if got := e.a.Status(v1alpha1.NodeNetworkStatus{}).Datapath; name != "auto" && got != name {
			t.Errorf("status says %s, want %s", got, name)
		}
	}
	e.mustAdd("a")
	wiredAs("a", "fake")
	move("slow")
	e.mustAdd("b")
	wiredAs("a", "fake")
	wiredAs("b", "slow")
	e.restart()
	before := e.dp.syncs
	e.repair()
	if e.dp.syncs != before+1 || e.dp.synced.Kind != "slow" {
		t.Errorf("%d syncs with new pods as %q; want one, for the pods of both, with slow", e.dp.syncs-before, e.dp.synced.Kind)
	}
	e.del("a")
	if len(e.dp.wired) != 1 || e.dp.deleted["a"].Kind != "fake" {
		t.Errorf("after DEL of a: %v, deleted %v", e.dp.wired, e.dp.deleted)
	}
	move("auto")
	e.mustAdd("c")
	wiredAs("c", "fake")
	e.del("b")
	if e.dp.deleted["b"].Kind != "slow" {
		t.Errorf("after DEL of b: deleted %v", e.dp.deleted)
	}
}

// A datapath that the kernel does not support is refused with the reason; auto takes a supported one
// and says why and how many connections it tracks; a node that serves pods continues to.
func TestLackingDatapath(t *testing.T) {
	e := newEnv(t, 2)
	e.dp.lacking = map[string]error{"magic": errors.New("the kernel has no magic")}
	e.dp.capacity = map[string]string{"fake": "it remembers 7 connections", "magic": "it remembers all"}
	e.restart()
	why := func() string {
		for _, c := range e.a.Status(v1alpha1.NodeNetworkStatus{}).Conditions {
			if c.Type == v1alpha1.ConditionDatapathReady {
				return string(c.Status) + " " + c.Reason + ": " + c.Message
			}
		}
		return ""
	}
	if got := why(); !strings.HasPrefix(got, "True AutoLacking: ") || !strings.HasSuffix(got, "not magic: the kernel has no magic; it remembers 7 connections") {
		t.Errorf("auto: condition %q", got)
	}
	w := e.a.desired
	w.Datapath = "magic"
	e.setDesired(w)
	if got := why(); !strings.HasPrefix(got, "True KeptWhileRunning: ") || !strings.Contains(got, "no magic") || !strings.Contains(got, "fake") {
		t.Errorf("configured while running: condition %q", got)
	}
	e.mustAdd("a")
	e.kill()
	e.start()
	if err := e.a.SetDesired(w); err != nil {
		t.Fatal(err)
	}
	if err := e.a.Repair(context.Background()); err == nil || !strings.Contains(err.Error(), "does not work on this node: the kernel has no magic") {
		t.Errorf("configured at start: %v", err)
	}
	if got := why(); !strings.HasPrefix(got, "False Refused: ") || !strings.Contains(got, "no magic") {
		t.Errorf("configured at start: condition %q", got)
	}
}

// A kernel without what all datapaths need wires no pod, and the node's condition names what is
// missing, not the kernel's error.
func TestLackingAll(t *testing.T) {
	e := newEnv(t, 2)
	w := e.a.desired
	e.kill()
	e.dp.lacking = map[string]error{"fake": &datapath.UnsupportedError{Feature: "nftables", Err: errors.New("protocol not supported")}}
	e.start()
	if err := e.a.SetDesired(w); err != nil {
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

// A pod's kind is the one in its journal entry, in the format of any earlier version.
func TestPodOf(t *testing.T) {
	eni := &datapath.ENI{ID: "eni-1"}
	for _, c := range []struct {
		entry journal.Entry
		kind  string
		state datapath.State
	}{
		{journal.Entry{State: journal.Ready, Datapath: claims.IPvlan, HostIfName: "twa"}, claims.IPvlan, datapath.Wired},
		{journal.Entry{State: journal.Ready}, claims.Route, datapath.Wired}, // written when there was no other kind
		{journal.Entry{State: journal.Ready, Datapath: claims.Exclusive, Exclusive: eni}, claims.Exclusive, datapath.Wired},
		{journal.Entry{State: journal.Ready, Exclusive: eni}, claims.Exclusive, datapath.Wired},
		{journal.Entry{State: journal.Allocating, Datapath: claims.EBPF}, claims.EBPF, datapath.Unwired},
		{journal.Entry{State: journal.Releasing, Datapath: claims.EBPF, HostIfName: "twa"}, claims.EBPF, datapath.Unwired},
	} {
		if p := PodOf(&c.entry); p.Kind != c.kind || p.State != c.state || (p.Exclusive != nil) != (c.entry.Exclusive != nil) {
			t.Errorf("%+v is %+v, want kind %s in state %v", c.entry, p, c.kind, c.state)
		}
	}
}
