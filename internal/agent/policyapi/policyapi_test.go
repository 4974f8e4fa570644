package policyapi

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"terway.dev/terway/internal/policy"
)

func query(t *testing.T, path, want string) url.Values {
	t.Helper()
	u, err := url.Parse(path)
	if err != nil || u.Path != want {
		t.Fatalf("%s: %v, want the path %s", path, err, want)
	}
	return u.Query()
}

// What is asked is read as it was asked.
func TestQueries(t *testing.T) {
	q := Question{
		Pod: policy.NamespacedName{Namespace: "shop", Name: "web"}, Direction: policy.Egress, Own: netip.MustParseAddr("2001:db8::1"), Peer: netip.MustParseAddr("2001:db8::2"),
		Protocol: 58, SourcePort: 1, DestinationPort: 65535, ICMPType: 8, ICMPCode: 255,
	}
	if got, err := ReadQuestion(query(t, q.Path(), PathVerdict)); err != nil || got != q {
		t.Errorf("%+v, %v, want %+v", got, err, q)
	}
	for _, q := range []FlowsQuery{
		{}, {Denied: true}, {Follow: true, Pod: q.Pod, Addresses: []netip.Addr{q.Own, netip.MustParseAddr("10.0.0.1")}},
	} {
		if got, err := ReadFlowsQuery(query(t, q.Path(), PathFlows)); err != nil || !reflect.DeepEqual(got, q) {
			t.Errorf("%+v, %v, want %+v", got, err, q)
		}
	}
	if _, err := ReadFlowsQuery(url.Values{"address": strings.Split(strings.Repeat("10.0.0.1 ", 17), " ")}); err == nil || err.Error() != "there are 18 addresses: want 16 at most" {
		t.Error(err)
	}
}

// A Decision is read as it was, whatever decided.
func TestDecisions(t *testing.T) {
	rule := policy.RuleID{Policy: policy.Ref{Kind: "NetworkPolicy.projectcalico.org", Namespace: "shop", Name: "db"}, Direction: policy.Egress, Number: 3}
	for _, d := range []policy.Decision{
		{Action: policy.Allow},
		{Action: policy.Deny, Reason: policy.Closed},
		{Action: policy.Deny, Reason: policy.ByTier, Tier: "default", Logs: []policy.RuleID{rule}},
		{Action: policy.Allow, Reason: policy.ByRule, Tier: "default", Rule: rule},
	} {
		if got, err := DecisionOf(d).Read(); err != nil || !reflect.DeepEqual(got, d) {
			t.Errorf("%+v, %v, want %+v", got, err, d)
		}
	}
}

const aFlow = `{"first":"2026-11-29T20:00:00Z","time":"2026-11-29T20:00:01Z","count":2,"verdict":"denied","from":{"address":"10.0.0.1","port":4000,"seenAs":"192.168.0.1","pod":"shop/web"},` +
	`"to":{"address":"10.0.0.2","port":80},"protocol":6,"egress":{"action":"allow","reason":"none"},"ingress":{"action":"deny","reason":"tier","tier":"default"}}`

// A flow is judged again at both ends by what each of them sees.
func TestConnectionOfAFlow(t *testing.T) {
	n := 0
	err := ReadFlows(strings.NewReader("\n"+aFlow+"\n\n"), false, func(f Flow) error {
		n++
		pod := policy.NamespacedName{Namespace: "shop", Name: "web"}
		for d, want := range map[policy.Direction][2]string{policy.Egress: {"10.0.0.1", "10.0.0.2"}, policy.Ingress: {"10.0.0.2", "192.168.0.1"}} {
			c, err := f.Connection(pod, d)
			if err != nil || c.Own.String() != want[0] || c.Peer.String() != want[1] || c.Pod != pod || c.Protocol != 6 || c.SourcePort != 4000 || c.DestinationPort != 80 {
				t.Errorf("%s: %+v, %v", d, c, err)
			}
		}
		return nil
	})
	if n != 1 || err != nil {
		t.Errorf("%d flows, %v", n, err)
	}
}

// Whatever an agent sends is refused, or says the same when it is sent on.
func FuzzReadFlows(f *testing.F) {
	f.Add([]byte(aFlow))
	f.Add([]byte(`{"verdict":"allowed","from":{"address":"::1"},"to":{"address":"::2"},"ingress":{"action":"allow","reason":"rule","rule":{"kind":"a","name":"b","direction":"ingress","number":0}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = ReadFlows(bytes.NewReader(b), false, func(f Flow) error {
			for _, d := range []policy.Direction{policy.Ingress, policy.Egress} {
				if c, err := f.Connection(policy.NamespacedName{}, d); err != nil || !c.Own.IsValid() || !c.Peer.IsValid() {
					t.Errorf("%+v: %+v, %v", f, c, err)
				}
				f.Decided(d)
			}
			again, err := json.Marshal(f)
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			if err := ReadFlows(bytes.NewReader(again), false, func(g Flow) error {
				n++
				if !reflect.DeepEqual(f, g) {
					t.Errorf("%+v is %+v when it is sent on", f, g)
				}
				return nil
			}); err != nil || n != 1 {
				t.Errorf("%s: %d flows, %v", again, n, err)
			}
			return nil
		})
	})
}
