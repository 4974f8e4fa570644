package ebpf

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/bpfobj"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/fastpath"
	"terway.dev/terway/internal/datapath/linkkind"
	"terway.dev/terway/internal/datapath/nft"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/object"
	"terway.dev/terway/internal/datapath/routing"
	"terway.dev/terway/internal/datapath/tcfilter"
	"terway.dev/terway/internal/netlinkx"
)

// Policy enforces network policies on pods of kinds ebpf, netkit, route and exclusive: while it is on, the programs are
// those of bpf/policed.c, pods of route and exclusive have them too (without entries, so without a fast path), and ENIs that pods have
// for themselves and all other devices by which packets leave the node have some of their own. Until the node has pods of ebpf and
// netkit, or its new ones are to be, the programs are those of bpf/slowpath.c. It implements node.Feature.
//
// What is allowed is in maps that package policymap writes. Turning it on and off replaces programs one by one, each atomically, and
// keeps all other maps.
type Policy struct {
	kind *Kind
	// left are the pods' devices that had programs from when it was on, as the last Sync saw them; clean: it saw
	// none, and nothing else of policies. The kind's lock guards both.
	left  map[int]bool
	clean bool
}

// Prepare loads the programs without attaching them, and returns their maps for policymap.New. They are valid until Off, Teardown or
// the node's Close. If the node's pods have such programs from an earlier process, the maps are theirs, with what they hold, and policies
// are on, unless this process has turned them off. The error is a datapath.UnsupportedError if the kernel cannot run the programs.
func (p *Policy) Prepare() (map[string]*ebpf.Map, error) {
	k := p.kind
	k.Lock()
	defer k.Unlock()
	if k.policed && k.Loader.Objects != nil {
		return k.Loader.Objects.Maps, nil
	}
	if k.ready != nil {
		return k.ready.Maps, nil
	}
	sizes, err := fastpath.SizesFor(k.Connections)
	if err != nil {
		return nil, err
	}
	err = k.Node.Inside(func() error {
		h, err := netlinkx.Open(netns.None())
		if err != nil {
			return err
		}
		defer h.Close()
		running, err := k.Running(h)
		if err != nil {
			return err
		}
		policed, err := k.look(running)
		if err != nil {
			return err
		}
		if policed || k.direct.Load() {
			if err := k.Load(h); err != nil || k.policed {
				return err
			}
		}
		o, err := k.loadJudging(running, sizes)
		if err != nil {
			return datapath.Lacks(bpfobj.Needs, err, bpfobj.Answers...)
		}
		if err := o.FollowConntrack(); err != nil {
			return errors.Join(err, o.Close())
		}
		k.ready = o
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case k.policed:
		return k.Loader.Objects.Maps, nil
	}
	return k.ready.Maps, nil
}

// On makes pods that are added from now on, and with the next Sync all others, be judged by what the maps hold. Before anything was
// written into them no new connection is allowed.
func (p *Policy) On() error {
	k := p.kind
	k.Lock()
	defer k.Unlock()
	if k.policed {
		return nil
	}
	if k.ready == nil {
		return errors.New("turn policies on: Prepare must come first")
	}
	if err := k.ready.Renumber(); err != nil {
		return err
	}
	clear(k.enis)
	err := k.Unload()
	k.Loader.Objects, k.ready, k.policed, k.decided = k.ready, nil, true, true
	p.left, p.clean = nil, false
	return errors.Join(err, k.judge(k.Loader.Objects))
}

// Off makes the next Sync put the other programs back and remove the rest.
func (p *Policy) Off() error {
	p.kind.Lock()
	defer p.kind.Unlock()
	return p.kind.turnOff()
}

// Denied returns how many packets were dropped since the maps were made, by the direction that denied them; none while policies are off.
func (p *Policy) Denied() (ingress, egress uint64, err error) {
	tallies, err := p.kind.tallies()
	for _, t := range tallies {
		ingress += t.Denied[0]
		egress += t.Denied[1]
	}
	return ingress, egress, err
}

// tallies are those of the programs that enforce policies; none while policies are off.
func (k *Kind) tallies() ([]bpfobj.Tally, error) {
	k.Lock()
	defer k.Unlock()
	if !k.policed || k.Loader.Objects == nil {
		return nil, nil
	}
	return bpfobj.Tallies(k.Loader.Objects.Maps)
}

// Spoofed implements node.Kind. Programs without a fast path count with what policies deny.
func (k *Kind) Spoofed() (uint64, error) {
	sum, err := k.Loader.Spoofed()
	if err != nil {
		return 0, err
	}
	tallies, err := k.tallies()
	for _, t := range tallies {
		sum += t.Spoofed
	}
	return sum, err
}

// Name implements node.Feature.
func (*Policy) Name() string { return "network policies" }

// Sync implements node.Feature.
func (p *Policy) Sync(s *object.Site, _ datapath.Node, _ []netlink.Link, _ []routing.ENI) (repairs []string, err error) {
	k, h := p.kind, s.Node
	k.Lock()
	defer k.Unlock()
	if !k.policed {
		return p.leave(h)
	}
	if err := k.Load(h); err != nil {
		return nil, err
	}
	repairs, err = k.syncLocal(h)
	var differs string
	errNFT := k.Node.Inside(func() error {
		c, err := nftables.New()
		if err != nil {
			return fmt.Errorf("open nftables netlink socket: %w", err)
		}
		differs, err = nft.EnsurePolicy(c)
		return err
	})
	if differs != "" {
		repairs = append(repairs, "wrote the nftables table of policies: "+differs)
	}
	return repairs, errors.Join(err, errNFT)
}

// leave finds what is left from when policies were on, also by another process. What it finds on pods' devices goes when Sync
// comes to the pods, which it may not do for each of them: so it looks again until it finds nothing. The caller holds the lock.
func (p *Policy) leave(h *netlink.Handle) (repairs []string, err error) {
	if p.clean {
		return nil, nil
	}
	if p.left, err = p.kind.judging(h); err != nil {
		return nil, err
	}
	err = p.kind.Node.Inside(func() error {
		c, err := nftables.New()
		if err != nil {
			return fmt.Errorf("open nftables netlink socket: %w", err)
		}
		removed, err := nft.DeletePolicy(c)
		if removed {
			repairs = append(repairs, "removed the nftables table of policies")
		}
		return err
	})
	p.clean = err == nil && len(repairs) == 0 && len(p.left) == 0
	return repairs, err
}

// judging returns the pods' devices with filters of ours whose programs are not this kind's as they are now. The caller holds the lock.
func (k *Kind) judging(h *netlink.Handle) (map[int]bool, error) {
	if there, err := k.Find(h); err != nil || !there {
		return nil, err
	}
	devices, err := tcfilter.Devices(h)
	if err != nil {
		return nil, err
	}
	links, err := netlinkx.List(context.Background(), "devices", h.LinkList)
	if err != nil {
		return nil, err
	}
	found := map[int]bool{}
	for _, l := range links {
		index := l.Attrs().Index
		if !linkkind.IsPodDevice(l) || !slices.Contains(devices, index) {
			continue
		}
		other, err := filters.Other(h, k.Loader.Objects.Objects, index, podHooks.Hooks)
		if err != nil {
			return nil, fmt.Errorf("device %s: %w", l.Attrs().Name, err)
		}
		if other {
			found[index] = true
		}
	}
	return found, nil
}

// Objects implements node.Feature.
func (p *Policy) Objects(pod *node.Pod, points []node.Point) []object.Object {
	p.kind.Lock()
	defer p.kind.Unlock()
	if !p.kind.policed {
		if len(p.left) == 0 {
			return nil
		}
		list := []object.Object{noPrograms{p.kind, pod.Host, pod.Host, p.left}}
		if eni := ownENI(pod, points); eni.Name != "" { // first: the node's end says whether there is something left
			list = slices.Insert(list, 0, object.Object(noPrograms{p.kind, eni, pod.Host, p.left}))
		}
		return list
	}
	at := hooksOf(pod, points)
	if len(at) == 0 {
		return nil
	}
	return p.kind.attached(pod, at...)
}

// hooksOf returns where a pod is judged: at the node's end of its pair, where it cannot remove programs, and at its own ENI. Kinds with a
// fast path, by which packets bypass a point, attach programs themselves.
func hooksOf(pod *node.Pod, points []node.Point) []fastpath.At {
	if slices.ContainsFunc(points, func(at node.Point) bool { return at.Bypassed }) {
		return nil
	}
	at := []fastpath.At{{Device: pod.Host, Hooks: podHooks}}
	if eni := ownENI(pod, points); eni.Name != "" {
		at = append(at, fastpath.At{Device: eni, Hooks: ownHooks(pod.Exclusive.MAC)})
	}
	return at
}

// ownENI returns the device of the ENI that a pod has for itself.
func ownENI(pod *node.Pod, points []node.Point) (eni object.Device) {
	if pod.Exclusive == nil {
		return eni
	}
	for _, at := range points {
		if at.Device != pod.Host && at.Device != pod.Inner {
			return at.Device
		}
	}
	return eni
}

// Teardown implements node.Feature; the kind removes the programs.
func (p *Policy) Teardown(*netlink.Handle) error {
	return p.kind.Node.Inside(func() error {
		c, err := nftables.New()
		if err != nil {
			return fmt.Errorf("open nftables netlink socket: %w", err)
		}
		_, err = nft.DeletePolicy(c)
		return err
	})
}

// noPrograms is the absence of programs of policies on a pod's device: they were turned off. A kind that has programs there itself has
// put them in their place before.
type noPrograms struct {
	kind *Kind
	on   object.Device
	// host is the pod's device on the node. It is in left if the pod has such programs.
	host object.Device
	left map[int]bool
}

// Name implements object.Object.
func (o noPrograms) Name() string { return "no programs of policies on " + o.on.String() }

// Have implements object.Object.
func (o noPrograms) Have(s *object.Site) (string, error) {
	index, err := o.still(s)
	if err != nil || index == 0 {
		return "", err
	}
	return o.on.String() + ": programs of policies are still there", nil
}

// still returns the device's index if it has such programs, else 0.
func (o noPrograms) still(s *object.Site) (index int, err error) {
	host, err := s.Index(o.host)
	if err != nil || !o.left[host] {
		return 0, err
	}
	if index, err = s.Index(o.on); err != nil || index == 0 {
		return 0, err
	}
	h, err := s.Handle(o.on)
	if err != nil || h == nil {
		return 0, err
	}
	objects, err := o.kind.Loaded(s.Node)
	if err != nil {
		return 0, err
	}
	if other, err := filters.Other(h, objects, index, podHooks.Hooks); err != nil || !other {
		return 0, err
	}
	return index, nil
}

// Put implements object.Object.
func (o noPrograms) Put(s *object.Site) error {
	index, err := o.still(s)
	if err != nil || index == 0 {
		return err
	}
	h, err := s.Handle(o.on)
	if err != nil {
		return err
	}
	_, err = filters.Detach(h, index)
	return err
}

// Del implements object.Object.
func (noPrograms) Del(*object.Site) error { return nil }

// guard attaches programs to every device by which packets leave the node or come in, beside ENIs' and those of pods whose kinds have
// programs, and adds them to guarded. The caller holds the lock.
func (k *Kind) guard(h *netlink.Handle, links []netlink.Link, isENI, guarded map[int]bool) (repairs []string, err error) {
	if links == nil {
		if links, err = netlinkx.List(context.Background(), "devices", h.LinkList); err != nil {
			return nil, err
		}
	}
	var errs []error
	for _, l := range links {
		a := l.Attrs()
		if linkkind.IsReceiver(l) {
			guarded[a.Index] = true // its kind attaches programs and adds it to the map
		}
		if !linkkind.LeadsOut(l) || isENI[a.Index] {
			continue
		}
		guarded[a.Index] = true
		problem, err := filters.Problem(h, k.Loader.Objects.Objects, a.Index, otherHooks)
		if err == nil && problem != "" {
			b, errBatch := k.Node.Batch()
			if err = errBatch; err == nil {
				err = filters.Attach(b, k.Loader.Objects.Objects, a.Index, otherHooks)
			}
			if err == nil {
				repairs = append(repairs, fmt.Sprintf("attached programs of policies to %s: %s", a.Name, problem))
			}
		}
		if err == nil {
			err = k.trust(a.Index)
		}
		switch {
		case errors.Is(err, tcfilter.ErrIngress):
			errs = append(errs, &datapath.Obstacle{What: fmt.Sprintf("network policies are not enforced on what pods send by device %s: %v", a.Name, err)})
		case err != nil && !netlinkx.Gone(err):
			errs = append(errs, fmt.Errorf("device %s: %w", a.Name, err))
		}
	}
	return repairs, errors.Join(errs...)
}

// trust tells the programs that those of a device mark the packets that come in by it. The caller holds the lock.
func (k *Kind) trust(device int) error {
	if err := k.Loader.Objects.Maps[fastpath.MapOwn].Put(fastpath.Own{Device: uint32(device)}, uint32(1)); err != nil {
		return fmt.Errorf("add device with index %d to map %s: %w", device, fastpath.MapOwn, err)
	}
	return nil
}

// pruneGuarded removes all devices but these. The caller holds the lock.
func (k *Kind) pruneGuarded(isENI, guarded map[int]bool) error {
	own, err := k.Loader.Objects.Own()
	if err != nil {
		return err
	}
	for _, o := range own {
		if index := int(o.Device); index != 0 && !isENI[index] && !guarded[index] {
			if err := k.disown(o); err != nil {
				return fmt.Errorf("remove device with index %d from map %s: %w", index, fastpath.MapOwn, err)
			}
		}
	}
	return nil
}

func (k *Kind) disown(o fastpath.Own) error {
	if err := k.Loader.Objects.Maps[fastpath.MapOwn].Delete(o); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return err
	}
	return nil
}

// syncLocal makes the map of the node's own addresses agree with its devices. The caller holds the lock.
func (k *Kind) syncLocal(h *netlink.Handle) (repairs []string, err error) {
	want := map[netip.Addr]bool{}
	links, err := netlinkx.List(context.Background(), "devices", h.LinkList)
	if err != nil {
		return nil, err
	}
	services := 0
	for _, l := range links {
		if l.Attrs().Name == claims.KubeIPVS {
			services = l.Attrs().Index
		}
	}
	for _, family := range netlinkx.Families {
		list, err := netlinkx.List(context.Background(), "addresses", func() ([]netlink.Addr, error) { return h.AddrList(nil, family) })
		if netlinkx.NoFamily(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, a := range list {
			if ip := netlinkx.Addr(a.IP); ip.IsValid() && !ip.IsLoopback() && a.LinkIndex != services {
				want[ip] = true
			}
		}
	}
	own, err := k.Loader.Objects.Own()
	if err != nil {
		return nil, err
	}
	for _, o := range own {
		if o.Device != 0 {
			continue
		}
		a := fastpath.Addr(o.Addr)
		if want[a] {
			delete(want, a)
			continue
		}
		if err := k.disown(o); err != nil {
			return repairs, fmt.Errorf("remove %s from map %s: %w", a, fastpath.MapOwn, err)
		}
		repairs = append(repairs, fmt.Sprintf("removed %s from map %s: the node does not have it", a, fastpath.MapOwn))
	}
	var add []netip.Addr
	for a := range want {
		add = append(add, a)
	}
	slices.SortFunc(add, netip.Addr.Compare)
	for _, a := range add {
		if err := k.Loader.Objects.Maps[fastpath.MapOwn].Put(fastpath.Own{Addr: fastpath.Words(a)}, uint32(1)); err != nil {
			return repairs, fmt.Errorf("add %s to map %s: %w", a, fastpath.MapOwn, err)
		}
		repairs = append(repairs, fmt.Sprintf("added %s to map %s", a, fastpath.MapOwn))
	}
	return repairs, nil
}
