package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"

	"github.com/aliyun/alibaba-cloud-sdk-go/services/ecs"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/vpc"

	"terway.dev/terway/internal/vpcsim/faults"
)

// Changes in the cloud without Terway, as by the cloud itself or by other users.

// AddFault makes calls to the simulated cloud fail until RemoveFault.
func (c *Cloud) AddFault(ctx context.Context, r faults.Rule) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode the fault %s: %w", r.Name, err)
	}
	_, err = c.admin(ctx, http.MethodPost, "/faults", b)
	return err
}

// RemoveFault removes the fault with that name; a missing one is no error.
func (c *Cloud) RemoveFault(ctx context.Context, name string) error {
	b, err := c.admin(ctx, http.MethodGet, "/faults", nil)
	if err != nil {
		return err
	}
	var rules []struct{ Name string }
	if err := json.Unmarshal(b, &rules); err != nil {
		return fmt.Errorf("read the simulated cloud's faults: %w", err)
	}
	for _, r := range rules {
		if r.Name == name {
			_, err := c.admin(ctx, http.MethodDelete, "/faults?name="+url.QueryEscape(name), nil)
			return err
		}
	}
	return nil
}

// Attached returns the addresses of all attached ENIs, with the instance of each, unaffected by
// faults in the API.
func (c *Cloud) Attached(ctx context.Context) (map[netip.Addr]string, error) {
	b, err := c.admin(ctx, http.MethodGet, "/view", nil)
	if err != nil {
		return nil, err
	}
	var view struct { // as in package vpcsim/state
		Instances []struct {
			InstanceId        string
			NetworkInterfaces []struct{ PrivateIpAddresses []netip.Addr }
		}
	}
	if err := json.Unmarshal(b, &view); err != nil {
		return nil, fmt.Errorf("read the simulated cloud's state: %w", err)
	}
	of := map[netip.Addr]string{}
	for _, i := range view.Instances {
		for _, e := range i.NetworkInterfaces {
			for _, a := range e.PrivateIpAddresses {
				of[a] = i.InstanceId
			}
		}
	}
	return of, nil
}

// admin calls the simulator's admin endpoint.
func (c *Cloud) admin(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, method, c.Endpoint+"/_admin"+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("ask the simulated cloud: %w", err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, fmt.Errorf("ask the simulated cloud: %w", err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", answer.Status, bytes.TrimSpace(b))
	}
	if err != nil {
		return nil, fmt.Errorf("ask the simulated cloud: %s %s: %w", method, path, err)
	}
	return b, nil
}

// DetachENI detaches an ENI from its instance.
func (c *Cloud) DetachENI(id, instanceID string) error {
	api, err := c.clients()
	if err != nil {
		return err
	}
	q := ecs.CreateDetachNetworkInterfaceRequest()
	q.NetworkInterfaceId, q.InstanceId = id, instanceID
	if _, err := api.ecs.DetachNetworkInterface(q); err != nil {
		return fmt.Errorf("detach %s from %s: %w", id, instanceID, err)
	}
	return nil
}

// UnassignAddress removes a secondary address from an ENI.
func (c *Cloud) UnassignAddress(eni, addr string) error {
	api, err := c.clients()
	if err != nil {
		return err
	}
	q := ecs.CreateUnassignPrivateIpAddressesRequest()
	q.NetworkInterfaceId, q.PrivateIpAddress = eni, &[]string{addr}
	if _, err := api.ecs.UnassignPrivateIpAddresses(q); err != nil {
		return fmt.Errorf("unassign %s from %s: %w", addr, eni, err)
	}
	return nil
}

// AddVSwitch creates a vSwitch in the lab's VPC.
func (c *Cloud) AddVSwitch(zone string, in netip.Prefix, name string) (id string, err error) {
	api, err := c.clients()
	if err != nil {
		return "", err
	}
	q := vpc.CreateCreateVSwitchRequest()
	q.VpcId, q.ZoneId, q.CidrBlock, q.VSwitchName = c.VPCID, zone, in.String(), name
	r, err := api.vpc.CreateVSwitch(q)
	if err != nil {
		return "", fmt.Errorf("make a vSwitch of %s in %s: %w", in, zone, err)
	}
	return r.VSwitchId, nil
}

// VSwitch returns the id of the vSwitch with that name; "" if there is none.
func (c *Cloud) VSwitch(name string) (id string, err error) {
	api, err := c.clients()
	if err != nil {
		return "", err
	}
	q := vpc.CreateDescribeVSwitchesRequest()
	q.VpcId, q.VSwitchName = c.VPCID, name
	r, err := api.vpc.DescribeVSwitches(q)
	if err != nil {
		return "", fmt.Errorf("look for the vSwitch %s: %w", name, err)
	}
	for _, v := range r.VSwitches.VSwitch {
		if v.VSwitchName == name {
			return v.VSwitchId, nil
		}
	}
	return "", nil
}

// RemoveVSwitch deletes an empty vSwitch.
func (c *Cloud) RemoveVSwitch(id string) error {
	api, err := c.clients()
	if err != nil {
		return err
	}
	q := vpc.CreateDeleteVSwitchRequest()
	q.VSwitchId = id
	if _, err := api.vpc.DeleteVSwitch(q); err != nil {
		return fmt.Errorf("delete vSwitch %s: %w", id, err)
	}
	return nil
}
