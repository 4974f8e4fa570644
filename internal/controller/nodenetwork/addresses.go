package nodenetwork

import (
	"net/netip"
	"slices"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cloud"
)

// spec returns an ENI's record by its token, nil if there is none.
func (w *work) spec(token string) *v1alpha1.ENI {
	for i := range w.nn.Spec.ENIs {
		if w.nn.Spec.ENIs[i].Token == token {
			return &w.nn.Spec.ENIs[i]
		}
	}
	return nil
}

// address returns an address of an ENI's record, nil if it has none.
func (w *work) address(token, address string) *v1alpha1.Address {
	e := w.spec(token)
	if e == nil {
		return nil
	}
	for i := range e.Addresses {
		if e.Addresses[i].Address == address {
			return &e.Addresses[i]
		}
	}
	return nil
}

func has(e *v1alpha1.ENI, a netip.Addr) bool {
	return slices.ContainsFunc(e.Addresses, func(x v1alpha1.Address) bool { return parse(x.Address) == a })
}

// fill writes what the cloud returned for an ENI into its record.
func fill(s *v1alpha1.NodeNetworkSpec, e *v1alpha1.ENI, c *cloud.ENI, seg segment) {
	e.ID, e.MAC, e.VSwitchID, e.CIDRs, e.Gateways = c.ID, c.MAC, c.VSwitchID, seg.cidrs, seg.gateways
	e.PrimaryAddress = c.Primary.String()
	claim(s, e, c.Addresses)
}

// claim adds addresses that the cloud has assigned to an ENI. The cloud may reassign an address as
// soon as it is free, so another ENI's record may still have it if the process was killed before it
// was dropped there: claim drops it.
func claim(s *v1alpha1.NodeNetworkSpec, e *v1alpha1.ENI, addrs []netip.Addr) {
	for i := range s.ENIs {
		if o := &s.ENIs[i]; o.Token != e.Token {
			o.Addresses = slices.DeleteFunc(o.Addresses, func(x v1alpha1.Address) bool { return slices.Contains(addrs, parse(x.Address)) })
		}
	}
	for _, a := range addrs {
		if !has(e, a) {
			e.Addresses = append(e.Addresses, v1alpha1.Address{Address: a.String()})
		}
	}
}

// parse parses an address of the spec. The API server's schema accepts only addresses; the zero
// address matches nothing.
func parse(a string) netip.Addr {
	addr, err := netip.ParseAddr(a)
	if err != nil {
		return netip.Addr{}
	}
	return addr
}
