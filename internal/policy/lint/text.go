package lint

import (
	"fmt"
	"slices"
	"strings"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/selector"
)

// conditions writes the conditions of a rule. Rules with equal text match the same connections,
// and "" matches all.
func conditions(r policy.Rule) string {
	var b strings.Builder
	if r.Family != 0 {
		fmt.Fprintf(&b, "IPv%d; ", r.Family)
	}
	if own := match(r.Self); own != "" {
		fmt.Fprintf(&b, "own %s; ", own)
	}
	alternatives(&b, "peer", r.Peers, match)
	alternatives(&b, "traffic", r.Traffic, traffic)
	return b.String()
}

// alternatives writes a list of alternatives. If one of them has no condition, it writes
// nothing.
func alternatives[T any](b *strings.Builder, name string, list []T, text func(T) string) {
	if list == nil {
		return
	}
	var texts []string
	for _, one := range list {
		s := text(one)
		if s == "" {
			return
		}
		texts = append(texts, s)
	}
	slices.Sort(texts)
	fmt.Fprintf(b, "%s %s; ", name, strings.Join(slices.Compact(texts), " or "))
}

func match(m policy.Match) string {
	var all []string
	for _, s := range m.In {
		all = append(all, addresses(s))
	}
	for _, s := range m.NotIn {
		all = append(all, "not "+addresses(s))
	}
	slices.Sort(all)
	return strings.Join(all, " and ")
}

func addresses(s policy.AddrSet) string {
	var any []string
	if p := s.Pods; p != nil {
		any = append(any, fmt.Sprintf("pods(%s %s %s %q %s)", p.Namespace, p.Namespaces, p.Pods, p.ServiceAccountNames, p.ServiceAccounts))
	}
	if n := s.NetworkSets; n != nil {
		any = append(any, fmt.Sprintf("sets(%s %s %s %v %v)", n.Namespace, n.Namespaces, n.Sets, n.Global, n.Namespaced))
	}
	if s.Nodes != nil {
		any = append(any, fmt.Sprintf("nodes(%s)", s.Nodes))
	}
	if s.Service != nil {
		any = append(any, fmt.Sprintf("service(%s/%s)", s.Service.Namespace, s.Service.Name))
	}
	if len(s.Nets) > 0 {
		any = append(any, fmt.Sprintf("nets%s", s.Nets))
	}
	return "{" + strings.Join(any, " | ") + "}"
}

// selectorText says what pods must have to be selected, in whatever namespace; "" is nothing.
func selectorText(s policy.PodSelector) string {
	var all []string
	ask := func(what string, s *selector.Selector) {
		if !s.Always() {
			all = append(all, fmt.Sprintf("%s with %s", what, s))
		}
	}
	ask("labels", s.Pods)
	ask("a namespace", s.Namespaces)
	if s.ServiceAccountNames != nil {
		all = append(all, "service account "+strings.Join(s.ServiceAccountNames, " or "))
	}
	ask("a service account", s.ServiceAccounts)
	return strings.Join(all, ", ")
}

func traffic(t policy.Traffic) string {
	var b strings.Builder
	if t.Protocols != nil {
		b.WriteString("protocols(")
		for i, yes := range t.Protocols {
			if yes {
				fmt.Fprintf(&b, "%d,", i)
			}
		}
		b.WriteString(")")
	}
	if t.ICMP != nil {
		fmt.Fprintf(&b, "icmp%v", *t.ICMP)
	}
	if t.NotICMP != nil {
		fmt.Fprintf(&b, "noticmp%v", *t.NotICMP)
	}
	for _, p := range []struct {
		name  string
		ports []policy.Port
	}{{"from", t.SourcePorts}, {"notfrom", t.NotSourcePorts}, {"to", t.DestinationPorts}, {"notto", t.NotDestinationPorts}} {
		if p.ports != nil {
			fmt.Fprintf(&b, "%s%v", p.name, p.ports)
		}
	}
	if t.DestinationService != nil {
		fmt.Fprintf(&b, "service(%s/%s)", t.DestinationService.Namespace, t.DestinationService.Name)
	}
	return b.String()
}
