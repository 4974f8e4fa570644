// Package policymaptest has maps of bpf/policy.h for tests and benchmarks, the programs that ask it for verdicts (package policyask), and some that
// measure it. Nothing attaches them (BPF_PROG_TEST_RUN).
package policymaptest

import (
	"errors"
	"fmt"
	"math/bits"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath/bpfobj"
	"terway.dev/terway/internal/datapath/policyask"
	"terway.dev/terway/internal/policy/compile"
	"terway.dev/terway/internal/testutil"
)

// Programs are in the kernel until the test ends.
type Programs struct {
	*bpfobj.Objects
	*policyask.Asker
}

// Load loads them, with maps that are there already. Others are empty: nothing passes.
func Load(t testing.TB, maps ...map[string]*ebpf.Map) *Programs {
	t.Helper()
	testutil.RequireRoot(t)
	spec, err := loadPrograms()
	if err != nil {
		t.Fatal(err)
	}
	var others []*bpfobj.Objects
	for _, m := range maps {
		others = append(others, &bpfobj.Objects{Maps: m})
	}
	o, err := bpfobj.Load(spec, nil, others...)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	p := &Programs{Objects: o}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	if p.Asker, err = policyask.Load(o.Maps); err != nil {
		t.Fatalf("%+v", err)
	}
	return p
}

// Close removes them from the kernel, before the test ends.
func (p *Programs) Close() error {
	err := p.Objects.Close()
	if p.Asker != nil {
		err = errors.Join(err, p.Asker.Close())
	}
	return err
}

// Tell tells an event (struct flow_event of bpf/flows.h), so many times.
func (p *Programs) Tell(event []byte, times int) error {
	if _, err := p.Programs["tw_pol_tell"].Run(&ebpf.RunOptions{Data: append(make([]byte, 16), event...), Repeat: uint32(times)}); err != nil {
		return fmt.Errorf("tell an event: %w", err)
	}
	return nil
}

// A Bench is what Cost asks about: peers by chance, each of which has a rule of its own.
type Bench struct {
	// Packet is that of rule 0.
	Packet compile.Packet
	// Rules have peers whose addresses (IPv6: the first 64 bits) are Apart, a power of 2. Destination ports are the rule's
	// number plus 0 to 39.
	Rules, Apart int
}

// Prepare says what Cost asks about.
func (p *Programs) Prepare(b Bench) error {
	row := struct {
		Endpoint, Direction, Rules, Word, Shift uint32
		Packet                                  policyask.Packet
	}{
		Endpoint: b.Packet.Endpoint, Direction: uint32(b.Packet.Direction), Rules: uint32(b.Rules),
		Word: 1, Shift: uint32(bits.TrailingZeros(uint(b.Apart))), Packet: policyask.PacketOf(b.Packet),
	}
	if b.Packet.Peer.Is4() {
		row.Word = 3
	}
	if err := p.Maps["bench"].Put(uint32(0), row); err != nil {
		return fmt.Errorf("write what is asked about: %w", err)
	}
	return nil
}

const (
	calls = 50
	// repeat is how often a call runs the program: about a millisecond, so that the runtime's signals interrupt few.
	repeat = 5000
)

// Cost is what a decision costs in the thread's processor time, in ns: the mean of 250,000, without what it costs to choose what
// is asked. The caller keeps its thread.
func (p *Programs) Cost() (float64, error) {
	var took [2]time.Duration
	for range calls {
		for i, program := range []string{"tw_pol_empty", "tw_pol_bench"} {
			start, err := processorTime()
			if err != nil {
				return 0, err
			}
			if _, err := p.Programs[program].Run(&ebpf.RunOptions{Data: make([]byte, 64), Repeat: repeat}); err != nil {
				return 0, fmt.Errorf("run %s: %w", program, err)
			}
			end, err := processorTime()
			if err != nil {
				return 0, err
			}
			took[i] += end - start
		}
	}
	return float64(took[1]-took[0]) / (calls * repeat), nil
}

func processorTime() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		return 0, fmt.Errorf("read the thread's processor time: %w", err)
	}
	return time.Duration(t.Nano()), nil
}
