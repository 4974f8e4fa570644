package vpcsim_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/ecs"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/vpc"

	"terway.dev/terway/internal/vpcsim"
	"terway.dev/terway/internal/vpcsim/state"
)

// What existing programs do with the official SDK: they do not wait where these tests do not.

func attachAt(t *testing.T, c clients, eni, node, trunk string) {
	t.Helper()
	r := ecs.CreateAttachNetworkInterfaceRequest()
	r.NetworkInterfaceId, r.InstanceId, r.TrunkNetworkInstanceId = eni, node, trunk
	must(c.ecs.AttachNetworkInterface(r))(t)
}

func TestAttachRightAfterCreate(t *testing.T) {
	s := start(t, func(o *vpcsim.Options) { o.Timing = state.Timing{CreateENI: 300 * time.Millisecond} })
	c := connect(t, s)
	n := makeNetwork(t, c)
	node := runInstance(t, c, n)
	r := ecs.CreateCreateNetworkInterfaceRequest()
	r.VSwitchId, r.SecurityGroupId = n.vswitch, n.group
	id := must(c.ecs.CreateNetworkInterface(r))(t).NetworkInterfaceId
	attachAt(t, c, id, node, "")
	waitENI(t, c, id, "InUse")
	gone := must(c.ecs.CreateNetworkInterface(r))(t).NetworkInterfaceId
	del := ecs.CreateDeleteNetworkInterfaceRequest()
	del.NetworkInterfaceId = gone
	must(c.ecs.DeleteNetworkInterface(del))(t)
}

// The VLAN of a member is the DeviceIndex of DescribeNetworkInterfaces.
func TestTrunkThroughTheSDK(t *testing.T) {
	s := start(t)
	c := connect(t, s)
	n := makeNetwork(t, c)
	types := ecs.CreateDescribeInstanceTypesRequest()
	types.InstanceTypes = &[]string{"ecs.g7.xlarge"}
	limits := must(c.ecs.DescribeInstanceTypes(types))(t).InstanceTypes.InstanceType[0]
	if !limits.EniTrunkSupported || limits.EniTotalQuantity != 20 {
		t.Fatalf("limits %+v", limits)
	}
	node := runInstance(t, c, n, func(r *ecs.RunInstancesRequest) { r.InstanceType = "ecs.g7.xlarge" })
	trunk := makeENI(t, c, n, func(r *ecs.CreateNetworkInterfaceRequest) { r.InstanceType = "Trunk" })
	attachAt(t, c, trunk, node, "")
	waitENI(t, c, trunk, "InUse")
	for vlan := 1; vlan <= 2; vlan++ {
		member := makeENI(t, c, n)
		attachAt(t, c, member, node, trunk)
		waitENI(t, c, member, "InUse")
		x := eni(t, c, member)
		if x.Type != "Member" || x.InstanceId != node || x.Attachment.DeviceIndex != vlan || x.Attachment.TrunkNetworkInterfaceId != trunk || x.Attachment.InstanceId != node {
			t.Errorf("member %+v, want VLAN %d", x, vlan)
		}
	}
	if x := eni(t, c, trunk); x.Type != "Trunk" || len(x.Attachment.MemberNetworkInterfaceIds.MemberNetworkInterfaceId) != 2 || x.Attachment.DeviceIndex != 1 {
		t.Errorf("trunk %+v", x)
	}
	list := ecs.CreateDescribeNetworkInterfacesRequest()
	list.InstanceId, list.Type = node, "Member"
	if got := len(must(c.ecs.DescribeNetworkInterfaces(list))(t).NetworkInterfaceSets.NetworkInterfaceSet); got != 2 {
		t.Errorf("%d members listed, want 2", got)
	}
	detach := ecs.CreateDetachNetworkInterfaceRequest()
	detach.NetworkInterfaceId, detach.InstanceId = trunk, node
	_, err := c.ecs.DetachNetworkInterface(detach)
	wantError(t, err, "InvalidOperation.EniLinked", 403)
}

// A program that only uses NextToken gets every item of a list with tokens.
func TestTokensAlone(t *testing.T) {
	s := start(t)
	c := connect(t, s)
	n := makeNetwork(t, c)
	const many = 12
	for range many {
		makeENI(t, c, n)
		sg := ecs.CreateCreateSecurityGroupRequest()
		sg.VpcId = n.vpc
		must(c.ecs.CreateSecurityGroup(sg))(t)
		runInstance(t, c, n)
	}
	for _, x := range []struct{ version, action, list, item string }{
		{ecsVersion, "DescribeNetworkInterfaces", "NetworkInterfaceSets", "NetworkInterfaceSet"},
		{ecsVersion, "DescribeInstances", "Instances", "Instance"},
		{ecsVersion, "DescribeSecurityGroups", "SecurityGroups", "SecurityGroup"},
		{ecsVersion, "DescribeInstanceTypes", "InstanceTypes", "InstanceType"},
		{vpcVersion, "DescribeRouteEntryList", "RouteEntrys", "RouteEntry"},
	} {
		t.Run(x.action, func(t *testing.T) {
			seen, token, pages := 0, "", 0
			for {
				params := map[string]string{"RouteTableId": n.table}
				if token != "" {
					params["NextToken"] = token
				}
				text := must(raw(t, c, x.version, x.action, params))(t)
				var answer map[string]json.RawMessage
				var items map[string][]json.RawMessage
				if err := json.Unmarshal([]byte(text), &answer); err != nil {
					t.Fatal(err)
				}
				if err := json.Unmarshal(answer[x.list], &items); err != nil {
					t.Fatal(err)
				}
				seen += len(items[x.item])
				pages++
				if err := json.Unmarshal(answer["NextToken"], &token); err != nil {
					t.Fatal(err)
				}
				if token == "" {
					break
				}
			}
			if x.action != "DescribeRouteEntryList" && (seen < many || pages < 2) {
				t.Errorf("%d items on %d pages", seen, pages)
			}
		})
	}
	// A request by page number gets an answer by page number.
	r := ecs.CreateDescribeNetworkInterfacesRequest()
	r.PageSize = requests.NewInteger(10)
	if a := must(c.ecs.DescribeNetworkInterfaces(r))(t); a.NextToken != "" || a.TotalCount != 2*many {
		t.Errorf("by number: token %q, %d in all", a.NextToken, a.TotalCount)
	}
}

// Programs for the ECS version replace a route entry by two calls; those for the VPC version
// get an error and retry.
func TestRouteIsReplacedAtOnce(t *testing.T) {
	s := start(t, func(o *vpcsim.Options) { o.Timing = state.Timing{RouteEntry: 300 * time.Millisecond} })
	c := connect(t, s)
	n := makeNetwork(t, c)
	old, young := runInstance(t, c, n), runInstance(t, c, n)
	change := func(version, action, hop, destination string) error {
		_, err := raw(t, c, version, action, map[string]string{
			"RouteTableId": n.table, "DestinationCidrBlock": destination, "NextHopType": "Instance", "NextHopId": hop,
		})
		return err
	}
	for _, step := range []struct{ action, hop, destination string }{
		{"CreateRouteEntry", old, "172.20.0.0/24"},
		{"DeleteRouteEntry", old, "172.20.0.0/24"},   // an entry that is Pending
		{"CreateRouteEntry", young, "172.20.0.0/24"}, // the old entry is not deleted yet
		{"DeleteRouteEntry", young, "172.20.0.0/24"},
		{"CreateRouteEntry", young, "172.20.1.0/24"},
	} {
		if err := change(ecsVersion, step.action, step.hop, step.destination); err != nil {
			t.Fatalf("%s %s by %s: %v", step.action, step.destination, step.hop, err)
		}
	}
	wantError(t, change(vpcVersion, "CreateRouteEntry", old, "172.20.2.0/24"), "TaskConflict", 400)
	// A call that fails for another reason does not wait.
	wantError(t, change(ecsVersion, "CreateRouteEntry", "i-none", "172.20.3.0/24"), "InvalidNextHopId.NotFound", 404)
}

func TestRouteEntryIsModified(t *testing.T) {
	s := start(t)
	c := connect(t, s)
	n := makeNetwork(t, c)
	a, b := runInstance(t, c, n), runInstance(t, c, n)
	create := vpc.CreateCreateRouteEntryRequest()
	create.RouteTableId, create.DestinationCidrBlock, create.NextHopId = n.table, "172.20.0.0/24", a
	id := must(c.vpc.CreateRouteEntry(create))(t).RouteEntryId
	entry := func() vpc.RouteEntry {
		r := vpc.CreateDescribeRouteEntryListRequest()
		r.RouteTableId, r.RouteEntryId = n.table, id
		return must(c.vpc.DescribeRouteEntryList(r))(t).RouteEntrys.RouteEntry[0]
	}
	eventually(t, "the entry is Available", func() bool { return entry().Status == "Available" })
	r := vpc.CreateModifyRouteEntryRequest()
	r.RouteEntryId, r.NewNextHopId, r.RouteEntryName = id, b, "moved"
	must(c.vpc.ModifyRouteEntry(r))(t)
	eventually(t, "the entry is Available again", func() bool { return entry().Status == "Available" })
	if e := entry(); e.NextHops.NextHop[0].NextHopId != b || e.RouteEntryName != "moved" {
		t.Errorf("entry %+v", e)
	}
	r.NewNextHopId = "i-none"
	_, err := c.vpc.ModifyRouteEntry(r)
	wantError(t, err, "InvalidNextHopId.NotFound", 404)
}

// ModifySecurityGroupRule changes the source ranges of a load balancer's group.
func TestSecurityGroupRuleIsModified(t *testing.T) {
	s := start(t)
	c := connect(t, s)
	n := makeNetwork(t, c)
	rules := func(direction string) []ecs.Permission {
		r := ecs.CreateDescribeSecurityGroupAttributeRequest()
		r.SecurityGroupId, r.Direction = n.group, direction
		return must(c.ecs.DescribeSecurityGroupAttribute(r))(t).Permissions.Permission
	}
	in := ecs.CreateAuthorizeSecurityGroupRequest()
	in.SecurityGroupId, in.IpProtocol, in.PortRange, in.SourceCidrIp, in.Priority = n.group, "TCP", "80/80", "10.0.0.0/8", "7"
	must(c.ecs.AuthorizeSecurityGroup(in))(t)
	out := ecs.CreateAuthorizeSecurityGroupEgressRequest()
	out.SecurityGroupId, out.IpProtocol, out.PortRange, out.DestCidrIp = n.group, "UDP", "53/53", "10.0.0.0/8"
	must(c.ecs.AuthorizeSecurityGroupEgress(out))(t)

	m := ecs.CreateModifySecurityGroupRuleRequest()
	m.SecurityGroupId, m.SecurityGroupRuleId, m.Ipv6SourceCidrIp, m.Description = n.group, rules("ingress")[0].SecurityGroupRuleId, "2001:db8::/32", "new"
	must(c.ecs.ModifySecurityGroupRule(m))(t)
	if got := rules("ingress"); len(got) != 1 || got[0].SecurityGroupRuleId != m.SecurityGroupRuleId || got[0].Ipv6SourceCidrIp != "2001:db8::/32" ||
		got[0].SourceCidrIp != "" || got[0].PortRange != "80/80" || got[0].Priority != "7" || got[0].Description != "new" {
		t.Errorf("ingress %+v", got)
	}
	e := ecs.CreateModifySecurityGroupEgressRuleRequest()
	e.SecurityGroupId, e.SecurityGroupRuleId, e.IpProtocol = n.group, rules("egress")[0].SecurityGroupRuleId, "ALL"
	must(c.ecs.ModifySecurityGroupEgressRule(e))(t)
	if got := rules("egress"); len(got) != 1 || got[0].IpProtocol != "ALL" || got[0].PortRange != "-1/-1" || got[0].DestCidrIp != "10.0.0.0/8" {
		t.Errorf("egress %+v", got)
	}
	// Without an id the rule is found by its fields, and its description is changed.
	d := ecs.CreateModifySecurityGroupEgressRuleRequest()
	d.SecurityGroupId, d.IpProtocol, d.PortRange, d.DestCidrIp, d.Description = n.group, "ALL", "-1/-1", "10.0.0.0/8", "dns"
	must(c.ecs.ModifySecurityGroupEgressRule(d))(t)
	if got := rules("egress"); len(got) != 1 || got[0].Description != "dns" {
		t.Errorf("egress %+v", got)
	}
	m.SecurityGroupRuleId = e.SecurityGroupRuleId // of the other direction
	_, err := c.ecs.ModifySecurityGroupRule(m)
	wantError(t, err, "SecurityGroupRule.NotFound", 404)
}

// An EIP is allocated, listed and released across a restart; it cannot be associated.
func TestEIPs(t *testing.T) {
	s := start(t, func(o *vpcsim.Options) { o.StateDir = t.TempDir() })
	c := connect(t, s)
	r := vpc.CreateAllocateEipAddressRequest()
	r.Name, r.ClientToken = "mine", "token-1"
	made := must(c.vpc.AllocateEipAddress(r))(t)
	if again := must(c.vpc.AllocateEipAddress(r))(t); again.AllocationId != made.AllocationId || !inside(t, "203.0.113.0/24", made.EipAddress) {
		t.Errorf("made %+v, then %+v", made, again)
	}
	s = reopen(t, s)
	c = connect(t, s)
	list := vpc.CreateDescribeEipAddressesRequest()
	list.EipAddress = made.EipAddress
	if got := must(c.vpc.DescribeEipAddresses(list))(t).EipAddresses.EipAddress; len(got) != 1 || got[0].AllocationId != made.AllocationId || got[0].Status != "Available" || got[0].Name != "mine" {
		t.Errorf("EIPs %+v", got)
	}
	use := vpc.CreateAssociateEipAddressRequest()
	use.AllocationId, use.InstanceId = made.AllocationId, "i-1"
	_, err := c.vpc.AssociateEipAddress(use)
	wantError(t, err, "UnsupportedOperation", 400)
	release := vpc.CreateReleaseEipAddressRequest()
	release.AllocationId = made.AllocationId
	must(c.vpc.ReleaseEipAddress(release))(t)
	_, err = c.vpc.ReleaseEipAddress(release)
	wantError(t, err, "InvalidAllocationId.NotFound", 404)
}

// Codes and statuses from the service's documentation.
func TestCodesOfTheReference(t *testing.T) {
	s := start(t)
	c := connect(t, s)
	n := makeNetwork(t, c)
	node, id := runInstance(t, c, n), makeENI(t, c, n)
	taken := eni(t, c, id).PrivateIpAddress
	type p = map[string]string
	create := func(more p) p {
		all := p{"VSwitchId": n.vswitch, "SecurityGroupId": n.group}
		maps.Copy(all, more)
		return all
	}
	tags := p{}
	for i := range 21 {
		tags[fmt.Sprintf("Tag.%d.Key", i+1)] = fmt.Sprint("k", i)
	}
	ids := make([]string, 101)
	for i := range ids {
		ids[i] = "i-x"
	}
	many := string(must(json.Marshal(ids))(t))
	for _, x := range []struct {
		version, action string
		params          p
		code            string
		status          int
	}{
		{ecsVersion, "CreateNetworkInterface", create(p{"PrimaryIpAddress": "not-an-address"}), "InvalidIp.Address", 403},
		{ecsVersion, "CreateNetworkInterface", create(p{"PrimaryIpAddress": taken}), "InvalidIp.IpRepeated", 403},
		{ecsVersion, "CreateNetworkInterface", create(tags), "QuotaExceed.Tags", 403},
		{ecsVersion, "CreateNetworkInterface", create(p{"InstanceType": "Foo"}), "InvalidParameter", 400},
		{ecsVersion, "CreateNetworkInterface", create(p{"NetworkInterfaceTrafficMode": "HighPerformance"}), "UnsupportedParameter", 400},
		{ecsVersion, "CreateNetworkInterface", create(p{"Ipv6PrefixCount": "1"}), "UnsupportedParameter", 400},
		{ecsVersion, "CreateNetworkInterface", create(p{"ClientToken": "é"}), "InvalidParameter.ClientToken", 400},
		{ecsVersion, "AttachNetworkInterface", p{"NetworkInterfaceId": id, "InstanceId": node, "NetworkCardIndex": "1"}, "UnsupportedParameter", 400},
		{ecsVersion, "AssignPrivateIpAddresses", p{"NetworkInterfaceId": id, "PrivateIpAddress.1": "x"}, "InvalidParameter", 400},
		{ecsVersion, "AssignIpv6Addresses", p{"NetworkInterfaceId": id, "Ipv6Address.1": "x"}, "InvalidIp.Address", 403},
		{ecsVersion, "DescribeNetworkInterfaces", p{"Type": "Foo"}, "InvalidParameter", 400},
		{ecsVersion, "DescribeNetworkInterfaces", p{"Status": "inuse"}, "InvalidParameter", 400},
		{ecsVersion, "DescribeInstances", p{"InstanceIds": many}, "InvalidParameter", 400},
		{ecsVersion, "DescribeInstances", p{"DryRun": "true"}, "DryRunOperation", 400},
		{ecsVersion, "DescribeInstances", p{"InstanceNetworkType": "x"}, "InvalidNetworkType.NotFound", 404},
		{ecsVersion, "DescribeSecurityGroups", p{"DryRun": "true"}, "DryRunOperation", 400},
		{ecsVersion, "DescribeImages", p{"DryRun": "true"}, "DryRunOperation", 400},
		{vpcVersion, "DescribeVpcs", p{"DryRun": "true"}, "DryRunOperation", 400},
		{vpcVersion, "DescribeVSwitches", p{"DryRun": "true"}, "DryRunOperation", 400},
		{vpcVersion, "DescribeVSwitchAttributes", p{"DryRun": "true", "VSwitchId": n.vswitch}, "DryRunOperation", 400},
		{vpcVersion, "DescribeEipAddresses", p{"DryRun": "true"}, "DryRunOperation", 400},
		{vpcVersion, "DescribeVpcs", p{"DryRun": "x"}, "InvalidParameter", 400},
		{ecsVersion, "TagResources", p{"ResourceId.1": id, "Tag.1.Key": "k"}, "MissingParameter.ResourceType", 404},
		{vpcVersion, "CreateRouteEntry", p{"RouteTableId": n.table, "DestinationCidrBlock": "10.9.0.0/16", "NextHopType": "NatGateway", "NextHopId": "ngw-1"}, "InvalidNextHopId.NotFound", 404},
		{vpcVersion, "CreateRouteEntry", p{"RouteTableId": n.table, "DestinationCidrBlock": "10.9.0.0/16", "NextHopType": "Gate", "NextHopId": "x"}, "InvalidNextHopType", 400},
		{ecsVersion, "DescribeSecurityGroupReferences", p{"SecurityGroupId.1": "sg-none"}, "InvalidSecurityGroupId.NotFound", 404},
		{ecsVersion, "DescribeAvailableResource", nil, "MissingParameter", 400},
		{"2022-05-30", "CreateElasticNetworkInterface", nil, "NoSuchVersion", 400}, // EFLO
		{ecsVersion, "CreateDisk", nil, "InvalidAction.NotFound", 404},
	} {
		t.Run(x.action+" "+x.code, func(t *testing.T) {
			_, err := raw(t, c, x.version, x.action, x.params)
			wantError(t, err, x.code, x.status)
		})
	}
}

// Filters with a value that nothing has return nothing, instead of being ignored.
func TestFiltersThatFindNothing(t *testing.T) {
	s := start(t)
	c := connect(t, s)
	n := makeNetwork(t, c)
	runInstance(t, c, n)
	for _, x := range []struct{ version, action, filter, value string }{
		{ecsVersion, "DescribeInstances", "InstanceNetworkType", "classic"},
		{ecsVersion, "DescribeInstances", "ImageId", "another"},
		{ecsVersion, "DescribeNetworkInterfaces", "ServiceManaged", "true"},
		{ecsVersion, "DescribeSecurityGroups", "NetworkType", "classic"},
		{vpcVersion, "DescribeVpcs", "IsDefault", "true"},
		{vpcVersion, "DescribeVpcs", "EnableIpv6", "true"},
		{vpcVersion, "DescribeVSwitches", "IsDefault", "true"},
		{vpcVersion, "DescribeVSwitches", "EnableIpv6", "true"},
	} {
		for _, found := range []bool{true, false} {
			params := map[string]string{}
			if !found {
				params[x.filter] = x.value
			}
			var answer struct{ TotalCount int }
			if err := json.Unmarshal([]byte(must(raw(t, c, x.version, x.action, params))(t)), &answer); err != nil {
				t.Fatal(err)
			}
			if (answer.TotalCount > 0) != found {
				t.Errorf("%s with %v: %d", x.action, params, answer.TotalCount)
			}
		}
	}
}
