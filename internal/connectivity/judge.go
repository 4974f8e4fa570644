package connectivity

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Result is what has become of a probe.
type Result string

// The results.
const (
	Answered Result = "answered"
	// Silent: no answer came in time.
	Silent Result = "silent"
	// Cut: the connection opened, and large packets do not arrive.
	Cut Result = "cut"
	// Refused: the other end, or a firewall, has refused it.
	Refused Result = "refused"
	// Unreachable: a router on the way, or the sender's node, has said that there is no way.
	Unreachable Result = "unreachable"
	// Wrong: an answer came, but another than the one that is right.
	Wrong Result = "wrong"
	// NotTried: the sender could not be asked to send it.
	NotTried Result = "not tried"
)

// Outcome is what has become of a task.
type Outcome struct {
	ID     int    `json:"id"`
	Result Result `json:"result"`
	// Error is the sender's; empty if it was answered.
	Error string `json:"error,omitempty"`
	// Attempts is how often it was tried.
	Attempts int `json:"attempts,omitempty"`
}

// Denial is a decision of a network policy about a packet of a probe.
type Denial struct {
	// By is the policy and its rule, for people; Node is whose kernel decided.
	By, Node string
	// Direction is egress or ingress, and Pod the pod of which.
	Direction, Pod string
}

// Evidence is what is known besides the outcomes.
type Evidence struct {
	// Denials are by the probe's ID, as the nodes' agents tell them.
	Denials map[int]Denial
	// Arrived says whether the other end has had a datagram of the probe that failed; no entry: not known.
	Arrived map[int]bool
	// Reports are the problems that agents and controller report of a node.
	Reports map[string][]string
	// MissingENIs have no device on their node, as its agent reports.
	MissingENIs map[string]bool
}

// Finding is a hop that loses packets, or several of which one does.
type Finding struct {
	// Hops are the suspects: one, or those between which the probes cannot tell. None: each hop on the
	// way has carried other probes.
	Hops []Hop `json:"hops"`
	// Told: an agent has told it; else it is concluded from which probes were answered.
	Told bool `json:"told"`
	// Probes are the IDs of those that it explains.
	Probes []int `json:"probes,omitempty"`
	// Message is a sentence for people, and Next what to do.
	Message string `json:"message"`
	Next    string `json:"next,omitempty"`
}

// Judge explains why probes were not answered. First by what agents tell: a policy that denies, a
// device that is missing. Then by elimination: a hop that an answered probe has passed works; of the
// other hops that is suspected on which most of the failed probes have been, until each is explained.
// Probes that were not tried say nothing.
func Judge(probes []Probe, outcomes map[int]Outcome, e Evidence) []Finding {
	j := judge{evidence: e, outcomes: outcomes, works: map[Hop]bool{}}
	for _, p := range probes {
		switch outcomes[p.ID].Result {
		case NotTried, "":
		case Answered:
			for _, h := range p.Path {
				j.works[h] = true
			}
		default:
			j.failed = append(j.failed, p)
		}
	}
	j.told()
	for len(j.failed) > 0 {
		j.eliminate()
	}
	return j.found
}

type judge struct {
	evidence Evidence
	outcomes map[int]Outcome
	works    map[Hop]bool
	failed   []Probe // not explained yet
	found    []Finding
}

// explain adds a finding, and removes the probes that it explains.
func (j *judge) explain(f Finding, probes []Probe) {
	gone := map[int]bool{}
	for _, p := range probes {
		f.Probes = append(f.Probes, p.ID)
		gone[p.ID] = true
	}
	j.found = append(j.found, f)
	j.failed = slices.DeleteFunc(j.failed, func(p Probe) bool { return gone[p.ID] })
}

// told takes what agents tell.
func (j *judge) told() {
	byPolicy, order := map[Hop][]Probe{}, []Hop{}
	for _, p := range j.failed {
		if d, ok := j.evidence.Denials[p.ID]; ok {
			h := Hop{HopPolicy, fmt.Sprintf("%s of pod %s: %s", d.Direction, d.Pod, d.By), d.Node}
			if byPolicy[h] == nil {
				order = append(order, h)
			}
			byPolicy[h] = append(byPolicy[h], p)
		}
	}
	for _, h := range order {
		j.explain(Finding{Hops: []Hop{h}, Told: true, Message: fmt.Sprintf("a network policy denies it on node %s: %s", h.Node, h.Name),
			Next: "terwayctl policy flows --denied, terwayctl policy trace"}, byPolicy[h])
	}
	for _, h := range j.suspects() {
		if h.Kind == HopENI && j.evidence.MissingENIs[h.Name] {
			if on := j.on(h); len(on) > 0 {
				j.explain(Finding{Hops: []Hop{h}, Told: true, Message: fmt.Sprintf("%s has no device on the node: its agent reports it", h),
					Next: "terwayctl pods --check; the controller attaches it again"}, on)
			}
		}
	}
}

// suspects are the hops of failed probes that are not known to work, in the order of the probes.
func (j *judge) suspects() (all []Hop) {
	seen := map[Hop]bool{}
	for _, p := range j.failed {
		for _, h := range slices.Concat(p.Path, p.Maybe) {
			if !j.works[h] && !seen[h] {
				seen[h] = true
				all = append(all, h)
			}
		}
	}
	return all
}

// on returns the failed probes that pass a hop, or may.
func (j *judge) on(h Hop) (all []Probe) {
	for _, p := range j.failed {
		if slices.Contains(p.Path, h) || slices.Contains(p.Maybe, h) {
			all = append(all, p)
		}
	}
	return all
}

// eliminate explains some of the failed probes.
func (j *judge) eliminate() {
	var hops []Hop
	var probes []Probe
	for _, h := range j.suspects() {
		switch on := j.on(h); {
		case len(on) > len(probes):
			hops, probes = []Hop{h}, on
		case slices.EqualFunc(on, probes, func(a, b Probe) bool { return a.ID == b.ID }):
			hops = append(hops, h)
		}
	}
	if len(hops) == 0 {
		probes = j.failed
		j.explain(Finding{Hops: []Hop{}, Message: "each hop on the way has carried other packets: " + j.how(probes) + j.reports(nil, probes),
			Next: "what only these connections meet, such as a rule of a security group for one port, or packets that are lost by chance: try again"}, probes)
		return
	}
	names := make([]string, len(hops))
	for i, h := range hops {
		names[i] = h.String()
	}
	message := names[0] + " loses packets: "
	if len(names) > 1 {
		message = "one of these loses packets: " + strings.Join(names, "; ") + ": "
	}
	j.explain(Finding{Hops: hops, Message: message + j.how(probes) + j.reports(hops, probes), Next: next(hops)}, probes)
}

// how says what the probes have in common.
func (j *judge) how(probes []Probe) string {
	results, arrived, lost := map[Result]int{}, 0, 0
	for _, p := range probes {
		results[j.outcomes[p.ID].Result]++
		if there, ok := j.evidence.Arrived[p.ID]; ok && there {
			arrived++
		} else if ok {
			lost++
		}
	}
	var parts []string
	for _, r := range []Result{Silent, Cut, Refused, Unreachable, Wrong} {
		if results[r] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", results[r], describe(r)))
		}
	}
	text := strings.Join(parts, ", ")
	if lost > 0 {
		text += fmt.Sprintf("; datagrams of %d do not arrive at the other pod", lost)
	}
	if arrived > 0 {
		text += fmt.Sprintf("; datagrams of %d arrive at the other pod", arrived)
	}
	return text
}

func describe(r Result) string {
	switch r {
	case Silent:
		return "without an answer"
	case Cut:
		return "with an answer to the first packets, but not to 16 KiB (the path's MTU?)"
	case Wrong:
		return "with a wrong answer"
	}
	return string(r)
}

// reports are what the nodes of the hops report; if hops are of no node, those of the probes' ends.
func (j *judge) reports(hops []Hop, probes []Probe) string {
	var nodes []string
	for _, h := range hops {
		if h.Node != "" {
			nodes = append(nodes, h.Node)
		}
	}
	if len(nodes) == 0 {
		for _, p := range probes {
			nodes = append(nodes, p.Node, p.TargetNode)
		}
	}
	slices.Sort(nodes)
	var all []string
	for _, n := range slices.Compact(nodes) {
		for _, r := range j.evidence.Reports[n] {
			all = append(all, fmt.Sprintf("node %s reports: %s", n, r))
		}
	}
	if len(all) == 0 {
		return ""
	}
	return "; " + strings.Join(all, "; ")
}

// advice is by kind of hop, the most useful first.
var advice = []struct {
	kind HopKind
	text string
}{
	{HopENI, "the ENI's security groups, and the ENI in the cloud (terwayctl pods --check); for its rules and routes on the node, what the agent reports (terwayctl status)"},
	{HopVPC, "the security groups of both ends, and the VPC's route tables and network ACLs"},
	{HopNodeAddress, "the security groups of the node's own ENI, and firewalls on the node"},
	{HopNode, "terwayctl status, and the log of the node's agent"},
	{HopService, "kube-proxy on the node, and its log"},
	{HopDNS, "the pods of CoreDNS and their log"},
	{HopOutside, "the NAT gateway of the VPC and its SNAT entries, and the other end"},
	{HopPod, "the pod's events, and the log of the node's agent"},
}

func next(hops []Hop) string {
	for _, a := range advice {
		if slices.ContainsFunc(hops, func(h Hop) bool { return h.Kind == a.kind }) {
			return a.text
		}
	}
	return ""
}

// Count is how many probes of a kind were answered.
type Count struct {
	Kind     Kind `json:"kind"`
	Answered int  `json:"answered"`
	// Again are those of them that were answered only after more than one attempt.
	Again int `json:"again,omitempty"`
	Of    int `json:"of"`
	// NotTried are not among Of.
	NotTried int `json:"notTried,omitempty"`
}

// Counts counts probes by kind; kinds without a probe are left out.
func Counts(probes []Probe, outcomes map[int]Outcome) []Count {
	by := map[Kind]*Count{}
	for _, p := range probes {
		c := by[p.Kind]
		if c == nil {
			c = &Count{Kind: p.Kind}
			by[p.Kind] = c
		}
		o := outcomes[p.ID]
		if r := cmp.Or(o.Result, NotTried); r == NotTried {
			c.NotTried++
			continue
		}
		c.Of++
		if o.Result == Answered {
			c.Answered++
			if o.Attempts > 1 {
				c.Again++
			}
		}
	}
	var all []Count
	for _, k := range Kinds {
		if by[k] != nil {
			all = append(all, *by[k])
		}
	}
	return all
}
