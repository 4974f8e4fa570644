package openapi

import (
	"net/netip"

	"terway.dev/terway/internal/vpcsim/state"
)

// eniActions returns the ENI operations of ECS 2014-05-26.
func eniActions() actions {
	return actions{
		"CreateNetworkInterface": create(state.API.CreateNetworkInterface, func(n *state.NetworkInterface) obj {
			return showENI(*n).only("Description", "Ipv4PrefixSets", "Ipv6PrefixSets", "Ipv6Sets", "MacAddress",
				"NetworkInterfaceId", "NetworkInterfaceName", "OwnerId", "PrivateIpAddress", "PrivateIpSets",
				"ResourceGroupId", "SecurityGroupIds", "ServiceManaged", "SourceDestCheck", "Status", "Tags", "Type",
				"VSwitchId", "VpcId", "ZoneId")
		}),
		"AttachNetworkInterface":          change(state.API.AttachNetworkInterface),
		"DetachNetworkInterface":          change(state.API.DetachNetworkInterface),
		"DeleteNetworkInterface":          change(state.API.DeleteNetworkInterface),
		"ModifyNetworkInterfaceAttribute": change(state.API.ModifyNetworkInterfaceAttribute),
		"DescribeNetworkInterfaces":       {run: describeENIs},
		"DescribeNetworkInterfaceAttribute": {run: func(c *call) (obj, error) {
			id, e := c.required("NetworkInterfaceId")
			if e != nil {
				return nil, e
			}
			n, err := c.api.DescribeNetworkInterfaceAttribute(id)
			if err != nil {
				return nil, err
			}
			return showENI(*n).merge(obj{
				"QueuePairNumber":             0,
				"TcpOptionAddressEnabled":     "",
				"NetworkInterfaceTrafficMode": n.NetworkInterfaceTrafficMode,
			}), nil
		}},
		"AssignPrivateIpAddresses": create(state.API.AssignPrivateIpAddresses, func(r *state.AssignPrivateIpAddressesResult) obj {
			return obj{"AssignedPrivateIpAddressesSet": obj{
				"NetworkInterfaceId": r.NetworkInterfaceId,
				"PrivateIpSet":       in("PrivateIpAddress", addr, r.PrivateIpAddress),
				"Ipv4PrefixSet":      in("Ipv4Prefixes", prefix, r.Ipv4Prefix),
			}}
		}),
		"UnassignPrivateIpAddresses": change(state.API.UnassignPrivateIpAddresses),
		"AssignIpv6Addresses": create(state.API.AssignIpv6Addresses, func(r *state.AssignIpv6AddressesResult) obj {
			return obj{
				"NetworkInterfaceId": r.NetworkInterfaceId,
				"Ipv6Sets":           in("Ipv6Address", addr, r.Ipv6Address),
				"Ipv6PrefixSets":     obj{"Ipv6Prefix": []string{}},
			}
		}),
		"UnassignIpv6Addresses": change(state.API.UnassignIpv6Addresses),
	}
}

// describeENIs selects ids and copies only the page: there may be tens of thousands of ENIs.
func describeENIs(c *call) (obj, error) {
	var r state.DescribeNetworkInterfacesRequest
	if e := decode(c.params, &r); e != nil {
		return nil, e
	}
	ids, err := c.api.SelectNetworkInterfaces(r)
	if err != nil {
		return nil, err
	}
	pg, e := paginate(c, eniPaging, ids, same)
	if e != nil {
		return nil, e
	}
	shown := []obj{}
	for _, id := range pg.items {
		n, err := c.api.DescribeNetworkInterfaceAttribute(id)
		if err != nil {
			return nil, err
		}
		shown = append(shown, showENI(*n))
	}
	return pg.fields(obj{"NetworkInterfaceSets": in("NetworkInterfaceSet", same, shown)}), nil
}

func showENI(n state.NetworkInterface) obj {
	attachment := obj{}
	if n.InstanceId != "" {
		index := n.Slot
		if n.Type == state.ENIMember {
			index = n.VlanId // the field in which the service returns the VLAN
		}
		attachment = obj{
			"InstanceId":                n.InstanceId,
			"DeviceIndex":               index,
			"NetworkCardIndex":          n.NetworkCardIndex,
			"TrunkNetworkInterfaceId":   n.TrunkNetworkInterfaceId,
			"MemberNetworkInterfaceIds": in("MemberNetworkInterfaceId", same, n.MemberNetworkInterfaceIds),
			"AttachedTime":              stamp(n.AttachedTime),
		}
	}
	return obj{
		"NetworkInterfaceId":          n.NetworkInterfaceId,
		"NetworkInterfaceName":        n.NetworkInterfaceName,
		"Description":                 n.Description,
		"Type":                        n.Type,
		"Status":                      string(n.Status),
		"MacAddress":                  n.MacAddress,
		"VpcId":                       n.VpcId,
		"VSwitchId":                   n.VSwitchId,
		"ZoneId":                      n.ZoneId,
		"InstanceId":                  n.InstanceId,
		"PrivateIpAddress":            addr(n.PrimaryIpAddress),
		"PrivateIpSets":               privateIPSets(n),
		"Ipv4PrefixSets":              prefixSets(n.Ipv4Prefixes),
		"Ipv6Sets":                    ipv6Sets(n.Ipv6Addresses),
		"Ipv6PrefixSets":              obj{"Ipv6PrefixSet": []obj{}},
		"SecurityGroupIds":            in("SecurityGroupId", same, n.SecurityGroupIds),
		"SourceDestCheck":             n.SourceDestCheck,
		"DeleteOnRelease":             n.DeleteOnRelease,
		"NetworkInterfaceTrafficMode": n.NetworkInterfaceTrafficMode,
		"QueueNumber":                 n.QueueNumber,
		"ServiceManaged":              false,
		"OwnerId":                     "",
		"ResourceGroupId":             n.ResourceGroupId,
		"CreationTime":                stamp(n.CreationTime),
		"AssociatedPublicIp":          obj{},
		"Attachment":                  attachment,
		"Tags":                        ecsTags(n.Tags),
	}
}

func privateIPSets(n state.NetworkInterface) obj {
	return in("PrivateIpSet", func(a netip.Addr) obj {
		return obj{"PrivateIpAddress": addr(a), "Primary": a == n.PrimaryIpAddress, "AssociatedPublicIp": obj{}}
	}, n.PrivateIpAddresses)
}

func prefixSets(list []netip.Prefix) obj {
	return in("Ipv4PrefixSet", func(p netip.Prefix) obj { return obj{"Ipv4Prefix": prefix(p)} }, list)
}

func ipv6Sets(list []netip.Addr) obj {
	return in("Ipv6Set", func(a netip.Addr) obj { return obj{"Ipv6Address": addr(a)} }, list)
}
