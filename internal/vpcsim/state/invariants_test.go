package state_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"

	"pgregory.net/rapid"

	"terway.dev/terway/internal/vpcsim/state"
)

// invariants checks, from the outside, what must always hold.
func (m *machine) invariants(t *rapid.T) {
	enis := must(m.DescribeNetworkInterfaces(state.DescribeNetworkInterfacesRequest{}))
	m.checkAddresses(t, enis)
	m.checkInstances(t, enis)
	m.checkGroups(t, enis)
	m.checkRoutes(t)
	m.checkPending(t, enis)
	m.checkSaved(t)
	m.checkTrunks(t, enis)
	m.checkIndex(t, enis)
	m.checkCLB(t)
	m.checkNLB(t)
}

func (m *machine) checkAddresses(t *rapid.T, enis []state.NetworkInterface) {
	vSwitches := map[string]state.VSwitch{}
	used := map[string]int{}
	perVPC := map[string]int{}
	for _, v := range must(m.DescribeVSwitches(state.DescribeVSwitchesRequest{})) {
		vSwitches[v.VSwitchId] = v
	}
	holder := map[string]string{}
	macs := map[string]string{}
	for _, e := range enis {
		v, ok := vSwitches[e.VSwitchId]
		if !ok || v.VpcId != e.VpcId || v.ZoneId != e.ZoneId {
			t.Fatalf("ENI %s is in vSwitch %+v", e.NetworkInterfaceId, v)
		}
		if other, twice := macs[e.MacAddress]; twice {
			t.Fatalf("ENIs %s and %s share MAC %s", other, e.NetworkInterfaceId, e.MacAddress)
		}
		macs[e.MacAddress] = e.NetworkInterfaceId
		if len(e.PrivateIpAddresses) == 0 || e.PrivateIpAddresses[0] != e.PrimaryIpAddress {
			t.Fatalf("ENI %s has primary address %s and addresses %v", e.NetworkInterfaceId, e.PrimaryIpAddress, e.PrivateIpAddresses)
		}
		four := slices.Clone(e.PrivateIpAddresses)
		for _, p := range e.Ipv4Prefixes {
			for a := p.Masked().Addr(); p.Contains(a); a = a.Next() {
				four = append(four, a)
			}
		}
		for _, a := range four {
			if !v.CidrBlock.Contains(a) || a == v.CidrBlock.Addr() || !a.Less(v.Gateway()) {
				t.Fatalf("ENI %s has %s, which vSwitch %s cannot give", e.NetworkInterfaceId, a, v.CidrBlock)
			}
		}
		for _, a := range e.Ipv6Addresses {
			if !v.Ipv6CidrBlock.Contains(a) {
				t.Fatalf("ENI %s has %s, which is not in %s", e.NetworkInterfaceId, a, v.Ipv6CidrBlock)
			}
		}
		for _, a := range slices.Concat(four, e.Ipv6Addresses) {
			key := e.VpcId + " " + a.String()
			if other, twice := holder[key]; twice {
				t.Fatalf("ENIs %s and %s both have %s", other, e.NetworkInterfaceId, a)
			}
			holder[key] = e.NetworkInterfaceId
		}
		used[e.VSwitchId] += len(four)
		perVPC[e.VpcId] += len(four)
	}
	for _, a := range m.held() {
		v, key := vSwitches[a.VSwitchId], a.VpcId+" "+a.Address.String()
		if !v.CidrBlock.Contains(a.Address) || v.VpcId != a.VpcId || holder[key] != "" {
			t.Fatalf("load balancer %s has %s of vSwitch %+v, which %q has too", a.Id, a.Address, v, holder[key])
		}
		holder[key] = a.Id
		used[a.VSwitchId]++
		perVPC[a.VpcId]++
	}
	for id, v := range vSwitches {
		want := 1<<(32-v.CidrBlock.Bits()) - 4 - used[id]
		if v.Full {
			want = 0
		}
		if v.AvailableIpAddressCount != want {
			t.Fatalf("vSwitch %s (%s, %d in use) says %d are available, want %d", id, v.CidrBlock, used[id], v.AvailableIpAddressCount, want)
		}
		for other, w := range vSwitches {
			if other != id && w.VpcId == v.VpcId && (w.CidrBlock.Overlaps(v.CidrBlock) || w.Ipv6CidrBlock.IsValid() && w.Ipv6CidrBlock == v.Ipv6CidrBlock) {
				t.Fatalf("vSwitches %s (%s, %s) and %s (%s, %s) overlap", id, v.CidrBlock, v.Ipv6CidrBlock, other, w.CidrBlock, w.Ipv6CidrBlock)
			}
		}
	}
	for vpc, n := range perVPC {
		if n > m.options.Limits.PrivateIPsPerVPC {
			t.Fatalf("VPC %s has %d addresses", vpc, n)
		}
	}
	if len(enis) > m.options.Limits.ENIs {
		t.Fatalf("there are %d ENIs", len(enis))
	}
}

func (m *machine) checkInstances(t *rapid.T, enis []state.NetworkInterface) {
	on := map[string][]state.NetworkInterface{}
	for _, e := range enis {
		tied := e.Status == state.ENIAttaching || e.Status == state.ENIInUse || e.Status == state.ENIDetaching
		if tied != (e.InstanceId != "") || (e.Status == state.ENIInUse) == e.AttachedTime.IsZero() && e.Status != state.ENIDetaching {
			t.Fatalf("ENI %s is %s on %q since %s", e.NetworkInterfaceId, e.Status, e.InstanceId, e.AttachedTime)
		}
		if e.InstanceId != "" && e.Type != state.ENIMember {
			on[e.InstanceId] = append(on[e.InstanceId], e)
		}
	}
	instances := must(m.DescribeInstances(state.DescribeInstancesRequest{}))
	for _, i := range instances {
		limits, ok := m.options.Catalog.Lookup(i.InstanceType)
		if !ok {
			t.Fatalf("instance %s is of type %s", i.InstanceId, i.InstanceType)
		}
		mine := on[i.InstanceId]
		delete(on, i.InstanceId)
		if len(mine) != len(i.NetworkInterfaces) || len(mine) > limits.ENIs.N {
			t.Fatalf("instance %s (%d ENIs allowed) lists %d ENIs, %d say they are on it", i.InstanceId, limits.ENIs.N, len(i.NetworkInterfaces), len(mine))
		}
		for n, e := range i.NetworkInterfaces {
			if (e.Type == state.ENIPrimary) != (n == 0) || (e.Slot == 0) != (n == 0) || n > 0 && e.Slot <= i.NetworkInterfaces[n-1].Slot || e.Slot >= limits.ENIs.N {
				t.Fatalf("ENI %d of instance %s is %s in slot %d", n, i.InstanceId, e.Type, e.Slot)
			}
			if e.ZoneId != i.ZoneId || e.VpcId != i.VpcId {
				t.Fatalf("ENI %s of instance %s is elsewhere", e.NetworkInterfaceId, i.InstanceId)
			}
			if got := len(e.PrivateIpAddresses) + len(e.Ipv4Prefixes); got > limits.IPv4PerENI.N {
				t.Fatalf("ENI %s has %d addresses and prefixes, %s allows %d", e.NetworkInterfaceId, got, i.InstanceType, limits.IPv4PerENI.N)
			}
			most := map[string]int{"ecs.t6-c1m4.large": 1, "ecs.g6.large": 1, "ecs.g7.large": 6, "ecs.u1-c1m4.xlarge": 1}[i.InstanceType]
			if len(e.Ipv6Addresses) > most {
				t.Fatalf("ENI %s has %d IPv6 addresses, %s allows %d", e.NetworkInterfaceId, len(e.Ipv6Addresses), i.InstanceType, most)
			}
		}
		if p := i.NetworkInterfaces[0]; p.Status != state.ENIInUse || p.PrimaryIpAddress != i.PrimaryIpAddress {
			t.Fatalf("instance %s (%s) has primary ENI %+v", i.InstanceId, i.PrimaryIpAddress, p)
		}
	}
	if len(on) > 0 {
		t.Fatalf("ENIs are on instances that do not exist: %v", on)
	}
}

// checkTrunks: a member is on a trunk that is InUse on its instance, alone on its VLAN, and
// there are no more members than the type allows.
func (m *machine) checkTrunks(t *rapid.T, enis []state.NetworkInterface) {
	byID, members := map[string]state.NetworkInterface{}, map[string]int{}
	for _, e := range enis {
		byID[e.NetworkInterfaceId] = e
	}
	vlans := map[string]string{}
	for _, e := range enis {
		if (e.Type == state.ENIMember) != (e.TrunkNetworkInterfaceId != "") || (e.Type == state.ENIMember) != (e.VlanId != 0) {
			t.Fatalf("ENI %s is of type %s with VLAN %d on trunk %q", e.NetworkInterfaceId, e.Type, e.VlanId, e.TrunkNetworkInterfaceId)
		}
		if e.Type != state.ENIMember {
			continue
		}
		trunk := byID[e.TrunkNetworkInterfaceId]
		if trunk.Type != state.ENITrunk || trunk.Status != state.ENIInUse || trunk.InstanceId != e.InstanceId || e.InstanceId == "" {
			t.Fatalf("member %s of %q is on trunk %+v", e.NetworkInterfaceId, e.InstanceId, trunk)
		}
		if !slices.Contains(trunk.MemberNetworkInterfaceIds, e.NetworkInterfaceId) {
			t.Fatalf("trunk %s does not name its member %s: %v", trunk.NetworkInterfaceId, e.NetworkInterfaceId, trunk.MemberNetworkInterfaceIds)
		}
		key := fmt.Sprint(trunk.NetworkInterfaceId, " ", e.VlanId)
		if other, twice := vlans[key]; twice || e.VlanId < 1 || e.VlanId > 4094 {
			t.Fatalf("members %q and %s have VLAN %d", other, e.NetworkInterfaceId, e.VlanId)
		}
		vlans[key] = e.NetworkInterfaceId
		members[e.InstanceId]++
	}
	for _, i := range must(m.DescribeInstances(state.DescribeInstancesRequest{})) {
		limits, _ := m.options.Catalog.Lookup(i.InstanceType)
		if most, _ := limits.MaxPodsTrunk(); members[i.InstanceId] > most {
			t.Fatalf("instance %s of type %s has %d members", i.InstanceId, i.InstanceType, members[i.InstanceId])
		}
	}
}

// checkIndex: the index agrees with a scan of all ENIs, and a filtered list with the matching
// part of all ENIs.
func (m *machine) checkIndex(t *rapid.T, enis []state.NetworkInterface) {
	if err := m.CheckIndex(); err != nil {
		t.Fatal(err)
	}
	if len(enis) == 0 {
		return
	}
	one := rapid.SampledFrom(enis).Draw(t, "like this ENI")
	var tags []state.Tag
	if len(one.Tags) > 0 {
		tags = one.Tags[:1]
	}
	for name, filter := range map[string]struct {
		req  state.DescribeNetworkInterfacesRequest
		like func(e state.NetworkInterface) bool
	}{
		"instance": {state.DescribeNetworkInterfacesRequest{InstanceId: one.InstanceId}, func(e state.NetworkInterface) bool {
			return one.InstanceId == "" || e.InstanceId == one.InstanceId
		}},
		"group": {state.DescribeNetworkInterfacesRequest{SecurityGroupId: one.SecurityGroupIds[0]}, func(e state.NetworkInterface) bool {
			return slices.Contains(e.SecurityGroupIds, one.SecurityGroupIds[0])
		}},
		"address": {state.DescribeNetworkInterfacesRequest{PrivateIpAddress: []string{one.PrimaryIpAddress.String()}}, func(e state.NetworkInterface) bool {
			return e.NetworkInterfaceId == one.NetworkInterfaceId
		}},
		"tag and type": {state.DescribeNetworkInterfacesRequest{Tag: tags, Type: one.Type}, func(e state.NetworkInterface) bool {
			return e.Type == one.Type && !slices.ContainsFunc(tags, func(t state.Tag) bool {
				return !slices.ContainsFunc(e.Tags, func(x state.Tag) bool { return x.Key == t.Key && (t.Value == "" || t.Value == x.Value) })
			})
		}},
	} {
		var want []string
		for _, e := range enis {
			if filter.like(e) {
				want = append(want, e.NetworkInterfaceId)
			}
		}
		if got := must(m.SelectNetworkInterfaces(filter.req)); !slices.Equal(got, want) {
			t.Fatalf("by %s like %s: %v, want %v", name, one.NetworkInterfaceId, got, want)
		}
	}
}

func (m *machine) checkGroups(t *rapid.T, enis []state.NetworkInterface) {
	l := m.options.Limits
	groups := map[string]state.SecurityGroup{}
	places := map[string]int{}
	for _, g := range must(m.DescribeSecurityGroups(state.DescribeSecurityGroupsRequest{})) {
		groups[g.SecurityGroupId] = g
		references := 0
		for n, r := range g.Rules {
			if r.SecurityGroupRuleId == "" || r.Peer == (netip.Prefix{}) == (r.PeerGroupId == "") {
				t.Fatalf("rule %d of group %s: %+v", n, g.SecurityGroupId, r)
			}
			if r.PeerGroupId != "" {
				references++
			}
		}
		if len(g.Rules) > l.RulesPerSecurityGroup || references > l.GroupRefsPerGroup {
			t.Fatalf("group %s has %d rules, %d of them with a group", g.SecurityGroupId, len(g.Rules), references)
		}
	}
	for _, g := range groups {
		for _, r := range g.Rules {
			if r.PeerGroupId != "" && groups[r.PeerGroupId].VpcId != g.VpcId {
				t.Fatalf("group %s refers to %q, which is not in its VPC", g.SecurityGroupId, r.PeerGroupId)
			}
		}
	}
	for _, e := range enis {
		rules := 0
		if n := len(e.SecurityGroupIds); n == 0 || n > l.SecurityGroupsPerENI {
			t.Fatalf("ENI %s is in %d groups", e.NetworkInterfaceId, n)
		}
		for _, id := range e.SecurityGroupIds {
			g, ok := groups[id]
			if !ok || g.VpcId != e.VpcId || g.SecurityGroupType != groups[e.SecurityGroupIds[0]].SecurityGroupType {
				t.Fatalf("ENI %s is in group %+v", e.NetworkInterfaceId, g)
			}
			places[id] += len(e.PrivateIpAddresses) + len(e.Ipv4Prefixes)
			rules += len(g.Rules)
		}
		if rules > l.RulesPerENI {
			t.Fatalf("ENI %s has %d rules", e.NetworkInterfaceId, rules)
		}
	}
	for id, n := range places {
		most := l.PrivateIPsPerNormal
		if groups[id].SecurityGroupType == state.SecurityGroupEnterprise {
			most = l.PrivateIPsPerEnterprise
		}
		if n > most || groups[id].PrivateIpCount != n {
			t.Fatalf("group %s has %d addresses (says %d), %d are allowed", id, n, groups[id].PrivateIpCount, most)
		}
	}
}

func (m *machine) checkRoutes(t *rapid.T) {
	view := m.View()
	tableOf := map[string]string{}
	for _, table := range view.RouteTables {
		seen := map[netip.Prefix]bool{}
		custom := 0
		for _, e := range table.RouteEntries {
			if seen[e.DestinationCidrBlock] {
				t.Fatalf("table %s has two entries for %s", table.RouteTableId, e.DestinationCidrBlock)
			}
			seen[e.DestinationCidrBlock] = true
			if e.Type == state.RouteEntryCustom {
				custom++
			}
		}
		if custom > m.options.Limits.RouteEntriesPerTable {
			t.Fatalf("table %s has %d custom entries", table.RouteTableId, custom)
		}
		for _, v := range view.VSwitches {
			if v.VpcId == table.VpcId && !seen[v.CidrBlock] {
				t.Fatalf("table %s has no entry for vSwitch %s", table.RouteTableId, v.CidrBlock)
			}
		}
		for _, id := range table.VSwitchIds {
			if other, twice := tableOf[id]; twice {
				t.Fatalf("vSwitch %s uses tables %s and %s", id, other, table.RouteTableId)
			}
			tableOf[id] = table.RouteTableId
		}
	}
	for _, v := range view.VSwitches {
		if tableOf[v.VSwitchId] != v.RouteTableId {
			t.Fatalf("vSwitch %s says it uses table %s; %q says so too", v.VSwitchId, v.RouteTableId, tableOf[v.VSwitchId])
		}
	}
}

// checkPending: a resource in a transitional state has an operation that ends it, and a VPC
// changes its vSwitches and routes one at a time.
func (m *machine) checkPending(t *rapid.T, enis []state.NetworkInterface) {
	view := m.View()
	pending := 0
	for _, vpc := range view.VPCs {
		kinds := 0
		for _, v := range view.VSwitches {
			if v.VpcId == vpc.VpcId && v.Status != state.StatusAvailable {
				kinds++
			}
		}
		routes := 0
		for _, table := range view.RouteTables {
			if table.VpcId != vpc.VpcId {
				continue
			}
			if table.Status != state.StatusAvailable {
				kinds++
			}
			for _, e := range table.RouteEntries {
				if e.Status != state.StatusAvailable {
					routes = 1 // a batch is one operation
				}
			}
		}
		if kinds+routes > 1 {
			t.Fatalf("VPC %s does %d things at once", vpc.VpcId, kinds+routes)
		}
		pending += kinds + routes
	}
	pending += m.pendingCLB()
	attaching := 0
	if m.stuckJobs {
		attaching += m.pendingNLB(t)
	} else {
		pending += m.pendingNLB(t)
	}
	for _, e := range enis {
		switch e.Status {
		case state.ENIAvailable, state.ENIInUse:
		case state.ENIAttaching:
			attaching++
		default:
			pending++
		}
	}
	for _, i := range view.Instances {
		if i.Status != state.InstanceRunning && i.Status != state.InstanceStopped || i.Releasing {
			pending++
		}
	}
	if _, due := m.NextDue(); due && pending+attaching == 0 || !due && pending > 0 {
		t.Fatalf("%d resources are between two states, %d are Attaching or stuck, and an operation is due: %v", pending, attaching, due)
	}
}

func (m *machine) checkSaved(t *rapid.T) {
	saved := must(m.MarshalJSON())
	switch {
	case m.noting != m.State: // the first one, or one that was loaded
		m.noting, m.kept = m.State, must(m.Snapshot())
	case must(state.Load(m.options, m.kept)).Revision() < m.Revision():
		change := must(m.Changes())
		kept := must(must(state.Load(m.options, m.kept, change)).MarshalJSON())
		if !bytes.Equal(saved, kept) {
			t.Fatalf("saved and updated, the state differs from the current one:\n%s\n%s\nchange: %s", kept, saved, change)
		}
		// A repeated change has no effect: the process may be killed between the two files.
		if again := must(must(state.Load(m.options, saved, change)).MarshalJSON()); !bytes.Equal(saved, again) {
			t.Fatalf("a change was made twice:\n%s\n%s\nchange: %s", again, saved, change)
		}
		m.kept = kept
	}
	loaded := must(state.Load(m.options, saved))
	if again := must(loaded.MarshalJSON()); !bytes.Equal(saved, again) {
		t.Fatalf("saved and loaded, the state differs:\n%s\n%s", saved, again)
	}
	loadedDue, loadedOK := loaded.NextDue()
	if due, ok := m.NextDue(); !due.Equal(loadedDue) || ok != loadedOK || loaded.Revision() != m.Revision() {
		t.Fatalf("loaded, the next operation is due at %s (%v) and the revision is %d; before %s (%v) and %d", loadedDue, loadedOK, loaded.Revision(), due, ok, m.Revision())
	}
}
