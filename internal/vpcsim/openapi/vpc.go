package openapi

import (
	"maps"

	"terway.dev/terway/internal/vpcsim/state"
)

// vpcName is the product's name.
const vpcName = "Vpc"

// vpcProduct returns VPC 2016-04-28.
func vpcProduct() product {
	return product{name: vpcName, version: "2016-04-28", actions: vpcActions(), perMinute: map[string]int{
		"DescribeVSwitches": 300,
	}}
}

// vpcActions returns the operations of VPC 2016-04-28.
func vpcActions() actions {
	a := actions{
		"CreateVpc": create(state.API.CreateVpc, func(r *state.CreateVpcResult) obj {
			return obj{"VpcId": r.VpcId, "VRouterId": r.VRouterId, "RouteTableId": r.RouteTableId, "ResourceGroupId": r.ResourceGroupId}
		}),
		"DeleteVpc":               change(state.API.DeleteVpc),
		"ModifyVpcAttribute":      change(state.API.ModifyVpcAttribute),
		"AssociateVpcCidrBlock":   change(state.API.AssociateVpcCidrBlock),
		"UnassociateVpcCidrBlock": change(state.API.UnassociateVpcCidrBlock),
		"DescribeVpcs": list(state.API.DescribeVpcs, vpcPaging,
			func(v state.VPC) string { return v.VpcId }, "Vpcs", "Vpc", showVPC),
		"DescribeVpcAttribute": {run: func(c *call) (obj, error) {
			id, e := c.required("VpcId")
			if e != nil {
				return nil, e
			}
			v, err := c.api.DescribeVpcAttribute(id)
			if err != nil {
				return nil, err
			}
			o := showVPC(*v)
			delete(o, "RouterTableIds")
			delete(o, "NatGatewayIds")
			return o.merge(obj{
				"ClassicLinkEnabled": false,
				"AssociatedCens":     obj{"AssociatedCen": []obj{}},
				"CloudResources": obj{"CloudResourceSetType": []obj{
					{"ResourceType": "VSwitch", "ResourceCount": len(v.VSwitchIds)},
					{"ResourceType": "VRouter", "ResourceCount": 1},
					{"ResourceType": "RouteTable", "ResourceCount": len(v.RouteTableIds)},
				}},
			}), nil
		}},
		"CreateVSwitch": create(state.API.CreateVSwitch, func(id string) obj {
			return obj{"VSwitchId": id}
		}),
		"DeleteVSwitch":          change(state.API.DeleteVSwitch),
		"ModifyVSwitchAttribute": change(state.API.ModifyVSwitchAttribute),
		"DescribeVSwitches": list(state.API.DescribeVSwitches, vpcPaging,
			func(v state.VSwitch) string { return v.VSwitchId }, "VSwitches", "VSwitch", showVSwitch),
		"DescribeVSwitchAttributes": {run: func(c *call) (obj, error) {
			id, e := c.required("VSwitchId")
			if e != nil {
				return nil, e
			}
			v, err := c.api.DescribeVSwitchAttributes(id)
			if err != nil {
				return nil, err
			}
			return showVSwitch(*v).merge(obj{"CloudResources": obj{"CloudResourceSetType": []obj{}}}), nil
		}},
		"CheckCanAllocateVpcPrivateIpAddress": {run: func(c *call) (obj, error) {
			var r state.CheckCanAllocateVpcPrivateIpAddressRequest
			if e := decode(c.params, &r); e != nil {
				return nil, e
			}
			ok, err := c.api.CheckCanAllocateVpcPrivateIpAddress(r)
			return obj{"CanAllocate": ok}, err
		}},
		"DescribeRegions": {run: func(c *call) (obj, error) {
			return obj{"Regions": in("Region", func(r state.Region) obj {
				return obj{"RegionId": r.RegionId, "LocalName": r.LocalName, "RegionEndpoint": c.host}
			}, c.api.DescribeRegions())}, nil
		}},
		"DescribeZones": {run: func(c *call) (obj, error) {
			return obj{"Zones": in("Zone", func(z state.Zone) obj {
				return obj{"ZoneId": z.ZoneId, "LocalName": z.LocalName, "ZoneType": "AvailabilityZone"}
			}, c.api.DescribeZones())}, nil
		}},
	}
	for _, more := range []actions{routeActions(), tagActions("", "TagResource"), publicActions()} {
		maps.Copy(a, more)
	}
	for _, name := range []string{"DescribeVpcs", "DescribeVpcAttribute", "DescribeVSwitches", "DescribeVSwitchAttributes"} {
		x := a[name]
		x.dryRun = true
		a[name] = x
	}
	return a
}

func showVPC(v state.VPC) obj {
	v6 := []obj{}
	if v.Ipv6CidrBlock.IsValid() {
		v6 = append(v6, obj{"Ipv6CidrBlock": prefix(v.Ipv6CidrBlock), "Ipv6Isp": "BGP"})
	}
	return obj{
		"VpcId":               v.VpcId,
		"VpcName":             v.VpcName,
		"Description":         v.Description,
		"RegionId":            v.RegionId,
		"Status":              v.Status,
		"CidrBlock":           prefix(v.CidrBlock),
		"SecondaryCidrBlocks": in("SecondaryCidrBlock", prefix, v.SecondaryCidrBlocks),
		"UserCidrs":           in("UserCidr", prefix, v.UserCidrs),
		"EnabledIpv6":         v.Ipv6CidrBlock.IsValid(),
		"Ipv6CidrBlock":       prefix(v.Ipv6CidrBlock),
		"Ipv6CidrBlocks":      in("Ipv6CidrBlock", same, v6),
		"VRouterId":           v.VRouterId,
		"RouterTableIds":      in("RouterTableIds", same, v.RouteTableIds),
		"VSwitchIds":          in("VSwitchId", same, v.VSwitchIds),
		"NatGatewayIds":       obj{"NatGatewayIds": []string{}},
		"IsDefault":           false,
		"ResourceGroupId":     v.ResourceGroupId,
		"CreationTime":        stamp(v.CreationTime),
		"Tags":                vpcTags(v.Tags),
	}
}

func showVSwitch(v state.VSwitch) obj {
	return obj{
		"VSwitchId":               v.VSwitchId,
		"VSwitchName":             v.VSwitchName,
		"Description":             v.Description,
		"VpcId":                   v.VpcId,
		"ZoneId":                  v.ZoneId,
		"Status":                  v.Status,
		"CidrBlock":               prefix(v.CidrBlock),
		"EnabledIpv6":             v.Ipv6CidrBlock.IsValid(),
		"Ipv6CidrBlock":           prefix(v.Ipv6CidrBlock),
		"AvailableIpAddressCount": v.AvailableIpAddressCount,
		"IsDefault":               false,
		"RouteTable":              obj{"RouteTableId": v.RouteTableId},
		"NetworkAclId":            "",
		"ResourceGroupId":         v.ResourceGroupId,
		"CreationTime":            stamp(v.CreationTime),
		"Tags":                    vpcTags(v.Tags),
	}
}
