package preview

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
)

// Compare returns what changes. Pods and nodes must be equal in before and after; other objects
// of the cluster may differ. Only the first address of each family of a pod counts. group
// returns the name of a pod's group; pods of one group become one End where possible. An error
// is one of package compile: the cluster is not valid.
func Compare(before, after World, group func(*policy.Pod) string) ([]Change, error) {
	c := &comparer{answers: map[question][]answer{}, count: map[string]int{}, hostNames: map[netip.Addr]string{}}
	for i, w := range []World{before, after} {
		n, err := tables(w)
		if err != nil {
			return nil, err
		}
		c.nodes[i] = n
	}
	c.pods(before.Cluster, group)
	known := c.hosts(before.Cluster)
	c.outside(known)
	found := c.pairs()
	slices.SortStableFunc(found, func(a, b Change) int {
		return cmp.Or(
			cmp.Compare(a.Before.Action, b.Before.Action),
			strings.Compare(a.From.Name, b.From.Name),
			strings.Compare(a.To.Name, b.To.Name),
			cmp.Compare(a.Family, b.Family),
			slices.CompareFunc(a.Traffic, b.Traffic, Span.compare),
		)
	})
	return found, nil
}

// all is the name of a node with all pods, so that its part has the whole cluster.
const all = "all"

func tables(w World) (*compile.Node, error) {
	cluster := w.Cluster
	cluster.Pods = map[policy.NamespacedName]*policy.Pod{}
	for name, p := range w.Cluster.Pods {
		moved := *p
		moved.Node = all
		cluster.Pods[name] = &moved
	}
	c, err := compile.Compile(w.Set, cluster, compile.DefaultBudget)
	if err != nil {
		return nil, err
	}
	return c.ForNode(all), nil
}

// Number of families, as in package compile.
const families = 2

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// stand is the position of an End in the tables of both worlds, for one family.
type stand struct {
	has      bool
	ruleSets [2][2]compile.Hash // by world and direction
	places   [2]compile.Place   // by world
}

// unit is an End whose addresses all have the same position in the tables.
type unit struct {
	End
	group  string // units of one group can become one End
	stands [families]stand
}

// Groups of units that are no pods. Groups of pods start with another prefix.
const (
	groupHosts   = "hosts"
	groupOutside = "outside"
	groupPods    = "pods "
)

// ask has the tables that a rule set uses for an address. The zero value means that no policy
// applies.
type ask struct{ table, byDefault compile.Hash }

// question says which tables judge a connection, by world and direction.
type question [2][2]ask

// answer is traffic whose verdict changes.
type answer struct {
	traffic       Traffic
	before, after Verdict
}

type comparer struct {
	nodes   [2]*compile.Node
	units   []*unit
	answers map[question][]answer
	// count is the number of units of each group of pods. hostNames are the names of host
	// addresses, and hostCount how many addresses have each.
	count     map[string]int
	hostNames map[netip.Addr]string
	hostCount [families]int
	// taken are networks in which every address is a pod's or a node's.
	taken netipx.IPSetBuilder
}

func (c *comparer) stand(a netip.Addr) stand {
	s := stand{has: true}
	for w, n := range c.nodes {
		s.places[w] = placeOf(n, a)
	}
	return s
}

func placeOf(n *compile.Node, a netip.Addr) compile.Place {
	if p, ok := n.Addresses[a]; ok {
		return p
	}
	ranges := n.Ranges[familyOf(a)]
	i, found := slices.BinarySearchFunc(ranges, a, func(r compile.Range, a netip.Addr) int { return r.From.Compare(a) })
	if !found {
		i--
	}
	return compile.Place{Atom: ranges[i].Atom, Base: ranges[i].Atom}
}

// judged reports whether policies apply to a pod.
func judged(p *policy.Pod) bool { return !p.HostNetwork && !p.Ended }

// same is the key by which Changes are joined: one end is equal, or both can be joined.
type same struct {
	from, to      string
	family        uint8
	traffic       string
	before, after Verdict
}

// row is a Change whose ends are lists of units.
type row struct {
	from, to []int // indexes of the comparer's units
	Change
}

func (r row) same(from, to string) same {
	return same{from, to, r.Family, r.Traffic.String(), r.Before, r.After}
}

// pairs compares every two ends of which at least one is a pod with policies.
func (c *comparer) pairs() []Change {
	var rows []row
	for f := range families {
		for i, from := range c.units {
			for j, to := range c.units {
				if from.Pods == nil && to.Pods == nil || !from.stands[f].has || !to.stands[f].has {
					continue
				}
				family := uint8(4 + 2*f)
				if from.lacks(1-f) || to.lacks(1-f) {
					family = 0
				}
				for _, a := range c.ask(from.stands[f], to.stands[f], from.Pods != nil, to.Pods != nil) {
					rows = append(rows, row{[]int{i}, []int{j}, Change{Family: family, Traffic: a.traffic, Before: a.before, After: a.after}})
				}
			}
		}
	}
	// First join the sources of one group with equal destinations, then the destinations of one
	// group with equal sources.
	rows = join(rows, func(r row) same { return r.same(c.units[r.from[0]].group, fmt.Sprint(r.to)) }, func(r *row, o row) { r.from = append(r.from, o.from...) })
	rows = join(rows, func(r row) same { return r.same(fmt.Sprint(r.from), c.units[r.to[0]].group) }, func(r *row, o row) { r.to = append(r.to, o.to...) })
	var found []row
	for _, r := range rows {
		r.From, r.To = c.end(r.from), c.end(r.to)
		if len(r.From.Pods) == 1 && slices.Equal(r.From.Pods, r.To.Pods) {
			continue // a pod to itself
		}
		found = append(found, r)
	}
	found = join(found, func(r row) same {
		k := r.same(c.id(r.from, r.From), c.id(r.to, r.To))
		if k.family == 4 {
			k.family = 6 // families are joined here
		}
		return k
	}, func(r *row, o row) {
		r.Family = 0
		r.From.join(o.From)
		r.To.join(o.To)
	})
	var changes []Change
	for _, r := range found {
		changes = append(changes, r.Change)
	}
	return changes
}

// join merges rows with a common key.
func join(rows []row, key func(row) same, add func(*row, row)) (out []row) {
	at := map[same]int{}
	for _, r := range rows {
		k := key(r)
		if i, ok := at[k]; ok {
			add(&out[i], r)
			continue
		}
		at[k] = len(out)
		out = append(out, r)
	}
	return out
}

// id identifies an end, whatever the family.
func (c *comparer) id(units []int, e End) string {
	if e.Pods != nil {
		return fmt.Sprint(units)
	}
	return e.Name
}

// end returns the End for units of one group. If they are no pods, they are of one family.
func (c *comparer) end(units []int) (e End) {
	var nets netipx.IPSetBuilder
	for _, i := range units {
		u := c.units[i]
		e.Pods = append(e.Pods, u.Pods...)
		e.Hosts = append(e.Hosts, u.Hosts...)
		for _, n := range u.Networks {
			nets.AddPrefix(n)
		}
	}
	switch group := c.units[units[0]].group; group {
	case groupHosts:
		slices.SortFunc(e.Hosts, netip.Addr.Compare)
		e.Name = "nodes"
		if len(e.Hosts) < c.hostCount[familyOf(e.Hosts[0])] {
			var who []string
			for _, a := range e.Hosts {
				who = append(who, c.hostNames[a])
			}
			slices.Sort(who)
			e.Name += " " + list(slices.Compact(who), 3)
		}
	case groupOutside:
		set, _ := nets.IPSet()
		e.Networks = set.Prefixes()
		e.Name = c.outsideName(e.Networks, set)
	default:
		slices.SortFunc(e.Pods, compareNames)
		e.Name = strings.TrimPrefix(group, groupPods)
		if len(units) < c.count[group] {
			var names []string
			for _, p := range e.Pods {
				names = append(names, p.Name)
			}
			e.Name += fmt.Sprintf(" (%s)", list(names, 3))
		}
	}
	return e
}

// outsideName names the networks, or the excluded ones, whichever is shorter.
func (c *comparer) outsideName(nets []netip.Prefix, set *netipx.IPSet) string {
	var others netipx.IPSetBuilder
	others.AddPrefix(everywhere[familyOf(nets[0].Addr())])
	others.RemoveSet(set)
	taken, _ := c.taken.IPSet()
	others.RemoveSet(taken)
	rest, _ := others.IPSet()
	except := rest.Prefixes()
	what := ""
	switch {
	case len(except) == 0:
		return "outside"
	case len(except) < len(nets):
		nets, what = except, "except "
	}
	var texts []string
	for _, p := range nets {
		if p.IsSingleIP() {
			texts = append(texts, p.Addr().String())
		} else {
			texts = append(texts, p.String())
		}
	}
	return "outside " + what + list(texts, 4)
}

// lacks reports whether the end is pods without an address of the family.
func (u *unit) lacks(f int) bool { return u.Pods != nil && !u.stands[f].has }

// join adds the addresses of another family.
func (e *End) join(o End) {
	if e.Pods == nil {
		e.Hosts = slices.Concat(e.Hosts, o.Hosts)
		e.Networks = slices.Concat(e.Networks, o.Networks)
	}
}
