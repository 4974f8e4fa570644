// Package packet measures the cost of an eBPF program for one packet: CPU time of the thread
// that runs it in the kernel (BPF_PROG_TEST_RUN), with the program and its map entries in the
// CPU's caches.
//
// The cost of the kernel's loop around the program is not included: it is measured with a
// program that does nothing, and subtracted.
//
// Two versions are measured alternately, some ms each, so use the ratio within a round and not
// the absolute value. Only benchmarks import the package.
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
	// Prepare fills the maps before each round; may be nil.
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
	// turns is how often each version is measured in a round, in turn with the other one. The
	// round's figure is their median: one measurement of some ms varies by a tenth while other
	// programs run.
	turns = 15
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

const (
	// spreadAtMost is the goal for the spread of a ratio,
	spreadAtMost = 0.05
	// which is no goal for packets that cost less, in ns: a few ns are mostly noise.
	spreadFrom = 50
)

// spread returns the width of the middle half of sorted ratios, relative to their median.
func spread(ratios []float64) float64 {
	return (ratios[len(ratios)*3/4] - ratios[len(ratios)/4]) / report.Median(ratios)
}

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

// round measures the versions of a case alternately, and returns nanoseconds for a packet. It
// changes the order each turn.
func (c Cost) round(empty *Case) (before, after float64, err error) {
	type series struct {
		of *Case
		ns []float64
	}
	list := []*series{{of: empty}, {of: c.After}}
	if c.Before != nil {
		list = append(list, &series{of: c.Before})
	}
	for _, s := range list {
		if s.of.Prepare == nil {
			continue
		}
		if err := s.of.Prepare(); err != nil {
			return 0, 0, fmt.Errorf("%s: %w", c.Name, err)
		}
	}
	order := slices.Clone(list)
	for range turns {
		for _, s := range order {
			ns, err := s.of.measure()
			if err != nil {
				return 0, 0, err
			}
			s.ns = append(s.ns, ns)
		}
		slices.Reverse(order)
	}
	loop := report.Median(list[0].ns)
	if c.Before != nil {
		before = report.Median(list[2].ns) - loop
	}
	return before, report.Median(list[1].ns) - loop, nil
}

// compare measures all versions, writes a table, and returns those that miss a goal.
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
	for range rounds {
		for i, c := range costs {
			b, a, err := c.round(empty)
			if err != nil {
				return nil, err
			}
			before[i], after[i] = append(before[i], b), append(after[i], a)
			runtime.GC()
		}
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "packet\tbefore\tafter\tratio\tgoal\tmiddle half\tspread\tgoal")
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
		was, is, ratio, width := report.Median(before[i]), report.Median(after[i]), report.Median(ratios), spread(ratios)
		verdict, goal := "", report.Goal{AtMost: c.AtMost}
		switch {
		case c.AtMost == 0:
		case goal.Met(ratio):
			verdict = goal.String() + " met"
		default:
			verdict = goal.String() + " not met"
			missed = append(missed, fmt.Sprintf("%s: %.2f of the version before, want at most %.2f", c.Name, ratio, c.AtMost))
		}
		steady := ""
		switch {
		case min(was, is) < spreadFrom:
		case width <= spreadAtMost:
			steady = fmt.Sprintf("≤ %.0f %% met", 100*spreadAtMost)
		default:
			steady = fmt.Sprintf("≤ %.0f %% not met", 100*spreadAtMost)
			missed = append(missed, fmt.Sprintf("%s: the middle half of the ratios is %.1f %% wide, want at most %.0f %%: other programs ran, "+
				"so measure again", c.Name, 100*width, 100*spreadAtMost))
		}
		fmt.Fprintf(t, "%s\t%.1f ns\t%.1f ns\t%.2f\t%s\t%.2f–%.2f\t%.1f %%\t%s\n", c.Name, was, is, ratio, verdict,
			ratios[len(ratios)/4], ratios[len(ratios)*3/4], 100*width, steady)
	}
	return missed, t.Flush()
}
