package world

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"terway.dev/terway/internal/testutil"
)

// kubeIPVS is the device that has the addresses of Services.
const kubeIPVS = "kube-ipvs0"

// KubeProxyIPVS does what kube-proxy in ipvs mode does for IPv4 Services over TCP and UDP: the
// addresses of Services, and VirtualIP as a load balancer's, are the node's own on a dummy device;
// IPVS forwards each of them and the NodePort to the endpoint; netfilter still hides the client's
// address. (kube-proxy writes those rules with iptables and ipset, at the same hooks and
// priorities.)
func (n *Node) KubeProxyIPVS(services ...Service) {
	n.w.t.Helper()
	if !strings.Contains(n.IP("-o link show"), kubeIPVS+":") {
		n.IP("link add " + kubeIPVS + " type dummy")
		for path, value := range map[string]string{"conntrack": "1", "conn_reuse_mode": "0", "expire_nodest_conn": "1", "expire_quiescent_template": "1"} {
			n.Sysctl("ipv4/vs/"+path, value)
		}
	}
	n.Run("ipvsadm", "-C")
	var services4, marks, own strings.Builder
	for _, s := range services {
		if s.Port == 0 {
			s.Port = 80
		}
		for _, a := range []netip.Addr{s.ClusterIP, VirtualIP} {
			n.IP("addr replace " + a.String() + "/32 dev " + kubeIPVS)
		}
		for _, protocol := range []string{"-t", "-u"} {
			for _, at := range []string{At(s.ClusterIP, s.Port), At(VirtualIP, s.Port), At(n.V4, s.NodePort)} {
				n.Run("ipvsadm", "-A", protocol, at, "-s", "rr")
				n.Run("ipvsadm", "-a", protocol, at, "-r", At(s.Endpoint, s.Port), "-m")
			}
		}
		if s.MasqAll {
			fmt.Fprintf(&services4, "ip daddr %s th dport %d jump mark-for-masquerade\n", s.ClusterIP, s.Port)
		} else {
			fmt.Fprintf(&services4, "ip saddr %[1]s ip daddr %[1]s th dport %[2]d jump mark-for-masquerade\n", s.ClusterIP, s.Port)
		}
		if !s.Local {
			fmt.Fprintf(&services4, "ip daddr %s th dport %d jump mark-for-masquerade\n", VirtualIP, s.Port)
			fmt.Fprintf(&marks, "fib daddr type local th dport %d jump mark-for-masquerade\n", s.NodePort)
		}
		fmt.Fprintf(&own, "ip saddr %[1]s ip daddr %[1]s masquerade\n", s.Endpoint)
	}
	n.proxyRules("ip", fmt.Sprintf(`
		chain mark-for-masquerade { mark set mark or 0x4000; }
		chain services {
			%[1]s
			%[2]s
			fib daddr type local accept
		}
		chain nat-postrouting {
			%[3]s
			mark and 0x4000 == 0 return
			mark set mark xor 0x4000
			masquerade
		}`, services4.String(), marks.String(), own.String()))
}

// Service describes one Service with one endpoint for kube-proxy; its addresses are of one family.
type Service struct {
	ClusterIP netip.Addr
	// Port is the Service's and the endpoint's, 80 if 0.
	Port     int
	NodePort int
	Local    bool // externalTrafficPolicy
	Endpoint netip.Addr
	MasqAll  bool
}

// ClusterIP and ClusterIP6 are in the Service CIDRs, VirtualIP is an address of the VPC that only
// kube-proxy knows (a load balancer's).
var (
	ClusterIP  = netip.MustParseAddr("172.21.0.10")
	ClusterIP6 = netip.MustParseAddr("fd00:21::10")
	VirtualIP  = netip.MustParseAddr("192.168.32.200")
)

// KubeProxy writes the rules of kube-proxy in nftables mode for Services, for TCP and UDP: DNAT in prerouting and output, the mark 0x4000
// where the client's address must be hidden, masquerade of marked packets and of those from an endpoint to itself.
func (n *Node) KubeProxy(services ...Service) {
	n.w.t.Helper()
	n.kubeProxy("ip", n.V4, slices.DeleteFunc(slices.Clone(services), func(s Service) bool { return s.ClusterIP.Is6() }))
	n.kubeProxy("ip6", n.V6, slices.DeleteFunc(slices.Clone(services), func(s Service) bool { return s.ClusterIP.Is4() }))
}

func (n *Node) kubeProxy(family string, own netip.Addr, services []Service) {
	var b, dispatch, hairpins strings.Builder
	for i, s := range services {
		if s.Port == 0 {
			s.Port = 80
		}
		fmt.Fprintf(&hairpins, "ct status dnat %[1]s saddr %[2]s %[1]s daddr %[2]s meta l4proto {tcp, udp} th dport %[3]d masquerade fully-random\n", family, s.Endpoint, s.Port)
		fmt.Fprintf(&b, "chain endpoint-%d { meta l4proto {tcp, udp} dnat to %s; }\n", i, At(s.Endpoint, s.Port))
		fmt.Fprintf(&b, "chain service-%d {\n", i)
		if s.MasqAll {
			b.WriteString("jump mark-for-masquerade\n")
		}
		fmt.Fprintf(&b, "goto endpoint-%d; }\n", i)
		fmt.Fprintf(&b, "chain external-%d {\n", i)
		if !s.Local {
			b.WriteString("jump mark-for-masquerade\n")
		}
		fmt.Fprintf(&b, "goto endpoint-%d; }\n", i)
		fmt.Fprintf(&dispatch, "%s daddr %s th dport %d goto service-%d\n", family, s.ClusterIP, s.Port, i)
		if s.NodePort != 0 {
			fmt.Fprintf(&dispatch, "%s daddr %s th dport %d goto external-%d\n", family, own, s.NodePort, i)
		}
	}
	n.proxyRules(family, fmt.Sprintf(`
		chain mark-for-masquerade { mark set mark or 0x4000; }
		chain masquerading {
			mark and 0x4000 != 0 mark set mark xor 0x4000 masquerade fully-random
			%[1]s
		}
		chain nat-postrouting { jump masquerading; }
		%[2]s
		chain services { %[3]s }`, hairpins.String(), b.String(), dispatch.String()))
}

// proxyRules replaces kube-proxy's rules of a family. Its base chains stay, as kube-proxy keeps them while it runs: of two with one
// priority the kernel asks the later one first.
func (n *Node) proxyRules(family, chains string) {
	n.w.t.Helper()
	n.NFT(fmt.Sprintf(`table %[1]s kube-proxy {
		chain services { }
		chain nat-prerouting { type nat hook prerouting priority dstnat; }
		chain nat-output { type nat hook output priority -100; }
		chain nat-postrouting { type nat hook postrouting priority srcnat; }
	}
	flush table %[1]s kube-proxy
	table %[1]s kube-proxy {
		%[2]s
		chain nat-prerouting { meta l4proto {tcp, udp} jump services; }
		chain nat-output { meta l4proto {tcp, udp} jump services; }
	}`, family, chains))
}

func ServicesWorld(t *testing.T, k Kit) (w *World, n0, n1 *Node) {
	w = k.NewWorld(t, 2, 1)
	n0, n1 = w.Nodes[0], w.Nodes[1]
	for _, n := range w.Nodes {
		n.KubeProxy() // before the agent
		n.Sync()
	}
	t.Cleanup(func() {
		if got := w.Strict(); got != 0 {
			t.Errorf("the VPC dropped %d packets with a source on the wrong ENI", got)
		}
	})
	return w, n0, n1
}

// FromPod is a path from a pod to a Service, with the client address that its endpoint sees.
type FromPod struct {
	Name     string
	Endpoint *Pod
	MasqAll  bool
	Seen     netip.Addr
}

// FromPods are the paths from a pod of a node to endpoints on that node and on another.
func FromPods(n *Node, client, near, far *Pod) []FromPod {
	return []FromPod{
		{"endpoint on the node", near, false, client.V4},
		{"endpoint on another node", far, false, client.V4},
		{"endpoint on the node, all masqueraded", near, true, n.V4},
		{"endpoint on another node, all masqueraded", far, true, n.V4},
	}
}

// IntoNode is a path to a Service by a node's port, with the client address that its endpoint sees.
type IntoNode struct {
	Name     string
	From     *testutil.NS
	Endpoint *Pod
	Local    bool
	Seen     netip.Addr
}

// IntoNodes are the paths into n0, where near is; far and client are pods of n1.
func IntoNodes(w *World, n0, n1 *Node, near, far, client *Pod) []IntoNode {
	outside := netip.MustParseAddr(OutsideV4)
	return []IntoNode{
		{"outside, local endpoint", w.Outside, near, false, n0.V4},
		{"outside, remote endpoint", w.Outside, far, false, n0.V4},
		// No masquerade: the reply must still leave with the node's address, by eth0.
		{"outside, externalTrafficPolicy Local", w.Outside, near, true, outside},
		{"another node, externalTrafficPolicy Local", n1.NS, near, true, n1.V4},
		{"a pod of another node, externalTrafficPolicy Local", client.NS, near, true, client.V4},
		{"the node's own pod, remote endpoint", near.NS, far, false, n0.V4},
	}
}
