//go:build bench

package bench

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	bpf "github.com/cilium/ebpf"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/bandwidth"
	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/testutil"
	"terway.dev/terway/test/bench/report"
)

// startAndEnd is how many limited pods start and end on a node, of which nothing may be left.
const startAndEnd = 200

// TestBandwidthPods measures ADD of a pod with limits and of one without, and looks for what limited pods leave.
func TestBandwidthPods(t *testing.T) {
	rounds := number(t, "ROUNDS", 3) * perRound
	b := begin(t, "bench-bandwidth")
	b.part = "pods"
	b.progress("building the plugin")
	dir := buildPrograms(t, "./cmd/terway")
	list, notes := chosen(t)
	v := newVPC(t)
	var arms []*arm // a plain one and a limited one of each kind
	var nodes []*node
	for _, k := range list {
		for _, what := range []string{"plain", "limited"} {
			a := &arm{name: k.name + "-" + what, n: v.node(true), most: 1}
			if what == "limited" {
				a.annotations = map[string]string{bandwidth.Ingress: "10M", bandwidth.Egress: "10M"}
				if a.most = startAndEnd; k.own {
					a.most, a.leaves = mostENIs, []string{claims.ShaperIngress, claims.ShaperEgress}
				}
			}
			if k.own {
				for i := range a.most {
					a.n.own = append(a.n.own, v.eni(a.n, i+1))
				}
			} else {
				shared := v.eni(a.n, upTo(250)...)
				a.n.shared = &shared
			}
			arms, nodes = append(arms, a), append(nodes, a.n)
		}
	}
	b.progress("%d instances on the fabric", len(nodes))
	v.open(nodes...)
	for i, a := range arms {
		for i := range a.most {
			a.boxes = append(a.boxes, testutil.NewNS(t, fmt.Sprintf("node%d-pod%d", a.n.number, i)))
		}
		a.startJob(list[i/2], dir, job{Product: true, Spec: v1alpha1.NodeNetworkSpec{Datapath: list[i/2].shared()}}, "default")
		b.progress("%s: a first pod", a.name)
		if _, _, err := a.burst(1); err != nil {
			t.Fatal(err)
		}
	}
	took := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	for round := range rounds {
		adds, dels := map[*arm][]float64{}, map[*arm][]float64{}
		for i := range alone {
			for _, a := range turns(arms, round+i) {
				add, del, err := a.burst(1)
				if err != nil {
					t.Fatal(err)
				}
				adds[a], dels[a] = append(adds[a], took(add)), append(dels[a], took(del))
			}
		}
		for i, a := range arms {
			b.run.Add(round, report.Key{Datapath: list[i/2].name, Metric: "ADD " + a.name}, report.Median(adds[a]))
			b.run.Add(round, report.Key{Datapath: list[i/2].name, Metric: "DEL " + a.name}, report.Median(dels[a]))
		}
		b.progress("one at a time, round %d of %d", round+1, rounds)
	}
	var lines []report.Comparison
	for i, k := range list {
		plain, limited := arms[2*i], arms[2*i+1]
		line := func(verb string, goal report.Goal) {
			lines = append(lines, report.Comparison{
				Name: verb + " of a limited pod", Unit: "ms", Of: report.Key{Datapath: k.name, Metric: verb + " " + limited.name},
				To: report.Key{Datapath: k.name, Metric: verb + " " + plain.name}, Baseline: "without limits", Goal: goal,
			})
		}
		line("ADD", report.Goal{AtMost: 1.15})
		line("DEL", report.Goal{})
		if err := firstAll(limited.agent, false); err != nil {
			t.Fatal(err)
		}
		left, err := limited.startAndEnd(startAndEnd)
		if err != nil {
			t.Fatal(err)
		}
		b.progress("%s: %d limited pods have started and ended", k.name, startAndEnd)
		for _, l := range left {
			t.Errorf("%s: after %d pods: %s", k.name, startAndEnd, l)
		}
		notes = append(notes, fmt.Sprintf("%s: after %d limited pods, %d at once, %d devices, queues, routes, rules and entries are not as before.", k.name, startAndEnd, limited.most, len(left)))
	}
	b.finish(lines, append(notes, "ADD and DEL are one pod at a time, from the plugin's execution to its answer."))
}

// startAndEnd starts and ends pods, as many at once as the arm has, and returns what of the node is not
// as before.
func (a *arm) startAndEnd(pods int) (left []string, err error) {
	before, err := a.objects()
	if err != nil {
		return nil, err
	}
	for done := 0; done < pods; done += a.most {
		a.serial++
		for _, verb := range []string{"ADD", "DEL"} {
			if err := a.few(verb); err != nil {
				return nil, err
			}
			if verb == "DEL" {
				continue
			}
			for _, ns := range a.boxes {
				if out, err := ns.Exec("tc", "qdisc", "show"); err != nil || !strings.Contains(out, "htb 7478:") {
					return nil, fmt.Errorf("%s: a pod has no queue: %s (%v)", a.name, out, err)
				}
			}
		}
		if err := a.emptied(a.most); err != nil {
			return nil, err
		}
	}
	// Devices are deleted after the answer.
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		now, err := a.objects()
		if err != nil {
			return nil, err
		}
		left = without(now, before)
		for _, s := range without(before, now) {
			left = append(left, s+", which is gone")
		}
		if len(left) == 0 || time.Now().After(end) {
			return left, nil
		}
	}
}

// objects lists what the node has that may be a pod's: devices, queueing disciplines, routes, rules, elements of
// nftables, and entries of the agent's maps of pods.
func (a *arm) objects() (list []string, err error) {
	for _, command := range []string{
		"ip -o -br link show", "tc qdisc show", "ip route show table all", "ip -6 route show table all", "ip rule show", "nft -s list ruleset",
	} {
		words := strings.Fields(command)
		out, err := a.n.Exec(words[0], words[1:]...)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(out) {
			fields := strings.Fields(line)
			if words[1] == "-o" { // NAME STATE MAC FLAGS
				fields = fields[:1]
				if mac := strings.Fields(line)[2]; a.n.has(mac) {
					fields = []string{mac} // an ENI's device has another name when it was in a pod
				}
			}
			list = append(list, command+": "+strings.Join(fields, " "))
		}
	}
	maps, err := mapsOf(a.agent)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"tw_pods_2", "tw_ends_1"} {
		for _, id := range maps.ids[name] {
			keys, err := keysOf(id)
			if err != nil {
				return nil, fmt.Errorf("map %s of the agent: %w", name, err)
			}
			for _, key := range keys {
				list = append(list, fmt.Sprintf("map %s: key %x", name, key))
			}
		}
	}
	return list, nil
}

// has reports whether an exclusive ENI of the node has the MAC.
func (n *node) has(mac string) bool {
	return slices.ContainsFunc(n.own, func(e datapath.ENI) bool { return e.MAC.String() == mac })
}

// keysOf returns the keys of a map's elements; elements of arrays that are 0 are none.
func keysOf(id bpf.MapID) (keys [][]byte, err error) {
	m, err := bpf.NewMapFromID(id)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	var key, value []byte
	all := m.Iterate()
	for all.Next(&key, &value) {
		if slices.ContainsFunc(value, func(b byte) bool { return b != 0 }) {
			keys = append(keys, slices.Clone(key))
		}
	}
	return keys, all.Err()
}

// without returns those of a list that are not in another, which may have each several times.
func without(list, other []string) (out []string) {
	rest := slices.Clone(other)
	for _, s := range list {
		if i := slices.Index(rest, s); i >= 0 {
			rest = slices.Delete(rest, i, i+1)
			continue
		}
		out = append(out, s)
	}
	return out
}
