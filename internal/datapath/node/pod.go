package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sort"
	"strings"

	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/nft"
	"terway.dev/terway/internal/datapath/object"
	"terway.dev/terway/internal/datapath/routing"
	"terway.dev/terway/internal/datapath/tracker"
	"terway.dev/terway/internal/netlinkx"
	"terway.dev/terway/internal/sysctl"
)

// Pod is the desired kernel state of one pod.
type Pod struct {
	datapath.Pod
	// Host is the node's device, Inner its peer in the pod.
	Host, Inner object.Device
	// HostMAC is the MAC of the pod's next hop, LinkMAC that of the node's device, nearly always
	// the same. All are nil if the devices have none.
	HostMAC, LinkMAC, PodMAC net.HardwareAddr
	// MTU in bytes; 0 if it does not matter.
	MTU int
	// Mark is set on the pod's packets, Group on the node's device.
	Mark, Group uint32
	// ENI is zero if the pod's ENI is not attached to the node.
	ENI routing.ENI
	// ARP: the node's device takes part in ARP and ND. The pod behind it is a permanent neighbour;
	// with ARP the kernel would make an entry in the node's only neighbour table for each sender
	// that a pod forges.
	ARP bool
	// Through are the ranges that are reached by the pod's end; FromAddress: with the pod's address
	// as their source, if that is on another device.
	Through     []netip.Prefix
	FromAddress bool
	// Conf are settings of the pod's end (object.Settings).
	Conf []sysctl.Setting
	// RemoveFromOthers removes an address from devices of other pods that still have it; may be
	// nil.
	RemoveFromOthers func(netip.Addr) error
	// Carrier: the node's device has a carrier from the start, whatever its peer's state.
	Carrier bool
	// Wiring is AddPod's result, without what follows from the fields above.
	Wiring datapath.Wiring

	node  *Node
	state nodeState
	want  datapath.Node
	kind  Kind
}

// describe returns the desired state of a pod; after an error as far as it is known. A pod of an
// unknown kind can be deleted.
func (n *Node) describe(state nodeState, want datapath.Node, pod datapath.Pod) (*Pod, error) {
	p := n.bare(claims.HostIfName(pod.Sandbox, pod.IfName), pod.Addresses)
	p.Pod, p.state, p.want = pod, state, want
	p.Inner.Name = pod.IfName
	if p.kind = n.kind(pod.Kind); p.kind == nil {
		return p, fmt.Errorf("kind %q: this node does not have it; want one of %q", pod.Kind, n.names())
	}
	return p, p.kind.Describe(p)
}

// bare returns a pod of which only the device and the addresses are known.
func (n *Node) bare(device string, addresses []netip.Addr) *Pod {
	return &Pod{
		Pod:  datapath.Pod{Addresses: addresses},
		Host: object.Device{Name: device}, Inner: object.Device{InPod: true},
		HostMAC: claims.HostMAC(device), LinkMAC: claims.HostMAC(device), PodMAC: claims.PodMAC(device),
		Group: claims.GroupPod, Through: everywhere, node: n,
	}
}

// ShareENI makes the pod one with a shared ENI. Without its ENI, which is an error, it still
// reaches other pods on the node.
func (p *Pod) ShareENI() error {
	eni, ok := p.state.enis[routing.KeyOf(p.Pod.ENI)]
	if !ok {
		p.Mark = claims.MarkOf(claims.SlotStranded)
		return fmt.Errorf("ENI with MAC %s is not attached to this node (attached: %s)", p.Pod.ENI, p.state.attached())
	}
	p.Mark, p.MTU, p.ENI = claims.MarkOf(eni.Slot), eni.MTU, eni
	return nil
}

// ByNode makes the pod one with another way out: by this device it reaches Services, the node
// itself, and what the node serves on other addresses. Packets that continue from the node leave
// with the node's address.
func (p *Pod) ByNode() {
	p.Mark, p.Through, p.FromAddress = claims.MarkOf(claims.SlotOutside), nodeRanges(p.want), true
}

// NoMAC makes the pod one whose devices have no MAC and so no neighbours.
func (p *Pod) NoMAC() { p.HostMAC, p.LinkMAC, p.PodMAC = nil, nil, nil }

// HasIPv6 reports whether the pod has an IPv6 address.
func (p *Pod) HasIPv6() bool { return slices.ContainsFunc(p.Addresses, netip.Addr.Is6) }

func (s nodeState) attached() string {
	var list []string
	for mac, e := range s.enis {
		list = append(list, mac+" "+e.Device)
	}
	if len(list) == 0 {
		return "none"
	}
	sort.Strings(list)
	return strings.Join(list, ", ")
}

func (p *Pod) elements() nft.Elements {
	elems := nft.Elements{}
	for _, a := range p.Addresses {
		elems[nft.Key{Device: p.Host.Name, Addr: a}] = p.Mark
	}
	return elems
}

func (p *Pod) answer() datapath.Wiring {
	w := p.Wiring
	w.HostIfName, w.HostMAC = p.Host.Name, p.HostMAC
	if w.PodMAC == nil {
		w.PodMAC = p.PodMAC
	}
	if w.MTU == 0 {
		w.MTU = p.MTU
	}
	if w.Gateways == nil {
		for _, a := range p.Addresses {
			w.Gateways = append(w.Gateways, claims.GatewayFor(a))
		}
	}
	return w
}

// AddPod wires a pod: after it returns the pod can send and receive. A repeated call for the same
// pod gives the same result; after an unfinished call it starts over. Calls for different pods run
// concurrently. Errors are a datapath.PodError.
func (n *Node) AddPod(ctx context.Context, want datapath.Node, pod datapath.Pod) (datapath.Wiring, error) {
	if err := validate(pod); err != nil {
		return datapath.Wiring{}, err
	}
	var made datapath.Wiring
	err := n.forPod(ctx, pod, func(turn *tracker.Pod, site *object.Site) error {
		state, nodeErr := n.ready(ctx, site.Node, want)
		p, err := n.describe(state, want, pod)
		if err != nil {
			return errors.Join(err, nodeErr)
		}
		if nodeErr != nil { // an error of another ENI does not concern this pod
			n.log.Warn("node is not fully prepared", "error", nodeErr)
		}
		if err := n.wire(site, p); err != nil {
			// Nothing partial stays: the address may be given to another pod.
			return errors.Join(append([]error{err}, object.Del(site, n.objects(p))...)...)
		}
		n.pods.SetWired(turn, p.elements())
		made = p.answer()
		return nil
	})
	return made, err
}

// forPod calls f while no other call works on the pod. An error becomes the pod's.
func (n *Node) forPod(ctx context.Context, pod datapath.Pod, f func(*tracker.Pod, *object.Site) error) error {
	turn, release := n.pods.Acquire(claims.HostIfName(pod.Sandbox, pod.IfName))
	defer release()
	h, err := n.host()
	if err != nil {
		return podError(pod, err)
	}
	defer n.giveBack(h)
	site := n.site(ctx, h)
	defer site.Close()
	if err := f(turn, site); err != nil {
		return podError(pod, err)
	}
	return nil
}

// DelPod removes what AddPod made. Missing objects, and a missing namespace, are no error. When it
// returns, no packet reaches the address through this pod any more: route and element are removed
// first, then the device is moved to the group that must not send. The device itself is deleted in
// the background.
func (n *Node) DelPod(ctx context.Context, pod datapath.Pod) error {
	if pod.Sandbox == "" || pod.IfName == "" {
		return fmt.Errorf("pod %s/%s: sandbox %q and interface %q must not be empty", pod.Namespace, pod.Name, pod.Sandbox, pod.IfName)
	}
	return n.forPod(ctx, pod, func(turn *tracker.Pod, site *object.Site) error {
		n.pods.SetDeleted(turn)
		if len(pod.Addresses) == 0 {
			view, err := n.look(ctx, site.Node)
			if err != nil {
				return err
			}
			pod.Addresses = view.Addresses(claims.HostIfName(pod.Sandbox, pod.IfName))
		}
		p, _ := n.describe(n.state(), datapath.Node{}, pod) // what no longer exists need not be known
		return errors.Join(object.Del(site, n.objects(p))...)
	})
}

func podError(pod datapath.Pod, err error) error {
	return &datapath.PodError{Sandbox: pod.Sandbox, IfName: pod.IfName, Err: fmt.Errorf("pod %s/%s (sandbox %s, %s): %w", pod.Namespace, pod.Name, pod.Sandbox, pod.IfName, err)}
}

func validate(pod datapath.Pod) error {
	bad := func(field string, value any, right string) error {
		return podError(pod, fmt.Errorf("%s %q: must be %s", field, fmt.Sprint(value), right))
	}
	switch {
	case pod.Sandbox == "":
		return bad("Sandbox", pod.Sandbox, "the runtime's sandbox id")
	case pod.IfName == "" || len(pod.IfName) >= unix.IFNAMSIZ || strings.ContainsAny(pod.IfName, "/:% ") || pod.IfName[0] == '.':
		return bad("IfName", pod.IfName, "a device name of 1 to 15 characters")
	case pod.NetNS == "":
		return bad("NetNS", pod.NetNS, "the path of the pod's network namespace")
	case len(pod.Addresses) == 0 || len(pod.Addresses) > 2:
		return bad("Addresses", pod.Addresses, "one address, or one of each family")
	case len(pod.Addresses) == 2 && pod.Addresses[0].Is4() == pod.Addresses[1].Is4():
		return bad("Addresses", pod.Addresses, "of different families")
	}
	for _, a := range pod.Addresses {
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" || a.IsUnspecified() {
			return bad("Addresses", a, "a plain IPv4 or IPv6 address")
		}
	}
	if _, err := net.ParseMAC(pod.ENI); err != nil {
		return bad("ENI", pod.ENI, "the MAC of the ENI that carries the addresses")
	}
	return nil
}

var everywhere = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}

// nodeRanges are the ranges that a pod with an exclusive ENI reaches through the node: Services,
// the node itself, and what the node serves on other addresses.
func nodeRanges(node datapath.Node) []netip.Prefix {
	list := slices.Concat(node.ServiceCIDRs, node.HostStackCIDRs)
	for _, a := range node.Addresses {
		list = append(list, netip.PrefixFrom(a, a.BitLen()))
	}
	slices.SortFunc(list, netip.Prefix.Compare)
	return slices.Compact(list)
}

// enterPod opens the pod's namespace and makes sure that it is not the node's.
func (n *Node) enterPod(path string) (*netlinkx.Namespace, error) {
	ns, err := netlinkx.Enter(path)
	if err != nil {
		return nil, err
	}
	own, err := ns.Is(n.ns)
	if err == nil && own {
		err = fmt.Errorf("network namespace %s is the node's own", path)
	}
	if err != nil {
		ns.Close()
		return nil, err
	}
	return ns, nil
}
