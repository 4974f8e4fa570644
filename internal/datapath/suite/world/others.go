package world

import (
	"testing"

	bpf "github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// Others is an eBPF program of another user, which counts the packets that it sees.
type Others struct {
	Program *bpf.Program
	seen    *bpf.Map
}

// NewOthers loads one that returns the verdict for each packet.
func NewOthers(t testing.TB, verdict int32) Others {
	t.Helper()
	seen, err := bpf.NewMap(&bpf.MapSpec{Name: "others", Type: bpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = seen.Close() })
	program, err := bpf.NewProgram(&bpf.ProgramSpec{
		Name: "others", Type: bpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
			asm.StoreImm(asm.RFP, -4, 0, asm.Word),
			asm.LoadMapPtr(asm.R1, seen.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -4),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "out"),
			asm.Mov.Imm(asm.R1, 1),
			asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
			asm.Mov.Imm32(asm.R0, verdict).WithSymbol("out"),
			asm.Return(),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = program.Close() })
	return Others{program, seen}
}

// Seen returns how many packets it has seen.
func (o Others) Seen(t testing.TB) (packets uint64) {
	t.Helper()
	if err := o.seen.Lookup(uint32(0), &packets); err != nil {
		t.Fatal(err)
	}
	return packets
}
