package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/linkkind"
	"terway.dev/terway/internal/datapath/nft"
	"terway.dev/terway/internal/datapath/object"
	"terway.dev/terway/internal/netlinkx"
	"terway.dev/terway/internal/sysctl"
)

// objects returns all kernel objects of a pod, in the order in which they are put. The node's side
// comes first, so that the pod is complete when its first packet can leave.
func (n *Node) objects(p *Pod) []object.Object {
	kinds, devices := n.kinds, []object.Object{Veth(p)} // if its kind is unknown, it can only be deleted
	if p.kind != nil {
		kinds, devices = []Kind{p.kind}, []object.Object{p.kind.Devices(p)}
	}
	var added, after []object.Object
	var points []Point
	for _, k := range kinds {
		a := k.Objects(p)
		devices, added, after = append(devices, a.First...), append(added, a.Before...), append(after, a.After...)
		points = append(points, k.Points(p)...)
	}
	devices = append(devices, hostSysctls(p)...)
	devices = append(devices, object.Settings{
		Device: p.Host, MAC: p.LinkMAC, MTU: p.MTU, Group: p.Group, NoARP: !p.ARP, Alias: p.alias(),
		Conf: append(n.routing.ReversePath(p.Host.Name), sysctl.Setting{Path: "ipv4/conf/" + p.Host.Name + "/forwarding", Value: "1"}),
	})
	for _, f := range n.features {
		added = append(added, f.Objects(p, points)...)
	}
	return slices.Concat(devices, reach(p), added, inside(p), after)
}

// reach returns the routes, neighbours and elements by which packets find the pod and its ENI.
func reach(p *Pod) (list []object.Object) {
	for _, a := range p.Addresses {
		list = append(list, object.PodRoute(p.Host, a, netlinkx.OfFamily(p.want.Addresses, netlinkx.Family(a))))
		if p.PodMAC != nil {
			list = append(list, object.Neighbour(p.Host, a, p.PodMAC))
		}
	}
	return append(list, elements{pod: p})
}

// hostSysctls are only for the node's device, before it is up. Without IPv6 addresses in the pod
// the device needs no IPv6; with them it needs no address of its own (the pod's next hop is a
// permanent neighbour), so there is no duplicate address detection and no multicast on it.
func hostSysctls(p *Pod) []object.Object {
	set := func(name, value string) object.Object {
		return object.Sysctl{Setting: sysctl.Setting{Path: "ipv6/conf/" + p.Host.Name + "/" + name, Value: value}}
	}
	if !p.HasIPv6() {
		return []object.Object{set("disable_ipv6", "1")}
	}
	return []object.Object{set("disable_ipv6", "0"), set("addr_gen_mode", "1"), set("accept_ra", "0"), set("forwarding", "1")}
}

// Batch returns the node's socket for several requests at once, which stays the node's.
func (n *Node) Batch() (_ *netlinkx.Batch, err error) {
	n.idleMu.Lock()
	defer n.idleMu.Unlock()
	if n.batch == nil {
		n.batch, err = netlinkx.NewBatch(n.ns)
	}
	return n.batch, err
}

// inside returns the pod's side: loopback, addresses, the next hop's MAC and routes.
func inside(p *Pod) []object.Object {
	var list []object.Object
	if p.HasIPv6() { // a runtime may have turned IPv6 off for new devices
		list = append(list, InPod("ipv6/conf/"+p.Inner.Name+"/disable_ipv6", "0"))
	}
	list = append(list, object.Loopback(), object.Settings{Device: p.Inner, MAC: p.PodMAC, MTU: p.MTU, Conf: p.Conf})
	for _, a := range p.Addresses {
		list = append(list, object.Address(p.Inner, a, p.RemoveFromOthers))
		if p.HostMAC != nil {
			list = append(list, object.Neighbour(p.Inner, claims.GatewayFor(a), p.HostMAC))
		}
		var source netip.Addr
		if p.FromAddress {
			source = a
		}
		for _, to := range p.Through {
			if to.Addr().Is4() == a.Is4() {
				list = append(list, object.Route(p.Inner, to, claims.GatewayFor(a), source))
			}
		}
	}
	return list
}

// InPod returns a setting of the pod's namespace.
func InPod(path, value string) object.Sysctl {
	return object.Sysctl{InPod: true, Setting: sysctl.Setting{Path: path, Value: value}}
}

// alias is for people: `ip link` shows the pod of a device.
func (p *Pod) alias() string {
	alias := claims.AliasPrefix + p.Pod.Namespace + "/" + p.Pod.Name
	if len(alias) > 255 { // IFALIASZ - 1
		alias = alias[:255]
	}
	return alias
}

// elements are a pod's elements in the nftables tables, one for each address.
type elements struct {
	object.Addressed
	pod *Pod
}

func (o elements) Name() string { return "nftables elements of " + o.pod.Host.Name }

func (o elements) Have(s *object.Site) (string, error) {
	for _, a := range o.pod.Addresses {
		name := o.pod.Host.Name
		if mark, ok := s.View.Elements[nft.Key{Device: name, Addr: a}]; !ok {
			return fmt.Sprintf("nftables element (%s, %s) is missing", name, a), nil
		} else if mark != o.pod.Mark {
			return fmt.Sprintf("nftables element (%s, %s) has mark %#x instead of %#x", name, a, mark, o.pod.Mark), nil
		}
	}
	return "", nil
}

// Put implements object.Object. It prepares the node again if somebody removed the table since the
// last Sync; what of the node is not prepared then concerns this pod only if it is the table.
func (o elements) Put(s *object.Site) error {
	elems, n := o.pod.elements(), o.pod.node
	err := n.tables.Put(elems)
	if err == nil || !netlinkx.Gone(err) {
		return err
	}
	n.distrust()
	_, nodeErr := n.ready(s.Ctx, s.Node, o.pod.want)
	if err := n.tables.Put(elems); err != nil {
		return errors.Join(err, nodeErr)
	}
	return nil
}

func (o elements) Del(*object.Site) error {
	return o.pod.node.tables.Remove(slices.Collect(maps.Keys(o.pod.elements()))...)
}

// site returns the Site of one call; the pod's namespace is not opened yet.
func (n *Node) site(ctx context.Context, h *netlink.Handle) *object.Site {
	return &object.Site{Ctx: ctx, Node: h, NodeNS: n.ns, ProcSys: n.procSys, Later: n.reaper.Later, NodeBatch: n.Batch}
}

// wire puts every object of a pod that is new, or added again.
func (n *Node) wire(s *object.Site, p *Pod) error {
	var err error
	if s.Pod, err = n.enterPod(p.NetNS); err != nil {
		return err
	}
	if err := p.kind.Prepare(s, p); err != nil {
		return err
	}
	_, err = n.put(s, p, n.objects(p))
	return err
}

// put puts objects and waits until they are in use; done is how many came before the first that
// failed. Pods are serialised for most of it: see linkMu.
func (n *Node) put(s *object.Site, p *Pod, list []object.Object) (done int, err error) {
	slow := func(o object.Object) bool { _, is := o.(object.Slow); return is }
	for done < len(list) && err == nil {
		var some int
		if slow(list[done]) {
			some, err = object.Put(s, list[done:done+1])
		} else {
			end := slices.IndexFunc(list[done:], slow)
			if end < 0 {
				end = len(list) - done
			}
			n.linkMu.Lock()
			some, err = object.Put(s, list[done:done+end])
			n.linkMu.Unlock()
		}
		done += some
	}
	if err != nil || s.Pod == nil {
		return done, err
	}
	if err := object.AwaitIPv6(s, p.Addresses); err != nil || p.Carrier {
		return done, err
	}
	return done, object.AwaitActive(s, p.Host)
}

// Retire moves a pod's device on the node to the group of devices that must not send and are
// deleted together, in the background.
func (n *Node) Retire(s *object.Site, d object.Device) error {
	link, err := s.Link(d)
	if err == nil && link == nil { // it may have been created since
		link, err = object.Find(s.Node, d.Name)
	}
	if err != nil || link == nil || !linkkind.IsPodDevice(link) {
		return err
	}
	return n.reaper.Retire(s.Node, link)
}
