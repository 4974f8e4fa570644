package route

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/linkkind"
	"terway.dev/terway/internal/datapath/nft"
	"terway.dev/terway/internal/datapath/routing"
	"terway.dev/terway/internal/netlinkx"
	"terway.dev/terway/internal/sysctl"
)

// CheckPod implements datapath.Datapath. It changes nothing.
func (d *Datapath) CheckPod(ctx context.Context, node datapath.Node, pod datapath.Pod) error {
	if err := validate(pod); err != nil {
		return err
	}
	_, release := d.pods.acquire(claims.HostIfName(pod.Sandbox, pod.IfName))
	defer release()
	h, err := d.host()
	if err != nil {
		return podError(pod, err)
	}
	defer h.Close()
	problem, err := d.firstProblem(ctx, h, node, pod)
	if err == nil && problem != "" {
		err = errors.New(problem)
	}
	if err != nil {
		return podError(pod, err)
	}
	return nil
}

func (d *Datapath) firstProblem(ctx context.Context, h *netlink.Handle, node datapath.Node, pod datapath.Pod) (string, error) {
	links, err := netlinkx.List(ctx, "devices", h.LinkList)
	if err != nil {
		return "", err
	}
	routes, err := routing.OwnRoutes(ctx, h)
	if err != nil {
		return "", err
	}
	// Trouble with other ENIs is not this pod's: newWiring misses only its own.
	enis, eniErr := routing.Assign(node, links, routes, d.state().enis, d.receivers)
	w, err := d.newWiring(nodeState{enis: enis}, node, pod)
	if err != nil {
		return "", errors.Join(err, eniErr)
	}
	v, err := d.look(ctx, h, links, routes)
	if err != nil {
		return "", err
	}
	if list := hostProblems(v, w); len(list) > 0 {
		return list[0], nil
	}
	list, err := d.extensionProblems(h, v, w)
	if err != nil {
		return "", err
	}
	if len(list) > 0 {
		return list[0], nil
	}
	if ext := d.extension(w); ext != nil {
		if problem, err := ext.ENIProblem(h, w.eni); err != nil || problem != "" {
			return problem, err
		}
	}
	for _, want := range d.podSysctls(w) {
		differs, err := sysctl.Differs(d.procSys, d.ns, want)
		if err != nil {
			return "", err
		}
		if differs {
			return fmt.Sprintf("sysctl net/%s is not %s", want.Path, want.Value), nil
		}
	}
	inner, err := d.podProblems(ctx, w)
	if err != nil {
		return "", err
	}
	if len(inner) > 0 {
		return inner[0], nil
	}
	return d.nodeProblem(ctx, h, node, enis, v, strings.ToLower(pod.ENI))
}

// nodeProblem names the first node-wide piece that a pod of an ENI needs and that
// is missing.
func (d *Datapath) nodeProblem(ctx context.Context, h *netlink.Handle, node datapath.Node, enis map[string]routing.ENI, v view, mac string) (string, error) {
	if problem, err := routing.Problem(ctx, h, node, enis, v.byIndex, v.routes, mac); err != nil || problem != "" {
		return problem, err
	}
	rs, err := nft.NewRuleset(node)
	if err != nil {
		return "", err
	}
	return d.tables.Differs(rs)
}

// view is the node's kernel at one moment.
type view struct {
	byName  map[string]netlink.Link
	byIndex map[int]netlink.Link
	// routes are ours, of all our tables.
	routes []netlink.Route
	// pods are the routes of the table of local pods, by destination.
	pods   map[netip.Addr][]netlink.Route
	neighs map[neighKey]netlink.Neigh
	elems  nft.Elements
}

type neighKey struct {
	index int
	addr  netip.Addr
}

// look completes a view from links and routes that were listed already.
func (d *Datapath) look(ctx context.Context, h *netlink.Handle, links []netlink.Link, routes []netlink.Route) (view, error) {
	v := view{
		byName: map[string]netlink.Link{}, byIndex: map[int]netlink.Link{}, routes: routes,
		pods: map[netip.Addr][]netlink.Route{},
	}
	for _, l := range links {
		v.byName[l.Attrs().Name] = l
		v.byIndex[l.Attrs().Index] = l
	}
	for _, r := range routes {
		if a := netlinkx.HostDst(r); r.Table == claims.TableLocal && a.IsValid() {
			v.pods[a] = append(v.pods[a], r)
		}
	}
	var err error
	if v.neighs, err = neighbours(ctx, h, 0); err != nil {
		return v, err
	}
	v.elems, err = d.tables.Read()
	return v, err
}

// neighbours lists the permanent ones of a device, or of all with index 0.
func neighbours(ctx context.Context, h *netlink.Handle, index int) (map[neighKey]netlink.Neigh, error) {
	found := map[neighKey]netlink.Neigh{}
	for _, f := range netlinkx.Families {
		list, err := netlinkx.List(ctx, netlinkx.FamilyName(f)+" neighbours", func() ([]netlink.Neigh, error) { return h.NeighList(index, f) })
		if netlinkx.NoFamily(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, n := range list {
			if n.State&netlink.NUD_PERMANENT != 0 {
				found[neighKey{n.LinkIndex, netlinkx.Addr(n.IP)}] = n
			}
		}
	}
	return found, nil
}

// hostProblems names what is missing or wrong on the node's side of a pod.
func hostProblems(v view, w wiring) []string {
	link := v.byName[w.name]
	if link == nil || !linkkind.IsPodDevice(link) {
		return []string{fmt.Sprintf("device %s on the node is missing", w.name)}
	}
	var list []string
	add := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	attrs := link.Attrs()
	if problem := w.pair.problem(link); problem != "" {
		add("device %s %s", w.name, problem)
	}
	if attrs.Group != w.group {
		add("device %s is in group %#x instead of %#x", w.name, attrs.Group, w.group)
	}
	if attrs.HardwareAddr.String() != w.linkMAC.String() {
		add("device %s has MAC %s instead of %s", w.name, attrs.HardwareAddr, w.linkMAC)
	}
	if w.mtu != 0 && attrs.MTU != w.mtu {
		add("device %s has MTU %d instead of %d", w.name, attrs.MTU, w.mtu)
	}
	if attrs.Flags&net.FlagUp == 0 {
		add("device %s is down", w.name)
	}
	if w.pair.noARP() && attrs.RawFlags&unix.IFF_NOARP == 0 {
		add("device %s answers ARP", w.name)
	}
	for _, a := range w.pod.Addresses {
		want := w.hostRoute(a, attrs.Index)
		if !slices.ContainsFunc(v.pods[a], func(r netlink.Route) bool {
			return r.LinkIndex == want.LinkIndex && (want.Src == nil || r.Src.Equal(want.Src))
		}) {
			add("route to %s dev %s in table %d is missing", a, w.name, claims.TableLocal)
		}
		if n, ok := v.neighs[neighKey{attrs.Index, a}]; w.pair.hasMAC() && (!ok || n.HardwareAddr.String() != w.podMAC.String()) {
			add("neighbour %s dev %s is missing", a, w.name)
		}
		if mark, ok := v.elems[nft.Key{Device: w.name, Addr: a}]; !ok {
			add("nftables element (%s, %s) is missing", w.name, a)
		} else if mark != w.mark {
			add("nftables element (%s, %s) has mark %#x instead of %#x", w.name, a, mark, w.mark)
		}
	}
	return list
}

// podProblems names what is missing or wrong inside the pod.
func (d *Datapath) podProblems(ctx context.Context, w wiring) ([]string, error) {
	inside, err := d.enterPod(w.pod.NetNS)
	if err != nil {
		return nil, err
	}
	defer inside.Close()
	ph := inside.Handle

	name := w.inner
	link, err := ph.LinkByName(name)
	if netlinkx.Gone(err) {
		return []string{fmt.Sprintf("device %s of the pod is missing", name)}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up device %s of the pod: %w", name, err)
	}
	var list []string
	add := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	attrs := link.Attrs()
	if attrs.HardwareAddr.String() != w.podMAC.String() {
		add("device %s of the pod has MAC %s instead of %s", name, attrs.HardwareAddr, w.podMAC)
	}
	if w.mtu != 0 && attrs.MTU != w.mtu {
		add("device %s of the pod has MTU %d instead of %d", name, attrs.MTU, w.mtu)
	}
	if attrs.Flags&net.FlagUp == 0 {
		add("device %s of the pod is down", name)
	}
	neighs, err := neighbours(ctx, ph, attrs.Index)
	if err != nil {
		return nil, fmt.Errorf("in the pod: %w", err)
	}
	for _, a := range w.pod.Addresses {
		f := netlinkx.Family(a)
		addrs, err := netlinkx.List(ctx, "addresses of the pod", func() ([]netlink.Addr, error) { return ph.AddrList(link, f) })
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(addrs, func(x netlink.Addr) bool { return netlinkx.Addr(x.IP) == a }) {
			add("address %s of the pod's %s is missing", a, name)
		}
		routes, err := netlinkx.List(ctx, "routes of the pod", func() ([]netlink.Route, error) { return ph.RouteList(link, f) })
		if err != nil {
			return nil, err
		}
		for _, want := range w.podRoutes(a, attrs.Index) {
			if !slices.ContainsFunc(routes, func(r netlink.Route) bool {
				return netlinkx.SameDst(r, want) && r.Type == unix.RTN_UNICAST && netlinkx.Addr(r.Gw) == claims.GatewayFor(a)
			}) {
				to := "default route"
				if !netlinkx.IsDefault(want) {
					to = "route to " + want.Dst.String()
				}
				add("%s via %s of the pod is missing", to, claims.GatewayFor(a))
			}
		}
		if n, ok := neighs[neighKey{attrs.Index, claims.GatewayFor(a)}]; w.pair.hasMAC() && (!ok || n.HardwareAddr.String() != w.hostMAC.String()) {
			add("neighbour %s of the pod is missing", claims.GatewayFor(a))
		}
	}
	return list, nil
}
