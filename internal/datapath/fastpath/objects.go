// Package fastpath is the agent's side of bpf/connection.h, for every kind of pod with a fast path:
// the tables of connections and their sizes, numbers and entries of local pods, ENIs that the fast
// path may send by, counters, and settings that programs read while they run.
//
// It also has what these kinds share: Loader implements a part of node.Kind, Programs and Entries are
// objects of their pods. It knows no kind's programs and not where they are attached (packages ebpf,
// netkit, ipvlan).
package fastpath

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/bpfobj"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/tcfilter"
)

// The tables of connections.
const (
	MapKnown4   = tablesMapTwKnown41
	MapKnown6   = tablesMapTwKnown61
	MapPending4 = tablesMapTwPending41
	MapPending6 = tablesMapTwPending61
)

// Connection is a table's value. Since is in the kernel's ticks; Pod are the numbers of the ends'
// addresses, 0 if not a local pod's.
type Connection = tablesConnection

// StateDirect is the state of a connection on the fast path.
const StateDirect = uint8(tablesStateSTATE_DIRECT)

// MaxPods is the largest number of local pods' addresses: more than any instance type supports.
const MaxPods = 16384

// Objects are a kind's programs and maps, among them those of bpf/connection.h unless the programs have
// no fast path.
type Objects struct {
	*bpfobj.Objects
	// Without a fast path both are nil. counters are the counters' names, in the map's order.
	counters []string
	numbers  *numbers
}

// Load loads a kind's programs. It uses the maps of others, which stay theirs, and of its running programs.
func Load(running []ebpf.ProgramID, spec *ebpf.CollectionSpec, sizes Sizes, others ...*Objects) (*Objects, error) {
	var counters []string
	if spec.Maps[MapPods] != nil {
		spec.Maps[MapPods].MaxEntries = MaxPods
		sizes.set(spec)
		const constant = tablesVarSlotMask
		if v := spec.Variables[constant]; v == nil {
			return nil, fmt.Errorf("the programs have no constant %s", constant)
		} else if err := v.Set(uint32(claims.MarkMask)); err != nil {
			return nil, fmt.Errorf("set constant %s: %w", constant, err)
		}
		var err error
		if counters, err = countersOf(spec); err != nil {
			return nil, err
		}
	}
	var share []*bpfobj.Objects
	for _, o := range others {
		share = append(share, o.Objects)
	}
	loaded, err := bpfobj.Load(spec, running, share...)
	if err != nil {
		return nil, err
	}
	o := &Objects{Objects: loaded, counters: counters}
	if err := errors.Join(o.Renumber(), o.drawSecret()); err != nil {
		return nil, errors.Join(err, o.Close())
	}
	return o, nil
}

// Direct reports whether the programs have a fast path.
func (o *Objects) Direct() bool { return o.Maps[MapPods] != nil }

// Renumber reads the pods' numbers again, after another Objects has changed the maps.
func (o *Objects) Renumber() (err error) {
	if o.Direct() {
		o.numbers, err = newNumbers(o.Maps[MapPods], o.Maps[mapSuffixes])
	}
	return err
}

// Running lists running programs at one type of attach point of the node's devices.
type Running func(h *netlink.Handle) ([]ebpf.ProgramID, error)

// Loader loads a kind's objects on a node when they are first needed, and implements what the kinds
// with a fast path have in common of node.Kind.
type Loader struct {
	node.Plain
	// Filters hold the kind's programs, ENIHooks are those of each ENI.
	Filters  tcfilter.Filters
	ENIHooks []tcfilter.Hook
	// Others list programs of the same objects that are not held by filters.
	Others []Running
	// Connections is the number of IPv4 connections in the table (SizesFor).
	Connections int
	// Open loads the kind's objects, with the maps of running programs; Upgrade copies pods' entries
	// of the former version.
	Open    func(running []ebpf.ProgramID, sizes Sizes) (*Objects, error)
	Upgrade func(*Objects) error
	// Outgrown reports whether Open must replace these objects by others, which share their maps; Opened is told of objects that
	// are in use from now on. Either may be nil.
	Outgrown func(*Objects) bool
	Opened   func(*Objects) error
	// Node is set by Start.
	Node *node.Node

	// The lock guards the fields below and serialises changes of the maps.
	sync.Mutex
	// Objects is nil until they are needed.
	Objects *Objects
	// seen are the devices of pods whose guarded programs have been seen in place, since the objects have been loaded.
	seen map[string]bool
	// waits and silent are what the last Sync saw.
	waits  waits
	silent silentGateways
}

// Load loads the objects unless they are loaded and will do. The caller of Load, Find, Refresh, PrepareENI and
// Unload holds the lock.
func (l *Loader) Load(h *netlink.Handle) error {
	if l.Objects != nil && (l.Outgrown == nil || !l.Outgrown(l.Objects)) {
		return nil
	}
	sizes, err := SizesFor(l.Connections)
	if err != nil {
		return err
	}
	running, err := l.Running(h)
	if err != nil {
		return err
	}
	o, err := l.Open(running, sizes)
	if err != nil {
		return err
	}
	err = l.Node.Inside(o.FollowConntrack)
	if o.Direct() {
		err = errors.Join(err, l.Upgrade(o), o.takeConnections())
	}
	if err != nil {
		return errors.Join(err, o.Close())
	}
	if l.Objects != nil {
		err = o.Replace(l.Objects.Objects)
	}
	l.Objects, l.seen = o, nil
	if l.Opened != nil {
		err = errors.Join(err, l.Opened(o))
	}
	return err
}

// Running lists the kind's programs on the node, wherever they are attached.
func (l *Loader) Running(h *netlink.Handle) ([]ebpf.ProgramID, error) {
	list, err := l.Filters.Programs(h)
	for _, others := range l.Others {
		if err != nil {
			return nil, err
		}
		var more []ebpf.ProgramID
		more, err = others(h)
		list = append(list, more...)
	}
	return list, err
}

// Find calls Load if the objects are loaded or the kind has programs on the node. Otherwise there
// is nothing to delete.
func (l *Loader) Find(h *netlink.Handle) (there bool, err error) {
	if l.Objects == nil {
		if running, err := l.Running(h); err != nil || len(running) == 0 {
			return false, err
		}
	}
	return true, l.Load(h)
}

// Refresh begins a Sync: it calls Load if must is set, else Find. Objects that were loaded before
// follow the node's settings and copy connections of the former version a last time: the Sync
// before has replaced all its programs.
func (l *Loader) Refresh(h *netlink.Handle, must bool) (there bool, err error) {
	switch {
	case l.Objects != nil:
		there, err = true, errors.Join(l.Node.Inside(l.Objects.FollowConntrack), l.Objects.takeConnections(), l.Objects.DropFormer(), l.Load(h))
	case must:
		there, err = true, l.Load(h)
	default:
		there, err = l.Find(h)
	}
	if err != nil || !there {
		return there, err
	}
	states, err := neighbours(h)
	if err == nil {
		l.silent = l.waits.silent(states, time.Now())
	}
	return true, err
}

// Unload closes the objects; programs and maps that filters hold stay.
func (l *Loader) Unload() error {
	o := l.Objects
	l.Objects, l.seen = nil, nil
	if o == nil {
		return nil
	}
	return o.Close()
}

// Loaded returns the objects, and loads them if need be.
func (l *Loader) Loaded(h *netlink.Handle) (*bpfobj.Objects, error) {
	l.Lock()
	defer l.Unlock()
	if err := l.Load(h); err != nil {
		return nil, err
	}
	return l.Objects.Objects, nil
}

func (l *Loader) Start(n *node.Node) { l.Node = n }

// Close implements node.Kind; the fast path goes on working.
func (l *Loader) Close() error {
	l.Lock()
	defer l.Unlock()
	return l.Unload()
}

// Counters returns Objects.Counters, nil if nothing is loaded.
func (l *Loader) Counters() (map[string]uint64, error) {
	l.Lock()
	defer l.Unlock()
	if l.Objects == nil {
		return nil, nil
	}
	return l.Objects.Counters()
}

func (l *Loader) Spoofed() (uint64, error) {
	counts, err := l.Counters()
	return counts["spoofed"], err
}

// Capacity describes the size of the connection tables.
func (l *Loader) Capacity() string {
	s, err := SizesFor(l.Connections)
	if err != nil {
		return err.Error()
	}
	return s.String()
}
