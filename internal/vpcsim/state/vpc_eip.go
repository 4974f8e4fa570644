package state

import (
	"cmp"
	"net/netip"
	"time"
)

// EIP is a public address of the account. It can be the address of a zone of a network load
// balancer, and cannot be associated with anything else.
type EIP struct {
	AllocationId       string
	Name               string
	Description        string
	IpAddress          netip.Addr
	Bandwidth          string // Mbit/s, as given; default 5
	InternetChargeType string
	InstanceChargeType string
	ISP                string
	ResourceGroupId    string
	AllocationTime     time.Time

	// InstanceId is filled in results: the load balancer that has the address.
	InstanceId string `json:",omitempty"`
}

// Status returns the status of an EIP in a result.
func (e *EIP) Status() string {
	if e.InstanceId != "" {
		return StatusInUse
	}
	return StatusAvailable
}

// eipRange is the range of EIPs: TEST-NET-3 of RFC 5737, which is not used on the internet.
var eipRange = netip.MustParsePrefix("203.0.113.0/24")

// AllocateEipAddress allocates a public address to the account.
func (s *State) AllocateEipAddress(req AllocateEipAddressRequest) (*EIP, error) {
	return once(s, "Vpc:AllocateEipAddress", req.ClientToken, req, func() (*EIP, error) {
		most := min(s.options.Limits.EIPs, sizeOf(eipRange)-2)
		if n := len(s.data.EIPs); n >= most {
			return nil, badRequest("QuotaExceeded.Eip", "The account has %d EIPs, the most it may have.", n)
		}
		taken := map[netip.Addr]bool{}
		for _, e := range s.data.EIPs {
			taken[e.IpAddress] = true
		}
		next := addrAt(eipRange, 1)
		for taken[next] {
			next = next.Next()
		}
		if req.IpAddress != "" {
			a, err := netip.ParseAddr(req.IpAddress)
			if err != nil || taken[a] || a.Compare(addrAt(eipRange, 1)) < 0 || a.Compare(addrAt(eipRange, sizeOf(eipRange)-2)) > 0 {
				return nil, invalid("IpAddress", req.IpAddress, "a free address of "+eipRange.String())
			}
			next = a
		}
		e := &EIP{
			AllocationId: s.newID(idEIP), Name: req.Name, Description: req.Description, IpAddress: next,
			Bandwidth: cmp.Or(req.Bandwidth, "5"), InternetChargeType: cmp.Or(req.InternetChargeType, "PayByBandwidth"),
			InstanceChargeType: cmp.Or(req.InstanceChargeType, "PostPaid"), ISP: cmp.Or(req.ISP, "BGP"),
			ResourceGroupId: req.ResourceGroupId, AllocationTime: s.now(),
		}
		s.data.EIPs[e.AllocationId] = e
		s.changed()
		c := *e
		return &c, nil
	})
}

func (s *State) eip(id string) (*EIP, error) {
	if id == "" {
		return nil, missing("AllocationId")
	}
	e, ok := s.data.EIPs[id]
	if !ok {
		return nil, notFound("InvalidAllocationId.NotFound", "The specified AllocationId %q does not exist.", id)
	}
	return e, nil
}

// ReleaseEipAddress releases a public address that nothing uses.
func (s *State) ReleaseEipAddress(req ReleaseEipAddressRequest) error {
	e, err := s.eip(req.AllocationId)
	if err != nil {
		return err
	}
	if user := s.index.public[e.IpAddress]; user != "" {
		return badRequest("IncorrectEipStatus", "EIP %s is InUse: %s has it.", e.AllocationId, user)
	}
	delete(s.data.EIPs, e.AllocationId)
	s.changed()
	return nil
}

// AssociateEipAddress is refused: actions on load balancers associate EIPs.
func (s *State) AssociateEipAddress(req AssociateEipAddressRequest) error {
	e, err := s.eip(req.AllocationId)
	if err != nil {
		return err
	}
	return badRequest("UnsupportedOperation", "EIP %s can be associated only with a zone of a network load balancer, by the actions of NLB.", e.AllocationId)
}

// UnassociateEipAddress is refused, as AssociateEipAddress.
func (s *State) UnassociateEipAddress(req AssociateEipAddressRequest) error {
	e, err := s.eip(req.AllocationId)
	if err != nil {
		return err
	}
	if user := s.index.public[e.IpAddress]; user != "" {
		return badRequest("UnsupportedOperation", "EIP %s is of %s, which only the actions of NLB change.", e.AllocationId, user)
	}
	return badRequest("IncorrectEipStatus", "EIP %s is Available: it is not associated.", e.AllocationId)
}

// DescribeEipAddresses lists EIPs, by id.
func (s *State) DescribeEipAddresses(req DescribeEipAddressesRequest) ([]EIP, error) {
	found := []EIP{}
	for _, id := range sortedKeys(s.data.EIPs) {
		e := *s.data.EIPs[id]
		e.InstanceId = s.index.public[e.IpAddress]
		if isOneOf(list(req.AllocationId), id) && isOneOf(list(req.EipAddress), e.IpAddress.String()) && is(req.EipName, e.Name) &&
			is(req.Status, e.Status()) && is(req.AssociatedInstanceId, e.InstanceId) && is(req.ResourceGroupId, e.ResourceGroupId) {
			found = append(found, e)
		}
	}
	return found, nil
}
