//go:build bench

// Package scale runs the real terway-controller with the simulated cloud, a real API server and
// the agents of thousands of nodes, and measures what limits it. "make bench-controller" runs
// it; docs/benchmarks.md explains the results.
package scale

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"

	"terway.dev/terway/internal/kernel"
	"terway.dev/terway/test/bench/report"
	"terway.dev/terway/test/bench/traffic"
)

// The settings of a run, from the command.
type settings struct {
	nodes        int
	pods         int // of each node
	instanceType string
	cooling      int // seconds
	// factor is how much faster than the real one the cloud is during the cold start.
	factor  float64
	latency time.Duration // of a call
	// spare nodes get no pods during the cold start.
	spare int
	// leases: the agents renew their Leases.
	leases bool
	// gogc is the API server's and etcd's, in percent; 0: Go's own.
	gogc int
}

func newMeasured(t testing.TB, s settings, run *report.Run) *measured {
	ctrl.SetLogger(logr.Discard()) // the log of the agents' watch
	m := &measured{settings: s, began: time.Now(), name: fmt.Sprintf("%d nodes", s.nodes), run: run}
	m.progress("making the cloud, the API server and %d Nodes", s.nodes)
	m.cluster = newCluster(t, s)
	return m
}

// number reads a setting of the command, for example NODES=1000 make bench-controller.
func number(t testing.TB, name string, usual float64) float64 {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return usual
	}
	n, err := strconv.ParseFloat(s, 64)
	if err != nil || n <= 0 {
		t.Fatalf("%s=%q: want a number above 0", name, s)
	}
	return n
}

func text(name, usual string) string {
	if s := os.Getenv(name); s != "" {
		return s
	}
	return usual
}

// TestController measures the controller in clusters of each size.
func TestController(t *testing.T) {
	began := time.Now()
	load0, err := report.Load()
	if err != nil {
		t.Fatal(err)
	}
	traffic.Prefer(t)
	rounds := int(number(t, "ROUNDS", 3))
	window := time.Duration(number(t, "WINDOW", 20) * float64(time.Second))
	r := report.Report{Command: "make bench-controller", Date: began, CPUs: runtime.NumCPU(), Rounds: rounds}
	run := &report.Run{}
	var lines []report.Comparison
	for _, size := range strings.Split(text("NODES", "1000,5000"), ",") {
		nodes, err := strconv.Atoi(size)
		if err != nil || nodes < 100 {
			t.Fatalf("NODES=%q: want numbers from 100 on, separated by commas", size)
		}
		s := settings{
			nodes: nodes, pods: int(number(t, "PODS", 30)), instanceType: text("TYPE", "ecs.g7.2xlarge"), cooling: int(number(t, "COOLING", 130)),
			factor: number(t, "LIMITS_FACTOR", 2), latency: time.Duration(number(t, "LATENCY", 300)) * time.Millisecond,
			spare: troubled * rounds, leases: float64(nodes) <= number(t, "LEASES", 1000), gogc: int(number(t, "API_GOGC", 400)),
		}
		t.Run(size, func(t *testing.T) {
			m := newMeasured(t, s, run)
			if err := m.all(t.Context(), rounds, window); err != nil {
				t.Error(err)
			}
			lines = append(lines, m.list...)
			r.Notes = append(r.Notes, fmt.Sprintf("%s of %s × %d pods, 3 zones with %d Pod vSwitches each; a call takes %s. Cold start: limits × %g, calls and ENIs as much faster. The rest: limits as documented.",
				m.name, s.instanceType, s.pods, vswitchesPerZone, s.latency, s.factor))
			r.Notes = append(r.Notes, m.notes...)
		})
	}
	if r.Results, err = run.Compare(lines); err != nil {
		t.Fatal(err)
	}
	if r.Kernel, err = kernel.Version(); err != nil {
		t.Fatal(err)
	}
	load1, err := report.Load()
	if err != nil {
		t.Fatal(err)
	}
	r.Load = [2]float64{load0, load1}
	fmt.Println()
	if err := r.WriteText(os.Stdout); err != nil {
		t.Fatal(err)
	}
	if path := os.Getenv("OUT"); path != "" {
		if err := r.WriteJSON(path); err != nil {
			t.Fatal(err)
		}
	}
	if os.Getenv("DOC") != "" && !t.Failed() {
		if err := r.WriteDoc("../../../docs/benchmarks.md", "bench-controller"); err != nil {
			t.Fatal(err)
		}
	}
}

// chosen returns the troubles in a comma-separated list; all if it is empty.
func chosen(all []trouble, list string) ([]trouble, error) {
	if list == "" {
		return all, nil
	}
	var some []trouble
	for _, name := range strings.Split(list, ",") {
		i := slices.IndexFunc(all, func(tr trouble) bool { return tr.name == name })
		if i < 0 {
			return nil, fmt.Errorf("TROUBLES=%q: there is no %q; want some of node, vswitch, create and describe, separated by commas", list, name)
		}
		some = append(some, all[i])
	}
	return some, nil
}

// all runs the measurements of one size.
func (m *measured) all(ctx context.Context, rounds int, window time.Duration) error {
	p, err := m.coldStart(ctx)
	if err != nil {
		return err
	}
	if p, err = m.failover(ctx, p, m.nodes/10); err != nil {
		return err
	}
	l := &load{perSecond: number(m.t, "CHURN", 50), group: 10, life: 10 * time.Second,
		cpu: func() map[string]time.Duration { return m.cpu(p) }}
	for _, name := range m.names[m.spare:] {
		l.nodes = append(l.nodes, m.agents.Node(name))
	}
	if err := m.settle(ctx); err != nil {
		return err
	}
	if err := m.churn(ctx, p, l, 3*window); err != nil {
		return err
	}
	// No node gets a second turn: addresses that the first group has left would serve the
	// second.
	left := len(l.nodes) - m.nodes/10 - l.next
	troubles, err := chosen(m.troubles(l), os.Getenv("TROUBLES"))
	if err != nil {
		return err
	}
	windows := window.Seconds() * float64(rounds*(1+len(troubles)))
	l.perSecond = min(l.perSecond, float64(left*l.group)/windows)
	if err := m.isolation(ctx, p, l, troubles, rounds, window); err != nil {
		return err
	}
	u, err := useOf(p.cmd.Process.Pid)
	if err != nil {
		return err
	}
	m.against("memory", "MiB", max(m.peak, u.peak), 1024, "1 GiB", report.Goal{AtMost: 1})
	return nil
}
