//go:build bench

package bench

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"testing"

	"terway.dev/terway/internal/bandwidth"
	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/testutil"
	"terway.dev/terway/internal/vpcsim/fabric"
)

// The VPC's ranges. Each node has a /24 of the pods' vSwitch, and one of a range that the route
// table routes to nodes, for plugins without ENIs.
const (
	vpcCIDR   = "10.0.0.0/14"
	nodesCIDR = "10.0.0.0/16"
	podsCIDR  = "10.1.0.0/16"
	mtu       = 1500
)

// vpc is a set of instances on the fabric of the simulated VPC. This fabric has the lowest
// cost: one eBPF program switches a frame directly to the other instance, without a network
// stack in between. So the cost of a datapath is most visible.
type vpc struct {
	t   testing.TB
	top fabric.Topology
}

func newVPC(t testing.TB) *vpc {
	testutil.RequireRoot(t)
	return &vpc{t: t, top: fabric.Topology{
		VSwitches: []fabric.VSwitch{
			{ID: "nodes", VPC: "vpc", CIDR: netip.MustParsePrefix(nodesCIDR), Gateway: netip.MustParseAddr("10.0.255.253"), RouteTable: "table"},
			{ID: "pods", VPC: "vpc", CIDR: netip.MustParsePrefix(podsCIDR), Gateway: netip.MustParseAddr("10.1.255.253"), RouteTable: "table"},
		},
		RouteTables:    []fabric.RouteTable{{ID: "table", VPC: "vpc"}},
		SecurityGroups: []fabric.SecurityGroup{{ID: "group", InnerAccept: true, AcceptIngress: true, AcceptEgress: true}},
	}}
}

// node is an instance.
type node struct {
	*testutil.NS
	t      testing.TB
	number int
	V4     netip.Addr
	// shared is the ENI for shared addresses, own are the exclusive ENIs.
	shared *datapath.ENI
	own    []datapath.ENI
	// limits are those of pods' bandwidth, by number.
	limits map[int]bandwidth.Limits
	// priorities are those of pods' packets, by number.
	priorities map[int]bandwidth.Priority
	// eniMbit is the total of each ENI; 0: none.
	eniMbit int
}

// node adds an instance with its primary ENI; routed: the VPC's route table routes pods'
// addresses to it.
func (v *vpc) node(routed bool) *node {
	number := len(v.top.Instances) + 1
	n := &node{t: v.t, number: number, V4: netip.AddrFrom4([4]byte{10, 0, 0, byte(number)})}
	port := v.port(n, 0, "nodes", n.V4)
	port.Primary = true
	if routed {
		port.SourceDestCheck = false
		v.top.RouteTables[0].Routes = append(v.top.RouteTables[0].Routes, fabric.Route{Prefix: n.routed(), NextHops: []string{port.ENI}})
	}
	v.top.Instances = append(v.top.Instances, fabric.Instance{ID: fmt.Sprintf("i%d", number), Running: true, Ports: []fabric.Port{port}})
	return n
}

// routed returns the node's range in the route table.
func (n *node) routed() netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 2, byte(n.number), 0}), 24)
}

// pod returns the address of the node's pod with that number, from 1 on.
func (n *node) pod(number int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 1, byte(n.number), byte(number)})
}

// port returns an ENI of the node for the fabric.
func (v *vpc) port(n *node, e int, vswitch string, addresses ...netip.Addr) fabric.Port {
	return fabric.Port{
		ENI: fmt.Sprintf("eni-%d-%d", n.number, e), VPC: "vpc", VSwitch: vswitch, MTU: mtu, SourceDestCheck: true,
		MAC:       [6]byte{0x00, 0x16, 0x3e, 0, byte(n.number), byte(e)},
		Addresses: addresses, SecurityGroups: []string{"group"},
	}
}

// eni adds an ENI to the node, for the pods with these numbers.
func (v *vpc) eni(n *node, pods ...int) datapath.ENI {
	in := &v.top.Instances[n.number-1]
	var addresses []netip.Addr
	for _, p := range pods {
		addresses = append(addresses, n.pod(p))
	}
	port := v.port(n, len(in.Ports), "pods", addresses...)
	in.Ports = append(in.Ports, port)
	return datapath.ENI{
		ID: port.ENI, MAC: port.MAC[:], MTU: mtu,
		CIDRs:    []netip.Prefix{netip.MustParsePrefix(podsCIDR)},
		Gateways: []netip.Addr{netip.MustParseAddr("10.1.255.253")},
	}
}

// open creates everything.
func (v *vpc) open(nodes ...*node) {
	v.t.Helper()
	prefix := fmt.Sprintf("bench%d-", os.Getpid())
	f, err := fabric.New(fabric.Options{Prefix: prefix, Strict: true})
	if err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(func() {
		if err := f.Destroy(); err != nil {
			v.t.Error(err)
		}
	})
	if err := f.Apply(context.Background(), v.top); err != nil {
		v.t.Fatal(err)
	}
	for _, n := range nodes {
		path, err := f.NetNSPath(fmt.Sprintf("i%d", n.number))
		if err != nil {
			v.t.Fatal(err)
		}
		n.NS = testutil.At(v.t, path)
	}
}

// desired returns the node's state for a datapath.
func (n *node) desired(kind string) datapath.Node {
	d := datapath.Node{
		Kind:         kind,
		ENIMbit:      n.eniMbit,
		Addresses:    []netip.Addr{n.V4},
		VPCCIDRs:     []netip.Prefix{netip.MustParsePrefix(vpcCIDR)},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("172.21.0.0/20")},
	}
	if n.shared != nil {
		d.ENIs = []datapath.ENI{*n.shared}
	}
	return d
}
