package compile_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"regexp"
	"testing"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
	"terway.dev/terway/internal/policy/naive"
	"terway.dev/terway/internal/policy/policytest"
)

// The shares of connections with each outcome. If most connections matched no rule, agreement
// would prove little.
type shares struct {
	cases, allowed, denied, passed, byRule, logged int
}

func (s *shares) add(d policy.Decision, passed int) {
	s.cases++
	for count, is := range map[*int]bool{
		&s.allowed: d.Action == policy.Allow,
		&s.denied:  d.Action == policy.Deny,
		&s.passed:  passed > 0,
		&s.byRule:  d.Reason == policy.ByRule,
		&s.logged:  len(d.Logs) > 0,
	} {
		if is {
			*count++
		}
	}
}

func (s *shares) String() string {
	part := func(n int) int { return 100 * n / max(s.cases, 1) }
	return fmt.Sprintf("%d connections: %d %% allowed, %d %% denied, %d %% passed on by a tier, %d %% decided by a rule, %d %% logged",
		s.cases, part(s.allowed), part(s.denied), part(s.passed), part(s.byRule), part(s.logged))
}

// agree compares both engines on connections in one world.
func agree(t *testing.T, w policytest.World, connections int, s *shares) {
	set, cluster := w.Set(), w.Cluster()
	c, err := compile.Compile(set, cluster, compile.DefaultBudget)
	if err != nil {
		t.Fatal(err)
	}
	nodes := map[string]*compile.Maps{}
	for _, n := range policytest.Nodes {
		nodes[n] = c.ForNode(n).Maps()
	}
	for range connections {
		conn, ok := w.Connection(cluster)
		if !ok {
			return
		}
		want, passed := naive.Decide(set, cluster, conn)
		if got := lookup(nodes[cluster.Pods[conn.Pod].Node], conn); !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v\nthe tables give %+v\nthe model gives %+v\n\nset %s\n\ncluster %s", conn, got, want, dump(set), dump(cluster))
		}
		s.add(want, passed)
	}
}

func lookup(m *compile.Maps, c policy.Connection) policy.Decision {
	return m.Decision(m.Lookup(compile.Packet{
		Endpoint: m.EndpointOf[c.Pod], Direction: c.Direction, Peer: c.Peer, Protocol: c.Protocol,
		SourcePort: c.SourcePort, DestinationPort: c.DestinationPort, ICMPType: c.ICMPType, ICMPCode: c.ICMPCode,
	}))
}

func TestTablesSayWhatTheModelSays(t *testing.T) {
	var s shares
	for seed := uint64(1); s.cases < 100_000; seed++ {
		agree(t, policytest.World{Source: rand.New(rand.NewPCG(seed, 1))}, 64, &s)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	t.Log(&s)
	for what, n := range map[string]int{"allowed": s.allowed, "denied": s.denied, "passed on": s.passed} {
		if n < s.cases/5 {
			t.Errorf("%d of %d connections are %s: want a fifth, or the worlds are too simple", n, s.cases, what)
		}
	}
}

func FuzzTablesSayWhatTheModelSays(f *testing.F) {
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 2))
		b := make([]byte, 2000)
		for i := range b {
			b[i] = byte(r.IntN(256))
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		source := policytest.Bytes(b)
		agree(t, policytest.World{Source: &source}, 32, &shares{})
	})
}

var protocolList = regexp.MustCompile(`\[\s*((true|false),?\s*){256}\]`)

func dump(v any) string {
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return fmt.Sprintf("%+v", v)
	}
	return protocolList.ReplaceAllString(string(b), "[…]")
}
