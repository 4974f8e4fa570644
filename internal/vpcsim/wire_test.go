package vpcsim_test

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/ecs"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/location"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/sts"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/vpc"
)

// raw makes a call and returns the text of the answer.
func raw(t *testing.T, c clients, version, action string, params map[string]string) (string, error) {
	t.Helper()
	r := requests.NewCommonRequest()
	r.Domain, r.Version, r.ApiName, r.Scheme = c.ecs.Domain, version, action, "http"
	maps.Copy(r.QueryParams, params)
	a, err := c.ecs.ProcessCommonRequest(r)
	if err != nil {
		return "", err
	}
	return a.GetHttpContentString(), nil
}

const (
	ecsVersion      = "2014-05-26"
	vpcVersion      = "2016-04-28"
	locationVersion = "2015-06-12"
	stsVersion      = "2015-04-01"
)

// Every field of every answer exists in the official SDK, at the same place and with the same
// type: decoding refuses any other.
func TestEveryFieldIsTheSDKs(t *testing.T) {
	s := start(t)
	c := connect(t, s)
	do := func(version, action string, params map[string]string) map[string]any {
		t.Helper()
		text, err := raw(t, c, version, action, params)
		if err != nil {
			t.Fatalf("%s: %v", action, err)
		}
		var v map[string]any
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			t.Fatalf("%s: %v", action, err)
		}
		return v
	}
	id := func(v map[string]any, name string) string { return v[name].(string) }
	type p = map[string]string

	// One of everything.
	vpcID := id(do(vpcVersion, "CreateVpc", p{"CidrBlock": "10.0.0.0/8", "EnableIpv6": "true", "VpcName": "v"}), "VpcId")
	eventually(t, "the VPC is Available", func() bool {
		return do(vpcVersion, "DescribeVpcAttribute", p{"VpcId": vpcID})["Status"] == "Available"
	})
	do(vpcVersion, "AssociateVpcCidrBlock", p{"VpcId": vpcID, "SecondaryCidrBlock": "172.16.0.0/16"})
	eventually(t, "the VPC is Available again", func() bool {
		return do(vpcVersion, "DescribeVpcAttribute", p{"VpcId": vpcID})["Status"] == "Available"
	})
	table := do(vpcVersion, "DescribeVpcs", p{"VpcId": vpcID})["Vpcs"].(map[string]any)["Vpc"].([]any)[0].(map[string]any)["RouterTableIds"].(map[string]any)["RouterTableIds"].([]any)[0].(string)
	swID := id(do(vpcVersion, "CreateVSwitch", p{"VpcId": vpcID, "CidrBlock": "10.1.0.0/24", "ZoneId": "cn-hangzhou-i", "Ipv6CidrBlock": "1"}), "VSwitchId")
	eventually(t, "the vSwitch is Available", func() bool {
		return do(vpcVersion, "DescribeVSwitchAttributes", p{"VSwitchId": swID})["Status"] == "Available"
	})
	group := id(do(ecsVersion, "CreateSecurityGroup", p{"VpcId": vpcID, "SecurityGroupName": "g"}), "SecurityGroupId")
	other := id(do(ecsVersion, "CreateSecurityGroup", p{"VpcId": vpcID, "SecurityGroupName": "other"}), "SecurityGroupId")
	do(ecsVersion, "AuthorizeSecurityGroup", p{"SecurityGroupId": group, "IpProtocol": "tcp", "PortRange": "80/80", "SourceCidrIp": "10.0.0.0/8"})
	do(ecsVersion, "AuthorizeSecurityGroup", p{"SecurityGroupId": group,
		"Permissions.1.IpProtocol": "TCP", "Permissions.1.PortRange": "443/443", "Permissions.1.Ipv6SourceCidrIp": "::/0",
		"Permissions.2.IpProtocol": "ALL", "Permissions.2.PortRange": "-1/-1", "Permissions.2.SourceGroupId": other})
	do(ecsVersion, "AuthorizeSecurityGroupEgress", p{"SecurityGroupId": group, "IpProtocol": "udp", "PortRange": "53/53", "DestCidrIp": "10.0.0.0/8"})
	node := do(ecsVersion, "RunInstances", p{"InstanceType": "ecs.g7.xlarge", "VSwitchId": swID, "SecurityGroupId": group,
		"ImageId": "x", "RamRoleName": "r", "Tag.1.Key": "k", "Tag.1.Value": "v"})["InstanceIdSets"].(map[string]any)["InstanceIdSet"].([]any)[0].(string)
	eniID := id(do(ecsVersion, "CreateNetworkInterface", p{"VSwitchId": swID, "SecurityGroupIds.1": group, "Ipv6AddressCount": "1",
		"Ipv4PrefixCount": "1", "Tag.1.Key": "k", "Tag.1.Value": "v"}), "NetworkInterfaceId")
	waitENI(t, c, eniID, "Available")
	eventually(t, "the instance is Running", func() bool { return instance(t, c, node).Status == "Running" })
	do(ecsVersion, "AttachNetworkInterface", p{"NetworkInterfaceId": eniID, "InstanceId": node})
	waitENI(t, c, eniID, "InUse")
	trunk := id(do(ecsVersion, "CreateNetworkInterface", p{"VSwitchId": swID, "SecurityGroupIds.1": group, "InstanceType": "Trunk"}), "NetworkInterfaceId")
	do(ecsVersion, "AttachNetworkInterface", p{"NetworkInterfaceId": trunk, "InstanceId": node})
	waitENI(t, c, trunk, "InUse")
	member := id(do(ecsVersion, "CreateNetworkInterface", p{"VSwitchId": swID, "SecurityGroupIds.1": group}), "NetworkInterfaceId")
	do(ecsVersion, "AttachNetworkInterface", p{"NetworkInterfaceId": member, "InstanceId": node, "TrunkNetworkInstanceId": trunk})
	waitENI(t, c, member, "InUse")
	do(vpcVersion, "TagResources", p{"ResourceType": "VSWITCH", "ResourceId.1": swID, "Tag.1.Key": "k", "Tag.1.Value": "v"})

	strict := func(name, text string, into any) {
		t.Helper()
		d := json.NewDecoder(strings.NewReader(text))
		d.DisallowUnknownFields()
		if err := d.Decode(into); err != nil {
			t.Errorf("%s: %v\n%s", name, err, text)
		}
	}
	for _, x := range []struct {
		version, action string
		params          p
		into            any
	}{
		{ecsVersion, "DescribeRegions", nil, ecs.CreateDescribeRegionsResponse()},
		{ecsVersion, "DescribeZones", nil, ecs.CreateDescribeZonesResponse()},
		{ecsVersion, "DescribeNetworkInterfaces", nil, ecs.CreateDescribeNetworkInterfacesResponse()},
		{ecsVersion, "DescribeNetworkInterfaceAttribute", p{"NetworkInterfaceId": eniID}, ecs.CreateDescribeNetworkInterfaceAttributeResponse()},
		{ecsVersion, "CreateNetworkInterface", p{"VSwitchId": swID, "SecurityGroupId": group}, ecs.CreateCreateNetworkInterfaceResponse()},
		{ecsVersion, "AssignPrivateIpAddresses", p{"NetworkInterfaceId": eniID, "SecondaryPrivateIpAddressCount": "1"}, ecs.CreateAssignPrivateIpAddressesResponse()},
		{ecsVersion, "AssignIpv6Addresses", p{"NetworkInterfaceId": eniID, "Ipv6AddressCount": "1"}, ecs.CreateAssignIpv6AddressesResponse()},
		{ecsVersion, "DescribeInstances", nil, ecs.CreateDescribeInstancesResponse()},
		{ecsVersion, "DescribeInstances", p{"MaxResults": "10"}, ecs.CreateDescribeInstancesResponse()},
		{ecsVersion, "DescribeInstanceAttribute", p{"InstanceId": node}, ecs.CreateDescribeInstanceAttributeResponse()},
		{ecsVersion, "DescribeInstanceStatus", nil, ecs.CreateDescribeInstanceStatusResponse()},
		{ecsVersion, "DescribeInstanceRamRole", nil, ecs.CreateDescribeInstanceRamRoleResponse()},
		{ecsVersion, "AttachInstanceRamRole", p{"InstanceIds": `["` + node + `"]`, "RamRoleName": "r"}, ecs.CreateAttachInstanceRamRoleResponse()},
		{ecsVersion, "DescribeInstanceTypes", p{"InstanceTypes.1": "ecs.g7.xlarge"}, ecs.CreateDescribeInstanceTypesResponse()},
		{ecsVersion, "DescribeSecurityGroups", nil, ecs.CreateDescribeSecurityGroupsResponse()},
		{ecsVersion, "DescribeSecurityGroupAttribute", p{"SecurityGroupId": group}, ecs.CreateDescribeSecurityGroupAttributeResponse()},
		{ecsVersion, "ListTagResources", p{"ResourceType": "eni", "ResourceId.1": eniID}, ecs.CreateListTagResourcesResponse()},
		{vpcVersion, "DescribeRegions", nil, vpc.CreateDescribeRegionsResponse()},
		{vpcVersion, "DescribeZones", nil, vpc.CreateDescribeZonesResponse()},
		{vpcVersion, "DescribeVpcs", nil, vpc.CreateDescribeVpcsResponse()},
		{vpcVersion, "DescribeVpcAttribute", p{"VpcId": vpcID}, vpc.CreateDescribeVpcAttributeResponse()},
		{vpcVersion, "CreateVpc", p{"CidrBlock": "192.168.0.0/16"}, vpc.CreateCreateVpcResponse()},
		{vpcVersion, "DescribeVSwitches", nil, vpc.CreateDescribeVSwitchesResponse()},
		{vpcVersion, "DescribeVSwitchAttributes", p{"VSwitchId": swID}, vpc.CreateDescribeVSwitchAttributesResponse()},
		{vpcVersion, "DescribeVRouters", nil, vpc.CreateDescribeVRoutersResponse()},
		{vpcVersion, "CreateRouteEntry", p{"RouteTableId": table, "DestinationCidrBlock": "172.20.0.0/24", "NextHopId": node}, vpc.CreateCreateRouteEntryResponse()},
		{vpcVersion, "DescribeRouteTables", p{"VRouterId": ""}, vpc.CreateDescribeRouteTablesResponse()},
		{vpcVersion, "DescribeRouteTableList", p{"VpcId": vpcID}, vpc.CreateDescribeRouteTableListResponse()},
		{vpcVersion, "DescribeRouteEntryList", p{"RouteTableId": table, "MaxResult": "500"}, vpc.CreateDescribeRouteEntryListResponse()},
		{vpcVersion, "CreateRouteEntries", p{
			"RouteEntries.1.RouteTableId": table, "RouteEntries.1.DstCidrBlock": "172.20.1.0/24", "RouteEntries.1.NextHop": node, "RouteEntries.1.NextHopType": "Instance",
			"RouteEntries.2.RouteTableId": table, "RouteEntries.2.DstCidrBlock": "nonsense", "RouteEntries.2.NextHop": node, "RouteEntries.2.NextHopType": "Instance",
		}, vpc.CreateCreateRouteEntriesResponse()},
		{vpcVersion, "ListTagResources", p{"ResourceType": "VSWITCH", "ResourceId.1": swID}, vpc.CreateListTagResourcesResponse()},
		{ecsVersion, "DescribeSecurityGroupReferences", p{"SecurityGroupId.1": other}, ecs.CreateDescribeSecurityGroupReferencesResponse()},
		{ecsVersion, "DescribeImages", nil, ecs.CreateDescribeImagesResponse()},
		{ecsVersion, "DescribeKeyPairs", nil, ecs.CreateDescribeKeyPairsResponse()},
		{ecsVersion, "DescribeDisks", nil, ecs.CreateDescribeDisksResponse()},
		{ecsVersion, "DescribeUserData", p{"InstanceId": node}, ecs.CreateDescribeUserDataResponse()},
		{ecsVersion, "DescribeAvailableResource", p{"DestinationResource": "InstanceType", "Cores": "4"}, ecs.CreateDescribeAvailableResourceResponse()},
		{ecsVersion, "DescribeInstanceTypeFamilies", nil, ecs.CreateDescribeInstanceTypeFamiliesResponse()},
		{ecsVersion, "DescribeAccountAttributes", nil, ecs.CreateDescribeAccountAttributesResponse()},
		{vpcVersion, "DescribeNatGateways", nil, vpc.CreateDescribeNatGatewaysResponse()},
		{vpcVersion, "DescribeHaVips", nil, vpc.CreateDescribeHaVipsResponse()},
		{vpcVersion, "DescribeNetworkAcls", nil, vpc.CreateDescribeNetworkAclsResponse()},
		{vpcVersion, "DescribeCommonBandwidthPackages", nil, vpc.CreateDescribeCommonBandwidthPackagesResponse()},
		{vpcVersion, "AllocateEipAddress", p{"Name": "e"}, vpc.CreateAllocateEipAddressResponse()},
		{vpcVersion, "DescribeEipAddresses", nil, vpc.CreateDescribeEipAddressesResponse()},
		{locationVersion, "DescribeEndpoints", p{"ServiceCode": "ecs", "Id": "cn-hangzhou"}, location.CreateDescribeEndpointsResponse()},
		{stsVersion, "AssumeRole", p{"RoleArn": "acs:ram::1:role/r", "RoleSessionName": "session"}, sts.CreateAssumeRoleResponse()},
		{stsVersion, "GetCallerIdentity", nil, sts.CreateGetCallerIdentityResponse()},
	} {
		// Actions on a VPC wait for the previous one.
		var text string
		eventually(t, x.action+" is not refused as busy", func() bool {
			var err error
			text, err = raw(t, c, x.version, x.action, x.params)
			if err != nil && !strings.Contains(err.Error(), "TaskConflict") && !strings.Contains(err.Error(), "IncorrectVpcStatus") {
				t.Fatalf("%s: %v", x.action, err)
			}
			return err == nil
		})
		strict(x.version+" "+x.action, text, x.into)
	}
}

// Flannel's sequence of calls, all under the ECS version, on an empty path.
func TestFlannelsCalls(t *testing.T) {
	s := start(t)
	c := connect(t, s)
	n := makeNetwork(t, c)
	node := runInstance(t, c, n)
	get := func(into any, action string, params map[string]string) {
		t.Helper()
		text, err := raw(t, c, ecsVersion, action, params)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(text), into); err != nil {
			t.Fatal(err)
		}
	}
	vpcs := vpc.CreateDescribeVpcsResponse()
	get(vpcs, "DescribeVpcs", map[string]string{"VpcId": n.vpc})
	routers := vpc.CreateDescribeVRoutersResponse()
	get(routers, "DescribeVRouters", map[string]string{"VRouterId": vpcs.Vpcs.Vpc[0].VRouterId})
	table := routers.VRouters.VRouter[0].RouteTableIds.RouteTableId[0]
	get(&struct{}{}, "CreateRouteEntry", map[string]string{"RouteTableId": table, "DestinationCidrBlock": "172.20.0.0/24", "NextHopType": "Instance", "NextHopId": node})
	eventually(t, "every entry is Available", func() bool {
		tables := vpc.CreateDescribeRouteTablesResponse()
		get(tables, "DescribeRouteTables", map[string]string{"RouteTableId": table, "VRouterId": vpcs.Vpcs.Vpc[0].VRouterId})
		mine := false
		for _, e := range tables.RouteTables.RouteTable[0].RouteEntrys.RouteEntry {
			if e.Status != "Available" {
				return false
			}
			mine = mine || e.DestinationCidrBlock == "172.20.0.0/24" && e.InstanceId == node && e.Type == "Custom"
		}
		return mine
	})
	get(&struct{}{}, "DeleteRouteEntry", map[string]string{"RouteTableId": table, "DestinationCidrBlock": "172.20.0.0/24", "NextHopId": node})
}
