package alibaba

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"terway.dev/terway/internal/cloud"
)

// clb implements cloud.BalancerAPI with SLB 2014-05-15. Its changes are in force when a call
// returns.
type clb struct{ product }

// CLB returns the calls for Classic Load Balancers.
func (c *Client) CLB() cloud.BalancerAPI {
	return clb{product{c, productSLB, "2014-05-15", "slb"}}
}

func (p clb) balancer(action string, o object) (cloud.Balancer, error) {
	b := cloud.Balancer{ID: o.text("LoadBalancerId"), Ready: true, VPC: o.text("VpcId"), Tags: o.get("Tags").allTags("Tag"), Settings: o.settings("", map[string]string{})}
	if b.ID == "" {
		return b, p.bad(action, "a load balancer without LoadBalancerId")
	}
	if alias := o.text("InternetChargeTypeAlias"); alias != "" {
		b.Settings["InternetChargeType"] = alias // which is a number in lists
	}
	var err error
	if b.Address, err = o.address("Address"); err != nil {
		return b, p.bad(action, "load balancer %s: %v", b.ID, err)
	}
	return b, nil
}

func (p clb) FindBalancers(ctx context.Context, key, value string) ([]cloud.Balancer, error) {
	const action = "DescribeLoadBalancers"
	filter, err := json.Marshal([]map[string]string{{"TagKey": key, "TagValue": value}})
	if err != nil {
		return nil, p.refuse(action, "tag %s: %v", key, err)
	}
	return pages(func(number int) ([]cloud.Balancer, int, error) {
		o, err := p.do(ctx, "DescribeLoadBalancers", params{"Tags": string(filter), "PageNumber": strconv.Itoa(number), "PageSize": listPage})
		if err != nil {
			return nil, 0, err
		}
		var all []cloud.Balancer
		for _, l := range o.list("LoadBalancers.LoadBalancer") {
			b, err := p.balancer(action, l)
			if err != nil {
				return nil, 0, err
			}
			all = append(all, b)
		}
		total, err := o.number("TotalCount")
		if err != nil {
			return nil, 0, p.bad(action, "%v", err)
		}
		return all, total, nil
	}, func(b cloud.Balancer) string { return b.ID })
}

func (p clb) DescribeBalancer(ctx context.Context, id string) (*cloud.Balancer, error) {
	o, err := p.do(ctx, "DescribeLoadBalancerAttribute", params{"LoadBalancerId": id})
	if err != nil {
		return nil, err
	}
	b, err := p.balancer("DescribeLoadBalancerAttribute", o)
	return &b, err
}

func (p clb) CreateBalancer(ctx context.Context, want cloud.NewBalancer) (string, error) {
	if want.Token == "" {
		return "", p.refuse("CreateLoadBalancer", "without a client token a repeated call would make a second load balancer")
	}
	all := params{"ClientToken": want.Token, "ModificationProtectionReason": protectionReason}.tags(want.Tags).with(want.Settings)
	if all["VSwitchId"] != "" {
		all["VpcId"] = want.VPC
	}
	id, _, err := p.id(ctx, "CreateLoadBalancer", "LoadBalancerId", all)
	return id, err
}

func (p clb) SetBalancer(ctx context.Context, id string, settings map[string]string) error {
	left := len(settings)
	set := func(action string, fixed params, names ...string) error {
		now := only(settings, names...)
		if left -= len(now); len(now) == 0 {
			return nil
		}
		_, err := p.do(ctx, action, params{"LoadBalancerId": id}.with(fixed).with(now))
		return err
	}
	err := errors.Join(
		set("SetLoadBalancerName", nil, "LoadBalancerName"),
		set("SetLoadBalancerDeleteProtection", nil, "DeleteProtection"),
		set("SetLoadBalancerModificationProtection", params{"ModificationProtectionReason": protectionReason}, "ModificationProtectionStatus"),
	)
	if settings["InstanceChargeType"] != "" { // which says what else there is
		err = errors.Join(err, set("ModifyLoadBalancerInstanceChargeType", nil, "InstanceChargeType", "LoadBalancerSpec", "InternetChargeType", "Bandwidth"))
	} else {
		err = errors.Join(err, set("ModifyLoadBalancerInstanceSpec", nil, "LoadBalancerSpec"), set("ModifyLoadBalancerInternetSpec", nil, "InternetChargeType", "Bandwidth"))
	}
	if left > 0 {
		err = errors.Join(err, p.refuse("SetLoadBalancer…", "of %v some cannot be changed", settings))
	}
	return err
}

func (p clb) SetTags(ctx context.Context, id string, add map[string]string, remove []string) error {
	of := params{"ResourceType": "instance", "ResourceId.1": id}
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

// SetZones has nothing to change: a CLB's zones are settings.
func (p clb) SetZones(_ context.Context, id string, zones map[string]string) error {
	return p.refuse("SetZones", "load balancer %s has no zones %v", id, zones)
}

// SetSecurityGroups has nothing to change: access control lists say who may connect.
func (p clb) SetSecurityGroups(_ context.Context, id string, join, _ []string) error {
	return p.refuse("SetSecurityGroups", "load balancer %s has no security groups %v", id, join)
}

func (p clb) DeleteBalancer(ctx context.Context, id string) error {
	if _, err := p.do(ctx, "SetLoadBalancerDeleteProtection", params{"LoadBalancerId": id, "DeleteProtection": "off"}); err != nil {
		return gone(err)
	}
	_, err := p.do(ctx, "DeleteLoadBalancer", params{"LoadBalancerId": id})
	return gone(err)
}

func (p clb) ListListeners(ctx context.Context, balancer string) ([]cloud.Listener, error) {
	const action = "DescribeLoadBalancerListeners"
	list, err := p.tokens(ctx, "DescribeLoadBalancerListeners", "Listeners", params{"LoadBalancerId.1": balancer})
	if err != nil {
		return nil, err
	}
	var all []cloud.Listener
	for _, o := range list {
		l := cloud.Listener{Balancer: balancer, Protocol: strings.ToUpper(o.text("ListenerProtocol")), Group: o.text("VServerGroupId"),
			Description: o.text("Description"), Running: o.text("Status") != "stopped", Settings: o.settings("", map[string]string{})}
		if l.Port, err = o.number("ListenerPort"); err != nil || l.Protocol == "" {
			return nil, p.bad(action, "load balancer %s: a listener without port or protocol", balancer)
		}
		o.get(l.Protocol+"ListenerConfig").settings("", l.Settings)
		all = append(all, l)
	}
	return all, nil
}

// listener identifies a listener.
func (p clb) listener(l cloud.Listener) params {
	return params{"LoadBalancerId": l.Balancer, "ListenerPort": strconv.Itoa(l.Port), "ListenerProtocol": strings.ToLower(l.Protocol)}
}

func (p clb) CreateListener(ctx context.Context, balancer string, want cloud.Listener) error {
	want.Balancer = balancer
	all := p.listener(want).with(params{"VServerGroupId": want.Group, "Description": want.Description, "Bandwidth": "-1"}).with(want.Settings)
	if want.Protocol != "HTTP" { // the API's spelling, only here
		all["healthCheckInterval"] = all["HealthCheckInterval"]
		delete(all, "HealthCheckInterval")
	}
	var err error
	switch want.Protocol {
	case "TCP":
		_, err = p.do(ctx, "CreateLoadBalancerTCPListener", all)
	case "UDP":
		_, err = p.do(ctx, "CreateLoadBalancerUDPListener", all)
	case "HTTP":
		_, err = p.do(ctx, "CreateLoadBalancerHTTPListener", all)
	default:
		err = p.refuse("CreateLoadBalancerListener", "protocol %q: want TCP, UDP or HTTP", want.Protocol)
	}
	if err != nil {
		return err
	}
	return p.StartListener(ctx, want)
}

func (p clb) SetListener(ctx context.Context, is cloud.Listener, settings map[string]string) error {
	all := p.listener(is).with(params{"VServerGroup": "on", "VServerGroupId": is.Group, "Description": is.Description}).with(settings)
	var err error
	switch is.Protocol {
	case "TCP":
		_, err = p.do(ctx, "SetLoadBalancerTCPListenerAttribute", all)
	case "UDP":
		_, err = p.do(ctx, "SetLoadBalancerUDPListenerAttribute", all)
	case "HTTP":
		_, err = p.do(ctx, "SetLoadBalancerHTTPListenerAttribute", all)
	default:
		err = p.refuse("SetLoadBalancerListenerAttribute", "protocol %q: want TCP, UDP or HTTP", is.Protocol)
	}
	return err
}

func (p clb) StartListener(ctx context.Context, is cloud.Listener) error {
	_, err := p.do(ctx, "StartLoadBalancerListener", p.listener(is))
	return err
}

func (p clb) DeleteListener(ctx context.Context, is cloud.Listener) error {
	_, err := p.do(ctx, "DeleteLoadBalancerListener", p.listener(is))
	return gone(err)
}

func (p clb) Health(ctx context.Context, is cloud.Listener) (cloud.Health, error) {
	h := cloud.Health{Listed: map[cloud.BackendKey]string{}, Others: "the load balancer has not checked it yet"}
	o, err := p.do(ctx, "DescribeHealthStatus", p.listener(is))
	if err != nil {
		return h, err
	}
	for _, s := range o.list("BackendServers.BackendServer") {
		b, err := s.backend()
		if err != nil {
			return h, p.bad("DescribeHealthStatus", "%v", err)
		}
		if h.Listed[b.Key()] = s.text("ServerHealthStatus"); h.Listed[b.Key()] == "normal" {
			h.Listed[b.Key()] = ""
		}
	}
	return h, nil
}

func (p clb) ListGroups(ctx context.Context, balancer, _, _ string) ([]cloud.Group, error) {
	o, err := p.do(ctx, "DescribeVServerGroups", params{"LoadBalancerId": balancer})
	if err != nil {
		return nil, err
	}
	var all []cloud.Group
	for _, g := range o.list("VServerGroups.VServerGroup") {
		n, err := g.number("ServerCount")
		if err != nil {
			n = -1
		}
		all = append(all, cloud.Group{ID: g.text("VServerGroupId"), Name: g.text("VServerGroupName"), Backends: n})
		if g.text("VServerGroupId") == "" {
			return nil, p.bad("DescribeVServerGroups", "a group without VServerGroupId")
		}
	}
	return all, nil
}

func (p clb) CreateGroup(ctx context.Context, balancer string, want cloud.NewGroup) (string, error) {
	id, _, err := p.id(ctx, "CreateVServerGroup", "VServerGroupId", params{"LoadBalancerId": balancer, "VServerGroupName": want.Name})
	return id, err
}

// SetGroup has nothing to change: the settings of CLB are those of listeners.
func (p clb) SetGroup(_ context.Context, id string, settings map[string]string) error {
	if len(settings) == 0 {
		return nil
	}
	return p.refuse("SetVServerGroupAttribute", "group %s has no settings %v", id, settings)
}

func (p clb) DeleteGroup(ctx context.Context, id string) error {
	_, err := p.do(ctx, "DeleteVServerGroup", params{"VServerGroupId": id})
	return gone(err)
}

func (p clb) ListBackends(ctx context.Context, group string) ([]cloud.Backend, error) {
	o, err := p.do(ctx, "DescribeVServerGroupAttribute", params{"VServerGroupId": group})
	if err != nil {
		return nil, err
	}
	return p.backends("DescribeVServerGroupAttribute", o.list("BackendServers.BackendServer"))
}

// servers returns the parameters of backends. An instance has no address: it is its primary one.
func (p clb) servers(action, group string, list []cloud.Backend) (params, error) {
	var all []map[string]string
	for _, b := range list {
		s := map[string]string{"ServerId": b.Server, "Type": b.Type, "Port": strconv.Itoa(b.Port), "Weight": strconv.Itoa(b.Weight), "Description": b.Description}
		if b.Type != cloud.ServerInstance {
			s["ServerIp"] = b.Address.String()
		}
		all = append(all, s)
	}
	text, err := json.Marshal(all)
	if err != nil || len(list) == 0 {
		return nil, p.refuse(action, "%d backends: %v", len(list), fmt.Sprint(err))
	}
	return params{"VServerGroupId": group, "BackendServers": string(text)}, nil
}

func (p clb) AddBackends(ctx context.Context, group string, list []cloud.Backend) error {
	all, err := p.servers("AddVServerGroupBackendServers", group, list)
	if err == nil {
		_, err = p.do(ctx, "AddVServerGroupBackendServers", all)
	}
	return err
}

func (p clb) RemoveBackends(ctx context.Context, group string, list []cloud.Backend) error {
	all, err := p.servers("RemoveVServerGroupBackendServers", group, list)
	if err == nil {
		_, err = p.do(ctx, "RemoveVServerGroupBackendServers", all)
	}
	return err
}

func (p clb) WeighBackends(ctx context.Context, group string, list []cloud.Backend) error {
	all, err := p.servers("SetVServerGroupAttribute", group, list)
	if err == nil {
		_, err = p.do(ctx, "SetVServerGroupAttribute", all)
	}
	return err
}

// entriesPerCall is the maximum number of entries of an access control list in a call, and on a page.
const entriesPerCall = 50

func (p clb) FindAccess(ctx context.Context, _, key, value string) ([]cloud.AccessList, error) {
	const action = "DescribeAccessControlLists"
	lists, err := pages(func(number int) ([]cloud.AccessList, int, error) {
		o, err := p.do(ctx, "DescribeAccessControlLists", params{"PageNumber": strconv.Itoa(number), "PageSize": strconv.Itoa(entriesPerCall)}.tags(map[string]string{key: value}))
		if err != nil {
			return nil, 0, err
		}
		var all []cloud.AccessList
		for _, a := range o.list("Acls.Acl") {
			if a.text("AclId") == "" {
				return nil, 0, p.bad(action, "an access control list without AclId")
			}
			all = append(all, cloud.AccessList{ID: a.text("AclId"), Tags: a.allTags("Tags.Tag")})
		}
		total, err := o.number("TotalCount")
		if err != nil {
			return nil, 0, p.bad(action, "%v", err)
		}
		return all, total, nil
	}, func(l cloud.AccessList) string { return l.ID })
	for i := range lists {
		if err == nil {
			lists[i].Sources, err = p.entries(ctx, lists[i].ID)
		}
	}
	return lists, err
}

// entries returns the entries of an access control list.
func (p clb) entries(ctx context.Context, id string) ([]netip.Prefix, error) {
	return pages(func(number int) ([]netip.Prefix, int, error) {
		o, err := p.do(ctx, "DescribeAccessControlListAttribute", params{"AclId": id, "Page": strconv.Itoa(number), "PageSize": strconv.Itoa(entriesPerCall)})
		if err != nil {
			return nil, 0, err
		}
		var all []netip.Prefix
		for _, e := range o.list("AclEntrys.AclEntry") {
			source, err := parsePrefix(e.text("AclEntryIP"))
			if err != nil {
				return nil, 0, p.bad("DescribeAccessControlListAttribute", "list %s: AclEntryIP: %v", id, err)
			}
			all = append(all, source)
		}
		total, err := o.number("TotalAclEntry")
		if err != nil {
			return nil, 0, p.bad("DescribeAccessControlListAttribute", "%v", err)
		}
		return all, total, nil
	}, netip.Prefix.String)
}

func (p clb) CreateAccess(ctx context.Context, want cloud.NewAccess) (string, error) {
	id, _, err := p.id(ctx, "CreateAccessControlList", "AclId", params{"AclName": want.Name, "AddressIPVersion": "ipv4"}.tags(want.Tags))
	return id, err
}

func (p clb) ChangeAccess(ctx context.Context, id string, add, remove []netip.Prefix) error {
	change := func(list []netip.Prefix, call func(params) error) error {
		for some := range slices.Chunk(list, entriesPerCall) {
			var entries []map[string]string
			for _, source := range some {
				entries = append(entries, map[string]string{"entry": source.String()})
			}
			text, err := json.Marshal(entries)
			if err != nil {
				return p.refuse("AddAccessControlListEntry", "%v", err)
			}
			if err := call(params{"AclId": id, "AclEntrys": string(text)}); err != nil {
				return err
			}
		}
		return nil
	}
	if err := change(add, func(all params) error {
		_, err := p.do(ctx, "AddAccessControlListEntry", all)
		return err
	}); err != nil {
		return err
	}
	return change(remove, func(all params) error {
		_, err := p.do(ctx, "RemoveAccessControlListEntry", all)
		return err
	})
}

func (p clb) DeleteAccess(ctx context.Context, id string) error {
	_, err := p.do(ctx, "DeleteAccessControlList", params{"AclId": id})
	return gone(err)
}
