// Package lint finds probable mistakes in policies: rules that never match or are never
// reached, names that nothing has, rules that miss what they mean to deny.
//
// It reads the model and a cluster's objects. It judges no connection itself: package naive
// does. It changes nothing: a policy is enforced as it is written.
package lint

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/naive"
	"terway.dev/terway/internal/policy/translate"
)

// The checks.
const (
	NotAsWritten = "not-as-written" // a Note of package translate
	NeverMatches = "never-matches"
	Shadowed     = "shadowed"
	NoPods       = "no-pods"
	HostNetwork  = "host-network"
	NamedPort    = "named-port"
	DNS          = "dns"
	Metadata     = "metadata"
	Probes       = "probes"
	OwnENI       = "own-eni"
)

// The addresses of the metadata services of clouds.
var (
	metadataAlibaba = netip.MustParseAddr("100.100.100.200")
	metadataOthers  = netip.MustParseAddr("169.254.169.254")
)

// A Finding is a probable mistake.
type Finding struct {
	Ref   policy.Ref
	Field string // "" for the whole object
	Check string
	What  string
}

func (f Finding) String() string {
	if f.Field == "" {
		return fmt.Sprintf("%s: %s (%s)", f.Ref, f.What, f.Check)
	}
	return fmt.Sprintf("%s: %s: %s (%s)", f.Ref, f.Field, f.What, f.Check)
}

// Lint checks all policies of the objects. Without pods among the objects, it skips the checks
// that need them. Findings are in order of objects and fields.
func Lint(o translate.Objects, options translate.Options) []Finding {
	set, notes := translate.Policies(o, options)
	cluster, more := translate.Cluster(o)
	l := &linter{set: set, cluster: cluster, pods: running(cluster), loose: loose(o.Pods)}
	for _, n := range append(notes, more...) {
		value := ""
		if n.Value != "" {
			value = fmt.Sprintf("%q: ", n.Value)
		}
		l.add(n.Ref, n.Field, NotAsWritten, "%s%s (%s)", value, n.Why, n.Severity)
	}
	for _, tier := range set.Tiers {
		if tier.Name == translate.TierProbes {
			continue
		}
		for _, p := range tier.Policies {
			l.policy(p)
			if options.AllowLoadBalancerProbes {
				l.probes(p)
			}
		}
	}
	if len(cluster.Pods) > 0 {
		l.dns()
	}
	slices.SortStableFunc(l.found, func(a, b Finding) int {
		return cmp.Or(strings.Compare(a.Ref.Kind, b.Ref.Kind), strings.Compare(a.Ref.Namespace, b.Ref.Namespace), strings.Compare(a.Ref.Name, b.Ref.Name), strings.Compare(a.Field, b.Field))
	})
	return l.found
}

type linter struct {
	set     policy.Set
	cluster policy.Cluster
	// pods are all that have not ended, by name.
	pods []*policy.Pod
	// loose are the pods that are not held to policies at an ENI of their own.
	loose map[policy.NamespacedName]bool
	found []Finding
}

func (l *linter) add(ref policy.Ref, field, check, format string, args ...any) {
	l.found = append(l.found, Finding{ref, field, check, fmt.Sprintf(format, args...)})
}

func (l *linter) policy(p policy.Policy) {
	pods := len(l.cluster.Pods) > 0
	var subjects []*policy.Pod
	if pods {
		var host []string
		for _, pod := range l.pods {
			if !l.labels(p.Subject, pod) {
				continue
			}
			if pod.HostNetwork {
				host = append(host, pod.String())
			} else {
				subjects = append(subjects, pod)
			}
		}
		// A policy that selects all pods means those that are not in the host network.
		if len(host) > 0 && !p.Subject.Pods.Always() {
			l.add(p.Ref, "", HostNetwork, "selects %s of the host network, to which no policy applies", list(host))
		}
		if len(subjects) == 0 && len(host) == 0 {
			l.add(p.Ref, "", NoPods, "selects no pod")
		}
		l.ownENIs(p, subjects)
	}
	for d, rules := range p.Rules {
		direction := policy.Direction(d)
		if !p.Directions[d] {
			continue
		}
		seen := map[string]int{}
		end := -1 // index of the rule that matches everything
		for _, r := range rules {
			field := fmt.Sprintf("spec.%s[%d]", direction, r.Number)
			if why := never(r); why != "" {
				l.add(p.Ref, field, NeverMatches, "never matches: %s", why)
				continue
			}
			text := conditions(r)
			if end >= 0 {
				l.add(p.Ref, field, Shadowed, "is never reached: rule %d matches everything", end)
			} else if first, ok := seen[text]; ok {
				l.add(p.Ref, field, Shadowed, "is never reached: rule %d matches the same", first)
			}
			if r.Action != policy.Log {
				if _, ok := seen[text]; !ok {
					seen[text] = r.Number
				}
				if text == "" && end < 0 {
					end = r.Number
				}
			}
			if pods {
				l.namedPorts(p, direction, r, field, subjects)
				l.nobody(p, field, "the pod's own end", r.Self)
				for _, m := range r.Peers {
					l.nobody(p, field, "the other end", m)
				}
			}
			l.metadata(p, r, field)
		}
	}
}

// running returns all pods that have not ended, by name.
func running(c policy.Cluster) []*policy.Pod {
	list := slices.DeleteFunc(slices.Collect(maps.Values(c.Pods)), func(p *policy.Pod) bool { return p.Ended })
	slices.SortFunc(list, func(a, b *policy.Pod) int { return strings.Compare(a.String(), b.String()) })
	return list
}

// labels reports whether the selector selects the pod, also if the pod is in the host network.
func (l *linter) labels(s policy.PodSelector, p *policy.Pod) bool {
	account := policy.NamespacedName{Namespace: p.Namespace, Name: p.ServiceAccount}
	return (s.Namespace == "" || s.Namespace == p.Namespace) &&
		s.Namespaces.Matches(l.cluster.NamespaceLabels(p.Namespace)) &&
		s.Pods.Matches(l.cluster.PodLabels(p)) &&
		(s.ServiceAccountNames == nil || slices.Contains(s.ServiceAccountNames, p.ServiceAccount)) &&
		s.ServiceAccounts.Matches(l.cluster.ServiceAccountLabels(account))
}

// nobody finds selectors of one end of a rule's connections that select no pod, and no network set where they may.
func (l *linter) nobody(p policy.Policy, field, end string, m policy.Match) {
	for _, s := range m.In {
		if s.Pods == nil || s.Nodes != nil || s.Service != nil || len(s.Nets) > 0 {
			continue
		}
		wants := selectorText(*s.Pods)
		if wants == "" || l.networkSets(s.NetworkSets) || slices.ContainsFunc(l.pods, func(pod *policy.Pod) bool { return !pod.HostNetwork && l.labels(*s.Pods, pod) }) {
			continue
		}
		if s.Pods.Namespace != "" {
			wants += ", namespace " + s.Pods.Namespace
		}
		l.add(p.Ref, field, NoPods, "no pod outside the host network is at %s: want %s", end, wants)
	}
}

// networkSets reports whether the selector selects one.
func (l *linter) networkSets(s *policy.NetworkSetSelector) bool {
	for name := range l.cluster.NetworkSets {
		if s != nil && s.Sets.Matches(l.cluster.NetworkSetLabels(name)) && (name.Namespace == "" && s.Global && s.Namespace == "" ||
			name.Namespace != "" && s.Namespaced && (s.Namespace == "" || s.Namespace == name.Namespace) && s.Namespaces.Matches(l.cluster.NamespaceLabels(name.Namespace))) {
			return true
		}
	}
	return false
}

// namedPorts finds port names that no pod at that end of the connection declares.
func (l *linter) namedPorts(p policy.Policy, d policy.Direction, r policy.Rule, field string, subjects []*policy.Pod) {
	if len(subjects) == 0 {
		return
	}
	for _, t := range r.Traffic {
		ask := func(ports []policy.Port, own bool) {
			candidates := subjects
			if !own {
				candidates = l.pods
			}
			for _, port := range ports {
				if port.Name != "" && !slices.ContainsFunc(candidates, func(pod *policy.Pod) bool {
					return slices.ContainsFunc(pod.Ports, func(n policy.NamedPort) bool {
						return n.Name == port.Name && (t.Protocols == nil || t.Protocols[n.Protocol])
					})
				}) {
					whose := "no pod"
					if own {
						whose = "no pod that the policy selects"
					}
					l.add(p.Ref, field, NamedPort, "port %q: %s has a port of this name and protocol", port.Name, whose)
				}
			}
		}
		ask(slices.Concat(t.DestinationPorts, t.NotDestinationPorts), d == policy.Ingress)
		ask(slices.Concat(t.SourcePorts, t.NotSourcePorts), d == policy.Egress)
	}
}

// metadata finds rules about the metadata service that have only the address of other clouds.
func (l *linter) metadata(p policy.Policy, r policy.Rule, field string) {
	has := func(sets []policy.AddrSet, a netip.Addr) bool {
		return slices.ContainsFunc(sets, func(s policy.AddrSet) bool {
			return slices.ContainsFunc(s.Nets, func(n netip.Prefix) bool { return n.Contains(a) })
		})
	}
	for _, m := range r.Peers {
		if r.Action == policy.Allow && has(m.In, metadataAlibaba) && has(m.NotIn, metadataOthers) && !has(m.NotIn, metadataAlibaba) {
			l.add(p.Ref, field, Metadata, "excludes %s but not %s, the metadata service of Alibaba Cloud", metadataOthers, metadataAlibaba)
		}
		if r.Action == policy.Deny && has(m.In, metadataOthers) && !has(m.In, metadataAlibaba) && !l.deniesNet(p, metadataAlibaba) {
			l.add(p.Ref, field, Metadata, "denies %s, but the policy does not deny %s, the metadata service of Alibaba Cloud", metadataOthers, metadataAlibaba)
		}
	}
}

func (l *linter) deniesNet(p policy.Policy, a netip.Addr) bool {
	for _, r := range p.Rules[policy.Egress] {
		for _, m := range r.Peers {
			for _, s := range m.In {
				if r.Action == policy.Deny && slices.ContainsFunc(s.Nets, func(n netip.Prefix) bool { return n.Contains(a) }) {
					return true
				}
			}
		}
	}
	return false
}

// probes finds rules that deny the load balancers' health checks without effect, because a
// setting allows these before any rule.
func (l *linter) probes(p policy.Policy) {
	for _, r := range p.Rules[policy.Ingress] {
		for _, m := range r.Peers {
			for _, s := range m.In {
				if r.Action == policy.Deny && slices.ContainsFunc(s.Nets, func(n netip.Prefix) bool {
					return n.Bits() >= translate.LoadBalancerProbes.Bits() && translate.LoadBalancerProbes.Contains(n.Addr())
				}) {
					l.add(p.Ref, fmt.Sprintf("spec.ingress[%d]", r.Number), Probes, "denies nothing: %s lets %s in before any rule", translate.SettingProbes, translate.LoadBalancerProbes)
				}
			}
		}
	}
}

// dns finds pods that cannot reach the cluster's DNS.
func (l *linter) dns() {
	var servers []*policy.Pod
	for _, p := range l.pods {
		if app := p.Labels["k8s-app"]; (app == "kube-dns" || app == "coredns") && !p.HostNetwork && len(p.Addresses) > 0 {
			servers = append(servers, p)
		}
	}
	type finding struct{ pods, servers []string }
	cut := map[policy.Ref]finding{}
	for _, p := range l.pods {
		if p.HostNetwork || len(p.Addresses) == 0 || slices.Contains(servers, p) {
			continue
		}
		for _, s := range servers {
			c := policy.Connection{
				Pod: p.NamespacedName, Direction: policy.Egress, Own: p.Addresses[0], Peer: s.Addresses[0],
				Protocol: policy.UDPProtocol, SourcePort: 40000, DestinationPort: 53,
			}
			if c.Own.Is4() != c.Peer.Is4() {
				continue
			}
			if d, _ := naive.Decide(l.set, l.cluster, c); d.Action == policy.Deny {
				ref := l.who(d, p)
				f := cut[ref]
				if !slices.Contains(f.pods, p.String()) {
					f.pods = append(f.pods, p.String())
				}
				if !slices.Contains(f.servers, s.String()) {
					f.servers = append(f.servers, s.String())
				}
				cut[ref] = f
			}
		}
	}
	for ref, f := range cut {
		l.add(ref, "", DNS, "%s cannot reach the cluster's DNS (%s, UDP 53)", list(f.pods), list(f.servers))
	}
}

// who returns the policy that denies: the one with the rule, or one of the tier that selects
// the pod.
func (l *linter) who(d policy.Decision, p *policy.Pod) policy.Ref {
	if d.Reason == policy.ByRule {
		return d.Rule.Policy
	}
	for _, tier := range l.set.Tiers {
		for _, one := range tier.Policies {
			if tier.Name == d.Tier && one.Directions[policy.Egress] && l.labels(one.Subject, p) {
				return one.Ref
			}
		}
	}
	return policy.Ref{Kind: translate.KindTier, Name: d.Tier}
}

func list(names []string) string {
	if len(names) > 3 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:3], ", "), len(names)-3)
	}
	return strings.Join(names, ", ")
}

// never returns why a rule matches no connection in any cluster, or "" if it finds no reason. A
// rule whose peers translate made empty has a Note instead.
func never(r policy.Rule) string {
	if r.Peers != nil && len(r.Peers) == 0 {
		return ""
	}
	if why := noAddress(r.Self, r.Family); why != "" {
		return "no address of the pod: " + why
	}
	if why := nowhere(r.Peers, func(m policy.Match) string { return noAddress(m, r.Family) }); why != "" {
		return "no address of the other end: " + why
	}
	return nowhere(r.Traffic, noTraffic)
}

// nowhere returns why none of several alternatives can match.
func nowhere[T any](list []T, why func(T) string) (all string) {
	for _, one := range list {
		all = why(one)
		if all == "" {
			return ""
		}
	}
	return all
}

func noAddress(m policy.Match, family uint8) string {
	for _, s := range m.In {
		if s.Nodes != nil || s.Service != nil {
			continue
		}
		pods := s.Pods != nil && !s.Pods.Namespaces.Never() && !s.Pods.Pods.Never() && !s.Pods.ServiceAccounts.Never()
		sets := s.NetworkSets != nil && !s.NetworkSets.Sets.Never() && (s.NetworkSets.Global || s.NetworkSets.Namespaced && !s.NetworkSets.Namespaces.Never())
		if pods || sets {
			continue
		}
		var b netipx.IPSetBuilder
		for _, n := range s.Nets {
			if family == 0 || n.Addr().Is4() == (family == 4) {
				b.AddPrefix(n)
			}
		}
		before, _ := b.IPSet()
		if len(before.Ranges()) == 0 {
			if len(s.Nets) > 0 {
				return fmt.Sprintf("the networks are not of IPv%d", family)
			}
			return "the selectors contradict themselves"
		}
		for _, not := range m.NotIn {
			for _, n := range not.Nets {
				b.RemovePrefix(n)
			}
		}
		if left, _ := b.IPSet(); len(left.Ranges()) == 0 {
			return "what is excluded is all of the networks"
		}
	}
	return ""
}

func noTraffic(t policy.Traffic) string {
	if t.Protocols != nil && *t.Protocols == ([256]bool{}) {
		return "the protocol is excluded"
	}
	for _, p := range [][2][]policy.Port{{t.SourcePorts, t.NotSourcePorts}, {t.DestinationPorts, t.NotDestinationPorts}} {
		if len(p[0]) > 0 && !slices.ContainsFunc(p[0], func(in policy.Port) bool {
			return !slices.ContainsFunc(p[1], func(not policy.Port) bool {
				return in.Name == "" && not.Name == "" && not.From <= in.From && in.To <= not.To || in.Name != "" && in.Name == not.Name
			})
		}) {
			return "all ports are excluded"
		}
	}
	if t.ICMP != nil && t.NotICMP != nil && t.ICMP.Type == t.NotICMP.Type && (t.NotICMP.Code == -1 || t.NotICMP.Code == t.ICMP.Code) {
		return "the type of ICMP is excluded"
	}
	return ""
}
