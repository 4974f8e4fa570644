package podroute

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"terway.dev/terway/internal/vpcsim"
	"terway.dev/terway/internal/vpcsim/faults"
	"terway.dev/terway/internal/vpcsim/state"
)

// The quota is reported before it is reached, and when it is; entries of nodes that leave make
// room.
func TestQuota(t *testing.T) {
	g := newRig(t, func(o *vpcsim.Options) { o.Limits.RouteEntriesPerTable = 10 })
	g.quota = 10
	g.restart()
	for i := range 7 {
		g.join(fmt.Sprintf("n%d", i), i)
	}
	g.run(minute)
	if n := g.events.Count("RouteQuota"); n != 0 {
		t.Errorf("warned at 7 of 10: %v", g.events.All())
	}
	g.join("n7", 7)
	g.run(minute)
	if g.events.Count("ConfigMap", "RouteQuotaNear", "8 custom entries of 10") != 1 {
		t.Errorf("events %v", g.events.All())
	}
	for i := 8; i < 12; i++ {
		g.join(fmt.Sprintf("n%d", i), i)
	}
	g.run(minute)
	waiting := 0
	for i := range 12 {
		if c := g.condition(fmt.Sprintf("n%d", i)); c.Status == corev1.ConditionTrue {
			waiting++
			if c.Reason != "RouteQuota" || !strings.Contains(c.Message, "Quota Center") {
				t.Errorf("node n%d: %s: %s", i, c.Reason, c.Message)
			}
		}
	}
	if waiting != 2 || len(g.custom(0)) != 10 || g.events.Count("ConfigMap", "Warning RouteQuota route", "needs 12; the quota is 10") != 1 {
		t.Errorf("%d nodes wait, %d entries; events %v", waiting, len(g.custom(0)), g.events.All())
	}
	before := g.Calls("CreateRouteEntries")
	g.run(10 * minute)
	if n := g.Calls("CreateRouteEntries") - before; n > 11 {
		t.Errorf("%d calls in ten minutes for a table that is full", n)
	}
	// The next of these calls has just failed: a new node causes none, new room does.
	for n := g.Calls("CreateRouteEntries"); g.Calls("CreateRouteEntries") == n; {
		wait, _ := g.once()
		g.Clock.Pass(wait)
	}
	before = g.Calls("CreateRouteEntries")
	g.join("late", 50)
	g.run(10 * time.Second)
	if n := g.Calls("CreateRouteEntries") - before; n != 0 {
		t.Errorf("%d calls for a new node, the table being full", n)
	}
	g.want("late", corev1.ConditionTrue, "RouteQuota")
	g.leave("late")
	g.leave("n0")
	g.leave("n1")
	g.run(20 * time.Second)
	for i := 2; i < 12; i++ {
		g.want(fmt.Sprintf("n%d", i), corev1.ConditionFalse, "RouteCreated")
	}
}

// If a call is refused as a whole because the table has no room for all of it, as many entries are
// created as fit.
func TestQuotaOfAWholeCall(t *testing.T) {
	g := newRig(t, func(o *vpcsim.Options) { o.Limits.RouteEntriesPerTable = 2 })
	g.Fault(faults.Rule{Action: "CreateRouteEntries", Match: map[string]string{"RouteEntries.3.DstCidrBlock": blockN(2)}, Error: &faults.Error{Code: "QuotaExceeded"}})
	for i := range 4 {
		g.join(fmt.Sprintf("n%d", i), i)
	}
	g.run(minute)
	g.want("n0", corev1.ConditionFalse, "RouteCreated")
	g.want("n1", corev1.ConditionFalse, "RouteCreated")
	g.want("n2", corev1.ConditionTrue, "RouteQuota")
	g.want("n3", corev1.ConditionTrue, "RouteQuota")
}

// Entries that cannot be deleted block nothing.
func TestDeletionIsRefused(t *testing.T) {
	for code, events := range map[string]int{"Forbidden.RAM": 1, "IncorrcetRouteEntryStatus": 0, "OperationDenied": 1} {
		g := newRig(t)
		for i := range 3 {
			g.join(fmt.Sprintf("n%d", i), i)
		}
		g.run(minute)
		g.Fault(faults.Rule{Name: "refused", Action: "DeleteRouteEntries", Error: &faults.Error{Code: code}})
		for i := range 3 {
			g.leave(fmt.Sprintf("n%d", i))
		}
		before := g.Calls("DeleteRouteEntries")
		g.run(30 * time.Second)
		id := g.join("n9", 9)
		g.run(10 * minute)
		if g.leads(blockN(9)) != id {
			t.Errorf("%s: entries %+v", code, g.custom(0))
		}
		if n := g.Calls("DeleteRouteEntries") - before; n < 6 || n > 60 {
			t.Errorf("%s: %d calls in ten minutes", code, n)
		}
		if n := g.events.Count("ConfigMap", "cannot be deleted"); n != events {
			t.Errorf("%s: %d events, want %d: %v", code, n, events, g.events.All())
		}
		g.Sim.RemoveFault("refused")
		g.run(2 * minute)
		if len(g.custom(0)) != 1 {
			t.Errorf("%s: entries in the end %+v", code, g.custom(0))
		}
	}
}

// While somebody changes the VPC continuously, calls are repeated with growing pauses, and succeed
// when it is over. Conditions say what nodes wait for.
func TestConflicts(t *testing.T) {
	for _, code := range []string{"TaskConflict", "IncorrectRouteEntryStatus", "OperationConflict", "IncorrectVpcStatus", "IncorrectVSwitchStatus",
		"OperationFailed.DistibuteLock", "LastTokenProcessing", "SystemBusy", "Throttling", "Throttling.User"} {
		g := newRig(t)
		g.Fault(faults.Rule{Name: "busy", Action: "CreateRouteEntries", Error: &faults.Error{Code: code}})
		id := g.join("n1", 1)
		g.run(10 * minute)
		if n := g.Calls("CreateRouteEntries"); n < 6 || n > 60 {
			t.Errorf("%s: %d calls in ten minutes", code, n)
		}
		if c := g.condition("n1"); c.Status != corev1.ConditionTrue || !strings.Contains(c.Message, code) {
			t.Errorf("%s: condition %+v", code, c)
		}
		g.Sim.RemoveFault("busy")
		g.run(2 * minute)
		if g.leads(blockN(1)) != id {
			t.Errorf("%s: no entry when it is over", code)
		}
		g.want("n1", corev1.ConditionFalse, "RouteCreated")
	}
}

// A vSwitch that is being created really keeps the VPC busy: every entry of the batch fails, in a
// response that reports success.
func TestBusyVPC(t *testing.T) {
	g := newRig(t, func(o *vpcsim.Options) { o.Timing.VSwitch = 90 * time.Second })
	g.Clock.Pass(2 * minute)
	g.Write(func(state.API) error { return nil })
	g.join("n0", 0)
	g.run(30 * time.Second)
	id := g.join("n1", 1)
	g.leave("n0")
	g.Write(func(s state.API) error {
		_, err := s.CreateVSwitch(state.CreateVSwitchRequest{VpcId: g.vpc, ZoneId: zone, CidrBlock: "192.168.16.0/24"})
		return err
	})
	g.run(30 * time.Second)
	if c := g.condition("n1"); c.Reason != "ResourceBusy" {
		t.Errorf("condition %+v", c)
	}
	g.run(3 * minute)
	if g.leads(blockN(1)) != id || len(g.custom(0)) != 1 {
		t.Errorf("when it is over: entries %+v", g.custom(0))
	}
	if g.events.Has("cannot be deleted") {
		t.Errorf("a conflict that is over soon is reported: %v", g.events.All())
	}
}

// While every entry of a call fails because the VPC is busy, the rest is not tried either.
func TestBusyVPCIsLeftInPeace(t *testing.T) {
	g := newRig(t, func(o *vpcsim.Options) { o.Timing.VSwitch = 90 * time.Second })
	g.Clock.Pass(2 * minute)
	g.Write(func(state.API) error { return nil })
	for i := range 200 { // four calls' worth
		g.join(fmt.Sprintf("n%d", i), i)
	}
	g.Write(func(s state.API) error {
		_, err := s.CreateVSwitch(state.CreateVSwitchRequest{VpcId: g.vpc, ZoneId: zone, CidrBlock: "192.168.16.0/24"})
		return err
	})
	g.run(minute)
	if n := g.Calls("CreateRouteEntries"); n < 3 || n > 8 {
		t.Errorf("%d calls in the first minute, want one after ever longer pauses", n)
	}
	g.run(4 * minute)
	if n := len(g.custom(0)); n != 200 {
		t.Errorf("%d entries when it is over", n)
	}
}

// What kept calls from being made is forgotten when nothing is wanted any more: the next node does
// not wait for it.
func TestPauseEndsWithTheNeed(t *testing.T) {
	g := newRig(t)
	g.Fault(faults.Rule{Name: "busy", Action: "CreateRouteEntries", Error: &faults.Error{Code: "TaskConflict"}})
	g.join("n1", 1)
	before := 0
	for g.r.steps.busy.times < 6 { // the pause is as long as it gets
		if before++; before > 1000 {
			t.Fatal("no pause")
		}
		wait, _ := g.once()
		if g.r.steps.busy.times < 6 {
			g.Clock.Pass(wait)
		}
	}
	g.leave("n1")
	g.Sim.RemoveFault("busy")
	g.once()
	id := g.join("n2", 2)
	for range 10 { // nodes that change wake the controller, whatever it waits for
		g.once()
		g.Clock.Pass(time.Second)
	}
	if g.leads(blockN(2)) != id {
		t.Errorf("no entry after ten seconds: %+v", g.r.steps.busy)
	}
}

// The controller waits for an entry of somebody else that is changing, and conditions say so.
func TestSomebodyElsesEntryMoves(t *testing.T) {
	g := newRig(t, func(o *vpcsim.Options) { o.Timing.RouteEntry = minute })
	other := g.instance()
	g.foreign("10.1.0.0/16", other, "theirs") // takes a minute
	id := g.join("n1", 1)
	g.run(20 * time.Second)
	if c := g.condition("n1"); c.Reason != "NoRouteCreated" || !strings.Contains(c.Message, "10.1.0.0/16") || g.Calls("CreateRouteEntries") != 0 {
		t.Errorf("condition %+v, %d calls", c, g.Calls("CreateRouteEntries"))
	}
	g.run(3 * minute)
	if g.leads(blockN(1)) != id {
		t.Error("no entry when it is over")
	}
}

// An entry that stays in a transition for ever is not checked every second for ever.
func TestSomebodyElsesEntryIsStuck(t *testing.T) {
	g := newRig(t, func(o *vpcsim.Options) { o.Timing.RouteEntry = 100 * minute })
	g.foreign("10.1.0.0/16", g.instance(), "theirs")
	g.join("n1", 1)
	g.run(30 * minute)
	if n := g.Calls("DescribeRouteEntryList"); n < 60 || n > 200 {
		t.Errorf("%d lists in half an hour", n)
	}
}

// If an answer is lost, also after the client's retry, the table shows what was done.
func TestLostAnswers(t *testing.T) {
	g := newRig(t)
	g.Fault(faults.Rule{Action: "CreateRouteEntries", LostAnswer: true, Count: 2})
	g.Fault(faults.Rule{Action: "DeleteRouteEntries", LostAnswer: true, Count: 2})
	g.stale = true // the client's own repetition comes while the first is under way
	id := g.join("n1", 1)
	g.run(minute)
	if g.leads(blockN(1)) != id || len(g.custom(0)) != 1 {
		t.Errorf("entries %+v", g.custom(0))
	}
	g.leave("n1")
	g.run(minute)
	if len(g.custom(0)) != 0 {
		t.Errorf("entries %+v", g.custom(0))
	}
}

// If one entry of a batch cannot be created, the others are, and that one's node says why.
func TestPartOfABatchFails(t *testing.T) {
	g := newRig(t)
	table := g.tables()[0].RouteTableId
	g.Write(func(s state.API) error { // a vSwitch of a secondary range inside the pod CIDR
		return s.AssociateVpcCidrBlock(state.AssociateVpcCidrBlockRequest{VpcId: g.vpc, SecondaryCidrBlock: "172.20.64.0/18"})
	})
	g.Clock.Pass(10 * time.Second)
	g.Write(func(s state.API) error {
		_, err := s.CreateVSwitch(state.CreateVSwitchRequest{VpcId: g.vpc, ZoneId: zone, CidrBlock: "172.20.64.0/20"})
		return err
	})
	g.Clock.Pass(10 * time.Second)
	for i := range 4 {
		g.join(fmt.Sprintf("n%d", i), i)
	}
	g.join("inside", 65)
	g.run(minute)
	for i := range 4 {
		g.want(fmt.Sprintf("n%d", i), corev1.ConditionFalse, "RouteCreated")
	}
	g.want("inside", corev1.ConditionTrue, "BadRoute")
	if n := g.Calls("CreateRouteEntries"); n > 3 {
		t.Errorf("%d calls in a minute for table %s", n, table)
	}
}

// A call that the cloud refuses as a whole because of one entry is halved until that entry is
// alone.
func TestWholeBatchRefused(t *testing.T) {
	g := newRig(t)
	for i := range 8 {
		g.join(fmt.Sprintf("n%d", i), i)
	}
	for i := range 50 { // wherever the bad one stands in the call
		g.Fault(faults.Rule{Action: "CreateRouteEntries", Match: map[string]string{fmt.Sprintf("RouteEntries.%d.DstCidrBlock", i+1): blockN(5)}, Error: &faults.Error{Code: "InvalidCidrBlock"}})
	}
	g.run(2 * minute)
	for i := range 8 {
		if i != 5 {
			g.want(fmt.Sprintf("n%d", i), corev1.ConditionFalse, "RouteCreated")
		}
	}
	g.want("n5", corev1.ConditionTrue, "BadRoute")
}
