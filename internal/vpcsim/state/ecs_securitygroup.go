package state

import (
	"slices"
	"strings"
)

func (s *State) group(id string) (*SecurityGroup, error) {
	if id == "" {
		return nil, missing("SecurityGroupId")
	}
	g, ok := s.data.SecurityGroups[id]
	if !ok {
		return nil, notFound("InvalidSecurityGroupId.NotFound", "The specified SecurityGroupId does not exist: %q.", id)
	}
	return g, nil
}

// CreateSecurityGroup creates a group without rules.
func (s *State) CreateSecurityGroup(req CreateSecurityGroupRequest) (securityGroupId string, err error) {
	return once(s, "Ecs:CreateSecurityGroup", req.ClientToken, req, func() (string, error) {
		if req.VpcId == "" {
			return "", forbidden("InvalidVpcId.NotFound", "vpc id must not empty when only support vpc vm.")
		}
		vpc, err := s.vpc(req.VpcId)
		if err != nil {
			return "", err
		}
		if vpc.Status != StatusAvailable {
			return "", badRequest("IncorrectVpcStatus", "Current VPC status does not support this operation: %s.", vpc.Status)
		}
		kind, inner := req.SecurityGroupType, PolicyAccept
		switch kind {
		case "":
			kind = SecurityGroupNormal
		case SecurityGroupNormal:
		case SecurityGroupEnterprise:
			inner = PolicyDrop
		default:
			return "", invalid("SecurityGroupType", kind, "normal or enterprise")
		}
		if n := len(s.data.SecurityGroups); n >= s.options.Limits.SecurityGroups {
			return "", forbidden("QuotaExceed.SecurityGroup", "The maximum number of security groups is reached: %d.", n)
		}
		if err := s.checkTags(nil, req.Tag); err != nil {
			return "", err
		}
		g := &SecurityGroup{
			SecurityGroupId: s.newID(idSecurityGroup), SecurityGroupName: req.SecurityGroupName,
			SecurityGroupType: kind, Description: req.Description, VpcId: vpc.VpcId, InnerAccessPolicy: inner,
			ResourceGroupId: req.ResourceGroupId, CreationTime: s.now(), Tags: slices.Clone(req.Tag),
		}
		s.data.SecurityGroups[g.SecurityGroupId] = g
		s.changed()
		return g.SecurityGroupId, nil
	})
}

// DeleteSecurityGroup deletes a group that has no ENIs and no load balancers, and to which no
// rule refers.
func (s *State) DeleteSecurityGroup(req DeleteSecurityGroupRequest) error {
	g, err := s.group(req.SecurityGroupId)
	if err != nil {
		return err
	}
	if enis := s.index.byGroup[g.SecurityGroupId].sorted(); len(enis) > 0 {
		return forbidden("DependencyViolation", "Security group %s has dependent resources: network interface %s.", g.SecurityGroupId, enis[0].NetworkInterfaceId)
	}
	if id := s.user(g.SecurityGroupId); id != "" {
		return forbidden("DependencyViolation", "Security group %s has dependent resources: %s.", g.SecurityGroupId, id)
	}
	for _, id := range sortedKeys(s.data.SecurityGroups) {
		refers := func(r SecurityGroupRule) bool { return r.PeerGroupId == g.SecurityGroupId }
		if id != g.SecurityGroupId && slices.ContainsFunc(s.data.SecurityGroups[id].Rules, refers) {
			return forbidden("DependencyViolation", "Security group %s is referred to by a rule of security group %s.", g.SecurityGroupId, id)
		}
	}
	delete(s.data.SecurityGroups, g.SecurityGroupId)
	s.changed()
	return nil
}

// ModifySecurityGroupAttribute changes the group's name and description.
func (s *State) ModifySecurityGroupAttribute(req ModifySecurityGroupAttributeRequest) error {
	g, err := s.group(req.SecurityGroupId)
	if err != nil {
		return err
	}
	set(&g.SecurityGroupName, req.SecurityGroupName)
	set(&g.Description, req.Description)
	s.changed()
	return nil
}

// ModifySecurityGroupPolicy changes the policy between members of a normal group.
func (s *State) ModifySecurityGroupPolicy(req ModifySecurityGroupPolicyRequest) error {
	_, err := once(s, "Ecs:ModifySecurityGroupPolicy", req.ClientToken, req, func() (bool, error) {
		g, err := s.group(req.SecurityGroupId)
		if err != nil {
			return false, err
		}
		policy, err := parsePolicy("InnerAccessPolicy", req.InnerAccessPolicy)
		if err != nil {
			return false, err
		}
		if g.SecurityGroupType == SecurityGroupEnterprise && policy == PolicyAccept {
			return false, badRequest("UnsupportedOperation", "The members of enterprise security group %s cannot be opened to each other.", g.SecurityGroupId)
		}
		g.InnerAccessPolicy = policy
		s.changed()
		return true, nil
	})
	return err
}

func parsePolicy(parameter, text string) (string, error) {
	switch strings.ToLower(text) {
	case "accept":
		return PolicyAccept, nil
	case "drop":
		return PolicyDrop, nil
	}
	return "", badRequest("InvalidPolicy.Malformed", "The specified parameter %q is not valid: %q, expected accept or drop.", parameter, text)
}

func (s *State) describeGroup(g *SecurityGroup) SecurityGroup {
	c := g.clone()
	instances := map[string]bool{}
	for _, eni := range s.index.byGroup[g.SecurityGroupId] {
		if eni.InstanceId != "" {
			instances[eni.InstanceId] = true
		}
	}
	c.EcsCount = len(instances)
	c.PrivateIpCount = s.privateIPsIn(g.SecurityGroupId)
	c.AvailableInstanceAmount = max(0, s.privateIPLimit(g)-c.PrivateIpCount)
	return c
}

// DescribeSecurityGroups lists groups, by id.
func (s *State) DescribeSecurityGroups(req DescribeSecurityGroupsRequest) ([]SecurityGroup, error) {
	found := []SecurityGroup{}
	if req.NetworkType == "classic" || req.ServiceManaged {
		return found, nil // none exist
	}
	for _, id := range sortedKeys(s.data.SecurityGroups) {
		g := s.data.SecurityGroups[id]
		if is(req.SecurityGroupId, id) && isOneOf(req.SecurityGroupIds, id) && (isName(req.SecurityGroupName, g.SecurityGroupName) || req.FuzzyQuery && strings.Contains(g.SecurityGroupName, req.SecurityGroupName)) &&
			is(req.SecurityGroupType, g.SecurityGroupType) && is(req.VpcId, g.VpcId) &&
			is(req.ResourceGroupId, g.ResourceGroupId) && hasTags(req.Tag, g.Tags) {
			found = append(found, s.describeGroup(g))
		}
	}
	return found, nil
}

// DescribeSecurityGroupAttribute returns one group, its rules filtered by direction.
func (s *State) DescribeSecurityGroupAttribute(req DescribeSecurityGroupAttributeRequest) (*SecurityGroup, error) {
	g, err := s.group(req.SecurityGroupId)
	if err != nil {
		return nil, err
	}
	direction := strings.ToLower(req.Direction)
	switch direction {
	case "", "all", DirectionIngress, DirectionEgress:
	default:
		return nil, invalid("Direction", req.Direction, "ingress, egress or all")
	}
	c := s.describeGroup(g)
	if direction == DirectionIngress || direction == DirectionEgress {
		c.Rules = slices.DeleteFunc(c.Rules, func(r SecurityGroupRule) bool { return r.Direction != direction })
	}
	return &c, nil
}

// member returns the ENI of a request of JoinSecurityGroup or LeaveSecurityGroup.
func (s *State) member(req JoinSecurityGroupRequest) (*NetworkInterface, error) {
	switch {
	case req.InstanceId != "" && req.NetworkInterfaceId != "":
		return nil, badRequest("InvalidParameter", "InstanceId and NetworkInterfaceId cannot both be given.")
	case req.NetworkInterfaceId != "":
		eni, err := s.eni(req.NetworkInterfaceId)
		if err != nil {
			return nil, err
		}
		if eni.Status == ENIDeleting {
			return nil, invalidState(eni)
		}
		return eni, nil
	}
	i, err := s.instance(req.InstanceId)
	if err != nil {
		return nil, err
	}
	return s.enisOf(i.InstanceId)[0], nil
}

// JoinSecurityGroup adds an instance's primary ENI, or an ENI, to a group.
func (s *State) JoinSecurityGroup(req JoinSecurityGroupRequest) error {
	g, err := s.group(req.SecurityGroupId)
	if err != nil {
		return err
	}
	eni, err := s.member(req)
	if err != nil {
		return err
	}
	if slices.Contains(eni.SecurityGroupIds, g.SecurityGroupId) {
		return forbidden("InvalidInstanceId.AlreadyExists", "The specified instance already exists in the specified security group.")
	}
	joined := append(slices.Clone(eni.SecurityGroupIds), g.SecurityGroupId)
	if err := s.checkGroups(eni.VpcId, joined); err != nil {
		return err
	}
	if err := s.checkGroupRoom([]string{g.SecurityGroupId}, eni.slots4()); err != nil {
		// Only this action has the code in the past tense.
		return forbidden("SecurityGroupInstanceLimitExceeded", "The maximum number of private IP addresses (%d) in security group %q is exceeded.", s.privateIPLimit(g), g.SecurityGroupId)
	}
	s.alter(eni, func() { eni.SecurityGroupIds = joined })
	s.changed()
	return nil
}

// LeaveSecurityGroup removes it again; an ENI is always in at least one group.
func (s *State) LeaveSecurityGroup(req JoinSecurityGroupRequest) error {
	g, err := s.group(req.SecurityGroupId)
	if err != nil {
		return err
	}
	eni, err := s.member(req)
	if err != nil {
		return err
	}
	i := slices.Index(eni.SecurityGroupIds, g.SecurityGroupId)
	switch {
	case i < 0:
		return forbidden("InstanceNotInSecurityGroup", "The instance not in the group.")
	case len(eni.SecurityGroupIds) == 1:
		return forbidden("InstanceLastSecurityGroup", "The specified security group is the last security group for the instance.")
	}
	s.alter(eni, func() { eni.SecurityGroupIds = slices.Delete(eni.SecurityGroupIds, i, i+1) })
	s.changed()
	return nil
}
