package state

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// allPorts is the port range of protocols that have none.
const allPorts = "-1/-1"

// parsePermission converts a Permission of the given direction to a rule.
func parsePermission(direction string, p Permission) (SecurityGroupRule, error) {
	r := SecurityGroupRule{Direction: direction, Description: p.Description, Priority: 1, Policy: PolicyAccept}
	switch protocol := strings.ToUpper(p.IpProtocol); protocol {
	case "TCP", "UDP", "ICMP", "GRE", "ALL":
		r.IpProtocol = protocol
	case "ICMPV6":
		r.IpProtocol = "ICMPv6"
	case "":
		return r, missing("IpProtocol")
	default:
		return r, badRequest("InvalidIpProtocol.ValueNotSupported", "The parameter IpProtocol must be specified with case insensitive TCP, UDP, ICMP, ICMPv6, GRE or All, not %q.", p.IpProtocol)
	}
	var err error
	if r.PortRange, err = parsePorts("InvalidIpProtocol.Malformed", "PortRange", r.IpProtocol, p.PortRange); err != nil {
		return r, err
	}
	source := p.SourcePortRange
	if source == "" {
		source = allPorts
	}
	if r.SourcePortRange, err = parsePorts("InvalidSourcePortRange.Malformed", "SourcePortRange", r.IpProtocol, source); err != nil {
		return r, err
	}
	if p.Policy != "" {
		if r.Policy, err = parsePolicy("Policy", p.Policy); err != nil {
			return r, err
		}
	}
	if p.Priority != "" {
		if r.Priority, err = strconv.Atoi(p.Priority); err != nil {
			return r, badRequest("InvalidPriority.Malformed", "The parameter Priority is invalid: %q, expected 1 to 100.", p.Priority)
		}
		if r.Priority < 1 || r.Priority > 100 {
			return r, badRequest("InvalidPriority.ValueNotSupported", "The parameter Priority is invalid: %d, expected 1 to 100.", r.Priority)
		}
	}
	switch p.NicType {
	case "", "internet", "intranet": // in a VPC both have the same meaning
	default:
		return r, badRequest("InvalidNicType.ValueNotSupported", "The specified NicType does not exist: %q.", p.NicType)
	}
	if p.SourcePrefixListId != "" || p.DestPrefixListId != "" {
		return r, badRequest("UnsupportedOperation", "Prefix lists are not supported.")
	}
	sourceRange, err := parseRuleRange("Source", p.SourceCidrIp, p.Ipv6SourceCidrIp)
	if err != nil {
		return r, err
	}
	destRange, err := parseRuleRange("Dest", p.DestCidrIp, p.Ipv6DestCidrIp)
	if err != nil {
		return r, err
	}
	if direction == DirectionIngress {
		r.Peer, r.Local, r.PeerGroupId = sourceRange, destRange, p.SourceGroupId
	} else {
		r.Peer, r.Local, r.PeerGroupId = destRange, sourceRange, p.DestGroupId
	}
	if r.Peer.IsValid() {
		r.PeerGroupId = "" // a range takes precedence over a group
	} else if r.PeerGroupId == "" {
		if direction == DirectionIngress {
			return r, badRequest("MissingParameter.Source", "Either SourceCidrIp or SourceGroupId must be specified.")
		}
		return r, badRequest("MissingParameter.Dest", "Either DestCidrIp or DestGroupId must be specified.")
	}
	for _, x := range []netip.Prefix{r.Peer, r.Local} {
		if !x.IsValid() {
			continue
		}
		switch {
		case r.IpProtocol == "ICMP" && x.Addr().Is6(),
			r.Peer.IsValid() && r.Peer.Addr().Is4() && x.Addr().Is6():
			return r, badRequest("InvalidParam.Ipv4ProtocolConflictWithIpv6Address", "IPv4 and the IPv6 range %s cannot be in one rule.", x)
		case r.IpProtocol == "ICMPv6" && x.Addr().Is4(),
			r.Peer.IsValid() && r.Peer.Addr().Is6() && x.Addr().Is4():
			return r, badRequest("InvalidParam.Ipv6ProtocolConflictWithIpv4Address", "IPv6 and the IPv4 range %s cannot be in one rule.", x)
		}
	}
	return r, nil
}

// missingAs403 changes the status of MissingParameter to that of Authorize and Modify; Revoke
// has 400.
func missingAs403(err error) error {
	if e, ok := err.(*Error); ok && e.Code == "MissingParameter" {
		return &Error{http.StatusForbidden, e.Code, e.Message}
	}
	return err
}

// parsePorts normalises a port range: "22/22", "8000/9000" or all.
func parsePorts(code, parameter, protocol, text string) (string, error) {
	bad := func(want string) error {
		return badRequest(code, "The specified parameter %q is not valid: %q, expected %s.", parameter, text, want)
	}
	if protocol != "TCP" && protocol != "UDP" {
		if text != "" && text != allPorts {
			return "", bad(allPorts + " for " + protocol)
		}
		return allPorts, nil
	}
	if text == allPorts {
		return allPorts, nil
	}
	a, b, both := strings.Cut(text, "/")
	if !both {
		b = a
	}
	from, err1 := strconv.Atoi(a)
	to, err2 := strconv.Atoi(b)
	if err1 != nil || err2 != nil || from < 1 || to > 65535 || from > to {
		return "", bad("from/to with ports from 1 to 65535, or " + allPorts)
	}
	return fmt.Sprintf("%d/%d", from, to), nil
}

// parseRuleRange parses a range of either family; zero if neither is given.
func parseRuleRange(side, text4, text6 string) (netip.Prefix, error) {
	text, code, six := text4, "Invalid"+side+"CidrIp.Malformed", false
	if text == "" {
		text, code, six = text6, "InvalidParam.Ipv6"+side+"CidrIp", true
	}
	if text == "" {
		return netip.Prefix{}, nil
	}
	p, err := netip.ParsePrefix(text)
	if a, addrErr := netip.ParseAddr(text); addrErr == nil {
		p, err = netip.PrefixFrom(a, a.BitLen()), nil
	}
	if err != nil || p.Addr().Is6() != six {
		return p, badRequest(code, "The specified parameter %q is not valid: %q, expected a network.", side+"CidrIp", text)
	}
	return p.Masked(), nil
}

// sameRule reports whether two rules decide the same, ignoring id and description.
func sameRule(a, b SecurityGroupRule) bool {
	return a.Direction == b.Direction && a.IpProtocol == b.IpProtocol && a.Policy == b.Policy && a.Priority == b.Priority &&
		a.PortRange == b.PortRange && a.SourcePortRange == b.SourcePortRange &&
		a.Peer == b.Peer && a.PeerGroupId == b.PeerGroupId && a.Local == b.Local
}

// AuthorizeSecurityGroup adds ingress rules, all or none. A rule that exists is no error.
func (s *State) AuthorizeSecurityGroup(req AuthorizeSecurityGroupRequest) error {
	return s.authorize("AuthorizeSecurityGroup", DirectionIngress, req)
}

// AuthorizeSecurityGroupEgress adds egress rules.
func (s *State) AuthorizeSecurityGroupEgress(req AuthorizeSecurityGroupRequest) error {
	return s.authorize("AuthorizeSecurityGroupEgress", DirectionEgress, req)
}

// permissions merges the two ways to pass rules.
func permissions(many []Permission, one Permission) []Permission {
	if len(many) > 0 {
		return many
	}
	return []Permission{one}
}

func (s *State) authorize(action, direction string, req AuthorizeSecurityGroupRequest) error {
	_, err := once(s, "Ecs:"+action, req.ClientToken, req, func() (bool, error) {
		g, err := s.group(req.SecurityGroupId)
		if err != nil {
			return false, err
		}
		all := permissions(req.Permissions, req.Permission)
		if len(all) > 100 {
			return false, badRequest("InvalidParameter", "At most 100 Permissions.N may be given, not %d.", len(all))
		}
		rules := slices.Clone(g.Rules)
		for _, p := range all {
			r, err := parsePermission(direction, p)
			if err != nil {
				return false, missingAs403(err)
			}
			if err := s.checkPeerGroup(g, r); err != nil {
				return false, err
			}
			if !slices.ContainsFunc(rules, func(old SecurityGroupRule) bool { return sameRule(old, r) }) {
				rules = append(rules, r)
			}
		}
		if err := s.checkRuleQuota(g, rules); err != nil {
			return false, err
		}
		for i := len(g.Rules); i < len(rules); i++ {
			rules[i].SecurityGroupRuleId, rules[i].CreateTime = s.newID(idRule), s.now()
		}
		if len(rules) > len(g.Rules) {
			g.Rules = rules
			s.changed()
		}
		return true, nil
	})
	return err
}

// checkPeerGroup returns an error if a group's rule may not refer to its peer group.
func (s *State) checkPeerGroup(g *SecurityGroup, r SecurityGroupRule) error {
	if r.PeerGroupId == "" {
		return nil
	}
	side := "Source"
	if r.Direction == DirectionEgress {
		side = "Dest"
	}
	peer, ok := s.data.SecurityGroups[r.PeerGroupId]
	switch {
	case !ok:
		return notFound("Invalid"+side+"GroupId.NotFound", "The %sGroupId provided does not exist in our records: %q.", side, r.PeerGroupId)
	case r.PeerGroupId == g.SecurityGroupId:
		// The service misspells this code.
		return forbidden("InvalidParamter.Conflict", "The specified SecurityGroupId should be different from the %sGroupId.", side)
	case peer.VpcId != g.VpcId:
		return badRequest("Invalid"+side+"GroupId.Mismatch", "Specified security group and %s group are not in the same VPC.", strings.ToLower(side))
	case g.SecurityGroupType == SecurityGroupEnterprise:
		return badRequest("OperationDenied", "The rules of an enterprise security group cannot refer to a security group.")
	}
	return nil
}

// checkRuleQuota returns an error if a group may not have these rules.
func (s *State) checkRuleQuota(g *SecurityGroup, rules []SecurityGroupRule) error {
	if most := s.options.Limits.RulesPerSecurityGroup; len(rules) > most {
		return forbidden("AuthorizationLimitExceed", "The limit of authorization records in the security group reaches: %d.", most)
	}
	references := 0
	for _, r := range rules {
		if r.PeerGroupId != "" {
			references++
		}
	}
	if most := s.options.Limits.GroupRefsPerGroup; references > most {
		return forbidden("AuthorizationLimitExceed", "The limit of rules of the security group that refer to a security group reaches: %d.", most)
	}
	for _, eni := range s.index.byGroup[g.SecurityGroupId].sorted() {
		n := len(rules)
		for _, other := range eni.SecurityGroupIds {
			if other != g.SecurityGroupId {
				n += len(s.data.SecurityGroups[other].Rules)
			}
		}
		if most := s.options.Limits.RulesPerENI; n > most {
			return forbidden("AclLimitExceed", "The security groups of network interface %s would have %d rules together; they may have %d.", eni.NetworkInterfaceId, n, most)
		}
	}
	return nil
}

// RevokeSecurityGroup removes ingress rules. A missing rule is no error, an unknown rule id is.
func (s *State) RevokeSecurityGroup(req RevokeSecurityGroupRequest) error {
	return s.revoke("RevokeSecurityGroup", DirectionIngress, req)
}

// RevokeSecurityGroupEgress removes egress rules.
func (s *State) RevokeSecurityGroupEgress(req RevokeSecurityGroupRequest) error {
	return s.revoke("RevokeSecurityGroupEgress", DirectionEgress, req)
}

func (s *State) revoke(action, direction string, req RevokeSecurityGroupRequest) error {
	_, err := once(s, "Ecs:"+action, req.ClientToken, req, func() (bool, error) {
		g, err := s.group(req.SecurityGroupId)
		if err != nil {
			return false, err
		}
		var unwanted []SecurityGroupRule
		for _, id := range req.SecurityGroupRuleId {
			i := slices.IndexFunc(g.Rules, func(r SecurityGroupRule) bool {
				return r.SecurityGroupRuleId == id && r.Direction == direction
			})
			if i < 0 {
				return false, notFound("InvalidSecurityGroupRuleId.NotFound", "The specified SecurityGroupRuleId %q does not exist among the %s rules of security group %s.", id, direction, g.SecurityGroupId)
			}
			unwanted = append(unwanted, g.Rules[i])
		}
		if len(req.SecurityGroupRuleId) == 0 {
			for _, p := range permissions(req.Permissions, req.Permission) {
				r, err := parsePermission(direction, p)
				if err != nil {
					return false, err
				}
				unwanted = append(unwanted, r)
			}
		}
		rest := slices.DeleteFunc(slices.Clone(g.Rules), func(r SecurityGroupRule) bool {
			return slices.ContainsFunc(unwanted, func(u SecurityGroupRule) bool { return sameRule(u, r) })
		})
		if len(rest) == len(g.Rules) {
			return true, nil
		}
		if len(rest) == 0 {
			rest = nil
		}
		g.Rules = rest
		s.changed()
		return true, nil
	})
	return err
}

// ModifySecurityGroupRule changes an ingress rule.
func (s *State) ModifySecurityGroupRule(req ModifySecurityGroupRuleRequest) error {
	return s.modifyRule("ModifySecurityGroupRule", DirectionIngress, req)
}

// ModifySecurityGroupEgressRule changes an egress rule.
func (s *State) ModifySecurityGroupEgressRule(req ModifySecurityGroupRuleRequest) error {
	return s.modifyRule("ModifySecurityGroupEgressRule", DirectionEgress, req)
}

func (s *State) modifyRule(action, direction string, req ModifySecurityGroupRuleRequest) error {
	_, err := once(s, "Ecs:"+action, req.ClientToken, req, func() (bool, error) {
		g, err := s.group(req.SecurityGroupId)
		if err != nil {
			return false, err
		}
		at := -1
		var changed SecurityGroupRule
		if req.SecurityGroupRuleId != "" {
			at = slices.IndexFunc(g.Rules, func(r SecurityGroupRule) bool {
				return r.SecurityGroupRuleId == req.SecurityGroupRuleId && r.Direction == direction
			})
			if at < 0 {
				return false, notFound("SecurityGroupRule.NotFound", "The specified rule %q does not exist among the %s rules of security group %s.", req.SecurityGroupRuleId, direction, g.SecurityGroupId)
			}
			if changed, err = parsePermission(direction, permissionOf(g.Rules[at]).with(req.Permission)); err != nil {
				return false, missingAs403(err)
			}
		} else {
			wanted, err := parsePermission(direction, req.Permission)
			if err != nil {
				return false, missingAs403(err)
			}
			at = slices.IndexFunc(g.Rules, func(r SecurityGroupRule) bool { return sameRule(r, wanted) })
			if at < 0 {
				return false, notFound("SecurityGroupRule.NotFound", "Security group %s has no such %s rule.", g.SecurityGroupId, direction)
			}
			changed = wanted
		}
		old := g.Rules[at]
		changed.SecurityGroupRuleId, changed.CreateTime = old.SecurityGroupRuleId, old.CreateTime
		if err := s.checkPeerGroup(g, changed); err != nil {
			return false, err
		}
		rules := slices.Clone(g.Rules)
		rules[at] = changed
		for i, r := range rules {
			if i != at && sameRule(r, changed) {
				return false, badRequest("OperationDenied", "Security group %s has a rule that decides the same already: %s.", g.SecurityGroupId, r.SecurityGroupRuleId)
			}
		}
		if err := s.checkRuleQuota(g, rules); err != nil {
			return false, err
		}
		g.Rules = rules
		s.changed()
		return true, nil
	})
	return err
}

// permissionOf is the inverse of parsePermission.
func permissionOf(r SecurityGroupRule) Permission {
	p := Permission{
		IpProtocol: r.IpProtocol, PortRange: r.PortRange, SourcePortRange: r.SourcePortRange,
		Policy: r.Policy, Priority: strconv.Itoa(r.Priority), Description: r.Description,
	}
	source, dest := r.Peer, r.Local
	if r.Direction == DirectionEgress {
		source, dest = r.Local, r.Peer
		p.DestGroupId = r.PeerGroupId
	} else {
		p.SourceGroupId = r.PeerGroupId
	}
	put := func(x netip.Prefix, four, six *string) {
		switch {
		case !x.IsValid():
		case x.Addr().Is4():
			*four = x.String()
		default:
			*six = x.String()
		}
	}
	put(source, &p.SourceCidrIp, &p.Ipv6SourceCidrIp)
	put(dest, &p.DestCidrIp, &p.Ipv6DestCidrIp)
	return p
}

// with replaces the given fields. The far end is replaced as a whole, in whichever form it is
// given.
func (p Permission) with(change Permission) Permission {
	over := func(field *string, value string) {
		if value != "" {
			*field = value
		}
	}
	if change.IpProtocol != "" && change.PortRange == "" && !strings.EqualFold(change.IpProtocol, p.IpProtocol) {
		switch strings.ToUpper(change.IpProtocol) {
		case "TCP", "UDP":
		default:
			p.PortRange, p.SourcePortRange = "", ""
		}
	}
	if change.SourceCidrIp+change.Ipv6SourceCidrIp+change.SourceGroupId+change.SourcePrefixListId != "" {
		p.SourceCidrIp, p.Ipv6SourceCidrIp, p.SourceGroupId = change.SourceCidrIp, change.Ipv6SourceCidrIp, change.SourceGroupId
		p.SourcePrefixListId = change.SourcePrefixListId
	}
	if change.DestCidrIp+change.Ipv6DestCidrIp+change.DestGroupId+change.DestPrefixListId != "" {
		p.DestCidrIp, p.Ipv6DestCidrIp, p.DestGroupId = change.DestCidrIp, change.Ipv6DestCidrIp, change.DestGroupId
		p.DestPrefixListId = change.DestPrefixListId
	}
	over(&p.IpProtocol, change.IpProtocol)
	over(&p.PortRange, change.PortRange)
	over(&p.SourcePortRange, change.SourcePortRange)
	over(&p.Policy, change.Policy)
	over(&p.Priority, change.Priority)
	over(&p.NicType, change.NicType)
	over(&p.Description, change.Description)
	return p
}
