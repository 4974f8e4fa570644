package route

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/testutil"
)

// A small VPC out of namespaces: `fabric` is a router that delivers by address
// and drops a source which is not the port's, as the cloud does; each node has
// eth0 (its own address) and ENIs eth1… (bare, as hot-plugged); `outside` is a
// host beyond the VPC. Nothing in it learns: who has an address is told to it.

const (
	vpcCIDR     = "192.168.0.0/16"
	serviceCIDR = "172.21.0.0/20"
	nodeGW      = "192.168.31.253"
	podGW       = "192.168.63.253"
	podGW6      = "2001:db8:1::fd"
	nodeGW6     = "2001:db8:0::fd"
	outsideIP   = "203.0.113.10"
	outsideIP6  = "2001:db8:ffff::10"
)

type world struct {
	t       testing.TB
	fabric  *testutil.NS
	outside *testutil.NS
	nodes   []*testNode
}

type testNode struct {
	*testutil.NS
	w       *world
	number  int
	ip, ip6 netip.Addr
	dp      *Datapath
	node    datapath.Node
	pods    int
}

type testPod struct {
	*testutil.NS
	pod      datapath.Pod
	ip, ip6  netip.Addr
	node     *testNode
	wiring   datapath.Wiring
	eniIndex int
}

func newWorld(t testing.TB, nodes, enis int) *world {
	t.Helper()
	testutil.RequireRoot(t)
	w := &world{t: t, fabric: testutil.NewNS(t, "fabric"), outside: testutil.NewNS(t, "outside")}
	f := w.fabric
	for _, s := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		f.Sysctl(s, "1")
	}
	f.Sysctl("ipv6/conf/default/accept_dad", "0")
	f.Sysctl("ipv4/conf/all/send_redirects", "0")
	f.Sysctl("ipv4/conf/default/send_redirects", "0")
	f.IP("addr add " + nodeGW + "/32 dev lo")
	f.IP("addr add " + podGW + "/32 dev lo")
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
	f.IP("link add outside type veth peer name eth0 netns " + w.outside.Name)
	f.IP("link set outside up")
	f.IP("route add 0.0.0.0/0 dev outside")
	f.IP("-6 route add ::/0 dev outside")
	f.IP("addr add 203.0.113.1/32 dev outside")
	f.IP("addr add 2001:db8:ffff::1/128 dev outside nodad")
	f.IP("route add " + outsideIP + "/32 dev outside")
	f.IP("-6 route add " + outsideIP6 + "/128 dev outside")
	w.outside.IP("link set eth0 up")
	w.outside.IP("addr add " + outsideIP + "/32 dev eth0")
	w.outside.IP("addr add " + outsideIP6 + "/128 dev eth0 nodad")
	w.outside.IP("route add default via 203.0.113.1 dev eth0 onlink")
	w.outside.IP("-6 route add default via 2001:db8:ffff::1 dev eth0 onlink")
	for i := range nodes {
		w.addNode(i, enis)
	}
	return w
}

func (w *world) addNode(i, enis int) *testNode {
	w.t.Helper()
	n := &testNode{
		NS: testutil.NewNS(w.t, fmt.Sprintf("node%d", i)), w: w, number: i,
		ip:  netip.MustParseAddr(fmt.Sprintf("192.168.0.%d", 11+i)),
		ip6: netip.MustParseAddr(fmt.Sprintf("2001:db8:0::%x", 0x11+i)),
	}
	w.nodes = append(w.nodes, n)
	for e := range enis + 1 {
		n.plug(e)
	}
	n.Sysctl("ipv6/conf/eth0/accept_dad", "0")
	n.IP("link set eth0 up")
	n.IP(fmt.Sprintf("addr add %s/32 dev eth0", n.ip))
	n.IP(fmt.Sprintf("addr add %s/128 dev eth0 nodad", n.ip6))
	n.IP("route add default via " + nodeGW + " dev eth0 onlink")
	n.IP("-6 route add default via " + nodeGW6 + " dev eth0 onlink")
	w.assign(n, 0, n.ip)
	w.assign(n, 0, n.ip6)

	n.node = datapath.Node{
		Addresses:    []netip.Addr{n.ip, n.ip6},
		VPCCIDRs:     []netip.Prefix{netip.MustParsePrefix(vpcCIDR), netip.MustParsePrefix("2001:db8::/40")},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix(serviceCIDR)},
	}
	for e := range enis {
		n.node.ENIs = append(n.node.ENIs, n.eni(e+1))
	}
	n.dp = n.newDatapath()
	return n
}

// plug makes an ENI appear on the node as eth<e>, down and without an address.
func (n *testNode) plug(e int) {
	n.w.t.Helper()
	f, port := n.w.fabric, n.port(e)
	f.IP(fmt.Sprintf("link add %s type veth peer name eth%d address %s netns %s", port, e, n.mac(e), n.Name))
	f.Sysctl("ipv4/conf/"+port+"/rp_filter", "0")
	f.IP("link set " + port + " up")
	gw := podGW6
	if e == 0 {
		gw = nodeGW6
	}
	f.IP("addr add " + gw + "/128 dev " + port + " nodad")
}

func (n *testNode) port(e int) string { return fmt.Sprintf("n%de%d", n.number, e) }

func (n *testNode) mac(e int) net.HardwareAddr {
	return net.HardwareAddr{0x00, 0x16, 0x3e, 0, byte(n.number), byte(e)}
}

func (n *testNode) eni(e int) datapath.ENI {
	return datapath.ENI{
		ID: fmt.Sprintf("eni-n%de%d", n.number, e), MAC: n.mac(e), Device: fmt.Sprintf("eth%d", e),
		CIDRs:    []netip.Prefix{netip.MustParsePrefix("192.168.32.0/19"), netip.MustParsePrefix("2001:db8:1::/64")},
		Gateways: []netip.Addr{netip.MustParseAddr(podGW), netip.MustParseAddr(podGW6)},
	}
}

// newDatapath is what a restart of the agent does.
func (n *testNode) newDatapath() *Datapath {
	n.w.t.Helper()
	dp, err := New(Options{NetNS: n.Path, Log: slog.New(slog.DiscardHandler)})
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

// assign tells the VPC that an ENI has an address.
func (w *world) assign(n *testNode, e int, a netip.Addr) {
	w.t.Helper()
	v, set := "", "allowed4"
	if a.Is6() {
		v, set = "-6 ", "allowed6"
	}
	w.fabric.IP(fmt.Sprintf("%sroute replace %s dev %s", v, a, n.port(e)))
	w.fabric.IP(fmt.Sprintf("%sneigh replace %s lladdr %s dev %s nud permanent", v, a, n.mac(e), n.port(e)))
	w.fabric.NFT(fmt.Sprintf("add element inet vpc %s { %q . %s }", set, n.port(e), a))
}

// describe prepares a pod with its namespace and addresses, unwired.
func (n *testNode) describe(e int, families ...string) *testPod {
	n.w.t.Helper()
	n.pods++
	p := &testPod{NS: testutil.NewNS(n.w.t, fmt.Sprintf("pod%d-%d", n.number, n.pods)), node: n, eniIndex: e}
	p.ip = netip.MustParseAddr(fmt.Sprintf("192.168.%d.%d", 40+8*n.number+n.pods/250, 1+n.pods%250))
	p.ip6 = netip.MustParseAddr(fmt.Sprintf("2001:db8:1::%x:%x", n.number+1, n.pods))
	p.pod = datapath.Pod{
		Sandbox: "sandbox-" + p.Name, IfName: "eth0", NetNS: p.Path, Namespace: "default", Name: p.Name,
		ENI: n.mac(e).String(),
	}
	if len(families) == 0 {
		families = []string{"4"}
	}
	if slices.Contains(families, "4") {
		p.pod.Addresses = append(p.pod.Addresses, p.ip)
	}
	if slices.Contains(families, "6") {
		p.pod.Addresses = append(p.pod.Addresses, p.ip6)
	}
	for _, a := range p.pod.Addresses {
		n.w.assign(n, e, a)
	}
	return p
}

func (n *testNode) addPod(e int, families ...string) *testPod {
	n.w.t.Helper()
	p := n.describe(e, families...)
	p.add()
	return p
}

func (p *testPod) add() {
	t := p.node.w.t
	t.Helper()
	w, err := p.node.dp.AddPod(context.Background(), p.node.node, p.pod)
	if err != nil {
		t.Fatalf("AddPod: %v", err)
	}
	p.wiring = w
	p.pod.HostIfName = w.HostIfName
}

func (p *testPod) del() {
	t := p.node.w.t
	t.Helper()
	if err := p.node.dp.DelPod(context.Background(), p.pod); err != nil {
		t.Fatalf("DelPod: %v", err)
	}
}

func (n *testNode) sync(pods ...*testPod) []string {
	n.w.t.Helper()
	repairs, err := n.trySync(pods...)
	if err != nil {
		n.w.t.Fatalf("Sync: %v (repairs %q)", err, repairs)
	}
	return repairs
}

func (n *testNode) trySync(pods ...*testPod) ([]string, error) {
	var list []datapath.Pod
	for _, p := range pods {
		list = append(list, p.pod)
	}
	return n.dp.Sync(context.Background(), n.node, list)
}

// settle waits for background deletions.
func (n *testNode) settle() {
	n.w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := n.dp.reaper.wait(ctx); err != nil {
		n.w.t.Fatal(err)
	}
}

// serve answers each TCP connection with the client's address as the server sees
// it, and its own name.
func serve(ns *testutil.NS, address string) {
	l := ns.Listen("tcp", address)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed at the end of the test
			}
			go func() {
				defer conn.Close()
				host, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
				fmt.Fprintf(conn, "%s %s\n", ns.Name, host)
			}()
		}
	}()
}

// answer is what serve said.
type answer struct{ server, client string }

const patience = 3 * time.Second

// ask connects and returns the answer.
func ask(ns *testutil.NS, address string) (answer, error) {
	conn, err := ns.Dial("tcp", "", address, patience)
	if err != nil {
		return answer{}, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return answer{}, err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return answer{}, err
	}
	server, client, _ := strings.Cut(strings.TrimSpace(line), " ")
	return answer{server, client}, nil
}

// mustReach asserts who answers and as whom the client is seen.
func mustReach(t testing.TB, from *testutil.NS, address string, server *testutil.NS, client netip.Addr) {
	t.Helper()
	got, err := ask(from, address)
	if err != nil {
		t.Errorf("%s → %s: %v", from.Name, address, err)
		return
	}
	if want := (answer{server.Name, client.String()}); got != want {
		t.Errorf("%s → %s: got %+v, want %+v", from.Name, address, got, want)
	}
}

func mustNotReach(t testing.TB, from *testutil.NS, address string) {
	t.Helper()
	conn, err := from.Dial("tcp", "", address, 500*time.Millisecond)
	if err == nil {
		conn.Close()
		t.Errorf("%s → %s: connected, want none", from.Name, address)
	}
}

func at(a netip.Addr, port int) string { return netip.AddrPortFrom(a, uint16(port)).String() }

// crossed is how many packets with a pod's source left a node.
func (w *world) crossed() int { return nftCounter(w.t, w.fabric, "inet", "vpc", "crossed") }

// strict is how many packets the VPC dropped for a source on the wrong ENI.
func (w *world) strict() int { return nftCounter(w.t, w.fabric, "inet", "vpc", "strict") }

func nftCounter(t testing.TB, ns *testutil.NS, family, table, name string) int {
	t.Helper()
	out := ns.Run("nft", "-j", "list", "counter", family, table, name)
	var doc struct {
		Nftables []struct{ Counter *struct{ Packets int } }
	}
	if err := json.Unmarshal([]byte(out), &doc); err != nil {
		t.Fatal(err)
	}
	for _, o := range doc.Nftables {
		if o.Counter != nil {
			return o.Counter.Packets
		}
	}
	t.Fatalf("no counter in %s", out)
	return 0
}

// dump is everything of a namespace that a datapath could change, as text.
func dump(ns *testutil.NS) string {
	var b strings.Builder
	for _, cmd := range []string{
		"ip -o -d link show", "ip -o addr show", "ip rule show", "ip -6 rule show",
		"ip route show table all", "ip -6 route show table all",
		"ip neigh show nud permanent", "ip -6 neigh show nud permanent",
		"nft -s list ruleset",
	} {
		words := strings.Fields(cmd)
		fmt.Fprintf(&b, "# %s\n%s\n", cmd, ns.Run(words[0], words[1:]...))
	}
	return b.String()
}

// difference shows the lines that only one of two dumps has.
func difference(before, after string) string {
	a, b := strings.Split(before, "\n"), strings.Split(after, "\n")
	var out []string
	for _, l := range a {
		if !slices.Contains(b, l) {
			out = append(out, "- "+l)
		}
	}
	for _, l := range b {
		if !slices.Contains(a, l) {
			out = append(out, "+ "+l)
		}
	}
	return strings.Join(out, "\n")
}
