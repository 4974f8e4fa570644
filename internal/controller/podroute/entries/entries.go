// Package entries says which entries a cluster's route tables should have: what
// to create, what to delete, what is in the way. It owns the rules of ownership,
// of nodes that claim the same block, and of what comes next when only one
// operation of the VPC may run. It is pure: it must never call anything, and it
// never names an entry for deletion that does not carry the cluster's mark.
package entries

import (
	"cmp"
	"net/netip"
	"slices"
)

// MaxBatch is how many entries one operation changes (VPC API: RouteEntries.N of
// CreateRouteEntries and DeleteRouteEntries, N ≤ 50).
const MaxBatch = 50

// Cluster is what all nodes have in common.
type Cluster struct {
	// PodCIDR is the range that nodes' blocks are from.
	PodCIDR netip.Prefix
	// Mark is the name of the cluster's entries.
	Mark string
	// Quota is how many custom entries a table may have.
	Quota int
}

// Node is a node that may have pods.
type Node struct {
	Name string
	// Blocks are the node's pod CIDRs; those of another family than PodCIDR are not looked at.
	Blocks []netip.Prefix
	// Instance is where the blocks lead. Empty: not known for sure, so what a table
	// has for the blocks stays as it is.
	Instance string
	// Perhaps is the instance that the node names, sure or not: an entry that leads to it
	// is this node's.
	Perhaps string
	// Gone nodes have lost their instance: they claim nothing.
	Gone bool
}

// Phase is where an entry is in its life.
type Phase int

const (
	// Settled entries are in effect.
	Settled Phase = iota
	// Coming entries will be in effect.
	Coming
	// Going entries will vanish.
	Going
)

// Entry is an entry of a table.
type Entry struct {
	ID          string
	Destination netip.Prefix
	Name        string
	// Instance is the one instance that the entry leads to; empty if it leads elsewhere.
	Instance string
	// Custom entries count against the quota.
	Custom bool
	Phase  Phase
}

// Table is a route table.
type Table struct {
	ID      string
	Entries []Entry
}

// Wanted is an entry that a table lacks.
type Wanted struct {
	Destination netip.Prefix
	Instance    string
	Node        string
}

// State is how a node stands. The values are reasons of events and conditions.
type State string

const (
	Routed    State = "RouteCreated"   // every table leads the node's blocks to it
	Waiting   State = "NoRouteCreated" // an entry is missing or on its way
	NoBlock   State = "NoPodCIDR"
	Outside   State = "PodCIDROutside" // a block is not inside the cluster's pod CIDR
	Claimed   State = "PodCIDRClaimed" // a block overlaps that of another node
	Obstacle  State = "RouteInTheWay"  // an entry that is not the cluster's leads a block elsewhere
	Unknown   State = "InstanceUnknown"
	Destroyed State = "InstanceGone"
)

// Standing is a node's state, and what there is to say about it.
type Standing struct {
	State State
	// Block is the one that State is about.
	Block netip.Prefix
	// Other is the node that has the block (Claimed).
	Other string
	// Table and Entry are what is in the way (Obstacle).
	Table string
	Entry Entry
	// Foreign says that a Routed node's entry is not the cluster's.
	Foreign bool
}

// Change is what one table needs.
type Change struct {
	Table  string
	Delete []Entry
	Create []Wanted
	// Moving are the entries, whoever's, that are coming or going.
	Moving []Entry
	// Foreign are the entries inside the pod CIDR that are not the cluster's.
	Foreign []Entry
	// Own are the cluster's entries, and Right those of them which are as wanted.
	Own, Right int
	// Custom is how many custom entries count against the quota now, Planned when
	// all changes are made.
	Custom, Planned int
}

// Plan is what the tables need and how the nodes stand.
type Plan struct {
	Changes []Change // one for each table, in the order of the tables
	Nodes   map[string]Standing
	// Wanted is how many entries each table should have.
	Wanted int
}

// Make compares nodes with tables. Of nodes with overlapping blocks the one that
// an entry of the cluster leads to already keeps its block, else the one that
// comes first in the list.
func Make(c Cluster, nodes []Node, tables []Table) Plan {
	p := Plan{Nodes: map[string]Standing{}}
	wanted, held := claims(c, nodes, tables, p.Nodes)
	p.Wanted = len(wanted)
	for _, t := range tables {
		p.Changes = append(p.Changes, compare(c, t, wanted, held, p.Nodes))
	}
	return p
}

// owns reports whether an entry is the cluster's.
func (c Cluster) owns(e Entry) bool {
	return e.Custom && e.Name == c.Mark && Inside(c.PodCIDR, e.Destination)
}

// Inside reports whether p is a part of the range, or the range.
func Inside(outer, p netip.Prefix) bool {
	return p.IsValid() && p.Bits() >= outer.Bits() && outer.Contains(p.Addr())
}

// claims finds who has which block: the entries that each table should have, and
// the blocks whose entries stay as they are. It notes the state of nodes that have none.
func claims(c Cluster, nodes []Node, tables []Table, standing map[string]Standing) (wanted map[netip.Prefix]Wanted, held []netip.Prefix) {
	leads := map[netip.Prefix]map[string]bool{}
	for _, t := range tables {
		for _, e := range t.Entries {
			if c.owns(e) && e.Phase != Going && e.Instance != "" {
				if leads[e.Destination] == nil {
					leads[e.Destination] = map[string]bool{}
				}
				leads[e.Destination][e.Instance] = true
			}
		}
	}
	type claim struct {
		node  Node
		block netip.Prefix
	}
	var all []claim
	for _, n := range nodes {
		standing[n.Name] = Standing{State: NoBlock}
		if n.Gone {
			standing[n.Name] = Standing{State: Destroyed}
			continue
		}
		for _, b := range n.Blocks {
			if b.Addr().Is4() != c.PodCIDR.Addr().Is4() {
				continue
			}
			if !Inside(c.PodCIDR, b) {
				standing[n.Name] = Standing{State: Outside, Block: b}
				break
			}
			if s := standing[n.Name].State; s == NoBlock {
				standing[n.Name] = Standing{State: Routed, Block: b}
			}
			all = append(all, claim{n, b})
		}
	}
	has := func(x claim) bool { return leads[x.block][cmp.Or(x.node.Instance, x.node.Perhaps)] }
	slices.SortStableFunc(all, func(a, b claim) int {
		switch {
		case has(a) == has(b):
			return 0
		case has(a):
			return -1
		}
		return 1
	})
	wanted = map[netip.Prefix]Wanted{}
	var taken []claim
	for _, x := range all {
		i := slices.IndexFunc(taken, func(y claim) bool { return y.block.Overlaps(x.block) && y.node.Name != x.node.Name })
		if i >= 0 {
			standing[x.node.Name] = Standing{State: Claimed, Block: x.block, Other: taken[i].node.Name}
			continue
		}
		taken = append(taken, x)
		if x.node.Instance == "" {
			held = append(held, x.block)
			if standing[x.node.Name].State == Routed {
				standing[x.node.Name] = Standing{State: Unknown, Block: x.block}
			}
			continue
		}
		wanted[x.block] = Wanted{Destination: x.block, Instance: x.node.Instance, Node: x.node.Name}
	}
	return wanted, held
}

// compare finds what one table needs.
func compare(c Cluster, t Table, wanted map[netip.Prefix]Wanted, held []netip.Prefix, standing map[string]Standing) Change {
	ch := Change{Table: t.ID}
	lacks := map[netip.Prefix]Wanted{}
	for b, w := range wanted {
		lacks[b] = w
	}
	// worse keeps the first reason why a node is not routed.
	worse := func(node string, s Standing) {
		if was := standing[node]; was.State == Routed || was.State == Waiting && s.State == Obstacle {
			standing[node] = s
		}
	}
	for _, e := range t.Entries {
		if e.Phase != Settled {
			ch.Moving = append(ch.Moving, e)
		}
		if e.Custom {
			ch.Custom++
			if e.Phase != Going {
				ch.Planned++
			}
		}
		if !Inside(c.PodCIDR, e.Destination) {
			continue
		}
		w, isWanted := wanted[e.Destination]
		right := isWanted && e.Instance == w.Instance && e.Phase != Going
		if right {
			delete(lacks, e.Destination)
			if e.Phase == Coming {
				worse(w.Node, Standing{State: Waiting, Block: w.Destination})
			}
		}
		if !c.owns(e) {
			ch.Foreign = append(ch.Foreign, e)
			if right {
				if s := standing[w.Node]; s.State == Routed {
					s.Foreign = true
					standing[w.Node] = s
				}
			} else if isWanted && e.Phase != Going {
				delete(lacks, e.Destination)
				worse(w.Node, Standing{State: Obstacle, Block: w.Destination, Table: t.ID, Entry: e})
			}
			continue
		}
		ch.Own++
		switch {
		case right:
			ch.Right++
		case e.Phase == Settled && !slices.Contains(held, e.Destination):
			ch.Delete = append(ch.Delete, e)
			ch.Planned--
		}
	}
	for _, w := range lacks {
		ch.Create = append(ch.Create, w)
		ch.Planned++
		worse(w.Node, Standing{State: Waiting, Block: w.Destination})
	}
	slices.SortFunc(ch.Create, func(a, b Wanted) int { return a.Destination.Compare(b.Destination) })
	return ch
}
