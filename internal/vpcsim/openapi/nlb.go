package openapi

import (
	"maps"
	"strconv"
	"strings"

	"terway.dev/terway/internal/vpcsim/state"
)

// nlbProduct returns NLB 2022-04-30.
func nlbProduct() product {
	return product{name: "Nlb", version: "2022-04-30", actions: nlbActions()}
}

// nlbPaging is how NLB divides lists into pages, except tags.
var nlbPaging = paging{defaultSize: 20, maxResults: 100, minResults: 1, maxParam: "MaxResults"}

// nlbList is list for NLB, whose lists are not wrapped and whose answers have other fields on the
// page. Reading knows no token, but each action accepts DryRun.
func nlbList[R, T any](f func(state.API, R) ([]T, error), key func(T) string, field string, show func(*call, T) obj) action {
	return action{dryRun: true, run: func(c *call) (obj, error) {
		var r R
		if e := decode(c.params, &r); e != nil {
			return nil, e
		}
		all, err := f(c.api, r)
		if err != nil {
			return nil, err
		}
		pg, e := paginate(c, nlbPaging, all, key)
		if e != nil {
			return nil, e
		}
		return obj{
			field:       bare(func(x T) obj { return show(c, x) }, pg.items),
			"NextToken": pg.next, "MaxResults": pg.size, "TotalCount": pg.total,
		}, nil
	}}
}

// nlbGet returns an action that returns one resource.
func nlbGet[R, T any](f func(state.API, R) (T, error), show func(*call, T) obj) action {
	return action{dryRun: true, run: func(c *call) (obj, error) {
		var r R
		if e := decode(c.params, &r); e != nil {
			return nil, e
		}
		one, err := f(c.api, r)
		if err != nil {
			return nil, err
		}
		return show(c, one), nil
	}}
}

// nlbActions returns the operations of NLB 2022-04-30.
func nlbActions() actions {
	job := func(id string) obj { return obj{"JobId": id} }
	a := actions{
		"CreateLoadBalancer": create(state.API.NLBCreateLoadBalancer, func(id string) obj {
			return obj{"LoadbalancerId": id, "OrderId": 0} // sic
		}),
		"DeleteLoadBalancer":                  create(state.API.NLBDeleteLoadBalancer, job),
		"UpdateLoadBalancerAttribute":         create(state.API.NLBUpdateLoadBalancerAttribute, job),
		"UpdateLoadBalancerProtection":        change(state.API.NLBUpdateLoadBalancerProtection),
		"UpdateLoadBalancerZones":             create(state.API.NLBUpdateLoadBalancerZones, job),
		"UpdateLoadBalancerAddressTypeConfig": create(state.API.NLBUpdateLoadBalancerAddressTypeConfig, job),
		"LoadBalancerJoinSecurityGroup":       create(state.API.NLBLoadBalancerJoinSecurityGroup, job),
		"LoadBalancerLeaveSecurityGroup":      create(state.API.NLBLoadBalancerLeaveSecurityGroup, job),
		"ListLoadBalancers": nlbList(state.API.NLBListLoadBalancers, func(b state.NLBLoadBalancer) string { return b.LoadBalancerId },
			"LoadBalancers", func(c *call, b state.NLBLoadBalancer) obj {
				return showNLB(c, &b).merge(obj{"Tags": bare(nlbTag, b.Tags)})
			}),
		"GetLoadBalancerAttribute": nlbGet(state.API.NLBGetLoadBalancerAttribute, func(c *call, b *state.NLBLoadBalancer) obj {
			return showNLB(c, b).merge(obj{"Cps": b.Cps, "Tags": bare(nlbTagKey, b.Tags)})
		}),

		"CreateListener": create(state.API.NLBCreateListener, func(r *state.NLBCreateResult) obj {
			return obj{"ListenerId": r.Id, "JobId": r.JobId}
		}),
		"UpdateListenerAttribute": create(state.API.NLBUpdateListenerAttribute, job),
		"StartListener":           create(state.API.NLBStartListener, job),
		"StopListener":            create(state.API.NLBStopListener, job),
		"DeleteListener":          create(state.API.NLBDeleteListener, job),
		"ListListeners": nlbList(state.API.NLBListListeners, func(l state.NLBListener) string { return l.ListenerId },
			"Listeners", func(c *call, l state.NLBListener) obj {
				return showNLBListener(c, &l).merge(obj{"Tags": bare(nlbTag, l.Tags)})
			}),
		"GetListenerAttribute": nlbGet(state.API.NLBGetListenerAttribute, func(c *call, l *state.NLBListener) obj {
			return showNLBListener(c, l).merge(obj{"Tags": bare(nlbTagKey, l.Tags)})
		}),
		"GetListenerHealthStatus": nlbGet(state.API.NLBGetListenerHealthStatus, showNLBHealth),

		"CreateServerGroup": create(state.API.NLBCreateServerGroup, func(r *state.NLBCreateResult) obj {
			return obj{"ServerGroupId": r.Id, "JobId": r.JobId}
		}),
		"DeleteServerGroup": create(state.API.NLBDeleteServerGroup, job),
		"ListServerGroups": nlbList(state.API.NLBListServerGroups, func(g state.NLBServerGroup) string { return g.ServerGroupId },
			"ServerGroups", showNLBGroup),
		"ListServerGroupServers":            nlbList(state.API.NLBListServerGroupServers, nlbServerKey, "Servers", func(_ *call, v state.NLBServer) obj { return showNLBServer(v) }),
		"UpdateServerGroupAttribute":        nlbGroupJob(state.API.NLBUpdateServerGroupAttribute),
		"AddServersToServerGroup":           nlbGroupJob(state.API.NLBAddServersToServerGroup),
		"RemoveServersFromServerGroup":      nlbGroupJob(state.API.NLBRemoveServersFromServerGroup),
		"UpdateServerGroupServersAttribute": nlbGroupJob(state.API.NLBUpdateServerGroupServersAttribute),

		"GetJobStatus": nlbGet(func(api state.API, r struct{ JobId string }) (*state.NLBJob, error) {
			return api.NLBGetJobStatus(r.JobId)
		},
			func(_ *call, j *state.NLBJob) obj { return obj{"Status": j.Status} }),
		"ListAsynJobs": nlbGet(state.API.NLBListAsynJobs, func(_ *call, jobs []state.NLBJob) obj {
			return obj{"TotalCount": len(jobs), "Jobs": bare(func(j state.NLBJob) obj { return obj{"Id": j.JobId, "Status": j.Status} }, jobs)}
		}),
		"DescribeRegions": {run: func(c *call) (obj, error) {
			return obj{"Regions": bare(func(r state.Region) obj {
				return obj{"RegionId": r.RegionId, "LocalName": r.LocalName, "RegionEndpoint": c.host}
			}, c.api.DescribeRegions())}, nil
		}},
		"DescribeZones": {run: func(c *call) (obj, error) {
			return obj{"Zones": bare(func(z state.Zone) obj {
				return obj{"ZoneId": z.ZoneId, "LocalName": z.LocalName}
			}, c.api.DescribeZones())}, nil
		}},
	}
	maps.Copy(a, tagActions(nlbPrefix, ""))
	a["ListTagResources"] = nlbList(func(api state.API, r state.ListTagResourcesRequest) ([]state.TagResource, error) {
		if r.ResourceType != "" {
			r.ResourceType = nlbPrefix + r.ResourceType
		}
		return api.ListTagResources(r)
	}, func(t state.TagResource) string { return t.ResourceId + "\x00" + t.TagKey }, "TagResources", func(c *call, t state.TagResource) obj {
		return obj{
			"ResourceType": strings.TrimPrefix(t.ResourceType, nlbPrefix), "ResourceId": t.ResourceId, "TagKey": t.TagKey, "TagValue": t.TagValue,
			"AliUid": c.owner(), "Category": "custom", "RegionNo": c.region, "Scope": "public",
		}
	})
	return a
}

// nlbPrefix is the prefix of NLB's resource types in the state.
const nlbPrefix = "nlb:"

// owner returns the account's id as a number.
func (c *call) owner() int64 {
	id, err := strconv.ParseInt(c.identity.OwnerID, 10, 64)
	if err != nil {
		return 0
	}
	return id
}

// nlbGroupJob returns an action that starts a job on a server group.
func nlbGroupJob[R any](f func(state.API, R) (string, error)) action {
	a := create(f, func(id string) obj { return obj{"JobId": id} })
	run := a.run
	a.run = func(c *call) (obj, error) {
		o, err := run(c)
		if err != nil {
			return nil, err
		}
		return o.merge(obj{"ServerGroupId": c.params.Get("ServerGroupId")}), nil
	}
	return a
}

// nlbTag and nlbTagKey are the two spellings of tags: of lists and of single resources.
func nlbTag(t state.Tag) obj    { return obj{"Key": t.Key, "Value": t.Value} }
func nlbTagKey(t state.Tag) obj { return obj{"TagKey": t.Key, "TagValue": t.Value} }

func showNLB(c *call, b *state.NLBLoadBalancer) obj {
	return obj{
		"LoadBalancerId":             b.LoadBalancerId,
		"LoadBalancerName":           b.LoadBalancerName,
		"LoadBalancerType":           "network",
		"LoadBalancerStatus":         b.LoadBalancerStatus,
		"LoadBalancerBusinessStatus": "Normal",
		"AddressType":                b.AddressType,
		"AddressIpVersion":           "ipv4",
		"Ipv6AddressType":            "",
		"VpcId":                      b.VpcId,
		"DNSName":                    b.DNSName,
		"BandwidthPackageId":         "",
		"CrossZoneEnabled":           b.CrossZoneEnabled,
		"RegionId":                   c.region,
		"ResourceGroupId":            b.ResourceGroupId,
		"CreateTime":                 stamp(b.CreateTime),
		"SecurityGroupIds":           bare(same[string], b.SecurityGroupIds),
		"LoadBalancerBillingConfig":  obj{"PayType": "PostPay"},
		"OperationLocks":             []obj{},
		"DeletionProtectionConfig": obj{
			"Enabled": b.DeletionProtectionEnabled, "Reason": b.DeletionProtectionReason, "EnabledTime": stamp(b.DeletionProtectionTime),
		},
		"ModificationProtectionConfig": obj{
			"Status": b.ModificationProtectionStatus, "Reason": b.ModificationProtectionReason, "EnabledTime": stamp(b.ModificationProtectionTime),
		},
		"ZoneMappings": bare(func(z state.NLBZoneMapping) obj {
			status := state.NLBActive
			if z.Pending || b.LoadBalancerStatus == state.NLBProvisioning {
				status = state.NLBProvisioning
			}
			public, eip := addr(z.PublicIPv4Address), z.AllocationId
			if b.AddressType == state.NLBIntranet {
				public, eip = "", "" // it gets them when the job that changes its type ends
			}
			return obj{"ZoneId": z.ZoneId, "VSwitchId": z.VSwitchId, "Status": status, "LoadBalancerAddresses": []obj{{
				"PrivateIPv4Address": addr(z.PrivateIPv4Address), "PrivateIPv4HcStatus": "Healthy", "PrivateIPv6HcStatus": "",
				"PublicIPv4Address": public, "AllocationId": eip, "EniId": "", "Ipv6Address": "",
			}}}
		}, b.ZoneMappings),
	}
}

func showNLBListener(c *call, l *state.NLBListener) obj {
	return obj{
		"ListenerId":           l.ListenerId,
		"LoadBalancerId":       l.LoadBalancerId,
		"ListenerProtocol":     l.ListenerProtocol,
		"ListenerPort":         l.ListenerPort,
		"ListenerDescription":  l.ListenerDescription,
		"ListenerStatus":       l.ListenerStatus,
		"ServerGroupId":        l.ServerGroupId,
		"IdleTimeout":          l.IdleTimeout,
		"Cps":                  l.Cps,
		"Mss":                  l.Mss,
		"SecSensorEnabled":     l.SecSensorEnabled,
		"RegionId":             c.region,
		"SecurityPolicyId":     "",
		"CertificateIds":       []string{},
		"CaCertificateIds":     []string{},
		"CaEnabled":            false,
		"AlpnEnabled":          false,
		"AlpnPolicy":           "",
		"ProxyProtocolEnabled": false,
		"ProxyProtocolV2Config": obj{
			"Ppv2PrivateLinkEpIdEnabled": false, "Ppv2PrivateLinkEpsIdEnabled": false, "Ppv2VpcIdEnabled": false,
		},
	}
}

func showNLBHealth(_ *call, h *state.NLBListenerHealth) obj {
	return obj{
		"ListenerHealthStatus": []obj{{
			"ListenerId": h.ListenerId, "ListenerPort": h.ListenerPort, "ListenerProtocol": h.ListenerProtocol,
			"ServerGroupInfos": []obj{{
				"ServerGroupId":     h.ServerGroupId,
				"HeathCheckEnabled": h.HealthCheckEnabled, // sic
				"NonNormalServers": bare(func(v state.NLBUnhealthyServer) obj {
					return obj{
						"ServerId": v.ServerId, "ServerIp": addr(v.ServerIp), "Port": v.Port, "Status": v.Health,
						"Reason": obj{"ReasonCode": v.Reason},
					}
				}, h.Unhealthy),
			}},
		}},
		"NextToken": "", "MaxResults": 1, "TotalCount": 1,
	}
}

func showNLBGroup(c *call, g state.NLBServerGroup) obj {
	h := g.HealthCheck
	return obj{
		"ServerGroupId":           g.ServerGroupId,
		"ServerGroupName":         g.ServerGroupName,
		"ServerGroupType":         g.ServerGroupType,
		"ServerGroupStatus":       g.ServerGroupStatus,
		"AddressIPVersion":        "ipv4",
		"AliUid":                  c.owner(),
		"AnyPortEnabled":          false,
		"VpcId":                   g.VpcId,
		"Protocol":                g.Protocol,
		"Scheduler":               g.Scheduler,
		"ConnectionDrainEnabled":  g.ConnectionDrainEnabled,
		"ConnectionDrainTimeout":  g.ConnectionDrainTimeout,
		"PreserveClientIpEnabled": g.PreserveClientIpEnabled,
		"RegionId":                c.region,
		"ResourceGroupId":         g.ResourceGroupId,
		"ServerCount":             len(g.Servers),
		"RelatedLoadBalancerIds":  bare(same[string], g.RelatedLoadBalancerIds),
		"Tags":                    bare(nlbTag, g.Tags),
		"HealthCheck": obj{
			"HealthCheckEnabled":        h.HealthCheckEnabled,
			"HealthCheckType":           h.HealthCheckType,
			"HealthCheckConnectPort":    h.HealthCheckConnectPort,
			"HealthyThreshold":          h.HealthyThreshold,
			"UnhealthyThreshold":        h.UnhealthyThreshold,
			"HealthCheckConnectTimeout": h.HealthCheckConnectTimeout,
			"HealthCheckInterval":       h.HealthCheckInterval,
			"HealthCheckDomain":         h.HealthCheckDomain,
			"HealthCheckUrl":            h.HealthCheckUrl,
			"HealthCheckHttpCode":       bare(same[string], h.HealthCheckHttpCode),
			"HttpCheckMethod":           h.HttpCheckMethod,
			"HealthCheckHttpVersion":    h.HealthCheckHttpVersion,
			"HealthCheckReq":            h.HealthCheckReq,
			"HealthCheckExp":            h.HealthCheckExp,
		},
	}
}

// nlbServerKey orders servers in pages.
func nlbServerKey(v state.NLBServer) string {
	return v.ServerGroupId + " " + v.ServerId + " " + v.ServerIp.String() + " " + strconv.Itoa(v.Port)
}

func showNLBServer(v state.NLBServer) obj {
	return obj{
		"ServerGroupId": v.ServerGroupId,
		"ServerId":      v.ServerId,
		"ServerType":    v.ServerType,
		"ServerIp":      addr(v.ServerIp),
		"Port":          v.Port,
		"Weight":        v.Weight,
		"Description":   v.Description,
		"Status":        v.Status,
		"ZoneId":        v.ZoneId,
	}
}
