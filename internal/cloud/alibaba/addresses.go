package alibaba

import (
	"context"
	"net/netip"
	"slices"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/ecs"

	"terway.dev/terway/internal/cloud"
)

// AssignAddresses implements cloud.API. If the answer is lost, the call is repeated with the
// same token, which returns the same addresses.
func (c *Client) AssignAddresses(ctx context.Context, eniID string, n int, token string) ([]netip.Addr, error) {
	const action = "AssignPrivateIpAddresses"
	switch {
	case token == "":
		return nil, refuse(action, "without a client token a repeated call would assign twice as many addresses")
	case n < 1 || n > cloud.MaxAddressesPerCall:
		return nil, refuse(action, "%d addresses; one call assigns 1 to %d", n, cloud.MaxAddressesPerCall)
	}
	rsp, err := call(ctx, c, ecs.CreateAssignPrivateIpAddressesRequest, ecs.CreateAssignPrivateIpAddressesResponse, func(r *ecs.AssignPrivateIpAddressesRequest) {
		r.NetworkInterfaceId = eniID
		r.ClientToken = token
		r.SecondaryPrivateIpAddressCount = requests.NewInteger(n)
	})
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	for _, s := range rsp.AssignedPrivateIpAddressesSet.PrivateIpSet.PrivateIpAddress {
		a, err := parseIPv4(s)
		if err != nil {
			return nil, badAnswer(action, "ENI %q: PrivateIpSet: %v", eniID, err)
		}
		addrs = append(addrs, a)
	}
	if len(addrs) == 0 {
		return nil, badAnswer(action, "ENI %q: PrivateIpSet: no address, %d were asked for", eniID, n)
	}
	return addrs, nil
}

// unassignRounds limits how often UnassignAddresses reads the ENI again. A round fails only if
// another client removes addresses from the same ENI in between.
const unassignRounds = 3

// UnassignAddresses implements cloud.API. The cloud refuses the whole call if one address is
// not on the ENI. Then the ENI is read, and the addresses that it has are unassigned.
func (c *Client) UnassignAddresses(ctx context.Context, eniID string, addrs []netip.Addr) error {
	const action = "UnassignPrivateIpAddresses"
	if len(addrs) > cloud.MaxAddressesPerCall {
		return refuse(action, "%d addresses; one call unassigns at most %d", len(addrs), cloud.MaxAddressesPerCall)
	}
	left := slices.Clone(addrs)
	for round := 1; len(left) > 0; round++ {
		_, err := call(ctx, c, ecs.CreateUnassignPrivateIpAddressesRequest, ecs.CreateUnassignPrivateIpAddressesResponse, func(r *ecs.UnassignPrivateIpAddressesRequest) {
			list := make([]string, len(left))
			for i, a := range left {
				list[i] = a.String()
			}
			r.NetworkInterfaceId = eniID
			r.PrivateIpAddress = &list
		})
		switch {
		case err == nil, cloud.CodeOf(err) == "InvalidEniId.NotFound":
			return nil
		case cloud.CodeOf(err) != "InvalidIp.IpUnassigned" || round == unassignRounds:
			return err
		}
		eni, look := c.lookAt(ctx, eniID)
		if look != nil {
			return look
		}
		if eni == nil {
			return nil
		}
		if slices.Contains(left, eni.Primary) {
			return refuse(action, "%s is the primary address of ENI %s, which cannot be unassigned", eni.Primary, eniID)
		}
		left = slices.DeleteFunc(left, func(a netip.Addr) bool { return !slices.Contains(eni.Addresses, a) })
	}
	return nil
}
