// Package exclusive is the kind of pods with an exclusive ENI: the device is moved into the pod and
// becomes its eth0. Nothing of the node is between the pod and the VPC.
//
// A veth beside it (claims.ExclusiveIfName), like that of other pods and made by package node,
// connects such a pod with what it still needs the node for: Services, whose addresses kube-proxy
// translates on the node; the node's own address; probes of the kubelet. What the node has translated
// goes back into the pod and out by its ENI, with the pod's address (turns, bpf/exclusive.c).
//
// The package owns a device only while its pod lives. DelPod moves it back to the node, down and
// without an address. If the pod's namespace is destroyed first, the kernel moves a network card
// back to the node by itself.
package exclusive

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/object"
	"terway.dev/terway/internal/datapath/routing"
	"terway.dev/terway/internal/netlinkx"
	"terway.dev/terway/internal/sysctl"
)

// Kind is the kind of pods with an exclusive ENI.
type Kind struct {
	node.Plain
	cards *cards
	turns *turns
}

// New returns the kind.
func New() node.Kind { return Kind{node.Plain{KindName: claims.Exclusive}, newCards(), &turns{}} }

// Start implements node.Kind.
func (k Kind) Start(n *node.Node) { k.turns.node = n }

func (k Kind) Describe(p *node.Pod) error {
	p.Inner.Name, p.Group = claims.ExclusiveIfName, claims.GroupExclusive
	p.ByNode()
	if k.turns.lacking() == nil {
		p.Mark = claims.MarkOf(claims.SlotOwnENI)
	}
	// Answers to the node's other pods leave by the pod's ENI.
	p.Conf = append(p.Conf, sysctl.Setting{Path: "ipv4/conf/" + p.Inner.Name + "/rp_filter", Value: "2"})
	if err := validate(p.Pod); err != nil {
		return err
	}
	p.MTU = p.Exclusive.MTU
	p.Wiring.PodMAC, p.Wiring.Gateways = p.Exclusive.MAC, p.Exclusive.Gateways
	return nil
}

// Prepare implements node.Kind: the veth gets the MTU of the ENI's device.
func (k Kind) Prepare(s *object.Site, p *node.Pod) error {
	at, err := k.cards.find(s, p.Pod)
	if err != nil {
		return err
	}
	if err := k.turns.prepare(s.Ctx, s.Node); err != nil {
		return err
	}
	if k.turns.lacking() != nil {
		p.ByNode()
	}
	if p.MTU == 0 {
		p.MTU = at.link.Attrs().MTU
	}
	return nil
}

// Objects implements node.Kind: the ENI is moved into the pod before anything can be sent, and set
// up last.
func (k Kind) Objects(p *node.Pod) node.Added {
	if p.Exclusive == nil {
		return node.Added{} // its ENI is unknown: it comes back with the end of the pod's namespace
	}
	eth := object.Device{Name: p.IfName, InPod: true}
	var after []object.Object
	if p.HasIPv6() {
		prefix := "ipv6/conf/" + p.IfName + "/"
		after = append(after, node.InPod(prefix+"disable_ipv6", "0"), node.InPod(prefix+"accept_ra", "0"), node.InPod(prefix+"accept_dad", "0"))
	}
	// Answers to pods of the same node arrive by the ENI and leave by it, packets of the node
	// arrive by the veth: the reverse path check must not be strict.
	after = append(after, object.Settings{Device: eth, MAC: p.Exclusive.MAC, MTU: p.MTU, Conf: []sysctl.Setting{{Path: "ipv4/conf/" + p.IfName + "/rp_filter", Value: "2"}}})
	for _, a := range p.Addresses {
		after = append(after, object.Address(eth, a, nil),
			object.Route(eth, netip.PrefixFrom(a, 0).Masked(), netlinkx.OfFamily(p.Exclusive.Gateways, netlinkx.Family(a)), netip.Addr{}))
	}
	return node.Added{Before: []object.Object{card{k.cards, p.Pod}}, After: append(after, k.turns.objects(p, eth)...)}
}

// Sync implements node.Kind: it records the indexes of the network cards, and corrects the programs on the node's devices.
func (k Kind) Sync(h *netlink.Handle, links []netlink.Link, _ []routing.ENI) ([]string, error) {
	k.cards.note(links)
	return k.turns.sync(h, links)
}

// Teardown implements node.Kind.
func (k Kind) Teardown(h *netlink.Handle, links []netlink.Link) error {
	return k.turns.teardown(h, links)
}

// Close implements node.Kind.
func (k Kind) Close() error { return k.turns.close() }

// Points implements node.Kind: the ENI, and the veth for traffic through the node.
func (k Kind) Points(p *node.Pod) []node.Point {
	eth := object.Device{Name: p.IfName, InPod: true}
	return append(k.Plain.Points(p),
		node.Point{Device: eth, FromPod: true, Removable: true},
		node.Point{Device: eth, Ingress: true, Removable: true})
}

// validate checks the fields that only this package uses.
func validate(pod datapath.Pod) error {
	e := pod.Exclusive
	switch {
	case e == nil:
		return errors.New("field Exclusive is missing: must be the ENI that the pod has for itself")
	case len(e.MAC) != 6 || !strings.EqualFold(e.MAC.String(), pod.ENI):
		return fmt.Errorf("Exclusive.MAC %q: must be the MAC of the pod's ENI, %s", e.MAC, pod.ENI)
	case len(e.Gateways) == 0:
		return errors.New("Exclusive.Gateways is empty: must be the vSwitch's gateways")
	}
	for _, a := range pod.Addresses {
		if !netlinkx.OfFamily(e.Gateways, netlinkx.Family(a)).IsValid() {
			return fmt.Errorf("Exclusive.Gateways %v: must have one of the family of address %s", e.Gateways, a)
		}
	}
	return nil
}
