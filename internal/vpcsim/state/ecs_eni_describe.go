package state

import "slices"

// maxFilter is the maximum number of values in a list of DescribeNetworkInterfaces.
const maxFilter = 100

// SelectNetworkInterfaces returns the ids of the ENIs that match, sorted.
func (s *State) SelectNetworkInterfaces(req DescribeNetworkInterfacesRequest) ([]string, error) {
	addrs, err := parseAddrs("PrivateIpAddress", filterCodes, 4, req.PrivateIpAddress)
	if err != nil {
		return nil, err
	}
	addrs6, err := parseAddrs("Ipv6Address", filterCodes, 6, req.Ipv6Address)
	if err != nil {
		return nil, err
	}
	if len(req.PrivateIpAddress) > maxFilter || len(req.Ipv6Address) > maxFilter || len(req.NetworkInterfaceId) > maxFilter {
		return nil, badRequest("InvalidParameter", "At most %d NetworkInterfaceId.N, PrivateIpAddress.N and Ipv6Address.N may be given.", maxFilter)
	}
	switch req.Type {
	case "", ENIPrimary, ENISecondary, ENITrunk, ENIMember:
	default:
		return nil, invalid("Type", req.Type, "Primary, Secondary, Trunk or Member")
	}
	switch NetworkInterfaceStatus(req.Status) {
	// The service has more states than the simulator's ENIs.
	case "", ENICreating, ENIAvailable, ENIAttaching, ENIInUse, ENIDetaching, ENIDeleting,
		"CreateFailed", "Linked", "Linking", "Unlinking":
	default:
		return nil, invalid("Status", req.Status, "a status of a network interface such as Available or InUse")
	}
	found := []string{}
	if req.ServiceManaged {
		return found, nil // only the user creates ENIs here, no service
	}
	narrow := addrs
	if len(narrow) == 0 {
		narrow = addrs6
	}
	for _, e := range s.candidates(req, narrow) {
		inGroup := req.SecurityGroupId == "" || slices.Contains(e.SecurityGroupIds, req.SecurityGroupId)
		if inGroup && isName(req.NetworkInterfaceName, e.NetworkInterfaceName) &&
			is(req.VpcId, e.VpcId) && is(req.VSwitchId, e.VSwitchId) && is(req.InstanceId, e.InstanceId) &&
			is(req.Status, string(e.Status)) && is(req.Type, e.Type) &&
			(req.PrimaryIpAddress == "" || req.PrimaryIpAddress == e.PrimaryIpAddress.String()) &&
			hasAddress(e, addrs) && hasAddress(e, addrs6) && is(req.ResourceGroupId, e.ResourceGroupId) && hasTags(req.Tag, e.Tags) {
			found = append(found, e.NetworkInterfaceId)
		}
	}
	return found, nil
}

// DescribeNetworkInterfaces lists ENIs, by id.
func (s *State) DescribeNetworkInterfaces(req DescribeNetworkInterfacesRequest) ([]NetworkInterface, error) {
	ids, err := s.SelectNetworkInterfaces(req)
	if err != nil {
		return nil, err
	}
	found := make([]NetworkInterface, 0, len(ids))
	for _, id := range ids {
		found = append(found, s.describeENI(s.data.NetworkInterfaces[id]))
	}
	return found, nil
}

// DescribeNetworkInterfaceAttribute returns one ENI.
func (s *State) DescribeNetworkInterfaceAttribute(networkInterfaceId string) (*NetworkInterface, error) {
	eni, err := s.eni(networkInterfaceId)
	if err != nil {
		return nil, err
	}
	c := s.describeENI(eni)
	return &c, nil
}

// describeENI fills in fields that depend on other ENIs.
func (s *State) describeENI(eni *NetworkInterface) NetworkInterface {
	c := eni.clone()
	for _, member := range s.trunkMembers(eni) {
		c.MemberNetworkInterfaceIds = append(c.MemberNetworkInterfaceIds, member.NetworkInterfaceId)
	}
	return c
}
