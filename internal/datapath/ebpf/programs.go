package ebpf

import (
	"errors"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/fastpath"
	"terway.dev/terway/internal/datapath/linkkind"
)

// fastPath is the programs and maps of a node, and the devices that have them.
//
// The map of pods gives a pod's address the fast path, and the map of senders makes its device
// refuse other sources; a filter without entries does nothing. So a pod's entries are deleted
// first, and a pod without entries takes the slow path.
type fastPath struct {
	fastpath.Loader
	// chosen: new pods of the node are of this kind, so its ENIs have programs before the first
	// pod.
	chosen atomic.Bool
	// enis are those known to have their programs. The lock guards them too.
	enis map[int]bool
	// policed: the programs enforce policies. The lock guards it.
	policed bool
}

func newFastPath(connections int) *fastPath {
	s := &fastPath{enis: map[int]bool{}}
	s.Loader = fastpath.Loader{Filters: filters, ENIHooks: eniHooks, Connections: connections, Open: s.open, Upgrade: upgrade}
	return s
}

func (s *fastPath) open(running []ebpf.ProgramID, sizes fastpath.Sizes) (*fastpath.Objects, error) {
	if s.policed {
		return loadJudging(running, sizes)
	}
	return load(running, sizes)
}

// teardown removes the programs from ENIs and devices that are not pods'.
func (s *fastPath) teardown(h *netlink.Handle, links []netlink.Link) error {
	s.Lock()
	defer s.Unlock()
	clear(s.enis)
	_, err := filters.Sweep(h, links, linkkind.IsPodDevice, true)
	return errors.Join(err, s.Unload())
}
