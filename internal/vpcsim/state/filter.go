package state

import (
	"net/netip"
	"path"
	"slices"
	"strings"
)

func (v *VPC) clone() VPC {
	c := *v
	c.SecondaryCidrBlocks = slices.Clone(v.SecondaryCidrBlocks)
	c.UserCidrs = slices.Clone(v.UserCidrs)
	c.RouteTableIds = slices.Clone(v.RouteTableIds)
	c.VSwitchIds = slices.Clone(v.VSwitchIds)
	c.Tags = slices.Clone(v.Tags)
	return c
}

func (v *VSwitch) clone() VSwitch {
	c := *v
	c.Tags = slices.Clone(v.Tags)
	return c
}

func (t *RouteTable) clone() RouteTable {
	c := *t
	c.VSwitchIds = slices.Clone(t.VSwitchIds)
	c.RouteEntries = make([]RouteEntry, 0, len(t.RouteEntries))
	for _, e := range t.RouteEntries {
		e.NextHops = slices.Clone(e.NextHops)
		c.RouteEntries = append(c.RouteEntries, e)
	}
	c.Tags = slices.Clone(t.Tags)
	return c
}

func (e *NetworkInterface) clone() NetworkInterface {
	c := *e
	c.PrivateIpAddresses = slices.Clone(e.PrivateIpAddresses)
	c.Ipv4Prefixes = slices.Clone(e.Ipv4Prefixes)
	c.Ipv6Addresses = slices.Clone(e.Ipv6Addresses)
	c.SecurityGroupIds = slices.Clone(e.SecurityGroupIds)
	c.MemberNetworkInterfaceIds = slices.Clone(e.MemberNetworkInterfaceIds)
	c.Tags = slices.Clone(e.Tags)
	return c
}

func (i *Instance) clone() Instance {
	c := *i
	c.SecurityGroupIds = slices.Clone(i.SecurityGroupIds)
	c.Tags = slices.Clone(i.Tags)
	c.NetworkInterfaces = nil
	return c
}

func (g *SecurityGroup) clone() SecurityGroup {
	c := *g
	c.Rules = slices.Clone(g.Rules)
	c.Tags = slices.Clone(g.Tags)
	return c
}

// is reports whether a filter is absent or equals the value.
func is(filter, value string) bool { return filter == "" || filter == value }

// isBool is is for yes and no, isNot for what nothing here is.
func isBool(filter *bool, value bool) bool { return filter == nil || *filter == value }
func isNot(filter *bool) bool              { return isBool(filter, false) }

// isName is is for names, where "*" stands for anything.
func isName(filter, value string) bool {
	if !strings.Contains(filter, "*") {
		return is(filter, value)
	}
	ok, err := path.Match(strings.ReplaceAll(filter, "?", "\\?"), strings.ReplaceAll(value, "/", "_"))
	return err == nil && ok
}

// isOneOf reports whether a filter list is empty or contains the value.
func isOneOf(filter []string, value string) bool {
	return len(filter) == 0 || slices.Contains(filter, value)
}

// list splits the comma-separated ids that VPC's Describe actions take.
func list(s string) []string {
	var all []string
	for _, part := range strings.Split(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			all = append(all, part)
		}
	}
	return all
}

// hasTags reports whether a resource has all tags of a filter; an empty value matches any.
func hasTags(filter, tags []Tag) bool {
	for _, want := range filter {
		found := slices.ContainsFunc(tags, func(t Tag) bool {
			return t.Key == want.Key && (want.Value == "" || t.Value == want.Value)
		})
		if !found {
			return false
		}
	}
	return true
}

// hasAddress reports whether an ENI holds one of the given addresses; an empty filter matches.
func hasAddress(eni *NetworkInterface, filter []netip.Addr) bool {
	if len(filter) == 0 {
		return true
	}
	return slices.ContainsFunc(filter, func(a netip.Addr) bool {
		return slices.Contains(eni.PrivateIpAddresses, a) || slices.Contains(eni.Ipv6Addresses, a) ||
			slices.ContainsFunc(eni.Ipv4Prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
	})
}

// parseAddrs parses a list of addresses of one family (4 or 6).
func parseAddrs(parameter string, codes addressCodes, family int, texts []string) ([]netip.Addr, error) {
	addrs := make([]netip.Addr, 0, len(texts))
	for _, text := range texts {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Is4() != (family == 4) || a.Zone() != "" {
			return nil, codes.Malformed.because("The specified parameter %q is not valid: %q, expected an IPv%d address.", parameter, text, family)
		}
		if slices.Contains(addrs, a) {
			if codes.Repeated.Code == "" {
				continue
			}
			return nil, codes.Repeated.because("Specified private IP address is duplicated: %s.", a)
		}
		addrs = append(addrs, a)
	}
	return addrs, nil
}
