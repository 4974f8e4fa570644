// Package packet measures the cost of an eBPF program for one packet: CPU time of the thread
// that runs it in the kernel (BPF_PROG_TEST_RUN), with the program and its map entries in the
// CPU's caches.
//
// The cost of the kernel's loop around the program is not included: it is measured with a
// program that does nothing, and subtracted.
//
// Two versions are measured alternately, round by round, so use the ratio within a round and
// not the absolute value. Only benchmarks import the package.
package packet

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/rlimit"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/kernel"
	"terway.dev/terway/internal/testutil"
	"terway.dev/terway/test/bench/report"
)

// The ends of the measured connections: a local pod, another one, one on another node, a
// Service, and the vSwitch's gateways; for each family.
var (
	OwnPod   = [2]netip.Addr{netip.MustParseAddr("192.168.32.5"), netip.MustParseAddr("2001:db8::5")}
	NearPod  = [2]netip.Addr{netip.MustParseAddr("192.168.32.9"), netip.MustParseAddr("2001:db8::9")}
	FarPod   = [2]netip.Addr{netip.MustParseAddr("192.168.40.7"), netip.MustParseAddr("2001:db8::1:7")}
	Services = [2]netip.Addr{netip.MustParseAddr("172.21.0.10"), netip.MustParseAddr("fd00:21::10")}
	Gateways = [2]netip.Addr{netip.MustParseAddr("192.168.63.253"), netip.MustParseAddr("2001:db8::fd")}
)

// Case is a packet for a program.
type Case struct {
	Name    string
	Program *ebpf.Program
	Frame   []byte
	Mark    uint32
	// Verdict is the expected return value of the program: with another one the case would
	// measure something else.
	Verdict uint32
	// Prepare fills the maps before each measurement; may be nil.
	Prepare func() error
}

// Cost is a case for two versions; Before is nil if there is no former version.
type Cost struct {
	Name          string
	Before, After *Case
	// AtMost is the goal for the ratio; 0: none.
	AtMost float64
}

const (
	// repeat is how often one call runs the program: each run decrements the TTL, which must
	// not expire.
	repeat = 250
	// calls is the number of calls in a measurement.
	calls = 100
	// Loopback is the device of the packets: every namespace has it, and its MAC is zero, like
	// that of a Frame.
	Loopback = 1
)

// context is the start of struct __sk_buff (linux/bpf.h).
type context struct {
	_              [2]uint32
	Mark           uint32
	_              [6]uint32
	IngressIfindex uint32
	Ifindex        uint32
}

func (c *Case) run(times uint32) error {
	data := slices.Clone(c.Frame)
	got, err := c.Program.Run(&ebpf.RunOptions{Data: data, Context: context{Mark: c.Mark, Ifindex: Loopback}, Repeat: times})
	if err != nil {
		return fmt.Errorf("%s: %w", c.Name, err)
	}
	if got != c.Verdict {
		return fmt.Errorf("%s: the program returned %d, want %d", c.Name, int32(got), int32(c.Verdict))
	}
	return nil
}

// spent returns the CPU time of the calling thread.
func spent() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		return 0, fmt.Errorf("read the thread's processor time: %w", err)
	}
	return time.Duration(t.Nano()), nil
}

// measure returns nanoseconds for a packet: the time of calls with many runs minus that of as
// many calls with few runs, so that the cost of the call itself is not included.
func (c *Case) measure() (float64, error) {
	if c.Prepare != nil {
		if err := c.Prepare(); err != nil {
			return 0, fmt.Errorf("%s: %w", c.Name, err)
		}
	}
	var took [2]time.Duration
	for i, times := range []uint32{1, repeat + 1} {
		start, err := spent()
		if err != nil {
			return 0, err
		}
		for range calls {
			if err := c.run(times); err != nil {
				return 0, err
			}
		}
		end, err := spent()
		if err != nil {
			return 0, err
		}
		took[i] = end - start
	}
	return float64((took[1] - took[0]).Nanoseconds()) / (calls * repeat), nil
}

// nothing returns a case whose program does nothing.
func nothing(frame []byte) (*Case, error) {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "nothing", Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm32(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		return nil, fmt.Errorf("load a program that does nothing: %w", err)
	}
	return &Case{Name: p.String(), Program: p, Frame: frame}, nil
}

// Verdicts of programs (linux/pkt_cls.h).
const (
	Redirected = 7          // TC_ACT_REDIRECT
	Undecided  = ^uint32(0) // TC_ACT_UNSPEC
)

// NoWorse is the goal "as much as before", with a tolerance for noise.
const NoWorse = 1.05

// Run measures the result of costs in a new network namespace. Settings of the command are
// ROUNDS; BEFORE, a directory with object files of another version; and GATE, which makes a
// missed goal an error. costs runs on another goroutine than the test's.
func Run(t *testing.T, costs func(h *netlink.Handle, before string) ([]Cost, error)) {
	t.Helper()
	testutil.RequireRoot(t)
	rounds := 41
	if s := os.Getenv("ROUNDS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			t.Fatalf("ROUNDS=%q: want a number from 1 on", s)
		}
		rounds = n
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	var missed []string
	if err := kernel.InScratch(func(h *netlink.Handle) (err error) {
		list, err := costs(h, os.Getenv("BEFORE"))
		if err != nil {
			return err
		}
		missed, err = compare(os.Stdout, rounds, list)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for _, m := range missed {
		if os.Getenv("GATE") != "" {
			t.Error(m)
		}
	}
}

// compare measures all versions alternately, writes a table, and returns those that miss their
// goal.
func compare(w io.Writer, rounds int, costs []Cost) (missed []string, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	before, after := make([][]float64, len(costs)), make([][]float64, len(costs))
	empty, err := nothing(costs[0].After.Frame)
	if err != nil {
		return nil, err
	}
	defer empty.Program.Close()
	for round := range rounds {
		loop, err := empty.measure()
		if err != nil {
			return nil, err
		}
		for i, c := range costs {
			both := []struct {
				of *Case
				to *[]float64
			}{{c.Before, &before[i]}, {c.After, &after[i]}}
			if round%2 == 1 {
				slices.Reverse(both)
			}
			for _, b := range both {
				if b.of == nil {
					continue
				}
				ns, err := b.of.measure()
				if err != nil {
					return nil, err
				}
				*b.to = append(*b.to, ns-loop)
			}
		}
		runtime.GC()
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "packet\tbefore\tafter\tratio\tmiddle half\tgoal")
	for i, c := range costs {
		if c.Before == nil {
			fmt.Fprintf(t, "%s\t\t%.1f ns\n", c.Name, report.Median(after[i]))
			continue
		}
		var ratios []float64
		for k := range after[i] {
			ratios = append(ratios, after[i][k]/before[i][k])
		}
		slices.Sort(ratios)
		ratio, goal := report.Median(ratios), report.Goal{AtMost: c.AtMost}
		verdict := goal.String()
		if verdict != "" && goal.Met(ratio) {
			verdict += " met"
		} else if verdict != "" {
			verdict += " not met"
			missed = append(missed, fmt.Sprintf("%s: %.2f of the version before, want at most %.2f", c.Name, ratio, c.AtMost))
		}
		fmt.Fprintf(t, "%s\t%.1f ns\t%.1f ns\t%.2f\t%.2f–%.2f\t%s\n", c.Name, report.Median(before[i]), report.Median(after[i]),
			ratio, ratios[len(ratios)/4], ratios[len(ratios)*3/4], verdict)
	}
	return missed, t.Flush()
}
