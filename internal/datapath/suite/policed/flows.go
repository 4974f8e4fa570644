package policed

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"k8s.io/utils/clock"

	"terway.dev/terway/internal/agent/flowlog"
	"terway.dev/terway/internal/agent/policyapi"
	"terway.dev/terway/internal/datapath/suite/world"
	"terway.dev/terway/internal/policy"
)

// flows reads what a node's programs tell, until the test ends.
func (e *env) flows(t *testing.T, n *world.Node) *flowlog.Log {
	t.Helper()
	node := n.DP.(*Node)
	maps, err := node.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	l := flowlog.New(flowlog.Options{
		Maps: maps, Rule: node.writer.Decision, Lines: new(bytes.Buffer), Log: slog.New(slog.DiscardHandler), Clock: clock.RealClock{},
		Pod: func(a netip.Addr) (policy.NamespacedName, bool) {
			e.mu.Lock()
			defer e.mu.Unlock()
			for name, p := range e.pods {
				if p.Node == node.path && slices.Contains(p.Addresses, a) {
					return name, true
				}
			}
			return policy.NamespacedName{}, false
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l
}

// said describes a flow.
func said(f policyapi.Flow) string {
	name := func(e policyapi.End) string {
		if e.Pod != "" {
			return e.Pod
		}
		return e.Address
	}
	text := fmt.Sprintf("%s %s → %s %d/%d", f.Verdict, name(f.From), name(f.To), f.Protocol, f.To.Port)
	if f.Running {
		text += " running"
	}
	for _, d := range []policy.Direction{policy.Egress, policy.Ingress} {
		by, ok := f.Decided(d)
		switch {
		case !ok:
		case by.Reason == policy.ByRule:
			text += fmt.Sprintf(", %s by %s/%d", d, by.Rule.Policy.Name, by.Rule.Number)
		case by.Reason == policy.ByTier:
			text += fmt.Sprintf(", %s by the end of %s", d, by.Tier)
		default:
			text += fmt.Sprintf(", %s by no policy", d)
		}
	}
	return text
}

// Each verdict is told once, by the node that has judged, with names and rules, and is counted for its rules. An established connection is
// neither; one that other rules cut is told again.
func verdictsAreTold(t *testing.T, e *env) {
	client, near, far := e.pod(e.n0, "client"), e.pod(e.n0, "near"), e.pod(e.n1, "far")
	e.n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, Endpoint: near.V4})
	e.apply(t, outOf("client", app("near"), app("far")), into("near", app("client")))
	here, there := e.flows(t, e.n0), e.flows(t, e.n1)
	name := func(p *world.Pod) string { return "default/" + p.Spec.Name }
	told := func(l *flowlog.Log, want string) policyapi.Flow {
		t.Helper()
		var list []string
		for range 500 {
			list = nil
			for _, f := range l.Flows() {
				if said(f) == want {
					return f
				}
				list = append(list, said(f))
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Errorf("nobody tells %q:\n%q", want, list)
		return policyapi.Flow{}
	}
	counts := func(n *world.Node) (sum map[string]uint64) {
		t.Helper()
		list, _, _, err := n.DP.(*Node).writer.Counts()
		if err != nil {
			t.Fatal(err)
		}
		sum = map[string]uint64{}
		for _, c := range list {
			what := "no policy"
			switch c.Decision.Reason {
			case policy.ByRule:
				what = fmt.Sprint(c.Decision.Rule.Policy.Name, "/", c.Decision.Rule.Number)
			case policy.ByTier:
				what = "the end of " + c.Decision.Tier
			}
			for d, n := range c.Decided {
				sum[what+" "+policy.Direction(d).String()] += n
			}
		}
		return sum
	}

	reaches(t, client.NS, world.At(near.V4, 80), true)
	reaches(t, client.NS, world.At(world.ClusterIP, 80), true)
	reaches(t, client.NS, world.At(far.V6, 80), true)
	reaches(t, far.NS, world.At(near.V4, 80), false)
	reaches(t, client.NS, world.At(e.n0.V4, 8080), false)
	egress, ingress := "client-egress/0", "near-ingress/0"
	between := []string{fmt.Sprintf("egress by %s, ingress by %s", egress, ingress)}
	if e.kit.Exclusive { // each end judges at its own ENI
		between = []string{"egress by " + egress, "ingress by " + ingress}
	}
	for _, by := range between {
		if f := told(here, fmt.Sprintf("allowed %s → %s 6/80, %s", name(client), name(near), by)); f.Count != 2 || f.From.Address != client.V4.String() {
			t.Errorf("one connection and one by the Service: %+v", f)
		}
	}
	told(here, fmt.Sprintf("allowed %s → %s 6/80, egress by %s", name(client), far.V6, egress))
	told(there, fmt.Sprintf("allowed %s → %s 6/80, ingress by no policy", client.V6, name(far)))
	told(here, fmt.Sprintf("denied %s → %s 6/80, ingress by the end of default", far.V4, name(near)))
	if f := told(here, fmt.Sprintf("denied %s → %s 6/8080, egress by the end of default", name(client), e.n0.V4)); !f.OwnNode {
		t.Errorf("to the own node: %+v", f)
	}
	n := counts(e.n0)
	if n[egress+" egress"] != 3 || n[ingress+" ingress"] != 2 || n["the end of default ingress"] == 0 || n["the end of default egress"] == 0 {
		t.Errorf("counted: %v; want %s 3 times and %s 2 times", n, egress, ingress)
	}
	if n := counts(e.n1); n["no policy ingress"] != 1 || n["no policy egress"] == 0 {
		t.Errorf("counted on the other node: %v", n)
	}

	// What runs is not judged, until the rules change.
	for number, network := range map[int]string{6: "tcp", 17: "udp"} {
		e.apply(t, outOf("client", app("near"), app("far")), into("near", app("client")))
		conn, err := client.Dial(network, "", world.At(near.V4, 7), world.Patience)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		world.Exchanged(t, conn, "allowed")
		before := counts(e.n0)
		for range 100 {
			world.Exchanged(t, conn, "allowed")
		}
		if after := counts(e.n0); after[egress+" egress"] != before[egress+" egress"] || after[ingress+" ingress"] != before[ingress+" ingress"] {
			t.Errorf("an established %s connection is counted: before %v, after %v", network, before, after)
		}
		e.apply(t, outOf("client"), into("near", app("client")))
		if _, err := conn.Write([]byte("ping")); err != nil {
			t.Fatal(err)
		}
		told(here, fmt.Sprintf("denied %s → %s %d/7 running, egress by the end of default", name(client), name(near), number))
	}
	if lost, err := here.Lost(); err != nil || lost != (flowlog.Lost{}) {
		t.Errorf("lost %+v, %v", lost, err)
	}
}
