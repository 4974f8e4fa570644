package translate

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"

	"net/netip"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/selector"
)

// NetworkPolicy translates a Kubernetes NetworkPolicy: a list of allow rules. The default of
// its tier denies the rest to the pods that it selects, so several policies of a pod add up. It
// returns nil if the policy is refused.
func NetworkPolicy(np *networkingv1.NetworkPolicy) (*Placed, []Note) {
	r := &report{ref: ref(KindNetworkPolicy, np)}
	p := policy.Policy{Ref: r.ref, Subject: policy.PodSelector{Namespace: np.Namespace}}
	if np.Namespace == "" {
		r.refuse("metadata.namespace", "", "the name of a namespace")
	}
	var err error
	if p.Subject.Pods, err = selector.FromKubernetes(&np.Spec.PodSelector, "spec.podSelector"); err != nil {
		r.refuse("spec.podSelector", "", err.Error())
	}
	if len(np.Spec.PolicyTypes) == 0 {
		p.Directions = [2]bool{policy.Ingress: true, policy.Egress: len(np.Spec.Egress) > 0}
	}
	for i, t := range np.Spec.PolicyTypes {
		switch t {
		case networkingv1.PolicyTypeIngress:
			p.Directions[policy.Ingress] = true
		case networkingv1.PolicyTypeEgress:
			p.Directions[policy.Egress] = true
		default:
			r.refuse(item("spec.policyTypes", i), t, "Ingress or Egress")
		}
	}
	for i, rule := range np.Spec.Ingress {
		at := item("spec.ingress", i)
		p.Rules[policy.Ingress] = append(p.Rules[policy.Ingress], policy.Rule{
			Number: i, Action: policy.Allow,
			Peers:   r.kubernetesPeers(at+".from", rule.From, np.Namespace),
			Traffic: r.kubernetesPorts(at+".ports", rule.Ports),
		})
	}
	for i, rule := range np.Spec.Egress {
		at := item("spec.egress", i)
		p.Rules[policy.Egress] = append(p.Rules[policy.Egress], policy.Rule{
			Number: i, Action: policy.Allow,
			Peers:   r.kubernetesPeers(at+".to", rule.To, np.Namespace),
			Traffic: r.kubernetesPorts(at+".ports", rule.Ports),
		})
	}
	for d, field := range [...]string{policy.Ingress: "spec.ingress", policy.Egress: "spec.egress"} {
		if n := len(p.Rules[d]); n > 0 && !p.Directions[d] {
			r.note(Partly, field, fmt.Sprintf("%d rules", n), "spec.policyTypes does not name this direction, so these rules have no effect")
		}
	}
	if r.refused() {
		return nil, r.notes
	}
	return &Placed{p, TierDefault, KubernetesOrder}, r.notes
}

func (r *report) kubernetesPeers(at string, peers []networkingv1.NetworkPolicyPeer, namespace string) []policy.Match {
	if len(peers) == 0 {
		return nil // every peer
	}
	matches := make([]policy.Match, 0, len(peers))
	for i, peer := range peers {
		at := item(at, i)
		selectors := peer.PodSelector != nil || peer.NamespaceSelector != nil
		switch {
		case peer.IPBlock != nil && selectors:
			r.refuse(at, "ipBlock and selectors", "one of both")
		case peer.IPBlock != nil:
			matches = append(matches, r.ipBlock(at+".ipBlock", peer.IPBlock))
		case selectors:
			s := r.pods(at+".", peer.NamespaceSelector, peer.PodSelector)
			if peer.NamespaceSelector == nil {
				s.Namespace = namespace
			}
			matches = append(matches, policy.Match{In: []policy.AddrSet{{Pods: s}}})
		default:
			r.refuse(at, "", "podSelector, namespaceSelector or ipBlock")
		}
	}
	return matches
}

func (r *report) ipBlock(at string, b *networkingv1.IPBlock) policy.Match {
	cidr, ok := r.network(at+".cidr", b.CIDR)
	m := policy.Match{In: []policy.AddrSet{{Nets: []netip.Prefix{cidr}}}}
	if !ok || len(b.Except) == 0 {
		return m
	}
	var except policy.AddrSet
	for i, e := range b.Except {
		n, ok := r.network(item(at+".except", i), e)
		if ok && (!cidr.Contains(n.Addr()) || n.Bits() <= cidr.Bits()) {
			r.refuse(item(at+".except", i), e, "a part of "+b.CIDR)
		}
		except.Nets = append(except.Nets, n)
	}
	m.NotIn = []policy.AddrSet{except}
	return m
}

// portOf is a port of a protocol; nil means all ports.
type portOf struct {
	protocol uint8
	port     *policy.Port
}

func (r *report) kubernetesPorts(at string, ports []networkingv1.NetworkPolicyPort) []policy.Traffic {
	if len(ports) == 0 {
		return nil
	}
	var list []portOf
	for i, p := range ports {
		at := item(at, i)
		protocol, ok := kubernetesProtocol(p.Protocol)
		if !ok {
			r.refuse(at+".protocol", *p.Protocol, "TCP, UDP or SCTP")
		}
		one := portOf{protocol: protocol}
		switch {
		case p.Port == nil:
			if p.EndPort != nil {
				r.refuse(at+".endPort", *p.EndPort, "a port before it")
			}
		case p.Port.Type == intstr.String:
			if p.EndPort != nil {
				r.refuse(at+".endPort", *p.EndPort, "no endPort beside a port that is a name")
			}
			if problems := validation.IsValidPortName(p.Port.StrVal); len(problems) > 0 {
				r.refuse(at+".port", p.Port.StrVal, strings.Join(problems, ", "))
			}
			one.port = &policy.Port{Name: p.Port.StrVal}
		default:
			from, to := p.Port.IntVal, p.Port.IntVal
			if p.EndPort != nil {
				to = *p.EndPort
			}
			one.port = r.portRange(at+".port", at+".endPort", from, to)
		}
		list = append(list, one)
	}
	return traffic(list)
}

// portRange translates a range of ports from two named fields.
func (r *report) portRange(fromField, toField string, from, to int32) *policy.Port {
	if from < 1 || from > 65535 {
		r.refuse(fromField, from, "a port from 1 to 65535")
	} else if to < from || to > 65535 {
		r.refuse(toField, to, fmt.Sprintf("a port from %d to 65535", from))
	}
	return &policy.Port{From: uint16(from), To: uint16(to)}
}

func kubernetesProtocol(p *corev1.Protocol) (uint8, bool) {
	if p == nil {
		return policy.TCPProtocol, true
	}
	switch *p {
	case corev1.ProtocolTCP:
		return policy.TCPProtocol, true
	case corev1.ProtocolUDP:
		return policy.UDPProtocol, true
	case corev1.ProtocolSCTP:
		return policy.SCTPProtocol, true
	}
	return 0, false
}

// traffic groups ports by protocol, so that many ports are one condition.
func traffic(list []portOf) (out []policy.Traffic) {
	for _, protocol := range []uint8{policy.TCPProtocol, policy.UDPProtocol, policy.SCTPProtocol} {
		t := policy.Traffic{Protocols: protocols(protocol)}
		found, all := false, false
		for _, p := range list {
			if p.protocol != protocol {
				continue
			}
			found = true
			if p.port == nil {
				all = true
			} else {
				t.DestinationPorts = append(t.DestinationPorts, *p.port)
			}
		}
		if all {
			t.DestinationPorts = nil
		}
		if found {
			out = append(out, t)
		}
	}
	return out
}

// single has the sets of one protocol each, which nearly all rules have.
var single = func() (out [256]*[256]bool) {
	for n := range out {
		var p [256]bool
		p[n] = true
		out[n] = &p
	}
	return out
}()

// protocols returns a set, which must not be changed.
func protocols(numbers ...uint8) *[256]bool {
	if len(numbers) == 1 {
		return single[numbers[0]]
	}
	var p [256]bool
	for _, n := range numbers {
		p[n] = true
	}
	return &p
}
