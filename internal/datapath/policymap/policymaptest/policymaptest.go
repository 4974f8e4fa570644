// Package policymaptest asks bpf/policy.h for verdicts, for tests and benchmarks: the kernel runs the programs, and nothing
// attaches them (BPF_PROG_TEST_RUN).
package policymaptest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath/bpfobj"
	"terway.dev/terway/internal/policy/compile"
	"terway.dev/terway/internal/testutil"
)

// Programs are in the kernel until the test ends.
type Programs struct {
	*bpfobj.Objects
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
	t.Cleanup(func() {
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	})
	return &Programs{o}
}

// packet is struct pol_packet.
type packet struct {
	Peer                         [16]byte
	SourcePort, DestinationPort  uint16
	Protocol, ICMPType, ICMPCode uint8
	_                            uint8
}

func packetOf(p compile.Packet) packet {
	return packet{Peer: p.Peer.As16(), SourcePort: p.SourcePort, DestinationPort: p.DestinationPort, Protocol: p.Protocol, ICMPType: p.ICMPType, ICMPCode: p.ICMPCode}
}

// question is struct question of bpf/policy_test.c.
type question struct {
	_                   [16]byte
	Endpoint, Direction uint32
	Own                 [16]byte
	Packet              packet
	Verdict             compile.VerdictRow
}

func (p *Programs) run(program string, q *question) (uint32, error) {
	var b bytes.Buffer
	if err := binary.Write(&b, binary.LittleEndian, q); err != nil {
		return 0, err
	}
	out := make([]byte, b.Len())
	number, err := p.Programs[program].Run(&ebpf.RunOptions{Data: b.Bytes(), DataOut: out, Repeat: 1})
	if err != nil {
		return 0, fmt.Errorf("run %s: %w", program, err)
	}
	return number, binary.Read(bytes.NewReader(out), binary.LittleEndian, q)
}

// Ask is the kernel's verdict: its number and its row.
func (p *Programs) Ask(about compile.Packet) (uint32, compile.VerdictRow, error) {
	q := question{Endpoint: about.Endpoint, Direction: uint32(about.Direction), Packet: packetOf(about)}
	number, err := p.run("tw_pol_ask", &q)
	return number, q.Verdict, err
}

// Endpoint is the number that the kernel has for an address of an endpoint; 0: none.
func (p *Programs) Endpoint(own netip.Addr) (uint32, error) {
	return p.run("tw_pol_endpoint", &question{Own: own.As16()})
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
		Packet                                  packet
	}{
		Endpoint: b.Packet.Endpoint, Direction: uint32(b.Packet.Direction), Rules: uint32(b.Rules),
		Word: 1, Shift: uint32(bits.TrailingZeros(uint(b.Apart))), Packet: packetOf(b.Packet),
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
