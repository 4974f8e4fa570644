package policyapi

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"slices"
	"time"

	"terway.dev/terway/internal/policy"
)

const (
	// PathCounters is answered with Counters.
	PathCounters = "/policy/counters"
	// PathFlows is asked with a FlowsQuery, and answered with Flows, one a line, the oldest first.
	PathFlows = "/policy/flows"

	// maxFlow is the longest line of a Flow that is read, in bytes; maxFlows the largest number of them, if the answer ends.
	maxFlow, maxFlows = 64 << 10, 100_000
	// maxCounters is the largest number of rules that is read.
	maxCounters = 100_000
)

// Beat is after how long without flows an empty line comes, if they are followed: "terwayd ask" learns by it that nobody
// reads any more.
const Beat = 10 * time.Second

// Verdicts of Flows.
const (
	Allowed = "allowed"
	Denied  = "denied"
)

// A Flow is all connections between two ends with one protocol, destination port, ICMP type and code, and verdict by the same rules, that an
// agent has seen begin. Of a packet that is judged by itself (ICMP other than echo), and of one that is denied, it is a packet.
type Flow struct {
	// First and Last are when the first and the last of Count connections were judged.
	First time.Time `json:"first"`
	Last  time.Time `json:"time"`
	Count uint64    `json:"count"`
	// Node is set by who asks.
	Node    string `json:"node,omitempty"`
	Verdict string `json:"verdict"` // Allowed or Denied
	From    End    `json:"from"`
	To      End    `json:"to"`
	// Protocol is an IP number.
	Protocol uint8 `json:"protocol"`
	ICMPType uint8 `json:"icmpType,omitempty"`
	ICMPCode uint8 `json:"icmpCode,omitempty"`
	// Egress and Ingress are what was decided on this node: nil for a direction that another node judges, or nobody.
	Egress  *Decision `json:"egress,omitempty"`
	Ingress *Decision `json:"ingress,omitempty"`
	// Running: the connection ran, and had another verdict before.
	Running bool `json:"running,omitempty"`
	// OwnNode: it is from a pod to an address of its own node. If netfilter translates it, it is judged again by its backend.
	OwnNode bool `json:"ownNode,omitempty"`
	// Missed is how many flows were not sent before this one, as the reader was too slow.
	Missed uint64 `json:"missed,omitempty"`
}

// An End is one end of a Flow.
type End struct {
	Address string `json:"address"`
	// Port is the source port of the last connection, or the destination port; 0 if the protocol has none.
	Port uint16 `json:"port,omitempty"`
	// SeenAs is the address that the other end sees, if it is another one.
	SeenAs string `json:"seenAs,omitempty"`
	// Pod is NAMESPACE/NAME, empty if it is no pod, or one that is not known.
	Pod string `json:"pod,omitempty"`
}

// addresses returns Address and SeenAs.
func (e End) addresses() (own, seen netip.Addr, err error) {
	if own, err = readAddr("address", e.Address); err != nil {
		return own, seen, err
	}
	if seen = own; e.SeenAs != "" {
		seen, err = readAddr("seenAs", e.SeenAs)
	}
	if err == nil && e.Pod != "" {
		_, err = readPod("pod", e.Pod)
	}
	return own, seen, err
}

// Connection returns the connection as it is judged in a direction, at a pod.
func (f Flow) Connection(pod policy.NamespacedName, d policy.Direction) (policy.Connection, error) {
	c := policy.Connection{Pod: pod, Direction: d, Protocol: f.Protocol, ICMPType: f.ICMPType, ICMPCode: f.ICMPCode}
	own, seen, err := f.From.addresses()
	if err != nil {
		return c, err
	}
	to, _, err := f.To.addresses()
	if c.Own, c.Peer = own, to; d == policy.Ingress {
		c.Own, c.Peer = to, seen
	}
	switch f.Protocol {
	case policy.TCPProtocol, policy.UDPProtocol, policy.SCTPProtocol:
		c.SourcePort, c.DestinationPort = f.From.Port, f.To.Port
	}
	return c, err
}

// Decided returns what was decided in a direction; false: nothing was.
func (f Flow) Decided(d policy.Direction) (policy.Decision, bool) {
	of := f.Egress
	if d == policy.Ingress {
		of = f.Ingress
	}
	if of == nil {
		return policy.Decision{}, false
	}
	out, err := of.Read()
	return out, err == nil
}

// check validates a Flow that was received.
func (f Flow) check() error {
	if f.Verdict != Allowed && f.Verdict != Denied {
		return &InvalidError{"verdict", f.Verdict, "allowed or denied"}
	}
	own, _, err := f.From.addresses()
	if err != nil {
		return err
	}
	to, _, err := f.To.addresses()
	if err != nil {
		return err
	}
	if own.Is4() != to.Is4() {
		return &InvalidError{"to", f.To.Address, "an address of the same family as from"}
	}
	if f.Egress == nil && f.Ingress == nil {
		return errors.New("a flow has no decision: want egress, ingress or both")
	}
	for _, d := range []*Decision{f.Egress, f.Ingress} {
		if d != nil {
			if _, err := d.Read(); err != nil {
				return err
			}
		}
	}
	if f.Last.Before(f.First) {
		return &InvalidError{"time", f.Last.String(), "one that is not before first"}
	}
	return nil
}

// A FlowsQuery says which Flows are wanted.
type FlowsQuery struct {
	// Denied: only those that were denied.
	Denied bool
	// Pod and Addresses, if there is one: only those from or to it.
	Pod       policy.NamespacedName
	Addresses []netip.Addr
	// Follow: those of the last hour, and then each connection until the asker ends.
	Follow bool
}

// Path returns the query as the path and query of a request.
func (q FlowsQuery) Path() string {
	v := url.Values{}
	for name, is := range map[string]bool{"denied": q.Denied, "follow": q.Follow} {
		if is {
			v.Set(name, "true")
		}
	}
	if q.Pod != (policy.NamespacedName{}) {
		v.Set("pod", q.Pod.String())
	}
	for _, a := range q.Addresses {
		v.Add("address", a.String())
	}
	return PathFlows + "?" + v.Encode()
}

// ReadFlowsQuery reads the query of a request.
func ReadFlowsQuery(v url.Values) (q FlowsQuery, err error) {
	for name, into := range map[string]*bool{"denied": &q.Denied, "follow": &q.Follow} {
		switch v.Get(name) {
		case "", "false":
		case "true":
			*into = true
		default:
			return q, &InvalidError{name, v.Get(name), "true or false"}
		}
	}
	if pod := v.Get("pod"); pod != "" {
		if q.Pod, err = readPod("pod", pod); err != nil {
			return q, err
		}
	}
	if n := len(v["address"]); n > 16 {
		return q, fmt.Errorf("there are %d addresses: want 16 at most", n)
	}
	for _, text := range v["address"] {
		a, err := readAddr("address", text)
		if err != nil {
			return q, err
		}
		q.Addresses = append(q.Addresses, a)
	}
	return q, nil
}

// Wants reports whether a Flow is wanted.
func (q FlowsQuery) Wants(f Flow) bool {
	if q.Denied && f.Verdict != Denied {
		return false
	}
	if q.Pod == (policy.NamespacedName{}) && len(q.Addresses) == 0 {
		return true
	}
	is := func(e End) bool {
		if e.Pod != "" {
			return e.Pod == q.Pod.String()
		}
		return slices.ContainsFunc(q.Addresses, func(a netip.Addr) bool { return a.String() == e.Address })
	}
	return is(f.From) || is(f.To)
}

// ReadFlows reads Flows until they end, or each returns an error. follow: as many as come.
func ReadFlows(r io.Reader, follow bool, each func(Flow) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxFlow)
	for n := 1; lines.Scan(); n++ {
		if n > maxFlows && !follow {
			return fmt.Errorf("the agent has more than %d flows", maxFlows)
		}
		if len(lines.Bytes()) == 0 {
			continue
		}
		var f Flow
		err := json.Unmarshal(lines.Bytes(), &f)
		if err == nil {
			err = f.check()
		}
		if err != nil {
			return fmt.Errorf("flow %d of the agent: %w", n, err)
		}
		if err := each(f); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read the agent's flows: %w", err)
	}
	return nil
}

// Counters are how often rules have decided on a node.
type Counters struct {
	// Since is when the agent began to count. A rule that came later is counted since then.
	Since time.Time `json:"since"`
	// Rules are those that the node has, or had a moment ago.
	Rules []Counter `json:"rules"`
	// Gone are sums of those that it has no more, by action.
	Gone map[string]Counted `json:"gone,omitempty"`
	// Uncounted is how many rules have no counter, as the node has too many.
	Uncounted int `json:"uncounted,omitempty"`
}

// A Counter is how often a rule has decided.
type Counter struct {
	Decision
	Counted
}

// Counted are numbers of decisions about new connections, by direction.
type Counted struct {
	Ingress uint64 `json:"ingress"`
	Egress  uint64 `json:"egress"`
}

// ReadCounters reads what an agent answered.
func ReadCounters(r io.Reader) (c Counters, decisions []policy.Decision, err error) {
	if err := read(r, &c); err != nil {
		return c, nil, err
	}
	if len(c.Rules) > maxCounters {
		return c, nil, fmt.Errorf("the agent has counters of %d rules: want %d at most", len(c.Rules), maxCounters)
	}
	for _, r := range c.Rules {
		d, err := r.Decision.Read()
		if err != nil {
			return c, nil, err
		}
		decisions = append(decisions, d)
	}
	for action := range c.Gone {
		if action != policy.Allow.String() && action != policy.Deny.String() {
			return c, nil, &InvalidError{"gone", action, "allow or deny"}
		}
	}
	return c, decisions, nil
}
