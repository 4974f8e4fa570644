//go:build bench

package scale

import (
	"context"
	"fmt"
	"time"

	"terway.dev/terway/internal/config"
	"terway.dev/terway/test/bench/report"
)

// coldStart starts the first controller in a cluster whose nodes have no ENIs, adds pods to
// each node when the scheduler would, and waits until all have addresses.
func (m *measured) coldStart(ctx context.Context) (*controller, error) {
	if err := m.cloud.pace(ctx, m.factor, m.latency); err != nil {
		return nil, err
	}
	calls, writes, err := m.counters(ctx)
	if err != nil {
		return nil, err
	}
	w := &waits{}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Spare nodes get as many pods as fit on their first ENI: later ones need a new ENI.
	const minimum = config.DefaultMinPool
	full := perENI(m.t, m.instanceType) - minimum
	pods := 0
	for i, name := range m.names {
		n, size := m.agents.Node(name), m.pods
		if i < m.spare {
			size = full
		}
		pods += size
		go func() {
			select {
			case <-n.Open():
			case <-ctx.Done():
				return
			}
			n.Add(w.got, named("default/"+name, size)...)
		}()
	}
	need := least(m.nodes-m.spare, m.pods, perENI(m.t, m.instanceType))
	for action, n := range least(m.spare, full, perENI(m.t, m.instanceType)) {
		if m.spare > 0 && need[action] != 1 {
			need[action] += n
		}
	}
	longest, by := bound(need, m.factor)
	m.progress("cold start; %s alone takes %.0f s", by, longest.Seconds())
	usedBefore := m.cpu(nil)
	began := time.Now()
	p := m.start(m.factor)
	told := time.Now()
	err = until(ctx, func() string {
		if err := p.alive(); err != nil {
			cancel()
			return err.Error()
		}
		if time.Since(told) > 20*time.Second {
			told = time.Now()
			m.progress("%d of %d pods have an address", w.count(), pods)
		}
		if n := w.count(); n < pods {
			return fmt.Sprintf("%d of %d pods wait for an address", pods-n, pods)
		}
		return ""
	})
	if err != nil {
		return p, fmt.Errorf("cold start: %w; the controller's log ends:\n%s", err, p.tail())
	}
	took := time.Since(began)
	u, err := useOf(p.cmd.Process.Pid)
	if err != nil {
		return p, err
	}
	m.used("cold start", usedBefore, p, took)
	m.peak = max(m.peak, u.peak)
	// Work that the last pods caused is still running: pools, reports.
	if err := m.settle(ctx); err != nil {
		return p, err
	}
	after, written, err := m.counters(ctx)
	if err != nil {
		return p, err
	}
	did, wrote := after.since(calls), written.since(writes)
	m.against("cold_start", "s", took.Seconds(), longest.Seconds(), "the bound of "+by, report.Goal{AtMost: 1.15})
	m.perPod(did, need, pods)
	m.against("cold_start_cpu_per_1000_pods", "CPU-s", u.cpu.Seconds()*1000/float64(pods), 0, "", report.Goal{})
	m.against("cold_start_writes_per_pod", "writes", (wrote.of("nodenetworks")+wrote.of("nodes"))/float64(pods), 0, "", report.Goal{})
	m.against("cold_start_kib_per_pod", "KiB", wrote.bytes/1024/float64(pods), 0, "", report.Goal{})
	m.wrote("cold start", wrote, pods)
	m.progress("cold start took %.0f s, %.2f of the bound; %.0f MiB", took.Seconds(), took.Seconds()/longest.Seconds(), u.peak)
	return p, m.check(ctx)
}

// perPod reports the cloud's calls for each 1,000 pods.
func (m *measured) perPod(did calls, need map[string]int, pods int) {
	throttled := 0
	for _, action := range did.actions() {
		throttled += did[action].Throttled
		of := 1000 / float64(pods)
		m.against("calls_"+action, "for 1,000 pods", float64(did[action].Calls)*of, float64(need[action])*of, "the fewest possible", report.Goal{})
	}
	m.notes = append(m.notes, fmt.Sprintf("%s: %d calls of the cold start were throttled by the cloud; an AttachNetworkInterface took %.0f ms on average.",
		m.name, throttled, 1000*did.latencyOf("AttachNetworkInterface")))
}
