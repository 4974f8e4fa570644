package fastpath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// The former version had one map, tw_flows_1, with an entry for each direction of a connection.
// Each of its programs uses that map until it is replaced. A young connection that the new programs
// do not know would stall where packets that conntrack calls invalid are dropped: conntrack has
// seen its first packet alone.

const formerFlows = "tw_flows_1"

// formerFlowKey and formerFlow are the map's key and value.
type formerFlowKey struct {
	Src, Dst     [4]uint32
	Sport, Dport [2]byte // network byte order
	Proto        uint8
	_            [3]uint8
}

type formerFlow struct {
	Since uint64
	State uint32
	_     uint32
}

const formerDirect = 2

// CopyFormer copies the entries of pods in a map of the former version, from a pod's address (struct
// addr of bpf/common.h), if running programs have the map.
func CopyFormer[W any, V comparable](o *Objects, former string, to Pods[V], entry func(key [4]uint32, was W) V) error {
	m := o.Former(former)
	if m == nil {
		return nil
	}
	var key [4]uint32
	var was W
	it := m.Iterate()
	for it.Next(&key, &was) {
		if err := to.Put(Addr(key), entry(key, was)); err != nil {
			return err
		}
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("list map %s: %w", former, err)
	}
	return nil
}

// takeConnections copies connections of the former version's map that the new maps lack. The pods'
// entries must exist.
func (o *Objects) takeConnections() error {
	flows := o.Former(formerFlows)
	if flows == nil || !o.Direct() {
		return nil
	}
	all, err := o.numbers.list()
	if err != nil {
		return err
	}
	var k formerFlowKey
	var v formerFlow
	it := flows.Iterate()
	for it.Next(&k, &v) {
		if v.State != formerDirect {
			continue
		}
		back := formerFlowKey{Src: k.Dst, Dst: k.Src, Sport: k.Dport, Dport: k.Sport, Proto: k.Proto}
		if flows.Lookup(back, &v) != nil || v.State != formerDirect {
			continue // it is on the slow path
		}
		m, key, pods := connectionOf(k)
		c := Connection{State: StateDirect}
		for i, a := range pods {
			c.Pod[i] = uint16(all[a])
		}
		// Connections without a handshake take the slow path once, without loss.
		if err := o.Maps[m].Update(key, c, ebpf.UpdateNoExist); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("take over a connection of map %s: %w", formerFlows, err)
		}
	}
	// Programs still use the map: their evictions may end the iteration.
	if err := it.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return fmt.Errorf("list map %s: %w", formerFlows, err)
	}
	return nil
}

// connectionOf is key_of of bpf/connection.h.
func connectionOf(k formerFlowKey) (name string, key any, pods [2]netip.Addr) {
	src, dst := Addr(k.Src), Addr(k.Dst)
	less := func(a, b [4]uint32) bool {
		for i := 3; i > 0; i-- {
			if a[i] != b[i] {
				return a[i] < b[i]
			}
		}
		return a[0] < b[0]
	}
	ports := [2]uint16{binary.NativeEndian.Uint16(k.Sport[:]), binary.NativeEndian.Uint16(k.Dport[:])}
	addrs := [2][4]uint32{k.Src, k.Dst}
	pods = [2]netip.Addr{src, dst}
	if less(k.Dst, k.Src) || k.Src == k.Dst && ports[0] > ports[1] {
		ports[0], ports[1] = ports[1], ports[0]
		addrs[0], addrs[1] = addrs[1], addrs[0]
		pods[0], pods[1] = pods[1], pods[0]
	}
	if src.Is4() {
		return MapKnown4, tablesKey4{Addr: [2]uint32{addrs[0][3], addrs[1][3]}, Port: ports, Proto: k.Proto}, pods
	}
	halves := func(a [4]uint32) [2]uint64 {
		return [2]uint64{uint64(a[1])<<32 | uint64(a[0]), uint64(a[3])<<32 | uint64(a[2])}
	}
	return MapKnown6, tablesKey6{Addr: [2][2]uint64{halves(addrs[0]), halves(addrs[1])}, Port: ports, Proto: k.Proto}, pods
}
