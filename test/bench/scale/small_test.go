//go:build bench

package scale

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"terway.dev/terway/internal/kernel"
	"terway.dev/terway/test/bench/report"
)

// TestTwoHundredNodes is part of "make test": the cloud is ten times as fast as the real one,
// so that it takes half a minute. It checks what does not depend on the machine's speed: every
// pod gets an address of its own that belongs to its node, also after a failover, and the
// number of calls and writes is limited. Times are only printed.
func TestTwoHundredNodes(t *testing.T) {
	const nodes, pods = 200, 30
	s := settings{nodes: nodes, pods: pods, instanceType: "ecs.g7.2xlarge", cooling: 5, factor: 10, latency: 300 * time.Millisecond, leases: true}
	before, err := report.Load()
	if err != nil {
		t.Fatal(err)
	}
	m := newMeasured(t, s, &report.Run{})
	ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Minute, errors.New("not in ten minutes"))
	defer cancel()
	p, err := m.coldStart(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cold := m.cloud.calls()
	// Answers about vSwitches are at most half a minute old.
	looks := 2 + int(time.Since(m.began)/(30*time.Second))
	for _, c := range []struct {
		action string
		most   int
		why    string
	}{
		{"CreateNetworkInterface", 3 * nodes, "33 addresses are on three ENIs of 15"},
		{"AttachNetworkInterface", 3 * nodes, "each is attached once"},
		{"AssignPrivateIpAddresses", 3 * nodes, "30 addresses more than the first ENI had are in calls of up to ten"},
		{"DescribeInstances", nodes / 2, "instances are asked for together"},
		{"DescribeInstanceTypes", 1, "one type, asked for once, whoever needs it"},
		{"DescribeVSwitches", looks * ceil(len(zoneIDs)*(1+vswitchesPerZone), 50), "a VPC's are one list of 50 a page, asked for once in half a minute, whoever needs it"},
		{"DescribeVpcAttribute", 1, "one VPC, asked for once, whoever needs it"},
	} {
		if n := cold[c.action].Calls; n > c.most {
			t.Errorf("cold start: %d calls of %s, want at most %d: %s", n, c.action, c.most, c.why)
		}
	}
	for _, action := range cold.actions() {
		if n := cold[action].Throttled; n > 0 {
			t.Errorf("cold start: the cloud throttled %d of %d calls of %s; the controller knows its limits", n, cold[action].Calls, action)
		}
	}
	if p, err = m.failover(ctx, p, 20); err != nil {
		t.Fatal(err)
	}
	l := &load{perSecond: 50, group: 10, life: 2 * time.Second}
	for _, name := range m.names {
		l.nodes = append(l.nodes, m.agents.Node(name))
	}
	if err := m.churn(ctx, p, l, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if n := m.agents.Failed.Load(); n > 0 {
		t.Errorf("%d of %d reports of agents failed", n, m.agents.Reports.Load())
	}
	results, err := m.run.Compare(m.list)
	if err != nil {
		t.Fatal(err)
	}
	version, err := kernel.Version()
	if err != nil {
		t.Fatal(err)
	}
	after, err := report.Load()
	if err != nil {
		t.Fatal(err)
	}
	r := report.Report{Command: "make scale", Load: [2]float64{before, after}, Date: m.began, Kernel: version, CPUs: runtime.NumCPU(), Rounds: 1, Notes: m.notes, Results: results}
	fmt.Println()
	if err := r.WriteText(os.Stdout); err != nil {
		t.Fatal(err)
	}
}
