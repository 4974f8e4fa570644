package lab

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/vpc"
	corev1 "k8s.io/api/core/v1"

	"terway.dev/terway/internal/datapath/claims"
)

// NetworkFlannel installs upstream Flannel from the chart; the controller creates the VPC's
// route entries.
const NetworkFlannel = claims.NetworkFlannel

const (
	// flannelVersion is the version in modules/flannel.
	flannelVersion = "v0.26.7"
	// ImageFlannel is the name of upstream's image.
	ImageFlannel = "ghcr.io/flannel-io/flannel:" + flannelVersion
)

// blockPods returns how many pods a node's block of the pod CIDR can address: all addresses but
// the first, the bridge's and the broadcast address.
func blockPods(bits int) int { return 1<<(32-bits) - 3 }

// flannelTarget builds upstream's program. It needs cgo, because the udp backend does not
// compile without, and Go's own resolver, because a static program would need glibc's
// libraries.
func flannelTarget(modules string) target {
	return target{name: "Flannel " + flannelVersion, dir: modules + "flannel", stamped: true, cgo: true,
		packages: []string{"github.com/flannel-io/flannel"}, out: "bin/flanneld", made: []string{"bin/flanneld"},
		flags: []string{"-tags=netgo,osusergo", "-ldflags=-s -w -extldflags=-static -X github.com/flannel-io/flannel/pkg/version.Version=" + flannelVersion}}
}

// flannelImage has the parts of upstream's image that the alloc backend uses: flanneld and nft.
func (o *Options) flannelImage(ctx context.Context) (image, error) {
	img, err := one("flannel", ImageFlannel, "/opt/bin/flanneld", o.Bin("flanneld"))
	if err != nil {
		return image{}, err
	}
	img.users()
	for name, to := range map[string]string{"nft": "/usr/sbin/nft", "ip": "/usr/sbin/ip"} {
		if err := img.addProgram(ctx, name, to); err != nil {
			return image{}, err
		}
	}
	return img, img.addBusybox(ctx, "ip")
}

// Route is a custom entry of the VPC's system route table.
type Route struct {
	To     netip.Prefix
	Type   string // type of the next hop
	Via    string // id of the next hop
	Status string
	Name   string
}

// Routes returns the custom entries of the VPC's system table.
func (c *Cloud) Routes(ctx context.Context) ([]Route, error) {
	api, table, err := c.systemTable()
	if err != nil {
		return nil, err
	}
	var routes []Route
	token := ""
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		q := vpc.CreateDescribeRouteEntryListRequest()
		q.RouteTableId, q.RouteEntryType = table, "Custom"
		q.MaxResult, q.NextToken = requests.NewInteger(100), token
		r, err := api.vpc.DescribeRouteEntryList(q)
		if err != nil {
			return nil, fmt.Errorf("list the entries of route table %s: %w", q.RouteTableId, err)
		}
		for _, e := range r.RouteEntrys.RouteEntry {
			to, err := netip.ParsePrefix(e.DestinationCidrBlock)
			if err != nil {
				return nil, fmt.Errorf("route entry %s: %w", e.RouteEntryId, err)
			}
			route := Route{To: to, Status: e.Status, Name: e.RouteEntryName}
			for _, hop := range e.NextHops.NextHop {
				route.Type, route.Via = hop.NextHopType, hop.NextHopId
			}
			routes = append(routes, route)
		}
		if token = r.NextToken; token == "" {
			return routes, nil
		}
	}
}

// systemTable returns the VPC's system route table.
func (c *Cloud) systemTable() (api *clients, id string, err error) {
	if api, err = c.clients(); err != nil {
		return nil, "", err
	}
	q := vpc.CreateDescribeRouteTableListRequest()
	q.VpcId, q.RouteTableType = c.VPCID, "System"
	t, err := api.vpc.DescribeRouteTableList(q)
	if err != nil {
		return nil, "", fmt.Errorf("list the route tables of %s: %w", c.VPCID, err)
	}
	if n := len(t.RouterTableList.RouterTableListType); n != 1 {
		return nil, "", fmt.Errorf("VPC %s has %d system route tables, not one", c.VPCID, n)
	}
	return api, t.RouterTableList.RouterTableListType[0].RouteTableId, nil
}

// AddRoute adds an entry for an instance to the VPC's system table, without the controller. The
// cloud refuses it while the VPC is busy.
func (c *Cloud) AddRoute(to netip.Prefix, instanceID, name string) error {
	api, table, err := c.systemTable()
	if err != nil {
		return err
	}
	q := vpc.CreateCreateRouteEntryRequest()
	q.RouteTableId, q.DestinationCidrBlock, q.RouteEntryName = table, to.String(), name
	q.NextHopType, q.NextHopId = "Instance", instanceID
	if _, err := api.vpc.CreateRouteEntry(q); err != nil {
		return fmt.Errorf("add a route entry for %s: %w", to, err)
	}
	return nil
}

// RemoveRoute removes such an entry.
func (c *Cloud) RemoveRoute(to netip.Prefix, instanceID string) error {
	api, table, err := c.systemTable()
	if err != nil {
		return err
	}
	q := vpc.CreateDeleteRouteEntryRequest()
	q.RouteTableId, q.DestinationCidrBlock, q.NextHopId = table, to.String(), instanceID
	if _, err := api.vpc.DeleteRouteEntry(q); err != nil {
		return fmt.Errorf("remove the route entry for %s: %w", to, err)
	}
	return nil
}

// routeTo returns the state of the entry that routes a block to an instance.
func routeTo(routes []Route, block, instanceID string) string {
	for _, r := range routes {
		if r.To.String() == block {
			if r.Via != instanceID {
				return "to " + r.Via
			}
			return r.Status
		}
	}
	return "none"
}

// routed returns what is wrong with the route entry of a node's block, or "".
func (s *State) routed(ctx context.Context) func(*corev1.Node) string {
	return func(n *corev1.Node) string {
		m, err := s.Machine(n.Name)
		if err != nil {
			return err.Error()
		}
		routes, err := s.Cloud.Routes(ctx)
		if err != nil {
			return err.Error()
		}
		if state := routeTo(routes, n.Spec.PodCIDR, m.InstanceID); state != "Available" {
			return fmt.Sprintf("route entry for its block %s: %s", n.Spec.PodCIDR, state)
		}
		return ""
	}
}
