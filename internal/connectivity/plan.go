// Package connectivity plans which connections show that a cluster's network works, and judges which
// hop loses packets if some of them do not open: values in, values out. It must never send anything;
// package probe does.
package connectivity

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strconv"
)

// Kind is what a probe goes between.
type Kind string

// The kinds, in the order in which people read them.
const (
	SameNode  Kind = "SameNode"
	OtherNode Kind = "OtherNode"
	PodToNode Kind = "PodToNode"
	NodeToPod Kind = "NodeToPod"
	Service   Kind = "Service"
	DNS       Kind = "DNS"
	Outside   Kind = "Outside"
)

// Kinds are all.
var Kinds = []Kind{SameNode, OtherNode, PodToNode, NodeToPod, Service, DNS, Outside}

var words = map[Kind]string{
	SameNode: "pod to pod, same node", OtherNode: "pod to pod, other node", PodToNode: "pod to node", NodeToPod: "node to pod",
	Service: "pod to Service", DNS: "DNS", Outside: "outside",
}

func (k Kind) String() string { return words[k] }

// Node is a node of the sample.
type Node struct {
	Name, Address string
	// KubeletPort is a TCP port on which the node answers pods; 0: none is known.
	KubeletPort int
}

// Pod is a pod of the sample, or one that serves DNS.
type Pod struct {
	// Name is that of its object; Node is the node it is on.
	Name, Node, Address string
	// ENI is the ENI that the address is of; empty: not known.
	ENI string
}

// Site is a node with its two pods. A pod without an address has not started, and takes no part.
type Site struct {
	Node Node
	A, B Pod
	// Service is the address of a Service with B as its only backend; empty: none.
	Service string
}

// World is what is there to try.
type World struct {
	Sites []Site
	// Port is where the pods serve, and ServicePort where the Services do.
	Port, ServicePort int
	// DNSPods are some of the pods that serve DNS.
	DNSPods []Pod
	// Name is a name that DNS must know, and NameIs its address; empty: any address will do.
	Name, NameIs string
	// Outside are "host:port" outside the cluster.
	Outside []string
}

// Action is what a probe does.
type Action string

// The actions.
const (
	// Exchange sends more than a packet can carry to a pod of the sample, which sends it back.
	Exchange Action = "exchange"
	// Connect opens a TCP connection.
	Connect Action = "connect"
	// Lookup asks the pod's DNS server for a name.
	Lookup Action = "lookup"
)

// Task is a probe as the program that sends it knows it.
type Task struct {
	ID int    `json:"id"`
	Do Action `json:"do"`
	// To is "host:port", or a name for Lookup.
	To string `json:"to"`
	// Want is what To must be, for Lookup; empty: any address will do.
	Want string `json:"want,omitempty"`
}

// Probe is one connection to be tried.
type Probe struct {
	Task
	Kind Kind
	// Node is where it is sent from, and Pod from which pod; empty: by the node itself.
	Node, Pod string
	// From is the sender's address. Target is the pod of the sample that it reaches, if it is one,
	// on TargetNode.
	From, Target, TargetNode string
	// Ends are the addresses that policies judge it by; none: not known. Port is the same for the port.
	Ends []string
	Port int
	// Path are the hops that it passes. Maybe are those that it may pass.
	Path, Maybe []Hop
	// Title is for people.
	Title string
}

// HopKind is what a hop is.
type HopKind string

// The kinds of hops.
const (
	// HopPod is a pod, with its devices and its program.
	HopPod HopKind = "Pod"
	// HopNode is what a node forwards with between its pods and itself.
	HopNode HopKind = "Node"
	// HopENI is an ENI that carries pods' addresses, with the node's rules and routes for it.
	HopENI HopKind = "ENI"
	// HopNodeAddress is a node's own address, with its ENI and firewall.
	HopNodeAddress HopKind = "NodeAddress"
	// HopVPC is the VPC from one ENI or node to another: security groups, routes.
	HopVPC HopKind = "VPC"
	// HopService is the translation of Services' addresses on a node: kube-proxy.
	HopService HopKind = "ServiceTranslation"
	// HopDNS are the cluster's DNS servers and their Service.
	HopDNS HopKind = "DNS"
	// HopOutside is the way from the VPC to an address outside the cluster.
	HopOutside HopKind = "Outside"
	// HopPolicy is a network policy.
	HopPolicy HopKind = "Policy"
	// HopStart: the pod of the sample has not started.
	HopStart HopKind = "PodStart"
)

// Hop is a part of the way.
type Hop struct {
	Kind HopKind `json:"kind"`
	// Name is a pod, an ENI, a policy, or both ends of HopVPC.
	Name string `json:"name,omitempty"`
	// Node is where it is.
	Node string `json:"node,omitempty"`
}

func (h Hop) String() string {
	switch h.Kind {
	case HopPod, HopStart:
		return fmt.Sprintf("pod %s on %s", h.Name, h.Node)
	case HopNode:
		return "node " + h.Node
	case HopENI:
		return fmt.Sprintf("%s of node %s", h.Name, h.Node)
	case HopNodeAddress:
		return fmt.Sprintf("the own address of node %s", h.Node)
	case HopVPC:
		return "the VPC from " + h.Name
	case HopService:
		return "kube-proxy on node " + h.Node
	case HopDNS:
		return "the cluster's DNS"
	case HopOutside:
		return "the way out of the VPC to " + h.Name
	}
	return h.Name
}

func (p Pod) hop() Hop { return Hop{HopPod, p.Name, p.Node} }

// eni is the hop of the pod's ENI.
func (p Pod) eni() Hop { return Hop{HopENI, cmp.Or(p.ENI, "the ENI of "+p.Address), p.Node} }

func node(name string) Hop       { return Hop{Kind: HopNode, Node: name} }
func ownAddress(name string) Hop { return Hop{Kind: HopNodeAddress, Node: name} }

// vpc is the way through the VPC between two hops, in this direction: security groups judge the one
// who opens.
func vpc(from, to Hop) Hop { return Hop{Kind: HopVPC, Name: from.String() + " to " + to.String()} }

// between are the hops from one pod to another.
func between(a, b Pod) []Hop {
	if a.Node == b.Node {
		return []Hop{a.hop(), node(a.Node), b.hop()}
	}
	return []Hop{a.hop(), node(a.Node), a.eni(), vpc(a.eni(), b.eni()), b.eni(), node(b.Node), b.hop()}
}

// Plan returns the probes of a world: pods on every pair of nodes, and of each node the rest.
func Plan(w World) []Probe {
	p := planner{world: w}
	for i, s := range w.Sites {
		if s.A.Address == "" {
			continue
		}
		for j, to := range w.Sites {
			p.toPod(s, to)
			p.toNode(s, to)
			// Services of the own node and of the next one: the rest is what is above.
			if i == j || (i+1)%len(w.Sites) == j {
				p.service(s, to)
			}
		}
		p.dns(s)
		for _, to := range w.Outside {
			p.outside(s, to)
		}
	}
	for _, s := range w.Sites {
		for _, to := range w.Sites {
			p.fromNode(s, to)
		}
	}
	return p.all
}

type planner struct {
	world World
	all   []Probe
}

func (p *planner) add(probe Probe) {
	probe.ID = len(p.all) + 1
	p.all = append(p.all, probe)
}

func at(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

// of is a probe from a pod.
func of(from Pod, kind Kind, do Action, to, what string) Probe {
	return Probe{Kind: kind, Task: Task{Do: do, To: to}, Node: from.Node, Pod: from.Name, From: from.Address,
		Title: fmt.Sprintf("pod on %s to %s", from.Node, what)}
}

func (p *planner) toPod(s, to Site) {
	if to.B.Address == "" {
		return
	}
	kind, what := OtherNode, "pod on "+to.Node.Name
	if s.Node.Name == to.Node.Name {
		kind, what = SameNode, "another pod there"
	}
	probe := of(s.A, kind, Exchange, at(to.B.Address, p.world.Port), what)
	probe.Target, probe.TargetNode, probe.Ends, probe.Port = to.B.Name, to.B.Node, []string{to.B.Address}, p.world.Port
	probe.Path = between(s.A, to.B)
	p.add(probe)
}

func (p *planner) toNode(s, to Site) {
	n := to.Node
	if n.Address == "" || n.KubeletPort == 0 {
		return
	}
	probe := of(s.A, PodToNode, Connect, at(n.Address, n.KubeletPort), "node "+n.Name)
	probe.Ends, probe.Port = []string{n.Address}, n.KubeletPort
	probe.Path = []Hop{s.A.hop(), node(s.A.Node)}
	if n.Name == s.Node.Name {
		probe.Path = append(probe.Path, Hop{Kind: HopNodeAddress, Name: "kubelet", Node: n.Name})
	} else {
		probe.Path = append(probe.Path, s.A.eni(), vpc(s.A.eni(), ownAddress(n.Name)), ownAddress(n.Name))
	}
	p.add(probe)
}

func (p *planner) service(s, to Site) {
	if to.Service == "" || to.B.Address == "" {
		return
	}
	probe := of(s.A, Service, Exchange, at(to.Service, p.world.ServicePort), "a Service whose pod is on "+to.Node.Name)
	probe.Target, probe.TargetNode, probe.Ends, probe.Port = to.B.Name, to.B.Node, []string{to.B.Address}, p.world.Port
	probe.Path = append(between(s.A, to.B), Hop{Kind: HopService, Node: s.Node.Name})
	p.add(probe)
}

func (p *planner) dns(s Site) {
	w := p.world
	var ways []Hop // to pods that serve DNS on other nodes
	for _, d := range w.DNSPods {
		probe := of(s.A, DNS, Connect, at(d.Address, 53), "DNS pod on "+d.Node)
		probe.Ends, probe.Port, probe.Path = []string{d.Address}, 53, between(s.A, d)
		p.add(probe)
		if d.Node != s.Node.Name {
			ways = append(ways, s.A.eni(), vpc(s.A.eni(), d.eni()), d.eni())
		}
	}
	if w.Name == "" {
		return
	}
	probe := of(s.A, DNS, Lookup, w.Name, w.Name+" by DNS")
	probe.Want, probe.Port = w.NameIs, 53
	probe.Path = []Hop{s.A.hop(), node(s.A.Node), {Kind: HopDNS}}
	// The answer may come from a cache on the node, without a Service and without the VPC.
	probe.Maybe = append(ways, Hop{Kind: HopService, Node: s.Node.Name})
	p.add(probe)
}

func (p *planner) outside(s Site, to string) {
	probe := of(s.A, Outside, Connect, to, to)
	host, port, err := net.SplitHostPort(to)
	if err == nil {
		probe.Port, _ = strconv.Atoi(port) // 0: not known
		if net.ParseIP(host) != nil {
			probe.Ends = []string{host}
		}
	}
	probe.Path = []Hop{s.A.hop(), node(s.A.Node), s.A.eni(), {Kind: HopOutside, Name: to}}
	p.add(probe)
}

func (p *planner) fromNode(s, to Site) {
	if to.B.Address == "" {
		return
	}
	probe := Probe{Kind: NodeToPod, Task: Task{Do: Exchange, To: at(to.B.Address, p.world.Port)}, Node: s.Node.Name, From: s.Node.Address,
		Target: to.B.Name, TargetNode: to.B.Node, Ends: []string{to.B.Address}, Port: p.world.Port,
		Title: fmt.Sprintf("node %s to pod on %s", s.Node.Name, to.Node.Name)}
	if s.Node.Name == to.Node.Name {
		probe.Path = []Hop{node(s.Node.Name), to.B.hop()}
	} else {
		own := ownAddress(s.Node.Name)
		probe.Path = []Hop{own, vpc(own, to.B.eni()), to.B.eni(), node(to.Node.Name), to.B.hop()}
	}
	p.add(probe)
}

// Candidate is a node that may be in the sample.
type Candidate struct {
	Name, Zone string
	// Unready is why no pods can be expected to start there; empty: they can.
	Unready string
}

// Choose returns at most n nodes: those that are ready, of all zones in turn, in the order of their names.
func Choose(all []Candidate, n int) []string {
	zones := map[string][]string{}
	for _, c := range all {
		if c.Unready == "" {
			zones[c.Zone] = append(zones[c.Zone], c.Name)
		}
	}
	var names []string
	for zone := range zones {
		slices.Sort(zones[zone])
		names = append(names, zone)
	}
	slices.Sort(names)
	var chosen []string
	for turn := 0; len(chosen) < n; turn++ {
		before := len(chosen)
		for _, zone := range names {
			if turn < len(zones[zone]) && len(chosen) < n {
				chosen = append(chosen, zones[zone][turn])
			}
		}
		if len(chosen) == before {
			break
		}
	}
	return chosen
}
