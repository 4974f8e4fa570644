package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/linkkind"
	"terway.dev/terway/internal/datapath/object"
	"terway.dev/terway/internal/netlinkx"
)

// Sync makes the kernel agree with the whole desired state: node-wide objects, each ENI's, each
// pod's. It removes objects of pods and ENIs that are not desired. It returns what it
// corrected. It does not touch what is not the node's own: pods of unknown kinds may be in the list
// and are left alone. So are those that are not wired (datapath.Pod.State): a call works on them.
//
// It reads everything once, writes only what differs, and continues after an error with one pod or
// ENI (datapath.Sort). The list of pods may be out of date: what AddPod and DelPod did since has
// precedence (see package tracker).
func (n *Node) Sync(ctx context.Context, want datapath.Node, pods []datapath.Pod) ([]datapath.Repair, error) {
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
	for _, what := range passing {
		s.repaired(want.Kind, datapath.PieceFirewall, "%s", what)
	}
	if err != nil {
		// Other programs' rules that cannot be read or changed do not stop the node from serving
		// pods.
		errs = append(errs, &datapath.Obstacle{What: "it is not known whether other programs' firewall rules accept pods' packets: " + err.Error()})
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
	errs = append(errs, s.tampered...)
	for _, name := range s.leftovers() {
		if err := s.removeLeftover(ctx, name); err != nil {
			// It belongs to no pod, and does not stop the node from serving others.
			errs = append(errs, &datapath.Obstacle{What: fmt.Sprintf("what is left of a deleted pod, device %s, cannot be removed: %v; the next repair tries again", name, err)})
		}
	}
	return s.repairs, errors.Join(errs...)
}

// syncing is one run of Sync.
type syncing struct {
	n       *Node
	h       *netlink.Handle
	want    datapath.Node
	desired map[string]*desired
	// others are the device names of pods of unknown kinds.
	others  map[string]bool
	began   map[string]int
	view    *object.View
	repairs []datapath.Repair
	// tampered are what pods have removed.
	tampered []error
}

// desired is a pod of the list, with its objects.
type desired struct {
	pod     datapath.Pod
	p       *Pod
	objects []object.Object
	// err is what could not be described of the pod.
	err error
}

func (s *syncing) repaired(kind, piece, format string, args ...any) {
	s.repairs = append(s.repairs, datapath.Repair{Kind: kind, Piece: piece, What: fmt.Sprintf(format, args...)})
}

// describe lists the objects of all wired pods, and reads their sysctls in one visit to the
// namespace.
func (s *syncing) describe() error {
	state := s.n.state()
	var all []object.Object
	for _, d := range s.desired {
		if d.pod.State != datapath.Wired {
			continue
		}
		d.p, d.err = s.n.describe(state, s.want, d.pod)
		d.objects = s.n.objects(d.p)
		all = append(all, d.objects...)
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
	site := n.site(ctx, s.h)
	site.View = s.view
	defer site.Close()
	surplus := s.removeSurplus(site, d)
	var err error
	if site.Pod, err = n.enterPod(d.pod.NetNS); err != nil && !netlinkx.Gone(err) {
		return errors.Join(surplus, d.err, err)
	}
	if s.view.ByName[name] == nil && (site.Pod == nil || d.err != nil) {
		// The agent cleans up after a dead sandbox. A pod that has to be recreated needs its ENI
		// for that.
		return errors.Join(surplus, d.err)
	}
	problems, first, errs := s.compare(site, d)
	if len(problems) > 0 {
		// Later objects are put too, because they may depend on this one.
		done, err := n.put(site, d.p, d.objects[first:])
		done += first
		for i := first; i < done; i++ {
			if guarded, is := d.objects[i].(Guarded); is && problems[i] != "" && guarded.WasThere() {
				s.tampered = append(s.tampered, podError(d.pod, &datapath.Tampered{What: problems[i], Of: guarded.Enforces()}))
			}
		}
		if err != nil && !(site.Pod == nil && netlinkx.Gone(err)) { // else the kernel deleted the device with its sandbox just now
			errs = append(errs, fmt.Errorf("repair %q: %w", problems[first], err))
		}
		for i := first; i < done; i++ {
			if problems[i] != "" {
				s.repaired(d.pod.Kind, datapath.PiecePods, "pod %s/%s: %s: repaired", d.pod.Namespace, d.pod.Name, problems[i])
			}
		}
	}
	if len(errs) == 0 {
		n.pods.Repaired(turn, d.p.elements())
	}
	return errors.Join(append(errs, surplus, d.err)...)
}

// removeSurplus removes what leads to a pod by addresses that it does not have (any more).
func (s *syncing) removeSurplus(site *object.Site, d *desired) error {
	surplus := slices.DeleteFunc(s.view.Addresses(d.p.Host.Name), func(a netip.Addr) bool { return slices.Contains(d.pod.Addresses, a) })
	if len(surplus) == 0 {
		return nil
	}
	other := *d.p
	other.Addresses = surplus
	if err := errors.Join(object.Del(site, object.WithAddresses(s.n.objects(&other)))...); err != nil {
		return err
	}
	s.repaired(d.pod.Kind, datapath.PiecePods, "pod %s/%s: removed addresses %v that are not its own", d.pod.Namespace, d.pod.Name, surplus)
	return nil
}

// compare checks each object of a pod. problems are keyed by the object's index in the list, first
// is the first of them. An object that cannot be checked is not put either.
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

// leftovers returns the names of devices that appear in our objects and that no desired pod has.
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
	if err := n.removeUnknown(n.site(ctx, s.h), s.view, name); err != nil {
		return err
	}
	n.pods.Removed(turn)
	what := "nftables elements of "
	if link != nil {
		what = "device "
	}
	s.repaired(s.want.Kind, datapath.PieceRemains, "removed %s%s: no pod of this node", what, name)
	return nil
}

// removeUnknown deletes a pod of which only the device is known, or objects with its name.
func (n *Node) removeUnknown(site *object.Site, v *object.View, name string) error {
	return errors.Join(object.Del(site, n.objects(n.bare(name, v.Addresses(name))))...)
}
