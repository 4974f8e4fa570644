package vpcsim_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alibabacloud-go/tea/tea"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/auth/credentials"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/nlb"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/vpc"

	"terway.dev/terway/internal/vpcsim"
	"terway.dev/terway/internal/vpcsim/faults"
	"terway.dev/terway/internal/vpcsim/state"
)

const nlbVersion = "2022-04-30"

// fields is the tree of an answer's fields. A list has the fields of its items.
type fields map[string]fields

// parseList reads "A, B[], C{D, E[]{F}}", up to its end or a brace that it has not opened.
func parseList(text string) (all fields, rest string) {
	all = fields{}
	for text != "" && text[0] != '}' {
		end := strings.IndexAny(text+",", ",[{}")
		name := strings.TrimSpace(text[:end])
		text = strings.TrimPrefix(text[end:], "[]")
		var of fields
		if strings.HasPrefix(text, "{") {
			of, text = parseList(text[1:])
			text = strings.TrimPrefix(text, "}")
		}
		all[name] = of
		text = strings.TrimSpace(strings.TrimPrefix(text, ","))
	}
	return all, text
}

// reference has the fields of the answers of NLB's actions, as the official SDK for this version
// (4.0.1) has them. This SDK, on which existing controllers are built, is not among the modules
// that tests can use; theirs (v1.63) lacks some of the fields.
func reference(t *testing.T) map[string]fields {
	t.Helper()
	text, err := os.ReadFile("testdata/nlb-2022-04-30.txt")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]fields{}
	for line := range strings.Lines(string(text)) {
		action, list, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if !ok {
			t.Fatalf("line %q, want ACTION: FIELDS", line)
		}
		of, rest := parseList(list)
		if rest != "" {
			t.Fatalf("%s: left of its fields: %q", action, rest)
		}
		all[action] = of
	}
	return all
}

// differences returns the fields that an answer has and the reference has not, and, with "-", the
// fields that are missing. Empty lists are not compared.
func differences(path string, v any, want fields) []string {
	var all []string
	switch v := v.(type) {
	case []any:
		for _, x := range v {
			all = append(all, differences(path, x, want)...)
		}
	case map[string]any:
		for name, x := range v {
			if of, ok := want[name]; !ok {
				all = append(all, path+name)
			} else {
				all = append(all, differences(path+name+".", x, of)...)
			}
		}
		for name := range want {
			if _, ok := v[name]; !ok {
				all = append(all, "-"+path+name)
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// notAnswered are fields that answers leave out: those of port ranges and IPv6, and addresses
// that the simulated load balancers do not have.
var notAnswered = []string{
	"-StartPort", "-EndPort", "-Listeners.StartPort", "-Listeners.EndPort",
	"-ZoneMappings.LoadBalancerAddresses.Ipv4LocalAddresses", "-ZoneMappings.LoadBalancerAddresses.Ipv6LocalAddresses",
}

// nlbWorld is a VPC with vSwitches in two zones and an ENI on an instance.
type nlbWorld struct {
	clients
	network
	nlb            *nlb.Client
	other, eni, ip string
	jobs           []string
	called         map[string]bool
	reference      map[string]fields
	t              *testing.T
}

func newNLBWorld(t *testing.T, s *vpcsim.Server) *nlbWorld {
	t.Helper()
	c := connect(t, s)
	w := &nlbWorld{clients: c, network: makeNetwork(t, c), t: t, called: map[string]bool{}, reference: reference(t)}
	r := vpc.CreateCreateVSwitchRequest()
	r.VpcId, r.CidrBlock, r.ZoneId = w.network.vpc, "192.168.32.0/19", "cn-hangzhou-h"
	w.other = must(c.vpc.CreateVSwitch(r))(t).VSwitchId
	eventually(t, "the vSwitch is Available", func() bool { return vswitch(t, c, w.other).Status == "Available" })
	w.eni = instance(t, c, runInstance(t, c, w.network)).NetworkInterfaces.NetworkInterface[0].NetworkInterfaceId
	w.ip = must(assign(c, w.eni, 1, ""))(t)[0]
	a := s.Account()
	client, err := nlb.NewClientWithOptions(s.Region(), sdk.NewConfig().WithScheme("HTTP").WithAutoRetry(false).WithTimeout(30*time.Second),
		credentials.NewAccessKeyCredential(a.AccessKeyID, a.AccessKeySecret))
	if err != nil {
		t.Fatal(err)
	}
	client.Domain, w.nlb = c.ecs.Domain, client
	return w
}

// answered compares an answer with the reference.
func (w *nlbWorld) answered(action, text string) {
	w.t.Helper()
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		w.t.Fatalf("%s: %v", action, err)
	}
	w.called[action] = true
	for _, d := range differences("", v, w.reference[action]) {
		if !slices.Contains(notAnswered, d) {
			w.t.Errorf("%s: field %s (with -: is missing)\n%s", action, d, text)
		}
	}
}

// wait waits for a job.
func (w *nlbWorld) wait(job string) {
	w.t.Helper()
	if job == "" {
		w.t.Fatal("the answer has no JobId")
	}
	w.jobs = append(w.jobs, job)
	eventually(w.t, "job "+job+" has succeeded", func() bool {
		r := nlb.CreateGetJobStatusRequest()
		r.JobId = job
		a := must(w.nlb.GetJobStatus(r))(w.t)
		w.answered("GetJobStatus", a.GetHttpContentString())
		return a.Status == "Succeeded"
	})
}

// The life of a load balancer through the typed client of the official SDK, with every action
// that it and the simulator have.
func TestNLBThroughTheSDK(t *testing.T) {
	w := newNLBWorld(t, start(t))
	c := w.nlb

	create := nlb.CreateCreateLoadBalancerRequest()
	create.VpcId, create.AddressType, create.LoadBalancerName, create.ClientToken = w.network.vpc, "Internet", "a0123", "token-1"
	create.ZoneMappings = &[]nlb.CreateLoadBalancerZoneMappings{{ZoneId: "cn-hangzhou-i", VSwitchId: w.vswitch}, {ZoneId: "cn-hangzhou-h", VSwitchId: w.other, PrivateIPv4Address: "192.168.40.7"}}
	create.Tag = &[]nlb.CreateLoadBalancerTag{{Key: "kubernetes.do.not.delete", Value: "a0123"}}
	create.DeletionProtectionConfig.Enabled, create.ModificationProtectionConfig.Status = "true", "ConsoleProtection"
	made := must(c.CreateLoadBalancer(create))(t)
	w.answered("CreateLoadBalancer", made.GetHttpContentString())
	id := made.LoadbalancerId
	if again := must(c.CreateLoadBalancer(create))(t).LoadbalancerId; again != id {
		t.Errorf("the same token made %s, then %s", id, again)
	}
	get := func() *nlb.GetLoadBalancerAttributeResponse {
		r := nlb.CreateGetLoadBalancerAttributeRequest()
		r.LoadBalancerId = id
		a := must(c.GetLoadBalancerAttribute(r))(t)
		w.answered("GetLoadBalancerAttribute", a.GetHttpContentString())
		return a
	}
	eventually(t, "the load balancer is Active", func() bool { return get().LoadBalancerStatus == "Active" })
	b := get()
	if z := b.ZoneMappings; len(z) != 2 || z[0].LoadBalancerAddresses[0].PrivateIPv4Address != "192.168.40.7" || !inside(t, "198.51.100.0/24", z[1].LoadBalancerAddresses[0].PublicIPv4Address) {
		t.Errorf("zones %+v", z)
	}
	if len(b.Tags) != 1 || b.Tags[0].TagKey != "kubernetes.do.not.delete" || !b.DeletionProtectionConfig.Enabled || b.ModificationProtectionConfig.Status != "ConsoleProtection" || b.DNSName == "" {
		t.Errorf("load balancer %+v", b)
	}
	find := nlb.CreateListLoadBalancersRequest()
	find.Tag = &[]nlb.ListLoadBalancersTag{{Key: "kubernetes.do.not.delete", Value: "a0123"}}
	found := must(c.ListLoadBalancers(find))(t)
	w.answered("ListLoadBalancers", found.GetHttpContentString())
	if len(found.LoadBalancers) != 1 || found.LoadBalancers[0].LoadBalancerId != id || found.LoadBalancers[0].Tags[0].Key != "kubernetes.do.not.delete" || found.TotalCount != 1 {
		t.Errorf("by tag: %+v", found.LoadBalancers)
	}

	update := nlb.CreateUpdateLoadBalancerAttributeRequest()
	update.LoadBalancerId, update.LoadBalancerName, update.CrossZoneEnabled = id, "b0123", requests.NewBoolean(false)
	updated := must(c.UpdateLoadBalancerAttribute(update))(t)
	w.answered("UpdateLoadBalancerAttribute", updated.GetHttpContentString())
	w.wait(updated.JobId)
	kind := nlb.CreateUpdateLoadBalancerAddressTypeConfigRequest()
	kind.LoadBalancerId, kind.AddressType = id, "Intranet"
	changed := must(c.UpdateLoadBalancerAddressTypeConfig(kind))(t)
	w.answered("UpdateLoadBalancerAddressTypeConfig", changed.GetHttpContentString())
	w.wait(changed.JobId)
	zones := nlb.CreateUpdateLoadBalancerZonesRequest()
	zones.LoadBalancerId = id
	zones.ZoneMappings = &[]nlb.UpdateLoadBalancerZonesZoneMappings{{ZoneId: "cn-hangzhou-i", VSwitchId: w.vswitch}, {ZoneId: "cn-hangzhou-h", VSwitchId: w.other}}
	zoned := must(c.UpdateLoadBalancerZones(zones))(t)
	w.answered("UpdateLoadBalancerZones", zoned.GetHttpContentString())
	w.wait(zoned.JobId)
	join := nlb.CreateLoadBalancerJoinSecurityGroupRequest()
	join.LoadBalancerId, join.SecurityGroupIds = id, &[]string{w.group}
	joined := must(c.LoadBalancerJoinSecurityGroup(join))(t)
	w.answered("LoadBalancerJoinSecurityGroup", joined.GetHttpContentString())
	w.wait(joined.JobId)
	if b = get(); b.LoadBalancerName != "b0123" || b.CrossZoneEnabled || b.AddressType != "Intranet" || !slices.Equal(b.SecurityGroupIds, []string{w.group}) {
		t.Errorf("load balancer %+v", b)
	}
	leave := nlb.CreateLoadBalancerLeaveSecurityGroupRequest()
	leave.LoadBalancerId, leave.SecurityGroupIds = id, &[]string{w.group}
	left := must(c.LoadBalancerLeaveSecurityGroup(leave))(t)
	w.answered("LoadBalancerLeaveSecurityGroup", left.GetHttpContentString())
	w.wait(left.JobId)

	group := nlb.CreateCreateServerGroupRequest()
	group.VpcId, group.ServerGroupName, group.Protocol, group.Scheduler, group.ServerGroupType = w.network.vpc, "k8s.80.TCP.web.default.c1", "TCP", "Wrr", "Instance"
	group.ConnectionDrainEnabled, group.ConnectionDrainTimeout, group.PreserveClientIpEnabled = requests.NewBoolean(true), requests.NewInteger(30), requests.NewBoolean(true)
	group.HealthCheckConfig = nlb.CreateServerGroupHealthCheckConfig{
		HealthCheckEnabled: "true", HealthCheckType: "HTTP", HealthCheckConnectPort: "8081", HealthCheckUrl: "/healthz", HealthCheckHttpCode: &[]string{"http_2xx", "http_3xx"},
	}
	group.Tag = &[]nlb.CreateServerGroupTag{{Key: "k", Value: "v"}}
	grouped := must(c.CreateServerGroup(group))(t)
	w.answered("CreateServerGroup", grouped.GetHttpContentString())
	w.wait(grouped.JobId)
	sgp := grouped.ServerGroupId
	attributes := nlb.CreateUpdateServerGroupAttributeRequest()
	attributes.ServerGroupId, attributes.Scheduler, attributes.HealthCheckConfig.HealthCheckInterval = sgp, "sch", "2"
	regrouped := must(c.UpdateServerGroupAttribute(attributes))(t)
	w.answered("UpdateServerGroupAttribute", regrouped.GetHttpContentString())
	w.wait(regrouped.JobId)

	add := nlb.CreateAddServersToServerGroupRequest()
	add.ServerGroupId = sgp
	add.Servers = &[]nlb.AddServersToServerGroupServers{
		{ServerId: w.eni, ServerType: "Eni", ServerIp: w.ip, Port: "8080", Weight: "100", Description: "k8s.80.TCP.web.default.c1"},
		{ServerId: w.eni, ServerType: "Eni", Port: "8080"},
	}
	added := must(c.AddServersToServerGroup(add))(t)
	w.answered("AddServersToServerGroup", added.GetHttpContentString())
	w.wait(added.JobId)
	weigh := nlb.CreateUpdateServerGroupServersAttributeRequest()
	weigh.ServerGroupId = sgp
	weigh.Servers = &[]nlb.UpdateServerGroupServersAttributeServers{{ServerId: w.eni, ServerType: "Eni", ServerIp: w.ip, Port: "8080", Weight: "0"}}
	weighed := must(c.UpdateServerGroupServersAttribute(weigh))(t)
	w.answered("UpdateServerGroupServersAttribute", weighed.GetHttpContentString())
	w.wait(weighed.JobId)
	servers := func() []nlb.Server {
		r := nlb.CreateListServerGroupServersRequest()
		r.ServerGroupId, r.MaxResults = sgp, requests.NewInteger(1)
		var all []nlb.Server
		for {
			a := must(c.ListServerGroupServers(r))(t)
			w.answered("ListServerGroupServers", a.GetHttpContentString())
			all = append(all, a.Servers...)
			if r.NextToken = a.NextToken; r.NextToken == "" {
				return all
			}
		}
	}
	if all := servers(); len(all) != 2 || !slices.ContainsFunc(all, func(s nlb.Server) bool {
		return s.ServerIp == w.ip && s.Weight == 0 && s.Port == 8080 && s.Status == "Available" && s.Description == "k8s.80.TCP.web.default.c1" && s.ServerGroupId == sgp
	}) {
		t.Errorf("servers %+v", all)
	}

	listen := nlb.CreateCreateListenerRequest()
	listen.LoadBalancerId, listen.ListenerProtocol, listen.ListenerPort, listen.ServerGroupId = id, "TCP", requests.NewInteger(80), sgp
	listen.ListenerDescription, listen.Tag = "k8s.80.TCP.web.default.c1", &[]nlb.CreateListenerTag{{Key: "k", Value: "v"}}
	listening := must(c.CreateListener(listen))(t)
	w.answered("CreateListener", listening.GetHttpContentString())
	w.wait(listening.JobId)
	lsn := listening.ListenerId
	relisten := nlb.CreateUpdateListenerAttributeRequest()
	relisten.ListenerId, relisten.IdleTimeout, relisten.ProxyProtocolEnabled = lsn, requests.NewInteger(60), requests.NewBoolean(false)
	relistened := must(c.UpdateListenerAttribute(relisten))(t)
	w.answered("UpdateListenerAttribute", relistened.GetHttpContentString())
	w.wait(relistened.JobId)
	stop := nlb.CreateStopListenerRequest()
	stop.ListenerId = lsn
	stopped := must(c.StopListener(stop))(t)
	w.answered("StopListener", stopped.GetHttpContentString())
	w.wait(stopped.JobId)
	ask := nlb.CreateGetListenerAttributeRequest()
	ask.ListenerId = lsn
	one := must(c.GetListenerAttribute(ask))(t)
	w.answered("GetListenerAttribute", one.GetHttpContentString())
	if one.ListenerStatus != "Stopped" || one.IdleTimeout != 60 || one.ServerGroupId != sgp || one.Tags[0].TagKey != "k" {
		t.Errorf("listener %+v", one)
	}
	begin := nlb.CreateStartListenerRequest()
	begin.ListenerId = lsn
	begun := must(c.StartListener(begin))(t)
	w.answered("StartListener", begun.GetHttpContentString())
	w.wait(begun.JobId)
	list := nlb.CreateListListenersRequest()
	list.LoadBalancerIds = &[]string{id}
	listed := must(c.ListListeners(list))(t)
	w.answered("ListListeners", listed.GetHttpContentString())
	if len(listed.Listeners) != 1 || listed.Listeners[0].ListenerStatus != "Running" || listed.Listeners[0].ListenerPort != 80 || listed.Listeners[0].StartPort != "" {
		t.Errorf("listeners %+v", listed.Listeners)
	}
	check := nlb.CreateGetListenerHealthStatusRequest()
	check.ListenerId = lsn
	health := must(c.GetListenerHealthStatus(check))(t)
	w.answered("GetListenerHealthStatus", health.GetHttpContentString())
	// Without a data plane that checks them, servers count as healthy.
	if h := health.ListenerHealthStatus; len(h) != 1 || !h[0].ServerGroupInfos[0].HeathCheckEnabled || len(h[0].ServerGroupInfos[0].NonNormalServers) != 0 {
		t.Errorf("health %+v", h)
	}

	groups := nlb.CreateListServerGroupsRequest()
	groups.Tag = &[]nlb.ListServerGroupsTag{{Key: "k", Value: "v"}}
	all := must(c.ListServerGroups(groups))(t)
	w.answered("ListServerGroups", all.GetHttpContentString())
	if g := all.ServerGroups; len(g) != 1 || g[0].ServerCount != 2 || g[0].Scheduler != "sch" || g[0].HealthCheck.HealthCheckInterval != 2 ||
		!slices.Equal(g[0].HealthCheck.HealthCheckHttpCode, []string{"http_2xx", "http_3xx"}) || g[0].ConnectionDrainTimeout != 30 || !slices.Equal(g[0].RelatedLoadBalancerIds, []string{id}) {
		t.Errorf("server groups %+v", g)
	}

	tag := nlb.CreateTagResourcesRequest()
	tag.ResourceType, tag.ResourceId, tag.Tag = "loadbalancer", &[]string{id}, &[]nlb.TagResourcesTag{{Key: "a", Value: "b"}}
	w.answered("TagResources", must(c.TagResources(tag))(t).GetHttpContentString())
	tags := nlb.CreateListTagResourcesRequest()
	tags.ResourceType, tags.ResourceId = "loadbalancer", &[]string{id}
	tagged := must(c.ListTagResources(tags))(t)
	w.answered("ListTagResources", tagged.GetHttpContentString())
	if got := tagged.TagResources; len(got) != 2 || got[0].TagKey != "a" || got[0].TagValue != "b" || got[0].ResourceType != "loadbalancer" {
		t.Errorf("tags %+v", got)
	}
	untag := nlb.CreateUntagResourcesRequest()
	untag.ResourceType, untag.ResourceId, untag.TagKey = "loadbalancer", &[]string{id}, &[]string{"a"}
	w.answered("UntagResources", must(c.UntagResources(untag))(t).GetHttpContentString())

	remove := nlb.CreateRemoveServersFromServerGroupRequest()
	remove.ServerGroupId = sgp
	remove.Servers = &[]nlb.RemoveServersFromServerGroupServers{{ServerId: w.eni, ServerType: "Eni", ServerIp: w.ip, Port: "8080"}}
	removed := must(c.RemoveServersFromServerGroup(remove))(t)
	w.answered("RemoveServersFromServerGroup", removed.GetHttpContentString())
	w.wait(removed.JobId)
	if got := servers(); len(got) != 1 || got[0].ServerIp == w.ip {
		t.Errorf("servers %+v", got)
	}
	silence := nlb.CreateDeleteListenerRequest()
	silence.ListenerId = lsn
	silent := must(c.DeleteListener(silence))(t)
	w.answered("DeleteListener", silent.GetHttpContentString())
	w.wait(silent.JobId)
	ungroup := nlb.CreateDeleteServerGroupRequest()
	ungroup.ServerGroupId = sgp
	ungrouped := must(c.DeleteServerGroup(ungroup))(t)
	w.answered("DeleteServerGroup", ungrouped.GetHttpContentString())
	w.wait(ungrouped.JobId)

	del := nlb.CreateDeleteLoadBalancerRequest()
	del.LoadBalancerId = id
	_, err := c.DeleteLoadBalancer(del)
	wantError(t, err, "OperationDenied.DeletionProtectionEnabled", 400)
	protect := nlb.CreateUpdateLoadBalancerProtectionRequest()
	protect.LoadBalancerId, protect.DeletionProtectionEnabled, protect.ModificationProtectionStatus = id, requests.NewBoolean(false), "NonProtection"
	w.answered("UpdateLoadBalancerProtection", must(c.UpdateLoadBalancerProtection(protect))(t).GetHttpContentString())
	deleted := must(c.DeleteLoadBalancer(del))(t)
	w.answered("DeleteLoadBalancer", deleted.GetHttpContentString())
	w.wait(deleted.JobId)
	_, err = c.DeleteLoadBalancer(del)
	wantError(t, err, "ResourceNotFound.loadBalancer", 404)
	w.answered("DescribeRegions", must(c.DescribeRegions(nlb.CreateDescribeRegionsRequest()))(t).GetHttpContentString())
	w.answered("DescribeZones", must(c.DescribeZones(nlb.CreateDescribeZonesRequest()))(t).GetHttpContentString())

	// The one action that this SDK lacks.
	params := map[string]string{}
	for i, job := range w.jobs {
		params[fmt.Sprintf("JobIds.%d", i+1)] = job
	}
	text, err := raw(t, w.clients, nlbVersion, "ListAsynJobs", params)
	if err != nil {
		t.Fatal(err)
	}
	w.answered("ListAsynJobs", text)
	if n := strings.Count(text, `"Succeeded"`); n != len(w.jobs) {
		t.Errorf("%d of %d jobs have succeeded: %s", n, len(w.jobs), text)
	}
	if called, want := slices.Sorted(maps.Keys(w.called)), slices.Sorted(maps.Keys(w.reference)); !slices.Equal(called, want) {
		t.Errorf("called\n%v, want every action:\n%v", called, want)
	}
}

// The client on which existing controllers are built signs with ACS3, and sends parameters in
// the query and in the body.
func TestNLBWithACS3(t *testing.T) {
	s := start(t)
	w := newNLBWorld(t, s)
	client := acs3(t, s, s.Account().AccessKeySecret)
	type p = map[string]any
	do := func(action string, query, form p) p {
		t.Helper()
		a, err := client.call(nlbVersion, action, query, form)
		if err != nil {
			t.Fatalf("%s: %v", action, err)
		}
		if job, ok := a["JobId"].(string); ok {
			w.wait(job)
		}
		return a
	}
	id := do("CreateLoadBalancer", nil, p{
		"VpcId": w.network.vpc, "AddressType": "Intranet", "AddressIpVersion": "Ipv4", "DeletionProtectionConfig": p{"Enabled": false},
		"ZoneMappings": []p{{"ZoneId": "cn-hangzhou-i", "VSwitchId": w.vswitch}, {"ZoneId": "cn-hangzhou-h", "VSwitchId": w.other}}, "Tag": []p{{"Key": "a b", "Value": "c&d"}},
	})["LoadbalancerId"]
	eventually(t, "the load balancer is Active", func() bool {
		return do("GetLoadBalancerAttribute", p{"LoadBalancerId": id}, nil)["LoadBalancerStatus"] == "Active"
	})
	group := do("CreateServerGroup", nil, p{
		"VpcId": w.network.vpc, "ServerGroupName": "sg", "HealthCheckConfig": p{"HealthCheckEnabled": true, "HealthCheckType": "TCP", "HealthyThreshold": 3},
	})["ServerGroupId"]
	do("AddServersToServerGroup", nil, p{"ServerGroupId": group, "Servers": []p{{"ServerId": w.eni, "ServerType": "Eni", "ServerIp": w.ip, "Port": 8080, "Weight": 50}}})
	listener := do("CreateListener", nil, p{
		"LoadBalancerId": id, "ListenerProtocol": "TCP", "ListenerPort": 80, "ServerGroupId": group,
		"ProxyProtocolV2Config": `{"Ppv2PrivateLinkEpIdEnabled":false}`,
	})["ListenerId"]
	if got := do("ListListeners", p{"LoadBalancerIds": []any{id}, "MaxResults": 100}, nil)["Listeners"].([]any)[0].(p); got["ListenerId"] != listener || got["ListenerStatus"] != "Running" {
		t.Errorf("listener %v", got)
	}
	if got := do("ListServerGroupServers", p{"ServerGroupId": group}, nil)["Servers"].([]any)[0].(p); fmt.Sprint(got["Weight"]) != "50" || got["ServerIp"] != w.ip {
		t.Errorf("server %v", got)
	}
	do("DeleteLoadBalancer", p{"LoadBalancerId": id}, nil)
	// An error's text has what existing controllers look for.
	_, err := client.call(nlbVersion, "DeleteLoadBalancer", p{"LoadBalancerId": id}, nil)
	var e *tea.SDKError
	if !errors.As(err, &e) || tea.StringValue(e.Code) != "ResourceNotFound.loadBalancer" || !strings.Contains(err.Error(), "ResourceNotFound.loadBalancer") {
		t.Errorf("error %v", err)
	}
}

// Fault rules hold jobs, and make them fail.
func TestNLBFaults(t *testing.T) {
	s := start(t)
	w := newNLBWorld(t, s)
	status := func(job string) string {
		r := nlb.CreateGetJobStatusRequest()
		r.JobId = job
		return must(w.nlb.GetJobStatus(r))(t).Status
	}
	create := func() (group, job string) {
		r := nlb.CreateCreateServerGroupRequest()
		r.VpcId, r.ServerGroupName = w.network.vpc, "group"
		a := must(w.nlb.CreateServerGroup(r))(t)
		return a.ServerGroupId, a.JobId
	}
	add(t, s, faults.Rule{Name: "hold", StuckJobs: true})
	group, job := create()
	if got := status(job); got != "Processing" {
		t.Errorf("a job that is held is %s", got)
	}
	s.RemoveFault("hold")
	w.wait(job)
	add(t, s, faults.Rule{Name: "fail", FailingJobs: true})
	r := nlb.CreateDeleteServerGroupRequest()
	r.ServerGroupId = group
	job = must(w.nlb.DeleteServerGroup(r))(t).JobId
	eventually(t, "the job has failed", func() bool { return status(job) == "Failed" })
	if all := must(w.nlb.ListServerGroups(nlb.CreateListServerGroupsRequest()))(t).ServerGroups; len(all) != 1 || all[0].ServerGroupStatus != "Available" {
		t.Errorf("after a failed deletion: %+v", all)
	}
	s.RemoveFault("fail")

	// Throttling and errors are as for other products.
	add(t, s, faults.Rule{Action: "Nlb:ListServerGroups", Error: &faults.Error{Code: "Throttling.User"}, Count: 1})
	_, err := w.nlb.ListServerGroups(nlb.CreateListServerGroupsRequest())
	wantError(t, err, "Throttling.User", 400)
}

// A job survives a restart of the simulator.
func TestNLBJobAfterARestart(t *testing.T) {
	clock := &manualClock{now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	s := start(t, func(o *vpcsim.Options) {
		o.StateDir, o.Now, o.Timing = t.TempDir(), clock.Now, state.Timing{NLBServerGroup: time.Minute}
	})
	w := newNLBWorld(t, s)
	r := nlb.CreateCreateServerGroupRequest()
	r.VpcId, r.ServerGroupName, r.ClientToken = w.network.vpc, "group", "token-1"
	made := must(w.nlb.CreateServerGroup(r))(t)
	s = reopen(t, s)
	w.nlb.Domain = strings.TrimPrefix(s.Endpoint(), "http://")
	job := nlb.CreateGetJobStatusRequest()
	job.JobId = made.JobId
	if got := must(w.nlb.GetJobStatus(job))(t).Status; got != "Processing" {
		t.Errorf("the job is %s", got)
	}
	r.SetDomain(w.nlb.Domain)
	if again := must(w.nlb.CreateServerGroup(r))(t); again.ServerGroupId != made.ServerGroupId || again.JobId != made.JobId {
		t.Errorf("the token gave %s and %s, then %s and %s", made.ServerGroupId, made.JobId, again.ServerGroupId, again.JobId)
	}
	clock.Advance(time.Minute)
	w.wait(made.JobId)
}

// An existing controller's calls for a Service with two ports, in its order and with what it
// waits for: jobs take their time, and listeners are made without waiting for each other.
func TestNLBCallsOfAController(t *testing.T) {
	const job = 30 * time.Millisecond
	s := start(t, func(o *vpcsim.Options) {
		o.Timing = state.Timing{NLBLoadBalancer: job, NLBListener: job, NLBServerGroup: job}
	})
	w := newNLBWorld(t, s)
	client := acs3(t, s, s.Account().AccessKeySecret)
	type p = map[string]any
	do := func(action string, params p) p {
		t.Helper()
		a, err := client.call(nlbVersion, action, nil, params)
		if err != nil {
			t.Fatalf("%s: %v", action, err)
		}
		return a
	}
	list := func(action, field string, params p) []any {
		t.Helper()
		return do(action, params)[field].([]any)
	}
	// A job that is not in the list counts as done.
	batch := func(jobs ...any) {
		t.Helper()
		eventually(t, "the jobs have ended", func() bool {
			for _, j := range list("ListAsynJobs", "Jobs", p{"JobIds": jobs}) {
				if status := j.(p)["Status"]; status == "Failed" {
					t.Fatalf("job %v", j)
				} else if status != "Succeeded" {
					return false
				}
			}
			return true
		})
	}
	tag := []p{{"Key": "kubernetes.do.not.delete", "Value": "a1"}}

	if found := list("ListLoadBalancers", "LoadBalancers", p{"Tag": tag}); len(found) != 0 {
		t.Fatalf("load balancers %v", found)
	}
	id := do("CreateLoadBalancer", p{
		"VpcId": w.network.vpc, "AddressType": "Internet", "LoadBalancerName": "a1", "ClientToken": "t1", "Tag": tag,
		"ZoneMappings":                 []p{{"ZoneId": "cn-hangzhou-i", "VSwitchId": w.vswitch}, {"ZoneId": "cn-hangzhou-h", "VSwitchId": w.other}},
		"DeletionProtectionConfig":     p{"Enabled": true},
		"ModificationProtectionConfig": p{"Status": "ConsoleProtection", "Reason": "managed.by.ack"},
	})["LoadbalancerId"]
	eventually(t, "the load balancer is not Provisioning", func() bool {
		return do("GetLoadBalancerAttribute", p{"LoadBalancerId": id})["LoadBalancerStatus"] != "Provisioning"
	})
	groups := []any{}
	for _, port := range []string{"80", "443"} {
		made := do("CreateServerGroup", p{
			"VpcId": w.network.vpc, "ServerGroupName": "k8s." + port + ".TCP.web.default.c1", "Tag": tag, "Protocol": "TCP", "ServerGroupType": "Instance", "AddressIPVersion": "ipv4", "Scheduler": "Wrr",
		})
		w.wait(made["JobId"].(string))
		groups = append(groups, made["ServerGroupId"])
	}
	for _, group := range groups {
		if g := list("ListServerGroups", "ServerGroups", p{"ServerGroupIds": []any{group}})[0].(p); fmt.Sprint(g["ServerCount"]) != "0" {
			t.Fatalf("server group %v", g)
		}
		w.wait(do("AddServersToServerGroup", p{"ServerGroupId": group, "Servers": []p{
			{"ServerId": w.eni, "ServerIp": w.ip, "ServerType": "Eni", "Port": 8080, "Weight": 100, "Description": "k8s.80.TCP.web.default.c1"},
		}})["JobId"].(string))
	}
	var jobs []any
	for i, port := range []int{80, 443} {
		made := do("CreateListener", p{
			"LoadBalancerId": id, "ListenerProtocol": "TCP", "ListenerPort": port, "ServerGroupId": groups[i], "ListenerDescription": fmt.Sprintf("k8s.%d.TCP.web.default.c1", port),
		})
		jobs = append(jobs, made["JobId"])
	}
	batch(jobs...)
	jobs = nil
	for _, l := range list("ListListeners", "Listeners", p{"LoadBalancerIds": []any{id}, "MaxResults": 100}) {
		if l := l.(p); l["ListenerStatus"] != "Running" {
			t.Errorf("listener %v", l)
		} else {
			jobs = append(jobs, do("UpdateListenerAttribute", p{"ListenerId": l["ListenerId"], "IdleTimeout": 60})["JobId"])
		}
	}
	batch(jobs...)
	// A pod goes: weight 0, then out.
	server := p{"ServerId": w.eni, "ServerIp": w.ip, "ServerType": "Eni", "Port": 8080, "Weight": 0}
	w.wait(do("UpdateServerGroupServersAttribute", p{"ServerGroupId": groups[0], "Servers": []p{server}})["JobId"].(string))
	delete(server, "Weight")
	w.wait(do("RemoveServersFromServerGroup", p{"ServerGroupId": groups[0], "Servers": []p{server}})["JobId"].(string))

	// The Service goes.
	found := list("ListLoadBalancers", "LoadBalancers", p{"Tag": tag})
	if len(found) != 1 || found[0].(p)["LoadBalancerId"] != id {
		t.Fatalf("load balancers %v", found)
	}
	do("UpdateLoadBalancerProtection", p{"LoadBalancerId": id, "DeletionProtectionEnabled": false})
	do("UpdateLoadBalancerProtection", p{"LoadBalancerId": id, "ModificationProtectionStatus": "NonProtection"})
	w.wait(do("DeleteLoadBalancer", p{"LoadBalancerId": id})["JobId"].(string))
	for _, g := range list("ListServerGroups", "ServerGroups", p{"Tag": tag, "MaxResults": 100}) {
		w.wait(do("DeleteServerGroup", p{"ServerGroupId": g.(p)["ServerGroupId"]})["JobId"].(string))
	}
	if left := list("ListServerGroups", "ServerGroups", nil); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}
