package preview

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
)

// pods adds a unit for each pod.
func (c *comparer) pods(cluster policy.Cluster, group func(*policy.Pod) string) {
	type key struct {
		group  string
		stands [families]stand
	}
	units := map[key]*unit{}
	for _, name := range slices.SortedFunc(maps.Keys(cluster.Pods), compareNames) {
		p := cluster.Pods[name]
		if !judged(p) || len(p.Addresses) == 0 {
			continue
		}
		k := key{group: group(p)}
		for _, a := range p.Addresses {
			f := familyOf(a)
			if k.stands[f].has {
				continue
			}
			s := c.stand(a)
			for w, n := range c.nodes {
				for d := range s.ruleSets[w] {
					s.ruleSets[w][d] = n.Endpoints[name].RuleSets[d][f]
				}
			}
			k.stands[f] = s
		}
		u := units[k]
		if u == nil {
			u = &unit{group: groupPods + k.group, stands: k.stands}
			units[k] = u
			c.units = append(c.units, u)
			c.count[u.group]++
		}
		u.Pods = append(u.Pods, name)
	}
}

func compareNames(a, b policy.NamespacedName) int {
	return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}

// list returns at most the first names of a list.
func list(names []string, most int) string {
	if more := len(names) - most; more > 0 {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", more)
	}
	return strings.Join(names, ", ")
}

// hosts adds units for nodes, and returns the addresses of pods and nodes.
func (c *comparer) hosts(cluster policy.Cluster) *netipx.IPSet {
	var known netipx.IPSetBuilder
	names := c.hostNames
	for name, p := range cluster.Pods {
		for _, a := range p.Addresses {
			switch {
			case judged(p):
				known.Add(a)
			case p.HostNetwork && !p.Ended && (names[a] == "" || name.String() < names[a]):
				names[a] = name.String()
			}
		}
	}
	for name, n := range cluster.Nodes {
		for _, a := range n.Addresses {
			names[a] = name
		}
	}
	pods, _ := known.IPSet()
	units := map[[families]stand]*unit{}
	for _, a := range slices.SortedFunc(maps.Keys(names), netip.Addr.Compare) {
		known.Add(a)
		if pods.Contains(a) {
			continue
		}
		f := familyOf(a)
		c.hostCount[f]++
		var k [families]stand
		k[f] = c.stand(a)
		u := units[k]
		if u == nil {
			u = &unit{group: groupHosts, stands: k}
			units[k] = u
			c.units = append(c.units, u)
		}
		u.Hosts = append(u.Hosts, a)
	}
	set, _ := known.IPSet()
	return set
}

// outside adds units for all other addresses.
func (c *comparer) outside(known *netipx.IPSet) {
	builders := map[stand]*netipx.IPSetBuilder{}
	at := func(s stand) *netipx.IPSetBuilder {
		if builders[s] == nil {
			builders[s] = &netipx.IPSetBuilder{}
		}
		return builders[s]
	}
	singles := map[netip.Addr]struct{}{}
	for _, n := range c.nodes {
		for a := range n.Addresses {
			if !known.Contains(a) {
				singles[a] = struct{}{}
			}
		}
	}
	for f := range families {
		var starts []netip.Addr
		for _, n := range c.nodes {
			for _, r := range n.Ranges[f] {
				starts = append(starts, r.From)
			}
		}
		for a := range singles {
			if familyOf(a) == f {
				starts = append(starts, a)
				if next := a.Next(); next.IsValid() {
					starts = append(starts, next)
				}
			}
		}
		slices.SortFunc(starts, netip.Addr.Compare)
		starts = slices.Compact(starts)
		for i, from := range starts {
			to := netipx.RangeOfPrefix(everywhere[f]).To()
			if i+1 < len(starts) {
				to = starts[i+1].Prev()
			}
			s := c.at(from, singles)
			at(s).AddRange(netipx.IPRangeFrom(from, to))
		}
		for s, b := range builders {
			c.outsideOf(f, s, b, known)
		}
		clear(builders)
	}
}

// at returns the position of addresses from a on that are no pod's or node's.
func (c *comparer) at(a netip.Addr, singles map[netip.Addr]struct{}) stand {
	if _, ok := singles[a]; ok {
		return c.stand(a)
	}
	s := stand{has: true}
	for w, n := range c.nodes {
		ranges := compile.Node{Ranges: n.Ranges}
		s.places[w] = placeOf(&ranges, a)
	}
	return s
}

var everywhere = [families]netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}

func (c *comparer) outsideOf(f int, s stand, b *netipx.IPSetBuilder, known *netipx.IPSet) {
	set, _ := b.IPSet()
	rest := *b
	rest.RemoveSet(known)
	if free, _ := rest.IPSet(); len(free.Ranges()) == 0 {
		c.taken.AddSet(set)
		return
	}
	u := &unit{group: groupOutside, End: End{Networks: set.Prefixes()}}
	u.stands[f] = s
	c.units = append(c.units, u)
}
