package nodepolicy

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"terway.dev/terway/internal/agent/policyapi"
	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/node"
)

// State says whether the node has what policies say, for a condition: with a reason, and a message that changes
// with the state alone.
func (p *Policies) State() (ok bool, reason, message string) {
	failure := p.failed()
	if unsupported(failure) {
		return false, "KernelLacksFeature", fmt.Sprintf("network policies are not enforced on this node, and pods start only in namespaces in which none can deny them anything: %v; move pods to nodes with Linux 5.10 or newer", failure)
	}
	c := p.client.Load()
	switch {
	case failure != nil:
		return false, "NoMaps", fmt.Sprintf("policy is on, so no pod starts on this node: %v", failure)
	case c == nil:
		return false, "Starting", "the agent has not asked a policy hub yet"
	}
	s := c.Status()
	has := fmt.Sprintf("revision %d of %s, of %s", s.Revision, s.Hub, s.Settled.UTC().Format(time.RFC3339))
	switch {
	case s.Refused != "":
		return false, "NotWritten", "pods keep the rules that they have, and new pods are closed: " + s.Refused
	case s.Following:
		return true, "Following", "the node has what policies say, from " + s.Hub
	case s.Settled.IsZero():
		return false, "NoHub", "no replica of the policy hub has said yet what policies say: no pod starts on this node"
	}
	return false, "HubAway", "no replica of the policy hub answers: pods keep " + has + "; new ones start only in namespaces in which no policy can deny them anything"
}

var (
	following = prometheus.NewDesc("terway_policy_following", "1 if the node follows a replica of the policy hub.", nil, nil)
	settled   = prometheus.NewDesc("terway_policy_settled_timestamp_seconds", "When the policy hub last said that the node has everything; 0: never.", nil, nil)
	refused   = prometheus.NewDesc("terway_policy_refused", "1 if the maps cannot have what policies say.", nil, nil)
	entries   = prometheus.NewDesc("terway_policy_entries", "What the node has of the policies: endpoints of its pods, their rule sets, and addresses that rules tell apart.", []string{"kind"}, nil)
	streams   = prometheus.NewDesc("terway_policy_streams_total", "Streams to the policy hub that were opened.", nil, nil)
	received  = prometheus.NewDesc("terway_policy_received_bytes_total", "Bytes of resources from the policy hub.", nil, nil)
	addresses = prometheus.NewDesc("terway_policy_pod_addresses_total", "Pods whose addresses were told to the policy hub before they started.", nil, nil)
	lateOnes  = prometheus.NewDesc("terway_policy_pod_addresses_late_total", "Those of them that started before all nodes whose rules name them knew it.", nil, nil)
	denied    = prometheus.NewDesc("terway_policy_denied_packets_total", "Packets that policies dropped, by the direction whose policies did.", []string{"direction"}, nil)
	verdicts  = prometheus.NewDesc("terway_policy_verdicts_total", "Verdicts on new connections, and on packets that are judged by themselves or denied, by direction and verdict.", []string{"direction", "verdict"}, nil)
	uncounted = prometheus.NewDesc("terway_policy_rules_without_counter", "Rules whose verdicts are not counted, as the node has too many.", nil, nil)
	flows     = prometheus.NewDesc("terway_policy_flows", "Flows of the last hour that are kept.", nil, nil)
	lost      = prometheus.NewDesc("terway_policy_flow_losses_total", "What is not in flows and counters: events while the ring buffer was full (full) or beyond the programs' pace (pace), events of rules that nobody knows (unknown), flows when there were too many (flow), lines of the log (line), verdicts of rules without a counter (rule).", []string{"reason"}, nil)
	alarms    = prometheus.NewDesc("terway_policy_alarms_total", "Times that the maps could not be written or compared, or were changed by somebody else, by the event's reason.", []string{"reason"}, nil)
)

// Describe implements prometheus.Collector.
func (p *Policies) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{following, settled, refused, entries, streams, received, addresses, lateOnes, denied, verdicts, uncounted, flows, lost, alarms} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (p *Policies) Collect(ch chan<- prometheus.Metric) {
	var s node.Status
	var stats node.Stats
	if c := p.client.Load(); c != nil {
		s, stats = c.Status(), c.Stats()
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	at := 0.0
	if !s.Settled.IsZero() {
		at = float64(s.Settled.UnixMilli()) / 1000
	}
	gauge(following, number(s.Following))
	gauge(settled, at)
	gauge(refused, number(s.Refused != ""))
	p.mu.Lock()
	size := p.size
	times := map[string]int{}
	for _, r := range []string{reasonNotWritten, reasonRepaired, reasonNotCompared} {
		times[r] = p.alarms[r].count
	}
	p.mu.Unlock()
	gauge(entries, float64(size.endpoints), "endpoints")
	gauge(entries, float64(size.ruleSets), "rule-sets")
	gauge(entries, float64(size.addresses), "addresses")
	count(streams, stats.Connects)
	count(received, stats.Bytes)
	count(addresses, p.told.Load())
	count(lateOnes, p.late.Load())
	if ingress, egress, err := p.Denied(); err != nil {
		p.Log.Error("cannot count the packets that policies dropped", "error", err)
	} else {
		count(denied, ingress, "ingress")
		count(denied, egress, "egress")
	}
	for r, n := range times {
		count(alarms, uint64(n), r)
	}
	if kernel := p.judging.Load(); kernel != nil {
		p.collectFlows(kernel, gauge, count)
	}
}

// collectFlows measures what is told of verdicts.
func (p *Policies) collectFlows(kernel *judging, gauge func(*prometheus.Desc, float64, ...string), count func(*prometheus.Desc, uint64, ...string)) {
	c, err := p.counters(kernel)
	if err != nil {
		p.Log.Error("cannot count verdicts", "error", err)
		return
	}
	sums := map[string]policyapi.Counted{policy.Allow.String(): {}, policy.Deny.String(): {}}
	add := func(action string, n policyapi.Counted) {
		sum := sums[action]
		sums[action] = policyapi.Counted{Ingress: sum.Ingress + n.Ingress, Egress: sum.Egress + n.Egress}
	}
	for _, n := range c.Rules {
		add(n.Action, n.Counted)
	}
	for action, n := range c.Gone {
		add(action, n)
	}
	for action, n := range sums {
		count(verdicts, n.Ingress, policy.Ingress.String(), action)
		count(verdicts, n.Egress, policy.Egress.String(), action)
	}
	gauge(uncounted, float64(c.Uncounted))
	gauge(flows, float64(kernel.flows.Size()))
	l, err := kernel.flows.Lost()
	if err != nil {
		p.Log.Error("cannot count lost flows", "error", err)
		return
	}
	for reason, n := range map[string]uint64{"full": l.Full, "pace": l.Pace, "rule": l.Rule, "unknown": l.Unknown, "flow": l.Forgotten, "line": l.Lines} {
		count(lost, n, reason)
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
