package ipvlan

import (
	"sync/atomic"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/fastpath"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/object"
	"terway.dev/terway/internal/datapath/routing"
)

// Kind is the kind of pods with ipvlan devices.
//
// Its map of slaves gives a pod's address access: a pod without an entry cannot send, and packets
// to it take the slow path. So a pod's entries are deleted first.
type Kind struct {
	node.Plain
	node *node.Node
	// active: the node has such pods, or its new pods are of this kind.
	active atomic.Bool

	// fast loads the objects; its lock guards the fields below too.
	fast fastpath.Loader
	// enis are the prepared ENIs, with the index of the receiver.
	enis map[int]int
	// holders are the pods that this process has wired or checked, by device on the node.
	holders map[string]holder
}

// New returns the kind; connections is as in package ebpf. Call Supported before.
func New(connections int) *Kind {
	return &Kind{
		Plain: node.Plain{KindName: claims.IPvlan},
		fast:  fastpath.Loader{Filters: filters, ENIHooks: eniHooks, Connections: connections, Open: load, Upgrade: upgrade}, enis: map[int]int{},
	}
}

// Start implements node.Kind.
func (s *Kind) Start(n *node.Node) { s.node, s.fast.Inside, s.fast.Batch = n, n.Inside, n.Batch }

// Choose implements node.Kind. Existing pods keep the kind when new ones are of another.
func (s *Kind) Choose(kind string) {
	if kind == claims.IPvlan {
		s.active.Store(true)
	}
}

// Describe implements node.Kind. Both devices are on top of the ENI and have its MAC; frames of the
// pod to others than its next hop are dropped in the pod.
func (s *Kind) Describe(p *node.Pod) error {
	err := p.ShareENI()
	if err == nil {
		p.LinkMAC, p.PodMAC = p.ENI.MAC, p.ENI.MAC
	}
	p.ARP, p.Carrier = true, true
	p.Vacate = s.vacate(p)
	return err
}

// Devices implements node.Kind.
func (s *Kind) Devices(p *node.Pod) object.Object { return devices{s, p} }

// Objects implements node.Kind.
func (s *Kind) Objects(p *node.Pod) node.Added {
	return node.Added{First: []object.Object{podPrograms{s, p}}, Reach: []object.Object{podEntries{s, p}}}
}

// Points implements node.Kind: all packets of the pod pass its own device. Its device on the node
// sees only what the host stack sends to it; the fast path delivers by the ENI.
func (s *Kind) Points(p *node.Pod) []node.Point {
	return []node.Point{
		{Device: p.Host, Bypassed: true},
		{Device: p.Inner, FromPod: true, Removable: true},
		{Device: p.Inner, Ingress: true, Removable: true},
	}
}

// ENIProblem implements node.Kind.
func (s *Kind) ENIProblem(h *netlink.Handle, e routing.ENI) (string, error) {
	return s.fast.ENIProblem(h, e)
}

// Spoofed implements node.Kind: it counts at the pods' devices.
func (s *Kind) Spoofed() (uint64, error) {
	counts, err := s.Counters()
	return counts["spoofed"], err
}

// Room describes the size of the connection tables.
func (s *Kind) Room() string { return fastpath.Room(s.fast.Connections) }
