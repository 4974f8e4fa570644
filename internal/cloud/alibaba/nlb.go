package alibaba

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"terway.dev/terway/internal/cloud"
)

// nlb implements cloud.BalancerAPI with NLB 2022-04-30. Most of its changes are jobs.
type nlb struct{ product }

// NLB returns the calls for Network Load Balancers.
func (c *Client) NLB() cloud.BalancerAPI {
	return nlb{product{c, productNLB, "2022-04-30", "nlb"}}
}

// A server group's health check has another name in answers than in parameters.
const (
	healthCheck       = "HealthCheck"
	healthCheckConfig = "HealthCheckConfig."
)

// finish waits for the job of an answer. An answer without one needs no waiting.
func (p nlb) finish(ctx context.Context, action string, o object, err error) error {
	if err != nil || o.text("JobId") == "" {
		return err
	}
	return p.jobs.wait(ctx, p, action, o.text("JobId"))
}

func (p nlb) balancer(action string, o object) (cloud.Balancer, error) {
	b := cloud.Balancer{ID: o.text("LoadBalancerId"), Ready: o.text("LoadBalancerStatus") == "Active", Host: o.text("DNSName"), VPC: o.text("VpcId"),
		Tags: o.allTags("Tags"), Zones: map[string]string{}, SecurityGroups: o.texts("SecurityGroupIds"), Settings: o.settings("", map[string]string{})}
	if b.ID == "" {
		return b, p.bad(action, "a load balancer without LoadBalancerId")
	}
	b.Settings["DeletionProtectionEnabled"] = o.get("DeletionProtectionConfig").text("Enabled")
	b.Settings["ModificationProtectionStatus"] = o.get("ModificationProtectionConfig").text("Status")
	for _, z := range o.list("ZoneMappings") {
		b.Zones[z.text("ZoneId")] = z.text("VSwitchId")
	}
	return b, nil
}

func (p nlb) FindBalancers(ctx context.Context, key, value string) ([]cloud.Balancer, error) {
	list, err := p.tokens(ctx, "ListLoadBalancers", "LoadBalancers", params{}.tags(map[string]string{key: value}))
	if err != nil {
		return nil, err
	}
	var all []cloud.Balancer
	for _, o := range list {
		b, err := p.balancer("ListLoadBalancers", o)
		if err != nil {
			return nil, err
		}
		all = append(all, b)
	}
	return all, nil
}

func (p nlb) DescribeBalancer(ctx context.Context, id string) (*cloud.Balancer, error) {
	o, err := p.do(ctx, "GetLoadBalancerAttribute", params{"LoadBalancerId": id})
	if err != nil {
		return nil, err
	}
	b, err := p.balancer("GetLoadBalancerAttribute", o)
	return &b, err
}

// zones sets ZoneMappings.
func (all params) zones(zones map[string]string) params {
	for i, z := range slices.Sorted(maps.Keys(zones)) {
		all[fmt.Sprintf("ZoneMappings.%d.ZoneId", i+1)], all[fmt.Sprintf("ZoneMappings.%d.VSwitchId", i+1)] = z, zones[z]
	}
	return all
}

// CreateBalancer does not wait until the load balancer is Active.
func (p nlb) CreateBalancer(ctx context.Context, want cloud.NewBalancer) (string, error) {
	if want.Token == "" {
		return "", p.refuse("CreateLoadBalancer", "without a client token a repeated call would make a second load balancer")
	}
	s := want.Settings
	all := params{"ClientToken": want.Token, "VpcId": want.VPC, "DeletionProtectionConfig.Enabled": s["DeletionProtectionEnabled"]}.
		tags(want.Tags).zones(want.Zones).numbered("SecurityGroupIds", want.SecurityGroups).
		with(only(s, "LoadBalancerName", "AddressType", "AddressIpVersion", "ResourceGroupId"))
	if status := s["ModificationProtectionStatus"]; status != "" {
		all["ModificationProtectionConfig.Status"], all["ModificationProtectionConfig.Reason"] = status, protectionReason
	}
	id, _, err := p.id(ctx, "CreateLoadBalancer", "LoadbalancerId", all) // sic
	return id, err
}

func (p nlb) SetBalancer(ctx context.Context, id string, settings map[string]string) error {
	left := len(settings)
	set := func(action string, fixed params, names ...string) error {
		now := only(settings, names...)
		if left -= len(now); len(now) == 0 {
			return nil
		}
		o, err := p.do(ctx, action, params{"LoadBalancerId": id}.with(fixed).with(now))
		return p.finish(ctx, action, o, err)
	}
	err := errors.Join(
		set("UpdateLoadBalancerProtection", params{"ModificationProtectionReason": protectionReason}, "DeletionProtectionEnabled", "ModificationProtectionStatus"),
		set("UpdateLoadBalancerAttribute", nil, "LoadBalancerName", "CrossZoneEnabled"),
		set("UpdateLoadBalancerAddressTypeConfig", nil, "AddressType"),
	)
	if left > 0 {
		err = errors.Join(err, p.refuse("UpdateLoadBalancerAttribute", "of %v some cannot be changed", settings))
	}
	return err
}

func (p nlb) SetZones(ctx context.Context, id string, zones map[string]string) error {
	o, err := p.do(ctx, "UpdateLoadBalancerZones", params{"LoadBalancerId": id}.zones(zones))
	return p.finish(ctx, "UpdateLoadBalancerZones", o, err)
}

func (p nlb) SetSecurityGroups(ctx context.Context, id string, join, leave []string) error {
	if len(join) > 0 {
		o, err := p.do(ctx, "LoadBalancerJoinSecurityGroup", params{"LoadBalancerId": id}.numbered("SecurityGroupIds", join))
		if err := p.finish(ctx, "LoadBalancerJoinSecurityGroup", o, err); err != nil {
			return err
		}
	}
	if len(leave) == 0 {
		return nil
	}
	o, err := p.do(ctx, "LoadBalancerLeaveSecurityGroup", params{"LoadBalancerId": id}.numbered("SecurityGroupIds", leave))
	return p.finish(ctx, "LoadBalancerLeaveSecurityGroup", o, err)
}

func (p nlb) SetTags(ctx context.Context, id string, add map[string]string, remove []string) error {
	of := params{"ResourceType": "loadbalancer", "ResourceId.1": id}
	if len(add) > 0 {
		if _, err := p.do(ctx, "TagResources", params{}.with(of).tags(add)); err != nil {
			return err
		}
	}
	if len(remove) > 0 {
		if _, err := p.do(ctx, "UntagResources", params{}.with(of).numbered("TagKey", remove)); err != nil {
			return err
		}
	}
	return nil
}

func (p nlb) DeleteBalancer(ctx context.Context, id string) error {
	if _, err := p.do(ctx, "UpdateLoadBalancerProtection", params{"LoadBalancerId": id, "DeletionProtectionEnabled": "false", "ModificationProtectionStatus": "NonProtection"}); err != nil {
		return gone(err)
	}
	o, err := p.do(ctx, "DeleteLoadBalancer", params{"LoadBalancerId": id})
	return gone(p.finish(ctx, "DeleteLoadBalancer", o, err))
}

func (p nlb) ListListeners(ctx context.Context, balancer string) ([]cloud.Listener, error) {
	list, err := p.tokens(ctx, "ListListeners", "Listeners", params{"LoadBalancerIds.1": balancer})
	if err != nil {
		return nil, err
	}
	var all []cloud.Listener
	for _, o := range list {
		l := cloud.Listener{ID: o.text("ListenerId"), Balancer: balancer, Protocol: o.text("ListenerProtocol"), Group: o.text("ServerGroupId"),
			Description: o.text("ListenerDescription"), Running: o.text("ListenerStatus") != "Stopped", Settings: o.settings("", map[string]string{})}
		if l.Port, err = o.number("ListenerPort"); err != nil || l.ID == "" {
			return nil, p.bad("ListListeners", "load balancer %s: a listener without ListenerId or port", balancer)
		}
		all = append(all, l)
	}
	return all, nil
}

func (p nlb) CreateListener(ctx context.Context, balancer string, want cloud.Listener) error {
	o, err := p.do(ctx, "CreateListener", params{"LoadBalancerId": balancer, "ListenerProtocol": want.Protocol, "ListenerPort": strconv.Itoa(want.Port),
		"ServerGroupId": want.Group, "ListenerDescription": want.Description}.with(want.Settings))
	return p.finish(ctx, "CreateListener", o, err)
}

func (p nlb) SetListener(ctx context.Context, is cloud.Listener, settings map[string]string) error {
	o, err := p.do(ctx, "UpdateListenerAttribute", params{"ListenerId": is.ID, "ServerGroupId": is.Group, "ListenerDescription": is.Description}.with(settings))
	return p.finish(ctx, "UpdateListenerAttribute", o, err)
}

func (p nlb) StartListener(ctx context.Context, is cloud.Listener) error {
	o, err := p.do(ctx, "StartListener", params{"ListenerId": is.ID})
	return p.finish(ctx, "StartListener", o, err)
}

func (p nlb) DeleteListener(ctx context.Context, is cloud.Listener) error {
	o, err := p.do(ctx, "DeleteListener", params{"ListenerId": is.ID})
	return gone(p.finish(ctx, "DeleteListener", o, err))
}

func (p nlb) Health(ctx context.Context, is cloud.Listener) (cloud.Health, error) {
	h := cloud.Health{Listed: map[cloud.BackendKey]string{}, Others: "the load balancer does not say how the listener's backends are"}
	o, err := p.do(ctx, "GetListenerHealthStatus", params{"ListenerId": is.ID})
	if err != nil {
		return h, err
	}
	for _, status := range o.list("ListenerHealthStatus") {
		if status.text("ListenerId") != is.ID {
			continue
		}
		h.Others = "" // those that are not listed are healthy
		for _, g := range status.list("ServerGroupInfos") {
			for _, s := range g.list("NonNormalServers") {
				b, err := s.backend()
				if err != nil {
					return h, p.bad("GetListenerHealthStatus", "%v", err)
				}
				h.Listed[b.Key()] = strings.TrimSpace(orDefault(s.text("Status"), "not normal") + " " + s.get("Reason").text("ReasonCode"))
			}
		}
	}
	return h, nil
}

func (p nlb) ListGroups(ctx context.Context, _, key, value string) ([]cloud.Group, error) {
	list, err := p.tokens(ctx, "ListServerGroups", "ServerGroups", params{}.tags(map[string]string{key: value}))
	if err != nil {
		return nil, err
	}
	var all []cloud.Group
	for _, o := range list {
		g := cloud.Group{ID: o.text("ServerGroupId"), Name: o.text("ServerGroupName"), Protocol: o.text("Protocol"), Tags: o.allTags("Tags"), Backends: -1,
			Settings: o.get(healthCheck).settings(healthCheckConfig, o.settings("", map[string]string{}))}
		if g.ID == "" {
			return nil, p.bad("ListServerGroups", "a group without ServerGroupId")
		}
		if n, err := o.number("ServerCount"); err == nil {
			g.Backends = n
		}
		all = append(all, g)
	}
	return all, nil
}

// groupSettings splits the list of HTTP codes.
func groupSettings(settings map[string]string) params {
	const codes = healthCheckConfig + "HealthCheckHttpCode"
	all := params{}.with(settings)
	if all[codes] != "" {
		all.numbered(codes, strings.Split(all[codes], ","))
		delete(all, codes)
	}
	return all
}

func (p nlb) CreateGroup(ctx context.Context, _ string, want cloud.NewGroup) (string, error) {
	if want.Token == "" {
		return "", p.refuse("CreateServerGroup", "without a client token a repeated call would make a second group")
	}
	id, o, err := p.id(ctx, "CreateServerGroup", "ServerGroupId", params{"ClientToken": want.Token, "ServerGroupName": want.Name, "VpcId": want.VPC,
		"Protocol": want.Protocol, "ServerGroupType": "Instance", "AddressIPVersion": "ipv4"}.tags(want.Tags).with(groupSettings(want.Settings)))
	return id, p.finish(ctx, "CreateServerGroup", o, err)
}

func (p nlb) SetGroup(ctx context.Context, id string, settings map[string]string) error {
	if len(settings) == 0 {
		return nil
	}
	o, err := p.do(ctx, "UpdateServerGroupAttribute", params{"ServerGroupId": id}.with(groupSettings(settings)))
	return p.finish(ctx, "UpdateServerGroupAttribute", o, err)
}

func (p nlb) DeleteGroup(ctx context.Context, id string) error {
	o, err := p.do(ctx, "DeleteServerGroup", params{"ServerGroupId": id})
	return gone(p.finish(ctx, "DeleteServerGroup", o, err))
}

func (p nlb) ListBackends(ctx context.Context, group string) ([]cloud.Backend, error) {
	list, err := p.tokens(ctx, "ListServerGroupServers", "Servers", params{"ServerGroupId": group})
	if err != nil {
		return nil, err
	}
	for _, o := range list {
		// Whoever started the job that changes it: what the group holds will be known when it ends.
		if status := o.text("Status"); status == "Adding" || status == "Removing" || status == "Configuring" {
			return nil, &cloud.Error{Action: "nlb:ListServerGroupServers", Class: cloud.Conflict, Message: fmt.Sprintf("group %s: backend %s is %s", group, o.text("ServerId"), status)}
		}
	}
	return p.backends("ListServerGroupServers", list)
}

// servers returns the parameters of backends. An instance has no address: it is its primary one.
func (p nlb) servers(group string, list []cloud.Backend) params {
	all := params{"ServerGroupId": group}
	for i, b := range list {
		put := func(name, value string) { all[fmt.Sprintf("Servers.%d.%s", i+1, name)] = value }
		put("ServerId", b.Server)
		put("ServerType", map[string]string{cloud.ServerENI: "Eni", cloud.ServerInstance: "Ecs"}[b.Type])
		put("Port", strconv.Itoa(b.Port))
		put("Weight", strconv.Itoa(b.Weight))
		put("Description", b.Description)
		if b.Type != cloud.ServerInstance {
			put("ServerIp", b.Address.String())
		}
	}
	return all
}

func (p nlb) AddBackends(ctx context.Context, group string, list []cloud.Backend) error {
	o, err := p.do(ctx, "AddServersToServerGroup", p.servers(group, list))
	return p.finish(ctx, "AddServersToServerGroup", o, err)
}

func (p nlb) RemoveBackends(ctx context.Context, group string, list []cloud.Backend) error {
	all := p.servers(group, list)
	maps.DeleteFunc(all, func(name, _ string) bool {
		return strings.HasSuffix(name, ".Weight") || strings.HasSuffix(name, ".Description")
	})
	o, err := p.do(ctx, "RemoveServersFromServerGroup", all)
	return p.finish(ctx, "RemoveServersFromServerGroup", o, err)
}

func (p nlb) WeighBackends(ctx context.Context, group string, list []cloud.Backend) error {
	o, err := p.do(ctx, "UpdateServerGroupServersAttribute", p.servers(group, list))
	return p.finish(ctx, "UpdateServerGroupServersAttribute", o, err)
}

func (p nlb) FindAccess(ctx context.Context, vpc, key, value string) ([]cloud.AccessList, error) {
	groups, err := p.taggedSecurityGroups(ctx, vpc, key, value)
	if err != nil {
		return nil, err
	}
	var all []cloud.AccessList
	for _, g := range groups {
		sources, err := p.AllowedFrom(ctx, g.ID)
		if err != nil {
			return nil, err
		}
		all = append(all, cloud.AccessList{ID: g.ID, Tags: g.Tags, Sources: sources})
	}
	return all, nil
}

func (p nlb) CreateAccess(ctx context.Context, want cloud.NewAccess) (string, error) {
	return p.CreateSecurityGroup(ctx, cloud.CreateSecurityGroupRequest{Token: want.Token, VPCID: want.VPC, Name: want.Name, Type: cloud.SecurityGroupEnterprise, Tags: want.Tags})
}

func (p nlb) ChangeAccess(ctx context.Context, id string, add, remove []netip.Prefix) error {
	for _, source := range add {
		if err := p.AllowFrom(ctx, id, source); err != nil {
			return err
		}
	}
	for _, source := range remove {
		if err := p.denyFrom(ctx, id, source); err != nil {
			return err
		}
	}
	return nil
}

func (p nlb) DeleteAccess(ctx context.Context, id string) error {
	return p.DeleteSecurityGroup(ctx, id)
}
