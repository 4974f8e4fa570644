package route

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/linkkind"
	"terway.dev/terway/internal/datapath/routing"
	"terway.dev/terway/internal/kernel"
	"terway.dev/terway/internal/netlinkx"
	"terway.dev/terway/internal/sysctl"
)

// Sync implements datapath.Datapath. It looks at everything once, writes only
// what differs, and goes on after an error with one pod or ENI. The list of pods
// may be a moment old: what AddPod and DelPod did since stands (see tracker).
func (d *Datapath) Sync(ctx context.Context, node datapath.Node, pods []datapath.Pod) ([]string, error) {
	d.syncMu.Lock()
	defer d.syncMu.Unlock()
	var errs []error
	s := &syncing{d: d, node: node, desired: map[string]datapath.Pod{}, others: map[string]bool{}}
	for _, pod := range pods {
		if !d.own(pod) {
			s.others[claims.HostIfName(pod.Sandbox, pod.IfName)] = true
			continue
		}
		if pod.NetNS == "" {
			// Allowed here: the sandbox died. "-" passes the check and opens nothing.
			gone := pod
			gone.NetNS = "-"
			if err := validate(gone); err != nil {
				errs = append(errs, err)
				continue
			}
		} else if err := validate(pod); err != nil {
			errs = append(errs, err)
			continue
		}
		s.desired[claims.HostIfName(pod.Sandbox, pod.IfName)] = pod
	}
	s.began = d.pods.begin(s.desired)

	h, err := d.host()
	if err != nil {
		return nil, err
	}
	defer h.Close()
	s.h = h
	d.nodeMu.Lock()
	repairs, err := d.ensureNode(ctx, h, node, true)
	d.nodeMu.Unlock()
	errs = append(errs, err)
	s.repairs = repairs
	passing, err := d.firewall.Ensure()
	s.repairs = append(s.repairs, passing...)
	if err != nil {
		// Others' rules that cannot be read or changed are no reason to serve nobody.
		errs = append(errs, &datapath.Obstacle{What: "whether other programs' firewall rules let pods' packets pass is not known: " + err.Error()})
	}
	errs = append(errs, d.firewall.Obstacles()...)

	links, err := netlinkx.List(ctx, "devices", h.LinkList)
	if err != nil {
		return s.repairs, errors.Join(append(errs, err)...)
	}
	routes, err := routing.OwnRoutes(ctx, h)
	if err != nil {
		return s.repairs, errors.Join(append(errs, err)...)
	}
	if s.view, err = d.look(ctx, h, links, routes); err != nil {
		return s.repairs, errors.Join(append(errs, err)...)
	}
	errs = append(errs, s.sysctls()...)
	for _, name := range slices.Sorted(maps.Keys(s.desired)) {
		if err := s.pod(ctx, name); err != nil {
			errs = append(errs, podError(s.desired[name], err))
		}
	}
	errs = append(errs, s.prune()...)
	return s.repairs, errors.Join(errs...)
}

// own says whether the pod is wired by this datapath or by one that is built on it.
func (d *Datapath) own(pod datapath.Pod) bool {
	switch pod.Datapath {
	case "", claims.Route, claims.EBPF: // an ebpf pod without its Extension is one of route
		return true
	}
	return d.extensionOf(pod) != nil
}

// syncing is one run of Sync.
type syncing struct {
	d       *Datapath
	h       *netlink.Handle
	node    datapath.Node
	desired map[string]datapath.Pod
	// others are the device names of pods that another datapath wired.
	others  map[string]bool
	began   map[string]int
	view    view
	repairs []string
}

func (s *syncing) repaired(format string, args ...any) {
	s.repairs = append(s.repairs, fmt.Sprintf(format, args...))
}

// sysctls looks at those of all pods' devices in one visit to the namespace.
func (s *syncing) sysctls() (errs []error) {
	err := kernel.InNS(s.d.ns, func() error {
		for _, name := range slices.Sorted(maps.Keys(s.desired)) {
			if link := s.view.byName[name]; link == nil || !linkkind.IsPodDevice(link) {
				continue
			}
			pod := s.desired[name]
			changed, err := sysctl.Write(s.d.procSys, s.d.podSysctls(wiring{pod: pod, name: name}))
			s.repairs = append(s.repairs, changed...)
			if err != nil {
				errs = append(errs, podError(pod, err))
			}
		}
		return nil
	})
	return append(errs, err)
}

// pod repairs one desired pod.
func (s *syncing) pod(ctx context.Context, name string) error {
	d, pod := s.d, s.desired[name]
	p, release := d.pods.acquire(name)
	defer release()
	if !d.pods.mayRepair(p, s.began[name]) {
		return nil
	}
	w, eniErr := d.newWiring(d.state(), s.node, pod)
	link := s.view.byName[name]
	reachable := netnsExists(pod.NetNS)
	if link == nil && (!reachable || eniErr != nil) {
		// A dead sandbox is the agent's to clean up. A pod that must be made anew
		// needs its ENI for it.
		return eniErr
	}
	problems := hostProblems(s.view, w)
	more, err := d.extensionProblems(s.h, s.view, w)
	if err != nil {
		return errors.Join(eniErr, err)
	}
	problems = append(problems, more...)
	if reachable {
		inner, err := d.podProblems(ctx, w)
		if err != nil {
			return errors.Join(eniErr, err)
		}
		problems = append(problems, inner...)
	}
	elems := w.elements()
	if len(problems) > 0 {
		var err error
		if reachable && eniErr == nil {
			_, err = d.wire(ctx, s.h, s.node, w)
		} else if err = d.wireHost(s.h, w, link); err == nil {
			err = errors.Join(d.tables.Put(elems), d.extend(s.h, w, link))
		}
		if !reachable && netlinkx.Gone(err) {
			return eniErr // the kernel took the device after its sandbox just now
		}
		if err != nil {
			return errors.Join(eniErr, fmt.Errorf("repair %q: %w", problems[0], err))
		}
		for _, problem := range problems {
			s.repaired("pod %s/%s: %s: repaired", pod.Namespace, pod.Name, problem)
		}
	}
	d.pods.repaired(p, elems)
	return eniErr
}

func netnsExists(path string) bool {
	if path == "" {
		return false
	}
	_, err := os.Stat(path)
	return err == nil
}

// prune removes what belongs to no desired pod.
func (s *syncing) prune() []error {
	var errs []error
	for _, name := range s.leftovers() {
		if err := s.removeLeftover(name); err != nil {
			// Nobody's pod, and no reason to serve nobody.
			errs = append(errs, &datapath.Obstacle{What: fmt.Sprintf("what is left of a pod that is gone, with device %s, cannot be removed: %v; it is tried again", name, err)})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.desired)) {
		if err := s.removeSurplus(name); err != nil {
			errs = append(errs, podError(s.desired[name], err))
		}
	}
	return errs
}

// leftovers are the device names that something of ours carries and no desired
// pod has.
func (s *syncing) leftovers() []string {
	names := map[string]bool{}
	for name, link := range s.view.byName {
		if linkkind.IsPodDevice(link) {
			names[name] = true
		}
	}
	for k := range s.view.elems {
		names[k.Device] = true
	}
	maps.DeleteFunc(names, func(name string, _ bool) bool {
		_, desired := s.desired[name]
		return desired || s.others[name]
	})
	return slices.Sorted(maps.Keys(names))
}

func (s *syncing) removeLeftover(name string) error {
	d := s.d
	p, release := d.pods.acquire(name)
	defer release()
	link := s.view.byName[name]
	if link != nil && link.Attrs().Group == claims.GroupDying {
		d.reaper.kick()
		return nil
	}
	if !d.pods.mayRemove(p, s.began[name]) {
		return nil
	}
	if err := d.retire(s.h, name, nil); err != nil {
		return err
	}
	d.pods.removed(p)
	what := "nftables elements of "
	if link != nil {
		what = "device "
	}
	s.repaired("removed %s%s: no pod of this node", what, name)
	return nil
}

// removeSurplus removes routes and elements of addresses that a desired pod has
// not, or has no more.
func (s *syncing) removeSurplus(name string) error {
	d, pod := s.d, s.desired[name]
	p, release := d.pods.acquire(name)
	defer release()
	if !d.pods.mayRepair(p, s.began[name]) {
		return nil
	}
	var surplus []netip.Addr
	seen := map[netip.Addr]bool{}
	add := func(a netip.Addr) {
		if !slices.Contains(pod.Addresses, a) && !seen[a] {
			seen[a] = true
			surplus = append(surplus, a)
		}
	}
	link := s.view.byName[name]
	for a, routes := range s.view.pods {
		for _, r := range routes {
			if link != nil && r.LinkIndex == link.Attrs().Index {
				add(a)
			}
		}
	}
	for k := range s.view.elems {
		if k.Device == name {
			add(k.Addr)
		}
	}
	if len(surplus) == 0 {
		return nil
	}
	slices.SortFunc(surplus, netip.Addr.Compare)
	if link != nil {
		if err := removeRoutes(s.h, link, surplus); err != nil {
			return err
		}
	}
	if err := d.removeElements(name, surplus); err != nil {
		return err
	}
	s.repaired("pod %s/%s: removed addresses %v that are not its own", pod.Namespace, pod.Name, surplus)
	return nil
}
