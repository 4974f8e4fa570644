package podroute

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"terway.dev/terway/internal/vpcsim/faults"
	"terway.dev/terway/internal/vpcsim/state"
)

// A node is deleted and registered again while lists still show the deleted entry: the table is
// read once more, soon.
func TestListIsOldAfterAChange(t *testing.T) {
	g := newRig(t)
	id := g.join("n1", 1)
	g.run(minute)
	g.Fault(faults.Rule{Name: "old", Action: "DescribeRouteEntryList", Stale: faults.Duration(4 * time.Second), For: faults.Duration(10 * time.Second)})
	g.Write(func(state.API) error { return nil }) // what is old in a moment
	g.Clock.Pass(5 * time.Second)
	g.stale = true
	g.leave("n1")
	g.once()
	g.Clock.Pass(500 * time.Millisecond)
	if g.Calls("DeleteRouteEntries") != 1 {
		t.Fatal("the entry was not deleted")
	}
	g.register("n1", id, blockN(1))
	g.run(30 * time.Second)
	if g.leads(blockN(1)) != id {
		t.Errorf("entries %+v", g.custom(0))
	}
	g.want("n1", corev1.ConditionFalse, "RouteCreated")
}

// What is not the cluster's stays, and is reported.
func TestForeignEntries(t *testing.T) {
	g := newRig(t)
	other := g.instance()
	good := g.join("good", 2)
	g.register("taken", g.instance(), blockN(1))
	g.foreign(blockN(1), other, "theirs")
	g.foreign(blockN(2), good, "ccm")
	g.foreign("172.20.200.0/28", other, "terway-c10")
	g.foreign("10.1.0.0/16", other, "terway-c1")
	g.foreign("0.0.0.0/0", other, "")
	g.run(10 * minute)
	if len(g.custom(0)) != 5 || g.leads(blockN(1)) != other || g.leads("172.20.200.0/28") != other {
		t.Errorf("entries %+v", g.custom(0))
	}
	g.want("taken", corev1.ConditionTrue, "RouteInTheWay")
	g.want("good", corev1.ConditionFalse, "RouteCreated")
	if c := g.condition("good"); !strings.Contains(c.Message, "not this cluster's") {
		t.Errorf("message %q", c.Message)
	}
	if n := g.events.Count("ConfigMap", "RouteInTheWay", "3 entries"); n != 1 {
		t.Errorf("events %v", g.events.All())
	}
	g.leave("good")
	g.leave("taken")
	g.run(10 * minute)
	if n := g.Calls("DeleteRouteEntries"); n != 0 || len(g.custom(0)) != 5 {
		t.Errorf("%d deletions, %d entries", n, len(g.custom(0)))
	}
}

// Several tables get the same entries, and a node is ready when all have them.
func TestSeveralTables(t *testing.T) {
	g := newRig(t)
	g.Write(func(s state.API) error {
		_, err := s.CreateRouteTable(state.CreateRouteTableRequest{VpcId: g.vpc})
		return err
	})
	g.Clock.Pass(5 * time.Second)
	for _, table := range g.tables() {
		g.cfg.RouteTables = append(g.cfg.RouteTables, table.RouteTableId)
	}
	g.restart()
	g.join("n1", 1)
	for g.condition("n1").Status != corev1.ConditionFalse {
		wait, _ := g.once()
		g.Clock.Pass(wait)
	}
	if len(g.custom(0)) != 1 || len(g.custom(1)) != 1 {
		t.Errorf("%d and %d entries when the node is ready", len(g.custom(0)), len(g.custom(1)))
	}
	g.cfg.RouteTables = append(g.cfg.RouteTables, "vtb-none")
	g.restart()
	g.run(minute)
	if g.events.Count("ConfigMap", "RouteNotFound", "vtb-none") != 1 {
		t.Errorf("events %v", g.events.All())
	}
	g.want("n1", corev1.ConditionFalse, "RouteCreated")
}

// A table that is deleted while the controller runs is noticed at once, and reported once.
func TestTableDeleted(t *testing.T) {
	g := newRig(t)
	var table string
	g.Write(func(s state.API) (err error) {
		table, err = s.CreateRouteTable(state.CreateRouteTableRequest{VpcId: g.vpc})
		return err
	})
	g.Clock.Pass(5 * time.Second)
	g.cfg.RouteTables = []string{table}
	g.restart()
	g.join("n1", 1)
	g.run(minute)
	g.Write(func(s state.API) error { return s.DeleteRouteTable(state.DeleteRouteTableRequest{RouteTableId: table}) })
	g.run(minute)
	if g.events.Count("ConfigMap", "RouteNotFound", table) != 1 {
		t.Errorf("events %v", g.events.All())
	}
}

// If a vSwitch uses a table without entries, its nodes' pods reach no other node, and the condition
// says so.
func TestTableOfAVSwitch(t *testing.T) {
	g := newRig(t)
	g.join("n1", 1)
	var table string
	g.Write(func(s state.API) (err error) {
		table, err = s.CreateRouteTable(state.CreateRouteTableRequest{VpcId: g.vpc})
		return err
	})
	g.Clock.Pass(5 * time.Second)
	g.Write(func(s state.API) (err error) {
		g.vswitch, err = s.CreateVSwitch(state.CreateVSwitchRequest{VpcId: g.vpc, ZoneId: zone, CidrBlock: "192.168.16.0/20"})
		return err
	})
	g.Clock.Pass(10 * time.Second)
	g.Write(func(s state.API) error {
		return s.AssociateRouteTable(state.AssociateRouteTableRequest{RouteTableId: table, VSwitchId: g.vswitch})
	})
	g.Clock.Pass(5 * time.Second)
	id := g.join("n2", 2)
	g.run(minute)
	g.want("n1", corev1.ConditionFalse, "RouteCreated")
	g.want("n2", corev1.ConditionTrue, "RouteTableLeftOut")
	if c := g.condition("n2"); !strings.Contains(c.Message, table) || !strings.Contains(c.Message, g.vswitch) {
		t.Errorf("message %q", c.Message)
	}
	if g.leads(blockN(2)) != id {
		t.Error("others do not reach it")
	}
	for _, x := range g.tables() {
		g.cfg.RouteTables = append(g.cfg.RouteTables, x.RouteTableId)
	}
	g.restart()
	g.run(minute)
	g.want("n2", corev1.ConditionFalse, "RouteCreated")
	// Only the table of one vSwitch: the other's node reports it.
	g.cfg.RouteTables = []string{table}
	g.restart()
	g.run(minute)
	g.want("n1", corev1.ConditionTrue, "RouteTableLeftOut")
	g.want("n2", corev1.ConditionFalse, "RouteCreated")
}

// A table that is added to the configuration gets the entries soon, not at the next resync.
func TestTableAdded(t *testing.T) {
	g := newRig(t)
	g.Write(func(s state.API) error {
		_, err := s.CreateRouteTable(state.CreateRouteTableRequest{VpcId: g.vpc})
		return err
	})
	g.Clock.Pass(5 * time.Second)
	g.join("n1", 1)
	g.run(minute)
	if len(g.custom(0)) != 1 || len(g.custom(1)) != 0 {
		t.Fatalf("%d and %d entries at first", len(g.custom(0)), len(g.custom(1)))
	}
	g.once() // has looked at everything just now
	next := *g.r.Config.Get()
	for _, table := range g.tables() {
		next.RouteTables = append(next.RouteTables, table.RouteTableId)
	}
	g.r.Config.Set(&next)
	if len(g.r.changed) != 1 {
		t.Error("nothing starts the work")
	}
	for range 5 {
		g.once()
		g.Clock.Pass(time.Second)
	}
	if len(g.custom(0)) != 1 || len(g.custom(1)) != 1 {
		t.Errorf("%d and %d entries", len(g.custom(0)), len(g.custom(1)))
	}
}
