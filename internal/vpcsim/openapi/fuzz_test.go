package openapi

import (
	"errors"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/vpcsim/openapi/sts"
	"terway.dev/terway/internal/vpcsim/state"
)

// No call makes the simulator panic or leaves a cloud that cannot be loaded again, whatever the
// action and the parameters; each error has a code and a status. In a query the names of
// populated, such as "$vpc", are replaced by existing ids.
func FuzzCalls(f *testing.F) {
	known := byVersion(products())
	var all []struct{ version, action string }
	for _, version := range slices.Sorted(maps.Keys(known)) {
		for _, action := range slices.Sorted(maps.Keys(known[version].actions)) {
			all = append(all, struct{ version, action string }{version, action})
		}
	}
	number := func(action string) uint16 {
		version, name, ok := strings.Cut(action, " ")
		if !ok {
			version, name = "", action
		}
		for i, x := range all {
			if x.action == name && (version == "" || x.version == version) {
				return uint16(i)
			}
		}
		f.Fatalf("no action %s", action)
		return 0
	}
	for action, query := range map[string]string{
		"AttachNetworkInterface":              "NetworkInterfaceId=$eni&InstanceId=$i&TrunkNetworkInstanceId=$trunk",
		"DetachNetworkInterface":              "NetworkInterfaceId=$trunk&InstanceId=$i",
		"AssignPrivateIpAddresses":            "NetworkInterfaceId=$eni&PrivateIpAddress.1=10.0.0.9&Ipv4Prefix.1=10.0.0.16/28",
		"AssignIpv6Addresses":                 "NetworkInterfaceId=$eni&Ipv6Address.1=::1",
		"CreateNetworkInterface":              "VSwitchId=$vsw&SecurityGroupId=$sg&PrimaryIpAddress=::ffff:10.0.0.9&InstanceType=Trunk&Tag.1.Key=a",
		"DescribeNetworkInterfaces":           "NextToken=YWZ0ZXI6eA&MaxResults=-1&PrivateIpAddress.1=10.0.0.1&Tag.1.Key=a&Tag.1.Value=b",
		"DescribeInstances":                   `InstanceIds=["$i"]&PageNumber=2147483647&PageSize=100`,
		"RunInstances":                        "VSwitchId=$vsw&SecurityGroupId=$sg&InstanceType=ecs.g7.xlarge&Amount=2&NetworkInterface.1.NetworkInterfaceId=$eni&DryRun=true",
		"AuthorizeSecurityGroup":              "SecurityGroupId=$sg&IpProtocol=tcp&PortRange=1/2&SourceCidrIp=10.0.0.0/8&DestCidrIp=::/0",
		"ModifySecurityGroupRule":             "SecurityGroupId=$sg&IpProtocol=icmp&Ipv6SourceCidrIp=::/0",
		"CreateRouteEntry":                    "RouteTableId=$table&DestinationCidrBlock=10.0.0.0/24&NextHopList.1.NextHopId=$i&NextHopList.1.NextHopType=Instance",
		"DeleteRouteEntry":                    "RouteTableId=$table&DestinationCidrBlock=172.20.0.0/24&NextHopId=$i",
		"ModifyRouteEntry":                    "RouteEntryId=$rte&NewNextHopId=$eni&NewNextHopType=NetworkInterface",
		"CreateRouteEntries":                  "RouteEntries.1.RouteTableId=$table&RouteEntries.1.DstCidrBlock=::/0&RouteEntries.1.NextHop=$i",
		"CreateVSwitch":                       "VpcId=$vpc&ZoneId=cn-hangzhou-i&CidrBlock=10.0.1.0/29&Ipv6CidrBlock=1",
		"AssociateVpcCidrBlock":               "VpcId=$vpc&SecondaryCidrBlock=::ffff:10.0.0.0/112",
		"CheckCanAllocateVpcPrivateIpAddress": "VSwitchId=$vsw&PrivateIpAddress=::",
		"TagResources":                        "ResourceType=eni&ResourceId.1=$eni&Tag.1.Key=a&Tag.1.Value=b",
		"DescribeAvailableResource":           "DestinationResource=InstanceType&Memory=NaN",
		"AllocateEipAddress":                  "IpAddress=203.0.113.255&ClientToken=a",
		"AssumeRoleWithOIDC":                  "OIDCProviderArn=a&OIDCToken=e30.e30.e30",

		"2014-05-15 CreateLoadBalancer":            "AddressType=intranet&VSwitchId=$vsw&Address=::ffff:10.0.0.9&Tag.1.Key=a&ClientToken=a",
		"2014-05-15 DeleteLoadBalancer":            "LoadBalancerId=$lb",
		"2014-05-15 DescribeLoadBalancers":         `Tags=[{"TagKey":"a"}]&ServerIntranetAddress=10.0.0.9&PageNumber=2147483647`,
		"DescribeLoadBalancerAttribute":            "LoadBalancerId=$lb",
		"CreateVServerGroup":                       `LoadBalancerId=$lb&VServerGroupName=g&BackendServers=[{"serverId":"$i","port":"80"}]`,
		"AddVServerGroupBackendServers":            `VServerGroupId=$rsp&BackendServers.1.ServerId=$trunk&BackendServers.1.Type=eni&BackendServers.1.Port=81&BackendServers.1.ServerIp=::`,
		"RemoveVServerGroupBackendServers":         "VServerGroupId=$rsp&BackendServers.1.ServerId=$trunk&BackendServers.1.Port=80",
		"ModifyVServerGroupBackendServers":         "VServerGroupId=$rsp&OldBackendServers.1.ServerId=$trunk&OldBackendServers.1.Port=80&NewBackendServers.1.ServerId=$i&NewBackendServers.1.Port=80",
		"SetVServerGroupAttribute":                 "VServerGroupId=$rsp&BackendServers.1.ServerId=$trunk&BackendServers.1.Port=80&BackendServers.1.Weight=0",
		"CreateLoadBalancerTCPListener":            "LoadBalancerId=$lb&ListenerPort=81&VServerGroupId=$rsp&healthCheckInterval=9&HealthCheckConnectPort=-520",
		"CreateLoadBalancerHTTPListener":           "LoadBalancerId=$lb&ListenerPort=82&VServerGroupId=$rsp&StickySession=on&StickySessionType=server&Cookie=a&XForwardedFor_proto=on",
		"SetLoadBalancerTCPListenerAttribute":      "LoadBalancerId=$lb&ListenerPort=80&HealthCheckType=http&HealthCheckHttpCode=,&ConnectionDrain=on&ConnectionDrainTimeout=10",
		"StopLoadBalancerListener":                 "LoadBalancerId=$lb&ListenerPort=80",
		"DescribeLoadBalancerListeners":            "LoadBalancerId.1=$lb&MaxResults=-1&NextToken=YWZ0ZXI6eA",
		"DescribeLoadBalancerTCPListenerAttribute": "LoadBalancerId=$lb&ListenerPort=80",
		"AddAccessControlListEntry":                `AclId=$acl&AclEntrys=[{"entry":"::/0"}]`,
		"DeleteAccessControlList":                  "AclId=$acl",
		"DescribeHealthStatus":                     "LoadBalancerId=$lb&ListenerPort=80",
		"2014-05-15 TagResources":                  "ResourceType=instance&ResourceId.1=$lb&Tag.1.Key=a",

		"2022-04-30 CreateLoadBalancer":                  "VpcId=$vpc&AddressType=Internet&ZoneMappings.1.ZoneId=cn-hangzhou-i&ZoneMappings.1.VSwitchId=$vsw&ZoneMappings.2.ZoneId=cn-hangzhou-h&ZoneMappings.2.VSwitchId=$vsw2&Tag.1.Key=a",
		"2022-04-30 UpdateLoadBalancerZones":             "LoadBalancerId=$nlb&ZoneMappings.1.ZoneId=cn-hangzhou-i&ZoneMappings.1.VSwitchId=$vsw&ZoneMappings.2.ZoneId=cn-hangzhou-g&ZoneMappings.2.VSwitchId=$vsw&ZoneMappings.2.PrivateIPv4Address=10.0.0.9",
		"2022-04-30 UpdateLoadBalancerAddressTypeConfig": "LoadBalancerId=$nlb&AddressType=Internet",
		"2022-04-30 LoadBalancerJoinSecurityGroup":       "LoadBalancerId=$nlb&SecurityGroupIds.1=$sg",
		"2022-04-30 DeleteLoadBalancer":                  "LoadBalancerId=$nlb",
		"2022-04-30 CreateListener":                      "LoadBalancerId=$nlb&ListenerProtocol=TCP&ListenerPort=81&ServerGroupId=$sgp&IdleTimeout=10&ProxyProtocolV2Config={}",
		"2022-04-30 UpdateListenerAttribute":             "ListenerId=$lsn&ServerGroupId=$sgp&ListenerDescription=a",
		"2022-04-30 StopListener":                        "ListenerId=$lsn",
		"2022-04-30 GetListenerHealthStatus":             "ListenerId=$lsn",
		"2022-04-30 CreateServerGroup":                   "VpcId=$vpc&ServerGroupName=ab&HealthCheckConfig.HealthCheckType=HTTP&HealthCheckConfig.HealthCheckHttpCode.1=http_2xx",
		"2022-04-30 UpdateServerGroupAttribute":          `ServerGroupId=$sgp&HealthCheckConfig={"HealthCheckEnabled":false,"HealthCheckHttpCode":[]}`,
		"2022-04-30 AddServersToServerGroup":             "ServerGroupId=$sgp&Servers.1.ServerId=$i&Servers.1.ServerType=Ecs&Servers.1.Port=80&Servers.2.ServerId=$trunk&Servers.2.ServerType=Eni&Servers.2.Port=80",
		"2022-04-30 RemoveServersFromServerGroup":        "ServerGroupId=$sgp&Servers.1.ServerId=$trunk&Servers.1.ServerType=Eni&Servers.1.Port=80",
		"2022-04-30 UpdateServerGroupServersAttribute":   "ServerGroupId=$sgp&Servers.1.ServerId=$trunk&Servers.1.ServerType=Eni&Servers.1.Port=80&Servers.1.Weight=0",
		"2022-04-30 ListServerGroupServers":              "NextToken=YWZ0ZXI6eA&MaxResults=0",
		"2022-04-30 ListTagResources":                    "ResourceType=servergroup&ResourceId.1=$sgp",
	} {
		f.Add(number(action), query, uint8(1))
	}
	f.Fuzz(func(t *testing.T, which uint16, query string, times uint8) {
		x := all[int(which)%len(all)]
		cloud, names := populated(t)
		params, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		for _, values := range params {
			for i, v := range values {
				for name, id := range names {
					if v == name {
						values[i] = id
					} else if v == `["`+name+`"]` {
						values[i] = `["` + id + `"]`
					}
				}
			}
		}
		account, err := sts.NewAccount("1", zeros{})
		if err != nil {
			t.Fatal(err)
		}
		now := noon
		for range times%3 + 1 {
			_, err := known[x.version].actions[x.action].run(&call{
				api: cloud, params: params, region: "cn-hangzhou", authority: sts.NewAuthority(account), now: noon,
			})
			var own *Error
			var refused *state.Error
			switch {
			case err == nil:
			case errors.As(err, &own):
				if own.Code == "" || own.Status < 400 {
					t.Errorf("%s %q: %+v", x.action, query, own)
				}
			case errors.As(err, &refused):
				if refused.Code == "" || refused.HTTPStatus < 400 {
					t.Errorf("%s %q: %+v", x.action, query, refused)
				}
			default:
				t.Errorf("%s %q: %v is no answer of the service", x.action, query, err)
			}
			now = now.Add(time.Hour)
			cloud.Tick(now)
		}
		cloud.View()
		saved, err := cloud.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := state.Load(state.Options{Now: func() time.Time { return noon }, Catalog: catalog.Default()}, saved); err != nil {
			t.Errorf("%s %q: the cloud cannot be loaded: %v", x.action, query, err)
		}
	})
}

// zeros is a source of keys that are always the same.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// populated returns a cloud with one of everything.
func populated(t testing.TB) (*state.State, map[string]string) {
	t.Helper()
	now := noon
	s, err := state.New(state.Options{Now: func() time.Time { return now }, Catalog: catalog.Default()})
	if err != nil {
		t.Fatal(err)
	}
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		s.Tick(now)
	}
	vpc, err := s.CreateVpc(state.CreateVpcRequest{CidrBlock: "10.0.0.0/16", EnableIpv6: true})
	ok(err)
	zero := 0
	vsw, err := s.CreateVSwitch(state.CreateVSwitchRequest{VpcId: vpc.VpcId, ZoneId: "cn-hangzhou-i", CidrBlock: "10.0.0.0/26", Ipv6CidrBlock: &zero})
	ok(err)
	sg, err := s.CreateSecurityGroup(state.CreateSecurityGroupRequest{VpcId: vpc.VpcId})
	ok(err)
	ok(s.AuthorizeSecurityGroup(state.AuthorizeSecurityGroupRequest{SecurityGroupId: sg, Permission: state.Permission{IpProtocol: "ALL", SourceCidrIp: "0.0.0.0/0"}}))
	ids, err := s.RunInstances(state.RunInstancesRequest{InstanceType: "ecs.g7.xlarge", VSwitchId: vsw, SecurityGroupId: sg})
	ok(err)
	eni, err := s.CreateNetworkInterface(state.CreateNetworkInterfaceRequest{VSwitchId: vsw, SecurityGroupId: sg, Ipv6AddressCount: 1})
	ok(err)
	trunk, err := s.CreateNetworkInterface(state.CreateNetworkInterfaceRequest{VSwitchId: vsw, SecurityGroupId: sg, InstanceType: "Trunk"})
	ok(err)
	ok(s.AttachNetworkInterface(state.AttachNetworkInterfaceRequest{NetworkInterfaceId: trunk.NetworkInterfaceId, InstanceId: ids[0]}))
	rte, err := s.CreateRouteEntry(state.CreateRouteEntryRequest{RouteTableId: vpc.RouteTableId, DestinationCidrBlock: "172.20.0.0/24", NextHopId: ids[0]})
	ok(err)
	vsw2, err := s.CreateVSwitch(state.CreateVSwitchRequest{VpcId: vpc.VpcId, ZoneId: "cn-hangzhou-h", CidrBlock: "10.0.0.64/28"})
	ok(err)
	nlb, err := s.NLBCreateLoadBalancer(state.NLBCreateLoadBalancerRequest{VpcId: vpc.VpcId, AddressType: state.NLBIntranet, ZoneMappings: []state.NLBZoneMappingRequest{
		{ZoneId: "cn-hangzhou-i", VSwitchId: vsw}, {ZoneId: "cn-hangzhou-h", VSwitchId: vsw2},
	}})
	ok(err)
	group := state.NLBCreateServerGroupRequest{VpcId: vpc.VpcId}
	name := "group"
	group.ServerGroupName = &name
	sgp, err := s.NLBCreateServerGroup(group)
	ok(err)
	port := 80
	listener := state.NLBCreateListenerRequest{LoadBalancerId: nlb, ListenerProtocol: "TCP", ListenerPort: &port}
	listener.ServerGroupId = &sgp.Id
	lsn, err := s.NLBCreateListener(listener)
	ok(err)
	_, err = s.NLBAddServersToServerGroup(state.NLBServersRequest{ServerGroupId: sgp.Id, Servers: []state.NLBServerRequest{{ServerId: trunk.NetworkInterfaceId, ServerType: state.NLBServerEni, Port: port}}})
	ok(err)
	lb, err := s.CreateLoadBalancer(state.CreateLoadBalancerRequest{AddressType: state.AddressIntranet, VSwitchId: vsw})
	ok(err)
	rsp, err := s.CreateVServerGroup(state.CreateVServerGroupRequest{LoadBalancerId: lb.LoadBalancerId, VServerGroupName: "g", BackendServers: []state.BackendServerItem{
		{ServerId: trunk.NetworkInterfaceId, Type: state.ServerENI, Port: port},
	}})
	ok(err)
	ok(s.CreateLoadBalancerTCPListener(state.ListenerSettingsRequest{LoadBalancerId: lb.LoadBalancerId, ListenerPort: port, VServerGroupId: &rsp.VServerGroupId}))
	ok(s.StartLoadBalancerListener(state.ListenerRequest{LoadBalancerId: lb.LoadBalancerId, ListenerPort: port}))
	acl, err := s.CreateAccessControlList(state.CreateAccessControlListRequest{AclName: "a"})
	ok(err)
	return s, map[string]string{
		"$acl": acl, "$lb": lb.LoadBalancerId, "$rsp": rsp.VServerGroupId,
		"$vsw2": vsw2, "$nlb": nlb, "$sgp": sgp.Id, "$lsn": lsn.Id,
		"$vpc": vpc.VpcId, "$vsw": vsw, "$sg": sg, "$eni": eni.NetworkInterfaceId, "$trunk": trunk.NetworkInterfaceId,
		"$i": ids[0], "$table": vpc.RouteTableId, "$rte": rte,
	}
}
