package state

import (
	"net/http"
	"slices"
)

// assignable returns an error if an ENI's addresses cannot be changed now.
func assignable(eni *NetworkInterface) error {
	if !eni.free() && eni.Status != ENIInUse {
		return invalidState(eni)
	}
	return nil
}

// missing403 is missing for actions that answer with 403.
func missing403(parameter string) *Error {
	e := missing(parameter)
	e.HTTPStatus = http.StatusForbidden
	return e
}

// maxNamedPerCall is the maximum number of addresses that are named in one call of Assign or
// Unassign.
const maxNamedPerCall = 32

// AssignPrivateIpAddresses adds secondary addresses or prefixes to an ENI.
func (s *State) AssignPrivateIpAddresses(req AssignPrivateIpAddressesRequest) (*AssignPrivateIpAddressesResult, error) {
	return once(s, "Ecs:AssignPrivateIpAddresses", req.ClientToken, req, func() (*AssignPrivateIpAddressesResult, error) {
		eni, err := s.eni(req.NetworkInterfaceId)
		if err != nil {
			return nil, err
		}
		w, err := parseWish(assignCodes, req.PrivateIpAddress, req.SecondaryPrivateIpAddressCount, req.Ipv4Prefix, req.Ipv4PrefixCount, nil, 0)
		if err != nil {
			return nil, err
		}
		addresses, prefixes := len(w.Named4)+w.More4, len(w.NamedPrefix)+w.MorePrefixes
		switch {
		case addresses+prefixes == 0:
			return nil, missing403("PrivateIpAddress.N, SecondaryPrivateIpAddressCount, Ipv4Prefix.N or Ipv4PrefixCount")
		case addresses > 0 && prefixes > 0:
			return nil, badRequest("UnsupportedParameter", "Private IP addresses and IPv4 prefixes cannot be assigned in one call.")
		case len(w.Named4) > maxNamedPerCall:
			return nil, badRequest("InvalidParameter", "At most %d PrivateIpAddress.N may be given, not %d.", maxNamedPerCall, len(w.Named4))
		}
		if err := assignable(eni); err != nil {
			return nil, err
		}
		if err := s.checkENIQuota(eni, eni.slots4()+w.slots4(), 0); err != nil {
			return nil, err
		}
		if err := s.checkGroupRoom(eni.SecurityGroupIds, w.slots4()); err != nil {
			return nil, err
		}
		c, err := s.choose(s.data.VSwitches[eni.VSwitchId], w)
		if err != nil {
			return nil, err
		}
		s.give(eni, c)
		s.changed()
		return &AssignPrivateIpAddressesResult{
			NetworkInterfaceId: eni.NetworkInterfaceId,
			PrivateIpAddress:   slices.Clone(c.Addrs), Ipv4Prefix: slices.Clone(c.Prefixes),
		}, nil
	})
}

// UnassignPrivateIpAddresses removes secondary addresses and prefixes from an ENI, all of them
// or none.
func (s *State) UnassignPrivateIpAddresses(req UnassignPrivateIpAddressesRequest) error {
	eni, err := s.eni(req.NetworkInterfaceId)
	if err != nil {
		return err
	}
	if len(req.PrivateIpAddress)+len(req.Ipv4Prefix) == 0 {
		return missing403("PrivateIpAddress.N or Ipv4Prefix.N")
	}
	if len(req.PrivateIpAddress) > maxNamedPerCall {
		return badRequest("InvalidParameter", "At most %d PrivateIpAddress.N may be given, not %d.", maxNamedPerCall, len(req.PrivateIpAddress))
	}
	addrs, err := parseAddrs("PrivateIpAddress", assignCodes, 4, req.PrivateIpAddress)
	if err != nil {
		return err
	}
	prefixes, err := parsePrefixes(req.Ipv4Prefix)
	if err != nil {
		return err
	}
	if err := assignable(eni); err != nil {
		return err
	}
	for _, a := range addrs {
		// The primary address cannot be unassigned.
		if a == eni.PrimaryIpAddress || !slices.Contains(eni.PrivateIpAddresses, a) {
			return forbidden("InvalidIp.IpUnassigned", "The specified IP address %s is not a secondary address of network interface %q.", a, eni.NetworkInterfaceId)
		}
	}
	for _, p := range prefixes {
		if !slices.Contains(eni.Ipv4Prefixes, p) {
			return forbidden("InvalidIp.IpUnassigned", "The specified prefix %s is not one of network interface %q.", p, eni.NetworkInterfaceId)
		}
	}
	s.alter(eni, func() {
		eni.PrivateIpAddresses = without(eni.PrivateIpAddresses, addrs)
		eni.Ipv4Prefixes = without(eni.Ipv4Prefixes, prefixes)
	})
	s.giveBack(eni.VSwitchId, addrs)
	for _, p := range prefixes {
		s.giveBack(eni.VSwitchId, membersOf(p))
	}
	s.changed()
	return nil
}

// without returns all but some; an empty rest is nil, as in a new ENI.
func without[T comparable](all, some []T) []T {
	rest := slices.DeleteFunc(all, func(x T) bool { return slices.Contains(some, x) })
	if len(rest) == 0 {
		return nil
	}
	return rest
}

// AssignIpv6Addresses adds IPv6 addresses to an ENI.
func (s *State) AssignIpv6Addresses(req AssignIpv6AddressesRequest) (*AssignIpv6AddressesResult, error) {
	return once(s, "Ecs:AssignIpv6Addresses", req.ClientToken, req, func() (*AssignIpv6AddressesResult, error) {
		if len(req.Ipv6Prefix) > 0 || req.Ipv6PrefixCount > 0 {
			return nil, noIpv6Prefixes()
		}
		eni, err := s.eni(req.NetworkInterfaceId)
		if err != nil {
			return nil, err
		}
		w, err := parseWish(assign6Codes, nil, 0, nil, 0, req.Ipv6Address, req.Ipv6AddressCount)
		if err != nil {
			return nil, err
		}
		if w.slots6() == 0 {
			return nil, missing403("Ipv6Address.N or Ipv6AddressCount")
		}
		if err := assignable(eni); err != nil {
			return nil, err
		}
		if err := s.checkENIQuota(eni, 0, eni.slots6()+w.slots6()); err != nil {
			return nil, err
		}
		c, err := s.choose(s.data.VSwitches[eni.VSwitchId], w)
		if err != nil {
			return nil, err
		}
		s.give(eni, c)
		s.changed()
		return &AssignIpv6AddressesResult{NetworkInterfaceId: eni.NetworkInterfaceId, Ipv6Address: slices.Clone(c.Addrs6)}, nil
	})
}

// UnassignIpv6Addresses removes IPv6 addresses from an ENI, all of them or none.
func (s *State) UnassignIpv6Addresses(req UnassignIpv6AddressesRequest) error {
	if len(req.Ipv6Prefix) > 0 {
		return noIpv6Prefixes()
	}
	eni, err := s.eni(req.NetworkInterfaceId)
	if err != nil {
		return err
	}
	if len(req.Ipv6Address) == 0 {
		return missing403("Ipv6Address.N")
	}
	addrs, err := parseAddrs("Ipv6Address", unassign6Codes, 6, req.Ipv6Address)
	if err != nil {
		return err
	}
	if err := assignable(eni); err != nil {
		return err
	}
	for _, a := range addrs {
		if !slices.Contains(eni.Ipv6Addresses, a) {
			return forbidden("InvalidIp.IpUnassigned", "The specified IP address %s is not one of network interface %q.", a, eni.NetworkInterfaceId)
		}
	}
	eni.Ipv6Addresses = without(eni.Ipv6Addresses, addrs)
	s.giveBack(eni.VSwitchId, addrs)
	s.changed(eni.NetworkInterfaceId)
	return nil
}
