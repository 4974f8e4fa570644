package openapi

import (
	"strings"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/vpcsim/state"
)

// instanceActions returns the instance operations.
func instanceActions() actions {
	return actions{
		"RunInstances": create(state.API.RunInstances, func(ids []string) obj {
			return obj{"InstanceIdSets": in("InstanceIdSet", same, ids)}
		}),
		"CreateInstance": create(state.API.CreateInstance, func(id string) obj {
			return obj{"InstanceId": id}
		}),
		"StartInstance":           change(state.API.StartInstance),
		"StopInstance":            change(state.API.StopInstance),
		"RebootInstance":          change(state.API.RebootInstance),
		"DeleteInstance":          change(state.API.DeleteInstance),
		"DeleteInstances":         change(state.API.DeleteInstances),
		"ModifyInstanceAttribute": change(state.API.ModifyInstanceAttribute),
		"AttachInstanceRamRole":   {writes: true, run: attachRole},
		"DescribeInstanceRamRole": {run: describeRoles},
		"DescribeInstances":       {dryRun: true, run: describeInstances},
		"DescribeInstanceStatus":  {run: describeInstanceStatus},
		"DescribeInstanceAttribute": {run: func(c *call) (obj, error) {
			id, e := c.required("InstanceId")
			if e != nil {
				return nil, e
			}
			i, err := c.api.DescribeInstanceAttribute(id)
			if err != nil {
				return nil, err
			}
			types, err := typesOf(c.api, []state.Instance{*i})
			if err != nil {
				return nil, err
			}
			return showInstance(*i, types).merge(obj{
				"EnableJumboFrame": i.EnableJumboFrame,
				// A string here, a bool in DescribeInstances.
				"IoOptimized": "optimized",
			}).only(
				"Cpu", "Memory", "CreationTime", "Description", "EnableJumboFrame", "HostName", "ImageId",
				"InstanceChargeType", "InstanceId", "InstanceName", "InstanceNetworkType", "InstanceType",
				"IoOptimized", "RegionId", "SecurityGroupIds", "SerialNumber", "Status", "VpcAttributes", "ZoneId"), nil
		}},
		"DescribeInstanceTypes": list(state.API.DescribeInstanceTypes, typePaging,
			func(t catalog.Type) string { return t.Name }, "InstanceTypes", "InstanceType", showType),
	}
}

func instanceKey(i state.Instance) string { return i.InstanceId }

// instancePage selects ids and copies only the page: there may be thousands of instances with
// their ENIs.
func instancePage(c *call, p paging, r state.DescribeInstancesRequest) (*page[string], []state.Instance, error) {
	ids, err := c.api.SelectInstances(r)
	if err != nil {
		return nil, nil, err
	}
	pg, e := paginate(c, p, ids, same)
	if e != nil {
		return nil, nil, e
	}
	list := make([]state.Instance, len(pg.items))
	for n, id := range pg.items {
		i, err := c.api.DescribeInstanceAttribute(id)
		if err != nil {
			return nil, nil, err
		}
		list[n] = *i
	}
	return pg, list, nil
}

func describeInstances(c *call) (obj, error) {
	var r state.DescribeInstancesRequest
	if e := decode(c.params, &r); e != nil {
		return nil, e
	}
	pg, list, err := instancePage(c, instancePaging, r)
	if err != nil {
		return nil, err
	}
	types, err := typesOf(c.api, list)
	if err != nil {
		return nil, err
	}
	return pg.fields(obj{"Instances": in("Instance", func(i state.Instance) obj {
		return showInstance(i, types)
	}, list)}), nil
}

func describeInstanceStatus(c *call) (obj, error) {
	var r struct {
		InstanceId []string
		ZoneId     string
	}
	if e := decode(c.params, &r); e != nil {
		return nil, e
	}
	pg, list, err := instancePage(c, statusPaging, state.DescribeInstancesRequest{InstanceIds: r.InstanceId, ZoneId: r.ZoneId})
	if err != nil {
		return nil, err
	}
	return pg.fields(obj{"InstanceStatuses": in("InstanceStatus", func(i state.Instance) obj {
		return obj{"InstanceId": i.InstanceId, "Status": string(i.Status)}
	}, list)}), nil
}

func attachRole(c *call) (obj, error) {
	var r state.AttachInstanceRamRoleRequest
	if e := decode(c.params, &r); e != nil {
		return nil, e
	}
	if err := c.api.AttachInstanceRamRole(r); err != nil {
		return nil, err
	}
	return obj{
		"RamRoleName": r.RamRoleName, "TotalCount": len(r.InstanceIds), "FailCount": 0,
		"AttachInstanceRamRoleResults": in("AttachInstanceRamRoleResult", func(id string) obj {
			return obj{"InstanceId": id, "Success": true, "Code": "200", "Message": "success"}
		}, r.InstanceIds),
	}, nil
}

func describeRoles(c *call) (obj, error) {
	var r struct {
		InstanceIds []string
		RamRoleName string
	}
	if e := decode(c.params, &r); e != nil {
		return nil, e
	}
	all, err := c.api.DescribeInstances(state.DescribeInstancesRequest{InstanceIds: r.InstanceIds})
	if err != nil {
		return nil, err
	}
	var having []state.Instance
	for _, i := range all {
		if i.RamRoleName != "" && (r.RamRoleName == "" || i.RamRoleName == r.RamRoleName) {
			having = append(having, i)
		}
	}
	pg, e := paginate(c, statusPaging, having, instanceKey)
	if e != nil {
		return nil, e
	}
	return obj{"RegionId": c.region, "TotalCount": pg.total,
		"InstanceRamRoleSets": in("InstanceRamRoleSet", func(i state.Instance) obj {
			return obj{"InstanceId": i.InstanceId, "RamRoleName": i.RamRoleName}
		}, pg.items)}, nil
}

// typesOf returns the types of instances; DescribeInstanceTypes accepts ten names in a call.
func typesOf(api state.API, list []state.Instance) (map[string]catalog.Type, error) {
	types := map[string]catalog.Type{}
	for _, i := range list {
		if _, ok := types[i.InstanceType]; ok {
			continue
		}
		found, err := api.DescribeInstanceTypes(state.DescribeInstanceTypesRequest{InstanceTypes: []string{i.InstanceType}})
		if err != nil {
			return nil, err
		}
		for _, t := range found {
			types[t.Name] = t
		}
	}
	return types, nil
}

func showInstance(i state.Instance, types map[string]catalog.Type) obj {
	t := types[i.InstanceType]
	return obj{
		"InstanceId":          i.InstanceId,
		"InstanceName":        i.InstanceName,
		"HostName":            i.HostName,
		"Description":         i.Description,
		"SerialNumber":        i.SerialNumber,
		"InstanceType":        i.InstanceType,
		"InstanceTypeFamily":  t.Family,
		"InstanceNetworkType": "vpc",
		"InstanceChargeType":  "PostPaid",
		"InternetChargeType":  "PayByTraffic",
		"SpotStrategy":        "NoSpot",
		"ExpiredTime":         "2099-12-31T15:59Z", // the service's value for PostPaid
		"Status":              string(i.Status),
		"RegionId":            i.RegionId,
		"ZoneId":              i.ZoneId,
		"ImageId":             i.ImageId,
		"KeyPairName":         i.KeyPairName,
		"IoOptimized":         true,
		"DeviceAvailable":     true,
		"Recyclable":          false,
		"DeletionProtection":  i.DeletionProtection,
		"OSType":              "linux",
		"Cpu":                 t.VCPU.N,
		"Memory":              int(t.MemoryGiB * 1024),
		"ResourceGroupId":     i.ResourceGroupId,
		"CreationTime":        stamp(i.CreationTime),
		"StartTime":           stamp(i.StartTime),
		"SecurityGroupIds":    in("SecurityGroupId", same, i.SecurityGroupIds),
		"InnerIpAddress":      obj{"IpAddress": []string{}},
		"PublicIpAddress":     obj{"IpAddress": []string{}},
		"EipAddress":          obj{"AllocationId": "", "IpAddress": "", "InternetChargeType": ""},
		"OperationLocks":      obj{"LockReason": []obj{}},
		"MetadataOptions": obj{
			"HttpEndpoint": i.HttpEndpoint, "HttpTokens": i.HttpTokens, "HttpPutResponseHopLimit": i.HttpPutResponseHopLimit,
		},
		"VpcAttributes": obj{
			"VpcId": i.VpcId, "VSwitchId": i.VSwitchId, "NatIpAddress": "",
			"PrivateIpAddress": obj{"IpAddress": []string{addr(i.PrimaryIpAddress)}},
		},
		"NetworkInterfaces": in("NetworkInterface", func(n state.NetworkInterface) obj {
			return obj{
				"NetworkInterfaceId": n.NetworkInterfaceId, "MacAddress": n.MacAddress, "Type": n.Type,
				"PrimaryIpAddress": addr(n.PrimaryIpAddress),
				"PrivateIpSets":    privateIPSets(n),
				"Ipv4PrefixSets":   prefixSets(n.Ipv4Prefixes),
				"Ipv6Sets":         ipv6Sets(n.Ipv6Addresses),
				"Ipv6PrefixSets":   obj{"Ipv6PrefixSet": []obj{}},
			}
		}, i.NetworkInterfaces),
		"Tags": ecsTags(i.Tags),
	}
}

// showType formats a type. Numbers that the catalog does not have are left out, so that clients
// read zero, as with the real service.
func showType(t catalog.Type) obj {
	o := obj{
		"InstanceTypeId":      t.Name,
		"InstanceTypeFamily":  t.Family,
		"MemorySize":          t.MemoryGiB,
		"EniTrunkSupported":   t.Trunk,
		"JumboFrameSupport":   t.JumboFrames(),
		"InstanceBandwidthRx": t.BandwidthKbit(),
		"InstanceBandwidthTx": t.BandwidthKbit(),
		"CpuArchitecture":     "X86",
		"NetworkCardQuantity": 1,
		"NetworkCards":        obj{"NetworkCardInfo": []obj{{"NetworkCardIndex": 0}}},
	}
	// The suffix of families with Arm processors: g6r (Ampere), g8y (Yitian).
	if strings.HasSuffix(t.Family, "r") || strings.HasSuffix(t.Family, "y") {
		o["CpuArchitecture"] = "ARM"
	}
	for field, n := range map[string]catalog.Count{
		"CpuCoreCount":                t.VCPU,
		"EniQuantity":                 t.ENIs,
		"EniPrivateIpAddressQuantity": t.IPv4PerENI,
		"EniIpv6AddressQuantity":      t.IPv6PerENI,
		"EniTotalQuantity":            t.ENITotal,
		"PrimaryEniQueueNumber":       t.Queues,
		"SecondaryEniQueueNumber":     t.Queues,
		"MaximumQueueNumberPerEni":    t.Queues,
	} {
		if n.Known {
			o[field] = n.N
		}
	}
	return o
}
