// Package fastpathtest reads the tables of bpf/connection.h from outside, through the programs on a
// node's devices. Only tests import it.
package fastpathtest

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath/fastpath"
	"terway.dev/terway/internal/datapath/suite/world"
	"terway.dev/terway/internal/datapath/tcfilter"
	"terway.dev/terway/internal/netlinkx"
	"terway.dev/terway/internal/testutil"
)

// Batch opens a socket in a namespace for several requests at once, until the end of the test.
func Batch(t testing.TB, at *testutil.NS) *netlinkx.Batch {
	t.Helper()
	ns, err := netlinkx.Enter(at.Path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ns.Close)
	b, err := ns.Batch()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Known returns the keys of the connections that are known, and not pending, to the newest program
// in the filters: Kit.Known of a kind.
func Known(filters tcfilter.Filters) func(*world.Node) (map[string]bool, error) {
	return func(n *world.Node) (map[string]bool, error) {
		ns, err := netns.GetFromPath(n.Path)
		if err != nil {
			return nil, err
		}
		defer ns.Close()
		h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
		if err != nil {
			return nil, err
		}
		defer h.Close()
		programs, err := filters.Programs(h)
		if err != nil || len(programs) == 0 {
			return nil, errors.Join(err, fmt.Errorf("%d programs", len(programs)))
		}
		p, err := ebpf.NewProgramFromID(slices.Max(programs))
		if err != nil {
			return nil, err
		}
		defer p.Close()
		info, err := p.Info()
		if err != nil {
			return nil, err
		}
		ids, _ := info.MapIDs()
		known := map[string]bool{}
		for _, id := range ids {
			m, err := ebpf.NewMapFromID(id)
			if err != nil {
				return nil, err
			}
			err = keys(m, known)
			if err := errors.Join(err, m.Close()); err != nil {
				return nil, err
			}
		}
		return known, nil
	}
}

func keys(m *ebpf.Map, into map[string]bool) error {
	info, err := m.Info()
	if err != nil || info.Name != fastpath.MapKnown4 && info.Name != fastpath.MapKnown6 {
		return err
	}
	key, value := make([]byte, m.KeySize()), make([]byte, m.ValueSize())
	it := m.Iterate()
	for it.Next(&key, &value) {
		into[string(key)] = true
	}
	if err := it.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return fmt.Errorf("list map %s: %w", info.Name, err)
	}
	return nil
}
