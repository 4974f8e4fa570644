package checks

import (
	"slices"
	"strings"
	"testing"

	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/verify"
)

func TestSelect(t *testing.T) {
	suite := All()
	all := suite.Checks
	for _, o := range []*lab.Options{{Network: lab.NetworkTerway}, {Network: lab.NetworkTerway, Policy: true}, {Network: lab.NetworkFlannel}} {
		run, not, err := suite.Select(o, nil, true)
		slow := 0
		for _, c := range all {
			if _, other := c.NotFor[o.Network]; c.Slow && !other && (o.Policy || !c.Policy) {
				slow++
			}
		}
		if err != nil || len(run)+len(not)+slow != len(all) || len(run) == 0 {
			t.Fatalf("%s: no name picks %d checks and leaves %d out, %d of all %d are slow, %v", o.Network, len(run), len(not), slow, len(all), err)
		}
		for _, n := range not {
			if n.Why == "" || n.Network != o.Network {
				t.Errorf("%s: no reason: %+v", o.Network, n)
			}
		}
	}
	terway, flannel := &lab.Options{Network: lab.NetworkTerway}, &lab.Options{Network: lab.NetworkFlannel}
	usual, _, err := suite.Select(terway, nil, false)
	if err != nil || slices.ContainsFunc(usual, func(c verify.Check) bool { return c.Trouble }) {
		t.Errorf("checks of trouble run without --trouble, %v", err)
	}
	if two, _, err := suite.Select(terway, []string{"stale-cloud", "address-taken-away"}, false); err != nil || len(two) != 2 {
		t.Errorf("a check of trouble and a slow one by name: %v, %v", two, err)
	}
	picked, _, err := suite.Select(terway, []string{"dns", "release"}, false)
	if err != nil || len(picked) != 2 || picked[0].Name != "dns" || picked[1].Name != "release" {
		t.Errorf("picked %v, %v", picked, err)
	}
	if _, _, err := suite.Select(terway, []string{"nosuch"}, false); err == nil || !strings.Contains(err.Error(), "pod-limit") {
		t.Errorf("an unknown name: error %v, want one that lists the checks", err)
	}
	if _, _, err := suite.Select(flannel, []string{"no-spoofing"}, false); err == nil || !strings.Contains(err.Error(), "NET_ADMIN") {
		t.Errorf("a check that is not for the network: error %v, want the reason", err)
	}
	if _, _, err := suite.Select(terway, []string{"policy-deny"}, false); err == nil || !strings.Contains(err.Error(), "up --policy") {
		t.Errorf("a check of policies without policies: error %v, want what to do", err)
	}
	names := map[string]bool{}
	for _, c := range all {
		if names[c.Name] || c.About == "" || c.Run == nil {
			t.Errorf("check %q is there twice or incomplete", c.Name)
		}
		names[c.Name] = true
	}
}

// The columns of a table are aligned, whatever the check's name.
func TestTableIsAligned(t *testing.T) {
	g := &verify.Group{Datapath: "ebpf", Nodes: []instruments.NodeDatapath{{Node: "node1", Datapath: "ebpf", Why: "chosen by spec.datapath"}, {Node: "node2", Datapath: "ebpf", Why: "chosen by spec.datapath"}}}
	var b strings.Builder
	verify.WriteBegin(&b, g)
	for _, c := range All().Checks {
		verify.WriteLine(&b, verify.Result{Name: c.Name, OK: true, Measured: "MEASURED", Seconds: 12.3})
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	if lines[0] != "datapath ebpf on node1, node2: chosen by spec.datapath" {
		t.Errorf("first line %q", lines[0])
	}
	at := strings.Index(lines[1], "MEASURED")
	for _, l := range lines[1:] {
		if strings.Index(l, "MEASURED") != at {
			t.Errorf("not aligned:\n%s\n%s", lines[1], l)
		}
	}
}

// Traces of pods with limits that are not found cannot be seen to go.
func TestTracesAreThere(t *testing.T) {
	record, queue := []string{"status.used a", "status.used b"}, []string{"htb of tw1", "htb of tw2"}
	for _, c := range []struct {
		datapath string
		found    []string
		want     bool
	}{
		{"exclusive", record, true},
		{"exclusive", record[:1], false},
		{"ipvlan", record, true},
		{"route", slices.Concat(record, queue), true},
		{"route", slices.Concat(record, queue[:1]), false},
		{"ebpf", slices.Concat(record, queue), false},
		{"ebpf", slices.Concat(record, queue, []string{mapEntry, mapEntry}), true},
		{"netkit", slices.Concat(record, queue, []string{mapEntry}), false},
	} {
		if err := enoughTraces(c.datapath, c.found, 2); (err == nil) != c.want {
			t.Errorf("%s with %q: %v", c.datapath, c.found, err)
		}
	}
}
