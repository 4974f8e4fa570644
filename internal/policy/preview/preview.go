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

// A World is policies, and the cluster that they are about.
type World struct {
	Set     policy.Set
	Cluster policy.Cluster
}

// A Change is traffic of which the answer is another.
type Change struct {
	From, To End
	// Family is 4 or 6; 0: whichever both ends have.
	Family        uint8
	Traffic       Traffic
	Before, After Verdict
}

// Cut says whether the Change takes away what was allowed; otherwise it allows what was denied.
func (c Change) Cut() bool { return c.Before.Action == policy.Allow }

// An End is whom connections are from, or go to, as far as they change alike: pods of a group,
// nodes, or addresses of neither.
type End struct {
	Name string
	// Pods, in order; nil for other ends.
	Pods []policy.NamespacedName
	// Hosts are addresses of nodes and of pods of their network.
	Hosts []netip.Addr
	// Networks are outside. Addresses in them that are a pod's or a node's are not meant.
	Networks []netip.Prefix
}

// A Verdict is an answer, and what decides it at the ends that deny before or after.
type Verdict struct {
	Action policy.Action // Allow or Deny
	// By is indexed by Direction: Egress is at the pod that opens the connection. The zero
	// value: this end denies neither before nor after.
	By [2]By
}

// By is what decides at one end; its fields are as those of policy.Decision.
type By struct {
	Action policy.Action // 0: nothing is said of this end
	Reason policy.Reason
	Tier   string
	Rule   policy.RuleID
}

func (b By) String() string {
	switch b.Reason {
	case policy.ByRule:
		return fmt.Sprintf("%s by %s, tier %s", b.Action, b.Rule, b.Tier)
	case policy.ByTier:
		return fmt.Sprintf("%s by the end of tier %s", b.Action, b.Tier)
	case policy.Closed:
		return fmt.Sprintf("%s: too many rules", b.Action)
	}
	return fmt.Sprintf("%s by no policy", b.Action)
}

// Strings is what decides, with the end where it does.
func (v Verdict) Strings() (list []string) {
	for _, d := range []policy.Direction{policy.Egress, policy.Ingress} {
		if v.By[d].Action != 0 {
			list = append(list, fmt.Sprintf("%s %s", d, v.By[d]))
		}
	}
	return list
}

// Compare finds what changes. Pods and nodes are those of before and are the same after; other
// objects of the cluster may differ. Of a pod's addresses only the first of each family counts.
// Group names a pod's group; pods of one group are one End where they can be. An error is one of
// package compile: a cluster that cannot be.
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

// all is the node that every pod is on, so that its part is the cluster's.
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

// The families, as compile counts them.
const families = 2

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// stand is where an End stands in both worlds, in one family.
type stand struct {
	has      bool
	ruleSets [2][2]compile.Hash // world, direction
	places   [2]compile.Place   // world
}

// unit is an End all of whose addresses stand alike.
type unit struct {
	End
	group  string // of what it may be one End with others
	stands [families]stand
}

// The groups of units that are no pods; a group of pods begins otherwise.
const (
	groupHosts   = "hosts"
	groupOutside = "outside"
	groupPods    = "pods "
)

// ask is the tables that a rule set has for an address; the zero value: nobody judges.
type ask struct{ table, byDefault compile.Hash }

// question is who judges a connection, in both worlds and directions.
type question [2][2]ask

// answer is traffic that changes.
type answer struct {
	traffic       Traffic
	before, after Verdict
}

type comparer struct {
	nodes   [2]*compile.Node
	units   []*unit
	answers map[question][]answer
	// count has how many units each group of pods has; hostNames what addresses of hosts are
	// called, and hostCount how many there are.
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

// judged says whether policies hold for a pod.
func judged(p *policy.Pod) bool { return !p.HostNetwork && !p.Ended }

// pods makes units of pods.
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

// list is the first names of a list.
func list(names []string, most int) string {
	if more := len(names) - most; more > 0 {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", more)
	}
	return strings.Join(names, ", ")
}

// hosts makes units of nodes, and returns the addresses that pods and nodes have.
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

// outside makes units of all other addresses.
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

// at is where addresses stand from here on that are no pod's and no node's.
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

// same is what changes may have in common: from or to being one unit, or all that may be joined.
type same struct {
	from, to      string
	family        uint8
	traffic       string
	before, after Verdict
}

// row is a Change before its ends have names: from each of these units to each of those.
type row struct {
	from, to []int // of the comparer's units
	Change
}

func (r row) same(from, to string) same {
	return same{from, to, r.Family, r.Traffic.String(), r.Before, r.After}
}

// pairs asks of every two ends, of which at least one is judged.
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
	// Units of one group to the same unit are one end, and then units of one group from the
	// same end.
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
			k.family = 6 // of both families, these can be one
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

// join makes one of rows that have a key in common.
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

// id tells ends apart, whatever the family.
func (c *comparer) id(units []int, e End) string {
	if e.Pods != nil {
		return fmt.Sprint(units)
	}
	return e.Name
}

// end is one End of units of one group, and of one family if they are no pods.
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

// outsideName names networks, or those that are left out, whichever is less.
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

// lacks says whether the end is of pods without an address of the family.
func (u *unit) lacks(f int) bool { return u.Pods != nil && !u.stands[f].has }

// join adds the addresses of another family.
func (e *End) join(o End) {
	if e.Pods == nil {
		e.Hosts = slices.Concat(e.Hosts, o.Hosts)
		e.Networks = slices.Concat(e.Networks, o.Networks)
	}
}

func (c *comparer) ask(from, to stand, egress, ingress bool) []answer {
	var q question
	for w, n := range c.nodes {
		if egress {
			q[w][policy.Egress] = askOf(n, from.ruleSets[w][policy.Egress], to.places[w])
		}
		if ingress {
			q[w][policy.Ingress] = askOf(n, to.ruleSets[w][policy.Ingress], from.places[w])
		}
	}
	if q[0] == q[1] {
		return nil
	}
	a, ok := c.answers[q]
	if !ok {
		a = c.answer(q)
		c.answers[q] = a
	}
	return a
}

// askOf is where compile.Maps.Lookup looks.
func askOf(n *compile.Node, ruleSet compile.Hash, p compile.Place) ask {
	table, ok := n.Peers[compile.Peer{RuleSet: ruleSet, Atom: p.Atom}]
	if !ok && p.Base != p.Atom {
		table = n.Peers[compile.Peer{RuleSet: ruleSet, Atom: p.Base}]
	}
	kind := 0
	if p.Pod {
		kind = 1
	}
	return ask{table, n.RuleSets[ruleSet].Defaults[kind]}
}

// answer cuts the intervals of all tables against each other, and asks of each piece.
func (c *comparer) answer(q question) []answer {
	var out []answer
	for class := compile.TCP; class <= compile.Other; class++ {
		var lines [2][2][2]compile.Line // world, direction, and table or default table
		var starts []int
		for w := range q {
			for d, a := range q[w] {
				if a == (ask{}) {
					continue
				}
				for i, h := range []compile.Hash{a.table, a.byDefault} {
					if t := c.nodes[w].Tables[h]; t != nil {
						lines[w][d][i] = t.Lines[class]
					}
					for _, s := range lines[w][d][i] {
						starts = append(starts, int(s.From))
					}
				}
			}
		}
		last := 0xffff
		if class == compile.Other {
			last = 0xff
		}
		for _, n := range cells(starts, last) {
			if class == compile.Other && !slices.ContainsFunc(others, func(p uint16) bool { return n.from <= p && p <= n.to }) {
				continue
			}
			var sources []int
			for w := range lines {
				for d := range lines[w] {
					for _, l := range lines[w][d] {
						if s := spanAt(l, n.from); s.Sources != nil {
							for _, by := range *s.Sources {
								sources = append(sources, int(by.From))
							}
						}
					}
				}
			}
			for _, s := range cells(sources, 0xffff) {
				var v [2]Verdict
				for w := range v {
					v[w].Action = policy.Allow
					for d := range q[w] {
						if q[w][d] == (ask{}) {
							continue
						}
						by := decide(lines[w][d], n.from, s.from)
						v[w].By[d] = by
						if by.Action != policy.Allow {
							v[w].Action = policy.Deny
						}
					}
				}
				if v[0].Action == v[1].Action {
					continue
				}
				for d := range v[0].By {
					if v[0].By[d].Action != policy.Deny && v[1].By[d].Action != policy.Deny {
						v[0].By[d], v[1].By[d] = By{}, By{}
					}
				}
				span := Span{class, n.from, n.to, s.from, s.to}
				i := slices.IndexFunc(out, func(a answer) bool { return a.before == v[0] && a.after == v[1] })
				if i < 0 {
					i = len(out)
					out = append(out, answer{before: v[0], after: v[1]})
				}
				out[i].traffic = out[i].traffic.append(span)
			}
		}
	}
	return out
}

type cell struct{ from, to uint16 }

// cells are the numbers up to the last, cut where something begins.
func cells(starts []int, last int) (out []cell) {
	starts = append(starts, 0)
	slices.Sort(starts)
	starts = slices.Compact(starts)
	for i, from := range starts {
		if from > last {
			break
		}
		to := last
		if i+1 < len(starts) {
			to = min(last, starts[i+1]-1)
		}
		out = append(out, cell{uint16(from), uint16(to)})
	}
	return out
}

func spanAt(l compile.Line, number uint16) compile.Span {
	i, found := slices.BinarySearchFunc(l, number, func(s compile.Span, n uint16) int { return cmp.Compare(s.From, n) })
	if !found {
		i--
	}
	if i < 0 {
		return compile.Span{}
	}
	return l[i]
}

// decide is what compile.Maps.Lookup finds: of the table and the default table, the lower
// level wins.
func decide(lines [2]compile.Line, number, source uint16) By {
	var of [2]compile.Span
	for i, l := range lines {
		of[i] = spanAt(l, number)
		if of[i].Sources != nil {
			of[i] = spanAt(*of[i].Sources, source)
		}
	}
	d := of[1].Decision
	if of[0].Decision != nil && (of[0].Level == 0 || of[0].Level < of[1].Level) {
		d = of[0].Decision
	}
	return By{d.Action, d.Reason, d.Tier, d.Rule}
}
