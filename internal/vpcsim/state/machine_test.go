package state_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/vpcsim/state"
)

// machine makes random changes to a small, crowded cloud.
type machine struct {
	*state.State
	clock   *clock
	options state.Options
	vpcs    []string
	// stuckJobs: jobs of NLB do not end.
	stuckJobs bool
	// kept is what noting has saved, piece by piece.
	noting *state.State
	kept   []byte
}

var machineTypes = []string{"ecs.t6-c1m4.large", "ecs.g6.large", "ecs.g7.large", "ecs.u1-c1m4.xlarge"}

func newMachine(t *rapid.T) *machine {
	c := &clock{time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	m := &machine{clock: c, options: state.Options{
		Now: c.Now, Catalog: catalog.Default(), Seed: rapid.Uint64().Draw(t, "seed"),
		Zones: []string{"cn-hangzhou-h", "cn-hangzhou-i"},
		Limits: state.Limits{
			PrivateIPsPerVPC: 90, ENIs: 14, RouteEntriesPerTable: 3, SecurityGroups: 5, SecurityGroupsPerENI: 2,
			RulesPerSecurityGroup: 3, RulesPerENI: 4, GroupRefsPerGroup: 1, PrivateIPsPerNormal: 25, PrivateIPsPerEnterprise: 40,
			VSwitchesPerVPC: 4, RouteTablesPerVPC: 3, TagsPerResource: 3,
			LoadBalancers: 2, ListenersPerLoadBalancer: 2, BackendsPerLoadBalancer: 4, BackendsPerCall: 3, AccessControlLists: 2, EntriesPerAccessControlList: 2,
			NLBs: 2, NLBListeners: 2, NLBSecurityGroups: 2, NLBServersPerLoadBalancer: 5, NLBServerGroups: 3, NLBServersPerGroup: 4,
		},
	}}
	if rapid.Bool().Draw(t, "slow") {
		m.options.Timing = state.DefaultTiming()
	}
	m.State = must(state.New(m.options))
	for _, cidr := range []string{"10.0.0.0/16", "10.1.0.0/16"} {
		vpc := must(m.CreateVpc(state.CreateVpcRequest{CidrBlock: cidr, EnableIpv6: true}))
		m.vpcs = append(m.vpcs, vpc.VpcId)
		m.settle()
		must(m.CreateVSwitch(state.CreateVSwitchRequest{VpcId: vpc.VpcId, ZoneId: "cn-hangzhou-i", CidrBlock: cidr[:5] + "0.0/26", Ipv6CidrBlock: ptr(0)}))
		must(m.CreateSecurityGroup(state.CreateSecurityGroupRequest{VpcId: vpc.VpcId}))
		m.settle()
	}
	if rapid.Bool().Draw(t, "furnished") {
		// Random steps alone rarely make a trunk with members.
		vsw, group := m.vSwitches()[0], m.groups()[0]
		v := must(m.DescribeVSwitchAttributes(vsw))
		for _, g := range must(m.DescribeSecurityGroups(state.DescribeSecurityGroupsRequest{VpcId: v.VpcId})) {
			group = g.SecurityGroupId
		}
		node := must(m.RunInstances(state.RunInstancesRequest{InstanceType: "ecs.u1-c1m4.xlarge", VSwitchId: vsw, SecurityGroupId: group}))[0]
		m.settle()
		trunk := ""
		for _, kind := range []string{"Trunk", "Secondary", "Secondary"} {
			eni := must(m.CreateNetworkInterface(state.CreateNetworkInterfaceRequest{VSwitchId: vsw, SecurityGroupId: group, InstanceType: kind})).NetworkInterfaceId
			check(m.AttachNetworkInterface(state.AttachNetworkInterfaceRequest{NetworkInterfaceId: eni, InstanceId: node, TrunkNetworkInstanceId: trunk}))
			if m.settle(); trunk == "" {
				trunk = eni
			}
		}
		m.furnishCLB(vsw, trunk)
		m.furnishNLB(vsw, trunk)
	}
	return m
}

func (m *machine) settle() {
	for {
		due, ok := m.NextDue()
		if !ok {
			return
		}
		if due.After(m.clock.now) {
			m.clock.now = due
		}
		m.Tick(m.clock.now)
	}
}

// pick selects an existing id, or sometimes one that does not exist.
func pick(t *rapid.T, name string, ids []string) string {
	if len(ids) == 0 || rapid.IntRange(0, 19).Draw(t, name+" unknown") == 0 {
		return rapid.SampledFrom([]string{"", "none"}).Draw(t, name)
	}
	return rapid.SampledFrom(ids).Draw(t, name)
}

func idsOf[T any](all []T, err error, id func(T) string) []string {
	check(err)
	var ids []string
	for _, x := range all {
		ids = append(ids, id(x))
	}
	return ids
}

func (m *machine) enis() []string {
	all, err := m.DescribeNetworkInterfaces(state.DescribeNetworkInterfacesRequest{})
	return idsOf(all, err, func(e state.NetworkInterface) string { return e.NetworkInterfaceId })
}

func (m *machine) instances() []string {
	all, err := m.DescribeInstances(state.DescribeInstancesRequest{})
	return idsOf(all, err, func(i state.Instance) string { return i.InstanceId })
}

func (m *machine) vSwitches() []string {
	all, err := m.DescribeVSwitches(state.DescribeVSwitchesRequest{})
	return idsOf(all, err, func(v state.VSwitch) string { return v.VSwitchId })
}

func (m *machine) groups() []string {
	all, err := m.DescribeSecurityGroups(state.DescribeSecurityGroupsRequest{})
	return idsOf(all, err, func(g state.SecurityGroup) string { return g.SecurityGroupId })
}

func (m *machine) tables() []string {
	all, err := m.DescribeRouteTables(state.DescribeRouteTablesRequest{})
	return idsOf(all, err, func(t state.RouteTable) string { return t.RouteTableId })
}

func (m *machine) entries() []string {
	var ids []string
	for _, t := range m.View().RouteTables {
		for _, e := range t.RouteEntries {
			ids = append(ids, e.RouteEntryId)
		}
	}
	return ids
}

// someAddresses selects addresses of an ENI, and sometimes another one.
func (m *machine) someAddresses(t *rapid.T, eni string) (four, six, prefixes []string) {
	all := must(m.DescribeNetworkInterfaces(state.DescribeNetworkInterfacesRequest{NetworkInterfaceId: []string{eni}}))
	four = []string{"10.0.0.33"}
	if len(all) > 0 {
		for _, a := range all[0].PrivateIpAddresses {
			four = append(four, a.String())
		}
		for _, a := range all[0].Ipv6Addresses {
			six = append(six, a.String())
		}
		for _, p := range all[0].Ipv4Prefixes {
			prefixes = append(prefixes, p.String())
		}
	}
	some := func(name string, of []string) []string {
		if len(of) == 0 {
			return nil
		}
		return rapid.SliceOfNDistinct(rapid.SampledFrom(of), 0, min(3, len(of)), rapid.ID[string]).Draw(t, name)
	}
	return some("IPv4", four), some("IPv6", six), some("prefixes", prefixes)
}

func token(t *rapid.T) string {
	return rapid.SampledFrom([]string{"", "", "", "a", "b"}).Draw(t, "token")
}

func few(t *rapid.T, name string, most int) int { return rapid.IntRange(0, most).Draw(t, name) }

// actions are all possible changes; each returns its error.
func (m *machine) actions() map[string]func(*rapid.T) error {
	all := map[string]func(*rapid.T) error{
		"CreateNetworkInterface": func(t *rapid.T) error {
			return errOf(m.CreateNetworkInterface(state.CreateNetworkInterfaceRequest{
				ClientToken: token(t), VSwitchId: pick(t, "vSwitch", m.vSwitches()), SecurityGroupId: pick(t, "group", m.groups()),
				PrimaryIpAddress:               rapid.SampledFrom([]string{"", "", "10.0.0.9", "10.0.0.62"}).Draw(t, "primary"),
				SecondaryPrivateIpAddressCount: few(t, "secondary", 8), Ipv4PrefixCount: few(t, "prefixes", 1), Ipv6AddressCount: few(t, "IPv6", 2),
				DeleteOnRelease: ptr(rapid.Bool().Draw(t, "delete on release")),
				InstanceType:    rapid.SampledFrom([]string{"", "", "Secondary", "Trunk"}).Draw(t, "type"),
			}))
		},
		"AttachNetworkInterface": func(t *rapid.T) error {
			return m.AttachNetworkInterface(state.AttachNetworkInterfaceRequest{NetworkInterfaceId: pick(t, "eni", m.enis()), InstanceId: pick(t, "instance", m.instances())})
		},
		"AttachMember": func(t *rapid.T) error {
			trunks := must(m.DescribeNetworkInterfaces(state.DescribeNetworkInterfacesRequest{Type: "Trunk"}))
			if len(trunks) == 0 {
				return nil
			}
			trunk := rapid.SampledFrom(trunks).Draw(t, "trunk")
			on := trunk.InstanceId
			if on == "" {
				on = pick(t, "instance", m.instances())
			}
			return m.AttachNetworkInterface(state.AttachNetworkInterfaceRequest{
				NetworkInterfaceId: pick(t, "eni", m.enis()), InstanceId: on, TrunkNetworkInstanceId: trunk.NetworkInterfaceId,
			})
		},
		"DetachNetworkInterface": func(t *rapid.T) error {
			eni := pick(t, "eni", m.enis())
			on := pick(t, "instance", m.instances())
			if e, err := m.DescribeNetworkInterfaceAttribute(eni); err == nil && e.InstanceId != "" {
				on = e.InstanceId
			}
			return m.DetachNetworkInterface(state.DetachNetworkInterfaceRequest{NetworkInterfaceId: eni, InstanceId: on})
		},
		"DeleteNetworkInterface": func(t *rapid.T) error {
			return m.DeleteNetworkInterface(state.DeleteNetworkInterfaceRequest{NetworkInterfaceId: pick(t, "eni", m.enis())})
		},
		"ModifyNetworkInterfaceAttribute": func(t *rapid.T) error {
			return m.ModifyNetworkInterfaceAttribute(state.ModifyNetworkInterfaceAttributeRequest{
				NetworkInterfaceId: pick(t, "eni", m.enis()), SecurityGroupId: []string{pick(t, "group", m.groups())},
				DeleteOnRelease: ptr(rapid.Bool().Draw(t, "delete on release")),
			})
		},
		"AssignPrivateIpAddresses": func(t *rapid.T) error {
			return errOf(m.AssignPrivateIpAddresses(state.AssignPrivateIpAddressesRequest{
				ClientToken: token(t), NetworkInterfaceId: pick(t, "eni", m.enis()), SecondaryPrivateIpAddressCount: few(t, "count", 6),
			}))
		},
		"AssignPrefixes": func(t *rapid.T) error {
			return errOf(m.AssignPrivateIpAddresses(state.AssignPrivateIpAddressesRequest{NetworkInterfaceId: pick(t, "eni", m.enis()), Ipv4PrefixCount: 1}))
		},
		"AssignNamed": func(t *rapid.T) error {
			return errOf(m.AssignPrivateIpAddresses(state.AssignPrivateIpAddressesRequest{
				NetworkInterfaceId: pick(t, "eni", m.enis()), PrivateIpAddress: []string{fmt.Sprintf("10.0.0.%d", few(t, "host", 64))},
			}))
		},
		"UnassignPrivateIpAddresses": func(t *rapid.T) error {
			eni := pick(t, "eni", m.enis())
			four, _, prefixes := m.someAddresses(t, eni)
			return m.UnassignPrivateIpAddresses(state.UnassignPrivateIpAddressesRequest{NetworkInterfaceId: eni, PrivateIpAddress: four, Ipv4Prefix: prefixes})
		},
		"AssignIpv6Addresses": func(t *rapid.T) error {
			return errOf(m.AssignIpv6Addresses(state.AssignIpv6AddressesRequest{ClientToken: token(t), NetworkInterfaceId: pick(t, "eni", m.enis()), Ipv6AddressCount: few(t, "count", 3)}))
		},
		"UnassignIpv6Addresses": func(t *rapid.T) error {
			eni := pick(t, "eni", m.enis())
			_, six, _ := m.someAddresses(t, eni)
			return m.UnassignIpv6Addresses(state.UnassignIpv6AddressesRequest{NetworkInterfaceId: eni, Ipv6Address: six})
		},
		"RunInstances": func(t *rapid.T) error {
			req := state.RunInstancesRequest{
				ClientToken: token(t), InstanceType: rapid.SampledFrom(machineTypes).Draw(t, "type"), Amount: ptr(few(t, "amount", 3)),
				VSwitchId: pick(t, "vSwitch", m.vSwitches()), SecurityGroupId: pick(t, "group", m.groups()), DryRun: few(t, "dry", 9) == 0,
			}
			if rapid.Bool().Draw(t, "second ENI") {
				req.NetworkInterface = []state.RunInstancesNetworkInterface{{NetworkInterfaceId: rapid.SampledFrom([]string{"", pick(t, "eni", m.enis())}).Draw(t, "existing")}}
			}
			return errOf(m.RunInstances(req))
		},
		"CreateInstance": func(t *rapid.T) error {
			return errOf(m.CreateInstance(state.CreateInstanceRequest{
				InstanceType: rapid.SampledFrom(machineTypes).Draw(t, "type"), VSwitchId: pick(t, "vSwitch", m.vSwitches()), SecurityGroupId: pick(t, "group", m.groups()),
			}))
		},
		"StartInstance": func(t *rapid.T) error {
			return m.StartInstance(state.StartInstanceRequest{InstanceId: pick(t, "instance", m.instances())})
		},
		"StopInstance": func(t *rapid.T) error {
			return m.StopInstance(state.StopInstanceRequest{InstanceId: pick(t, "instance", m.instances())})
		},
		"RebootInstance": func(t *rapid.T) error {
			return m.RebootInstance(state.RebootInstanceRequest{InstanceId: pick(t, "instance", m.instances())})
		},
		"DeleteInstances": func(t *rapid.T) error {
			ids := []string{pick(t, "instance", m.instances()), pick(t, "another", m.instances())}
			return m.DeleteInstances(state.DeleteInstancesRequest{ClientToken: token(t), InstanceId: ids, Force: rapid.Bool().Draw(t, "force")})
		},
		"CreateSecurityGroup": func(t *rapid.T) error {
			return errOf(m.CreateSecurityGroup(state.CreateSecurityGroupRequest{
				VpcId: pick(t, "vpc", m.vpcs), SecurityGroupType: rapid.SampledFrom([]string{"", "enterprise"}).Draw(t, "type"),
			}))
		},
		"DeleteSecurityGroup": func(t *rapid.T) error {
			return m.DeleteSecurityGroup(state.DeleteSecurityGroupRequest{SecurityGroupId: pick(t, "group", m.groups())})
		},
		"Authorize": func(t *rapid.T) error {
			p := state.Permission{IpProtocol: "tcp", PortRange: strconv.Itoa(few(t, "port", 5)), SourceCidrIp: "0.0.0.0/0"}
			if rapid.Bool().Draw(t, "by group") {
				p.SourceCidrIp, p.SourceGroupId = "", pick(t, "peer", m.groups())
			}
			return m.AuthorizeSecurityGroup(state.AuthorizeSecurityGroupRequest{SecurityGroupId: pick(t, "group", m.groups()), Permission: p})
		},
		"Revoke": func(t *rapid.T) error {
			p := state.Permission{IpProtocol: "tcp", PortRange: strconv.Itoa(few(t, "port", 5)), SourceCidrIp: "0.0.0.0/0"}
			return m.RevokeSecurityGroup(state.RevokeSecurityGroupRequest{SecurityGroupId: pick(t, "group", m.groups()), Permission: p})
		},
		"ModifyRule": func(t *rapid.T) error {
			id := pick(t, "group", m.groups())
			g, err := m.DescribeSecurityGroupAttribute(state.DescribeSecurityGroupAttributeRequest{SecurityGroupId: id})
			if err != nil || len(g.Rules) == 0 {
				return nil
			}
			req := state.ModifySecurityGroupRuleRequest{SecurityGroupId: id, SecurityGroupRuleId: rapid.SampledFrom(g.Rules).Draw(t, "rule").SecurityGroupRuleId}
			if rapid.Bool().Draw(t, "by group") {
				req.SourceGroupId = pick(t, "peer", m.groups())
			} else {
				req.PortRange, req.SourceCidrIp = strconv.Itoa(few(t, "port", 5)), "10.0.0.0/8"
			}
			return m.ModifySecurityGroupRule(req)
		},
		"EIPs": func(t *rapid.T) error {
			all := must(m.DescribeEipAddresses(state.DescribeEipAddressesRequest{}))
			if len(all) > 0 && rapid.Bool().Draw(t, "release") {
				return m.ReleaseEipAddress(state.ReleaseEipAddressRequest{AllocationId: rapid.SampledFrom(all).Draw(t, "EIP").AllocationId})
			}
			return errOf(m.AllocateEipAddress(state.AllocateEipAddressRequest{ClientToken: token(t)}))
		},
		"ModifyRouteEntry": func(t *rapid.T) error {
			return m.ModifyRouteEntry(state.ModifyRouteEntryRequest{RouteEntryId: pick(t, "entry", m.entries()), NewNextHopId: pick(t, "hop", m.instances())})
		},
		"JoinSecurityGroup": func(t *rapid.T) error {
			return m.JoinSecurityGroup(state.JoinSecurityGroupRequest{SecurityGroupId: pick(t, "group", m.groups()), NetworkInterfaceId: pick(t, "eni", m.enis())})
		},
		"LeaveSecurityGroup": func(t *rapid.T) error {
			return m.LeaveSecurityGroup(state.JoinSecurityGroupRequest{SecurityGroupId: pick(t, "group", m.groups()), InstanceId: pick(t, "instance", m.instances())})
		},
		"CreateVSwitch": func(t *rapid.T) error {
			return errOf(m.CreateVSwitch(state.CreateVSwitchRequest{
				ClientToken: token(t), VpcId: pick(t, "vpc", m.vpcs), ZoneId: rapid.SampledFrom(m.options.Zones).Draw(t, "zone"),
				CidrBlock:     rapid.SampledFrom([]string{"10.0.0.64/27", "10.0.0.64/28", "10.0.1.0/29", "10.1.1.0/26", "10.1.0.0/16"}).Draw(t, "range"),
				Ipv6CidrBlock: ptr(few(t, "IPv6 range", 3)),
			}))
		},
		"DeleteVSwitch": func(t *rapid.T) error {
			return m.DeleteVSwitch(state.DeleteVSwitchRequest{VSwitchId: pick(t, "vSwitch", m.vSwitches())})
		},
		"CreateRouteTable": func(t *rapid.T) error {
			return errOf(m.CreateRouteTable(state.CreateRouteTableRequest{VpcId: pick(t, "vpc", m.vpcs)}))
		},
		"DeleteRouteTable": func(t *rapid.T) error {
			return m.DeleteRouteTable(state.DeleteRouteTableRequest{RouteTableId: pick(t, "table", m.tables())})
		},
		"AssociateRouteTable": func(t *rapid.T) error {
			return m.AssociateRouteTable(state.AssociateRouteTableRequest{RouteTableId: pick(t, "table", m.tables()), VSwitchId: pick(t, "vSwitch", m.vSwitches())})
		},
		"UnassociateRouteTable": func(t *rapid.T) error {
			return m.UnassociateRouteTable(state.AssociateRouteTableRequest{RouteTableId: pick(t, "table", m.tables()), VSwitchId: pick(t, "vSwitch", m.vSwitches())})
		},
		"CreateRouteEntry": func(t *rapid.T) error {
			req := state.CreateRouteEntryRequest{
				ClientToken: token(t), RouteTableId: pick(t, "table", m.tables()), NextHopId: pick(t, "hop", m.instances()),
				DestinationCidrBlock: fmt.Sprintf("172.20.%d.0/24", few(t, "third", 5)),
			}
			if rapid.Bool().Draw(t, "to an ENI") {
				req.NextHopId, req.NextHopType = pick(t, "eni", m.enis()), "NetworkInterface"
			}
			return errOf(m.CreateRouteEntry(req))
		},
		"CreateRouteEntries": func(t *rapid.T) error {
			var req state.CreateRouteEntriesRequest
			for range few(t, "entries", 4) {
				req.RouteEntries = append(req.RouteEntries, state.CreateRouteEntriesItem{
					RouteTableId: pick(t, "table", m.tables()), NextHop: pick(t, "hop", m.instances()), DstCidrBlock: fmt.Sprintf("172.20.%d.0/24", few(t, "third", 5)),
				})
			}
			return errOf(m.CreateRouteEntries(req))
		},
		"DeleteRouteEntry": func(t *rapid.T) error {
			return m.DeleteRouteEntry(state.DeleteRouteEntryRequest{RouteEntryId: pick(t, "entry", m.entries())})
		},
		"DeleteRouteEntries": func(t *rapid.T) error {
			var req state.DeleteRouteEntriesRequest
			for range few(t, "entries", 3) {
				req.RouteEntries = append(req.RouteEntries, state.DeleteRouteEntriesItem{RouteEntryId: pick(t, "entry", m.entries())})
			}
			return errOf(m.DeleteRouteEntries(req))
		},
		"Tags": func(t *rapid.T) error {
			key := rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "key")
			if rapid.Bool().Draw(t, "take away") {
				return m.UntagResources(state.UntagResourcesRequest{ResourceType: "eni", ResourceId: []string{pick(t, "eni", m.enis())}, TagKey: []string{key}})
			}
			return m.TagResources(state.TagResourcesRequest{ResourceType: "eni", ResourceId: []string{pick(t, "eni", m.enis())}, Tag: []state.Tag{{Key: key, Value: rapid.SampledFrom([]string{"", "1", "2"}).Draw(t, "value")}}})
		},
		"InstanceAttributes": func(t *rapid.T) error {
			id, value := pick(t, "instance", m.instances()), rapid.SampledFrom([]string{"a", "b"}).Draw(t, "value")
			switch few(t, "what", 2) {
			case 0:
				return m.ModifyInstanceAttribute(state.ModifyInstanceAttributeRequest{InstanceId: id, HostName: &value})
			case 1:
				return m.AttachInstanceRamRole(state.AttachInstanceRamRoleRequest{InstanceIds: []string{id}, RamRoleName: value})
			}
			return m.TagResources(state.TagResourcesRequest{ResourceType: "instance", ResourceId: []string{id}, Tag: []state.Tag{{Key: "k", Value: value}}})
		},
		"Faults": func(t *rapid.T) error {
			m.SetStuckAttaching(few(t, "stuck", 3) == 0)
			m.SetFailingAttach(few(t, "failing", 3) == 0)
			m.SetStrictDetach(few(t, "strict", 3) == 0)
			m.SetTypeBandwidth(few(t, "bandwidth", 3) == 0)
			return m.SetVSwitchFull(pick(t, "vSwitch", m.vSwitches()), few(t, "full", 3) == 0)
		},
		"Tick": func(t *rapid.T) error {
			m.clock.now = m.clock.now.Add(time.Duration(few(t, "ms", 4000)) * time.Millisecond)
			m.Tick(m.clock.now)
			return nil
		},
		"Settle": func(*rapid.T) error { m.settle(); return nil },
		"Restart": func(*rapid.T) error {
			m.State = must(state.Load(m.options, must(m.MarshalJSON())))
			return nil
		},
	}
	maps.Copy(all, m.clbActions())
	maps.Copy(all, m.nlbActions())
	return all
}

// seen returns the cloud as a data plane sees it, without the revision.
func (m *machine) seen() string {
	view := m.View()
	view.Revision = 0
	return string(must(json.Marshal(view)))
}

func TestMachine(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := newMachine(rt)
		steps := map[string]func(*rapid.T){"": func(rt *rapid.T) { m.invariants(rt) }}
		for name, act := range m.actions() {
			steps[name] = func(rt *rapid.T) {
				before, seen, revision := must(m.MarshalJSON()), m.seen(), m.Revision()
				err := act(rt)
				var refusal *state.Error
				switch {
				case errors.As(err, &refusal):
					if after := must(m.MarshalJSON()); name != "Faults" && !bytes.Equal(before, after) {
						rt.Fatalf("refused (%v), and yet the state changed:\n%s\n%s", err, before, after)
					}
				case err != nil:
					rt.Fatalf("not one of the service's errors: %v", err)
				}
				if m.seen() != seen && m.Revision() <= revision {
					rt.Fatalf("what a data plane sees changed, the revision did not: %d", revision)
				}
			}
		}
		rt.Repeat(steps)
		m.tearDown(rt)
	})
}

// tearDown deletes everything, after which no address may be missing.
func (m *machine) tearDown(t *rapid.T) {
	m.SetStuckAttaching(false)
	m.removeBalancers()
	for {
		entries := must(m.DescribeRouteTables(state.DescribeRouteTablesRequest{}))
		var req state.DeleteRouteEntriesRequest
		for _, table := range entries {
			for _, e := range table.RouteEntries {
				if e.Type == "Custom" && len(req.RouteEntries) < 50 {
					req.RouteEntries = append(req.RouteEntries, state.DeleteRouteEntriesItem{RouteEntryId: e.RouteEntryId})
				}
			}
		}
		if len(req.RouteEntries) == 0 {
			break
		}
		if got := must(m.DeleteRouteEntries(req)); got.FailedCount > 0 {
			t.Fatalf("delete the routes: %+v", got)
		}
		m.settle()
	}
	if ids := m.instances(); len(ids) > 0 {
		check(m.DeleteInstances(state.DeleteInstancesRequest{InstanceId: ids, Force: true}))
	}
	m.settle()
	for _, id := range m.enis() {
		check(m.DeleteNetworkInterface(state.DeleteNetworkInterfaceRequest{NetworkInterfaceId: id}))
	}
	m.settle()
	for _, v := range must(m.DescribeVSwitches(state.DescribeVSwitchesRequest{})) {
		check(m.SetVSwitchFull(v.VSwitchId, false))
		if got, want := must(m.DescribeVSwitchAttributes(v.VSwitchId)).AvailableIpAddressCount, 1<<(32-v.CidrBlock.Bits())-4; got != want {
			t.Fatalf("vSwitch %s (%s) has %d addresses with no ENI left, want %d", v.VSwitchId, v.CidrBlock, got, want)
		}
	}
}
