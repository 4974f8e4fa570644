package suite

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// Service is what kube-proxy is told of one Service with one endpoint; its addresses
// are of one family.
type Service struct {
	ClusterIP netip.Addr
	// Port is the Service's and the endpoint's, 80 if 0.
	Port     int
	NodePort int
	Local    bool // externalTrafficPolicy
	Endpoint netip.Addr
	MasqAll  bool
}

// ClusterIP and ClusterIP6 are in the Service CIDRs, VirtualIP is an address of the VPC
// that only kube-proxy knows (a load balancer's).
var (
	ClusterIP  = netip.MustParseAddr("172.21.0.10")
	ClusterIP6 = netip.MustParseAddr("fd00:21::10")
	VirtualIP  = netip.MustParseAddr("192.168.32.200")
)

// KubeProxy writes the rules that kube-proxy in nftables mode makes of Services, for
// TCP and UDP: DNAT in prerouting and output, the mark 0x4000 where the client's address
// must be hidden, masquerade of marked packets.
func (n *Node) KubeProxy(services ...Service) {
	n.w.t.Helper()
	n.kubeProxy("ip", n.V4, slices.DeleteFunc(slices.Clone(services), func(s Service) bool { return s.ClusterIP.Is6() }))
	n.kubeProxy("ip6", n.V6, slices.DeleteFunc(slices.Clone(services), func(s Service) bool { return s.ClusterIP.Is4() }))
}

func (n *Node) kubeProxy(family string, own netip.Addr, services []Service) {
	var b, dispatch strings.Builder
	for i, s := range services {
		if s.Port == 0 {
			s.Port = 80
		}
		fmt.Fprintf(&b, "chain endpoint-%d { %s saddr %s jump mark-for-masquerade\n meta l4proto {tcp, udp} dnat to %s; }\n", i, family, s.Endpoint, At(s.Endpoint, s.Port))
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
	n.NFT(fmt.Sprintf(`table %[1]s kube-proxy
	delete table %[1]s kube-proxy
	table %[1]s kube-proxy {
		chain mark-for-masquerade { mark set mark or 0x4000; }
		chain masquerading {
			mark and 0x4000 == 0 return
			mark set mark xor 0x4000
			masquerade fully-random
		}
		chain nat-postrouting { type nat hook postrouting priority srcnat; jump masquerading; }
		%[2]s
		chain services { %[3]s }
		chain nat-prerouting { type nat hook prerouting priority dstnat; meta l4proto {tcp, udp} jump services; }
		chain nat-output { type nat hook output priority -100; meta l4proto {tcp, udp} jump services; }
	}`, family, b.String(), dispatch.String()))
}

func servicesWorld(t *testing.T, k Kit) (w *World, n0, n1 *Node) {
	w = k.NewWorld(t, 2, 1)
	n0, n1 = w.Nodes[0], w.Nodes[1]
	n0.Sync()
	n1.Sync()
	t.Cleanup(func() {
		if got := w.Strict(); got != 0 {
			t.Errorf("the VPC dropped %d packets with a source on the wrong ENI", got)
		}
	})
	return w, n0, n1
}
