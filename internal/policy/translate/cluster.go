package translate

import (
	"fmt"
	"net/netip"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	cnpv1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/selector"
)

// Limits of the API policy.networking.k8s.io/v1beta1.
const (
	clusterRules    = 25
	clusterPeers    = 25
	clusterPriority = 1000
)

// ClusterNetworkPolicy translates a ClusterNetworkPolicy. It returns nil if the policy is
// refused.
func ClusterNetworkPolicy(cnp *cnpv1.ClusterNetworkPolicy) (*Placed, []Note) {
	r := &report{ref: ref(KindClusterNetworkPolicy, cnp)}
	p := policy.Policy{
		Ref: r.ref,
		// Without rules for a direction the policy does not apply to it.
		Directions: [2]bool{policy.Ingress: len(cnp.Spec.Ingress) > 0, policy.Egress: len(cnp.Spec.Egress) > 0},
	}
	placed := &Placed{Order: float64(cnp.Spec.Priority)}
	switch cnp.Spec.Tier {
	case cnpv1.AdminTier:
		placed.Tier = TierAdmin
	case cnpv1.BaselineTier:
		placed.Tier = TierBaseline
	default:
		r.refuse(fieldTier, cnp.Spec.Tier, "Admin or Baseline")
	}
	if cnp.Spec.Priority < 0 || cnp.Spec.Priority > clusterPriority {
		r.refuse("spec.priority", cnp.Spec.Priority, fmt.Sprintf("a number from 0 to %d", clusterPriority))
	}
	switch s := cnp.Spec.Subject; {
	case s.Namespaces != nil && s.Pods != nil:
		r.refuse("spec.subject", "namespaces and pods", "one of both")
	case s.Namespaces != nil || s.Pods != nil:
		pods, err := selected("spec.subject", s.Namespaces, s.Pods)
		if err != nil {
			r.refuse("spec.subject", "", err.Error())
		} else {
			p.Subject = *pods
		}
	default:
		r.refuse("spec.subject", "", "namespaces or pods; others are not known to this version")
	}
	for d, n := range [...]int{policy.Ingress: len(cnp.Spec.Ingress), policy.Egress: len(cnp.Spec.Egress)} {
		if n > clusterRules {
			r.refuse("spec."+policy.Direction(d).String(), fmt.Sprintf("%d rules", n), fmt.Sprintf("%d at most", clusterRules))
		}
	}
	for i, rule := range cnp.Spec.Ingress {
		c := clusterRule{r, item("spec.ingress", i), rule.Action, policy.Rule{Number: i, Name: rule.Name}, ""}
		c.count("from", len(rule.From))
		for j, peer := range rule.From {
			c.podPeer(item(c.at+".from", j), peer.Namespaces, peer.Pods, 0)
		}
		p.Rules[policy.Ingress] = append(p.Rules[policy.Ingress], c.done(rule.Protocols))
	}
	for i, rule := range cnp.Spec.Egress {
		c := clusterRule{r, item("spec.egress", i), rule.Action, policy.Rule{Number: i, Name: rule.Name}, ""}
		c.count("to", len(rule.To))
		for j, peer := range rule.To {
			c.egressPeer(item(c.at+".to", j), peer, rule.Protocols)
		}
		p.Rules[policy.Egress] = append(p.Rules[policy.Egress], c.done(rule.Protocols))
	}
	if r.refused() {
		return nil, r.notes
	}
	placed.Policy = p
	return placed, r.notes
}

// selected returns the pods in namespaces, or those of a NamespacedPod.
func selected(at string, namespaces *metav1.LabelSelector, pods *cnpv1.NamespacedPod) (*policy.PodSelector, error) {
	s := &policy.PodSelector{}
	var err error
	if pods == nil {
		s.Namespaces, err = selector.FromKubernetes(namespaces, at+".namespaces")
		return s, err
	}
	if s.Namespaces, err = selector.FromKubernetes(&pods.NamespaceSelector, at+".pods.namespaceSelector"); err != nil {
		return nil, err
	}
	s.Pods, err = selector.FromKubernetes(&pods.PodSelector, at+".pods.podSelector")
	return s, err
}

// clusterRule is a rule whose peers are being translated.
type clusterRule struct {
	*report
	at     string
	action cnpv1.ClusterNetworkPolicyRuleAction
	rule   policy.Rule
	// unknown is a field that this version does not know: the rule fails closed.
	unknown string
}

func (c *clusterRule) count(list string, n int) {
	if n == 0 || n > clusterPeers {
		c.refuse(c.at+"."+list, fmt.Sprintf("%d peers", n), fmt.Sprintf("1 to %d", clusterPeers))
	}
}

// podPeer adds a peer of pods; others is the number of other fields that are set.
func (c *clusterRule) podPeer(at string, namespaces *metav1.LabelSelector, pods *cnpv1.NamespacedPod, others int) {
	switch {
	case namespaces != nil && pods != nil || others > 0:
		c.refuse(at, "several fields", "one of them")
	case namespaces == nil && pods == nil:
		c.unknown = at
	default:
		s, err := selected(at, namespaces, pods)
		if err != nil {
			// The API server does not validate the selectors of such objects.
			c.unknown = err.Error()
			return
		}
		c.peer(policy.AddrSet{Pods: s})
	}
}

func (c *clusterRule) peer(s policy.AddrSet) {
	c.rule.Peers = append(c.rule.Peers, policy.Match{In: []policy.AddrSet{s}})
}

func (c *clusterRule) egressPeer(at string, peer cnpv1.ClusterNetworkPolicyEgressPeer, with []cnpv1.ClusterNetworkPolicyProtocol) {
	others := 0
	for _, set := range []bool{peer.Nodes != nil, len(peer.Networks) > 0, len(peer.DomainNames) > 0} {
		if set {
			others++
		}
	}
	if others > 0 {
		for i, p := range with {
			if p.DestinationNamedPort != "" {
				c.refuse(item(c.at+".protocols", i)+".destinationNamedPort", p.DestinationNamedPort, "no name of a port beside nodes, networks and domainNames: they have none")
			}
		}
	}
	switch {
	case others != 1 || peer.Namespaces != nil || peer.Pods != nil:
		c.podPeer(at, peer.Namespaces, peer.Pods, others)
	case peer.Nodes != nil:
		s, err := selector.FromKubernetes(peer.Nodes, at+".nodes")
		if err != nil {
			c.unknown = err.Error()
			return
		}
		c.peer(policy.AddrSet{Nodes: s})
	case len(peer.Networks) > 0:
		if n := len(peer.Networks); n > clusterPeers {
			c.refuse(at+".networks", fmt.Sprintf("%d networks", n), fmt.Sprintf("%d at most", clusterPeers))
		}
		var nets []netip.Prefix
		for i, text := range peer.Networks {
			n, err := netip.ParsePrefix(string(text))
			if err != nil || n != n.Masked() || n.Addr().Is4In6() {
				c.refuse(item(at+".networks", i), text, "a network such as 192.168.0.0/16 or 2001:db8::/32, without bits behind its length")
				continue
			}
			nets = append(nets, n)
		}
		c.peer(policy.AddrSet{Nets: nets})
	default:
		names := make([]string, len(peer.DomainNames))
		for i, n := range peer.DomainNames {
			names[i] = string(n)
		}
		if c.action == cnpv1.ClusterNetworkPolicyRuleActionAccept {
			c.note(Partly, at+".domainNames", strings.Join(names, ", "), "names are not looked up: this peer matches nothing")
			c.peer(policy.AddrSet{})
		} else {
			c.unknown = at + ".domainNames"
		}
	}
}

// done translates the rest of the rule.
func (c *clusterRule) done(list []cnpv1.ClusterNetworkPolicyProtocol) policy.Rule {
	switch c.action {
	case cnpv1.ClusterNetworkPolicyRuleActionAccept:
		c.rule.Action = policy.Allow
	case cnpv1.ClusterNetworkPolicyRuleActionDeny:
		c.rule.Action = policy.Deny
	case cnpv1.ClusterNetworkPolicyRuleActionPass:
		c.rule.Action = policy.Pass
	default:
		c.refuse(c.at+".action", c.action, "Accept, Deny or Pass")
	}
	if len(c.rule.Name) > 100 {
		c.refuse(c.at+".name", c.rule.Name, "100 characters at most")
	}
	c.rule.Traffic = c.protocols(list)
	if c.unknown == "" {
		return c.rule
	}
	closed := policy.Rule{Number: c.rule.Number, Name: c.rule.Name, Action: c.rule.Action}
	if c.rule.Action == policy.Allow {
		closed.Peers = []policy.Match{}
		c.note(Partly, c.at, c.unknown, "this is not understood: the rule accepts nothing")
	} else {
		closed.Action = policy.Deny
		c.note(Partly, c.at, c.unknown, "this is not understood: the rule denies everything")
	}
	return closed
}

func (c *clusterRule) protocols(list []cnpv1.ClusterNetworkPolicyProtocol) []policy.Traffic {
	if n := len(list); n > clusterPeers {
		c.refuse(c.at+".protocols", fmt.Sprintf("%d protocols", n), fmt.Sprintf("%d at most", clusterPeers))
	}
	var ports []portOf
	var named []policy.Port
	for i, p := range list {
		at := item(c.at+".protocols", i)
		set := 0
		one := func(name string, protocol uint8, port *cnpv1.Port) {
			set++
			at := at + "." + name + ".destinationPort"
			switch {
			case port == nil || port.Number == 0 && port.Range == nil:
				c.unknown = at
			case port.Number != 0 && port.Range != nil:
				c.refuse(at, "number and range", "one of both")
			case port.Range != nil:
				if port.Range.Start >= port.Range.End {
					c.refuse(at+".range", fmt.Sprintf("%d to %d", port.Range.Start, port.Range.End), "a start before the end")
				}
				ports = append(ports, portOf{protocol, c.portRange(at+".range.start", at+".range.end", port.Range.Start, port.Range.End)})
			default:
				ports = append(ports, portOf{protocol, c.portRange(at+".number", at+".number", port.Number, port.Number)})
			}
		}
		if p.TCP != nil {
			one("tcp", policy.TCPProtocol, p.TCP.DestinationPort)
		}
		if p.UDP != nil {
			one("udp", policy.UDPProtocol, p.UDP.DestinationPort)
		}
		if p.SCTP != nil {
			one("sctp", policy.SCTPProtocol, p.SCTP.DestinationPort)
		}
		if p.DestinationNamedPort != "" {
			set++
			if problems := validation.IsValidPortName(p.DestinationNamedPort); len(problems) > 0 {
				// No container can have a port of this name.
				c.note(Partly, at+".destinationNamedPort", p.DestinationNamedPort, "no port has this name: "+strings.Join(problems, ", "))
			}
			named = append(named, policy.Port{Name: p.DestinationNamedPort})
		}
		switch {
		case set > 1:
			c.refuse(at, "several fields", "one of tcp, udp, sctp and destinationNamedPort")
		case set == 0:
			c.unknown = at
		}
	}
	out := traffic(ports)
	if len(named) > 0 {
		out = append(out, policy.Traffic{
			Protocols:        protocols(policy.TCPProtocol, policy.UDPProtocol, policy.SCTPProtocol),
			DestinationPorts: named,
		})
	}
	return out
}
