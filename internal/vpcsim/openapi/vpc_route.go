package openapi

import "terway.dev/terway/internal/vpcsim/state"

// routeActions returns the route operations. They are in VPC 2016-04-28 and, for old clients
// (flannel), in ECS 2014-05-26.
func routeActions() actions {
	table := func(t state.RouteTable) string { return t.RouteTableId }
	return actions{
		"DescribeVRouters": list(state.API.DescribeVRouters, vpcPaging,
			func(v state.VRouter) string { return v.VRouterId }, "VRouters", "VRouter", func(v state.VRouter) obj {
				return obj{
					"VRouterId": v.VRouterId, "VRouterName": "", "Description": "", "VpcId": v.VpcId, "RegionId": v.RegionId,
					"RouteTableIds": in("RouteTableId", same, v.RouteTableIds),
					"CreationTime":  stamp(v.CreationTime),
				}
			}),
		"CreateRouteTable": create(state.API.CreateRouteTable, func(id string) obj {
			return obj{"RouteTableId": id}
		}),
		"DeleteRouteTable":       change(state.API.DeleteRouteTable),
		"AssociateRouteTable":    change(state.API.AssociateRouteTable),
		"UnassociateRouteTable":  change(state.API.UnassociateRouteTable),
		"DescribeRouteTables":    list(state.API.DescribeRouteTables, vpcPaging, table, "RouteTables", "RouteTable", showRouteTable),
		"DescribeRouteTableList": {run: describeRouteTableList},
		"DescribeRouteEntryList": list(state.API.DescribeRouteEntryList, entryPaging,
			func(e state.RouteEntry) string { return e.RouteEntryId }, "RouteEntrys", "RouteEntry", showRouteEntry),
		"CreateRouteEntry": create(state.API.CreateRouteEntry, func(id string) obj {
			return obj{"RouteEntryId": id}
		}),
		"DeleteRouteEntry": change(state.API.DeleteRouteEntry),
		"ModifyRouteEntry": change(state.API.ModifyRouteEntry),
		"CreateRouteEntries": create(state.API.CreateRouteEntries, func(r *state.RouteEntriesResult) obj {
			ids := r.RouteEntryIds
			if ids == nil {
				ids = []string{}
			}
			return showRouteBatch(r).merge(obj{"RouteEntryIds": ids})
		}),
		"DeleteRouteEntries": create(state.API.DeleteRouteEntries, showRouteBatch),
	}
}

func showRouteTable(t state.RouteTable) obj {
	return obj{
		"RouteTableId":    t.RouteTableId,
		"RouteTableType":  t.RouteTableType,
		"VRouterId":       t.VRouterId,
		"Status":          t.Status,
		"VSwitchIds":      in("VSwitchId", same, t.VSwitchIds),
		"RouteEntrys":     in("RouteEntry", showRouteEntry, t.RouteEntries),
		"ResourceGroupId": t.ResourceGroupId,
		"CreationTime":    stamp(t.CreationTime),
	}
}

// describeRouteTableList has its own names for all fields.
func describeRouteTableList(c *call) (obj, error) {
	a := list(state.API.DescribeRouteTables, vpcPaging,
		func(t state.RouteTable) string { return t.RouteTableId },
		"RouterTableList", "RouterTableListType", func(t state.RouteTable) obj {
			return obj{
				"RouteTableId":    t.RouteTableId,
				"RouteTableName":  t.RouteTableName,
				"RouteTableType":  t.RouteTableType,
				"Description":     t.Description,
				"AssociateType":   "VSwitch",
				"RouterId":        t.VRouterId,
				"RouterType":      "VRouter",
				"VpcId":           t.VpcId,
				"Status":          t.Status,
				"VSwitchIds":      in("VSwitchId", same, t.VSwitchIds),
				"GatewayIds":      obj{"GatewayIds": []string{}},
				"ResourceGroupId": t.ResourceGroupId,
				"CreationTime":    stamp(t.CreationTime),
				"Tags":            vpcTags(t.Tags),
			}
		})
	o, err := a.run(c)
	if err != nil {
		return nil, err
	}
	return o.merge(obj{"Code": "200", "Message": "successful", "Success": true}), nil
}

func showRouteEntry(e state.RouteEntry) obj {
	version := "ipv4"
	if e.DestinationCidrBlock.Addr().Is6() {
		version = "ipv6"
	}
	hops := e.NextHops
	if len(hops) == 0 && e.NextHopId != "" {
		hops = []state.NextHop{{NextHopType: e.NextHopType, NextHopId: e.NextHopId}}
	}
	return obj{
		"RouteEntryId":         e.RouteEntryId,
		"RouteEntryName":       e.RouteEntryName,
		"Description":          e.Description,
		"RouteTableId":         e.RouteTableId,
		"DestinationCidrBlock": prefix(e.DestinationCidrBlock),
		"IpVersion":            version,
		"Type":                 e.Type,
		"Status":               e.Status,
		"NextHopType":          e.NextHopType,
		"InstanceId":           e.NextHopId,
		"GmtModified":          stamp(e.CreationTime),
		"NextHops": in("NextHop", func(h state.NextHop) obj {
			return obj{"NextHopId": h.NextHopId, "NextHopType": h.NextHopType, "Enabled": 1, "Weight": h.Weight}
		}, hops),
	}
}

// showRouteBatch returns the answer of the batch actions, whose lists are not wrapped.
func showRouteBatch(r *state.RouteEntriesResult) obj {
	failed := make([]obj, len(r.FailedRouteEntries))
	for i, f := range r.FailedRouteEntries {
		failed[i] = obj{
			"RouteEntryId": f.RouteEntryId, "DstCidrBlock": f.DstCidrBlock, "NextHop": f.NextHop,
			"FailedCode": f.FailedCode, "FailedMessage": f.FailedMessage,
		}
	}
	return obj{"SuccessCount": r.SuccessCount, "FailedCount": r.FailedCount, "FailedRouteEntries": failed}
}
