package compile

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/policytest"
)

// A history is a changing cluster, and a Compiler that gets each change.
type history struct {
	policytest.World
	set     policy.Set
	cluster policy.Cluster
	c       *Compiler
}

func newHistory(w policytest.World, budget Budget) *history {
	h := &history{World: w, set: w.Set(), cluster: w.Cluster(), c: New(budget)}
	return h
}

// step makes one to three changes.
func (h *history) step() Delta {
	d := Delta{}
	for range 1 + h.IntN(3) {
		switch h.IntN(10) {
		case 0, 1, 2:
			h.policy(&d)
		case 3, 4, 5:
			i := h.IntN(len(policytest.PodNames()))
			h.pod(&d, i)
		case 6:
			put(h, &d.Namespaces, h.cluster.Namespaces, policytest.Namespaces[h.IntN(3)], h.Labels)
		case 7:
			if h.IntN(2) == 0 {
				put(h, &d.ServiceAccounts, h.cluster.ServiceAccounts, h.AccountName(), h.Labels)
			} else {
				n := policytest.Nodes[h.IntN(2)]
				put(h, &d.Nodes, h.cluster.Nodes, n, func() *policy.Node { return h.Node(n) })
			}
		case 8:
			put(h, &d.NetworkSets, h.cluster.NetworkSets, h.SetName(), h.NetworkSet)
		case 9:
			put(h, &d.Services, h.cluster.Services, h.ServiceName(), h.Endpoints)
		}
	}
	if h.IntN(8) == 0 {
		h.tiers(&d)
	}
	return d
}

func (h *history) pod(d *Delta, i int) {
	name := policytest.PodNames()[i]
	put(h, &d.Pods, h.cluster.Pods, name, func() *policy.Pod { return h.Pod(i) })
}

// put sets or deletes one object in the cluster and the delta.
func put[K comparable, V any](h *history, delta *map[K]V, in map[K]V, k K, newOne func() V) {
	if *delta == nil {
		*delta = map[K]V{}
	}
	if h.IntN(3) == 0 {
		var none V
		(*delta)[k] = none
		delete(in, k)
		return
	}
	v := newOne()
	(*delta)[k], in[k] = v, v
}

func (h *history) policy(d *Delta) {
	t := &h.set.Tiers[h.IntN(len(h.set.Tiers))]
	ref := policy.Ref{Kind: "NetworkPolicy", Namespace: "blue", Name: fmt.Sprintf("p%d-%d", h.IntN(3), h.IntN(3))}
	var p *policy.Policy
	for i := range h.set.Tiers {
		from := &h.set.Tiers[i]
		from.Policies = slices.DeleteFunc(slices.Clone(from.Policies), func(was policy.Policy) bool {
			if was.Ref == ref && h.IntN(4) == 0 {
				p = &was // only its position changes
			}
			return was.Ref == ref
		})
	}
	if h.IntN(4) == 0 {
		d.Policies = append(d.Policies, Change{Ref: ref})
		return
	}
	if p == nil {
		made := h.Policy(ref.Name)
		p = &made
	}
	at := h.IntN(len(t.Policies) + 1)
	t.Policies = slices.Insert(t.Policies, at, *p)
	d.Policies = append(d.Policies, Change{ref, p, t.Name, at})
}

// tiers changes a default or the order, adds a tier, or removes an empty one.
func (h *history) tiers(d *Delta) {
	tiers := h.set.Tiers
	switch h.IntN(4) {
	case 0:
		tiers[h.IntN(len(tiers))].Default = h.Default()
	case 1:
		i, j := h.IntN(len(tiers)), h.IntN(len(tiers))
		tiers[i], tiers[j] = tiers[j], tiers[i]
	case 2:
		for _, name := range policytest.TierNames {
			if !slices.ContainsFunc(tiers, func(t policy.Tier) bool { return t.Name == name }) {
				tiers = slices.Insert(tiers, h.IntN(len(tiers)+1), policy.Tier{Name: name, Default: h.Default()})
				break
			}
		}
	case 3:
		i := h.IntN(len(tiers))
		used := slices.ContainsFunc(d.Policies, func(c Change) bool { return c.Tier == tiers[i].Name })
		if len(tiers) > 1 && len(tiers[i].Policies) == 0 && !used {
			tiers = slices.Delete(tiers, i, i+1)
		}
	}
	h.set.Tiers = tiers
	d.Tiers = []policy.Tier{}
	for _, t := range tiers {
		d.Tiers = append(d.Tiers, policy.Tier{Name: t.Name, Default: t.Default})
	}
}

// parts returns the parts of all nodes.
func (c *Compiler) parts() map[string]*Node {
	parts := map[string]*Node{}
	for _, n := range policytest.Nodes {
		parts[n] = c.ForNode(n)
	}
	return parts
}

// sizes counts what must be removed when it is no longer used.
func (c *Compiler) sizes() string {
	live, traits := 0, 0
	for _, t := range c.terms {
		if t.live {
			live++
		}
		for _, tr := range t.traits {
			for a := range t.atoms {
				if slices.Contains(a.traits, tr) {
					traits++
				}
			}
		}
	}
	uses, seen, sights := 0, 0, 0
	for _, h := range c.groups {
		seen, sights = seen+len(h.seen), sights+len(h.count)
	}
	for _, t := range c.tables {
		uses += t.uses
	}
	at := map[string]int{}
	for _, t := range c.terms {
		for n, k := range t.at {
			at[n] += k
		}
	}
	return fmt.Sprintf("%d policies, %d selectors, %d tracked, %d terms, %d live, at %v, traits of atoms %d, %d addresses in %d blocks, %d and %d ranges, %d atoms, %d rule sets, %d groups with %d visible parts of %d bases, %d tables, %d uses of them, %d regions, %d closed, %d pods with ports, %d nodes with pods",
		len(c.objects), len(c.selectors), c.tracked(), len(c.terms), live, at, traits, len(c.addresses.all), len(c.addresses.blocks), len(c.ranges[0]), len(c.ranges[1]),
		len(c.atoms), len(c.ruleSets), len(c.groups), sights, seen, len(c.tables), uses, len(c.regions), len(c.closed), len(c.byPortName), len(c.byNode))
}

func (c *Compiler) tracked() (n int) {
	for _, s := range c.selectors {
		if s.tracked {
			n++
		}
	}
	return n
}

// same compares the Compiler with a new one that gets everything at once.
func (h *history) same() error {
	anew, err := Compile(h.set, h.cluster, h.c.budget)
	if err != nil {
		return err
	}
	if got, want := h.c.sizes(), anew.sizes(); got != want {
		return fmt.Errorf("after all changes there are\n%s\nfrom scratch\n%s", got, want)
	}
	if got, want := h.c.parts(), anew.parts(); !reflect.DeepEqual(got, want) {
		for n := range got {
			if !reflect.DeepEqual(got[n], want[n]) {
				return fmt.Errorf("after all changes %s has\n%s\nfrom scratch\n%s", n, got[n].but(want[n]), want[n].but(got[n]))
			}
		}
	}
	if got, want := h.c.Errors(), anew.Errors(); !reflect.DeepEqual(got, want) {
		return fmt.Errorf("after all changes the errors are %v, from scratch %v", got, want)
	}
	return nil
}

// These tests make tens of thousands of short-lived clusters. With the default setting, garbage
// collection would take half of their time.
func TestMain(m *testing.M) {
	debug.SetGCPercent(800)
	m.Run()
}

func TestAHistoryLeavesWhatCompilingMakes(t *testing.T) {
	const shards, histories = 4, 2_500
	for shard := range uint64(shards) {
		t.Run(fmt.Sprint(shard), func(t *testing.T) {
			t.Parallel()
			var n counts
			for seed := shard * histories; seed < (shard+1)*histories; seed++ {
				if err := live(seed, &n); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
			}
			t.Logf("Apply reported that a node's part changed %d times; it had in %d of them", n.named, n.changed)
			if n.changed < histories || n.named > n.changed*5/4 {
				t.Errorf("nodes were reported %d times, correctly %d times: want some for each history, and few wrong ones", n.named, n.changed)
			}
			t.Logf("followers took all pieces %d times, and %d times some, of which %d had changed", n.whole, n.some, n.pieces)
			if n.some < histories || n.pieces < n.some {
				t.Errorf("followers took some pieces %d times, %d of them: want some for each history", n.some, n.pieces)
			}
		})
	}
}

// counts are how often Apply reported a changed node, how often this was correct, and what
// followers took.
type counts struct{ named, changed, whole, some, pieces int }

// A viewer follows a node, and has all pieces.
type viewer struct {
	*Follower
	has *Pieces
}

func (v *viewer) take(n *counts) {
	p := v.Take()
	if p.Whole {
		n.whole++
		v.has = p
		return
	}
	n.some++
	n.pieces += len(p.Endpoints) + len(p.RuleSets) + len(p.Addresses)
	bring(v.has.Endpoints, p.Endpoints, func(e *Endpoint) bool { return e == nil })
	bring(v.has.RuleSets, p.RuleSets, func(rs *RuleSetPiece) bool { return rs == nil })
	bring(v.has.Addresses, p.Addresses, func(list []AddressPlace) bool { return len(list) == 0 })
}

func bring[K comparable, V any](to, from map[K]V, gone func(V) bool) {
	for k, v := range from {
		if to[k] = v; gone(v) {
			delete(to, k)
		}
	}
}

// live runs a history.
func live(seed uint64, n *counts) error {
	budget := DefaultBudget
	if seed%5 == 0 {
		budget = Budget{Atoms: 6, Spans: 60} // some rule sets exceed it
	}
	h := newHistory(policytest.World{Source: rand.New(rand.NewPCG(seed, 3))}, budget)
	if _, err := h.c.Apply(All(h.set, h.cluster)); err != nil {
		return err
	}
	h.cluster = copyCluster(h.cluster)
	parts := h.c.parts()
	viewers := map[string]*viewer{}
	for _, name := range policytest.Nodes {
		viewers[name] = &viewer{Follower: h.c.Follow(name)}
		viewers[name].take(n)
	}
	followed := func() error {
		for name, v := range viewers {
			v.take(n)
			if got, want := v.has.node(), h.c.ForNode(name); !reflect.DeepEqual(got, want) {
				return fmt.Errorf("who follows %s has\n%s\nwant\n%s", name, got.but(want), want.but(got))
			}
		}
		return nil
	}
	for range 1 + h.IntN(4) {
		d := h.step()
		nodes, err := h.c.Apply(d)
		if err != nil {
			return err
		}
		before := parts
		parts = h.c.parts()
		for name, part := range parts {
			is := !reflect.DeepEqual(before[name], part)
			if is && !slices.Contains(nodes, name) {
				return fmt.Errorf("Apply of %+v reported %v, and %s had\n%s\nand has\n%s", d, nodes, name, before[name].but(part), part.but(before[name]))
			}
			if is {
				n.changed++
			}
		}
		n.named += len(nodes)
		if h.IntN(2) == 0 {
			if err := followed(); err != nil {
				return fmt.Errorf("after %+v %w", d, err)
			}
		}
		if h.IntN(8) == 0 {
			if err := h.same(); err != nil {
				return err
			}
		}
	}
	if err := followed(); err != nil {
		return err
	}
	return h.same()
}

func copyCluster(c policy.Cluster) policy.Cluster {
	return policy.Cluster{
		Namespaces: maps.Clone(c.Namespaces), ServiceAccounts: maps.Clone(c.ServiceAccounts), Pods: maps.Clone(c.Pods),
		Nodes: maps.Clone(c.Nodes), NetworkSets: maps.Clone(c.NetworkSets), Services: maps.Clone(c.Services),
	}
}

// but returns what a part has that the other does not have.
func (n *Node) but(other *Node) string {
	var b strings.Builder
	less(&b, "endpoint", n.Endpoints, other.Endpoints)
	less(&b, "rule set", n.RuleSets, other.RuleSets)
	less(&b, "address", n.Addresses, other.Addresses)
	less(&b, "peer", n.Peers, other.Peers)
	less(&b, "table", n.Tables, other.Tables)
	for f := range n.Ranges {
		if !slices.Equal(n.Ranges[f], other.Ranges[f]) {
			fmt.Fprintf(&b, "ranges %v\n", n.Ranges[f])
		}
	}
	return b.String()
}

func less[K comparable, V any](b *strings.Builder, what string, m, other map[K]V) {
	for k, v := range m {
		if o, ok := other[k]; !ok || !reflect.DeepEqual(v, o) {
			fmt.Fprintf(b, "%s %v: %+v\n", what, k, v)
		}
	}
}
