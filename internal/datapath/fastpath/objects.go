// Package fastpath is the agent's side of bpf/connection.h, for every kind of pod whose known
// connections pass the host stack by: tables of connections and their sizes, numbers and entries
// of local pods, ENIs by which packets may leave, counters, and what the agent tells programs
// while they run.
//
// It knows no program of a kind's, nor where these run (packages ebpf, netkit, ipvlan).
package fastpath

import (
	"errors"
	"fmt"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/bpfobj"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/tcfilter"
)

// MaxPods bounds the addresses of local pods: more than any instance type carries.
const MaxPods = 16384

// Objects are a kind's, with the maps of bpf/connection.h among them.
type Objects struct {
	*bpfobj.Objects
	// counters are the names of what the programs count, in the map's order.
	counters []string
	numbers  *numbers
}

// Load loads a kind's objects; what programs held by its filters remember stays.
func Load(h *netlink.Handle, filters tcfilter.Filters, spec *ebpf.CollectionSpec, sizes Sizes) (*Objects, error) {
	spec.Maps[MapPods].MaxEntries = MaxPods
	sizes.set(spec)
	const constant = "slot_mask"
	if v := spec.Variables[constant]; v == nil {
		return nil, fmt.Errorf("the programs have no constant %s", constant)
	} else if err := v.Set(uint32(claims.MarkMask)); err != nil {
		return nil, fmt.Errorf("set constant %s: %w", constant, err)
	}
	counters, err := countersOf(spec)
	if err != nil {
		return nil, err
	}
	running, err := filters.Programs(h)
	if err != nil {
		return nil, err
	}
	loaded, err := bpfobj.Load(spec, running)
	if err != nil {
		return nil, err
	}
	o := &Objects{Objects: loaded, counters: counters}
	o.numbers, err = newNumbers(o.Maps[MapPods], o.Maps[mapSuffixes])
	if err := errors.Join(err, o.drawSecret()); err != nil {
		return nil, errors.Join(err, o.Close())
	}
	return o, nil
}

// Loader has a kind's objects on a node, from when they are first needed.
type Loader struct {
	// Filters hold the kind's programs.
	Filters tcfilter.Filters
	// Connections is how many of IPv4 are remembered (SizesFor).
	Connections int
	// Open is Load for the kind, Upgrade takes over what programs of the version before know.
	Open    func(*netlink.Handle, Sizes) (*Objects, error)
	Upgrade func(*Objects) error
	// Inside runs a function in the node's namespace.
	Inside func(func() error) error

	// The lock guards what is below, and makes changes of the maps follow each other.
	sync.Mutex
	// Objects is nil until they are needed.
	Objects *Objects
}

// Load loads the objects if they are not. The caller of this and of the next four holds the lock.
func (l *Loader) Load(h *netlink.Handle) error {
	if l.Objects != nil {
		return nil
	}
	sizes, err := SizesFor(l.Connections)
	if err != nil {
		return err
	}
	o, err := l.Open(h, sizes)
	if err != nil {
		return err
	}
	if err := errors.Join(l.Inside(o.FollowConntrack), l.Upgrade(o), o.takeConnections()); err != nil {
		return errors.Join(err, o.Close())
	}
	l.Objects = o
	return nil
}

// Find is Load if the kind has programs on the node, or the objects are loaded. If not, there
// is nothing to take away.
func (l *Loader) Find(h *netlink.Handle) (there bool, err error) {
	if l.Objects == nil {
		if there, err := l.Filters.Anywhere(h); err != nil || !there {
			return false, err
		}
	}
	return true, l.Load(h)
}

// Refresh is what Sync begins with: Load if it must be, else Find. Objects that were loaded
// before follow the node's settings and take a last time from the version before, all of whose
// programs the Sync before has replaced.
func (l *Loader) Refresh(h *netlink.Handle, must bool) (there bool, err error) {
	if l.Objects != nil {
		return true, errors.Join(l.Inside(l.Objects.FollowConntrack), l.Objects.takeConnections(), l.Objects.DropFormer())
	}
	if must {
		return true, l.Load(h)
	}
	return l.Find(h)
}

// ENIs is the map of those by which packets leave directly.
func (l *Loader) ENIs() ENIs { return ENIs{Map: l.Objects.Maps[MapENIs], Inside: l.Inside} }

// Unload lets go of the objects; what filters hold stays.
func (l *Loader) Unload() error {
	o := l.Objects
	l.Objects = nil
	if o == nil {
		return nil
	}
	return o.Close()
}

// Loaded are the objects, which are loaded if they are not.
func (l *Loader) Loaded(h *netlink.Handle) (*bpfobj.Objects, error) {
	l.Lock()
	defer l.Unlock()
	if err := l.Load(h); err != nil {
		return nil, err
	}
	return l.Objects.Objects, nil
}

// Close is Unload.
func (l *Loader) Close() error {
	l.Lock()
	defer l.Unlock()
	return l.Unload()
}

// Counters are those of the objects (Objects.Counters), nil while nothing is loaded.
func (l *Loader) Counters() (map[string]uint64, error) {
	l.Lock()
	defer l.Unlock()
	if l.Objects == nil {
		return nil, nil
	}
	return l.Objects.Counters()
}
