package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	sdkerrors "github.com/aliyun/alibaba-cloud-sdk-go/sdk/errors"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/ecs"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/slb"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/vpc"
)

// processVPCSim is the name of the simulator's process.
const processVPCSim = "vpcsim"

// startCloud starts the simulator, which keeps the lab's life lock, and reads its addresses from the first line of output.
func (o *Options) startCloud(ctx context.Context, s *State, life *os.File) error {
	log := o.path("log", processVPCSim+".log")
	p, err := o.start(command{name: processVPCSim, log: log, args: o.cloudArgs(), files: []*os.File{life}})
	if err != nil {
		return err
	}
	if err := writeHolder(life, holder{p, o.Dir}); err != nil {
		return fmt.Errorf("record the simulator in %s: %w", life.Name(), err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("the simulated cloud did not print where it listens"))
	defer cancel()
	return Poll(ctx, 20*time.Millisecond, func() (bool, error) {
		b, err := os.ReadFile(log)
		if err != nil {
			return false, fmt.Errorf("read the simulator's first line: %w", err)
		}
		for line := range bytes.Lines(b) {
			if !bytes.HasPrefix(line, []byte("{")) || !bytes.HasSuffix(line, []byte("\n")) {
				continue
			}
			var c Cloud
			if json.Unmarshal(line, &c) == nil && c.Endpoint != "" {
				s.Cloud = c
				s.Cloud.FabricNS = netnsDir + "/" + Prefix + "fabric"
				return true, nil
			}
		}
		if !p.Alive() {
			return false, fmt.Errorf("the simulated cloud ended: %s", tail(log, 15))
		}
		return false, nil
	})
}

// cloudArgs returns the simulator's command.
func (o *Options) cloudArgs() []string {
	return []string{o.self(), "vpcsim", "serve",
		"--listen", "127.0.0.1:0", "--state", o.path("cloud"), "--netns-prefix", Prefix, "-o", "json",
		"--region", o.Plan.Region, "--zones", strings.Join(o.Zones, ","), "--catalogue", o.Catalogue,
		// Operations that Terway waits for take as long as in the real cloud; the lab's own VPC
		// and instances are created at once.
		"--timing", "vpc=0s,vswitch=0s,instance-pending=0s,instance-start=100ms"}
}

// clients are clients of the official SDK for the simulator.
type clients struct {
	ecs *ecs.Client
	vpc *vpc.Client
	slb *slb.Client
}

// clients makes the SDK's clients for the lab's cloud.
func (c *Cloud) clients() (*clients, error) {
	u, err := url.Parse(c.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("endpoint %q of the simulated cloud: %w", c.Endpoint, err)
	}
	e, err := ecs.NewClientWithAccessKey(c.Region, c.AccessKeyID, c.AccessKeySecret)
	if err != nil {
		return nil, fmt.Errorf("make an ECS client: %w", err)
	}
	v, err := vpc.NewClientWithAccessKey(c.Region, c.AccessKeyID, c.AccessKeySecret)
	if err != nil {
		return nil, fmt.Errorf("make a VPC client: %w", err)
	}
	l, err := slb.NewClientWithAccessKey(c.Region, c.AccessKeyID, c.AccessKeySecret)
	if err != nil {
		return nil, fmt.Errorf("make an SLB client: %w", err)
	}
	scheme := strings.ToUpper(u.Scheme)
	e.Domain, v.Domain, l.Domain = u.Host, u.Host, u.Host
	e.GetConfig().WithScheme(scheme)
	v.GetConfig().WithScheme(scheme)
	l.GetConfig().WithScheme(scheme)
	return &clients{ecs: e, vpc: v, slb: l}, nil
}

// runInstances starts an instance for the control plane and one for each node.
func (o *Options) runInstances(ctx context.Context, s *State) error {
	pods, err := o.maxPods()
	if err != nil {
		return err
	}
	s.Master = Machine{Name: masterName, Type: masterType, Zone: o.Zones[0]}
	for i := range o.Nodes {
		s.Machines = append(s.Machines, Machine{
			Name: fmt.Sprintf("node%d", i+1), Type: o.InstanceType, Zone: o.Zones[i%len(o.Zones)],
			MaxPods: pods,
		})
	}
	api, err := s.Cloud.clients()
	if err != nil {
		return err
	}
	all := []*Machine{&s.Master}
	for i := range s.Machines {
		all = append(all, &s.Machines[i])
	}
	for _, m := range all {
		req := ecs.CreateRunInstancesRequest()
		req.InstanceType, req.ZoneId, req.VSwitchId = m.Type, m.Zone, s.Cloud.NodeVSwitches[m.Zone]
		req.SecurityGroupId, req.ImageId = s.Cloud.SecurityGroupID, "debian_12_x64_20G_alibase.vhd"
		req.HostName, req.InstanceName, req.Amount = m.Name, "terway-lab-"+m.Name, requests.NewInteger(1)
		r, err := api.ecs.RunInstances(req)
		if err != nil {
			return fmt.Errorf("run instance %s (%s): %w", m.Name, m.Type, err)
		}
		if len(r.InstanceIdSets.InstanceIdSet) != 1 {
			return fmt.Errorf("run instance %s: the cloud answered %d ids, not one", m.Name, len(r.InstanceIdSets.InstanceIdSet))
		}
		m.InstanceID = r.InstanceIdSets.InstanceIdSet[0]
	}
	for _, m := range all {
		if err := waitCloud(ctx, "instance "+m.Name, func() (bool, error) { return m.running(api) }); err != nil {
			return err
		}
	}
	return nil
}

// running reports whether the instance runs, and stores its address.
func (m *Machine) running(api *clients) (bool, error) {
	q := ecs.CreateDescribeInstancesRequest()
	q.InstanceIds = fmt.Sprintf("[%q]", m.InstanceID)
	r, err := api.ecs.DescribeInstances(q)
	if err != nil || len(r.Instances.Instance) != 1 || r.Instances.Instance[0].Status != "Running" {
		return false, err
	}
	addrs := r.Instances.Instance[0].VpcAttributes.PrivateIpAddress.IpAddress
	if len(addrs) != 1 {
		return false, fmt.Errorf("instance %s has %d private addresses, not one", m.InstanceID, len(addrs))
	}
	if m.Address, err = netip.ParseAddr(addrs[0]); err != nil {
		return false, fmt.Errorf("instance %s: %w", m.InstanceID, err)
	}
	// The fabric names the namespace after the host, or after the instance if it has no host
	// name.
	for _, name := range []string{m.Name, m.InstanceID} {
		m.NetNS = netnsDir + "/" + Prefix + name
		if _, err := os.Stat(m.NetNS); err == nil {
			return true, nil
		}
	}
	return false, fmt.Errorf("instance %s runs but has no network namespace %s{%s,%s}", m.InstanceID, netnsDir+"/"+Prefix, m.Name, m.InstanceID)
}

// waitCloud polls the cloud; operations of the simulated cloud take seconds at most.
func waitCloud(ctx context.Context, what string, f func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("the cloud took more than a minute"))
	defer cancel()
	if err := Poll(ctx, 50*time.Millisecond, f); err != nil {
		return fmt.Errorf("wait for %s: %w", what, err)
	}
	return nil
}

// AddressCount returns the number of addresses on the secondary ENIs of an instance.
func (c *Cloud) AddressCount(ctx context.Context, instanceID string) (int, error) {
	enis, err := c.ENIs(ctx, instanceID)
	n := 0
	for _, e := range enis {
		if e.Type != "Primary" {
			n += len(e.Addresses)
		}
	}
	return n, err
}

// ENI is an ENI as the cloud describes it.
type ENI struct {
	ID, MAC, Type, Status string
	Addresses             []string
}

// ENIs returns the ENIs of an instance.
func (c *Cloud) ENIs(ctx context.Context, instanceID string) ([]ENI, error) {
	api, err := c.clients()
	if err != nil {
		return nil, err
	}
	var enis []ENI
	token := ""
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		q := ecs.CreateDescribeNetworkInterfacesRequest()
		q.InstanceId, q.MaxResults, q.NextToken = instanceID, requests.NewInteger(100), token
		r, err := api.ecs.DescribeNetworkInterfaces(q)
		var refused *sdkerrors.ServerError
		if errors.As(err, &refused) && strings.HasPrefix(refused.ErrorCode(), "Throttling") {
			// The lab and its controller share the account's rate limit.
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list the interfaces of %s: %w", instanceID, err)
		}
		for _, s := range r.NetworkInterfaceSets.NetworkInterfaceSet {
			e := ENI{ID: s.NetworkInterfaceId, MAC: s.MacAddress, Type: s.Type, Status: s.Status}
			for _, a := range s.PrivateIpSets.PrivateIpSet {
				e.Addresses = append(e.Addresses, a.PrivateIpAddress)
			}
			enis = append(enis, e)
		}
		if token = r.NextToken; token == "" {
			return enis, nil
		}
	}
}

// CustomRoutes returns the number of custom entries in the VPC's route tables, which count
// against the quota.
func (c *Cloud) CustomRoutes(ctx context.Context) (int, error) {
	api, err := c.clients()
	if err != nil {
		return 0, err
	}
	tables := vpc.CreateDescribeRouteTableListRequest()
	tables.VpcId, tables.PageSize = c.VPCID, requests.NewInteger(50)
	list, err := api.vpc.DescribeRouteTableList(tables)
	if err != nil {
		return 0, fmt.Errorf("list the route tables of %s: %w", c.VPCID, err)
	}
	n := 0
	for _, t := range list.RouterTableList.RouterTableListType {
		token := ""
		for {
			if err := ctx.Err(); err != nil {
				return 0, err
			}
			q := vpc.CreateDescribeRouteEntryListRequest()
			q.RouteTableId, q.RouteEntryType, q.MaxResult, q.NextToken = t.RouteTableId, "Custom", requests.NewInteger(100), token
			r, err := api.vpc.DescribeRouteEntryList(q)
			if err != nil {
				return 0, fmt.Errorf("list the entries of route table %s: %w", t.RouteTableId, err)
			}
			n += len(r.RouteEntrys.RouteEntry)
			if token = r.NextToken; token == "" {
				break
			}
		}
	}
	return n, nil
}
