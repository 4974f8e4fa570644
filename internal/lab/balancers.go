package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/ecs"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/slb"

	"terway.dev/terway/internal/vpcsim/state"
)

// Balancers returns the load balancers of the simulated cloud as its data plane has them, with
// the weights and the health of backends, unaffected by faults in the API.
func (c *Cloud) Balancers(ctx context.Context) ([]state.Balancer, error) {
	b, err := c.admin(ctx, http.MethodGet, "/view", nil)
	if err != nil {
		return nil, err
	}
	var view struct{ Balancers []state.Balancer }
	if err := json.Unmarshal(b, &view); err != nil {
		return nil, fmt.Errorf("read the simulated cloud's load balancers: %w", err)
	}
	return view.Balancers, nil
}

// Accept makes the security group of nodes and pods accept TCP from a range to a port; port 0 is
// every port of every protocol.
func (c *Cloud) Accept(from netip.Prefix, port int) error {
	api, err := c.clients()
	if err != nil {
		return err
	}
	q := ecs.CreateAuthorizeSecurityGroupRequest()
	q.SecurityGroupId, q.SourceCidrIp = c.SecurityGroupID, from.String()
	q.IpProtocol, q.PortRange = ports(port)
	if _, err := api.ecs.AuthorizeSecurityGroup(q); err != nil {
		return fmt.Errorf("accept %s at port %d in security group %s: %w", from, port, c.SecurityGroupID, err)
	}
	return nil
}

// AcceptNoMore reverts Accept; a rule that is not there is no error.
func (c *Cloud) AcceptNoMore(from netip.Prefix, port int) error {
	api, err := c.clients()
	if err != nil {
		return err
	}
	q := ecs.CreateRevokeSecurityGroupRequest()
	q.SecurityGroupId, q.SourceCidrIp = c.SecurityGroupID, from.String()
	q.IpProtocol, q.PortRange = ports(port)
	if _, err := api.ecs.RevokeSecurityGroup(q); err != nil {
		return fmt.Errorf("accept %s at port %d no more in security group %s: %w", from, port, c.SecurityGroupID, err)
	}
	return nil
}

// ports returns the protocol and the ports of a rule, as the API wants them.
func ports(port int) (protocol, portRange string) {
	if port == 0 {
		return "ALL", "-1/-1"
	}
	return "TCP", fmt.Sprintf("%d/%[1]d", port)
}

// PowerOff stops the instance of a machine, whose processes run on but reach nobody: for the others
// that is like the loss of its power. It returns when it is off.
func (c *Cloud) PowerOff(ctx context.Context, m Machine) error {
	api, err := c.clients()
	if err != nil {
		return err
	}
	q := ecs.CreateStopInstanceRequest()
	q.InstanceId, q.ForceStop = m.InstanceID, requests.NewBoolean(true)
	if _, err := api.ecs.StopInstance(q); err != nil {
		return fmt.Errorf("stop %s (%s): %w", m.Name, m.InstanceID, err)
	}
	return waitPower(ctx, api, m, "Stopped")
}

// PowerOn starts the instance of a machine, if it does not run, and returns when it does.
func (c *Cloud) PowerOn(ctx context.Context, m Machine) (started bool, err error) {
	api, err := c.clients()
	if err != nil {
		return false, err
	}
	now, err := power(api, m)
	if err != nil || now == "Running" {
		return false, err
	}
	if err := waitPower(ctx, api, m, "Stopped"); err != nil {
		return false, err
	}
	q := ecs.CreateStartInstanceRequest()
	q.InstanceId = m.InstanceID
	if _, err := api.ecs.StartInstance(q); err != nil {
		return false, fmt.Errorf("start %s (%s): %w", m.Name, m.InstanceID, err)
	}
	return true, waitPower(ctx, api, m, "Running")
}

func waitPower(ctx context.Context, api *clients, m Machine, want string) error {
	return waitCloud(ctx, "instance "+m.Name+" to be "+want, func() (bool, error) {
		now, err := power(api, m)
		return now == want, err
	})
}

// power returns the status of a machine's instance.
func power(api *clients, m Machine) (string, error) {
	q := ecs.CreateDescribeInstancesRequest()
	q.InstanceIds = fmt.Sprintf("[%q]", m.InstanceID)
	r, err := api.ecs.DescribeInstances(q)
	if err == nil && len(r.Instances.Instance) != 1 {
		err = fmt.Errorf("%d instances, want 1", len(r.Instances.Instance))
	}
	if err != nil {
		return "", fmt.Errorf("status of %s (%s): %w", m.Name, m.InstanceID, err)
	}
	return r.Instances.Instance[0].Status, nil
}

// BalanceNodePort makes a CLB in the VPC whose backends are a NodePort of machines, as the existing manager
// of load balancers does, and returns where it listens, and what removes it.
func (c *Cloud) BalanceNodePort(machines []Machine, nodePort, port uint16) (to netip.AddrPort, remove func() error, err error) {
	api, err := c.clients()
	if err != nil {
		return to, nil, err
	}
	create := slb.CreateCreateLoadBalancerRequest()
	create.AddressType, create.VpcId, create.VSwitchId = "intranet", c.VPCID, c.NodeVSwitches[machines[0].Zone]
	made, err := api.slb.CreateLoadBalancer(create)
	if err != nil {
		return to, nil, fmt.Errorf("make a load balancer: %w", err)
	}
	remove = func() error {
		q := slb.CreateDeleteLoadBalancerRequest()
		q.LoadBalancerId = made.LoadBalancerId
		if _, err := api.slb.DeleteLoadBalancer(q); err != nil {
			return fmt.Errorf("delete load balancer %s: %w", made.LoadBalancerId, err)
		}
		return nil
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("load balancer %s: %w", made.LoadBalancerId, err), remove())
		}
	}()
	type backend struct {
		ServerId     string
		Port, Weight string
	}
	var backends []backend
	for _, m := range machines {
		backends = append(backends, backend{m.InstanceID, fmt.Sprint(nodePort), "100"})
	}
	list, err := json.Marshal(backends)
	if err != nil {
		return to, nil, err
	}
	group := slb.CreateCreateVServerGroupRequest()
	group.LoadBalancerId, group.VServerGroupName, group.BackendServers = made.LoadBalancerId, "nodes", string(list)
	nodes, err := api.slb.CreateVServerGroup(group)
	if err != nil {
		return to, nil, err
	}
	listener := slb.CreateCreateLoadBalancerTCPListenerRequest()
	listener.LoadBalancerId, listener.ListenerPort, listener.VServerGroupId, listener.Bandwidth = made.LoadBalancerId, requests.NewInteger(int(port)), nodes.VServerGroupId, requests.NewInteger(-1)
	if _, err := api.slb.CreateLoadBalancerTCPListener(listener); err != nil {
		return to, nil, err
	}
	start := slb.CreateStartLoadBalancerListenerRequest()
	start.LoadBalancerId, start.ListenerPort, start.ListenerProtocol = made.LoadBalancerId, requests.NewInteger(int(port)), "tcp"
	if _, err := api.slb.StartLoadBalancerListener(start); err != nil {
		return to, nil, err
	}
	addr, err := netip.ParseAddr(made.Address)
	return netip.AddrPortFrom(addr, port), remove, err
}
