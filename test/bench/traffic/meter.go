package traffic

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/testutil"
)

// Meter counts the IPv4 frames of a device as they would be on a wire: each with its headers, those also that
// the kernel keeps in one packet of several segments (GSO). It is a packet socket without an inbox: on the
// way out it comes after the device's queueing discipline, on the way in before everything else.
type Meter struct {
	counts *ebpf.Map
	socket int
}

// Way is a direction at a device.
type Way uint32

// In is what the device receives, Out what it sends.
const (
	In Way = iota
	Out
)

// Counted is what a Meter has counted since it was made or reset.
type Counted struct {
	Bytes, Frames uint64
	// First is when the first frame came, by the monotonic clock in ns; 0: none did.
	First uint64
	// Early are the bytes in the time Beginning after it.
	Early uint64
}

// Beginning is the time in which Counted.Early counts.
const Beginning = 100 * time.Millisecond

// Offsets in struct __sk_buff (linux/bpf.h) and in Counted.
const (
	skbLen, skbType, skbSegments              = 0, 4, 164
	countedFrames, countedFirst, countedEarly = 8, 16, 24
)

// NewMeter returns a Meter of a device in a namespace. Close it.
func NewMeter(ns *testutil.NS, device string) (_ *Meter, err error) {
	m := &Meter{socket: -1}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("count the frames of %s in %s: %w", device, ns.Name, err), m.Close())
		}
	}()
	if m.counts, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: uint32(binary.Size(Counted{})), MaxEntries: 2}); err != nil {
		return nil, err
	}
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SocketFilter, Instructions: m.program(), License: "Dual BSD/GPL"})
	if err != nil {
		return nil, err
	}
	defer p.Close()
	err = ns.Do(func() error {
		i, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		// Without a protocol it gets nothing until it is bound to the device.
		if m.socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(m.socket, unix.SOL_SOCKET, unix.SO_ATTACH_BPF, p.FD()); err != nil {
			return err
		}
		all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
		return unix.Bind(m.socket, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i.Index})
	})
	return m, err
}

// program adds a packet's frames to the counts of its way, and keeps nothing of it.
func (m *Meter) program() asm.Instructions {
	const ctx, bytes, frames, value = asm.R6, asm.R7, asm.R8, asm.R9
	return asm.Instructions{
		asm.Mov.Reg(ctx, asm.R1), // where LoadAbs expects it
		asm.LoadMem(bytes, ctx, skbLen, asm.Word),
		asm.LoadMem(frames, ctx, skbSegments, asm.Word),
		asm.JGT.Imm(frames, 1, "segments"),
		asm.Mov.Imm(frames, 1),
		asm.Ja.Label("count"),

		// Segments beyond the first have the headers of Ethernet, IPv4 without options and TCP.
		asm.LoadAbs(12, asm.Half).WithSymbol("segments"),
		asm.JNE.Imm(asm.R0, unix.ETH_P_IP, "count"),
		asm.LoadAbs(23, asm.Byte),
		asm.JNE.Imm(asm.R0, unix.IPPROTO_TCP, "count"),
		asm.LoadAbs(46, asm.Byte), // TCP's length in words, in the upper half
		asm.RSh.Imm(asm.R0, 4),
		asm.LSh.Imm(asm.R0, 2),
		asm.Add.Imm(asm.R0, 34),
		asm.Mov.Reg(asm.R1, frames),
		asm.Sub.Imm(asm.R1, 1),
		asm.Mul.Reg(asm.R1, asm.R0),
		asm.Add.Reg(bytes, asm.R1),

		asm.LoadMem(asm.R1, ctx, skbType, asm.Word).WithSymbol("count"),
		asm.StoreImm(asm.RFP, -4, int64(In), asm.Word),
		asm.JNE.Imm(asm.R1, unix.PACKET_OUTGOING, "look up"),
		asm.StoreImm(asm.RFP, -4, int64(Out), asm.Word),
		asm.LoadMapPtr(asm.R1, m.counts.FD()).WithSymbol("look up"),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "end"),
		asm.Mov.Reg(value, asm.R0),
		asm.StoreXAdd(value, bytes, asm.DWord),
		asm.Mov.Reg(asm.R1, value),
		asm.Add.Imm(asm.R1, countedFrames),
		asm.StoreXAdd(asm.R1, frames, asm.DWord),

		asm.FnKtimeGetNs.Call(),
		asm.LoadMem(asm.R1, value, countedFirst, asm.DWord),
		asm.JNE.Imm(asm.R1, 0, "later"),
		asm.Mov.Reg(asm.R1, asm.R0),
		asm.StoreMem(value, countedFirst, asm.R1, asm.DWord),
		asm.Sub.Reg(asm.R0, asm.R1).WithSymbol("later"),
		asm.JGT.Imm(asm.R0, int32(Beginning), "end"),
		asm.Mov.Reg(asm.R1, value),
		asm.Add.Imm(asm.R1, countedEarly),
		asm.StoreXAdd(asm.R1, bytes, asm.DWord),

		asm.Mov.Imm(asm.R0, 0).WithSymbol("end"),
		asm.Return(),
	}
}

// Read returns what was counted.
func (m *Meter) Read(w Way) (c Counted, err error) {
	if err := m.counts.Lookup(uint32(w), &c); err != nil {
		return c, fmt.Errorf("read counted frames: %w", err)
	}
	return c, nil
}

// Reset counts anew.
func (m *Meter) Reset() error {
	for _, w := range []Way{In, Out} {
		if err := m.counts.Put(uint32(w), Counted{}); err != nil {
			return fmt.Errorf("reset counted frames: %w", err)
		}
	}
	return nil
}

// Close ends the counting.
func (m *Meter) Close() error {
	if m.socket >= 0 {
		unix.Close(m.socket)
	}
	if m.counts != nil {
		return m.counts.Close()
	}
	return nil
}
