package translate

import (
	"fmt"
	"math"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/util/intstr"

	v3 "terway.dev/terway/api/calico/v3"
	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/selector"
)

// Limits of the API projectcalico.org/v3.
const (
	calicoRules    = 1024
	calicoNets     = 256
	calicoPorts    = 50
	calicoSelector = 1024 // characters
)

// CalicoPolicy translates Calico's NetworkPolicy. It returns nil if the policy is refused.
func CalicoPolicy(np *v3.NetworkPolicy) (*Placed, []Note) {
	r := &report{ref: ref(KindCalicoPolicy, np)}
	if np.Namespace == "" {
		r.refuse("metadata.namespace", "", "the name of a namespace")
	}
	return r.calico(&np.Spec)
}

// GlobalNetworkPolicy translates Calico's GlobalNetworkPolicy. It returns nil if the policy is
// refused, or is of a kind that does not apply to pods.
func GlobalNetworkPolicy(gnp *v3.GlobalNetworkPolicy) (*Placed, []Note) {
	r := &report{ref: ref(KindGlobalNetworkPolicy, gnp)}
	p, _ := r.calico(&gnp.Spec.PolicySpec)
	if text := gnp.Spec.NamespaceSelector; text != "" {
		s := r.selector("spec.namespaceSelector", text)
		if p != nil {
			p.Policy.Subject.Namespaces = s
		}
	}
	for _, f := range []struct {
		field string
		on    bool
	}{{"spec.doNotTrack", gnp.Spec.DoNotTrack}, {"spec.preDNAT", gnp.Spec.PreDNAT}} {
		if f.on && !gnp.Spec.ApplyOnForward {
			r.refuse(f.field, true, "spec.applyOnForward: true beside it")
		}
		if f.on {
			r.note(Partly, f.field, true, "such a policy is for host endpoints alone, which are not enforced: it does nothing")
		}
	}
	if gnp.Spec.DoNotTrack && gnp.Spec.PreDNAT {
		r.refuse("spec.preDNAT", true, "no spec.doNotTrack beside it")
	}
	if gnp.Spec.PreDNAT && len(gnp.Spec.Egress) > 0 {
		r.refuse("spec.egress", fmt.Sprintf("%d rules", len(gnp.Spec.Egress)), "none with spec.preDNAT")
	}
	if gnp.Spec.ApplyOnForward && !gnp.Spec.DoNotTrack && !gnp.Spec.PreDNAT {
		r.note(Partly, "spec.applyOnForward", true, "what nodes forward is judged at pods alone; host endpoints are not enforced")
	}
	if r.refused() || gnp.Spec.DoNotTrack || gnp.Spec.PreDNAT {
		return nil, r.notes
	}
	return p, r.notes
}

// calico translates the fields that both kinds have.
func (r *report) calico(spec *v3.PolicySpec) (*Placed, []Note) {
	p := policy.Policy{
		Ref: r.ref,
		Subject: policy.PodSelector{
			Namespace:       r.ref.Namespace,
			Pods:            r.selector("spec.selector", spec.Selector),
			ServiceAccounts: r.selector("spec.serviceAccountSelector", spec.ServiceAccountSelector),
		},
	}
	switch ingress, egress := len(spec.Ingress) > 0, len(spec.Egress) > 0; {
	case len(spec.Types) > 0:
	case ingress || !egress:
		p.Directions = [2]bool{policy.Ingress: true, policy.Egress: egress}
	default:
		p.Directions[policy.Egress] = true
	}
	for i, t := range spec.Types {
		switch t {
		case v3.PolicyTypeIngress:
			p.Directions[policy.Ingress] = true
		case v3.PolicyTypeEgress:
			p.Directions[policy.Egress] = true
		default:
			r.refuse(item("spec.types", i), t, "Ingress or Egress")
		}
	}
	for d, rules := range [...][]v3.Rule{policy.Ingress: spec.Ingress, policy.Egress: spec.Egress} {
		direction := policy.Direction(d)
		field := "spec." + direction.String()
		if n := len(rules); n > calicoRules {
			r.refuse(field, fmt.Sprintf("%d rules", n), fmt.Sprintf("%d at most", calicoRules))
		}
		for i := range rules {
			p.Rules[d] = append(p.Rules[d], r.calicoRule(item(field, i), i, direction, &rules[i]))
		}
		if n := len(rules); n > 0 && !p.Directions[d] {
			r.note(Partly, field, fmt.Sprintf("%d rules", n), "spec.types does not name this direction, so these rules have no effect")
		}
	}
	placed := &Placed{p, spec.Tier, math.Inf(1)}
	if placed.Tier == "" {
		placed.Tier = TierDefault
	}
	if spec.Order != nil {
		placed.Order = *spec.Order
	}
	if r.refused() {
		return nil, r.notes
	}
	return placed, r.notes
}

// selector parses a selector of labels; "" is no condition.
func (r *report) selector(at, text string) *selector.Selector {
	if text == "" || !r.length(at, text) {
		return nil
	}
	s, err := selector.Parse(text)
	if err != nil {
		r.refuse(at, text, err.Error())
	}
	return s
}

func (r *report) length(at, text string) bool {
	n := utf8.RuneCountInString(text)
	if n > calicoSelector {
		r.refuse(at, fmt.Sprintf("%d characters", n), fmt.Sprintf("%d at most", calicoSelector))
	}
	return n <= calicoSelector
}

func (r *report) calicoRule(at string, number int, d policy.Direction, from *v3.Rule) policy.Rule {
	rule := policy.Rule{Number: number}
	switch from.Action {
	case v3.Allow:
		rule.Action = policy.Allow
	case v3.Deny:
		rule.Action = policy.Deny
	case v3.Pass:
		rule.Action = policy.Pass
	case v3.Log:
		rule.Action = policy.Log
	default:
		r.refuse(at+".action", from.Action, "Allow, Deny, Log or Pass")
	}
	if v := from.IPVersion; v != nil {
		if *v != 4 && *v != 6 {
			r.refuse(at+".ipVersion", *v, "4 or 6")
		}
		rule.Family = uint8(*v)
	}

	var t policy.Traffic
	r.calicoProtocols(at, from, &t)
	t.ICMP = r.icmp(at+".icmp", from.ICMP)
	t.NotICMP = r.icmp(at+".notICMP", from.NotICMP)
	t.SourcePorts = r.calicoPorts(at+".source.ports", from.Source.Ports)
	t.NotSourcePorts = r.calicoPorts(at+".source.notPorts", from.Source.NotPorts)
	t.DestinationPorts = r.calicoPorts(at+".destination.ports", from.Destination.Ports)
	t.NotDestinationPorts = r.calicoPorts(at+".destination.notPorts", from.Destination.NotPorts)
	ports := len(t.SourcePorts) + len(t.NotSourcePorts) + len(t.DestinationPorts) + len(t.NotDestinationPorts)
	if ports > 0 && !onlyPorts(&t) {
		r.refuse(at+".protocol", text(from.Protocol), "TCP, UDP or SCTP beside ports")
	}
	if s := from.Destination.Services; s != nil {
		if len(t.DestinationPorts)+len(t.NotDestinationPorts) > 0 {
			r.refuse(at+".destination.ports", "", "no ports beside services, which have their own")
		}
		t.DestinationService = r.service(at+".destination.services", s)
	}
	if t.Protocols != nil || t.ICMP != nil || t.NotICMP != nil || ports > 0 || t.DestinationService != nil {
		rule.Traffic = []policy.Traffic{t}
	}

	source := r.entity(at+".source", &from.Source)
	destination := r.entity(at+".destination", &from.Destination)
	if s := from.Source.Services; s != nil {
		source.In = append(source.In, policy.AddrSet{Service: r.service(at+".source.services", s)})
	}
	own, peer := destination, source
	if d == policy.Egress {
		own, peer = source, destination
	}
	rule.Self = own
	if len(peer.In)+len(peer.NotIn) > 0 {
		rule.Peers = []policy.Match{peer}
	}
	if from.HTTP != nil {
		if from.Action != v3.Allow {
			r.refuse(at+".http", "", "action Allow beside it")
		}
		r.note(Partly, at+".http", "", "requests are not read: this rule matches nothing")
		rule.Peers = []policy.Match{}
	}
	return rule
}

// onlyPorts reports whether all protocols of t have ports.
func onlyPorts(t *policy.Traffic) bool {
	if t.Protocols == nil {
		return false
	}
	for p, matched := range t.Protocols {
		if matched && p != policy.TCPProtocol && p != policy.UDPProtocol && p != policy.SCTPProtocol {
			return false
		}
	}
	return true
}

func (r *report) calicoProtocols(at string, from *v3.Rule, t *policy.Traffic) {
	if from.Protocol != nil {
		if p, ok := r.calicoProtocol(at+".protocol", from.Protocol); ok {
			t.Protocols = protocols(p)
		}
	}
	if from.NotProtocol == nil {
		return
	}
	not, ok := r.calicoProtocol(at+".notProtocol", from.NotProtocol)
	if !ok {
		return
	}
	var all [256]bool
	for i := range all {
		all[i] = (t.Protocols == nil || t.Protocols[i]) && i != int(not)
	}
	t.Protocols = &all
}

// calicoProtocols are Calico's names of protocols, in lower case.
var calicoProtocols = map[string]uint8{
	"tcp": policy.TCPProtocol, "udp": policy.UDPProtocol, "sctp": policy.SCTPProtocol,
	"icmp": policy.ICMPProtocol, "icmpv6": policy.ICMPv6Protocol, "udplite": 136,
}

func (r *report) calicoProtocol(at string, p *intstr.IntOrString) (uint8, bool) {
	n := int(p.IntVal)
	if p.Type == intstr.String {
		if number, ok := calicoProtocols[strings.ToLower(p.StrVal)]; ok {
			return number, true
		}
		n, _ = strconv.Atoi(p.StrVal) // 0 if it is not a number
	}
	if n < 1 || n > 255 {
		r.refuse(at, text(p), "TCP, UDP, SCTP, UDPLite, ICMP, ICMPv6 or a number from 1 to 255")
		return 0, false
	}
	return uint8(n), true
}

func text(p *intstr.IntOrString) string {
	if p == nil {
		return ""
	}
	return p.String()
}

func (r *report) icmp(at string, f *v3.ICMPFields) *policy.ICMP {
	if f == nil || f.Type == nil && f.Code == nil {
		return nil
	}
	if f.Type == nil {
		r.refuse(at+".code", *f.Code, "a type beside it")
		return nil
	}
	i := &policy.ICMP{Type: uint8(*f.Type), Code: -1}
	if *f.Type < 0 || *f.Type > 254 {
		r.refuse(at+".type", *f.Type, "a number from 0 to 254")
	}
	if f.Code != nil {
		if *f.Code < 0 || *f.Code > 255 {
			r.refuse(at+".code", *f.Code, "a number from 0 to 255")
		}
		i.Code = int16(*f.Code)
	}
	return i
}

var (
	portRangeText = regexp.MustCompile(`^(\d+)(?::(\d+))?$`)
	portNameText  = regexp.MustCompile(`^[a-zA-Z0-9_.-]{1,128}$`)
)

func (r *report) calicoPorts(at string, list []intstr.IntOrString) (ports []policy.Port) {
	if n := len(list); n > calicoPorts {
		r.refuse(at, fmt.Sprintf("%d ports", n), fmt.Sprintf("%d at most", calicoPorts))
	}
	for i := range list {
		p, at := &list[i], item(at, i)
		s := p.String()
		m := portRangeText.FindStringSubmatch(s)
		if m == nil {
			if !portNameText.MatchString(s) {
				r.refuse(at, s, "a port from 1 to 65535, two of them as first:last, or the name of a port")
			}
			ports = append(ports, policy.Port{Name: s})
			continue
		}
		from, err := strconv.ParseUint(m[1], 10, 16)
		to := from
		if err == nil && m[2] != "" {
			to, err = strconv.ParseUint(m[2], 10, 16)
		}
		if err != nil || from == 0 || to < from {
			r.refuse(at, s, "a port from 1 to 65535, or two of them as first:last")
			continue
		}
		ports = append(ports, policy.Port{From: uint16(from), To: uint16(to)})
	}
	return ports
}

func (r *report) service(at string, s *v3.ServiceMatch) *policy.ServiceRef {
	ref := &policy.ServiceRef{Namespace: s.Namespace, Name: s.Name}
	if s.Name == "" {
		r.refuse(at+".name", "", "the name of a Service")
	}
	if ref.Namespace == "" {
		if ref.Namespace = r.ref.Namespace; ref.Namespace == "" {
			r.refuse(at+".namespace", "", "the namespace of the Service, since the policy has none")
		}
	}
	return ref
}

// entity translates the conditions on the address of one end, except services.
//
// The scopes are those of Calico. With a namespaceSelector, the selectors select in its
// namespaces. Without one, a namespaced policy selects in its own namespace; a notSelector
// alone restricts the address to the namespace too, and what notSelector excludes is excluded
// in every namespace. Without one, a global policy selects everywhere, including objects
// without a namespace.
func (r *report) entity(at string, e *v3.EntityRule) policy.Match {
	var m policy.Match
	if e.Services != nil {
		for _, f := range []struct {
			field string
			there bool
		}{
			{"namespaceSelector", e.NamespaceSelector != ""}, {"selector", e.Selector != ""}, {"notSelector", e.NotSelector != ""},
			{"serviceAccounts", e.ServiceAccounts != nil}, {"nets", len(e.Nets) > 0}, {"notNets", len(e.NotNets) > 0},
		} {
			if f.there {
				r.refuse(at+"."+f.field, "", "nothing beside services")
			}
		}
	}
	if nets := r.nets(at+".nets", e.Nets); nets != nil {
		m.In = append(m.In, policy.AddrSet{Nets: nets})
	}
	if nets := r.nets(at+".notNets", e.NotNets); nets != nil {
		m.NotIn = append(m.NotIn, policy.AddrSet{Nets: nets})
	}
	selected := r.selector(at+".selector", e.Selector)
	pods := policy.PodSelector{Pods: selected}
	sets := &policy.NetworkSetSelector{Global: true, Namespaced: true, Sets: selected}
	asked := e.Selector != ""
	switch {
	case e.NamespaceSelector != "":
		asked = true
		if r.length(at+".namespaceSelector", e.NamespaceSelector) {
			namespaces, global, err := selector.ParseNamespaces(e.NamespaceSelector)
			if err != nil {
				r.refuse(at+".namespaceSelector", e.NamespaceSelector, err.Error())
			}
			pods.Namespaces, sets.Namespaces, sets.Global = namespaces, namespaces, global
		}
	case r.ref.Namespace != "":
		asked = asked || e.NotSelector != ""
		pods.Namespace, sets.Namespace, sets.Global = r.ref.Namespace, r.ref.Namespace, false
	}
	if a := e.ServiceAccounts; a != nil && (len(a.Names) > 0 || a.Selector != "") {
		asked = true
		pods.ServiceAccounts = r.selector(at+".serviceAccounts.selector", a.Selector)
		// Network sets have no service account: they match as if it had no labels and no name.
		if len(a.Names) > 0 || !pods.ServiceAccounts.Matches(selector.Map(nil)) {
			sets = nil
		}
		if len(a.Names) > 0 {
			pods.ServiceAccountNames = a.Names
		}
	}
	if asked {
		m.In = append(m.In, policy.AddrSet{Pods: &pods, NetworkSets: sets})
	}
	if e.NotSelector != "" {
		not := r.selector(at+".notSelector", e.NotSelector)
		m.NotIn = append(m.NotIn, policy.AddrSet{
			Pods:        &policy.PodSelector{Pods: not},
			NetworkSets: &policy.NetworkSetSelector{Global: true, Namespaced: true, Sets: not},
		})
	}
	return m
}

func (r *report) nets(at string, list []string) (nets []netip.Prefix) {
	if n := len(list); n > calicoNets {
		r.refuse(at, fmt.Sprintf("%d networks", n), fmt.Sprintf("%d at most", calicoNets))
	}
	for i, text := range list {
		n, ok := networkOrAddress(text)
		if !ok {
			r.refuse(item(at, i), text, "an address, or a network such as 192.168.0.0/16 or 2001:db8::/32")
		}
		nets = append(nets, n)
	}
	return nets
}
