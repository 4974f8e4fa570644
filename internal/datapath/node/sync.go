package node

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
	"terway.dev/terway/internal/datapath/object"
	"terway.dev/terway/internal/netlinkx"
)

// Sync makes the kernel agree with the whole desired state: node-wide pieces, each ENI's, each
// pod's, and removes pieces of pods and ENIs that are not in it. It returns one line for each
// repair it made. It never touches anything that is not the node's own: pods of a kind that
// this node has not may be in the list and are left alone. So are those that are not wired
// (datapath.Pod.State): a call is at work on them.
//
// It looks at everything once, writes only what differs, and goes on after an error with one
// pod or ENI (datapath.Sort). The list of pods may be a moment old: what AddPod and DelPod did
// since stands (see package tracker).
func (n *Node) Sync(ctx context.Context, want datapath.Node, pods []datapath.Pod) ([]string, error) {
	n.syncMu.Lock()
	defer n.syncMu.Unlock()
	var errs []error
	s := &syncing{n: n, want: want, desired: map[string]*desired{}, others: map[string]bool{}}
	for _, pod := range pods {
		name := claims.HostIfName(pod.Sandbox, pod.IfName)
		if n.kind(pod.Kind) == nil {
			s.others[name] = true
			continue
		}
		checked := pod
		if pod.NetNS == "" {
			checked.NetNS = "-" // allowed here: the sandbox died
		}
		if err := validate(checked); err != nil {
			errs = append(errs, err)
			continue
		}
		s.desired[name] = &desired{pod: pod}
	}
	s.began = n.pods.Begin(func(name string) bool { return s.desired[name] != nil })

	h, err := n.host()
	if err != nil {
		return nil, err
	}
	defer n.giveBack(h)
	s.h = h
	n.nodeMu.Lock()
	repairs, err := n.ensureNode(ctx, h, want, true)
	n.nodeMu.Unlock()
	errs = append(errs, err)
	s.repairs = repairs
	passing, err := n.firewall.Ensure()
	s.repairs = append(s.repairs, passing...)
	if err != nil {
		// Others' rules that cannot be read or changed are no reason to serve nobody.
		errs = append(errs, &datapath.Obstacle{What: "whether other programs' firewall rules let pods' packets pass is not known: " + err.Error()})
	}
	errs = append(errs, n.firewall.Obstacles()...)

	if s.view, err = n.look(ctx, h); err != nil {
		return s.repairs, errors.Join(append(errs, err)...)
	}
	if err := s.describe(); err != nil {
		return s.repairs, errors.Join(append(errs, err)...)
	}
	for _, name := range slices.Sorted(maps.Keys(s.desired)) {
		if err := s.pod(ctx, name); err != nil {
			errs = append(errs, podError(s.desired[name].pod, err))
		}
	}
	errs = append(errs, s.prune(ctx)...)
	return s.repairs, errors.Join(errs...)
}

// syncing is one run of Sync.
type syncing struct {
	n       *Node
	h       *netlink.Handle
	want    datapath.Node
	desired map[string]*desired
	// others are the device names of pods of a kind that is not known here.
	others  map[string]bool
	began   map[string]int
	view    *object.View
	repairs []string
}

// desired is a pod of the list, with what there should be for it.
type desired struct {
	pod     datapath.Pod
	p       *Pod
	objects []object.Object
	// err says what of the pod is not there.
	err error
}

func (s *syncing) repaired(format string, args ...any) {
	s.repairs = append(s.repairs, fmt.Sprintf(format, args...))
}

// describe lists the objects of all pods, and reads the sysctls of all in one visit to the
// namespace.
func (s *syncing) describe() error {
	state := s.n.state()
	var all []object.Object
	for name, d := range s.desired {
		d.p, d.err = s.n.describe(state, s.want, d.pod)
		o := s.n.objects(d.p)
		d.objects = o.all()
		if link := s.view.ByName[name]; d.pod.State == datapath.Wired && link != nil && linkkind.IsPodDevice(link) {
			all = append(all, o.devices...)
		}
	}
	return s.view.ReadSysctls(s.n.procSys, s.n.ns, all)
}

// pod repairs one desired pod.
func (s *syncing) pod(ctx context.Context, name string) error {
	n, d := s.n, s.desired[name]
	if d.pod.State != datapath.Wired {
		return nil
	}
	turn, release := n.pods.Acquire(name)
	defer release()
	if !n.pods.MayRepair(turn, s.began[name]) {
		return nil
	}
	reachable := netnsExists(d.pod.NetNS)
	if s.view.ByName[name] == nil && (!reachable || d.err != nil) {
		// A dead sandbox is the agent's to clean up. A pod that must be made anew
		// needs its ENI for it.
		return d.err
	}
	site := n.site(ctx, s.h)
	site.View = s.view
	defer site.Close()
	if reachable {
		var err error
		if site.Pod, err = n.enterPod(d.pod.NetNS); err != nil {
			return errors.Join(d.err, err)
		}
	}
	problems, first, errs := s.compare(site, d)
	if len(problems) > 0 {
		// And all that comes behind it: an object may rest on those before.
		done, err := n.put(site, d.p, d.objects[first:])
		done += first
		if err != nil && !(site.Pod == nil && netlinkx.Gone(err)) { // else the kernel took the device after its sandbox just now
			errs = append(errs, fmt.Errorf("repair %q: %w", problems[first], err))
		}
		for i := first; i < done; i++ {
			if problems[i] != "" {
				s.repaired("pod %s/%s: %s: repaired", d.pod.Namespace, d.pod.Name, problems[i])
			}
		}
	}
	if len(errs) == 0 {
		n.pods.Repaired(turn, d.p.elements())
	}
	return errors.Join(append(errs, d.err)...)
}

// compare asks each object of a pod. problems are by the object's place in the list, first is
// the first of them. What cannot be told is not put either.
func (s *syncing) compare(site *object.Site, d *desired) (problems map[int]string, first int, errs []error) {
	problems, first = map[int]string{}, len(d.objects)
	var known []object.Object
	for _, o := range d.objects {
		problem, err := o.Have(site)
		if err != nil {
			errs = append(errs, err)
		}
		if problem == "" && err != nil {
			continue
		}
		if problem != "" {
			problems[len(known)] = problem
			first = min(first, len(known))
		}
		known = append(known, o)
	}
	d.objects = known
	return problems, first, errs
}

func netnsExists(path string) bool {
	if path == "" {
		return false
	}
	_, err := os.Stat(path)
	return err == nil
}

// prune removes what belongs to no desired pod.
func (s *syncing) prune(ctx context.Context) []error {
	var errs []error
	for _, name := range s.leftovers() {
		if err := s.removeLeftover(ctx, name); err != nil {
			// Nobody's pod, and no reason to serve nobody.
			errs = append(errs, &datapath.Obstacle{What: fmt.Sprintf("what is left of a pod that is gone, with device %s, cannot be removed: %v; it is tried again", name, err)})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.desired)) {
		if err := s.removeSurplus(ctx, name); err != nil {
			errs = append(errs, podError(s.desired[name].pod, err))
		}
	}
	return errs
}

// leftovers are the device names that something of ours carries and no desired
// pod has.
func (s *syncing) leftovers() []string {
	names := map[string]bool{}
	for name, link := range s.view.ByName {
		if linkkind.IsPodDevice(link) {
			names[name] = true
		}
	}
	for k := range s.view.Elements {
		names[k.Device] = true
	}
	maps.DeleteFunc(names, func(name string, _ bool) bool {
		_, desired := s.desired[name]
		return desired || s.others[name]
	})
	return slices.Sorted(maps.Keys(names))
}

func (s *syncing) removeLeftover(ctx context.Context, name string) error {
	n := s.n
	turn, release := n.pods.Acquire(name)
	defer release()
	link := s.view.ByName[name]
	if link != nil && linkkind.IsDying(link) {
		n.reaper.Kick()
		return nil
	}
	if !n.pods.MayRemove(turn, s.began[name]) {
		return nil
	}
	if err := n.removeUnknown(n.site(ctx, s.h), name); err != nil {
		return err
	}
	n.pods.Removed(turn)
	what := "nftables elements of "
	if link != nil {
		what = "device "
	}
	s.repaired("removed %s%s: no pod of this node", what, name)
	return nil
}

// removeUnknown deletes a pod of which there is only its device, or what carries its name.
func (n *Node) removeUnknown(site *object.Site, name string) error {
	addresses, err := n.addressesOf(site, name)
	if err != nil {
		return err
	}
	return errors.Join(object.Del(site, n.objects(n.bare(name, addresses)).all())...)
}

// removeSurplus removes routes and elements of addresses that a desired pod has
// not, or has no more.
func (s *syncing) removeSurplus(ctx context.Context, name string) error {
	n, pod := s.n, s.desired[name].pod
	if pod.State != datapath.Wired {
		return nil
	}
	turn, release := n.pods.Acquire(name)
	defer release()
	if !n.pods.MayRepair(turn, s.began[name]) {
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
	link := s.view.ByName[name]
	for a, routes := range s.view.Pods {
		for _, r := range routes {
			if link != nil && r.LinkIndex == link.Attrs().Index {
				add(a)
			}
		}
	}
	for k := range s.view.Elements {
		if k.Device == name {
			add(k.Addr)
		}
	}
	if len(surplus) == 0 {
		return nil
	}
	slices.SortFunc(surplus, netip.Addr.Compare)
	if err := errors.Join(object.Del(n.site(ctx, s.h), n.reach(n.bare(name, surplus)))...); err != nil {
		return err
	}
	s.repaired("pod %s/%s: removed addresses %v that are not its own", pod.Namespace, pod.Name, surplus)
	return nil
}
