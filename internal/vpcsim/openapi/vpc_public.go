package openapi

import (
	"strconv"

	"terway.dev/terway/internal/vpcsim/state"
)

// publicActions returns the operations on connections to the internet. The simulated VPC has
// none but by load balancers: EIPs can be allocated, and other resources do not exist.
func publicActions() actions {
	return actions{
		"AllocateEipAddress": create(state.API.AllocateEipAddress, func(e *state.EIP) obj {
			return obj{"AllocationId": e.AllocationId, "EipAddress": addr(e.IpAddress), "ResourceGroupId": e.ResourceGroupId}
		}),
		"ReleaseEipAddress":               change(state.API.ReleaseEipAddress),
		"AssociateEipAddress":             change(state.API.AssociateEipAddress),
		"UnassociateEipAddress":           change(state.API.UnassociateEipAddress),
		"DescribeEipAddresses":            {dryRun: true, run: describeEIPs},
		"DescribeNatGateways":             nothing("NatGateways", "NatGateway", vpcPaging),
		"DescribeHaVips":                  nothing("HaVips", "HaVip", vpcPaging),
		"DescribeNetworkAcls":             {run: describeNetworkACLs},
		"DescribeCommonBandwidthPackages": nothing("CommonBandwidthPackages", "CommonBandwidthPackage", vpcPaging),
	}
}

func describeEIPs(c *call) (obj, error) {
	a := list(state.API.DescribeEipAddresses, eipPaging, func(e state.EIP) string { return e.AllocationId },
		"EipAddresses", "EipAddress", func(e state.EIP) obj {
			kind := ""
			if e.InstanceId != "" {
				kind = "SlbInstance"
			}
			return obj{
				"AllocationId": e.AllocationId, "IpAddress": addr(e.IpAddress), "Name": e.Name, "Description": e.Description,
				"Status": e.Status(), "InstanceId": e.InstanceId, "InstanceType": kind, "RegionId": c.region,
				"Bandwidth": e.Bandwidth, "EipBandwidth": e.Bandwidth, "InternetChargeType": e.InternetChargeType,
				"ChargeType": e.InstanceChargeType, "ISP": e.ISP, "BusinessStatus": "Normal", "Netmode": "public",
				"ResourceGroupId": e.ResourceGroupId, "AllocationTime": stamp(e.AllocationTime), "Tags": vpcTags(nil),
			}
		})
	return a.run(c)
}

// describeNetworkACLs returns an empty list in the service's own form, in which numbers are
// strings.
func describeNetworkACLs(c *call) (obj, error) {
	o, err := nothing("NetworkAcls", "NetworkAcl", vpcPaging).run(c)
	if err != nil {
		return nil, err
	}
	for _, field := range []string{"PageNumber", "PageSize", "TotalCount"} {
		o[field] = strconv.Itoa(o[field].(int))
	}
	return o, nil
}
