package connectivity

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// world has n nodes; the pods of each are on one ENI, eni-N.
func world(n int) World {
	w := World{Port: 8080, ServicePort: 80, Name: "kubernetes.default.svc", NameIs: "172.21.0.1", Outside: []string{"192.0.2.1:443"}}
	for i := 1; i <= n; i++ {
		node, eni := fmt.Sprintf("n%d", i), fmt.Sprintf("eni-%d", i)
		w.Sites = append(w.Sites, Site{
			Node:    Node{Name: node, Address: fmt.Sprintf("10.0.0.%d", i), KubeletPort: 10250},
			A:       Pod{Name: fmt.Sprintf("a%d", i), Node: node, Address: fmt.Sprintf("10.1.%d.1", i), ENI: eni},
			B:       Pod{Name: fmt.Sprintf("b%d", i), Node: node, Address: fmt.Sprintf("10.1.%d.2", i), ENI: eni},
			Service: fmt.Sprintf("172.21.1.%d", i),
		})
	}
	w.DNSPods = []Pod{{Name: "kube-system/coredns", Node: "n1", Address: "10.1.1.9", ENI: "eni-1"}}
	return w
}

// lose returns the outcomes if the probes that pass any of the hops are lost.
func lose(probes []Probe, lost func(Probe) bool) map[int]Outcome {
	all := map[int]Outcome{}
	for _, p := range probes {
		all[p.ID] = Outcome{ID: p.ID, Result: Answered, Attempts: 1}
		if lost(p) {
			all[p.ID] = Outcome{ID: p.ID, Result: Silent, Attempts: 3, Error: "i/o timeout"}
		}
	}
	return all
}

func passes(hops ...Hop) func(Probe) bool {
	return func(p Probe) bool {
		return slices.ContainsFunc(hops, func(h Hop) bool { return slices.Contains(p.Path, h) })
	}
}

// hops returns the hops of findings, those of one finding in a line.
func hops(found []Finding) (lines []string) {
	for _, f := range found {
		var names []string
		for _, h := range f.Hops {
			names = append(names, h.String())
		}
		lines = append(lines, strings.Join(names, " | "))
	}
	return lines
}

func TestPlan(t *testing.T) {
	count := map[Kind]int{}
	for _, p := range Plan(world(3)) {
		count[p.Kind]++
	}
	// DNS: each pod asks for a name, and connects to the DNS pod.
	want := map[Kind]int{SameNode: 3, OtherNode: 6, PodToNode: 9, NodeToPod: 9, Service: 6, DNS: 6, Outside: 3}
	if !maps.Equal(count, want) {
		t.Errorf("probes by kind %v, want %v", count, want)
	}
	w := world(2)
	w.Sites[1].A.Address, w.Sites[1].B.Address = "", ""
	for _, p := range Plan(w) {
		if p.Pod == "a2" || p.Target == "b2" {
			t.Errorf("%s: its pod has not started", p.Title)
		}
	}
	if n := len(Plan(world(1))); n != 7 {
		t.Errorf("%d probes on one node, want 7", n)
	}
}

// What is lost at one hop is found, and nothing else.
func TestJudgeOneHop(t *testing.T) {
	probes := Plan(world(3))
	eni := Hop{HopENI, "eni-2", "n2"}
	for _, lost := range []Hop{
		eni,
		{Kind: HopNode, Node: "n3"},
		{HopPod, "a1", "n1"},
		{HopPod, "b2", "n2"},
		{Kind: HopNodeAddress, Node: "n2"},
		{Kind: HopService, Node: "n2"},
		{Kind: HopOutside, Name: "192.0.2.1:443"},
		vpc(Hop{HopENI, "eni-1", "n1"}, Hop{HopENI, "eni-3", "n3"}),
	} {
		outcomes := lose(probes, passes(lost))
		found := Judge(probes, outcomes, Evidence{})
		if got := hops(found); len(got) != 1 || got[0] != lost.String() {
			t.Errorf("%s loses packets: found %q", lost, got)
			continue
		}
		failed := 0
		for _, o := range outcomes {
			if o.Result != Answered {
				failed++
			}
		}
		if n := len(found[0].Probes); n != failed || found[0].Next == "" || found[0].Told {
			t.Errorf("%s: explains %d of %d probes: %+v", lost, n, failed, found[0])
		}
	}
	if found := Judge(probes, lose(probes, passes()), Evidence{}); len(found) != 0 {
		t.Errorf("all answered: found %q", hops(found))
	}
}

// On two nodes an ENI can be told from the VPC between them: nodes' own addresses are reached past it.
func TestJudgeTwoNodes(t *testing.T) {
	probes := Plan(world(2))
	eni := Hop{HopENI, "eni-2", "n2"}
	lost := lose(probes, func(p Probe) bool {
		// DNS is on n1: what a pod on n2 asks by name passes the ENI, too.
		return passes(eni)(p) || p.Do == Lookup && p.Node == "n2"
	})
	arrived := map[int]bool{}
	for id, o := range lost {
		if o.Result != Answered {
			arrived[id] = false
		}
	}
	found := Judge(probes, lost, Evidence{Arrived: arrived, Reports: map[string][]string{"n2": {"the agent is silent"}, "n1": {"no news"}}})
	if got := hops(found); len(got) != 1 || got[0] != eni.String() {
		t.Fatalf("found %q, want %s alone", got, eni)
	}
	for _, want := range []string{"loses packets", "do not arrive", "node n2 reports: the agent is silent"} {
		if !strings.Contains(found[0].Message, want) {
			t.Errorf("the message has no %q: %s", want, found[0].Message)
		}
	}
	if strings.Contains(found[0].Message, "no news") {
		t.Errorf("the message has the report of a node that is not concerned: %s", found[0].Message)
	}
}

// On one node nothing else crosses the ENI, so it cannot be told from the way out.
func TestJudgeCannotTell(t *testing.T) {
	probes := Plan(world(1))
	found := Judge(probes, lose(probes, func(p Probe) bool { return p.Kind == Outside }), Evidence{})
	if len(found) != 1 || len(found[0].Hops) != 2 || !strings.HasPrefix(found[0].Message, "one of these loses packets: eni-1 of node n1; the way out") {
		t.Errorf("found %+v, want the ENI or the way out", found)
	}
	// All hops of a probe that was lost work.
	probes = []Probe{{Task: Task{ID: 1}, Path: []Hop{{HopPod, "a1", "n1"}}}, {Task: Task{ID: 2}, Path: []Hop{{HopPod, "a1", "n1"}}}}
	found = Judge(probes, map[int]Outcome{1: {ID: 1, Result: Answered}, 2: {ID: 2, Result: Silent}}, Evidence{})
	if len(found) != 1 || len(found[0].Hops) != 0 || !strings.Contains(found[0].Message, "each hop on the way has carried other packets") {
		t.Errorf("found %+v, want no hop", found)
	}
	// What was not tried says nothing.
	if found := Judge(probes, map[int]Outcome{1: {ID: 1, Result: NotTried}}, Evidence{}); len(found) != 0 {
		t.Errorf("not tried: found %+v", found)
	}
}

// What agents tell comes before what is concluded.
func TestJudgeTold(t *testing.T) {
	probes := Plan(world(2))
	eni := Hop{HopENI, "eni-2", "n2"}
	denied := map[int]Denial{}
	outcomes := lose(probes, func(p Probe) bool {
		if p.Kind == SameNode {
			denied[p.ID] = Denial{By: "NetworkPolicy shop/deny rule 0", Node: p.Node, Direction: "ingress", Pod: p.Target}
		}
		return passes(eni)(p) || p.Kind == SameNode
	})
	found := Judge(probes, outcomes, Evidence{Denials: denied, MissingENIs: map[string]bool{"eni-2": true}})
	got := hops(found)
	want := []string{"ingress of pod b1: NetworkPolicy shop/deny rule 0", "ingress of pod b2: NetworkPolicy shop/deny rule 0", eni.String()}
	if !slices.Equal(got, want) {
		t.Fatalf("found %q, want %q", got, want)
	}
	for _, f := range found {
		if !f.Told {
			t.Errorf("%+v: an agent has told it", f)
		}
	}
}

// Whatever is lost, each failed probe is explained once, and by a hop that it has passed and that no
// answered probe has.
func TestJudgeExplainsAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		probes := Plan(world(rapid.IntRange(1, 4).Draw(t, "nodes")))
		var failed []int
		outcomes := map[int]Outcome{}
		for _, p := range probes {
			o := Outcome{ID: p.ID, Result: rapid.SampledFrom([]Result{Answered, Answered, Silent, Refused, NotTried}).Draw(t, "result")}
			if outcomes[p.ID] = o; o.Result == Silent || o.Result == Refused {
				failed = append(failed, p.ID)
			}
		}
		works, by := map[Hop]bool{}, map[int]Probe{}
		for _, p := range probes {
			by[p.ID] = p
			if outcomes[p.ID].Result == Answered {
				for _, h := range p.Path {
					works[h] = true
				}
			}
		}
		var explained []int
		for _, f := range Judge(probes, outcomes, Evidence{}) {
			explained = append(explained, f.Probes...)
			for _, h := range f.Hops {
				if works[h] {
					t.Fatalf("%s is suspected, and works", h)
				}
				for _, id := range f.Probes {
					if !slices.Contains(slices.Concat(by[id].Path, by[id].Maybe), h) {
						t.Fatalf("%s is said to lose %s", h, by[id].Title)
					}
				}
			}
		}
		slices.Sort(explained)
		if !slices.Equal(explained, failed) {
			t.Fatalf("explained %v of %v", explained, failed)
		}
	})
}

func TestCounts(t *testing.T) {
	probes := Plan(world(2))
	outcomes := lose(probes, passes(Hop{HopPod, "a1", "n1"}))
	for _, p := range probes {
		o := outcomes[p.ID]
		switch {
		case p.Kind == NodeToPod && p.Node == "n1":
			delete(outcomes, p.ID) // never sent
		case p.Kind == NodeToPod:
			o.Attempts = 2
			outcomes[p.ID] = o
		}
	}
	want := []Count{{Kind: SameNode, Answered: 1, Of: 2}, {Kind: OtherNode, Answered: 1, Of: 2}, {Kind: PodToNode, Answered: 2, Of: 4},
		{Kind: NodeToPod, Answered: 2, Again: 2, Of: 2, NotTried: 2}, {Kind: Service, Answered: 2, Of: 4}, {Kind: DNS, Answered: 2, Of: 4}, {Kind: Outside, Answered: 1, Of: 2}}
	if got := Counts(probes, outcomes); !slices.Equal(got, want) {
		t.Errorf("counts\n%+v, want\n%+v", got, want)
	}
}

func TestChoose(t *testing.T) {
	all := []Candidate{{"n3", "a", ""}, {"n1", "a", ""}, {"n2", "b", "NotReady"}, {"n5", "b", ""}, {"n4", "a", ""}}
	for n, want := range map[int][]string{1: {"n1"}, 2: {"n1", "n5"}, 3: {"n1", "n5", "n3"}, 9: {"n1", "n5", "n3", "n4"}} {
		if got := Choose(all, n); !slices.Equal(got, want) {
			t.Errorf("%d nodes: %v, want %v", n, got, want)
		}
	}
}
