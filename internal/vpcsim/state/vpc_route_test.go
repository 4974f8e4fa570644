package state_test

import (
	"fmt"
	"slices"
	"testing"

	"terway.dev/terway/internal/vpcsim/state"
)

func (w *world) route(destination, hop string) (string, error) {
	return w.CreateRouteEntry(state.CreateRouteEntryRequest{RouteTableId: w.table, DestinationCidrBlock: destination, NextHopId: hop})
}

func (w *world) entries() []state.RouteEntry {
	return must(w.DescribeRouteEntryList(state.DescribeRouteEntryListRequest{RouteTableId: w.table, RouteEntryType: "Custom"}))
}

func TestRouteEntryLife(t *testing.T) {
	w := newWorld(t, func(o *state.Options) { o.Timing = state.DefaultTiming() })
	node := w.instance("ecs.g6.2xlarge")
	id := must(w.route("172.20.1.0/24", node))
	if e := w.entries(); len(e) != 1 || e[0].Status != state.StatusPending || e[0].NextHopType != "Instance" || e[0].RouteEntryId != id {
		t.Fatalf("entries %+v", e)
	}
	// One change at a time in a VPC.
	w.refused(400, "TaskConflict", func() error { return errOf(w.route("172.20.2.0/24", node)) })
	w.refused(400, "TaskConflict", func() error {
		return errOf(w.CreateVSwitch(state.CreateVSwitchRequest{VpcId: w.vpc, ZoneId: zone, CidrBlock: "192.168.2.0/24"}))
	})
	w.refused(400, "IncorrcetRouteEntryStatus", func() error {
		return w.DeleteRouteEntry(state.DeleteRouteEntryRequest{RouteEntryId: id})
	})
	w.settle()
	if e := w.entries(); e[0].Status != state.StatusAvailable {
		t.Errorf("entry is %s", e[0].Status)
	}
	w.refused(400, "InvalidCIDRBlock.Duplicate", func() error { return errOf(w.route("172.20.1.0/24", node)) })
	w.refused(400, "InvalidRouteEntry.NotFound", func() error {
		return w.DeleteRouteEntry(state.DeleteRouteEntryRequest{RouteTableId: w.table, DestinationCidrBlock: "172.20.1.0/24", NextHopId: "i-other"})
	})
	w.refused(404, "InvalidRouteEntryId.NotFound", func() error {
		return w.DeleteRouteEntry(state.DeleteRouteEntryRequest{RouteEntryId: "rte-x"})
	})
	check(w.DeleteRouteEntry(state.DeleteRouteEntryRequest{RouteTableId: w.table, DestinationCidrBlock: "172.20.1.0/24", NextHopId: node}))
	if e := w.entries(); e[0].Status != state.StatusDeleting {
		t.Errorf("entry is %s", e[0].Status)
	}
	w.settle()
	if e := w.entries(); len(e) != 0 {
		t.Errorf("entries left: %+v", e)
	}
}

func TestRouteEntryRules(t *testing.T) {
	w := newWorld(t, func(o *state.Options) { o.Limits.RouteEntriesPerTable = 2 })
	node := w.instance("ecs.g6.2xlarge")
	eni := w.eni().NetworkInterfaceId
	for _, tt := range []struct {
		name   string
		req    state.CreateRouteEntryRequest
		status int
		code   string
	}{
		{"no table", state.CreateRouteEntryRequest{DestinationCidrBlock: "10.0.0.0/8", NextHopId: node}, 400, "MissingParameter"},
		{"unknown table", state.CreateRouteEntryRequest{RouteTableId: "vtb-x", DestinationCidrBlock: "10.0.0.0/8", NextHopId: node}, 404, "InvalidRouteTableId.NotFound"},
		{"not a network", state.CreateRouteEntryRequest{RouteTableId: w.table, DestinationCidrBlock: "10.0.0.1/8", NextHopId: node}, 400, "InvalidCidrBlock.Malformed"},
		{"a vSwitch's range", state.CreateRouteEntryRequest{RouteTableId: w.table, DestinationCidrBlock: "192.168.1.0/24", NextHopId: node}, 400, "InvalidCidrBlock"},
		{"in a vSwitch's range", state.CreateRouteEntryRequest{RouteTableId: w.table, DestinationCidrBlock: "192.168.1.7", NextHopId: node}, 400, "InvalidCidrBlock"},
		{"service range", state.CreateRouteEntryRequest{RouteTableId: w.table, DestinationCidrBlock: "100.64.1.0/24", NextHopId: node}, 400, "InvalidCidrBlock"},
		{"no hop", state.CreateRouteEntryRequest{RouteTableId: w.table, DestinationCidrBlock: "10.0.0.0/8"}, 400, "InvalidNexthopTypeAndList.BothNull"},
		{"unknown hop", state.CreateRouteEntryRequest{RouteTableId: w.table, DestinationCidrBlock: "10.0.0.0/8", NextHopId: "i-x"}, 404, "InvalidNextHopId.NotFound"},
		{"hop of another type", state.CreateRouteEntryRequest{RouteTableId: w.table, DestinationCidrBlock: "10.0.0.0/8", NextHopId: eni}, 404, "InvalidNextHopId.NotFound"},
		{"unknown type", state.CreateRouteEntryRequest{RouteTableId: w.table, DestinationCidrBlock: "10.0.0.0/8", NextHopId: "ngw-1", NextHopType: "Gate"}, 400, "InvalidNextHopType"},
		{"a hop that is not here", state.CreateRouteEntryRequest{RouteTableId: w.table, DestinationCidrBlock: "10.0.0.0/8", NextHopId: "ngw-1", NextHopType: "NatGateway"}, 404, "InvalidNextHopId.NotFound"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w.t = t
			w.refused(tt.status, tt.code, func() error { return errOf(w.CreateRouteEntry(tt.req)) })
		})
	}
	w.t = t
	must(w.CreateRouteEntry(state.CreateRouteEntryRequest{RouteTableId: w.table, DestinationCidrBlock: "10.1.2.3", NextHopId: eni, NextHopType: "NetworkInterface"}))
	w.settle()
	must(w.CreateRouteEntry(state.CreateRouteEntryRequest{RouteTableId: w.table, DestinationCidrBlock: "0.0.0.0/0", NextHopList: []state.NextHopItem{{NextHopId: node, NextHopType: "Instance"}, {NextHopId: eni, NextHopType: "NetworkInterface"}}}))
	w.settle()
	if e := w.entries(); e[0].DestinationCidrBlock.String() != "10.1.2.3/32" || len(e[1].NextHops) != 2 {
		t.Errorf("entries %+v", e)
	}
	w.refused(400, "QuotaExceeded", func() error { return errOf(w.route("10.0.0.0/8", node)) })
	w.refused(403, "DependencyViolation.RouteEntry", func() error {
		return w.DeleteNetworkInterface(state.DeleteNetworkInterfaceRequest{NetworkInterfaceId: eni})
	})
	system := must(w.DescribeRouteEntryList(state.DescribeRouteEntryListRequest{RouteTableId: w.table, RouteEntryType: "System"}))
	if len(system) != 2 {
		t.Fatalf("system entries %+v", system)
	}
	w.refused(400, "OperationDenied", func() error {
		return w.DeleteRouteEntry(state.DeleteRouteEntryRequest{RouteEntryId: system[0].RouteEntryId})
	})
}

func TestVSwitchesKeepClearOfRoutes(t *testing.T) {
	w := newWorld(t)
	must(w.route("192.168.40.0/24", w.instance("ecs.g6.2xlarge")))
	w.settle()
	for _, cidr := range []string{"192.168.40.0/24", "192.168.40.0/22"} {
		w.refused(400, "InvalidCidrBlock.Overlapped", func() error {
			return errOf(w.CreateVSwitch(state.CreateVSwitchRequest{VpcId: w.vpc, ZoneId: zone, CidrBlock: cidr}))
		})
	}
	w.vSwitch("192.168.40.0/25") // more specific than the route
}

func TestRouteBatches(t *testing.T) {
	w := newWorld(t)
	node := w.instance("ecs.g6.2xlarge")
	var req state.CreateRouteEntriesRequest
	for i := range 4 {
		req.RouteEntries = append(req.RouteEntries, state.CreateRouteEntriesItem{
			RouteTableId: w.table, DstCidrBlock: fmt.Sprintf("172.20.%d.0/24", i%3), NextHop: node,
		})
	}
	got := must(w.CreateRouteEntries(req))
	if got.SuccessCount != 3 || got.FailedCount != 1 || len(got.RouteEntryIds) != 3 || got.FailedRouteEntries[0].FailedCode != "InvalidCIDRBlock.Duplicate" {
		t.Fatalf("%+v", got)
	}
	busy := must(w.CreateRouteEntries(state.CreateRouteEntriesRequest{RouteEntries: []state.CreateRouteEntriesItem{{RouteTableId: w.table, DstCidrBlock: "10.0.0.0/8", NextHop: node}}}))
	if busy.SuccessCount != 0 || busy.FailedRouteEntries[0].FailedCode != "TaskConflict" {
		t.Errorf("%+v", busy)
	}
	w.settle()
	del := must(w.DeleteRouteEntries(state.DeleteRouteEntriesRequest{RouteEntries: []state.DeleteRouteEntriesItem{
		{RouteEntryId: got.RouteEntryIds[0]}, {RouteTableId: w.table, DstCidrBlock: "172.20.1.0/24", NextHop: node}, {RouteEntryId: "rte-x"},
	}}))
	if del.SuccessCount != 2 || del.FailedRouteEntries[0].FailedCode != "InvalidRouteEntryId.NotFound" {
		t.Errorf("%+v", del)
	}
	w.settle()
	if left := w.entries(); len(left) != 1 || left[0].RouteEntryId != got.RouteEntryIds[2] {
		t.Errorf("left %+v", left)
	}
	w.refused(400, "InvalidParameter.RouteEntries", func() error {
		return errOf(w.CreateRouteEntries(state.CreateRouteEntriesRequest{RouteEntries: make([]state.CreateRouteEntriesItem, 51)}))
	})
}

func TestCustomRouteTables(t *testing.T) {
	w := newWorld(t)
	table := must(w.CreateRouteTable(state.CreateRouteTableRequest{VpcId: w.vpc}))
	w.settle()
	assoc := state.AssociateRouteTableRequest{RouteTableId: table, VSwitchId: w.vsw}
	check(w.AssociateRouteTable(assoc))
	w.refused(400, "TaskConflict", func() error { return w.UnassociateRouteTable(assoc) })
	w.settle()
	all := must(w.DescribeRouteTables(state.DescribeRouteTablesRequest{VpcId: w.vpc}))
	if len(all) != 2 || all[0].RouteTableType != "System" || len(all[0].VSwitchIds) != 0 || !slices.Equal(all[1].VSwitchIds, []string{w.vsw}) {
		t.Errorf("%+v", all)
	}
	w.refused(400, "DependencyViolation", func() error { return w.DeleteRouteTable(state.DeleteRouteTableRequest{RouteTableId: table}) })
	w.refused(400, "DependencyViolation", func() error { return w.DeleteVSwitch(state.DeleteVSwitchRequest{VSwitchId: w.vsw}) })
	w.refused(400, "OperationDenied", func() error { return w.DeleteRouteTable(state.DeleteRouteTableRequest{RouteTableId: w.table}) })
	check(w.UnassociateRouteTable(assoc))
	w.settle()
	check(w.DeleteRouteTable(state.DeleteRouteTableRequest{RouteTableId: table}))
	// The tables have a system route for a new vSwitch, and none for a deleted one.
	other := w.vSwitch("192.168.7.0/24")
	local := func() int {
		return len(must(w.DescribeRouteEntryList(state.DescribeRouteEntryListRequest{RouteTableId: w.table, DestinationCidrBlock: "192.168.7.0/24"})))
	}
	if local() != 1 {
		t.Error("the vSwitch is not in the system table")
	}
	check(w.DeleteVSwitch(state.DeleteVSwitchRequest{VSwitchId: other}))
	w.settle()
	if local() != 0 {
		t.Error("the deleted vSwitch is in the system table")
	}
	if r := must(w.DescribeVRouters(state.DescribeVRoutersRequest{})); len(r) != 1 || r[0].RouteTableIds[0] != w.table {
		t.Errorf("%+v", r)
	}
}
