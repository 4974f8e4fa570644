// Package entries computes which entries a cluster's route tables should have: what to create, what
// to delete, which other entries conflict. It owns the rules of ownership, of nodes with the same
// block, and of the order of changes when only one operation of the VPC may run. It is pure and
// makes no calls, and it never proposes to delete an entry without the cluster's mark.
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
	// PodCIDR is the range of the nodes' blocks.
	PodCIDR netip.Prefix
	// Mark is the name of the cluster's entries.
	Mark string
	// Quota is how many custom entries a table may have.
	Quota int
}

// Node is a node that may have pods.
type Node struct {
	Name string
	// Blocks are the node's pod CIDRs; those of another family than PodCIDR are ignored.
	Blocks []netip.Prefix
	// Instance is the target of the blocks' routes. Empty: not known for sure, so existing entries
	// for the blocks stay as they are.
	Instance string
	// Perhaps is the instance that the node names, verified or not: an entry with it as its target
	// is this node's.
	Perhaps string
	// Gone: the node's instance does not exist; it claims no block.
	Gone bool
}

// Phase is the phase of an entry's life.
type Phase int

const (
	// Settled entries are in effect.
	Settled Phase = iota
	// Coming entries are being created.
	Coming
	// Going entries are being deleted.
	Going
)

// Entry is an entry of a table.
type Entry struct {
	ID          string
	Destination netip.Prefix
	Name        string
	// Instance is the one instance to which the entry leads; empty if its target is something else.
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

// State is the state of a node's routes. The values are reasons of events and conditions.
type State string

const (
	Routed    State = "RouteCreated"   // every table routes the node's blocks to it
	Waiting   State = "NoRouteCreated" // an entry is missing or being created
	NoBlock   State = "NoPodCIDR"
	Outside   State = "PodCIDROutside" // a block is not inside the cluster's pod CIDR
	Claimed   State = "PodCIDRClaimed" // a block overlaps that of another node
	Obstacle  State = "RouteInTheWay"  // an entry that is not the cluster's routes a block elsewhere
	Unknown   State = "InstanceUnknown"
	Destroyed State = "InstanceGone"
)

// Standing is a node's state with details.
type Standing struct {
	State State
	// Block is the block that State is about.
	Block netip.Prefix
	// Other is the node that has the block (Claimed).
	Other string
	// Table and Entry are the conflicting entry (Obstacle).
	Table string
	Entry Entry
	// Foreign: the entry of a Routed node is not the cluster's.
	Foreign bool
}

// Change is what one table needs.
type Change struct {
	Table  string
	Delete []Entry
	Create []Wanted
	// Moving are the entries, of any owner, that are being created or deleted.
	Moving []Entry
	// Foreign are the entries inside the pod CIDR that are not the cluster's.
	Foreign []Entry
	// Own are the cluster's entries, and Right those of them that are as wanted.
	Own, Right int
	// Custom is how many custom entries count against the quota now, Planned how many will after
	// all changes.
	Custom, Planned int
}

// Plan is what the tables need, and the state of the nodes.
type Plan struct {
	Changes []Change // one for each table, in the order of the tables
	Nodes   map[string]Standing
	// Wanted is how many entries each table should have.
	Wanted int
}

// Make compares nodes with tables. Of nodes with overlapping blocks, one to which an entry of the
// cluster already leads keeps its block, else the one that comes first in the list.
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

// claims determines which node has which block: it returns the entries that each table should have,
// and the blocks whose entries stay as they are. It sets the state of nodes that have no block.
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

// compare returns what one table needs.
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
