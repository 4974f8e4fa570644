package plan

import (
	"fmt"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/datapath/claims"
)

// Capacity is what a plan can hold. Numbers that depend on an instance type with unknown limits
// are unknown.
type Capacity struct {
	Types []TypeCapacity `json:"types"`
	// PodsPerNode is how many pods fit on a node of the plan's smallest type.
	PodsPerNode catalog.Count `json:"podsPerNode"`
	// AddressesPerNode is how many private addresses a full node has, including its own.
	AddressesPerNode catalog.Count `json:"addressesPerNode"`
	VSwitches        []Use         `json:"vSwitches"`
	Limits           []Limit       `json:"limits"`
	// LargestNodes is the size of the largest cluster, LargestPods the pods that it holds at
	// least, and LimitedBy the name of the limit.
	LargestNodes catalog.Count `json:"largestNodes"`
	LargestPods  catalog.Count `json:"largestPods"`
	LimitedBy    string        `json:"limitedBy"`
	Notes        []string      `json:"notes,omitempty"`
}

// TypeCapacity is how many pods an instance of a type holds, by mode.
type TypeCapacity struct {
	Name      string        `json:"name"`
	Shared    catalog.Count `json:"shared"`
	Prefixes  catalog.Count `json:"sharedWithPrefixes"`
	Exclusive catalog.Count `json:"exclusive"`
	// Here is the number for this plan.
	Here catalog.Count `json:"here"`
}

// Use is how many addresses of a vSwitch are used when every node is full of pods.
type Use struct {
	Zone   string        `json:"zone"`
	Pods   bool          `json:"pods"` // a Pod vSwitch
	Name   string        `json:"name"`
	CIDR   string        `json:"cidr"`
	Usable int           `json:"usable"`
	Now    catalog.Count `json:"now"`
	Max    catalog.Count `json:"max"`
}

// Limit is a limit to the size of a cluster.
type Limit struct {
	Name string `json:"name"`
	// Holds is how many items the limit allows, What their kind: addresses, blocks, entries.
	Holds int    `json:"holds"`
	What  string `json:"what"`
	// Each is how many of them a full node uses.
	Each catalog.Count `json:"each"`
	// Nodes is the size of the cluster at the limit.
	Nodes catalog.Count `json:"nodes"`
	// Quota: the cloud raises it on request.
	Quota bool `json:"quota,omitempty"`
}

// Measure returns the capacity of a plan that has passed Check.
func Measure(p *Plan, types Catalog) Capacity {
	m := measurer{p: p, types: types, demand: demandOf(p, types)}
	c := Capacity{Types: m.perType()}
	c.PodsPerNode = c.Types[0].Here
	for _, t := range c.Types[1:] {
		if !t.Here.Known || c.PodsPerNode.Known && t.Here.N < c.PodsPerNode.N {
			c.PodsPerNode = t.Here
		}
	}
	c.AddressesPerNode = m.count(1 + m.demand.total())
	c.VSwitches = m.use()
	c.Limits = m.limits()
	for _, l := range c.Limits {
		switch {
		case !l.Nodes.Known:
			// An unknown limit may be the lowest one.
			c.LargestNodes, c.LimitedBy = catalog.Count{}, ""
		case c.LimitedBy == "" || l.Nodes.N < c.LargestNodes.N:
			c.LargestNodes, c.LimitedBy = l.Nodes, l.Name
			continue
		default:
			continue
		}
		break
	}
	if c.LargestNodes.Known && c.PodsPerNode.Known {
		c.LargestPods = catalog.Of(c.LargestNodes.N * c.PodsPerNode.N)
	}
	c.Notes = m.notes(c)
	return c
}

type measurer struct {
	p      *Plan
	types  Catalog
	demand demand
}

// count returns n, or unknown if the demand of a node is unknown.
func (m *measurer) count(n int) catalog.Count {
	if !m.demand.known {
		return catalog.Count{}
	}
	return catalog.Of(n)
}

func (m *measurer) perType() []TypeCapacity {
	var all []TypeCapacity
	for _, name := range m.p.Nodes.InstanceTypes {
		t, _ := m.types.Lookup(name)
		c := TypeCapacity{
			Name:   name,
			Shared: podsOf(t, claims.ModeShared, false), Prefixes: podsOf(t, claims.ModeShared, true), Exclusive: podsOf(t, claims.ModeExclusive, false),
		}
		limit := podsOf(t, m.p.Mode, m.p.Prefixes)
		if m.p.Network == claims.NetworkFlannel {
			limit = catalog.Of(blockHolds(m.p.NodeMask))
		}
		c.Here = limit // unknown stays unknown, whatever was requested
		if want := m.p.Nodes.PodsPerNode; want > 0 && limit.Known {
			c.Here = catalog.Of(min(want, limit.N))
		}
		all = append(all, c)
	}
	return all
}

// share returns how many of n nodes are in zone i: nodes are spread evenly, and the first zones
// have one more.
func (m *measurer) share(n, i int) int {
	zones := len(m.p.Zones)
	return (n + zones - 1 - i) / zones
}

// cluster returns the size of the cluster at which zone i is full.
func (m *measurer) cluster(nodes, i int) int {
	return nodes*len(m.p.Zones) + i
}

func (m *measurer) use() []Use {
	var all []Use
	for i, z := range m.p.Zones {
		now, most := m.share(m.p.Nodes.Count, i), m.share(m.p.Nodes.Max, i)
		all = append(all, Use{
			Zone: z.ID, Name: z.Node.Name, CIDR: z.Node.CIDR.String(), Usable: Usable(z.Node.CIDR),
			Now: catalog.Of(now), Max: catalog.Of(most),
		})
		nowIn, maxIn := m.fill(z.Pods, now), m.fill(z.Pods, most)
		for j, v := range z.Pods {
			all = append(all, Use{
				Zone: z.ID, Pods: true, Name: v.Name, CIDR: v.CIDR.String(), Usable: Usable(v.CIDR),
				Now: m.count(nowIn[j]), Max: m.count(maxIn[j]),
			})
		}
	}
	return all
}

// fill spreads the addresses of n full nodes over the Pod vSwitches in proportion to their
// size: new ENIs are created where most addresses are free.
func (m *measurer) fill(pods []VSwitch, n int) []int {
	all, left := 0, n*m.demand.total()
	for _, v := range pods {
		all += Usable(v.CIDR)
	}
	in := make([]int, len(pods))
	for j, v := range pods {
		if all == 0 {
			break
		}
		in[j] = ceil(left*Usable(v.CIDR), all)
		left, all = left-in[j], all-Usable(v.CIDR)
	}
	return in
}

func (m *measurer) limits() []Limit {
	var all []Limit
	one, pods, each := catalog.Of(1), m.demand.total(), 1+m.demand.total()
	for i, z := range m.p.Zones {
		all = append(all, Limit{
			Name: "node vSwitch " + z.Node.Name, Holds: Usable(z.Node.CIDR), What: "addresses",
			Each: one, Nodes: catalog.Of(m.cluster(Usable(z.Node.CIDR), i)),
		})
		if m.p.Network == claims.NetworkFlannel {
			continue
		}
		usable := 0
		for _, v := range z.Pods {
			usable += Usable(v.CIDR)
		}
		name := "Pod vSwitch " + z.Pods[0].Name
		if n := len(z.Pods); n > 1 {
			name = fmt.Sprintf("%d Pod vSwitches of %s", n, z.ID)
		}
		all = append(all, Limit{
			Name: name, Holds: usable, What: "addresses",
			Each: m.count(pods), Nodes: m.count(m.cluster(m.demand.room(z.Pods), i)),
		})
	}
	if m.p.Network == claims.NetworkFlannel {
		blocks := size(m.p.PodCIDR) >> (32 - m.p.NodeMask)
		all = append(all,
			Limit{Name: fmt.Sprintf("pod CIDR %s in blocks of /%d", m.p.PodCIDR, m.p.NodeMask), Holds: blocks, What: "blocks", Each: one, Nodes: catalog.Of(blocks)},
			Limit{Name: "route table of the VPC", Holds: routeEntries, What: "entries", Each: one, Nodes: catalog.Of(routeEntries)},
		)
	}
	shared := func(name string, holds int, quota bool) {
		all = append(all, Limit{Name: name, Holds: holds, What: "addresses", Each: m.count(each), Nodes: m.count(holds / each), Quota: quota})
	}
	shared("security group, "+m.p.SecurityGroup, groupHolds(m.p.SecurityGroup), false)
	shared("private addresses of a VPC, by default", privateAddresses, true)
	shared("private addresses of a VPC, at most", privateAddressesMax, false)
	return all
}
