package alibaba

import (
	"context"
	"encoding/json"
	"net/http"
	"net/netip"
	"slices"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/ecs"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/vpc"

	"terway.dev/terway/internal/cloud"
)

// maxInstances is the maximum number of ids in a DescribeInstances call, and of instances on a
// page (ECS API).
const maxInstances = 100

// DescribeInstances returns the instances that exist.
func (c *Client) DescribeInstances(ctx context.Context, ids []string) ([]cloud.Instance, error) {
	var all []cloud.Instance
	for part := range slices.Chunk(slices.Compact(slices.Sorted(slices.Values(ids))), maxInstances) {
		found, err := c.describeInstances(ctx, part)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

// describeInstances reads at most one page of instances.
func (c *Client) describeInstances(ctx context.Context, ids []string) (found []cloud.Instance, err error) {
	const action = "DescribeInstances"
	if slices.Contains(ids, "") {
		return nil, refuse(action, "no instance id given")
	}
	list, err := json.Marshal(ids)
	if err != nil {
		return nil, refuse(action, "instance ids %q: %v", ids, err)
	}
	rsp, err := call(ctx, c, ecs.CreateDescribeInstancesRequest, ecs.CreateDescribeInstancesResponse, func(r *ecs.DescribeInstancesRequest) {
		r.InstanceIds = string(list)
		r.MaxResults = requests.NewInteger(maxInstances)
	})
	if err != nil {
		return nil, err
	}
	for _, i := range rsp.Instances.Instance {
		if !slices.Contains(ids, i.InstanceId) {
			continue
		}
		found = append(found, cloud.Instance{
			ID:             i.InstanceId,
			Type:           i.InstanceType,
			Zone:           i.ZoneId,
			VPCID:          i.VpcAttributes.VpcId,
			VSwitchID:      i.VpcAttributes.VSwitchId,
			SecurityGroups: i.SecurityGroupIds.SecurityGroupId,
			Status:         i.Status,
			Addresses:      addresses(i.VpcAttributes.PrivateIpAddress.IpAddress),
		})
	}
	return found, nil
}

// addresses returns the valid addresses of a list.
func addresses(list []string) (out []netip.Addr) {
	for _, s := range list {
		if a, err := netip.ParseAddr(s); err == nil {
			out = append(out, a)
		}
	}
	return out
}

// DescribeInstanceType implements cloud.API.
func (c *Client) DescribeInstanceType(ctx context.Context, instanceType string) (*cloud.InstanceType, error) {
	const action = "DescribeInstanceTypes"
	if instanceType == "" {
		return nil, refuse(action, "no instance type given")
	}
	rsp, err := call(ctx, c, ecs.CreateDescribeInstanceTypesRequest, ecs.CreateDescribeInstanceTypesResponse, func(r *ecs.DescribeInstanceTypesRequest) {
		r.InstanceTypes = &[]string{instanceType}
	})
	if err != nil {
		return nil, err
	}
	for _, t := range rsp.InstanceTypes.InstanceType {
		if t.InstanceTypeId == instanceType {
			it, err := convertInstanceType(t)
			if err != nil {
				return nil, badAnswer(action, "%v", err)
			}
			return it, nil
		}
	}
	return nil, absent(action, rsp.RequestId, "InvalidInstanceType.NotFound", "instance type", instanceType)
}

// typesPerPage is the maximum page size of DescribeInstanceTypes (ECS API: MaxResults).
const typesPerPage = 100

// DescribeInstanceTypes lists all instance types of the cloud. progress, if not nil, is called
// with the number read so far.
func (c *Client) DescribeInstanceTypes(ctx context.Context, progress func(n int)) ([]cloud.TypeDescription, error) {
	const action = "DescribeInstanceTypes"
	var all []cloud.TypeDescription
	token := ""
	for {
		rsp, err := call(ctx, c, ecs.CreateDescribeInstanceTypesRequest, ecs.CreateDescribeInstanceTypesResponse, func(r *ecs.DescribeInstanceTypesRequest) {
			r.MaxResults, r.NextToken = requests.NewInteger(typesPerPage), token
		})
		if err != nil {
			return nil, err
		}
		for _, t := range rsp.InstanceTypes.InstanceType {
			d, err := describeType(t)
			if err != nil {
				return nil, badAnswer(action, "%v", err)
			}
			all = append(all, d)
		}
		if progress != nil {
			progress(len(all))
		}
		if rsp.NextToken == token && token != "" {
			return nil, badAnswer(action, "the same page comes again: NextToken %q", token)
		}
		if token = rsp.NextToken; token == "" {
			return all, nil
		}
	}
}

// describeVSwitch returns one vSwitch, by its id.
func (c *Client) describeVSwitch(ctx context.Context, id string) (cloud.VSwitch, error) {
	const action = "DescribeVSwitches"
	if id == "" {
		return cloud.VSwitch{}, refuse(action, "an empty vSwitch id")
	}
	rsp, err := call(ctx, c, vpc.CreateDescribeVSwitchesRequest, vpc.CreateDescribeVSwitchesResponse, func(r *vpc.DescribeVSwitchesRequest) {
		r.VSwitchId = id
		r.PageSize = requests.NewInteger(10)
	})
	if err != nil {
		return cloud.VSwitch{}, err
	}
	for _, v := range rsp.VSwitches.VSwitch {
		if v.VSwitchId == id {
			s, err := convertVSwitch(v)
			if err != nil {
				return cloud.VSwitch{}, badAnswer(action, "%v", err)
			}
			return s, nil
		}
	}
	return cloud.VSwitch{}, absent(action, rsp.RequestId, "InvalidVSwitchId.NotFound", "vSwitch", id)
}

// DescribeVPC implements cloud.API.
func (c *Client) DescribeVPC(ctx context.Context, id string) (*cloud.VPC, error) {
	const action = "DescribeVpcAttribute"
	if id == "" {
		return nil, refuse(action, "no VPC id given")
	}
	rsp, err := call(ctx, c, vpc.CreateDescribeVpcAttributeRequest, vpc.CreateDescribeVpcAttributeResponse, func(r *vpc.DescribeVpcAttributeRequest) {
		r.VpcId = id
	})
	if err != nil {
		return nil, err
	}
	v, err := convertVPC(rsp)
	if err != nil {
		return nil, badAnswer(action, "%v", err)
	}
	return v, nil
}

// absent returns the error for a resource that is not in a list: for an unknown id the cloud
// returns success and an empty list.
func absent(action, requestID, code, what, id string) error {
	return &cloud.Error{Action: action, Code: code, Class: cloud.NotFound, Status: http.StatusOK, RequestID: requestID,
		Message: what + " " + id + " is not among what the cloud lists"}
}
