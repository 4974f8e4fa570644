package suite

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// Service is what kube-proxy is told of one Service with one endpoint.
type Service struct {
	ClusterIP netip.Addr
	NodePort  int
	Local     bool // externalTrafficPolicy
	Endpoint  netip.Addr
	MasqAll   bool
}

var ClusterIP = netip.MustParseAddr("172.21.0.10")

// KubeProxy writes the rules that kube-proxy in nftables mode makes of Services:
// DNAT in prerouting and output, the mark 0x4000 where the client's address must
// be hidden, masquerade of marked packets.
func (n *Node) KubeProxy(services ...Service) {
	var b strings.Builder
	b.WriteString(`table ip kube-proxy
	delete table ip kube-proxy
	table ip kube-proxy {
		chain mark-for-masquerade { mark set mark or 0x4000; }
		chain masquerading {
			mark and 0x4000 == 0 return
			mark set mark xor 0x4000
			masquerade fully-random
		}
		chain nat-postrouting { type nat hook postrouting priority srcnat; jump masquerading; }
	`)
	var dispatch strings.Builder
	for i, s := range services {
		fmt.Fprintf(&b, "chain endpoint-%d { ip saddr %s jump mark-for-masquerade\n meta l4proto tcp dnat to %s:80; }\n", i, s.Endpoint, s.Endpoint)
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
		fmt.Fprintf(&dispatch, "ip daddr %s tcp dport 80 goto service-%d\n", s.ClusterIP, i)
		if s.NodePort != 0 {
			fmt.Fprintf(&dispatch, "ip daddr %s tcp dport %d goto external-%d\n", n.V4, s.NodePort, i)
		}
	}
	fmt.Fprintf(&b, "chain services { %s }\n", dispatch.String())
	b.WriteString(`
		chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
		chain nat-output { type nat hook output priority -100; jump services; }
	}`)
	n.NFT(b.String())
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
