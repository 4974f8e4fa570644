package ipvlan

import (
	"sync/atomic"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/fastpath"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/object"
)

// Kind is that of pods with ipvlan devices.
//
// Its map of slaves is what makes a pod's address take part: without its entry a pod can
// send nothing, and what comes for it goes to the host stack. So an entry goes first when
// a pod goes.
type Kind struct {
	node.Plain
	node *node.Node
	// active: the node has such pods or is about to.
	active atomic.Bool

	// fast has the objects; its lock guards all below too.
	fast fastpath.Loader
	// enis that are prepared, as far as we know, with the index of the receiver.
	enis map[int]int
	// holders are the pods that this process has wired or seen, by device on the node.
	holders map[string]holder
}

// New is the kind; connections is as in the kind ebpf. Ask Supported before.
func New(connections int) *Kind {
	return &Kind{
		Plain: node.Plain{KindName: claims.IPvlan},
		fast:  fastpath.Loader{Filters: filters, Connections: connections, Open: load, Upgrade: upgrade}, enis: map[int]int{},
	}
}

// Start implements node.Kind.
func (s *Kind) Start(n *node.Node) { s.node, s.fast.Inside = n, n.Inside }

// Choose implements node.Kind. Pods of the kind stay when new ones are of another.
func (s *Kind) Choose(kind string) {
	if kind == claims.IPvlan {
		s.active.Store(true)
	}
}

// Describe implements node.Kind. Both devices are stacked on the ENI and have its MAC; what the
// pod sends to others than its next hop is dropped in the pod.
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
	return node.Added{First: []object.Object{podPrograms{s, p}}, Before: []object.Object{podEntries{s, p}}}
}

// Points implements node.Kind: all that the pod sends and gets passes its own device. Of what
// comes to it only what the host stack sends passes the node's; known flows come by the ENI.
func (s *Kind) Points(p *node.Pod) []node.Point {
	return []node.Point{
		{Device: p.Host, Bypassed: true},
		{Device: p.Inner, FromPod: true, Removable: true},
		{Device: p.Inner, Ingress: true, Removable: true},
	}
}

// Spoofed implements node.Kind: at the pods' devices.
func (s *Kind) Spoofed() (uint64, error) {
	counts, err := s.Counters()
	return counts["spoofed"], err
}

// Room says how many connections are remembered.
func (s *Kind) Room() string { return fastpath.Room(s.fast.Connections) }
