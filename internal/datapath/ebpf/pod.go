package ebpf

import (
	"fmt"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/object"
)

// podEntries are the entries of a pod's addresses.
type podEntries struct {
	s   *fastPath
	pod *node.Pod
}

// Name implements object.Object.
func (o podEntries) Name() string { return "map entries of device " + o.pod.Host.Name }

// Put implements object.Object. It also attaches the programs of the pod's ENI, after the entries:
// Sync removes these programs when the map is empty.
func (o podEntries) Put(site *object.Site) error {
	p, err := o.pod.Endpoint(site)
	if err != nil {
		return err
	}
	return o.s.enter(site.Node, p)
}

func (s *fastPath) enter(h *netlink.Handle, p node.Endpoint) error {
	s.Lock()
	defer s.Unlock()
	if err := s.Load(h); err != nil {
		return err
	}
	if err := s.table().PutAll(entries(p)); err != nil {
		return err
	}
	if index := p.ENI.Index; index != 0 && !s.enis[index] {
		if _, err := s.PrepareENI(h, p.ENI); err != nil {
			return fmt.Errorf("ENI device %s: %w", p.ENI.Device, err)
		}
		s.enis[index] = true
	}
	return nil
}

// Have implements object.Object.
func (o podEntries) Have(site *object.Site) (string, error) {
	p, err := o.pod.Endpoint(site)
	if err != nil || p.Index == 0 {
		return "", err // the object that makes the device reports it
	}
	s := o.s
	s.Lock()
	defer s.Unlock()
	if err := s.Load(site.Node); err != nil {
		return "", err
	}
	return s.table().Problem(entries(p))
}

// Del implements object.Object. An address that another device has in the meantime stays.
func (o podEntries) Del(site *object.Site) error {
	p, err := o.pod.Endpoint(site)
	if err != nil {
		return err
	}
	s := o.s
	s.Lock()
	defer s.Unlock()
	if there, err := s.Find(site.Node); err != nil || !there {
		return err
	}
	return s.table().Release(site.Node, p.Index, p.Addresses)
}

// podPrograms are the programs of a pod's device, which disappear with it, and the entry of the
// sources that the device may use.
type podPrograms struct {
	s     *fastPath
	pod   *node.Pod
	hooks Hooks
}

// Name implements object.Object.
func (o podPrograms) Name() string { return "programs of device " + o.pod.Host.Name }

// Put implements object.Object.
func (o podPrograms) Put(site *object.Site) error {
	p, err := o.pod.Endpoint(site)
	if err != nil {
		return err
	}
	objects, err := o.s.Loaded(site.Node)
	if err != nil {
		return err
	}
	b, err := site.NodeBatch()
	if err != nil {
		return err
	}
	// Programs that enforce policies let nothing pass before the device has its entry.
	if err := o.s.enterSender(p); err != nil {
		return err
	}
	return o.hooks.Attach(b, objects, p.Index)
}

func (s *fastPath) enterSender(p node.Endpoint) error {
	s.Lock()
	defer s.Unlock()
	return s.putSender(p)
}

// Have implements object.Object.
func (o podPrograms) Have(site *object.Site) (string, error) {
	p, err := o.pod.Endpoint(site)
	if err != nil || p.Index == 0 {
		return "", err
	}
	objects, err := o.s.Loaded(site.Node)
	if err != nil {
		return "", err
	}
	problem, err := o.hooks.Problem(site.Node, objects, p.Index)
	if err != nil {
		return "", err
	}
	if problem != "" {
		return fmt.Sprintf("device %s: %s", o.pod.Host.Name, problem), nil
	}
	o.s.Lock()
	defer o.s.Unlock()
	return o.s.senderProblem(p)
}

// Del implements object.Object.
func (o podPrograms) Del(site *object.Site) error {
	index, err := site.Index(o.pod.Host)
	if err != nil || index == 0 {
		return err
	}
	o.s.Lock()
	defer o.s.Unlock()
	if there, err := o.s.Find(site.Node); err != nil || !there {
		return err
	}
	return o.s.deleteSender(uint32(index))
}
