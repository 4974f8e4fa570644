package translate

import (
	"net/netip"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	netutils "k8s.io/utils/net"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/selector"
)

// pods combines two Kubernetes selectors, whose fields are at+"namespaceSelector" and
// at+"podSelector".
func (r *report) pods(at string, namespaces, pods *metav1.LabelSelector) *policy.PodSelector {
	s := &policy.PodSelector{}
	var err error
	if s.Namespaces, err = selector.FromKubernetes(namespaces, at+"namespaceSelector"); err != nil {
		r.refuse(at+"namespaceSelector", "", err.Error())
	}
	if s.Pods, err = selector.FromKubernetes(pods, at+"podSelector"); err != nil {
		r.refuse(at+"podSelector", "", err.Error())
	}
	return s
}

// network parses a CIDR.
func (r *report) network(at, text string) (netip.Prefix, bool) {
	p, ok := network(text)
	if !ok {
		r.refuse(at, text, "a network such as 192.168.0.0/16 or 2001:db8::/32")
	}
	return p, ok
}

// network parses a CIDR as the API server does: it reads 010.0.0.0/8 as 10.0.0.0/8, and masks
// the host bits.
func network(text string) (netip.Prefix, bool) {
	_, n, err := netutils.ParseCIDRSloppy(text)
	if err != nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}, false
	}
	bits, _ := n.Mask.Size()
	if a.Is4In6() && bits >= 96 {
		a, bits = a.Unmap(), bits-96
	}
	return netip.PrefixFrom(a, bits).Masked(), true
}

// networkOrAddress parses a CIDR, or an address, which is a network of one address.
func networkOrAddress(text string) (netip.Prefix, bool) {
	if a, ok := address(text); ok {
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	return network(text)
}

// address parses an address as the API server does.
func address(text string) (netip.Addr, bool) {
	a, ok := netip.AddrFromSlice(netutils.ParseIPSloppy(text))
	return a.Unmap(), ok
}
