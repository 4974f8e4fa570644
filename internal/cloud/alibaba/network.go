package alibaba

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/vpc"

	"terway.dev/terway/internal/cloud"
)

// Calls for "terwayctl vpc" about VPCs and vSwitches. The controller uses only ListVSwitches.

// maxVPCPage is the maximum page size of the lists of the VPC API.
const maxVPCPage = 50

// ListZones returns the ids of the region's zones, sorted.
func (c *Client) ListZones(ctx context.Context) ([]string, error) {
	const action = "DescribeZones"
	rsp, err := call(ctx, c, vpc.CreateDescribeZonesRequest, vpc.CreateDescribeZonesResponse, func(*vpc.DescribeZonesRequest) {})
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, z := range rsp.Zones.Zone {
		if z.ZoneId == "" {
			return nil, badAnswer(action, "a zone without ZoneId")
		}
		ids = append(ids, z.ZoneId)
	}
	if len(ids) == 0 {
		return nil, badAnswer(action, "no zone at all")
	}
	slices.Sort(ids)
	return ids, nil
}

// ListVPCs lists VPCs with their tags. It reads all pages.
func (c *Client) ListVPCs(ctx context.Context, f cloud.VPCFilter) ([]cloud.VPC, error) {
	const action = "DescribeVpcs"
	var tags []vpc.DescribeVpcsTag
	for _, k := range slices.Sorted(maps.Keys(f.Tags)) {
		tags = append(tags, vpc.DescribeVpcsTag{Key: k, Value: f.Tags[k]})
	}
	return pages(func(number int) ([]cloud.VPC, int, error) {
		rsp, err := call(ctx, c, vpc.CreateDescribeVpcsRequest, vpc.CreateDescribeVpcsResponse, func(r *vpc.DescribeVpcsRequest) {
			r.VpcId = f.ID
			if tags != nil {
				r.Tag = &tags
			}
			r.PageNumber, r.PageSize = requests.NewInteger(number), requests.NewInteger(maxVPCPage)
		})
		if err != nil {
			return nil, 0, err
		}
		var all []cloud.VPC
		for _, v := range rsp.Vpcs.Vpc {
			s, err := listedVPC(v)
			if err != nil {
				return nil, 0, badAnswer(action, "%v", err)
			}
			all = append(all, *s)
		}
		return all, rsp.TotalCount, nil
	}, func(v cloud.VPC) string { return v.ID })
}

// ListVSwitches implements cloud.API. The vSwitches have their tags.
func (c *Client) ListVSwitches(ctx context.Context, vpcID string) ([]cloud.VSwitch, error) {
	const action = "DescribeVSwitches"
	if vpcID == "" {
		return nil, refuse(action, "no VPC id given")
	}
	return pages(func(number int) ([]cloud.VSwitch, int, error) {
		rsp, err := call(ctx, c, vpc.CreateDescribeVSwitchesRequest, vpc.CreateDescribeVSwitchesResponse, func(r *vpc.DescribeVSwitchesRequest) {
			r.VpcId = vpcID
			r.PageNumber, r.PageSize = requests.NewInteger(number), requests.NewInteger(maxVPCPage)
		})
		if err != nil {
			return nil, 0, err
		}
		var all []cloud.VSwitch
		for _, v := range rsp.VSwitches.VSwitch {
			s, err := convertVSwitch(v)
			if err != nil {
				return nil, 0, badAnswer(action, "%v", err)
			}
			all = append(all, s)
		}
		return all, rsp.TotalCount, nil
	}, func(v cloud.VSwitch) string { return v.ID })
}

// pages reads a list by page numbers. If others create or delete items in between, an item can
// appear twice.
func pages[T any](page func(number int) (items []T, total int, err error), id func(T) string) ([]T, error) {
	var all []T
	seen := map[string]bool{}
	for number, read := 1, 0; ; number++ {
		items, total, err := page(number)
		if err != nil {
			return nil, err
		}
		for _, i := range items {
			if !seen[id(i)] {
				seen[id(i)] = true
				all = append(all, i)
			}
		}
		if read += len(items); len(items) == 0 || read >= total {
			return all, nil
		}
	}
}

// CreateVPC creates a VPC and returns its id; wait until it is Available. If the answer is
// lost, the call is repeated with the same token, which returns the same VPC.
func (c *Client) CreateVPC(ctx context.Context, want cloud.CreateVPCRequest) (string, error) {
	const action = "CreateVpc"
	if want.Token == "" {
		return "", refuse(action, "without a client token a repeated call would make a second VPC")
	}
	var tags []vpc.CreateVpcTag
	for _, k := range slices.Sorted(maps.Keys(want.Tags)) {
		tags = append(tags, vpc.CreateVpcTag{Key: k, Value: want.Tags[k]})
	}
	rsp, err := call(ctx, c, vpc.CreateCreateVpcRequest, vpc.CreateCreateVpcResponse, func(r *vpc.CreateVpcRequest) {
		r.ClientToken, r.VpcName, r.CidrBlock = want.Token, want.Name, want.CIDR.String()
		if tags != nil {
			r.Tag = &tags
		}
	})
	if err != nil {
		return "", err
	}
	if rsp.VpcId == "" {
		return "", badAnswer(action, "VPC: VpcId: is empty")
	}
	return rsp.VpcId, nil
}

// AddCIDR adds a secondary range to a VPC. A range that the VPC has already is no error.
func (c *Client) AddCIDR(ctx context.Context, vpcID string, cidr netip.Prefix) error {
	_, err := call(ctx, c, vpc.CreateAssociateVpcCidrBlockRequest, vpc.CreateAssociateVpcCidrBlockResponse, func(r *vpc.AssociateVpcCidrBlockRequest) {
		r.VpcId, r.SecondaryCidrBlock = vpcID, cidr.String()
	})
	switch {
	case err == nil:
		return nil
	case cloud.ClassOf(err) == cloud.Invalid || cloud.ClassOf(err) == cloud.Conflict:
		// The action has no token: an earlier attempt of ours may have succeeded.
		if all, look := c.ListVPCs(ctx, cloud.VPCFilter{ID: vpcID}); look == nil && len(all) == 1 && slices.Contains(all[0].CIDRs, cidr) {
			return nil
		}
	}
	return err
}

// DeleteVPC deletes a VPC; one that is gone is no error.
func (c *Client) DeleteVPC(ctx context.Context, id string) error {
	_, err := call(ctx, c, vpc.CreateDeleteVpcRequest, vpc.CreateDeleteVpcResponse, func(r *vpc.DeleteVpcRequest) {
		r.VpcId = id
	})
	if cloud.ClassOf(err) == cloud.NotFound {
		return nil
	}
	return err
}

// CreateVSwitch creates a vSwitch and returns its id; wait until it is Available.
func (c *Client) CreateVSwitch(ctx context.Context, want cloud.CreateVSwitchRequest) (string, error) {
	const action = "CreateVSwitch"
	if want.Token == "" {
		return "", refuse(action, "without a client token a repeated call would make a second vSwitch")
	}
	var tags []vpc.CreateVSwitchTag
	for _, k := range slices.Sorted(maps.Keys(want.Tags)) {
		tags = append(tags, vpc.CreateVSwitchTag{Key: k, Value: want.Tags[k]})
	}
	rsp, err := call(ctx, c, vpc.CreateCreateVSwitchRequest, vpc.CreateCreateVSwitchResponse, func(r *vpc.CreateVSwitchRequest) {
		r.ClientToken, r.VpcId, r.ZoneId, r.VSwitchName, r.CidrBlock = want.Token, want.VPCID, want.Zone, want.Name, want.CIDR.String()
		if tags != nil {
			r.Tag = &tags
		}
	})
	if err != nil {
		return "", err
	}
	if rsp.VSwitchId == "" {
		return "", badAnswer(action, "vSwitch: VSwitchId: is empty")
	}
	return rsp.VSwitchId, nil
}

// DeleteVSwitch starts to delete a vSwitch; one that is gone or being deleted is no error.
func (c *Client) DeleteVSwitch(ctx context.Context, id string) error {
	_, err := call(ctx, c, vpc.CreateDeleteVSwitchRequest, vpc.CreateDeleteVSwitchResponse, func(r *vpc.DeleteVSwitchRequest) {
		r.VSwitchId = id
	})
	if err == nil || cloud.ClassOf(err) == cloud.NotFound {
		return nil
	}
	if v, look := c.describeVSwitch(ctx, id); look == nil && v.Status == cloud.StatusDeleting || cloud.ClassOf(look) == cloud.NotFound {
		return nil
	}
	return fmt.Errorf("vSwitch %s: %w", id, err)
}
