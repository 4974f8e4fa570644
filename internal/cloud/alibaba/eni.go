package alibaba

import (
	"context"
	"maps"
	"slices"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/ecs"

	"terway.dev/terway/internal/cloud"
)

// The API's limits for DescribeNetworkInterfaces.
const (
	maxPage = 500
	maxIDs  = 100
)

// CreateENI implements cloud.API. If the answer is lost, the call is repeated with the same
// token, which returns the same ENI.
func (c *Client) CreateENI(ctx context.Context, want cloud.CreateENIRequest) (*cloud.ENI, error) {
	const action = "CreateNetworkInterface"
	switch {
	case want.Token == "":
		return nil, refuse(action, "without a client token a repeated call would make a second ENI")
	case want.VSwitchID == "":
		return nil, refuse(action, "no vSwitch given")
	case len(want.SecurityGroups) == 0:
		return nil, refuse(action, "no security group given")
	case want.SecondaryCount < 0 || want.SecondaryCount > 49:
		return nil, refuse(action, "%d secondary addresses; an ENI can be created with 0 to 49", want.SecondaryCount)
	}
	// The order is one of the parameters that the token covers.
	var tags []ecs.CreateNetworkInterfaceTag
	for _, k := range slices.Sorted(maps.Keys(want.Tags)) {
		tags = append(tags, ecs.CreateNetworkInterfaceTag{Key: k, Value: want.Tags[k]})
	}
	rsp, err := call(ctx, c, ecs.CreateCreateNetworkInterfaceRequest, ecs.CreateCreateNetworkInterfaceResponse, func(r *ecs.CreateNetworkInterfaceRequest) {
		r.ClientToken = want.Token
		r.VSwitchId = want.VSwitchID
		r.SecurityGroupIds = &want.SecurityGroups
		r.NetworkInterfaceName = want.Name
		r.Description = want.Description
		// If the instance is released, an attached ENI is deleted with it.
		r.DeleteOnRelease = requests.NewBoolean(true)
		if want.SecondaryCount > 0 {
			r.SecondaryPrivateIpAddressCount = requests.NewInteger(want.SecondaryCount)
		}
		if tags != nil {
			r.Tag = &tags
		}
	})
	if err != nil {
		return nil, err
	}
	eni, err := convertENI(createdENI(rsp))
	if err != nil {
		return nil, badAnswer(action, "%v", err)
	}
	return &eni, nil
}

// AttachENI implements cloud.API. An ENI that is already on this instance is no error.
func (c *Client) AttachENI(ctx context.Context, eniID, instanceID string) error {
	_, err := call(ctx, c, ecs.CreateAttachNetworkInterfaceRequest, ecs.CreateAttachNetworkInterfaceResponse, func(r *ecs.AttachNetworkInterfaceRequest) {
		r.NetworkInterfaceId, r.InstanceId = eniID, instanceID
	})
	switch cloud.ClassOf(err) {
	case cloud.Conflict, cloud.Invalid, cloud.Quota: // the answer for an attached ENI, which our own lost call may have attached
		if eni, look := c.lookAt(ctx, eniID); look == nil && eni != nil && eni.InstanceID == instanceID &&
			(eni.Status == cloud.ENIAttaching || eni.Status == cloud.ENIInUse) {
			return nil
		}
	}
	return err
}

// DetachENI implements cloud.API. An ENI that is gone or not on this instance is no error.
func (c *Client) DetachENI(ctx context.Context, eniID, instanceID string) error {
	_, err := call(ctx, c, ecs.CreateDetachNetworkInterfaceRequest, ecs.CreateDetachNetworkInterfaceResponse, func(r *ecs.DetachNetworkInterfaceRequest) {
		r.NetworkInterfaceId, r.InstanceId = eniID, instanceID
	})
	switch cloud.ClassOf(err) {
	case cloud.NotFound, cloud.Conflict, cloud.Invalid:
		eni, look := c.lookAt(ctx, eniID)
		if look == nil && (eni == nil || eni.InstanceID != instanceID || eni.Status == cloud.ENIAvailable || eni.Status == cloud.ENIDetaching) {
			return nil
		}
	}
	return err
}

// DeleteENI implements cloud.API. An ENI that is gone or being deleted is no error.
func (c *Client) DeleteENI(ctx context.Context, eniID string) error {
	_, err := call(ctx, c, ecs.CreateDeleteNetworkInterfaceRequest, ecs.CreateDeleteNetworkInterfaceResponse, func(r *ecs.DeleteNetworkInterfaceRequest) {
		r.NetworkInterfaceId = eniID
	})
	switch cloud.ClassOf(err) {
	case cloud.NotFound:
		if cloud.CodeOf(err) == "InvalidEniId.NotFound" {
			return nil
		}
	case cloud.Conflict:
		if eni, look := c.lookAt(ctx, eniID); look == nil && (eni == nil || eni.Status == cloud.ENIDeleting) {
			return nil
		}
	}
	return err
}

// lookAt returns an ENI, or nil if it does not exist.
func (c *Client) lookAt(ctx context.Context, eniID string) (*cloud.ENI, error) {
	enis, err := c.DescribeENIs(ctx, cloud.ENIFilter{IDs: []string{eniID}})
	if err != nil || len(enis) == 0 {
		return nil, err
	}
	return &enis[0], nil
}

// DescribeENIs implements cloud.API.
func (c *Client) DescribeENIs(ctx context.Context, f cloud.ENIFilter) ([]cloud.ENI, error) {
	if len(f.IDs) == 0 {
		return c.describeENIs(ctx, f)
	}
	var all []cloud.ENI
	for ids := range slices.Chunk(slices.Compact(slices.Sorted(slices.Values(f.IDs))), maxIDs) {
		part := f
		part.IDs = ids
		enis, err := c.describeENIs(ctx, part)
		if err != nil {
			return nil, err
		}
		all = append(all, enis...)
	}
	return all, nil
}

// describeENIs reads all pages of a query. It requests pages by token; if the endpoint answers
// with page numbers instead, it uses these. If others create or delete ENIs in between, an ENI
// can appear on two pages: the later one is used.
func (c *Client) describeENIs(ctx context.Context, f cloud.ENIFilter) ([]cloud.ENI, error) {
	const action = "DescribeNetworkInterfaces"
	var tags []ecs.DescribeNetworkInterfacesTag
	for _, k := range slices.Sorted(maps.Keys(f.Tags)) {
		tags = append(tags, ecs.DescribeNetworkInterfacesTag{Key: k, Value: f.Tags[k]})
	}
	var (
		enis  []cloud.ENI
		index = map[string]int{}
		token string
		page  int // 0: by token
		size  int
	)
	for {
		rsp, err := call(ctx, c, ecs.CreateDescribeNetworkInterfacesRequest, ecs.CreateDescribeNetworkInterfacesResponse, func(r *ecs.DescribeNetworkInterfacesRequest) {
			r.InstanceId, r.VpcId, r.Type, r.Status = f.InstanceID, f.VPCID, f.Type, string(f.Status)
			if len(f.IDs) > 0 {
				r.NetworkInterfaceId = &f.IDs
			}
			if tags != nil {
				r.Tag = &tags
			}
			if page > 0 {
				r.PageNumber, r.PageSize = requests.NewInteger(page), requests.NewInteger(size)
			} else {
				r.MaxResults, r.NextToken = requests.NewInteger(maxPage), token
			}
		})
		if err != nil {
			return nil, err
		}
		before := len(enis)
		got := rsp.NetworkInterfaceSets.NetworkInterfaceSet
		for _, n := range got {
			eni, err := convertENI(n)
			if err != nil {
				return nil, badAnswer(action, "%v", err)
			}
			if i, seen := index[eni.ID]; seen {
				enis[i] = eni
				continue
			}
			index[eni.ID] = len(enis)
			enis = append(enis, eni)
		}
		switch {
		case rsp.NextToken != "":
			if rsp.NextToken == token {
				return nil, badAnswer(action, "the page after token %q has the same token", token)
			}
			token = rsp.NextToken
		case token == "" && rsp.PageNumber > 0 && len(got) > 0 && len(got) == rsp.PageSize && rsp.TotalCount > len(enis) && len(enis) > before:
			page, size = rsp.PageNumber+1, rsp.PageSize
		default:
			return enis, nil
		}
	}
}
