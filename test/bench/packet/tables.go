package packet

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath/fastpath"
)

// stateAt is the offset of a connection's state in its entry.
const stateAt = unsafe.Offsetof(fastpath.Connection{}.State)

// Ask empties the connection tables and runs a program on a packet, whose connection then takes
// the slow path.
func Ask(maps map[string]*ebpf.Map, program *ebpf.Program, frame []byte) error {
	for _, name := range []string{fastpath.MapKnown4, fastpath.MapKnown6, fastpath.MapPending4, fastpath.MapPending6} {
		if err := each(maps[name], func(key, _ []byte) error { return maps[name].Delete(key) }); err != nil {
			return err
		}
	}
	_, err := program.Run(&ebpf.RunOptions{Data: frame})
	return err
}

// Know is Ask plus the answer, which lets the connection take the fast path, and its handshake.
func Know(maps map[string]*ebpf.Map, program *ebpf.Program, frame []byte) error {
	if err := Ask(maps, program, frame); err != nil {
		return err
	}
	for from, to := range map[string]string{fastpath.MapPending4: fastpath.MapKnown4, fastpath.MapPending6: fastpath.MapKnown6} {
		if err := each(maps[from], func(key, value []byte) error {
			value[stateAt] = fastpath.StateDirect
			return maps[to].Put(key, value)
		}); err != nil {
			return err
		}
	}
	return nil
}

// each calls f for the entries of a table until none changes any more.
func each(m *ebpf.Map, f func(key, value []byte) error) error {
	var entries [][2][]byte
	key, value := make([]byte, m.KeySize()), make([]byte, m.ValueSize())
	it := m.Iterate()
	for it.Next(&key, &value) {
		entries = append(entries, [2][]byte{append([]byte{}, key...), append([]byte{}, value...)})
	}
	errs := []error{it.Err()}
	for _, e := range entries {
		errs = append(errs, f(e[0], e[1]))
	}
	return errors.Join(errs...)
}

// NeverAgain keeps connections without a handshake on the fast path for the time of a
// benchmark.
func NeverAgain(maps map[string]*ebpf.Map) error {
	return maps["tw_node_1"].Put(uint32(0), struct{ AskAgain, Secret uint64 }{^uint64(0), 1})
}

// AskFormer and KnowFormer do the same for the former version, whose map tw_flows_1 had an
// entry for each direction.
func AskFormer(flows *ebpf.Map, f Tuple) error { return putFormer(flows, f, 1) }

// KnowFormer: see AskFormer.
func KnowFormer(flows *ebpf.Map, f Tuple) error {
	return errors.Join(putFormer(flows, f, 2), putFormer(flows, f.Back(), 2))
}

func putFormer(flows *ebpf.Map, f Tuple, state uint32) error {
	key := make([]byte, 40)
	for i, end := range []netip.AddrPort{f.From, f.To} {
		address := end.Addr().As16()
		copy(key[16*i:], address[:])
		binary.BigEndian.PutUint16(key[32+2*i:], end.Port())
	}
	key[36] = unix.IPPROTO_UDP
	if f.TCP {
		key[36] = unix.IPPROTO_TCP
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return err
	}
	return flows.Put(key, struct {
		Since       uint64
		State, Zero uint32
	}{uint64(now.Nano()), state, 0})
}
