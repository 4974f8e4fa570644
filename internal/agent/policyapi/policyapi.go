// Package policyapi is what terwayctl asks an agent about network policies, and what the agent answers: HTTP on a socket that only root of the
// node can open, with JSON. terwayctl reaches it by "terwayd ask", which it runs in the agent's pod.
//
// Either end may be of another version than the other: fields are only added. What comes from the other end is validated here.
package policyapi

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"terway.dev/terway/internal/policy"
)

// PathVerdict is asked with a Question, and answered with an Answer.
const PathVerdict = "/policy/verdict"

// longest is the longest name of an object or a tier that is taken, in bytes; Kubernetes allows 253.
const longest = 512

// An InvalidError says what is wrong with a value from the other end.
type InvalidError struct{ Field, Value, Want string }

func (e *InvalidError) Error() string {
	return fmt.Sprintf("%s %.80q: want %s", e.Field, e.Value, e.Want)
}

func text(field, value string, mayBeEmpty bool) error {
	switch {
	case value == "" && !mayBeEmpty:
		return &InvalidError{field, value, "a name"}
	case len(value) > longest:
		return &InvalidError{field, value, fmt.Sprintf("at most %d bytes", longest)}
	case !utf8.ValidString(value):
		return &InvalidError{field, value, "UTF-8"}
	}
	for _, r := range value {
		if !unicode.IsPrint(r) {
			return &InvalidError{field, value, "letters that can be printed"}
		}
	}
	return nil
}

// A Question is about a connection, as the kernel judges its first packet at a pod of the node.
type Question policy.Connection

// Path returns the Question as the path and query of a request.
func (q Question) Path() string {
	v := url.Values{}
	v.Set("pod", q.Pod.String())
	v.Set("direction", q.Direction.String())
	v.Set("own", q.Own.String())
	v.Set("peer", q.Peer.String())
	for name, n := range map[string]int{
		"protocol": int(q.Protocol), "source": int(q.SourcePort), "destination": int(q.DestinationPort), "type": int(q.ICMPType), "code": int(q.ICMPCode),
	} {
		v.Set(name, strconv.Itoa(n))
	}
	return PathVerdict + "?" + v.Encode()
}

// ReadQuestion reads the query of a request.
func ReadQuestion(v url.Values) (q Question, err error) {
	if q.Pod, err = readPod("pod", v.Get("pod")); err != nil {
		return q, err
	}
	if q.Direction, err = readDirection("direction", v.Get("direction")); err != nil {
		return q, err
	}
	for name, into := range map[string]*netip.Addr{"own": &q.Own, "peer": &q.Peer} {
		if *into, err = readAddr(name, v.Get(name)); err != nil {
			return q, err
		}
	}
	if q.Own.Is4() != q.Peer.Is4() {
		return q, &InvalidError{"peer", q.Peer.String(), "an address of the same family as own"}
	}
	for name, into := range map[string]*uint8{"protocol": &q.Protocol, "type": &q.ICMPType, "code": &q.ICMPCode} {
		n, err := strconv.ParseUint(v.Get(name), 10, 8)
		if err != nil {
			return q, &InvalidError{name, v.Get(name), "0 to 255"}
		}
		*into = uint8(n)
	}
	for name, into := range map[string]*uint16{"source": &q.SourcePort, "destination": &q.DestinationPort} {
		n, err := strconv.ParseUint(v.Get(name), 10, 16)
		if err != nil {
			return q, &InvalidError{name, v.Get(name), "0 to 65535"}
		}
		*into = uint16(n)
	}
	return q, nil
}

// readPod reads NAMESPACE/NAME.
func readPod(field, value string) (policy.NamespacedName, error) {
	namespace, name, ok := strings.Cut(value, "/")
	if !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
		return policy.NamespacedName{}, &InvalidError{field, value, "NAMESPACE/NAME of a pod"}
	}
	if err := text(field, value, false); err != nil {
		return policy.NamespacedName{}, err
	}
	return policy.NamespacedName{Namespace: namespace, Name: name}, nil
}

func readAddr(field, value string) (netip.Addr, error) {
	a, err := netip.ParseAddr(value)
	if err != nil || a.Is4In6() || a.Zone() != "" {
		return netip.Addr{}, &InvalidError{field, value, "an address such as 10.0.0.1 or 2001:db8::1"}
	}
	return a, nil
}

func readDirection(field, value string) (policy.Direction, error) {
	for _, d := range []policy.Direction{policy.Ingress, policy.Egress} {
		if d.String() == value {
			return d, nil
		}
	}
	return 0, &InvalidError{field, value, "ingress or egress"}
}

// An Answer is the kernel's verdict.
type Answer struct {
	Decision Decision `json:"decision"`
	// State is the condition PolicyReady: what the node has, and from whom.
	State string `json:"state"`
}

// ReadAnswer reads what an agent answered.
func ReadAnswer(r io.Reader) (a Answer, d policy.Decision, err error) {
	if err := read(r, &a); err != nil {
		return a, d, err
	}
	if !utf8.ValidString(a.State) || len(a.State) > 1<<16 {
		return a, d, &InvalidError{"state", a.State, "at most 65536 bytes of UTF-8"}
	}
	d, err = a.Decision.Read()
	return a, d, err
}

// read decodes one value of JSON.
func read(r io.Reader, into any) error {
	if err := json.NewDecoder(r).Decode(into); err != nil {
		return fmt.Errorf("read the agent's answer: %w", err)
	}
	return nil
}

// A Decision is a policy.Decision.
type Decision struct {
	Action string `json:"action"`         // allow or deny
	Reason string `json:"reason"`         // none, rule, tier or closed
	Tier   string `json:"tier,omitempty"` // for rule and tier
	Rule   *Rule  `json:"rule,omitempty"`
	Logs   []Rule `json:"logs,omitempty"`
}

// A Rule is a policy.RuleID.
type Rule struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	Direction string `json:"direction"`
	Number    int    `json:"number"`
}

// reasons are by policy.Reason.
var reasons = [...]string{policy.NoPolicy: "none", policy.ByRule: "rule", policy.ByTier: "tier", policy.Closed: "closed"}

// DecisionOf returns what is said of a decision.
func DecisionOf(d policy.Decision) Decision {
	out := Decision{Action: d.Action.String(), Reason: reasons[d.Reason], Tier: d.Tier}
	if d.Reason == policy.ByRule {
		rule := ruleOf(d.Rule)
		out.Rule = &rule
	}
	for _, l := range d.Logs {
		out.Logs = append(out.Logs, ruleOf(l))
	}
	return out
}

func ruleOf(r policy.RuleID) Rule {
	return Rule{r.Policy.Kind, r.Policy.Namespace, r.Policy.Name, r.Direction.String(), r.Number}
}

// Read returns the policy.Decision.
func (d Decision) Read() (out policy.Decision, err error) {
	switch d.Action {
	case policy.Allow.String():
		out.Action = policy.Allow
	case policy.Deny.String():
		out.Action = policy.Deny
	default:
		return out, &InvalidError{"action", d.Action, "allow or deny"}
	}
	known := false
	for reason, name := range reasons {
		if name == d.Reason {
			out.Reason, known = policy.Reason(reason), true
		}
	}
	if !known {
		return out, &InvalidError{"reason", d.Reason, "none, rule, tier or closed"}
	}
	if err := text("tier", d.Tier, out.Reason != policy.ByTier); err != nil {
		return out, err
	}
	out.Tier = d.Tier
	if (d.Rule != nil) != (out.Reason == policy.ByRule) {
		return out, &InvalidError{"reason", d.Reason, "rule, if and only if there is one"}
	}
	if d.Rule != nil {
		if out.Rule, err = d.Rule.read(); err != nil {
			return out, err
		}
	}
	for _, l := range d.Logs {
		r, err := l.read()
		if err != nil {
			return out, err
		}
		out.Logs = append(out.Logs, r)
	}
	return out, nil
}

func (r Rule) read() (out policy.RuleID, err error) {
	for _, f := range []struct {
		field, value string
		mayBeEmpty   bool
	}{{"kind", r.Kind, false}, {"namespace", r.Namespace, true}, {"name", r.Name, false}} {
		if err := text(f.field, f.value, f.mayBeEmpty); err != nil {
			return out, err
		}
	}
	if r.Number < 0 {
		return out, &InvalidError{"number", strconv.Itoa(r.Number), "0 or more"}
	}
	out.Policy = policy.Ref{Kind: r.Kind, Namespace: r.Namespace, Name: r.Name}
	out.Number = r.Number
	out.Direction, err = readDirection("direction of a rule", r.Direction)
	return out, err
}
