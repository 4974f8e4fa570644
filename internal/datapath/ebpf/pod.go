package ebpf

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/route"
	"terway.dev/terway/internal/datapath/tcprog"
)

// Wire implements route.Extension.
func (s *shortcuts) Wire(h *netlink.Handle, p route.Place) error {
	return s.wire(h, p, veth{})
}

func (s *shortcuts) wire(h *netlink.Handle, p route.Place, hooks Hooks) error {
	o, err := s.enter(h, p)
	if err != nil {
		return err
	}
	if err := hooks.Attach(h, o, p.Index); err != nil {
		return fmt.Errorf("device %s: %w", p.Device, err)
	}
	return nil
}

// enter writes the pod's addresses and its device, and sees that its ENI has its programs: in this
// order, for Sync takes them from the ENIs when the map is empty.
func (s *shortcuts) enter(h *netlink.Handle, p route.Place) (*tcprog.Objects, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(h); err != nil {
		return nil, err
	}
	for a, pod := range entries(p) {
		if err := s.table().Put(a, pod); err != nil {
			return nil, err
		}
	}
	if err := s.putSender(p); err != nil {
		return nil, err
	}
	if index := p.ENI.Index; index != 0 && !s.enis[index] {
		if err := s.prepareENI(h, p.ENI); err != nil {
			return nil, fmt.Errorf("ENI device %s: %w", p.ENI.Device, err)
		}
		s.enis[index] = true
	}
	return s.objects, nil
}

// Problems implements route.Extension.
func (s *shortcuts) Problems(h *netlink.Handle, p route.Place) ([]string, error) {
	return s.problems(h, p, veth{})
}

func (s *shortcuts) problems(h *netlink.Handle, p route.Place, hooks Hooks) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(h); err != nil {
		return nil, err
	}
	var problems []string
	for a, want := range entries(p) {
		problem, err := s.table().Problem(a, want)
		if err != nil {
			return nil, err
		}
		if problem != "" {
			problems = append(problems, problem)
		}
	}
	problem, err := s.senderProblem(p)
	if err != nil {
		return nil, err
	}
	if problem != "" {
		problems = append(problems, problem)
	}
	problem, err = hooks.Wrong(h, s.objects, p.Index)
	if err != nil {
		return nil, fmt.Errorf("device %s: %w", p.Device, err)
	}
	if problem != "" {
		problems = append(problems, fmt.Sprintf("device %s: %s", p.Device, problem))
	}
	return problems, nil
}

// Unwire implements route.Extension. An address that another device has by now stays.
func (s *shortcuts) Unwire(h *netlink.Handle, index int, addresses []netip.Addr) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.objects == nil {
		if there, err := filters.Anywhere(h); err != nil || !there {
			return err
		}
		if err := s.load(h); err != nil {
			return err
		}
	}
	var err error
	if index != 0 {
		err = s.deleteSender(uint32(index))
	}
	return errors.Join(err, s.table().Release(h, index, addresses))
}
