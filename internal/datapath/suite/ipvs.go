package suite

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"terway.dev/terway/internal/testutil"
)

// IPVS is what a datapath must do where kube-proxy runs in ipvs mode. It is no scenario of
// the table, for few kernels have IPVS: it needs one, and the program ipvsadm.
func IPVS(t *testing.T, k Kit) {
	t.Run("into the node", func(t *testing.T) { ipvsIntoTheNode(t, k) })
	t.Run("pod to Service", func(t *testing.T) { ipvsPodToService(t, k) })
	t.Run("node to Service and hairpin", func(t *testing.T) { ipvsNodeAndHairpin(t, k) })
}

// kubeIPVS is the device that has the addresses of Services.
const kubeIPVS = "kube-ipvs0"

// KubeProxyIPVS does what kube-proxy in ipvs mode does for Services of IPv4 over TCP and
// UDP: the addresses of Services, and VirtualIP as a load balancer's, are the node's own by
// a dummy device; IPVS leads each of them and the NodePort to the endpoint; what hides the
// client's address is still netfilter's. (kube-proxy writes those rules with iptables and
// ipset; they are at the same hooks and priorities.)
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
	n.NFT(fmt.Sprintf(`table ip kube-proxy
	delete table ip kube-proxy
	table ip kube-proxy {
		chain mark-for-masquerade { mark set mark or 0x4000; }
		chain services {
			%[1]s
			%[2]s
			fib daddr type local accept
		}
		chain nat-prerouting { type nat hook prerouting priority dstnat; meta l4proto {tcp, udp} jump services; }
		chain nat-output { type nat hook output priority -100; meta l4proto {tcp, udp} jump services; }
		chain nat-postrouting { type nat hook postrouting priority srcnat
			%[3]s
			mark and 0x4000 == 0 return
			mark set mark xor 0x4000
			masquerade fully-random
		}
	}`, services4.String(), marks.String(), own.String()))
}

// ipvsServices are one for whoever asks who it is, and one for long talks.
func ipvsServices(endpoint *Pod, local, masqAll bool) []Service {
	return []Service{
		{ClusterIP: ClusterIP, Port: 80, NodePort: 30080, Local: local, Endpoint: endpoint.V4, MasqAll: masqAll},
		{ClusterIP: ClusterIP, Port: 7, NodePort: 30007, Local: local, Endpoint: endpoint.V4, MasqAll: masqAll},
	}
}

// reaches says who answers, and whom it sees, and that connections go on after their first
// packets.
func reaches(t *testing.T, from *testutil.NS, to netip.Addr, who, talk int, endpoint *Pod, seen netip.Addr) {
	t.Helper()
	MustReach(t, from, At(to, who), endpoint.NS, seen)
	if !t.Failed() {
		Talk(t, from, "tcp", At(to, talk), 20)
		Talk(t, from, "udp", At(to, talk), 20)
	}
}

func ipvsWorld(t *testing.T, k Kit) (w *World, n0, n1 *Node, near, far *Pod) {
	w, n0, n1 = servicesWorld(t, k)
	near, far = Serving(n0.AddPod(1)), Serving(n1.AddPod(1))
	near.Echo(7)
	far.Echo(7)
	return w, n0, n1, near, far
}

// Replies of pods leave as the node, by eth0, though conntrack says of them what it says of
// untranslated ones.
func ipvsIntoTheNode(t *testing.T, k Kit) {
	w, n0, n1, near, far := ipvsWorld(t, k)
	w.Assign(n0, 0, VirtualIP)
	for _, c := range intoNodes(w, n0, n1, near, far, n1.AddPod(1)) {
		t.Run(c.name, func(t *testing.T) {
			if k.Exclusive && c.endpoint == near {
				c.seen = n0.V4 // the answer must come back through the node
			}
			n0.KubeProxyIPVS(ipvsServices(c.endpoint, c.local, false)...)
			reaches(t, c.from, n0.V4, 30080, 30007, c.endpoint, c.seen)
			reaches(t, c.from, VirtualIP, 80, 7, c.endpoint, c.seen)
		})
	}
}

func ipvsPodToService(t *testing.T, k Kit) {
	_, n0, _, near, far := ipvsWorld(t, k)
	client := n0.AddPod(1)
	for _, c := range fromPods(n0, client, near, far) {
		t.Run(c.name, func(t *testing.T) {
			seen := c.seen
			if k.Exclusive {
				seen = n0.V4 // the answer must come back through the node
			}
			n0.KubeProxyIPVS(ipvsServices(c.endpoint, false, c.masqAll)...)
			reaches(t, client.NS, ClusterIP, 80, 7, c.endpoint, seen)
			// The endpoint itself, by the same path, is another connection.
			MustReach(t, client.NS, At(c.endpoint.V4, 80), c.endpoint.NS, client.V4)
		})
	}
}

func ipvsNodeAndHairpin(t *testing.T, k Kit) {
	_, n0, _, near, far := ipvsWorld(t, k)
	for _, endpoint := range []*Pod{near, far} {
		n0.KubeProxyIPVS(ipvsServices(endpoint, false, false)...)
		reaches(t, n0.NS, ClusterIP, 80, 7, endpoint, n0.V4)
	}
	n0.KubeProxyIPVS(ipvsServices(near, false, false)...)
	MustReach(t, near.NS, At(ClusterIP, 80), near.NS, n0.V4)
}
