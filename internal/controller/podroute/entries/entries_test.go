package entries

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

var (
	pods    = netip.MustParsePrefix("172.20.0.0/16")
	cluster = Cluster{PodCIDR: pods, Mark: "terway-c1", Quota: 10}
)

func never(string, netip.Prefix, bool) bool { return false }

// block is the nth /24 of the pod CIDR.
func block(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 20, byte(n), 0}), 24)
}

func own(n int, instance string) Entry {
	return Entry{ID: fmt.Sprintf("rte-%d", n), Destination: block(n), Name: cluster.Mark, Instance: instance, Custom: true}
}

func node(n int) Node {
	return Node{Name: fmt.Sprintf("n%d", n), Instance: fmt.Sprintf("i-%d", n), Blocks: []netip.Prefix{block(n)}}
}

func TestStates(t *testing.T) {
	named := func(e Entry, name string) Entry { e.Name = name; return e }
	phase := func(e Entry, p Phase) Entry { e.Phase = p; return e }
	for _, x := range []struct {
		name           string
		nodes          []Node
		table          []Entry
		states         []State // of the nodes, in their order
		create, delete int
		foreign        int
	}{
		{name: "nothing", nodes: nil, table: nil},
		{name: "a new node", nodes: []Node{node(1)}, states: []State{Waiting}, create: 1},
		{name: "on its way", nodes: []Node{node(1)}, table: []Entry{phase(own(1, "i-1"), Coming)}, states: []State{Waiting}},
		{name: "there", nodes: []Node{node(1)}, table: []Entry{own(1, "i-1")}, states: []State{Routed}},
		{name: "vanishing", nodes: []Node{node(1)}, table: []Entry{phase(own(1, "i-1"), Going)}, states: []State{Waiting}, create: 1},
		{name: "a replaced instance", nodes: []Node{node(1)}, table: []Entry{own(1, "i-old")}, states: []State{Waiting}, create: 1, delete: 1},
		{name: "a node that went", table: []Entry{own(1, "i-1")}, delete: 1},
		{name: "a changed block", nodes: []Node{{Name: "n", Instance: "i-1", Blocks: []netip.Prefix{block(2)}}}, table: []Entry{own(1, "i-1")}, states: []State{Waiting}, create: 1, delete: 1},
		{name: "an instance that went", nodes: []Node{{Name: "n", Gone: true, Blocks: []netip.Prefix{block(1)}}}, table: []Entry{own(1, "i-1")}, states: []State{Destroyed}, delete: 1},
		{name: "an instance not known", nodes: []Node{{Name: "n", Blocks: []netip.Prefix{block(1)}}}, table: []Entry{own(1, "i-1")}, states: []State{Unknown}},
		{name: "no block", nodes: []Node{{Name: "n", Instance: "i-1"}}, states: []State{NoBlock}},
		{name: "an IPv6 block only", nodes: []Node{{Name: "n", Instance: "i-1", Blocks: []netip.Prefix{netip.MustParsePrefix("fd00::/64")}}}, states: []State{NoBlock}},
		{name: "a block outside", nodes: []Node{{Name: "n", Instance: "i-1", Blocks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}}}, states: []State{Outside}},
		{name: "a block that is too wide", nodes: []Node{{Name: "n", Instance: "i-1", Blocks: []netip.Prefix{netip.MustParsePrefix("172.16.0.0/12")}}}, states: []State{Outside}},
		{name: "two nodes, one block", nodes: []Node{node(1), {Name: "m", Instance: "i-m", Blocks: []netip.Prefix{block(1)}}}, states: []State{Waiting, Claimed}, create: 1},
		{name: "two nodes, one block, the second has it", nodes: []Node{node(1), {Name: "m", Instance: "i-m", Blocks: []netip.Prefix{block(1)}}}, table: []Entry{own(1, "i-m")}, states: []State{Claimed, Routed}},
		{name: "two nodes, one block, the second has it and is not known now", nodes: []Node{node(1), {Name: "m", Perhaps: "i-m", Blocks: []netip.Prefix{block(1)}}}, table: []Entry{own(1, "i-m")}, states: []State{Claimed, Unknown}},
		{name: "two nodes, one block, the second had it", nodes: []Node{node(1), {Name: "m", Instance: "i-m", Blocks: []netip.Prefix{block(1)}}}, table: []Entry{phase(own(1, "i-m"), Going)}, states: []State{Waiting, Claimed}, create: 1},
		{name: "a node's own blocks that overlap", nodes: []Node{{Name: "n", Instance: "i-1", Blocks: []netip.Prefix{block(1), netip.MustParsePrefix("172.20.1.128/25")}}}, states: []State{Waiting}, create: 2},
		{name: "blocks that overlap", nodes: []Node{node(1), {Name: "m", Instance: "i-m", Blocks: []netip.Prefix{netip.MustParsePrefix("172.20.1.128/25")}}}, states: []State{Waiting, Claimed}, create: 1},
		{name: "somebody else's entry in the way", nodes: []Node{node(1)}, table: []Entry{named(own(1, "i-x"), "theirs")}, states: []State{Obstacle}, foreign: 1},
		{name: "somebody else's entry that vanishes", nodes: []Node{node(1)}, table: []Entry{phase(named(own(1, "i-x"), "theirs"), Going)}, states: []State{Waiting}, create: 1, foreign: 1},
		{name: "the mark of another cluster", nodes: []Node{node(1)}, table: []Entry{named(own(1, "i-x"), "terway-c10")}, states: []State{Obstacle}, foreign: 1},
		{name: "somebody else's entry that leads right", nodes: []Node{node(1)}, table: []Entry{named(own(1, "i-1"), "theirs")}, states: []State{Routed}, foreign: 1},
		{name: "somebody else's entry without a node", table: []Entry{named(own(1, "i-1"), "")}, foreign: 1},
		{name: "the mark on an entry elsewhere", table: []Entry{{ID: "rte", Destination: netip.MustParsePrefix("10.1.0.0/24"), Name: cluster.Mark, Custom: true}}},
		{name: "the mark on a wider entry", table: []Entry{{ID: "rte", Destination: netip.MustParsePrefix("172.20.0.0/15"), Name: cluster.Mark, Custom: true}}},
		{name: "a default route and a prefix list", table: []Entry{{ID: "rte", Destination: netip.MustParsePrefix("0.0.0.0/0"), Custom: true}, {ID: "rte-2", Custom: true}}},
		{name: "a system entry inside", nodes: []Node{node(1)}, table: []Entry{{ID: "rte", Destination: block(1), Name: cluster.Mark}}, states: []State{Obstacle}, foreign: 1},
	} {
		p := Make(cluster, x.nodes, []Table{{ID: "vtb", Entries: x.table}})
		ch := p.Changes[0]
		for i, n := range x.nodes {
			if got := p.Nodes[n.Name].State; got != x.states[i] {
				t.Errorf("%s: node %s is %q, want %q", x.name, n.Name, got, x.states[i])
			}
		}
		if len(ch.Create) != x.create || len(ch.Delete) != x.delete || len(ch.Foreign) != x.foreign {
			t.Errorf("%s: create %v, delete %v, foreign %v; want %d, %d, %d", x.name, ch.Create, ch.Delete, ch.Foreign, x.create, x.delete, x.foreign)
		}
	}
}

// A node that waits for an entry of one table reports the conflicting entry in another.
func TestTwoTables(t *testing.T) {
	foreign := own(1, "i-x")
	foreign.Name = "theirs"
	for _, tables := range [][]Table{{{ID: "a"}, {ID: "b", Entries: []Entry{foreign}}}, {{ID: "b", Entries: []Entry{foreign}}, {ID: "a"}}} {
		p := Make(cluster, []Node{node(1)}, tables)
		if s := p.Nodes["n1"]; s.State != Obstacle || s.Table != "b" {
			t.Errorf("tables %v: %+v", tables, s)
		}
	}
}

// The API accepts no more entries in one call, whatever batch is requested.
func TestNextIsNoLargerThanTheAPITakes(t *testing.T) {
	var nodes []Node
	for i := range 60 {
		nodes = append(nodes, node(i))
	}
	if step, ok := Make(cluster, nodes, []Table{{ID: "vtb"}}).Next(1000, never); !ok || len(step.Create) != 50 {
		t.Errorf("%d entries", len(step.Create))
	}
}

func TestLevel(t *testing.T) {
	for _, x := range []struct {
		custom, planned int
		want            Level
	}{{0, 0, Ample}, {7, 7, Ample}, {7, 8, Near}, {8, 7, Near}, {10, 10, Near}, {10, 11, Over}, {11, 10, Near}} {
		if got := (Change{Custom: x.custom, Planned: x.planned}).Level(10); got != x.want {
			t.Errorf("%d now, %d planned: %v, want %v", x.custom, x.planned, got, x.want)
		}
	}
}

// An entry that cannot be deleted does not stop the others.
func TestSkip(t *testing.T) {
	p := Make(cluster, []Node{node(1), node(2)}, []Table{{ID: "vtb", Entries: []Entry{own(1, "i-old")}}})
	step, ok := p.Next(MaxBatch, func(_ string, d netip.Prefix, create bool) bool { return !create && d == block(1) })
	if !ok || len(step.Delete) != 0 || len(step.Create) != 1 || step.Create[0].Destination != block(2) {
		t.Errorf("%+v, %v", step, ok)
	}
	if step, ok := p.Next(MaxBatch, func(string, netip.Prefix, bool) bool { return true }); ok {
		t.Errorf("%+v although all is skipped", step)
	}
}

// world has tables whose changes take time, and nodes that come and go.
type world struct {
	t      *rapid.T
	nodes  []Node
	tables []Table
	serial int
}

var destinations = func() (all []netip.Prefix) {
	for n := range 6 {
		all = append(all, block(n))
	}
	return append(all, netip.MustParsePrefix("172.20.1.128/25"), netip.MustParsePrefix("172.20.0.0/23"),
		netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("172.20.0.0/14"), netip.MustParsePrefix("0.0.0.0/0"), netip.Prefix{})
}()

func draw(t *rapid.T) *world {
	w := &world{t: t}
	instance := rapid.SampledFrom([]string{"i-0", "i-1", "i-2", "i-3", "i-4", "i-5"})
	for i := range rapid.IntRange(0, 8).Draw(t, "nodes") {
		w.nodes = append(w.nodes, Node{
			Name: fmt.Sprintf("n%d", i), Gone: rapid.IntRange(0, 6).Draw(t, "gone") == 0,
			Instance: rapid.OneOf(instance, instance, rapid.Just("")).Draw(t, "instance"),
			Blocks:   rapid.SliceOfN(rapid.SampledFrom(destinations[:11]), 0, 2).Draw(t, "blocks"),
		})
	}
	for i := range rapid.IntRange(1, 2).Draw(t, "tables") {
		table := Table{ID: fmt.Sprintf("vtb-%d", i)}
		for _, d := range destinations {
			if rapid.Bool().Draw(t, "there") {
				table.Entries = append(table.Entries, Entry{
					ID: w.id(), Destination: d, Custom: rapid.IntRange(0, 5).Draw(t, "system") > 0,
					Name:     rapid.SampledFrom([]string{cluster.Mark, cluster.Mark, "", "theirs"}).Draw(t, "name"),
					Instance: rapid.OneOf(instance, rapid.Just("")).Draw(t, "leads to"),
					Phase:    rapid.SampledFrom([]Phase{Settled, Settled, Settled, Coming, Going}).Draw(t, "phase"),
				})
			}
		}
		w.tables = append(w.tables, table)
	}
	return w
}

// sharedInstance reports whether two nodes have one instance. Where such nodes' blocks overlap, an
// entry for one of them leads to the other as well, and the plan may change.
func (w *world) sharedInstance() bool {
	seen := map[string]bool{}
	for _, n := range w.nodes {
		if n.Instance != "" && seen[n.Instance] {
			return true
		}
		seen[n.Instance] = true
	}
	return false
}

func (w *world) id() string { w.serial++; return fmt.Sprintf("rte-%d", w.serial) }

// finish completes what the VPC is working on.
func (w *world) finish() {
	for i := range w.tables {
		t := &w.tables[i]
		t.Entries = slices.DeleteFunc(t.Entries, func(e Entry) bool { return e.Phase == Going })
		for j := range t.Entries {
			t.Entries[j].Phase = Settled
		}
	}
}

// do carries out a step and checks that it was allowed.
func (w *world) do(s Step, batch int) {
	if len(s.Create)+len(s.Delete) == 0 || len(s.Create)+len(s.Delete) > batch || len(s.Create) > 0 && len(s.Delete) > 0 {
		w.t.Fatalf("a step of %d and %d entries; batch %d", len(s.Create), len(s.Delete), batch)
	}
	i := slices.IndexFunc(w.tables, func(t Table) bool { return t.ID == s.Table })
	table := &w.tables[i]
	for _, e := range table.Entries {
		if e.Phase != Settled {
			w.t.Fatalf("a step while %+v is on its way", e)
		}
	}
	for _, e := range s.Delete {
		j := slices.IndexFunc(table.Entries, func(x Entry) bool { return x == e })
		if j < 0 || e.Name != cluster.Mark || !e.Custom || !Inside(pods, e.Destination) {
			w.t.Fatalf("deletes %+v, which is not the cluster's", e)
		}
		table.Entries[j].Phase = Going
	}
	for _, c := range s.Create {
		if slices.ContainsFunc(table.Entries, func(e Entry) bool { return e.Destination == c.Destination }) || !Inside(pods, c.Destination) || c.Instance == "" {
			w.t.Fatalf("creates %+v", c)
		}
		table.Entries = append(table.Entries, Entry{ID: w.id(), Destination: c.Destination, Name: cluster.Mark, Instance: c.Instance, Custom: true, Phase: Coming})
	}
}

// For any nodes and tables, following the plan ends, never touches entries of others, and in the
// end every node is routed or has a reason why not.
func TestFollowingThePlanEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := draw(t)
		var foreign []Entry
		for _, table := range w.tables {
			for _, e := range table.Entries {
				if !cluster.owns(e) && e.Phase != Going {
					e.Phase = Settled
					foreign = append(foreign, e)
				}
			}
		}
		batch := rapid.IntRange(1, 4).Draw(t, "batch")
		var p Plan
		planned := map[string]int{}
		for rounds := 0; ; rounds++ {
			if rounds > 100 {
				t.Fatalf("no end: %+v", p)
			}
			p = Make(cluster, w.nodes, w.tables)
			step, ok := p.Next(batch, never)
			if ok {
				if rounds > 0 && !w.sharedInstance() {
					for _, ch := range p.Changes {
						if was, seen := planned[ch.Table]; seen && was != ch.Planned {
							t.Fatalf("table %s: planned %d, before %d", ch.Table, ch.Planned, was)
						}
						planned[ch.Table] = ch.Planned
					}
				}
				w.do(step, batch)
				continue
			}
			if len(p.Moving()) == 0 {
				break
			}
			w.finish()
		}
		var left []Entry
		for i, table := range w.tables {
			ch := p.Changes[i]
			if len(ch.Create)+len(ch.Delete) != 0 || ch.Planned != ch.Custom {
				t.Fatalf("at rest %+v", ch)
			}
			for _, e := range table.Entries {
				if !cluster.owns(e) {
					left = append(left, e)
				}
			}
		}
		if !slices.Equal(foreign, left) {
			t.Fatalf("others' entries were %v, are %v", foreign, left)
		}
		w.check(p)
	})
}

// check computes the expected end state naively: where does each block lead?
func (w *world) check(p Plan) {
	for _, n := range w.nodes {
		s, ok := p.Nodes[n.Name]
		if !ok {
			w.t.Fatalf("node %s has no state", n.Name)
		}
		inside, outside := []netip.Prefix{}, false
		for _, b := range n.Blocks {
			outside = outside || !Inside(pods, b)
			inside = append(inside, b)
		}
		leads := true
		for _, b := range inside {
			for _, table := range w.tables {
				leads = leads && slices.ContainsFunc(table.Entries, func(e Entry) bool { return e.Destination == b && e.Instance == n.Instance })
			}
		}
		good := false
		switch s.State {
		case Routed:
			good = len(inside) > 0 && !outside && leads && n.Instance != "" && !n.Gone
		case NoBlock:
			good = len(inside) == 0
		case Outside:
			good = outside
		case Destroyed:
			good = n.Gone
		case Unknown:
			good = n.Instance == ""
		case Claimed:
			good = slices.ContainsFunc(w.nodes, func(m Node) bool {
				return m.Name == s.Other && !m.Gone && slices.ContainsFunc(m.Blocks, s.Block.Overlaps)
			})
		case Obstacle:
			good = !cluster.owns(s.Entry) && s.Entry.Destination == s.Block
		}
		if !good {
			w.t.Fatalf("at rest node %+v is %+v; tables %+v", n, s, w.tables)
		}
	}
	for _, table := range w.tables {
		for _, e := range table.Entries {
			if cluster.owns(e) && !slices.ContainsFunc(w.nodes, func(n Node) bool {
				return !n.Gone && slices.Contains(n.Blocks, e.Destination) && (n.Instance == e.Instance || n.Instance == "")
			}) {
				w.t.Fatalf("table %s keeps %+v, which no node wants", table.ID, e)
			}
		}
	}
}

// The order of the entries in a table does not matter.
func TestOrderOfEntries(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := draw(t)
		a := Make(cluster, w.nodes, w.tables)
		for i := range w.tables {
			w.tables[i].Entries = rapid.Permutation(w.tables[i].Entries).Draw(t, "order")
		}
		b := Make(cluster, w.nodes, w.tables)
		for i := range a.Changes {
			ids := func(all []Entry) (s []string) {
				for _, e := range all {
					s = append(s, e.ID)
				}
				slices.Sort(s)
				return s
			}
			x, y := a.Changes[i], b.Changes[i]
			if !slices.Equal(x.Create, y.Create) || !slices.Equal(ids(x.Delete), ids(y.Delete)) || !slices.Equal(ids(x.Foreign), ids(y.Foreign)) || x.Planned != y.Planned {
				t.Fatalf("%+v\n%+v", x, y)
			}
		}
		for _, n := range w.nodes {
			if a.Nodes[n.Name].State != b.Nodes[n.Name].State {
				t.Fatalf("%+v\n%+v", a.Nodes[n.Name], b.Nodes[n.Name])
			}
		}
	})
}
