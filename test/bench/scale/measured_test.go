//go:build bench

package scale

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"terway.dev/terway/test/bench/report"
)

// measured is a running measurement.
type measured struct {
	*cluster
	settings
	began time.Time
	name  string // of the report's table
	run   *report.Run
	list  []report.Comparison
	notes []string
	peak  float64 // MiB, maximum of all controllers
}

func (m *measured) progress(format string, args ...any) {
	fmt.Printf("%5.0f s  %s: %s\n", time.Since(m.began).Seconds(), m.name, fmt.Sprintf(format, args...))
}

// note prints a note and adds it to the report.
func (m *measured) note(format string, args ...any) {
	m.progress(format, args...)
	m.notes = append(m.notes, m.name+", "+fmt.Sprintf(format, args...))
}

// figure adds a measured value.
func (m *measured) figure(round int, metric string, v float64) {
	m.run.Add(round, report.Key{Datapath: m.name, Metric: metric}, v)
}

// line adds a line to the report.
func (m *measured) line(metric, unit, to, baseline string, g report.Goal) {
	c := report.Comparison{Name: metric, Unit: unit, Of: report.Key{Datapath: m.name, Metric: metric}, Baseline: baseline, Goal: g}
	if to != "" {
		c.To = report.Key{Datapath: m.name, Metric: to}
	}
	m.list = append(m.list, c)
}

// against adds a value and its baseline, with a line.
func (m *measured) against(metric, unit string, v, to float64, baseline string, g report.Goal) {
	m.figure(0, metric, v)
	if to == 0 {
		m.line(metric, unit, "", "", report.Goal{})
		return
	}
	m.figure(0, metric+" (to)", to)
	m.line(metric, unit, metric+" (to)", baseline, g)
}

// cpu returns the CPU time so far, by program.
func (m *measured) cpu(p *controller) map[string]time.Duration {
	out := map[string]time.Duration{}
	pids := map[string]int{"kube-apiserver": m.api.PID, "etcd": m.api.EtcdPID, "cloud and agents": os.Getpid()}
	if p != nil {
		pids["controller"] = p.cmd.Process.Pid
	}
	for name, pid := range pids {
		if u, err := useOf(pid); err == nil { // a program that has ended fails the test elsewhere
			out[name] = u.cpu
		}
	}
	return out
}

// used notes the programs' share of the machine's CPU time: if it is nearly all, the machine is
// the limit.
func (m *measured) used(when string, before map[string]time.Duration, p *controller, took time.Duration) {
	m.notes = append(m.notes, fmt.Sprintf("%s, %s: of one of %d CPUs: %s.", m.name, when, runtime.NumCPU(), shares(before, m.cpu(p), took)))
}

// shares is what each program took of one CPU between two moments.
func shares(before, after map[string]time.Duration, took time.Duration) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(after)) {
		parts = append(parts, fmt.Sprintf("%s %.0f %%", name, 100*(after[name]-before[name]).Seconds()/took.Seconds()))
	}
	return strings.Join(parts, ", ")
}

// wrote notes the writes to the API server, by client.
func (m *measured) wrote(when string, w writes, pods int) {
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(w.requests)) {
		if n := w.requests[key] / float64(pods); n >= 0.005 {
			parts = append(parts, fmt.Sprintf("%s %.2f", key, n))
		}
	}
	m.notes = append(m.notes, fmt.Sprintf("%s, %s: writes for each pod: %s.", m.name, when, strings.Join(parts, ", ")))
}

func (m *measured) counters(ctx context.Context) (calls, writes, error) {
	w, err := m.writes(ctx)
	return m.cloud.calls(), w, err
}

// settle waits until there have been no reports and calls for a while.
func (m *measured) settle(ctx context.Context) error {
	const quiet = 3 * time.Second
	ctx, cancel := context.WithTimeoutCause(ctx, 3*time.Minute, errors.New("it does not come to rest"))
	defer cancel()
	changes := func() int64 {
		n := m.agents.Reports.Load()
		for action, a := range m.cloud.calls() {
			if !strings.HasPrefix(action, "Describe") {
				n += int64(a.Calls)
			}
		}
		return n
	}
	last, at := changes(), time.Now()
	return until(ctx, func() string {
		if n := changes(); n != last {
			// Addresses whose cooling period is over are reported within a minute.
			if n-last > int64(1+m.nodes/1000) {
				at = time.Now()
			}
			last = n
		}
		if time.Since(at) < quiet {
			return "reports and calls go on"
		}
		return ""
	})
}

// check compares all allocated addresses with the cloud.
func (m *measured) check(ctx context.Context) error {
	there, err := m.cloud.addresses(ctx)
	if err != nil {
		return err
	}
	var errs []error
	holders := map[netip.Addr]string{}
	for i, name := range m.names {
		instance := m.cloud.machines[i].id
		m.agents.Node(name).Addresses(func(pod string, a netip.Addr) {
			if other, taken := holders[a]; taken {
				errs = append(errs, fmt.Errorf("%s is of pod %s and of pod %s", a, other, pod))
			}
			holders[a] = pod
			if there[a] != instance {
				errs = append(errs, fmt.Errorf("pod %s of node %s (%s) has %s, which the cloud has on an ENI of %q", pod, name, instance, a, there[a]))
			}
		})
	}
	return errors.Join(errs[:min(len(errs), 10)]...)
}

// latencyOf returns the average duration of a call of an action, in seconds.
func (c calls) latencyOf(action string) float64 {
	if c[action].Calls == 0 {
		return 0
	}
	return c[action].Seconds / float64(c[action].Calls)
}
