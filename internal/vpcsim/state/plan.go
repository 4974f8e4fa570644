package state

import (
	"fmt"
	"net/netip"
	"slices"
)

// wish is the addresses that a call requests from a vSwitch: named ones, and a number of
// others.
type wish struct {
	Named4       []netip.Addr
	More4        int
	NamedPrefix  []netip.Prefix
	MorePrefixes int
	Named6       []netip.Addr
	More6        int
	// Codes are the action's error codes for addresses.
	Codes addressCodes
	// PrimaryNamed: the first of Named4 becomes the ENI's primary address. Otherwise it is the
	// first that the service chooses.
	PrimaryNamed bool
}

// chosen are the addresses for a wish, named ones first. They are not assigned yet.
type chosen struct {
	Addrs    []netip.Addr
	Prefixes []netip.Prefix
	Addrs6   []netip.Addr
}

// addressCodes are an action's errors for an address that is malformed, repeated, or in use.
// They differ from action to action in the service's documentation.
type addressCodes struct{ Malformed, Repeated, Taken refusal }

// refusal is a status and a code.
type refusal struct {
	Status int
	Code   string
}

func (r refusal) because(format string, args ...any) *Error {
	return &Error{r.Status, r.Code, fmt.Sprintf(format, args...)}
}

var (
	createCodes = addressCodes{
		Malformed: refusal{403, "InvalidIp.Address"}, Repeated: refusal{400, "InvalidPrivateIpAddress.Duplicated"}, Taken: refusal{403, "InvalidIp.IpRepeated"},
	}
	assignCodes = addressCodes{
		Malformed: refusal{400, "InvalidParameter"}, Repeated: refusal{400, "InvalidParameter"}, Taken: refusal{403, "InvalidIp.IpAssigned"},
	}
	assign6Codes = addressCodes{
		Malformed: refusal{403, "InvalidIp.Address"}, Repeated: refusal{400, "InvalidPrivateIpAddress.Duplicated"}, Taken: refusal{403, "InvalidIp.IpAssigned"},
	}
	unassign6Codes = addressCodes{Malformed: refusal{403, "InvalidIp.Address"}, Repeated: refusal{403, "InvalidIp.IpRepeated"}}
	// instanceCodes are for RunInstances and CreateInstance.
	instanceCodes = addressCodes{
		Malformed: refusal{400, "InvalidIp.Address"}, Repeated: refusal{400, "InvalidPrivateIpAddress.Duplicated"}, Taken: refusal{403, "InvalidIp.IpAssigned"},
	}
	// filterCodes are for Describe actions, which accept repetitions.
	filterCodes = addressCodes{Malformed: refusal{400, "InvalidParameter"}}
)

// parseWish parses the address parameters that several actions share.
func parseWish(codes addressCodes, named4 []string, more4 int, namedPrefix []string, morePrefixes int, named6 []string, more6 int) (wish, error) {
	w := wish{Codes: codes}
	var err error
	switch {
	case len(named4) > 0 && more4 > 0:
		return w, badRequest("InvalidParameter", "PrivateIpAddress.N and SecondaryPrivateIpAddressCount cannot both be given.")
	case len(namedPrefix) > 0 && morePrefixes > 0:
		return w, badRequest("InvalidParameter", "Ipv4Prefix.N and Ipv4PrefixCount cannot both be given.")
	case len(named6) > 0 && more6 > 0:
		return w, badRequest("InvalidParameter", "Ipv6Address.N and Ipv6AddressCount cannot both be given.")
	case more4 < 0 || more4 > maxSecondary:
		return w, badRequest("InvalidParameter", "The specified SecondaryPrivateIpAddressCount is not valid: %d, expected 1 to %d.", more4, maxSecondary)
	case len(namedPrefix) > 10 || morePrefixes < 0 || morePrefixes > 10:
		return w, badRequest("InvalidParameter", "At most 10 IPv4 prefixes may be given.")
	case len(named6) > 10 || more6 < 0 || more6 > 10:
		return w, badRequest("InvalidParameter", "At most 10 IPv6 addresses may be given.")
	}
	if w.Named4, err = parseAddrs("PrivateIpAddress", codes, 4, named4); err != nil {
		return w, err
	}
	if w.Named6, err = parseAddrs("Ipv6Address", codes, 6, named6); err != nil {
		return w, err
	}
	if w.NamedPrefix, err = parsePrefixes(namedPrefix); err != nil {
		return w, err
	}
	w.More4, w.MorePrefixes, w.More6 = more4, morePrefixes, more6
	return w, nil
}

func parsePrefixes(texts []string) ([]netip.Prefix, error) {
	prefixes := make([]netip.Prefix, 0, len(texts))
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if err != nil || !p.Addr().Is4() || p.Bits() != prefixBits || p != p.Masked() {
			return nil, badRequest("InvalidParameter", "The specified Ipv4Prefix is not valid: %q, expected an IPv4 /%d.", text, prefixBits)
		}
		if slices.Contains(prefixes, p) {
			return nil, badRequest("InvalidParameter", "The specified Ipv4Prefix is duplicated: %s.", p)
		}
		prefixes = append(prefixes, p)
	}
	return prefixes, nil
}

// slots4 returns how many slots of an ENI's IPv4 quota a wish uses.
func (w wish) slots4() int {
	return len(w.Named4) + w.More4 + len(w.NamedPrefix) + w.MorePrefixes
}

func (w wish) slots6() int { return len(w.Named6) + w.More6 }

// addresses4 returns how many IPv4 addresses of its vSwitch a wish uses.
func (w wish) addresses4() int {
	return len(w.Named4) + w.More4 + prefixSize*(len(w.NamedPrefix)+w.MorePrefixes)
}

// choose selects addresses for a wish, or returns why it cannot.
func (s *State) choose(v *VSwitch, w wish) (chosen, error) {
	var c chosen
	if v.Status != StatusAvailable {
		return c, badRequest("IncorrectVSwitchStatus", "The status of vSwitch %s does not support this operation: %s.", v.VSwitchId, v.Status)
	}
	used := s.pool(v.VSwitchId).holder
	named := slices.Clone(w.Named4)
	for _, p := range w.NamedPrefix {
		named = append(named, membersOf(p)...)
	}
	for i, a := range named {
		if !usable(v.CidrBlock, a) {
			return c, forbidden("InvalidVSwitchId.IpInvalid", "The specified IP address %s cannot be used in VSwitch %q (%s).", a, v.VSwitchId, v.CidrBlock)
		}
		if used[a] != "" || slices.Contains(named[:i], a) {
			return c, w.Codes.Taken.because("The specified IP address %s has been assigned already.", a)
		}
	}
	if w.slots6() > 0 && !v.Ipv6CidrBlock.IsValid() {
		return c, forbidden("InvalidVSwitch.Ipv6NotTurnOn", "VSwitch %q has no IPv6 range.", v.VSwitchId)
	}
	for _, a := range w.Named6 {
		if !usable6(v.Ipv6CidrBlock, a) {
			return c, forbidden("InvalidVSwitchId.IpInvalid", "The specified IP address %s cannot be used in VSwitch %q (%s).", a, v.VSwitchId, v.Ipv6CidrBlock)
		}
		if used[a] != "" {
			return c, w.Codes.Taken.because("The specified IP address %s has been assigned already.", a)
		}
	}
	full := forbidden("InvalidVSwitchId.IpNotEnough", "The specified VSwitch %q has not enough IpAddress.", v.VSwitchId)
	if w.addresses4() > 0 {
		if v.Full {
			return c, full
		}
		if held, most := s.privateIPs(v.VpcId), s.options.Limits.PrivateIPsPerVPC; held+w.addresses4() > most {
			return c, badRequest("QuotaExceeded.PrivateIpAddress", "VPC %s holds %d private IP addresses; with %d more it would have over %d.", v.VpcId, held, w.addresses4(), most)
		}
	}
	picked, ok := s.pick(v, w.More4, named)
	if !ok {
		return c, full
	}
	prefixes, ok := s.pickPrefixes(v, w.MorePrefixes, slices.Concat(named, picked))
	if !ok {
		return c, full
	}
	// Random numbers are used last: a call that fails must not advance the generator.
	return chosen{
		Addrs:    slices.Concat(w.Named4, picked),
		Prefixes: slices.Concat(w.NamedPrefix, prefixes),
		Addrs6:   slices.Concat(w.Named6, s.pick6(v, w.More6, w.Named6)),
	}, nil
}

// privateIPs returns the number of IPv4 addresses that the resources of a VPC have.
func (s *State) privateIPs(vpcID string) int {
	n := 0
	for _, v := range s.vSwitchesOf(vpcID) {
		n += s.pool(v.VSwitchId).held4
	}
	return n
}

// give assigns the chosen addresses to an ENI.
func (s *State) give(eni *NetworkInterface, c chosen) {
	v := s.data.VSwitches[eni.VSwitchId]
	s.alter(eni, func() {
		eni.PrivateIpAddresses = append(eni.PrivateIpAddresses, c.Addrs...)
		eni.Ipv4Prefixes = append(eni.Ipv4Prefixes, c.Prefixes...)
		eni.Ipv6Addresses = append(eni.Ipv6Addresses, c.Addrs6...)
	})
	taken := slices.Concat(c.Addrs, c.Addrs6)
	for _, p := range c.Prefixes {
		taken = append(taken, membersOf(p)...)
	}
	s.take(v, eni.NetworkInterfaceId, taken)
}

// slots4 and slots6 return how many slots of its quotas an ENI uses.
func (e *NetworkInterface) slots4() int { return len(e.PrivateIpAddresses) + len(e.Ipv4Prefixes) }
func (e *NetworkInterface) slots6() int { return len(e.Ipv6Addresses) }
