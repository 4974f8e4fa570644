package openapi

import (
	"bytes"
	"errors"
	"net/url"
	"os"
	"strings"
	"testing"

	"terway.dev/terway/internal/vpcsim/openapi/sts"
	"terway.dev/terway/internal/vpcsim/state"
)

// dryRuns has a good call of each action of NLB that has the parameter DryRun; names are those of populated.
var dryRuns = map[string]string{
	"CreateLoadBalancer":                  "VpcId=$vpc&AddressType=Internet&ZoneMappings.1.ZoneId=cn-hangzhou-i&ZoneMappings.1.VSwitchId=$vsw&ZoneMappings.2.ZoneId=cn-hangzhou-h&ZoneMappings.2.VSwitchId=$vsw2",
	"DeleteLoadBalancer":                  "LoadBalancerId=$nlb",
	"GetLoadBalancerAttribute":            "LoadBalancerId=$nlb",
	"UpdateLoadBalancerAttribute":         "LoadBalancerId=$nlb&LoadBalancerName=other",
	"UpdateLoadBalancerProtection":        "LoadBalancerId=$nlb&DeletionProtectionEnabled=true",
	"UpdateLoadBalancerZones":             "LoadBalancerId=$nlb&ZoneMappings.1.ZoneId=cn-hangzhou-i&ZoneMappings.1.VSwitchId=$vsw&ZoneMappings.2.ZoneId=cn-hangzhou-h&ZoneMappings.2.VSwitchId=$vsw2",
	"UpdateLoadBalancerAddressTypeConfig": "LoadBalancerId=$nlb&AddressType=Internet",
	"LoadBalancerJoinSecurityGroup":       "LoadBalancerId=$nlb&SecurityGroupIds.1=$sg",
	"LoadBalancerLeaveSecurityGroup":      "LoadBalancerId=$nlb&SecurityGroupIds.1=$joined",
	"CreateServerGroup":                   "VpcId=$vpc&ServerGroupName=another",
	"DeleteServerGroup":                   "ServerGroupId=$free",
	"UpdateServerGroupAttribute":          "ServerGroupId=$sgp&ServerGroupName=other",
	"AddServersToServerGroup":             "ServerGroupId=$sgp&Servers.1.ServerId=$i&Servers.1.ServerType=Ecs&Servers.1.Port=80",
	"RemoveServersFromServerGroup":        "ServerGroupId=$sgp&Servers.1.ServerId=$trunk&Servers.1.ServerType=Eni&Servers.1.Port=80",
	"UpdateServerGroupServersAttribute":   "ServerGroupId=$sgp&Servers.1.ServerId=$trunk&Servers.1.ServerType=Eni&Servers.1.Port=80&Servers.1.Weight=1",
	"CreateListener":                      "LoadBalancerId=$nlb&ListenerProtocol=TCP&ListenerPort=81&ServerGroupId=$sgp",
	"DeleteListener":                      "ListenerId=$lsn",
	"GetListenerAttribute":                "ListenerId=$lsn",
	"UpdateListenerAttribute":             "ListenerId=$lsn&ListenerDescription=other",
	"StartListener":                       "ListenerId=$stopped",
	"StopListener":                        "ListenerId=$lsn",
	"TagResources":                        "ResourceType=loadbalancer&ResourceId.1=$nlb&Tag.1.Key=a",
	"UntagResources":                      "ResourceType=loadbalancer&ResourceId.1=$nlb&TagKey.1=k",
}

// With DryRun an action of NLB is validated, and changes nothing; without it, it does what it says.
func TestDryRun(t *testing.T) {
	text, err := os.ReadFile("../testdata/nlb-2022-04-30.txt")
	if err != nil {
		t.Fatal(err)
	}
	action := ""
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, " ") {
			action = strings.TrimSpace(line)
		}
		if strings.HasPrefix(line, "  req: ") && strings.Contains(line, "DryRun") {
			if _, tried := dryRuns[action]; !tried {
				t.Errorf("%s has DryRun and is not tried", action)
			}
		}
	}
	account, err := sts.NewAccount("1", zeros{})
	if err != nil {
		t.Fatal(err)
	}
	for name, query := range dryRuns {
		cloud, names := populated(t)
		ok := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			cloud.Tick(noon)
		}
		free := "free"
		group := state.NLBCreateServerGroupRequest{VpcId: names["$vpc"]}
		group.ServerGroupName = &free
		unused, err := cloud.NLBCreateServerGroup(group)
		ok(err)
		port, used := 82, names["$sgp"]
		listener := state.NLBCreateListenerRequest{LoadBalancerId: names["$nlb"], ListenerProtocol: "TCP", ListenerPort: &port}
		listener.ServerGroupId = &used
		stopped, err := cloud.NLBCreateListener(listener)
		ok(err)
		_, err = cloud.NLBStopListener(state.NLBListenerRequest{ListenerId: stopped.Id})
		ok(err)
		joined, err := cloud.CreateSecurityGroup(state.CreateSecurityGroupRequest{VpcId: names["$vpc"]})
		ok(err)
		_, err = cloud.NLBLoadBalancerJoinSecurityGroup(state.NLBSecurityGroupsRequest{LoadBalancerId: names["$nlb"], SecurityGroupIds: []string{joined}})
		ok(err)
		names["$free"], names["$stopped"], names["$joined"] = unused.Id, stopped.Id, joined
		before, err := cloud.MarshalJSON()
		ok(err)
		params, err := url.ParseQuery(query + "&DryRun=true")
		ok(err)
		for _, values := range params {
			for i, v := range values {
				if id, is := names[v]; is {
					values[i] = id
				}
			}
		}
		run := func() error {
			a := nlbActions()[name]
			c := &call{api: cloud, params: params, region: "cn-hangzhou", authority: sts.NewAuthority(account), now: noon}
			_, err := a.run(c)
			if err == nil && a.dryRun {
				err = c.dry()
			}
			return err
		}
		err = run()
		var own *Error
		var refused *state.Error
		if !(errors.As(err, &own) && own.Code == "DryRunOperation" || errors.As(err, &refused) && refused.Code == "DryRunOperation") {
			t.Errorf("%s with DryRun: %v", name, err)
		}
		after, err := cloud.MarshalJSON()
		ok(err)
		if !bytes.Equal(before, after) {
			t.Errorf("%s with DryRun changes something", name)
		}
		params.Del("DryRun")
		if err := run(); err != nil {
			t.Errorf("%s: %v: want a good call", name, err)
		}
	}
}
