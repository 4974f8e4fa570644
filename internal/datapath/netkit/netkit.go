package netkit

import (
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/ebpf"
	"terway.dev/terway/internal/datapath/linkkind"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/object"
	"terway.dev/terway/internal/datapath/routing"
)

// Kind is the kind of pods with netkit devices.
type Kind struct {
	node.Plain
	programs *ebpf.Kind
	hooks    *hooks
}

// New returns the kind for a node that also has the kind ebpf, which owns the programs and maps.
// Call Supported before.
func New(programs *ebpf.Kind) *Kind {
	k := &Kind{Plain: node.Plain{KindName: claims.Netkit}, programs: programs, hooks: &hooks{}}
	programs.Serve(claims.Netkit, k.hooks.running)
	return k
}

func (k *Kind) Start(n *node.Node) { k.hooks.inside = n.Inside }

func (k *Kind) Describe(p *node.Pod) error {
	err := p.ShareENI()
	p.NoMAC()
	return err
}

// Devices implements node.Kind: a pair without MACs and neighbours (mode L3), which drops
// everything while it has no programs.
func (k *Kind) Devices(p *node.Pod) object.Object {
	value := func(kind int, v uint32) *nl.RtAttr { return nl.NewRtAttr(kind, nl.Uint32Attr(v)) }
	return &node.Pair{Pod: p, Kind: linkkind.Netkit, Problem: problem, Peer: nl.IFLA_NETKIT_PEER_INFO, Data: []*nl.RtAttr{
		value(nl.IFLA_NETKIT_MODE, uint32(netlink.NETKIT_MODE_L3)),
		value(nl.IFLA_NETKIT_POLICY, uint32(netlink.NETKIT_POLICY_BLACKHOLE)),
		value(nl.IFLA_NETKIT_PEER_POLICY, uint32(netlink.NETKIT_POLICY_BLACKHOLE)),
		// Marks must not pass between the namespaces. Kernels without this attribute never pass
		// them.
		value(nl.IFLA_NETKIT_SCRUB, uint32(netlink.NETKIT_SCRUB_DEFAULT)),
		value(nl.IFLA_NETKIT_PEER_SCRUB, uint32(netlink.NETKIT_SCRUB_DEFAULT)),
	}}
}

// problem returns what is wrong with the node's device and needs a new one, or "".
func problem(host netlink.Link) string {
	pair, ok := host.(*netlink.Netkit)
	switch {
	case !ok:
		return ""
	case !pair.IsPrimary():
		return "is the pod's end of its pair"
	case pair.Mode != netlink.NETKIT_MODE_L3:
		return "is not in mode L3"
	case pair.Policy != netlink.NETKIT_POLICY_BLACKHOLE || pair.PeerPolicy != netlink.NETKIT_POLICY_BLACKHOLE:
		return "passes packets without a program: its policy is not blackhole"
	case pair.SupportsScrub() && (pair.Scrub != netlink.NETKIT_SCRUB_DEFAULT || pair.PeerScrub != netlink.NETKIT_SCRUB_DEFAULT):
		return "passes marks: its scrub is not default"
	}
	return ""
}

func (k *Kind) Objects(p *node.Pod) node.Added { return k.programs.With(p, k.hooks) }

// Points implements node.Kind. Programs of the pair run before the node's device sees a packet: the
// device sees none of the fast path, but those to a pod whose bandwidth is limited.
func (k *Kind) Points(p *node.Pod) []node.Point {
	list := k.Plain.Points(p)
	for i, at := range list {
		list[i].Bypassed = at.Device == p.Host
		list[i].Queued = at.Device == p.Host && !at.FromPod
	}
	return list
}

func (k *Kind) ENIProblem(h *netlink.Handle, eni routing.ENI) (string, error) {
	return k.programs.ENIProblem(h, eni)
}

func (k *Kind) Capacity() string { return k.programs.Capacity() }
