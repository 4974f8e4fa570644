package openapi

import (
	"net/netip"
	"strconv"

	"terway.dev/terway/internal/vpcsim/state"
)

// groupActions returns the security group operations of ECS 2014-05-26.
func groupActions() actions {
	return actions{
		"CreateSecurityGroup": create(state.API.CreateSecurityGroup, func(id string) obj {
			return obj{"SecurityGroupId": id}
		}),
		"DeleteSecurityGroup":             change(state.API.DeleteSecurityGroup),
		"ModifySecurityGroupAttribute":    change(state.API.ModifySecurityGroupAttribute),
		"ModifySecurityGroupPolicy":       change(state.API.ModifySecurityGroupPolicy),
		"AuthorizeSecurityGroup":          change(state.API.AuthorizeSecurityGroup),
		"AuthorizeSecurityGroupEgress":    change(state.API.AuthorizeSecurityGroupEgress),
		"RevokeSecurityGroup":             change(state.API.RevokeSecurityGroup),
		"RevokeSecurityGroupEgress":       change(state.API.RevokeSecurityGroupEgress),
		"ModifySecurityGroupRule":         change(state.API.ModifySecurityGroupRule),
		"ModifySecurityGroupEgressRule":   change(state.API.ModifySecurityGroupEgressRule),
		"DescribeSecurityGroupReferences": {run: describeReferences},
		"JoinSecurityGroup":               change(state.API.JoinSecurityGroup),
		"LeaveSecurityGroup":              change(state.API.LeaveSecurityGroup),
		"DescribeSecurityGroups": {dryRun: true, run: func(c *call) (obj, error) {
			a := list(state.API.DescribeSecurityGroups, groupPaging,
				func(g state.SecurityGroup) string { return g.SecurityGroupId },
				"SecurityGroups", "SecurityGroup", showGroup)
			o, err := a.run(c)
			if err != nil {
				return nil, err
			}
			return o.merge(obj{"RegionId": c.region}), nil
		}},
		"DescribeSecurityGroupAttribute": {run: describeGroup},
	}
}

func showGroup(g state.SecurityGroup) obj {
	refs := 0
	for _, r := range g.Rules {
		if r.PeerGroupId != "" {
			refs++
		}
	}
	return obj{
		"SecurityGroupId":         g.SecurityGroupId,
		"SecurityGroupName":       g.SecurityGroupName,
		"SecurityGroupType":       g.SecurityGroupType,
		"Description":             g.Description,
		"VpcId":                   g.VpcId,
		"ResourceGroupId":         g.ResourceGroupId,
		"CreationTime":            stamp(g.CreationTime),
		"EcsCount":                g.EcsCount,
		"AvailableInstanceAmount": g.AvailableInstanceAmount,
		"RuleCount":               len(g.Rules),
		"GroupToGroupRuleCount":   refs,
		"ServiceManaged":          false,
		"Tags":                    ecsTags(g.Tags),
	}
}

func describeGroup(c *call) (obj, error) {
	var r state.DescribeSecurityGroupAttributeRequest
	if e := decode(c.params, &r); e != nil {
		return nil, e
	}
	g, err := c.api.DescribeSecurityGroupAttribute(r)
	if err != nil {
		return nil, err
	}
	pg, e := paginate(c, rulePaging, g.Rules, func(r state.SecurityGroupRule) string { return r.SecurityGroupRuleId })
	if e != nil {
		return nil, e
	}
	return obj{
		"RegionId":          c.region,
		"SecurityGroupId":   g.SecurityGroupId,
		"SecurityGroupName": g.SecurityGroupName,
		"Description":       g.Description,
		"VpcId":             g.VpcId,
		"InnerAccessPolicy": g.InnerAccessPolicy,
		"NextToken":         pg.next,
		"Permissions":       in("Permission", showRule, pg.items),
	}, nil
}

func showRule(r state.SecurityGroupRule) obj {
	o := obj{
		"SecurityGroupRuleId": r.SecurityGroupRuleId,
		"Direction":           r.Direction,
		"IpProtocol":          r.IpProtocol,
		"Policy":              r.Policy,
		"Priority":            strconv.Itoa(r.Priority), // a string, as in the service
		"PortRange":           r.PortRange,
		"SourcePortRange":     r.SourcePortRange,
		"NicType":             "intranet",
		"Description":         r.Description,
		"CreateTime":          stamp(r.CreateTime),
	}
	source, dest, group := r.Peer, r.Local, "SourceGroupId"
	if r.Direction == state.DirectionEgress {
		source, dest, group = r.Local, r.Peer, "DestGroupId"
	}
	for _, name := range []string{"SourceCidrIp", "Ipv6SourceCidrIp", "DestCidrIp", "Ipv6DestCidrIp", "SourceGroupId", "DestGroupId"} {
		o[name] = ""
	}
	o[group] = r.PeerGroupId
	o[family("SourceCidrIp", source)] = prefix(source)
	o[family("DestCidrIp", dest)] = prefix(dest)
	return o
}

// family returns the range for the IPv4 or the IPv6 field.
func family(field string, p netip.Prefix) string {
	if p.Addr().Is6() {
		return "Ipv6" + field
	}
	return field
}
