package alibaba

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/ecs"

	"terway.dev/terway/internal/cloud"
)

// maxGroupPage and maxRulePage are the maximum page sizes of security groups and of their
// rules.
const (
	maxGroupPage = 100
	maxRulePage  = 1000
)

// ListSecurityGroups lists the security groups of a VPC. It reads all pages.
func (c *Client) ListSecurityGroups(ctx context.Context, vpcID string) ([]cloud.SecurityGroup, error) {
	return c.listSecurityGroups(ctx, vpcID, nil)
}

// taggedSecurityGroups lists the security groups of a VPC that have a tag.
func (c *Client) taggedSecurityGroups(ctx context.Context, vpcID, key, value string) ([]cloud.SecurityGroup, error) {
	return c.listSecurityGroups(ctx, vpcID, &[]ecs.DescribeSecurityGroupsTag{{Key: key, Value: value}})
}

func (c *Client) listSecurityGroups(ctx context.Context, vpcID string, tags *[]ecs.DescribeSecurityGroupsTag) ([]cloud.SecurityGroup, error) {
	const action = "DescribeSecurityGroups"
	if vpcID == "" {
		return nil, refuse(action, "no VPC id given")
	}
	var all []cloud.SecurityGroup
	for token := ""; ; {
		rsp, err := call(ctx, c, ecs.CreateDescribeSecurityGroupsRequest, ecs.CreateDescribeSecurityGroupsResponse, func(r *ecs.DescribeSecurityGroupsRequest) {
			r.VpcId, r.MaxResults, r.NextToken, r.Tag = vpcID, requests.NewInteger(maxGroupPage), token, tags
		})
		if err != nil {
			return nil, err
		}
		for _, g := range rsp.SecurityGroups.SecurityGroup {
			s, err := convertSecurityGroup(g)
			if err != nil {
				return nil, badAnswer(action, "%v", err)
			}
			all = append(all, s)
		}
		switch {
		case rsp.NextToken == "":
			return all, nil
		case rsp.NextToken == token:
			return nil, badAnswer(action, "the page after token %q has the same token", token)
		}
		token = rsp.NextToken
	}
}

// CreateSecurityGroup creates a security group and returns its id.
func (c *Client) CreateSecurityGroup(ctx context.Context, want cloud.CreateSecurityGroupRequest) (string, error) {
	const action = "CreateSecurityGroup"
	if want.Token == "" {
		return "", refuse(action, "without a client token a repeated call would make a second security group")
	}
	var tags []ecs.CreateSecurityGroupTag
	for _, k := range slices.Sorted(maps.Keys(want.Tags)) {
		tags = append(tags, ecs.CreateSecurityGroupTag{Key: k, Value: want.Tags[k]})
	}
	rsp, err := call(ctx, c, ecs.CreateCreateSecurityGroupRequest, ecs.CreateCreateSecurityGroupResponse, func(r *ecs.CreateSecurityGroupRequest) {
		r.ClientToken, r.VpcId, r.SecurityGroupName, r.SecurityGroupType = want.Token, want.VPCID, want.Name, want.Type
		if tags != nil {
			r.Tag = &tags
		}
	})
	if err != nil {
		return "", err
	}
	if rsp.SecurityGroupId == "" {
		return "", badAnswer(action, "security group: SecurityGroupId: is empty")
	}
	return rsp.SecurityGroupId, nil
}

// allTraffic is a rule's protocol and ports that match all traffic; rulePriority is the cloud's
// default.
const (
	allProtocols = "all"
	allPorts     = "-1/-1"
	policyAccept = "accept"
	rulePriority = "1"
)

// AllowedFrom lists the ranges from which a security group allows all traffic.
func (c *Client) AllowedFrom(ctx context.Context, groupID string) ([]netip.Prefix, error) {
	const action = "DescribeSecurityGroupAttribute"
	if groupID == "" {
		return nil, refuse(action, "no security group id given")
	}
	var all []netip.Prefix
	for token := ""; ; {
		rsp, err := call(ctx, c, ecs.CreateDescribeSecurityGroupAttributeRequest, ecs.CreateDescribeSecurityGroupAttributeResponse, func(r *ecs.DescribeSecurityGroupAttributeRequest) {
			r.SecurityGroupId, r.Direction = groupID, "ingress"
			r.MaxResults, r.NextToken = requests.NewInteger(maxRulePage), token
		})
		if err != nil {
			return nil, err
		}
		for _, p := range rsp.Permissions.Permission {
			// The cloud uses upper and lower case.
			if !strings.EqualFold(p.IpProtocol, allProtocols) || !strings.EqualFold(p.Policy, policyAccept) || p.SourceCidrIp == "" || p.DestCidrIp != "" {
				continue
			}
			from, err := parsePrefix(p.SourceCidrIp)
			if err != nil {
				if a, addr := parseIPv4(p.SourceCidrIp); addr == nil {
					from, err = netip.PrefixFrom(a, a.BitLen()), nil
				}
			}
			if err != nil {
				return nil, badAnswer(action, "security group %q: SourceCidrIp: %v", groupID, err)
			}
			all = append(all, from)
		}
		switch {
		case rsp.NextToken == "":
			return all, nil
		case rsp.NextToken == token:
			return nil, badAnswer(action, "the page after token %q has the same token", token)
		}
		token = rsp.NextToken
	}
}

// AllowFrom allows all traffic from a range to a security group. A rule that exists is no
// error.
func (c *Client) AllowFrom(ctx context.Context, groupID string, from netip.Prefix) error {
	rule := []ecs.AuthorizeSecurityGroupPermissions{{
		IpProtocol: allProtocols, PortRange: allPorts, Policy: policyAccept, Priority: rulePriority, SourceCidrIp: from.String(),
	}}
	_, err := call(ctx, c, ecs.CreateAuthorizeSecurityGroupRequest, ecs.CreateAuthorizeSecurityGroupResponse, func(r *ecs.AuthorizeSecurityGroupRequest) {
		r.SecurityGroupId, r.Permissions = groupID, &rule
	})
	return err
}

// denyFrom removes a rule of AllowFrom. One that does not exist is no error.
func (c *Client) denyFrom(ctx context.Context, groupID string, from netip.Prefix) error {
	rule := []ecs.RevokeSecurityGroupPermissions{{
		IpProtocol: allProtocols, PortRange: allPorts, Policy: policyAccept, Priority: rulePriority, SourceCidrIp: from.String(),
	}}
	_, err := call(ctx, c, ecs.CreateRevokeSecurityGroupRequest, ecs.CreateRevokeSecurityGroupResponse, func(r *ecs.RevokeSecurityGroupRequest) {
		r.SecurityGroupId, r.Permissions = groupID, &rule
	})
	return err
}

// DeleteSecurityGroup deletes a security group; one that is gone is no error.
func (c *Client) DeleteSecurityGroup(ctx context.Context, id string) error {
	_, err := call(ctx, c, ecs.CreateDeleteSecurityGroupRequest, ecs.CreateDeleteSecurityGroupResponse, func(r *ecs.DeleteSecurityGroupRequest) {
		r.SecurityGroupId = id
	})
	if cloud.ClassOf(err) == cloud.NotFound {
		return nil
	}
	return err
}
