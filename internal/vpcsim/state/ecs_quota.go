package state

import (
	"slices"

	"terway.dev/terway/internal/catalog"
)

// Limits of an ENI that is not attached (CreateNetworkInterface,
// AssignPrivateIpAddresses, AssignIpv6Addresses).
const (
	maxSecondary = 49
	maxIpv6      = 10
)

// ipv6Quota is the maximum number of IPv6 addresses on an ENI of a type. If the table has no
// number: 1 before the seventh generation, then as many as IPv4 addresses, which holds for
// every type with a published number.
func ipv6Quota(t catalog.Type) int {
	switch {
	case t.IPv6PerENI.Known:
		return t.IPv6PerENI.N
	case t.Generation() < 7:
		return 1
	default:
		return t.IPv4PerENI.N
	}
}

// typeOf returns the type of an instance, which is in the catalog: this was checked when the
// instance was created.
func (s *State) typeOf(i *Instance) catalog.Type {
	t, _ := s.options.Catalog.Lookup(i.InstanceType)
	return t
}

// checkENIQuota returns an error if an ENI may not have so many addresses, by the type of its
// instance if it has one.
func (s *State) checkENIQuota(eni *NetworkInterface, slots4, slots6 int) error {
	most4, most6, where := maxSecondary+1, maxIpv6, "that is not attached"
	if i, ok := s.data.Instances[eni.InstanceId]; ok {
		t := s.typeOf(i)
		most4, most6, where = t.IPv4PerENI.N, ipv6Quota(t), "of an instance of type "+t.Name
	}
	if slots4 > most4 {
		return forbidden("InvalidOperation.Ipv4CountExceeded", "Network interface %q would have %d private IPv4 addresses and prefixes; a network interface %s may have %d.", eni.NetworkInterfaceId, slots4, where, most4)
	}
	if slots6 > most6 {
		return forbidden("InvalidOperation.Ipv6CountExceeded", "Network interface %q would have %d IPv6 addresses; a network interface %s may have %d.", eni.NetworkInterfaceId, slots6, where, most6)
	}
	return nil
}

// privateIPsIn returns how many addresses count against a group's limit: those of the ENIs in
// it, with a prefix counting as one.
func (s *State) privateIPsIn(groupID string) int {
	return s.index.slots[groupID]
}

func (s *State) privateIPLimit(g *SecurityGroup) int {
	if g.SecurityGroupType == SecurityGroupEnterprise {
		return s.options.Limits.PrivateIPsPerEnterprise
	}
	return s.options.Limits.PrivateIPsPerNormal
}

// checkGroupRoom returns an error if the groups have no room for more addresses.
func (s *State) checkGroupRoom(groupIDs []string, more int) error {
	for _, id := range groupIDs {
		g := s.data.SecurityGroups[id]
		if n := s.privateIPsIn(id); n+more > s.privateIPLimit(g) {
			return forbidden("SecurityGroupInstanceLimitExceed", "The maximum number of private IP addresses (%d) in security group %q is exceeded: it has %d, %d more were asked for.", s.privateIPLimit(g), id, n, more)
		}
	}
	return nil
}

// checkGroups returns an error if an ENI in a VPC may not be in the groups.
func (s *State) checkGroups(vpcID string, groupIDs []string) error {
	if len(groupIDs) == 0 {
		return missing("SecurityGroupId")
	}
	if most := s.options.Limits.SecurityGroupsPerENI; len(groupIDs) > most {
		return forbidden("InstanceSecurityGroupLimitExceeded", "A network interface may be in %d security groups, not in %d.", most, len(groupIDs))
	}
	rules := 0
	for i, id := range groupIDs {
		g, ok := s.data.SecurityGroups[id]
		switch {
		case !ok:
			return notFound("InvalidSecurityGroupId.NotFound", "The specified SecurityGroupId %q does not exist.", id)
		case slices.Contains(groupIDs[:i], id):
			return invalid("SecurityGroupIds", id, "each group once")
		case g.VpcId != vpcID:
			return forbidden("InvalidOperation.VpcMismatch", "Security group %q is in VPC %s, not in VPC %s.", id, g.VpcId, vpcID)
		case g.SecurityGroupType != s.data.SecurityGroups[groupIDs[0]].SecurityGroupType:
			return invalid("SecurityGroupIds", id, "groups that are all normal or all enterprise")
		}
		rules += len(g.Rules)
	}
	if most := s.options.Limits.RulesPerENI; rules > most {
		return forbidden("AclLimitExceed", "The security groups of a network interface may have %d rules together, not %d.", most, rules)
	}
	return nil
}
