package route

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sort"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/nft"
	"terway.dev/terway/internal/netlinkx"
)

// AddPod implements datapath.Datapath. Everything is written with "replace"
// semantics, so a first call, a repeated one and a repair are the same code.
func (d *Datapath) AddPod(ctx context.Context, node datapath.Node, pod datapath.Pod) (datapath.Wiring, error) {
	if err := validate(pod); err != nil {
		return datapath.Wiring{}, err
	}
	name := claims.HostIfName(pod.Sandbox, pod.IfName)
	p, release := d.pods.acquire(name)
	defer release()

	h, err := d.host()
	if err != nil {
		return datapath.Wiring{}, podError(pod, err)
	}
	defer h.Close()
	state, err := d.ready(ctx, h, node)
	if err != nil {
		// Another ENI's trouble does not keep this pod away.
		if _, ok := state.enis[strings.ToLower(pod.ENI)]; !ok && pod.Own == nil {
			return datapath.Wiring{}, podError(pod, err)
		}
		d.log.Warn("node is not fully prepared", "error", err)
	}
	w, err := d.newWiring(state, node, pod)
	if err != nil {
		return datapath.Wiring{}, podError(pod, err)
	}
	elems, err := d.wire(ctx, h, node, w)
	if err != nil {
		// Nothing half-made stays: the address may go to another pod.
		return datapath.Wiring{}, podError(pod, errors.Join(err, d.retire(h, name, pod.Addresses), d.leave(pod)))
	}
	d.pods.setWired(p, elems)
	return w.result(), nil
}

// DelPod implements datapath.Datapath. Route and element go first, then the
// device is put among those that may send nothing: from then on no packet comes
// or goes. The device itself is deleted in the background.
func (d *Datapath) DelPod(_ context.Context, pod datapath.Pod) error {
	if pod.Sandbox == "" || pod.IfName == "" {
		return fmt.Errorf("pod %s/%s: sandbox %q and interface %q must not be empty", pod.Namespace, pod.Name, pod.Sandbox, pod.IfName)
	}
	name := claims.HostIfName(pod.Sandbox, pod.IfName)
	p, release := d.pods.acquire(name)
	defer release()
	h, err := d.host()
	if err != nil {
		return podError(pod, err)
	}
	defer h.Close()
	d.pods.setDeleted(p)
	if err := errors.Join(d.retire(h, name, pod.Addresses), d.leave(pod)); err != nil {
		return podError(pod, err)
	}
	return nil
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

// wiring is what one pod should look like in the kernel.
type wiring struct {
	pod  datapath.Pod
	name string
	pair Pair
	// hostMAC is the pod's next hop's; linkMAC that of the node's device, nearly always
	// the same.
	hostMAC, linkMAC net.HardwareAddr
	podMAC           net.HardwareAddr
	mtu              int
	mark             uint32
	eni              ENIPlace
	source4, source6 netip.Addr
	// inner is the name of the pod's end, group the group of the node's.
	inner string
	group uint32
	// through are the ranges for which the pod's end is the way out.
	through []netip.Prefix
}

// newWiring knows what devices the pod's datapath has. Those that are stacked on the ENI
// have its MAC.
func (d *Datapath) newWiring(state nodeState, node datapath.Node, pod datapath.Pod) (wiring, error) {
	w, err := newWiring(state, node, pod)
	if d.linker(pod) != nil && err == nil {
		w.linkMAC, w.podMAC = w.eni.MAC, w.eni.MAC
	}
	if w.pair = d.pairOf(pod); !w.pair.hasMAC() {
		w.hostMAC, w.linkMAC, w.podMAC = nil, nil, nil
	}
	return w, err
}

func newWiring(state nodeState, node datapath.Node, pod datapath.Pod) (wiring, error) {
	w := wiring{
		pod: pod, name: claims.HostIfName(pod.Sandbox, pod.IfName), pair: Veth,
		source4: nodeSource(node, netlink.FAMILY_V4), source6: nodeSource(node, netlink.FAMILY_V6),
	}
	w.hostMAC, w.linkMAC, w.podMAC = claims.HostMAC(w.name), claims.HostMAC(w.name), claims.PodMAC(w.name)
	w.inner, w.group = pod.IfName, claims.GroupPod
	if pod.Own != nil {
		// What goes on from the node leaves with the node's address: the pod's is on
		// an ENI that the node does not have.
		w.inner, w.group, w.mark, w.mtu = claims.OwnIfName, claims.GroupOwn, claims.MarkOf(claims.SlotOutside), pod.Own.MTU
		w.through = nodeRanges(node)
		return w, nil
	}
	w.through = everywhere
	eni, ok := state.enis[strings.ToLower(pod.ENI)]
	if !ok {
		// Without its ENI the pod still reaches its neighbours on the node.
		w.mark = claims.MarkOf(claims.SlotStranded)
		return w, fmt.Errorf("ENI with MAC %s is not attached to this node (attached: %s)", pod.ENI, state.attached())
	}
	w.mark, w.mtu, w.eni = claims.MarkOf(eni.Slot), eni.MTU, eni
	return w, nil
}

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

func (w wiring) elements() nft.Elements {
	elems := nft.Elements{}
	for _, a := range w.pod.Addresses {
		elems[nft.Key{Device: w.name, Addr: a}] = w.mark
	}
	return elems
}

func (w wiring) result() datapath.Wiring {
	res := datapath.Wiring{HostIfName: w.name, HostMAC: w.hostMAC, PodMAC: w.podMAC, MTU: w.mtu}
	for _, a := range w.pod.Addresses {
		res.Gateways = append(res.Gateways, claims.GatewayFor(a))
	}
	return res
}

func (w wiring) hasIPv6() bool {
	for _, a := range w.pod.Addresses {
		if a.Is6() {
			return true
		}
	}
	return false
}

// hostRoute leads to the pod: in the table of local pods, from the node's own
// address for local processes.
func (w wiring) hostRoute(a netip.Addr, index int) *netlink.Route {
	r := &netlink.Route{
		Family: netlinkx.Family(a), Table: claims.TableLocal, Protocol: claims.Protocol, Type: unix.RTN_UNICAST,
		LinkIndex: index, Dst: netipx.AddrIPNet(a),
	}
	source := w.source6
	if a.Is4() {
		r.Scope = unix.RT_SCOPE_LINK
		source = w.source4
	}
	if source.IsValid() {
		r.Src = source.AsSlice()
	}
	return r
}

// podRoutes lead from the pod's address to the node.
func (w wiring) podRoutes(a netip.Addr, index int) (routes []netlink.Route) {
	for _, p := range w.through {
		if p.Addr().Is4() != a.Is4() {
			continue
		}
		r := netlink.Route{
			Family: netlinkx.Family(a), Type: unix.RTN_UNICAST, LinkIndex: index, Dst: netipx.PrefixIPNet(p),
			Gw: claims.GatewayFor(a).AsSlice(), Flags: int(netlink.FLAG_ONLINK),
		}
		if w.pod.Own != nil {
			r.Src = a.AsSlice()
		}
		routes = append(routes, r)
	}
	return routes
}

var everywhere = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}

// nodeRanges are what a pod with an ENI of its own reaches through the node:
// Services, the node itself, and what the node serves on other addresses.
func nodeRanges(node datapath.Node) []netip.Prefix {
	list := slices.Concat(node.ServiceCIDRs, node.HostStackCIDRs)
	for _, a := range node.Addresses {
		list = append(list, netip.PrefixFrom(a, a.BitLen()))
	}
	slices.SortFunc(list, netip.Prefix.Compare)
	return slices.Compact(list)
}

func neighbour(a netip.Addr, mac net.HardwareAddr, index int) *netlink.Neigh {
	return &netlink.Neigh{
		Family: netlinkx.Family(a), LinkIndex: index, State: netlink.NUD_PERMANENT, Type: unix.RTN_UNICAST,
		IP: a.AsSlice(), HardwareAddr: mac,
	}
}

// enterPod opens the pod's namespace and makes sure that it is not the node's.
func (d *Datapath) enterPod(path string) (*netlinkx.Namespace, error) {
	ns, err := netlinkx.Enter(path)
	if err != nil {
		return nil, err
	}
	own, err := ns.Is(d.ns)
	if err == nil && own {
		err = fmt.Errorf("network namespace %s is the node's own", path)
	}
	if err != nil {
		ns.Close()
		return nil, err
	}
	return ns, nil
}

// wire makes every piece of a pod. The host's side comes first, so that the pod
// is complete when its first packet can leave.
func (d *Datapath) wire(ctx context.Context, h *netlink.Handle, node datapath.Node, w wiring) (nft.Elements, error) {
	inside, err := d.enterPod(w.pod.NetNS)
	if err != nil {
		return nil, err
	}
	defer inside.Close()

	host, elems, err := d.write(ctx, h, inside.Handle, inside.NS, node, w)
	if err != nil {
		return nil, err
	}
	if err := AwaitIPv6(ctx, inside.Handle, w.pod.Addresses); err != nil {
		return nil, err
	}
	if d.linker(w.pod) != nil {
		return elems, nil // it has the ENI's carrier from the start
	}
	return elems, d.awaitActive(ctx, h, w.name, host.Attrs().Index)
}

// write makes what wire waits for, one pod after the other: see linkMu.
func (d *Datapath) write(ctx context.Context, h, ph *netlink.Handle, ns netns.NsHandle, node datapath.Node, w wiring) (netlink.Link, nft.Elements, error) {
	d.linkMu.Lock()
	defer d.linkMu.Unlock()
	var host, inner netlink.Link
	var err error
	if l := d.linker(w.pod); l != nil {
		host, inner, err = l.Link(h, ph, ns, w.place(nil))
	} else {
		host, inner, err = d.ensurePair(h, ph, ns, w)
	}
	if err != nil {
		return nil, nil, err
	}
	if err := d.wireHost(h, w, host); err != nil {
		return nil, nil, err
	}
	elems := w.elements()
	if err := d.putElements(ctx, h, node, elems); err != nil {
		return nil, nil, err
	}
	if err := d.extend(h, w, host); err != nil {
		return nil, nil, err
	}
	return host, elems, d.wirePod(ph, ns, w, inner)
}

// putElements prepares the node anew if somebody removed the table since the
// last Sync.
func (d *Datapath) putElements(ctx context.Context, h *netlink.Handle, node datapath.Node, elems nft.Elements) error {
	err := d.tables.Put(elems)
	if err == nil || !netlinkx.Gone(err) {
		return err
	}
	d.distrust()
	if _, err := d.ready(ctx, h, node); err != nil {
		return err
	}
	return d.tables.Put(elems)
}
