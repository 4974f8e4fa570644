package ipvlan

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/fastpath"
	"terway.dev/terway/internal/datapath/linkkind"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/object"
	"terway.dev/terway/internal/datapath/routing"
)

// table returns the entries of pods. The caller holds the lock.
func (s *Kind) table() fastpath.Pods[slavesSlave] {
	return table(s.fast.Objects)
}

func table(o *fastpath.Objects) fastpath.Pods[slavesSlave] {
	return fastpath.Pods[slavesSlave]{Objects: o, Map: o.Maps[mapSlaves], Name: mapSlaves, Device: func(e slavesSlave) int { return int(e.Host) }}
}

// Sync implements node.Kind.
func (s *Kind) Sync(h *netlink.Handle, links []netlink.Link, enis []routing.ENI) ([]string, error) {
	s.fast.Lock()
	defer s.fast.Unlock()
	// A receiver shows that the node has had such pods.
	must := s.active.Load() || slices.ContainsFunc(links, linkkind.IsReceiver)
	if there, err := s.fast.Refresh(h, must); err != nil || !there {
		return nil, err
	}
	repairs, pods, err := s.table().Prune(h, links)
	errs := []error{err}
	clear(s.enis)
	wanted := map[string]bool{}
	if pods > 0 {
		s.active.Store(true)
	}
	for _, e := range enis {
		if !s.active.Load() {
			break
		}
		wanted[e.Device], wanted[claims.ReceiverName(e.MAC)] = true, true
		r, err := s.prepare(h, e)
		repairs = append(repairs, r...)
		if err != nil {
			errs = append(errs, fmt.Errorf("ENI device %s: %w", e.Device, err))
		}
	}
	for device := range s.holders {
		if link, err := object.Find(h, device); err == nil && link == nil {
			delete(s.holders, device)
		}
	}
	r, err := sweep(h, links, wanted, false)
	return append(repairs, r...), errors.Join(append(errs, err)...)
}

// prepare makes an ENI's receiver and attaches the ENI's programs.
func (s *Kind) prepare(h *netlink.Handle, e routing.ENI) ([]string, error) {
	var repairs []string
	name := claims.ReceiverName(e.MAC)
	link, err := object.Find(h, name)
	if err != nil {
		return nil, err
	}
	if link != nil && (!isSlave(link, e) || link.Attrs().ParentIndex != e.Index) {
		if err := remove(h, link); err != nil {
			return nil, err
		}
		link = nil
	}
	if link == nil {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.ParentIndex = name, e.Index
		if link, err = create(h, h, attrs); err != nil {
			return nil, err
		}
		repairs = append(repairs, "made device "+name+" on "+e.Device)
	}
	more, err := s.node.EnsureReceiver(h, link)
	repairs = append(repairs, more...)
	if err != nil {
		return repairs, err
	}
	more, err = s.fast.PrepareENI(h, e)
	repairs = append(repairs, more...)
	if err != nil {
		return repairs, err
	}
	s.enis[e.Index] = link.Attrs().Index
	return repairs, nil
}

// sweep removes programs and receivers from devices whose name is not wanted, at the end of the
// kind the qdiscs too.
func sweep(h *netlink.Handle, links []netlink.Link, wanted map[string]bool, end bool) (repairs []string, err error) {
	var errs []error
	for _, l := range links {
		if name := l.Attrs().Name; linkkind.IsReceiver(l) && !wanted[name] {
			errs = append(errs, remove(h, l))
			repairs = append(repairs, "removed device "+name)
		}
	}
	more, err := filters.Sweep(h, links, func(l netlink.Link) bool {
		return wanted[l.Attrs().Name] || linkkind.IsPodDevice(l) || linkkind.IsReceiver(l)
	}, end)
	return append(repairs, more...), errors.Join(append(errs, err)...)
}

// podEntries are a pod's entries in the map of slaves. Put also prepares its ENI.
type podEntries struct {
	s   *Kind
	pod *node.Pod
}

// Name implements object.Object.
func (o podEntries) Name() string { return "map entries of device " + o.pod.Host.Name }

// Put implements object.Object.
func (o podEntries) Put(site *object.Site) error {
	p, err := o.pod.Endpoint(site)
	if err != nil {
		return err
	}
	s := o.s
	s.fast.Lock()
	defer s.fast.Unlock()
	s.hold(o.pod)
	if err := s.fast.Load(site.Node); err != nil {
		return err
	}
	receiver, err := s.receiver(site.Node, p.ENI)
	if err != nil {
		return err
	}
	return s.table().PutAll(entries(p, receiver))
}

// Have implements object.Object.
func (o podEntries) Have(site *object.Site) (string, error) {
	p, err := o.pod.Endpoint(site)
	if err != nil || p.Index == 0 {
		return "", err // the object that makes the device reports it
	}
	s := o.s
	s.fast.Lock()
	defer s.fast.Unlock()
	if err := s.fast.Load(site.Node); err != nil {
		return "", err
	}
	s.hold(o.pod) // so that vacate knows them after a restart too
	receiver := 0
	if p.ENI.Index != 0 {
		name := claims.ReceiverName(p.ENI.MAC)
		link, err := object.Find(site.Node, name)
		switch {
		case err != nil:
			return "", err
		case link == nil:
			return "device " + name + " on the node is missing", nil
		case link.Attrs().Flags&net.FlagUp == 0:
			return "device " + name + " is down", nil
		}
		receiver = link.Attrs().Index
	}
	return s.table().Problem(entries(p, receiver))
}

// Del implements object.Object. An address that another device has in the meantime stays.
func (o podEntries) Del(site *object.Site) error {
	p, err := o.pod.Endpoint(site)
	if err != nil {
		return err
	}
	s := o.s
	s.fast.Lock()
	defer s.fast.Unlock()
	if there, err := s.fast.Find(site.Node); err != nil || !there {
		return err
	}
	return s.table().Release(site.Node, p.Index, p.Addresses)
}

// podPrograms are the programs of a pod's two devices, which disappear with them.
type podPrograms struct {
	s   *Kind
	pod *node.Pod
}

// Name implements object.Object.
func (o podPrograms) Name() string { return "programs of device " + o.pod.Host.Name }

// Put implements object.Object.
func (o podPrograms) Put(site *object.Site) error {
	objects, err := o.s.fast.Loaded(site.Node)
	if err != nil {
		return err
	}
	index, err := site.Index(o.pod.Host)
	if err != nil {
		return err
	}
	b, err := site.NodeBatch()
	if err != nil {
		return err
	}
	if err := filters.Attach(b, objects, index, hostHooks); err != nil || site.Pod == nil {
		return err
	}
	inPod, err := site.Pod.Batch()
	if err != nil {
		return err
	}
	if err := filters.Attach(inPod, objects, innerIndex(o.pod.Host.Name), innerHooks); err != nil {
		return fmt.Errorf("device %s of the pod: %w", o.pod.IfName, err)
	}
	return nil
}

// Have implements object.Object.
func (o podPrograms) Have(site *object.Site) (string, error) {
	objects, err := o.s.fast.Loaded(site.Node)
	if err != nil {
		return "", err
	}
	index, err := site.Index(o.pod.Host)
	if err != nil || index == 0 {
		return "", err
	}
	problem, err := filters.Problem(site.Node, objects, index, hostHooks)
	if err != nil {
		return "", fmt.Errorf("device %s: %w", o.pod.Host.Name, err)
	}
	if problem != "" {
		return fmt.Sprintf("device %s: %s", o.pod.Host.Name, problem), nil
	}
	if site.Pod == nil {
		return "", nil
	}
	inPod, err := site.Pod.Handle()
	if err != nil {
		return "", err
	}
	problem, err = filters.Problem(inPod, objects, innerIndex(o.pod.Host.Name), innerHooks)
	if err != nil || problem == "" {
		return "", err
	}
	return fmt.Sprintf("device %s of the pod: %s", o.pod.IfName, problem), nil
}

// Del implements object.Object.
func (podPrograms) Del(*object.Site) error { return nil }

// receiver returns the index of an ENI's receiver. The caller holds the lock.
func (s *Kind) receiver(h *netlink.Handle, e routing.ENI) (int, error) {
	if e.Index == 0 {
		return 0, nil // the ENI is gone
	}
	if index := s.enis[e.Index]; index != 0 && fastpath.Exists(h, index) {
		return index, nil
	}
	if _, err := s.prepare(h, e); err != nil {
		return 0, fmt.Errorf("ENI device %s: %w", e.Device, err)
	}
	return s.enis[e.Index], nil
}

// Teardown implements node.Kind.
func (s *Kind) Teardown(h *netlink.Handle, links []netlink.Link) error {
	s.active.Store(false)
	s.fast.Lock()
	defer s.fast.Unlock()
	_, err := sweep(h, links, nil, true)
	clear(s.enis)
	return errors.Join(err, s.fast.Unload())
}

// Counters returns fastpath.Objects.Counters, nil if nothing is loaded.
func (s *Kind) Counters() (map[string]uint64, error) { return s.fast.Counters() }

// Close implements node.Kind; pods stay wired.
func (s *Kind) Close() error { return s.fast.Close() }
