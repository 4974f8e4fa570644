package state_test

import (
	"testing"

	"terway.dev/terway/internal/vpcsim/state"
)

func TestDefaultsOfGroups(t *testing.T) {
	w := newWorld(t)
	normal := must(w.DescribeSecurityGroupAttribute(state.DescribeSecurityGroupAttributeRequest{SecurityGroupId: w.sg}))
	id := must(w.CreateSecurityGroup(state.CreateSecurityGroupRequest{VpcId: w.vpc, SecurityGroupType: "enterprise"}))
	enterprise := must(w.DescribeSecurityGroupAttribute(state.DescribeSecurityGroupAttributeRequest{SecurityGroupId: id}))
	for _, tt := range []struct {
		g                      *state.SecurityGroup
		inner, ingress, egress string
	}{
		{normal, "Accept", "Drop", "Accept"},
		{enterprise, "Drop", "Drop", "Drop"},
	} {
		if tt.g.InnerAccessPolicy != tt.inner || tt.g.DefaultPolicy("ingress") != tt.ingress || tt.g.DefaultPolicy("egress") != tt.egress {
			t.Errorf("%s: inner %s, ingress %s, egress %s; want %+v", tt.g.SecurityGroupType, tt.g.InnerAccessPolicy,
				tt.g.DefaultPolicy("ingress"), tt.g.DefaultPolicy("egress"), tt)
		}
	}
	check(w.ModifySecurityGroupPolicy(state.ModifySecurityGroupPolicyRequest{SecurityGroupId: w.sg, InnerAccessPolicy: "drop"}))
	if g := must(w.DescribeSecurityGroups(state.DescribeSecurityGroupsRequest{SecurityGroupId: w.sg}))[0]; g.InnerAccessPolicy != "Drop" {
		t.Errorf("inner policy %s", g.InnerAccessPolicy)
	}
	w.refused(400, "UnsupportedOperation", func() error {
		return w.ModifySecurityGroupPolicy(state.ModifySecurityGroupPolicyRequest{SecurityGroupId: id, InnerAccessPolicy: "Accept"})
	})
}

func TestRules(t *testing.T) {
	w := newWorld(t)
	other := must(w.CreateSecurityGroup(state.CreateSecurityGroupRequest{VpcId: w.vpc}))
	enterprise := must(w.CreateSecurityGroup(state.CreateSecurityGroupRequest{VpcId: w.vpc, SecurityGroupType: "enterprise"}))
	ok := state.Permission{IpProtocol: "tcp", PortRange: "80/90", SourceCidrIp: "10.0.0.0/8"}
	with := func(change func(*state.Permission)) state.Permission {
		p := ok
		change(&p)
		return p
	}
	for _, tt := range []struct {
		name   string
		p      state.Permission
		status int
		code   string
	}{
		{"protocol", with(func(p *state.Permission) { p.IpProtocol = "sctp" }), 400, "InvalidIpProtocol.ValueNotSupported"},
		{"no protocol", with(func(p *state.Permission) { p.IpProtocol = "" }), 403, "MissingParameter"},
		{"ports reversed", with(func(p *state.Permission) { p.PortRange = "90/80" }), 400, "InvalidIpProtocol.Malformed"},
		{"no ports", with(func(p *state.Permission) { p.PortRange = "" }), 400, "InvalidIpProtocol.Malformed"},
		{"ports of icmp", with(func(p *state.Permission) { p.IpProtocol = "icmp" }), 400, "InvalidIpProtocol.Malformed"},
		{"source ports", with(func(p *state.Permission) { p.SourcePortRange = "x" }), 400, "InvalidSourcePortRange.Malformed"},
		{"no source", with(func(p *state.Permission) { p.SourceCidrIp = "" }), 400, "MissingParameter.Source"},
		{"source", with(func(p *state.Permission) { p.SourceCidrIp = "10.0.0/8" }), 400, "InvalidSourceCidrIp.Malformed"},
		{"destination", with(func(p *state.Permission) { p.DestCidrIp = "::/0" }), 400, "InvalidDestCidrIp.Malformed"},
		{"both families", with(func(p *state.Permission) { p.Ipv6DestCidrIp = "::/0" }), 400, "InvalidParam.Ipv4ProtocolConflictWithIpv6Address"},
		{"icmpv6 with IPv4", with(func(p *state.Permission) { p.IpProtocol, p.PortRange = "icmpv6", "-1/-1" }), 400, "InvalidParam.Ipv6ProtocolConflictWithIpv4Address"},
		{"policy", with(func(p *state.Permission) { p.Policy = "deny" }), 400, "InvalidPolicy.Malformed"},
		{"priority", with(func(p *state.Permission) { p.Priority = "0" }), 400, "InvalidPriority.ValueNotSupported"},
		{"priority text", with(func(p *state.Permission) { p.Priority = "high" }), 400, "InvalidPriority.Malformed"},
		{"unknown group", with(func(p *state.Permission) { p.SourceCidrIp, p.SourceGroupId = "", "sg-x" }), 404, "InvalidSourceGroupId.NotFound"},
		{"own group", with(func(p *state.Permission) { p.SourceCidrIp, p.SourceGroupId = "", w.sg }), 403, "InvalidParamter.Conflict"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w.t = t
			w.refused(tt.status, tt.code, func() error {
				return w.AuthorizeSecurityGroup(state.AuthorizeSecurityGroupRequest{SecurityGroupId: w.sg, Permissions: []state.Permission{ok, tt.p}})
			})
		})
	}
	w.t = t
	w.refused(400, "OperationDenied", func() error {
		return w.AuthorizeSecurityGroup(state.AuthorizeSecurityGroupRequest{SecurityGroupId: enterprise, Permission: state.Permission{IpProtocol: "all", SourceGroupId: other}})
	})
	check(w.AuthorizeSecurityGroup(state.AuthorizeSecurityGroupRequest{SecurityGroupId: w.sg, Permission: ok}))
	check(w.AuthorizeSecurityGroup(state.AuthorizeSecurityGroupRequest{SecurityGroupId: w.sg, Permissions: []state.Permission{ok, {IpProtocol: "ALL", SourceGroupId: other, Priority: "7", Policy: "drop"}}}))
	check(w.AuthorizeSecurityGroupEgress(state.AuthorizeSecurityGroupRequest{SecurityGroupId: w.sg, Permission: state.Permission{IpProtocol: "udp", PortRange: "53", DestCidrIp: "10.1.2.3"}}))
	g := must(w.DescribeSecurityGroupAttribute(state.DescribeSecurityGroupAttributeRequest{SecurityGroupId: w.sg}))
	if len(g.Rules) != 3 {
		t.Fatalf("rules %+v", g.Rules)
	}
	if from, to := g.Rules[0].Ports(); g.Rules[0].IpProtocol != "TCP" || from != 80 || to != 90 || g.Rules[0].Peer.String() != "10.0.0.0/8" {
		t.Errorf("%+v", g.Rules[0])
	}
	if from, to := g.Rules[1].Ports(); g.Rules[1].PeerGroupId != other || g.Rules[1].Priority != 7 || g.Rules[1].Policy != "Drop" || from != 0 || to != 65535 {
		t.Errorf("%+v", g.Rules[1])
	}
	if g.Rules[2].Direction != "egress" || g.Rules[2].PortRange != "53/53" || g.Rules[2].Peer.String() != "10.1.2.3/32" {
		t.Errorf("%+v", g.Rules[2])
	}
	w.refused(403, "DependencyViolation", func() error {
		return w.DeleteSecurityGroup(state.DeleteSecurityGroupRequest{SecurityGroupId: other})
	})
	w.refused(404, "InvalidSecurityGroupRuleId.NotFound", func() error {
		return w.RevokeSecurityGroup(state.RevokeSecurityGroupRequest{SecurityGroupId: w.sg, SecurityGroupRuleId: []string{g.Rules[2].SecurityGroupRuleId}})
	})
	check(w.RevokeSecurityGroup(state.RevokeSecurityGroupRequest{SecurityGroupId: w.sg, Permission: ok}))
	check(w.RevokeSecurityGroup(state.RevokeSecurityGroupRequest{SecurityGroupId: w.sg, SecurityGroupRuleId: []string{g.Rules[1].SecurityGroupRuleId}}))
	before := w.Revision()
	check(w.RevokeSecurityGroup(state.RevokeSecurityGroupRequest{SecurityGroupId: w.sg, Permission: ok})) // removed already
	if w.Revision() != before {
		t.Error("revoking what is not there is a change")
	}
	check(w.DeleteSecurityGroup(state.DeleteSecurityGroupRequest{SecurityGroupId: other}))
}

func TestRuleQuotas(t *testing.T) {
	w := newWorld(t, func(o *state.Options) {
		o.Limits = state.Limits{RulesPerSecurityGroup: 3, RulesPerENI: 4, GroupRefsPerGroup: 1, SecurityGroupsPerENI: 2, SecurityGroups: 4}
	})
	group := func() string {
		return must(w.CreateSecurityGroup(state.CreateSecurityGroupRequest{VpcId: w.vpc}))
	}
	rule := func(port string) state.Permission {
		return state.Permission{IpProtocol: "tcp", PortRange: port, SourceCidrIp: "0.0.0.0/0"}
	}
	add := func(sg string, p ...state.Permission) error {
		return w.AuthorizeSecurityGroup(state.AuthorizeSecurityGroupRequest{SecurityGroupId: sg, Permissions: p})
	}
	a, b, c := group(), group(), group()
	w.refused(403, "QuotaExceed.SecurityGroup", func() error {
		return errOf(w.CreateSecurityGroup(state.CreateSecurityGroupRequest{VpcId: w.vpc}))
	})
	w.refused(403, "AuthorizationLimitExceed", func() error { return add(a, rule("1"), rule("2"), rule("3"), rule("4")) })
	w.refused(403, "AuthorizationLimitExceed", func() error {
		return add(a, state.Permission{IpProtocol: "all", SourceGroupId: b}, state.Permission{IpProtocol: "all", SourceGroupId: c})
	})
	check(add(a, rule("1"), rule("2"), rule("3")))
	check(add(b, rule("1"), rule("2")))
	w.refused(403, "AclLimitExceed", func() error {
		return errOf(w.CreateNetworkInterface(state.CreateNetworkInterfaceRequest{VSwitchId: w.vsw, SecurityGroupIds: []string{a, b}}))
	})
	w.refused(403, "InstanceSecurityGroupLimitExceeded", func() error {
		return errOf(w.CreateNetworkInterface(state.CreateNetworkInterfaceRequest{VSwitchId: w.vsw, SecurityGroupIds: []string{a, b, c}}))
	})
	eni := w.eni(func(r *state.CreateNetworkInterfaceRequest) {
		r.SecurityGroupId, r.SecurityGroupIds = "", []string{a, c}
	})
	check(add(c, rule("1")))
	w.refused(403, "AclLimitExceed", func() error { return add(c, rule("2")) })
	w.refused(403, "InstanceSecurityGroupLimitExceeded", func() error {
		return w.JoinSecurityGroup(state.JoinSecurityGroupRequest{SecurityGroupId: w.sg, NetworkInterfaceId: eni.NetworkInterfaceId})
	})
}

func TestJoinAndLeave(t *testing.T) {
	w := newWorld(t)
	other := must(w.CreateSecurityGroup(state.CreateSecurityGroupRequest{VpcId: w.vpc}))
	instance := w.instance("ecs.g6.2xlarge")
	join := state.JoinSecurityGroupRequest{SecurityGroupId: other, InstanceId: instance}
	w.refused(403, "InstanceNotInSecurityGroup", func() error { return w.LeaveSecurityGroup(join) })
	check(w.JoinSecurityGroup(join))
	w.refused(403, "InvalidInstanceId.AlreadyExists", func() error { return w.JoinSecurityGroup(join) })
	if got := w.getInstance(instance).SecurityGroupIds; len(got) != 2 {
		t.Errorf("groups %v", got)
	}
	g := must(w.DescribeSecurityGroups(state.DescribeSecurityGroupsRequest{SecurityGroupId: other}))[0]
	if g.EcsCount != 1 || g.PrivateIpCount != 1 || g.AvailableInstanceAmount != 1999 {
		t.Errorf("%+v", g)
	}
	check(w.LeaveSecurityGroup(state.JoinSecurityGroupRequest{SecurityGroupId: w.sg, InstanceId: instance}))
	w.refused(403, "InstanceLastSecurityGroup", func() error { return w.LeaveSecurityGroup(join) })
	w.refused(403, "DependencyViolation", func() error {
		return w.DeleteSecurityGroup(state.DeleteSecurityGroupRequest{SecurityGroupId: other})
	})
	eni := w.eni()
	check(w.ModifyNetworkInterfaceAttribute(state.ModifyNetworkInterfaceAttributeRequest{
		NetworkInterfaceId: eni.NetworkInterfaceId, SecurityGroupId: []string{other}, SourceDestCheck: ptr(true), Description: ptr("x"),
	}))
	if e := w.getENI(eni.NetworkInterfaceId); e.SecurityGroupIds[0] != other || !e.SourceDestCheck || e.Description != "x" || !e.DeleteOnRelease {
		t.Errorf("%+v", e)
	}
}

// Join has its own code for a group that is full.
func TestJoinOfAFullGroup(t *testing.T) {
	w := newWorld(t, func(o *state.Options) { o.Limits.PrivateIPsPerNormal = 3 })
	other := must(w.CreateSecurityGroup(state.CreateSecurityGroupRequest{VpcId: w.vpc}))
	w.eni(func(r *state.CreateNetworkInterfaceRequest) {
		r.SecurityGroupId, r.SecondaryPrivateIpAddressCount = other, 2
	})
	eni := w.eni().NetworkInterfaceId
	w.refused(403, "SecurityGroupInstanceLimitExceeded", func() error {
		return w.JoinSecurityGroup(state.JoinSecurityGroupRequest{SecurityGroupId: other, NetworkInterfaceId: eni})
	})
}
