package ipvlan

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/linkkind"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/object"
	"terway.dev/terway/internal/datapath/routing"
	"terway.dev/terway/internal/datapath/tcprog"
)

// load loads the programs once. The caller holds mu.
func (s *Kind) load(h *netlink.Handle) error {
	if s.objects != nil {
		return nil
	}
	sizes, err := tcprog.SizesFor(s.connections)
	if err != nil {
		return err
	}
	o, err := load(h, sizes)
	if err != nil {
		return err
	}
	if err := errors.Join(s.node.Inside(o.FollowConntrack), upgrade(o)); err != nil {
		return errors.Join(err, o.Close())
	}
	s.objects, s.enis = o, map[int]int{}
	return nil
}

// table are the entries of pods. The caller holds mu.
func (s *Kind) table() tcprog.Pods[slavesSlave] {
	return table(s.objects)
}

func table(o *tcprog.Objects) tcprog.Pods[slavesSlave] {
	return tcprog.Pods[slavesSlave]{Objects: o, Map: o.Maps[mapSlaves], Name: mapSlaves, Device: func(e slavesSlave) int { return int(e.Host) }}
}

// Sync implements node.Kind.
func (s *Kind) Sync(h *netlink.Handle, links []netlink.Link, enis []routing.ENI) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	again := s.objects != nil
	if !again && !s.active.Load() {
		if there, err := traces(h, links); err != nil || !there {
			return nil, err
		}
	}
	if err := s.load(h); err != nil {
		return nil, err
	}
	if again {
		if err := s.node.Inside(s.objects.FollowConntrack); err != nil {
			return nil, err
		}
		// The Sync before has replaced what programs there were of another version.
		if err := s.objects.Upgrade(true); err != nil {
			return nil, err
		}
	}
	repairs, pods, err := s.table().Prune(h, links)
	errs := []error{err}
	s.enis = map[int]int{}
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
	r, err := clear(h, links, wanted, false)
	return append(repairs, r...), errors.Join(append(errs, err)...)
}

// prepare gives an ENI its receiver and its programs.
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
	problem, err := filters.Wrong(h, s.objects, e.Index, eniHooks)
	if err != nil {
		return repairs, err
	}
	if problem != "" {
		if err := filters.Attach(h, s.objects, e.Index, eniHooks); err != nil {
			return repairs, err
		}
		repairs = append(repairs, fmt.Sprintf("attached programs to %s: %s", e.Device, problem))
	}
	silent, err := tcprog.Silent(h)
	if err != nil {
		return repairs, err
	}
	done, err := s.directENIs().Update(silent, e.Device, e.Index, e.Gateways)
	if err != nil {
		return repairs, err
	}
	if done != "" {
		repairs = append(repairs, done)
	}
	s.enis[e.Index] = link.Attrs().Index
	return repairs, nil
}

// directENIs is the map of ENIs by which packets leave directly. The caller holds mu.
func (s *Kind) directENIs() tcprog.ENIs {
	return tcprog.ENIs{Map: s.objects.Maps[tcprog.MapENIs], Inside: s.node.Inside}
}

// traces says whether this datapath was at work on the node.
func traces(h *netlink.Handle, links []netlink.Link) (bool, error) {
	if slices.ContainsFunc(links, linkkind.IsReceiver) {
		return true, nil
	}
	return filters.Anywhere(h)
}

// clear takes programs and receivers from devices that are not wanted, by name; at the
// datapath's end, where it is the last to have something there, the qdiscs too.
func clear(h *netlink.Handle, links []netlink.Link, wanted map[string]bool, end bool) ([]string, error) {
	devices, err := tcprog.Devices(h)
	errs := []error{err}
	var repairs []string
	for _, l := range links {
		name := l.Attrs().Name
		switch {
		case wanted[name] || linkkind.IsPodDevice(l):
		case linkkind.IsReceiver(l):
			errs = append(errs, remove(h, l))
			repairs = append(repairs, "removed device "+name)
		case slices.Contains(devices, l.Attrs().Index) && end:
			if err := filters.Uninstall(h, l.Attrs().Index); err != nil {
				errs = append(errs, fmt.Errorf("device %s: %w", name, err))
			}
		case slices.Contains(devices, l.Attrs().Index):
			found, err := filters.Detach(h, l.Attrs().Index)
			if err != nil {
				errs = append(errs, fmt.Errorf("device %s: %w", name, err))
			}
			if found {
				repairs = append(repairs, "removed programs from "+name)
			}
		}
	}
	return repairs, errors.Join(errs...)
}

// ENIProblem implements node.Kind.
func (s *Kind) ENIProblem(h *netlink.Handle, e routing.ENI) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(h); err != nil {
		return "", err
	}
	problem, err := filters.Wrong(h, s.objects, e.Index, eniHooks)
	if err != nil || problem == "" {
		return "", err
	}
	return e.Device + ": " + problem, nil
}

// podEntries are a pod's in the map of slaves. Its ENI is prepared with them.
type podEntries struct {
	s   *Kind
	pod *node.Pod
}

// Name implements object.Object.
func (o podEntries) Name() string { return "map entries of device " + o.pod.Host.Name }

// Put implements object.Object.
func (o podEntries) Put(site *object.Site) error {
	p, err := o.pod.Place(site)
	if err != nil {
		return err
	}
	s := o.s
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hold(o.pod)
	if err := s.load(site.Node); err != nil {
		return err
	}
	receiver, err := s.receiver(site.Node, p.ENI)
	if err != nil {
		return err
	}
	for a, e := range entries(p, receiver) {
		if err := s.table().Put(a, e); err != nil {
			return err
		}
	}
	return nil
}

// Have implements object.Object.
func (o podEntries) Have(site *object.Site) (string, error) {
	p, err := o.pod.Place(site)
	if err != nil || p.Index == 0 {
		return "", err // what makes the device says so
	}
	s := o.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(site.Node); err != nil {
		return "", err
	}
	s.hold(o.pod) // known to vacate after a restart too
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
	for a, want := range entries(p, receiver) {
		if problem, err := s.table().Problem(a, want); err != nil || problem != "" {
			return problem, err
		}
	}
	return "", nil
}

// Del implements object.Object. An address that another device has by now stays.
func (o podEntries) Del(site *object.Site) error {
	p, err := o.pod.Place(site)
	if err != nil {
		return err
	}
	s := o.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.objects == nil {
		if there, err := filters.Anywhere(site.Node); err != nil || !there {
			return err
		}
		if err := s.load(site.Node); err != nil {
			return err
		}
	}
	return s.table().Release(site.Node, p.Index, p.Addresses)
}

// podPrograms are those of a pod's two devices. They go with them.
type podPrograms struct {
	s   *Kind
	pod *node.Pod
}

// Name implements object.Object.
func (o podPrograms) Name() string { return "programs of device " + o.pod.Host.Name }

// Put implements object.Object.
func (o podPrograms) Put(site *object.Site) error {
	objects, err := o.s.loaded(site.Node)
	if err != nil {
		return err
	}
	index, err := site.Index(o.pod.Host)
	if err != nil {
		return err
	}
	if err := filters.Attach(site.Node, objects, index, hostHooks); err != nil || site.Pod == nil {
		return err
	}
	inPod, err := site.Pod.Handle()
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
	objects, err := o.s.loaded(site.Node)
	if err != nil {
		return "", err
	}
	index, err := site.Index(o.pod.Host)
	if err != nil || index == 0 {
		return "", err
	}
	problem, err := filters.Wrong(site.Node, objects, index, hostHooks)
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
	problem, err = filters.Wrong(inPod, objects, innerIndex(o.pod.Host.Name), innerHooks)
	if err != nil || problem == "" {
		return "", err
	}
	return fmt.Sprintf("device %s of the pod: %s", o.pod.IfName, problem), nil
}

// Del implements object.Object.
func (podPrograms) Del(*object.Site) error { return nil }

// loaded are the objects, which are loaded if they are not yet.
func (s *Kind) loaded(h *netlink.Handle) (*tcprog.Objects, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.load(h)
	return s.objects, err
}

// receiver is the index of an ENI's receiver. The caller holds mu.
func (s *Kind) receiver(h *netlink.Handle, e routing.ENI) (int, error) {
	if e.Index == 0 {
		return 0, nil // the ENI is gone
	}
	if index := s.enis[e.Index]; index != 0 && tcprog.Exists(h, index) {
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
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := clear(h, links, nil, true)
	return errors.Join(err, s.unload())
}

// Counters are what the programs have done since their maps were made.
func (s *Kind) Counters() (map[string]uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.objects == nil {
		return nil, nil // nothing has happened yet
	}
	return s.objects.Counters()
}

// Close implements node.Kind; pods stay wired.
func (s *Kind) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unload()
}

// unload lets go of the objects; what filters hold stays.
func (s *Kind) unload() error {
	o := s.objects
	s.objects, s.enis = nil, nil
	if o == nil {
		return nil
	}
	return o.Close()
}
