package vpcsim_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/auth/credentials"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/ecs"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/slb"

	"terway.dev/terway/internal/vpcsim"
	"terway.dev/terway/internal/vpcsim/faults"
	"terway.dev/terway/internal/vpcsim/openapi"
	"terway.dev/terway/internal/vpcsim/state"
)

const slbVersion = "2014-05-15"

func connectSLB(t *testing.T, s *vpcsim.Server) *slb.Client {
	t.Helper()
	a := s.Account()
	c, err := slb.NewClientWithOptions(s.Region(), sdk.NewConfig().WithScheme("HTTP").WithAutoRetry(false).WithTimeout(30*time.Second),
		credentials.NewAccessKeyCredential(a.AccessKeyID, a.AccessKeySecret))
	if err != nil {
		t.Fatal(err)
	}
	c.Domain = strings.TrimPrefix(s.Endpoint(), "http://")
	return c
}

// missingFields returns the fields of an SDK's type that an answer has not. The items of an empty
// list are not compared.
func missingFields(path string, v any, of reflect.Type) []string {
	var all []string
	switch v := v.(type) {
	case []any:
		for _, x := range v {
			all = append(all, missingFields(path, x, of.Elem())...)
		}
	case map[string]any:
		for i := range of.NumField() {
			name := of.Field(i).Tag.Get("json")
			if name == "" {
				continue // what is common to all answers
			}
			if x, ok := v[name]; ok {
				all = append(all, missingFields(path+name+".", x, of.Field(i).Type)...)
			} else {
				all = append(all, path+name)
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// notAnsweredBySLB are the fields that answers leave out: those of features that the simulator
// does not have, and settings that are not set.
var notAnsweredBySLB = regexp.MustCompile(`(^|\.)(HTTPSListenerConfig|TCPSListenerConfig|BackendProtocol|HealthCheckConnectPort|ConnectionDrainTimeout|` +
	`MasterServerGroupId|SlaveServerGroupId|WorkingServerGroupId|Failover\w+|SynProxy|EniHost|IncludeRule|` +
	`ServiceManagedReason|AssociatedCen\w+|AutoReleaseTime|Cloud\w+|\w*ReservedInfo\w*|Labels|Renewal\w+|TunnelType)$`)

// otherProtocols are the settings of the listeners of other protocols.
var otherProtocols = regexp.MustCompile(`^Listeners\.(TCP|UDP|HTTP)ListenerConfig$`)

// Every action of SLB, with the parameters that programs send. Each field of an answer exists in
// the official SDK, at the same place and with the same type, and no field is missing but those
// of notAnsweredBySLB.
func TestEveryFieldOfSLB(t *testing.T) {
	s := start(t)
	c := connect(t, s)
	n := makeNetwork(t, c)
	eniID := makeENI(t, c, n, func(r *ecs.CreateNetworkInterfaceRequest) { r.SecondaryPrivateIpAddressCount = requests.NewInteger(2) })
	var ips []string
	for _, a := range eni(t, c, eniID).PrivateIpSets.PrivateIpSet {
		ips = append(ips, a.PrivateIpAddress)
	}
	type p = map[string]string
	called, ids := map[string]bool{}, p{}
	do := func(action string, params p, into any) map[string]any {
		t.Helper()
		called[action] = true
		all := maps.Clone(params)
		for name, v := range all {
			for id, is := range ids {
				v = strings.ReplaceAll(v, "$"+id, is)
			}
			all[name] = v
		}
		text := must(raw(t, c, slbVersion, action, all))(t)
		d := json.NewDecoder(strings.NewReader(text))
		d.DisallowUnknownFields()
		if err := d.Decode(into); err != nil {
			t.Errorf("%s: %v\n%s", action, err, text)
		}
		var v map[string]any
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			t.Fatal(err)
		}
		missing := slices.DeleteFunc(missingFields("", v, reflect.TypeOf(into).Elem()), func(f string) bool {
			return notAnsweredBySLB.MatchString(f) || otherProtocols.MatchString(f)
		})
		if len(missing) > 0 {
			t.Errorf("%s: the answer has no %v\n%s", action, missing, text)
		}
		return v
	}
	server := func(ip string, more string) string {
		// Lower-camel keys, numbers and unknown keys, as existing programs send them.
		return fmt.Sprintf(`[{"serverId":%q,"serverIp":%q,"port":80,"type":"eni","description":"k8s","NodeName":null,"Invalid":false%s}]`, eniID, ip, more)
	}

	ids["lb"] = do("CreateLoadBalancer", p{
		"AddressType": "intranet", "VSwitchId": n.vswitch, "VpcId": n.vpc, "LoadBalancerName": "a", "LoadBalancerSpec": "slb.s1.small",
		"InstanceChargeType": "PayBySpec", "DeleteProtection": "on", "ModificationProtectionStatus": "ConsoleProtection", "ModificationProtectionReason": "managed",
		"Tag.1.Key": "k", "Tag.1.Value": "v", "ClientToken": "t",
	}, slb.CreateCreateLoadBalancerResponse())["LoadBalancerId"].(string)
	do("TagResources", p{"ResourceType": "instance", "ResourceId.1": "$lb", "Tag.1.Key": "k2", "Tag.1.Value": "v2"}, slb.CreateTagResourcesResponse())
	do("ListTagResources", p{"ResourceType": "instance", "ResourceId.1": "$lb"}, slb.CreateListTagResourcesResponse())
	do("UntagResources", p{"ResourceType": "instance", "ResourceId.1": "$lb", "TagKey.1": "k2"}, slb.CreateUntagResourcesResponse())
	do("SetLoadBalancerName", p{"LoadBalancerId": "$lb", "LoadBalancerName": "b"}, slb.CreateSetLoadBalancerNameResponse())
	do("SetLoadBalancerStatus", p{"LoadBalancerId": "$lb", "LoadBalancerStatus": "active"}, slb.CreateSetLoadBalancerStatusResponse())
	do("SetLoadBalancerModificationProtection", p{"LoadBalancerId": "$lb", "ModificationProtectionStatus": "NonProtection"}, slb.CreateSetLoadBalancerModificationProtectionResponse())
	do("ModifyLoadBalancerInstanceSpec", p{"LoadBalancerId": "$lb", "LoadBalancerSpec": "slb.s2.small"}, slb.CreateModifyLoadBalancerInstanceSpecResponse())
	do("ModifyLoadBalancerInternetSpec", p{"LoadBalancerId": "$lb", "InternetChargeType": "paybybandwidth", "Bandwidth": "7"}, slb.CreateModifyLoadBalancerInternetSpecResponse())
	do("ModifyLoadBalancerInstanceChargeType", p{"LoadBalancerId": "$lb", "InstanceChargeType": "PayByCLCU"}, slb.CreateModifyLoadBalancerInstanceChargeTypeResponse())

	ids["rsp"] = do("CreateVServerGroup", p{"LoadBalancerId": "$lb", "VServerGroupName": "k8s/80/svc/ns/cluster", "BackendServers": server(ips[0], "")},
		slb.CreateCreateVServerGroupResponse())["VServerGroupId"].(string)
	do("AddVServerGroupBackendServers", p{"VServerGroupId": "$rsp", "BackendServers": server(ips[1], `,"weight":7`)}, slb.CreateAddVServerGroupBackendServersResponse())
	do("SetVServerGroupAttribute", p{"VServerGroupId": "$rsp", "VServerGroupName": "g", "BackendServers": server(ips[1], `,"weight":"0"`)}, slb.CreateSetVServerGroupAttributeResponse())
	do("ModifyVServerGroupBackendServers", p{"VServerGroupId": "$rsp", "OldBackendServers": server(ips[1], ""), "NewBackendServers": server(ips[2], "")}, slb.CreateModifyVServerGroupBackendServersResponse())
	do("RemoveVServerGroupBackendServers", p{"VServerGroupId": "$rsp", "BackendServers": server(ips[2], "")}, slb.CreateRemoveVServerGroupBackendServersResponse())

	listener := p{"LoadBalancerId": "$lb", "VServerGroupId": "$rsp", "Bandwidth": "-1", "Description": "k8s", "AclStatus": "off", "Scheduler": "wrr", "HealthyThreshold": "2"}
	with := func(more p) p {
		all := maps.Clone(listener)
		maps.Copy(all, more)
		return all
	}
	do("CreateLoadBalancerTCPListener", with(p{"ListenerPort": "80", "healthCheckInterval": "4", "HealthCheckConnectPort": "8080", "ConnectionDrain": "on", "ConnectionDrainTimeout": "30", "EstablishedTimeout": "100"}), slb.CreateCreateLoadBalancerTCPListenerResponse())
	do("CreateLoadBalancerUDPListener", with(p{"ListenerPort": "80", "healthCheckInterval": "4", "healthCheckReq": "a"}), slb.CreateCreateLoadBalancerUDPListenerResponse())
	do("CreateLoadBalancerHTTPListener", with(p{"ListenerPort": "81", "HealthCheck": "on", "StickySession": "on", "StickySessionType": "insert", "CookieTimeout": "100", "XForwardedFor_proto": "on", "ListenerForward": "off"}), slb.CreateCreateLoadBalancerHTTPListenerResponse())
	do("SetLoadBalancerTCPListenerAttribute", with(p{"ListenerPort": "80", "VServerGroup": "on", "PersistenceTimeout": "60", "ProxyProtocolV2Enabled": "false"}), slb.CreateSetLoadBalancerTCPListenerAttributeResponse())
	do("SetLoadBalancerUDPListenerAttribute", with(p{"ListenerPort": "80", "VServerGroup": "on"}), slb.CreateSetLoadBalancerUDPListenerAttributeResponse())
	do("SetLoadBalancerHTTPListenerAttribute", with(p{"ListenerPort": "81", "VServerGroup": "on", "XForwardedFor_SLBPORT": "on"}), slb.CreateSetLoadBalancerHTTPListenerAttributeResponse())
	ids["acl"] = do("CreateAccessControlList", p{"AclName": "a", "Tag.1.Key": "k"}, slb.CreateCreateAccessControlListResponse())["AclId"].(string)
	do("AddAccessControlListEntry", p{"AclId": "$acl", "AclEntrys": `[{"entry":"10.0.0.0/8","comment":"a"},{"entry":"10.1.0.1"}]`}, slb.CreateAddAccessControlListEntryResponse())
	do("RemoveAccessControlListEntry", p{"AclId": "$acl", "AclEntrys": `[{"entry":"10.1.0.1/32"}]`}, slb.CreateRemoveAccessControlListEntryResponse())
	do("SetLoadBalancerTCPListenerAttribute", p{"LoadBalancerId": "$lb", "ListenerPort": "80", "AclStatus": "on", "AclType": "white", "AclId": "$acl"}, slb.CreateSetLoadBalancerTCPListenerAttributeResponse())
	do("DescribeAccessControlLists", p{"AclName": "a"}, slb.CreateDescribeAccessControlListsResponse())
	do("DescribeAccessControlListAttribute", p{"AclId": "$acl"}, slb.CreateDescribeAccessControlListAttributeResponse())
	do("StartLoadBalancerListener", p{"LoadBalancerId": "$lb", "ListenerPort": "80", "ListenerProtocol": "tcp"}, slb.CreateStartLoadBalancerListenerResponse())
	do("StopLoadBalancerListener", p{"LoadBalancerId": "$lb", "ListenerPort": "81"}, slb.CreateStopLoadBalancerListenerResponse())

	do("DescribeLoadBalancers", p{"Tags": `[{"TagKey":"k","TagValue":"v"}]`}, slb.CreateDescribeLoadBalancersResponse())
	do("DescribeLoadBalancerAttribute", p{"LoadBalancerId": "$lb"}, slb.CreateDescribeLoadBalancerAttributeResponse())
	do("DescribeVServerGroupAttribute", p{"VServerGroupId": "$rsp"}, slb.CreateDescribeVServerGroupAttributeResponse())
	do("DescribeLoadBalancerListeners", p{"LoadBalancerId.1": "$lb", "MaxResults": "50"}, slb.CreateDescribeLoadBalancerListenersResponse())
	do("DescribeLoadBalancerTCPListenerAttribute", p{"LoadBalancerId": "$lb", "ListenerPort": "80"}, slb.CreateDescribeLoadBalancerTCPListenerAttributeResponse())
	do("DescribeLoadBalancerUDPListenerAttribute", p{"LoadBalancerId": "$lb", "ListenerPort": "80"}, slb.CreateDescribeLoadBalancerUDPListenerAttributeResponse())
	do("DescribeLoadBalancerHTTPListenerAttribute", p{"LoadBalancerId": "$lb", "ListenerPort": "81"}, slb.CreateDescribeLoadBalancerHTTPListenerAttributeResponse())
	do("DescribeHealthStatus", p{"LoadBalancerId": "$lb"}, slb.CreateDescribeHealthStatusResponse())
	do("DescribeAvailableResource", p{"AddressType": "intranet", "AddressIPVersion": "ipv4"}, slb.CreateDescribeAvailableResourceResponse())
	// The listeners of a group have only a port and a protocol, unlike those of the SDK's type.
	groups := slb.CreateDescribeVServerGroupsResponse()
	called["DescribeVServerGroups"] = true
	text := must(raw(t, c, slbVersion, "DescribeVServerGroups", p{"LoadBalancerId": ids["lb"], "IncludeListener": "true"}))(t)
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(groups); err != nil {
		t.Errorf("%v\n%s", err, text)
	}
	if all := groups.VServerGroups.VServerGroup; len(all) != 1 || all[0].ServerCount != 1 || all[0].VServerGroupName != "g" || len(all[0].AssociatedObjects.Listeners.Listener) != 3 {
		t.Errorf("%s", text)
	}

	do("DeleteLoadBalancerListener", p{"LoadBalancerId": "$lb", "ListenerPort": "81"}, slb.CreateDeleteLoadBalancerListenerResponse())
	ids["other"] = do("CreateVServerGroup", p{"LoadBalancerId": "$lb", "VServerGroupName": "b"}, slb.CreateCreateVServerGroupResponse())["VServerGroupId"].(string)
	do("DeleteVServerGroup", p{"VServerGroupId": "$other"}, slb.CreateDeleteVServerGroupResponse())
	do("SetLoadBalancerDeleteProtection", p{"LoadBalancerId": "$lb", "DeleteProtection": "off"}, slb.CreateSetLoadBalancerDeleteProtectionResponse())
	do("DeleteLoadBalancer", p{"LoadBalancerId": "$lb"}, slb.CreateDeleteLoadBalancerResponse())
	do("DeleteAccessControlList", p{"AclId": "$acl"}, slb.CreateDeleteAccessControlListResponse())

	docs, err := os.ReadFile("../../docs/vpcsim.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(docs), "### SLB "+slbVersion)
	table, _, _ = strings.Cut(table, "###")
	for _, row := range regexp.MustCompile(`(?m)^\| (\w+) \| (?:done|partly) \|`).FindAllStringSubmatch(table, -1) {
		if !called[row[1]] {
			t.Errorf("%s is in the docs, and this test does not call it", row[1])
		}
	}
}

// The life of a Service of type LoadBalancer, through the official SDK, as existing controllers
// have it.
func TestCLBThroughTheSDK(t *testing.T) {
	s := start(t)
	c := connect(t, s)
	n := makeNetwork(t, c)
	l := connectSLB(t, s)
	free := vswitch(t, c, n.vswitch).AvailableIpAddressCount
	eniID := makeENI(t, c, n)
	ip := eni(t, c, eniID).PrivateIpAddress

	create := slb.CreateCreateLoadBalancerRequest()
	create.AddressType, create.VSwitchId, create.VpcId, create.ClientToken = "intranet", n.vswitch, n.vpc, "token"
	create.DeleteProtection, create.ModificationProtectionStatus = "on", "ConsoleProtection"
	create.Tag = &[]slb.CreateLoadBalancerTag{{Key: "kubernetes.do.not.delete", Value: "a"}}
	made := must(l.CreateLoadBalancer(create))(t)
	if again := must(l.CreateLoadBalancer(create))(t); again.LoadBalancerId != made.LoadBalancerId || again.Address != made.Address || !inside(t, "192.168.0.0/19", made.Address) {
		t.Errorf("%+v, then %+v", made, again)
	}
	find := slb.CreateDescribeLoadBalancersRequest()
	find.Tags = `[{"TagKey":"kubernetes.do.not.delete","TagValue":"a"}]`
	if all := must(l.DescribeLoadBalancers(find))(t).LoadBalancers.LoadBalancer; len(all) != 1 || all[0].LoadBalancerId != made.LoadBalancerId ||
		all[0].InternetChargeTypeAlias != "paybytraffic" || all[0].Tags.Tag[0].TagKey != "kubernetes.do.not.delete" || all[0].DeleteProtection != "on" {
		t.Errorf("%+v", all)
	}
	group := slb.CreateCreateVServerGroupRequest()
	group.LoadBalancerId, group.VServerGroupName = made.LoadBalancerId, "k8s/80/svc/ns/cluster"
	rsp := must(l.CreateVServerGroup(group))(t).VServerGroupId
	add := slb.CreateAddVServerGroupBackendServersRequest()
	add.VServerGroupId, add.BackendServers = rsp, fmt.Sprintf(`[{"ServerId":%q,"ServerIp":%q,"Port":"8080","Weight":"100","Type":"eni"}]`, eniID, ip)
	must(l.AddVServerGroupBackendServers(add))(t)
	tcp := slb.CreateCreateLoadBalancerTCPListenerRequest()
	tcp.LoadBalancerId, tcp.ListenerPort, tcp.VServerGroupId = made.LoadBalancerId, requests.NewInteger(80), rsp
	tcp.HealthCheckInterval, tcp.Bandwidth = requests.NewInteger(9), requests.NewInteger(-1)
	must(l.CreateLoadBalancerTCPListener(tcp))(t)
	listeners := func() []slb.ListenerInDescribeLoadBalancerListeners {
		r := slb.CreateDescribeLoadBalancerListenersRequest()
		r.LoadBalancerId, r.MaxResults = &[]string{made.LoadBalancerId}, requests.NewInteger(50)
		return must(l.DescribeLoadBalancerListeners(r))(t).Listeners
	}
	if all := listeners(); len(all) != 1 || all[0].Status != "stopped" || all[0].ListenerProtocol != "tcp" || all[0].VServerGroupId != rsp || all[0].TCPListenerConfig.HealthCheckInterval != 9 {
		t.Errorf("%+v", all)
	}
	start := slb.CreateStartLoadBalancerListenerRequest()
	start.LoadBalancerId, start.ListenerPort, start.ListenerProtocol = made.LoadBalancerId, requests.NewInteger(80), "tcp"
	must(l.StartLoadBalancerListener(start))(t)
	eventually(t, "the listener is running", func() bool { return listeners()[0].Status == "running" })
	ask := slb.CreateDescribeHealthStatusRequest()
	ask.LoadBalancerId, ask.ListenerPort = made.LoadBalancerId, requests.NewInteger(80)
	if all := must(l.DescribeHealthStatus(ask))(t).BackendServers.BackendServer; len(all) != 1 || all[0].ServerIp != ip || all[0].Port != 8080 || all[0].ServerHealthStatus != "normal" {
		t.Errorf("%+v", all)
	}

	// A typed v2 SDK sends the same with ACS3.
	got, err := acs3(t, s, s.Account().AccessKeySecret).call(slbVersion, "SetVServerGroupAttribute", map[string]any{
		"VServerGroupId": rsp, "BackendServers": fmt.Sprintf(`[{"serverId":%q,"serverIp":%q,"port":8080,"weight":0}]`, eniID, ip),
	}, nil)
	if err != nil || !strings.Contains(fmt.Sprint(got["BackendServers"]), "Weight:0") {
		t.Errorf("%v: %v", err, got)
	}

	del := slb.CreateDeleteLoadBalancerRequest()
	del.LoadBalancerId = made.LoadBalancerId
	_, err = l.DeleteLoadBalancer(del)
	wantError(t, err, "OperationDenied.DeleteProtectionIsOn", 400)
	off := slb.CreateSetLoadBalancerDeleteProtectionRequest()
	off.LoadBalancerId, off.DeleteProtection = made.LoadBalancerId, "off"
	must(l.SetLoadBalancerDeleteProtection(off))(t)
	must(l.DeleteLoadBalancer(del))(t)
	_, err = l.DeleteLoadBalancer(del)
	wantError(t, err, "InvalidLoadBalancerId.NotFound", 404)
	if !strings.Contains(err.Error(), "LoadBalancerId does not exist") {
		t.Errorf("%v", err)
	}
	if now := vswitch(t, c, n.vswitch).AvailableIpAddressCount; now != free-1 {
		t.Errorf("%d addresses are free, want %d", now, free-1)
	}
}

// The tags of a load balancer and those of an instance have the same resource type, and the
// product says which is meant.
func TestTagsOfTwoInstances(t *testing.T) {
	s := start(t)
	c := connect(t, s)
	n := makeNetwork(t, c)
	node := runInstance(t, c, n)
	lb := must(connectSLB(t, s).CreateLoadBalancer(slb.CreateCreateLoadBalancerRequest()))(t).LoadBalancerId
	for version, id := range map[string]string{ecsVersion: node, slbVersion: lb} {
		must(raw(t, c, version, "TagResources", map[string]string{"ResourceType": "instance", "ResourceId.1": id, "Tag.1.Key": "k", "Tag.1.Value": version}))(t)
	}
	for version, id := range map[string]string{ecsVersion: node, slbVersion: lb} {
		text := must(raw(t, c, version, "ListTagResources", map[string]string{"ResourceType": "instance"}))(t)
		if !strings.Contains(text, `"ResourceId":"`+id+`","ResourceType":"instance","TagKey":"k","TagValue":"`+version+`"`) || strings.Count(text, "ResourceId") != 1 {
			t.Errorf("%s: %s", version, text)
		}
	}
}

// Pages, quotas, faults and rates are as for the other products; what the simulator does not
// have is refused with the codes of the docs.
func TestSLBAsTheOthers(t *testing.T) {
	s := start(t, func(o *vpcsim.Options) {
		o.Limits = state.Limits{BackendsPerCall: 1}
		o.Throttle = openapi.Throttle{PerMinute: map[string]int{"Slb:DescribeHealthStatus": 1}}
	})
	c := connect(t, s)
	l := connectSLB(t, s)
	lb := ""
	for range 11 {
		lb = must(l.CreateLoadBalancer(slb.CreateCreateLoadBalancerRequest()))(t).LoadBalancerId
	}
	page := slb.CreateDescribeLoadBalancersRequest()
	if a := must(l.DescribeLoadBalancers(page))(t); a.TotalCount != 11 || a.PageSize != 10 || len(a.LoadBalancers.LoadBalancer) != 10 {
		t.Errorf("%d of %d", len(a.LoadBalancers.LoadBalancer), a.TotalCount)
	}
	page.PageNumber, page.PageSize = requests.NewInteger(2), requests.NewInteger(10)
	if a := must(l.DescribeLoadBalancers(page))(t); len(a.LoadBalancers.LoadBalancer) != 1 || a.LoadBalancers.LoadBalancer[0].LoadBalancerId == "" {
		t.Errorf("%+v", a.LoadBalancers)
	}
	group := slb.CreateCreateVServerGroupRequest()
	group.LoadBalancerId, group.VServerGroupName = lb, "g"
	rsp := must(l.CreateVServerGroup(group))(t).VServerGroupId
	for port := 1; port <= 23; port++ {
		tcp := slb.CreateCreateLoadBalancerTCPListenerRequest()
		tcp.LoadBalancerId, tcp.ListenerPort, tcp.VServerGroupId = lb, requests.NewInteger(port), rsp
		must(l.CreateLoadBalancerTCPListener(tcp))(t)
	}
	list := slb.CreateDescribeLoadBalancerListenersRequest()
	list.LoadBalancerId = &[]string{lb}
	var ports []int
	for {
		a := must(l.DescribeLoadBalancerListeners(list))(t)
		if a.TotalCount != 23 || a.MaxResults != 20 {
			t.Errorf("TotalCount %d, MaxResults %d", a.TotalCount, a.MaxResults)
		}
		for _, x := range a.Listeners {
			ports = append(ports, x.ListenerPort)
		}
		if list.NextToken = a.NextToken; list.NextToken == "" {
			break
		}
	}
	if len(ports) != 23 || !slices.IsSorted(ports) {
		t.Errorf("ports %v", ports)
	}

	refused := func(action, code string, status int, params map[string]string) {
		t.Helper()
		_, err := raw(t, c, slbVersion, action, params)
		wantError(t, err, code, status)
	}
	refused("AddVServerGroupBackendServers", "InvalidParameter", 400, map[string]string{"VServerGroupId": rsp, "BackendServers": `[{"ServerId":"a","Port":1},{"ServerId":"b","Port":1}]`})
	refused("AddVServerGroupBackendServers", "InvalidParameter", 400, map[string]string{"VServerGroupId": rsp, "BackendServers": "a"})
	refused("CreateLoadBalancerHTTPSListener", "InvalidAction.NotFound", 404, nil)
	refused("CreateDomainExtension", "InvalidAction.NotFound", 404, nil)
	must(raw(t, c, slbVersion, "DescribeHealthStatus", map[string]string{"LoadBalancerId": lb}))(t)
	refused("DescribeHealthStatus", "Throttling", 400, map[string]string{"LoadBalancerId": lb})
	if err := s.AddFaults(faults.Rule{Action: "Slb:DescribeVServerGroups", Error: &faults.Error{Code: "SystemBusy"}}); err != nil {
		t.Fatal(err)
	}
	refused("DescribeVServerGroups", "SystemBusy", 400, map[string]string{"LoadBalancerId": lb})
}

// Load balancers survive a restart.
func TestCLBAfterARestart(t *testing.T) {
	dir := t.TempDir()
	s := start(t, func(o *vpcsim.Options) { o.StateDir = dir })
	n := makeNetwork(t, connect(t, s))
	create := func() *slb.CreateLoadBalancerResponse {
		r := slb.CreateCreateLoadBalancerRequest()
		r.AddressType, r.VSwitchId = "intranet", n.vswitch
		return must(connectSLB(t, s).CreateLoadBalancer(r))(t)
	}
	made := create()
	s = reopen(t, s)
	again := create()
	all := must(connectSLB(t, s).DescribeLoadBalancers(slb.CreateDescribeLoadBalancersRequest()))(t).LoadBalancers.LoadBalancer
	if len(all) != 2 || again.Address == made.Address || !slices.ContainsFunc(all, func(l slb.LoadBalancer) bool {
		return l.Address == made.Address && l.LoadBalancerId == made.LoadBalancerId
	}) {
		t.Errorf("%+v, then %+v", made, all)
	}
}
