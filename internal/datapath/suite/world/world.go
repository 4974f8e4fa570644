package world

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/testutil"
)

// Addresses of the World; pods have addresses from 192.168.40.0/21 on.
const (
	VPCCIDR     = "192.168.0.0/16"
	ServiceCIDR = "172.21.0.0/20"
	// ServiceCIDR6 is configured only in datapaths that need it.
	ServiceCIDR6 = "fd00:21::/112"
	NodeGW       = "192.168.31.253"
	PodGW        = "192.168.63.253"
	PodGW6       = "2001:db8:1::fd"
	NodeGW6      = "2001:db8:0::fd"
	OutsideV4    = "203.0.113.10"
	OutsideV6    = "2001:db8:ffff::10"
)

// World is a small VPC of namespaces: Fabric is a router that delivers by address and drops a
// source that is not the port's, as the cloud does; each node has eth0 (its own address) and ENIs
// eth1… (without addresses, as hot-plugged); Outside is a host outside the VPC. Nothing is learned:
// addresses are assigned explicitly.
type World struct {
	t       testing.TB
	kit     Kit
	Fabric  *testutil.NS
	Outside *testutil.NS
	Nodes   []*Node
}

// Node is a node with the datapath under test.
type Node struct {
	*testutil.NS
	w      *World
	number int
	V4, V6 netip.Addr
	DP     Subject
	// Desired is the desired node of the datapath; a test may change it.
	Desired datapath.Node
	pods    int
}

// Pod is a pod's namespace and the datapath's description of it.
type Pod struct {
	*testutil.NS
	Spec   datapath.Pod
	V4, V6 netip.Addr
	Node   *Node
	Wiring datapath.Wiring
	// Port is the fabric's device behind the pod's ENI.
	Port string
}

// NewWorld makes nodes with ENIs and the datapath under test, which has not run yet.
func (k Kit) NewWorld(t testing.TB, nodes, enis int) *World {
	t.Helper()
	testutil.RequireRoot(t)
	w := &World{t: t, kit: k, Fabric: testutil.NewNS(t, "fabric"), Outside: testutil.NewNS(t, "outside")}
	f := w.Fabric
	for _, s := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		f.Sysctl(s, "1")
	}
	f.Sysctl("ipv6/conf/default/accept_dad", "0")
	f.Sysctl("ipv4/conf/all/send_redirects", "0")
	f.Sysctl("ipv4/conf/default/send_redirects", "0")
	f.NFT(`table inet vpc {
		set allowed4 { type ifname . ipv4_addr; }
		set allowed6 { type ifname . ipv6_addr; }
		counter strict { }
		counter crossed { }
		chain in {
			type filter hook prerouting priority raw;
			ip saddr 192.168.32.0/19 counter name crossed
			ip6 saddr 2001:db8:1::/64 counter name crossed
			iifname "outside" accept
			iifname . ip saddr @allowed4 accept
			iifname . ip6 saddr @allowed6 accept
			ip6 saddr fe80::/10 accept
			ip6 saddr ::/128 accept
			counter name strict drop
		}
	}`)
	f.IPs(
		"addr add "+NodeGW+"/32 dev lo",
		"addr add "+PodGW+"/32 dev lo",
		"link add outside type veth peer name eth0 netns "+w.Outside.Name,
		"link set outside up",
		"route add 0.0.0.0/0 dev outside",
		"route add ::/0 dev outside",
		"addr add 203.0.113.1/32 dev outside",
		"addr add 2001:db8:ffff::1/128 dev outside nodad",
		"route add "+OutsideV4+"/32 dev outside",
		"route add "+OutsideV6+"/128 dev outside")
	w.Outside.IPs(
		"link set eth0 up",
		"addr add "+OutsideV4+"/32 dev eth0",
		"addr add "+OutsideV6+"/128 dev eth0 nodad",
		"route add 0.0.0.0/0 via 203.0.113.1 dev eth0 onlink",
		"route add ::/0 via 2001:db8:ffff::1 dev eth0 onlink")
	for i := range nodes {
		w.addNode(i, enis)
	}
	return w
}

func (w *World) addNode(i, enis int) *Node {
	w.t.Helper()
	n := &Node{
		NS: testutil.NewNS(w.t, fmt.Sprintf("node%d", i)), w: w, number: i,
		V4: netip.MustParseAddr(fmt.Sprintf("192.168.0.%d", 11+i)),
		V6: netip.MustParseAddr(fmt.Sprintf("2001:db8:0::%x", 0x11+i)),
	}
	w.Nodes = append(w.Nodes, n)
	for e := range enis + 1 {
		n.Plug(e)
	}
	n.Sysctl("ipv6/conf/eth0/accept_dad", "0")
	n.IPs(
		"link set eth0 up",
		fmt.Sprintf("addr add %s/32 dev eth0", n.V4),
		fmt.Sprintf("addr add %s/128 dev eth0 nodad", n.V6),
		"route add 0.0.0.0/0 via "+NodeGW+" dev eth0 onlink",
		"route add ::/0 via "+NodeGW6+" dev eth0 onlink")
	w.awaitPort(n.Port(0))
	w.Assign(n, 0, n.V4, n.V6)

	n.Desired = datapath.Node{
		Addresses:    []netip.Addr{n.V4, n.V6},
		VPCCIDRs:     []netip.Prefix{netip.MustParsePrefix(VPCCIDR), netip.MustParsePrefix("2001:db8::/40")},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix(ServiceCIDR)},
	}
	if w.kit.Exclusive { // routing by address needs all of them
		n.Desired.ServiceCIDRs = append(n.Desired.ServiceCIDRs, netip.MustParsePrefix(ServiceCIDR6))
	}
	n.Desired.Kind, n.Desired.ENIMbit = w.kit.Kind, w.kit.ENIMbit
	for e := range enis {
		n.Desired.ENIs = append(n.Desired.ENIs, n.ENI(e+1))
	}
	n.DP = n.NewDatapath()
	return n
}

// Plug adds an ENI to the node as eth<e>, down and without an address.
func (n *Node) Plug(e int) {
	n.w.t.Helper()
	f, port := n.w.Fabric, n.Port(e)
	f.IP(fmt.Sprintf("link add %s type veth peer name eth%d address %s netns %s", port, e, n.MAC(e), n.Name))
	f.Sysctl("ipv4/conf/"+port+"/rp_filter", "0")
	gw := PodGW6
	if e == 0 {
		gw = NodeGW6
	}
	f.IPs("link set "+port+" up", "addr add "+gw+"/128 dev "+port+" nodad")
}

// Port returns the fabric's device behind eth<e>.
func (n *Node) Port(e int) string { return fmt.Sprintf("n%de%d", n.number, e) }

// MAC returns the MAC of eth<e>.
func (n *Node) MAC(e int) net.HardwareAddr {
	return net.HardwareAddr{0x00, 0x16, 0x3e, 0, byte(n.number), byte(e)}
}

// ENI returns eth<e> as the datapath's ENI.
func (n *Node) ENI(e int) datapath.ENI {
	return datapath.ENI{
		ID: fmt.Sprintf("eni-n%de%d", n.number, e), MAC: n.MAC(e), Device: fmt.Sprintf("eth%d", e),
		CIDRs:    []netip.Prefix{netip.MustParsePrefix("192.168.32.0/19"), netip.MustParsePrefix("2001:db8:1::/64")},
		Gateways: []netip.Addr{netip.MustParseAddr(PodGW), netip.MustParseAddr(PodGW6)},
	}
}

// NewDatapath makes a new datapath, as a restart of the agent does.
func (n *Node) NewDatapath() Subject {
	n.w.t.Helper()
	dp, err := n.w.kit.New(Options{NetNS: n.Path, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		n.w.t.Fatal(err)
	}
	n.w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := dp.Close(ctx); err != nil {
			n.w.t.Error(err)
		}
	})
	return dp
}

// Assign assigns addresses to an ENI in the VPC.
func (w *World) Assign(n *Node, e int, addrs ...netip.Addr) {
	w.t.Helper()
	var ip []string
	var nft strings.Builder
	for _, a := range addrs {
		set := "allowed4"
		if a.Is6() {
			set = "allowed6"
		}
		ip = append(ip, fmt.Sprintf("route replace %s dev %s", a, n.Port(e)),
			fmt.Sprintf("neigh replace %s lladdr %s dev %s nud permanent", a, n.MAC(e), n.Port(e)))
		fmt.Fprintf(&nft, "add element inet vpc %s { %q . %s }\n", set, n.Port(e), a)
	}
	w.Fabric.IPs(ip...)
	w.Fabric.NFT(nft.String())
}

// firstOwn is the number before those of exclusive ENIs.
const firstOwn = 100

// Describe prepares a pod with its namespace and addresses, not wired.
func (n *Node) Describe(e int, families ...string) *Pod {
	n.w.t.Helper()
	return n.describe(n.w.kit.Kind, n.w.kit.Exclusive, e, families)
}

// DescribeShared is Describe for a pod of another kind, which shares eth<e>.
func (n *Node) DescribeShared(kind string, e int, families ...string) *Pod {
	n.w.t.Helper()
	return n.describe(kind, false, e, families)
}

func (n *Node) describe(kind string, exclusive bool, e int, families []string) *Pod {
	n.w.t.Helper()
	n.pods++
	if exclusive {
		e = firstOwn + n.pods
		n.Plug(e)
	}
	p := &Pod{NS: testutil.NewNS(n.w.t, fmt.Sprintf("pod%d-%d", n.number, n.pods)), Node: n, Port: n.Port(e)}
	p.V4 = netip.MustParseAddr(fmt.Sprintf("192.168.%d.%d", 40+8*n.number+n.pods/250, 1+n.pods%250))
	p.V6 = netip.MustParseAddr(fmt.Sprintf("2001:db8:1::%x:%x", n.number+1, n.pods))
	p.Spec = datapath.Pod{
		Sandbox: "sandbox-" + p.Name, IfName: "eth0", NetNS: p.Path, Namespace: "default", Name: p.Name,
		ENI: n.MAC(e).String(), Kind: kind, Limits: n.w.kit.Limits,
	}
	if exclusive {
		eni := n.ENI(e)
		eni.Device = "" // its name may have changed
		p.Spec.Exclusive = &eni
	}
	if len(families) == 0 {
		families = []string{"4"}
	}
	if slices.Contains(families, "4") {
		p.Spec.Addresses = append(p.Spec.Addresses, p.V4)
	}
	if slices.Contains(families, "6") {
		p.Spec.Addresses = append(p.Spec.Addresses, p.V6)
	}
	n.w.Assign(n, e, p.Spec.Addresses...)
	return p
}

// AddPod makes a pod on eth<e> and wires it; without families it has IPv4.
func (n *Node) AddPod(e int, families ...string) *Pod {
	n.w.t.Helper()
	p := n.Describe(e, families...)
	p.Add()
	return p
}

// Add wires the pod.
func (p *Pod) Add() {
	t := p.Node.w.t
	t.Helper()
	w, err := p.Node.DP.AddPod(context.Background(), p.Node.Desired, p.Spec)
	if err != nil {
		t.Fatalf("AddPod: %v", err)
	}
	p.Wiring = w
	p.Spec.State = datapath.Wired
	p.Node.w.awaitPort(p.Port)
}

// awaitPort waits until the fabric's end of an ENI is active. The kernel activates it some time
// after the ENI is up, from a work queue, and packets that it sends until then are lost, which is
// not the datapath's fault.
func (w *World) awaitPort(port string) {
	w.t.Helper()
	for deadline := time.Now().Add(Patience); ; time.Sleep(time.Millisecond) {
		var link netlink.Link
		if err := w.Fabric.Do(func() (err error) { link, err = netlink.LinkByName(port); return err }); err != nil {
			w.t.Fatalf("the fabric's device %s: %v", port, err)
		}
		if link.Attrs().OperState == netlink.OperUp {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("the fabric's device %s is %s: is the ENI down?", port, link.Attrs().OperState)
		}
	}
}

// Del unwires it.
func (p *Pod) Del() {
	t := p.Node.w.t
	t.Helper()
	if err := p.Node.DP.DelPod(context.Background(), p.Spec); err != nil {
		t.Fatalf("DelPod: %v", err)
	}
}

// Sync must succeed and returns the repairs.
func (n *Node) Sync(pods ...*Pod) []string {
	n.w.t.Helper()
	repairs, err := n.TrySync(pods...)
	if err != nil {
		n.w.t.Fatalf("Sync: %v (repairs %q)", err, repairs)
	}
	return repairs
}

// TrySync may fail.
func (n *Node) TrySync(pods ...*Pod) ([]string, error) {
	var list []datapath.Pod
	for _, p := range pods {
		list = append(list, p.Spec)
	}
	done, err := n.DP.Sync(context.Background(), n.Desired, list)
	var repairs []string
	for _, r := range done {
		repairs = append(repairs, r.What)
	}
	return repairs, err
}

// Forget flushes the node's connection tracking, as if its entries had expired.
func (n *Node) Forget() {
	n.w.t.Helper()
	if err := n.Do(func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) }); err != nil {
		n.w.t.Fatalf("forget the connections of %s: %v", n.Name, err)
	}
}

// Settle waits for background deletions.
func (n *Node) Settle() {
	n.w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := n.DP.Settle(ctx); err != nil {
		n.w.t.Fatal(err)
	}
}

// Spoofed is DP.Spoofed, which must succeed.
func (n *Node) Spoofed() uint64 {
	n.w.t.Helper()
	count, err := n.DP.Spoofed()
	if err != nil {
		n.w.t.Fatal(err)
	}
	return count
}

// LeftFile is what stays at a namespace's path when a runtime is killed after it unmounted the
// namespace and before it removed the file.
func LeftFile(t testing.TB) string {
	path := filepath.Join(t.TempDir(), "netns")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
