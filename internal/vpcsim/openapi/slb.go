package openapi

import (
	"maps"
	"strconv"

	"terway.dev/terway/internal/vpcsim/state"
)

// slbName is the product's name.
const slbName = "Slb"

// slbProduct returns SLB 2014-05-15: Classic Load Balancers (CLB).
func slbProduct() product {
	return product{name: slbName, version: "2014-05-15", actions: slbActions()}
}

// slbActions returns the operations of SLB 2014-05-15.
func slbActions() actions {
	a := actions{
		"CreateLoadBalancer": create(state.API.CreateLoadBalancer, func(l *state.LoadBalancer) obj {
			return obj{
				"LoadBalancerId": l.LoadBalancerId, "LoadBalancerName": l.LoadBalancerName, "Address": addr(l.Address),
				"AddressIPVersion": "ipv4", "NetworkType": l.NetworkType(), "VpcId": l.VpcId, "VSwitchId": l.VSwitchId,
				"ResourceGroupId": l.ResourceGroupId, "OrderId": 0,
			}
		}),
		"DeleteLoadBalancer": change(state.API.DeleteLoadBalancer),
		"DescribeLoadBalancers": {run: func(c *call) (obj, error) {
			a := list(state.API.DescribeLoadBalancers, slbPaging, func(l state.LoadBalancer) string { return l.LoadBalancerId },
				"LoadBalancers", "LoadBalancer", func(l state.LoadBalancer) obj { return showLoadBalancer(c, l) })
			return a.run(c)
		}},
		"DescribeLoadBalancerAttribute": slbGet(state.API.DescribeLoadBalancerAttribute, showLoadBalancerAttribute),

		"SetLoadBalancerName":                   change(state.API.SetLoadBalancerName),
		"SetLoadBalancerStatus":                 change(state.API.SetLoadBalancerStatus),
		"SetLoadBalancerDeleteProtection":       change(state.API.SetLoadBalancerDeleteProtection),
		"SetLoadBalancerModificationProtection": change(state.API.SetLoadBalancerModificationProtection),
		"ModifyLoadBalancerInstanceSpec":        order(state.API.ModifyLoadBalancerInstanceSpec),
		"ModifyLoadBalancerInternetSpec":        order(state.API.ModifyLoadBalancerInternetSpec),
		"ModifyLoadBalancerInstanceChargeType":  change(state.API.ModifyLoadBalancerInstanceChargeType),

		"CreateVServerGroup":               create(state.API.CreateVServerGroup, showServers),
		"DeleteVServerGroup":               change(state.API.DeleteVServerGroup),
		"AddVServerGroupBackendServers":    create(state.API.AddVServerGroupBackendServers, showServers),
		"RemoveVServerGroupBackendServers": create(state.API.RemoveVServerGroupBackendServers, showServers),
		"ModifyVServerGroupBackendServers": create(state.API.ModifyVServerGroupBackendServers, showServers),
		"SetVServerGroupAttribute": create(state.API.SetVServerGroupAttribute, func(g *state.VServerGroup) obj {
			return showServers(g).merge(obj{"VServerGroupName": g.VServerGroupName})
		}),
		"DescribeVServerGroups":         {run: describeVServerGroups},
		"DescribeVServerGroupAttribute": slbGet(state.API.DescribeVServerGroupAttribute, showVServerGroupAttribute),

		"CreateLoadBalancerTCPListener":        change(state.API.CreateLoadBalancerTCPListener),
		"CreateLoadBalancerUDPListener":        change(state.API.CreateLoadBalancerUDPListener),
		"CreateLoadBalancerHTTPListener":       change(state.API.CreateLoadBalancerHTTPListener),
		"SetLoadBalancerTCPListenerAttribute":  change(state.API.SetLoadBalancerTCPListenerAttribute),
		"SetLoadBalancerUDPListenerAttribute":  change(state.API.SetLoadBalancerUDPListenerAttribute),
		"SetLoadBalancerHTTPListenerAttribute": change(state.API.SetLoadBalancerHTTPListenerAttribute),
		"StartLoadBalancerListener":            change(state.API.StartLoadBalancerListener),
		"StopLoadBalancerListener":             change(state.API.StopLoadBalancerListener),
		"DeleteLoadBalancerListener":           change(state.API.DeleteLoadBalancerListener),
		"DescribeLoadBalancerListeners":        {run: describeListeners},

		"DescribeLoadBalancerTCPListenerAttribute":  listenerAttribute("tcp"),
		"DescribeLoadBalancerUDPListenerAttribute":  listenerAttribute("udp"),
		"DescribeLoadBalancerHTTPListenerAttribute": listenerAttribute("http"),

		"DescribeHealthStatus":      {run: describeHealth},
		"DescribeAvailableResource": {run: describeSLBResources},
	}
	maps.Copy(a, aclActions())
	maps.Copy(a, tagActions("slb:", "TagResource"))
	return a
}

// order is change for an action that may cost something: the answer has the number of an order.
func order[R any](f func(state.API, R) error) action {
	a := change(f)
	run := a.run
	a.run = func(c *call) (obj, error) {
		o, err := run(c)
		return o.merge(obj{"OrderId": 0}), err
	}
	return a
}

// slbGet returns an action that returns one resource.
func slbGet[R, A any](f func(state.API, R) (A, error), show func(*call, A) obj) action {
	return action{run: func(c *call) (obj, error) {
		var r R
		if e := decode(c.params, &r); e != nil {
			return nil, e
		}
		found, err := f(c.api, r)
		if err != nil {
			return nil, err
		}
		return show(c, found), nil
	}}
}

func slbTags(tags []state.Tag) []obj {
	return bare(func(t state.Tag) obj { return obj{"TagKey": t.Key, "TagValue": t.Value} }, tags)
}

// showLoadBalancer is the form in lists. There InternetChargeType is a number, and the word is
// the alias.
func showLoadBalancer(c *call, l state.LoadBalancer) obj {
	o := loadBalancerCommon(c, l)
	o["InternetChargeTypeAlias"] = l.InternetChargeType
	o["InternetChargeType"] = map[string]string{state.PayByBandwidth: "3", state.PayByTraffic: "4"}[l.InternetChargeType]
	o["IneffectiveOrderList"] = obj{"IneffectiveOrder": []obj{}}
	return o
}

// loadBalancerCommon are the fields that a load balancer has in every form.
func loadBalancerCommon(c *call, l state.LoadBalancer) obj {
	return obj{
		"RegionId":                     c.region,
		"RegionIdAlias":                c.region,
		"LoadBalancerId":               l.LoadBalancerId,
		"LoadBalancerName":             l.LoadBalancerName,
		"LoadBalancerStatus":           l.LoadBalancerStatus,
		"Address":                      addr(l.Address),
		"AddressType":                  l.AddressType,
		"AddressIPVersion":             "ipv4",
		"NetworkType":                  l.NetworkType(),
		"VpcId":                        l.VpcId,
		"VSwitchId":                    l.VSwitchId,
		"MasterZoneId":                 l.MasterZoneId,
		"SlaveZoneId":                  l.SlaveZoneId,
		"Bandwidth":                    l.Bandwidth,
		"InstanceChargeType":           l.InstanceChargeType,
		"PayType":                      "PayOnDemand",
		"LoadBalancerSpec":             l.LoadBalancerSpec,
		"SpecType":                     "",
		"SpecBpsFlag":                  false,
		"DeleteProtection":             l.DeleteProtection,
		"ModificationProtectionStatus": l.ModificationProtectionStatus,
		"ModificationProtectionReason": l.ModificationProtectionReason,
		"ResourceGroupId":              l.ResourceGroupId,
		"BusinessStatus":               "Normal",
		"ServiceManagedMode":           "Unmanaged",
		"CreateTime":                   l.CreateTime.UTC().Format("2006-01-02T15:04Z"), // no seconds
		"CreateTimeStamp":              l.CreateTime.UnixMilli(),
		"Tags":                         obj{"Tag": slbTags(l.Tags)},
	}
}

func showLoadBalancerAttribute(c *call, l *state.LoadBalancer) obj {
	return loadBalancerCommon(c, *l).merge(obj{
		"InternetChargeType": l.InternetChargeType,
		// A server group has the backends; the load balancer itself has none.
		"BackendServers": obj{"BackendServer": []obj{}},
		"ListenerPorts":  in("ListenerPort", func(l state.Listener) int { return l.ListenerPort }, l.Listeners),
		"ListenerPortsAndProtocal": in("ListenerPortAndProtocal", func(l state.Listener) obj { // sic
			return obj{"ListenerPort": l.ListenerPort, "ListenerProtocal": l.ListenerProtocol}
		}, l.Listeners),
		"ListenerPortsAndProtocol": in("ListenerPortAndProtocol", func(l state.Listener) obj {
			return obj{"ListenerPort": l.ListenerPort, "ListenerProtocol": l.ListenerProtocol, "Description": l.Description, "ListenerForward": "", "ForwardPort": 0}
		}, l.Listeners),
		"EndTime":            "2999-09-08T16:00Z",
		"EndTimeStamp":       32493801600000,
		"SupportPrivateLink": false,
	})
}

func describeVServerGroups(c *call) (obj, error) {
	var r struct {
		state.DescribeVServerGroupsRequest
		IncludeListener bool
	}
	if e := decode(c.params, &r); e != nil {
		return nil, e
	}
	groups, err := c.api.DescribeVServerGroups(r.DescribeVServerGroupsRequest)
	if err != nil {
		return nil, err
	}
	return obj{"VServerGroups": in("VServerGroup", func(g state.VServerGroup) obj {
		o := obj{
			"VServerGroupId": g.VServerGroupId, "VServerGroupName": g.VServerGroupName, "ServerCount": len(g.BackendServers),
			"CreateTime": stamp(g.CreateTime), "ServiceManagedMode": "Unmanaged", "Tags": obj{"Tag": slbTags(g.Tags)},
		}
		if r.IncludeListener {
			o["AssociatedObjects"] = obj{
				"Rules": obj{"Rule": []obj{}},
				"Listeners": in("Listener", func(l state.Listener) obj {
					return obj{"Port": l.ListenerPort, "Protocol": l.ListenerProtocol}
				}, g.Listeners),
			}
		}
		return o
	}, groups)}, nil
}

// showServers is the answer of actions that change the backends of a group.
func showServers(g *state.VServerGroup) obj {
	return obj{"VServerGroupId": g.VServerGroupId, "BackendServers": in("BackendServer", showServer, g.BackendServers)}
}

func showServer(b state.BackendServer) obj {
	return obj{
		"ServerId": b.ServerId, "ServerIp": addr(b.ServerIp), "Port": b.Port, "Weight": b.Weight, "Type": b.Type,
		"Description": b.Description, "VpcId": b.VpcId, "ServerRegionId": "", "VbrId": "",
	}
}

func showVServerGroupAttribute(_ *call, g *state.VServerGroup) obj {
	o := showServers(g)
	for _, b := range o["BackendServers"].(obj)["BackendServer"].([]obj) {
		b["ProxyProtocolV2Enabled"] = false
	}
	return o.merge(obj{
		"VServerGroupName": g.VServerGroupName, "LoadBalancerId": g.LoadBalancerId, "CreateTime": stamp(g.CreateTime),
		"ServiceManagedMode": "Unmanaged", "Tags": obj{"Tag": slbTags(g.Tags)},
	})
}

func describeHealth(c *call) (obj, error) {
	var r state.DescribeHealthStatusRequest
	if e := decode(c.params, &r); e != nil {
		return nil, e
	}
	all, err := c.api.DescribeHealthStatus(r)
	if err != nil {
		return nil, err
	}
	return obj{"BackendServers": in("BackendServer", func(b state.ServerHealth) obj {
		return obj{
			"ListenerPort": b.ListenerPort, "Protocol": b.ListenerProtocol, "ServerHealthStatus": b.ServerHealthStatus,
			"ServerId": b.ServerId, "ServerIp": addr(b.ServerIp), "Port": b.Port, "Type": b.Type, "VpcId": b.VpcId, "Description": b.Description,
			"Weight": strconv.Itoa(b.Weight), // a string, unlike elsewhere
		}
	}, all)}, nil
}

// describeSLBResources returns every pair of zones.
func describeSLBResources(c *call) (obj, error) {
	kinds := []obj{}
	for _, kind := range []string{state.AddressInternet, state.AddressIntranet} {
		if asked := c.params.Get("AddressType"); asked == "" || asked == kind {
			kinds = append(kinds, obj{"AddressType": kind, "AddressIPVersion": "ipv4"})
		}
	}
	if asked := c.params.Get("AddressIPVersion"); asked != "" && asked != "ipv4" {
		kinds = nil
	}
	pairs := []obj{}
	for _, master := range c.api.DescribeZones() {
		for _, slave := range c.api.DescribeZones() {
			if master != slave && len(kinds) > 0 {
				pairs = append(pairs, obj{
					"MasterZoneId": master.ZoneId, "SlaveZoneId": slave.ZoneId, "SupportResources": obj{"SupportResource": kinds},
				})
			}
		}
	}
	return obj{"AvailableResources": obj{"AvailableResource": pairs}}, nil
}
