package lab

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/utils/clock"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/cloud/alibaba"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/plan"
	"terway.dev/terway/internal/provision"
)

// planName is the name of the lab's network without a plan.
const planName = "terway-lab"

// propose makes the plan of a lab without one, by the user guide's recommendations.
func (o *Options) propose(types *catalog.Catalog) (*plan.Plan, error) {
	p, err := plan.Propose(plan.Request{
		Name: planName, Region: Region, Zones: o.Zones, Network: o.planNetwork(), Mode: o.planMode(),
		Nodes: plan.Nodes{Count: o.Nodes, InstanceTypes: []string{o.InstanceType}}, Types: types,
	})
	if err != nil {
		return nil, fmt.Errorf("plan the lab's network: %w", err)
	}
	return p, nil
}

// planNetwork returns the network that the VPC is planned for. A lab without a network is for
// installing one by hand.
func (o *Options) planNetwork() string {
	if o.Network == NetworkNone {
		return claims.NetworkTerway
	}
	return o.Network
}

// planMode returns the mode of the plan; it is empty with Flannel, which has no modes.
func (o *Options) planMode() string {
	if o.planNetwork() == claims.NetworkFlannel {
		return ""
	}
	return o.Mode
}

// UsePlan sets the lab's network and related options from a plan. Nodes, InstanceType, Network
// and Mode stay if they are set.
func (o *Options) UsePlan(p *plan.Plan) {
	o.Plan = p
	o.Zones = nil
	for _, z := range p.Zones {
		o.Zones = append(o.Zones, z.ID)
	}
	if o.Nodes == 0 {
		o.Nodes = p.Nodes.Count
	}
	if o.InstanceType == "" {
		o.InstanceType = p.Nodes.InstanceTypes[0]
	}
	if o.Network == "" {
		o.Network = p.Network
	}
	if o.Mode == "" {
		o.Mode = p.Mode
	}
}

// checkPlan reports what the lab does not support in a valid plan.
func (o *Options) checkPlan() error {
	p := o.Plan
	switch {
	case p.Network != o.planNetwork():
		return fmt.Errorf("--network %s: the plan is for %s", o.Network, p.Network)
	case p.Mode != o.planMode():
		return fmt.Errorf("--mode %s: the plan is for mode %s", o.Mode, p.Mode)
	case p.Prefixes:
		return fmt.Errorf("--plan: prefixes: the lab has single addresses only")
	case o.Nodes > p.Nodes.Max:
		return fmt.Errorf("--nodes %d: the plan has room for %d", o.Nodes, p.Nodes.Max)
	}
	return nil
}

// serviceIP returns the nth address of the Service range.
func (o *Options) serviceIP(n int) netip.Addr {
	a := o.Plan.ServiceCIDR.Addr()
	for range n {
		a = a.Next()
	}
	return a
}

// apiServiceIP returns the first address of the Service range, like Kubernetes.
func (o *Options) apiServiceIP() netip.Addr { return o.serviceIP(1) }

func (o *Options) dnsServiceIP() netip.Addr { return o.serviceIP(10) }

// Env returns the environment that programs on this machine need to reach the cluster and the
// cloud.
func (s *State) Env() [][2]string {
	c := &s.Cloud
	return [][2]string{
		{"PATH", s.path()},
		{"KUBECONFIG", s.Options.Kubeconfig()},
		{"ECS_ENDPOINT", c.Endpoint}, {"VPC_ENDPOINT", c.Endpoint}, {"SLB_ENDPOINT", c.Endpoint}, {"NLB_ENDPOINT", c.Endpoint},
		{"ALIBABA_CLOUD_REGION_ID", c.Region},
		{"ALIBABA_CLOUD_ACCESS_KEY_ID", c.AccessKeyID}, {"ALIBABA_CLOUD_ACCESS_KEY_SECRET", c.AccessKeySecret},
	}
}

// path returns the caller's PATH with the lab's terway-lab, terwayctl, kubectl and helm first.
func (s *State) path() string {
	bin := s.Options.path("bin")
	rest := slices.DeleteFunc(filepath.SplitList(os.Getenv("PATH")), func(d string) bool { return d == bin })
	return strings.Join(append([]string{bin}, rest...), string(filepath.ListSeparator))
}

// PlanFile returns the path of the lab's plan; "terwayctl vpc grow" rewrites it.
func (o *Options) PlanFile() string { return o.path("plan.yaml") }

// provisioner returns a provisioner for the lab's cloud.
func (c *Cloud) provisioner() (*provision.Provisioner, error) {
	client, err := alibaba.New(alibaba.Config{Region: c.Region, ECSEndpoint: c.Endpoint, VPCEndpoint: c.Endpoint,
		Credentials: alibaba.StaticCredentials(c.AccessKeyID, c.AccessKeySecret)})
	if err != nil {
		return nil, fmt.Errorf("make a client for the simulated cloud: %w", err)
	}
	return &provision.Provisioner{Cloud: client, Region: c.Region, Clock: clock.RealClock{}, Say: func(string) {},
		Poll: 50 * time.Millisecond, Patience: time.Minute, Settle: time.Second}, nil
}

// createVPC creates the network of the plan.
func (o *Options) createVPC(ctx context.Context, s *State) error {
	file := provision.PlanFile{Path: o.PlanFile()}
	if err := file.Save(o.Plan); err != nil {
		return err
	}
	p, err := s.Cloud.provisioner()
	if err != nil {
		return err
	}
	n, _, err := p.Apply(ctx, o.Plan)
	if err != nil {
		return fmt.Errorf("make the network of %s: %w", o.PlanFile(), err)
	}
	s.Cloud.VPCID = n.VPC.ID
	s.Cloud.NodeVSwitches, s.Cloud.PodVSwitches = map[string]string{}, map[string][]string{}
	for _, z := range o.Plan.Zones {
		s.Cloud.NodeVSwitches[z.ID] = n.ByCIDR(z.Node.CIDR).ID
		for _, v := range z.Pods {
			s.Cloud.PodVSwitches[z.ID] = append(s.Cloud.PodVSwitches[z.ID], n.ByCIDR(v.CIDR).ID)
		}
	}
	for _, g := range n.Groups {
		if g.Own {
			s.Cloud.SecurityGroupID = g.ID
		}
	}
	return nil
}

// PodRanges returns the ranges of the Pod vSwitches from the cloud: the VPC may have grown
// since the lab was started.
func (c *Cloud) PodRanges(ctx context.Context) ([]netip.Prefix, error) {
	p, err := c.provisioner()
	if err != nil {
		return nil, err
	}
	n, err := p.ShowVPC(ctx, c.VPCID)
	if err != nil {
		return nil, err
	}
	var all []netip.Prefix
	for _, v := range n.VSwitches {
		if v.Role == provision.RolePod {
			all = append(all, v.CIDR)
		}
	}
	return all, nil
}
