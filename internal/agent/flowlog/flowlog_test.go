package flowlog

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"

	"terway.dev/terway/internal/agent/policyapi"
	"terway.dev/terway/internal/datapath/bpfobj"
	"terway.dev/terway/internal/datapath/policymap/policymaptest"
	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// bytesOf is an event as the kernel has it.
func bytesOf(e event) []byte {
	le := binary.LittleEndian
	b := le.AppendUint64(nil, uint64(e.at))
	for _, a := range []netip.Addr{e.src, e.dst, e.pod} {
		var text [16]byte
		if a.IsValid() {
			text = a.As16()
		}
		b = append(b, text[:]...)
	}
	for _, n := range []uint32{e.rule[0], e.rule[1], e.log[0], e.log[1]} {
		b = le.AppendUint32(b, n)
	}
	b = le.AppendUint16(le.AppendUint16(b, e.sport), e.dport)
	return append(b, e.proto, e.icmp[0], e.icmp[1], e.flags)
}

// decided are the rules of these tests: 1 allows, 2 denies and 3 logs before 1.
func decided(row compile.VerdictRow) (policy.Decision, bool) {
	d := policy.Decision{Action: policy.Action(row.Action), Reason: policy.ByRule, Tier: "default", Rule: policy.RuleID{Policy: policy.Ref{Kind: "NetworkPolicy", Namespace: "shop", Name: "db"}, Number: int(row.Rule)}}
	if row.Log != 0 {
		d.Logs = []policy.RuleID{{Policy: policy.Ref{Kind: "GlobalNetworkPolicy", Name: "log"}}}
	}
	return d, row.Rule >= 1 && row.Rule <= 3
}

// newLog is a Log of a node with the pods shop/web and shop/db.
func newLog(clock *clocktesting.FakePassiveClock, lines *bytes.Buffer) *Log {
	pods := map[netip.Addr]policy.NamespacedName{addr("10.0.0.1"): {Namespace: "shop", Name: "web"}, addr("10.0.0.2"): {Namespace: "shop", Name: "db"}}
	return New(Options{
		Rule: decided, Lines: lines, Log: slog.New(slog.DiscardHandler), Clock: clock,
		Pod: func(a netip.Addr) (policy.NamespacedName, bool) {
			p, ok := pods[a]
			return p, ok
		},
	})
}

func sample() event {
	return event{src: addr("10.0.0.1"), dst: addr("10.0.0.2"), rule: [2]uint32{1, 1}, sport: 50000, dport: 5432, proto: 6, flags: byIngress | byEgress}
}

// Connections of one flow are one line with names, however many they are; another verdict, rule, port or end is another one.
func TestFlows(t *testing.T) {
	start := time.Date(2026, 11, 29, 20, 0, 0, 0, time.UTC)
	clock := clocktesting.NewFakePassiveClock(start)
	var lines bytes.Buffer
	l := newLog(clock, &lines)
	e := sample()
	l.add(e, start)
	coming, stop := l.Follow()
	e.sport++
	l.add(e, start.Add(time.Second))
	if f := <-coming; f.Count != 1 || f.From.Port != 50001 || !f.Last.Equal(start.Add(time.Second)) {
		t.Errorf("who follows gets %+v", f)
	}
	stop()
	if lines.Len() > 0 {
		t.Errorf("an allowed flow is logged: %s", lines.String())
	}
	flows := l.Flows()
	rule := policyapi.Decision{Action: "allow", Reason: "rule", Tier: "default", Rule: &policyapi.Rule{Kind: "NetworkPolicy", Namespace: "shop", Name: "db", Direction: "ingress", Number: 1}}
	want, _ := json.Marshal([]policyapi.Flow{{
		First: start, Last: start.Add(time.Second), Count: 2, Verdict: "allowed", Protocol: 6, Egress: &rule, Ingress: &rule,
		From: policyapi.End{Address: "10.0.0.1", Port: 50001, Pod: "shop/web"}, To: policyapi.End{Address: "10.0.0.2", Port: 5432, Pod: "shop/db"},
	}})
	if got, _ := json.Marshal(flows); !bytes.Equal(got, want) {
		t.Errorf("%s, want\n%s", got, want)
	}
	for _, change := range []func(*event){
		func(e *event) { e.dport++ },
		func(e *event) { e.dst = addr("10.0.0.9") },
		func(e *event) { e.rule[0], e.flags = 2, e.flags|isDenied },
		func(e *event) { e.rule, e.flags = [2]uint32{77, 2}, byEgress|isDenied },
		func(e *event) { e.pod, e.src, e.dst = addr("10.0.0.1"), addr("192.168.0.1"), addr("198.51.100.7") },
		func(e *event) { e.log[1] = 5 },
	} {
		e := sample()
		change(&e)
		l.add(e, start.Add(2*time.Second))
	}
	flows = l.Flows()
	if len(flows) != 7 {
		t.Fatalf("%d flows, want 7: %+v", len(flows), flows)
	}
	if f := flows[2]; f.To.Pod != "" || f.From.Pod != "shop/web" {
		t.Errorf("to an address of nobody here: %+v", f)
	}
	if f := flows[3]; f.Verdict != policyapi.Denied || f.Egress.Action != "allow" || f.Ingress.Action != "deny" || f.Ingress.Rule.Number != 2 {
		t.Errorf("denied by ingress: %+v", f)
	}
	if f := flows[4]; f.Verdict != policyapi.Denied || f.Egress.Action != "deny" || f.Ingress != nil {
		t.Errorf("denied by egress: %+v", f)
	}
	if f := flows[5]; f.From != (policyapi.End{Address: "10.0.0.1", SeenAs: "192.168.0.1", Port: 50000, Pod: "shop/web"}) {
		t.Errorf("masqueraded: %+v", f)
	}
	if n := strings.Count(lines.String(), "\n"); n != 3 || !strings.Contains(lines.String(), `"kind":"flow"`) || !strings.Contains(lines.String(), `"logs":[{"kind":"GlobalNetworkPolicy","name":"log"`) {
		t.Errorf("two denied flows and a logged one are logged as %d lines:\n%s", n, lines.String())
	}
	// What was read is what terwayctl takes.
	var sent bytes.Buffer
	for _, f := range flows {
		if err := json.NewEncoder(&sent).Encode(f); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	if err := policyapi.ReadFlows(&sent, false, func(policyapi.Flow) error { n++; return nil }); err != nil || n != 7 {
		t.Errorf("%d flows are taken: %v", n, err)
	}
	e = sample()
	e.rule[0] = 9
	l.add(e, start)
	if len(l.Flows()) != 7 || l.lost.Unknown != 1 {
		t.Errorf("an event of a rule that nobody knows: %d flows, lost %+v", l.Size(), l.lost)
	}

	clock.SetTime(start.Add(KeptFor + 1500*time.Millisecond))
	if flows = l.Flows(); len(flows) != 6 {
		t.Errorf("%d flows are left that are not an hour old, want 6", len(flows))
	}
}

// However many flows there are, so many are kept, and those are the newest; and a flood of denied ones does not fill the log.
func TestMemoryAndLogAreBounded(t *testing.T) {
	start := time.Date(2026, 11, 29, 20, 0, 0, 0, time.UTC)
	var lines bytes.Buffer
	l := newLog(clocktesting.NewFakePassiveClock(start), &lines)
	_, stop := l.Follow() // reads nothing
	defer stop()
	const more = 100
	for i := range MostFlows + more {
		e := sample()
		e.dst = netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		e.rule, e.flags = [2]uint32{0, 2}, byEgress|isDenied
		l.add(e, start)
		l.add(e, start)
	}
	flows := l.Flows()
	if len(flows) != MostFlows || flows[0].To.Address != fmt.Sprint("10.1.0.", more) || l.lost.Forgotten != more {
		t.Errorf("%d flows from %s on, lost %+v", len(flows), flows[0].To.Address, l.lost)
	}
	if n := strings.Count(lines.String(), "\n"); n != mostLines || l.lost.Lines == 0 {
		t.Errorf("%d lines at once, %d left out: want %d", n, l.lost.Lines, mostLines)
	}
}

// What the programs tell arrives, and not more than their pace; nonsense is counted.
func TestEventsOfThePrograms(t *testing.T) {
	programs := policymaptest.Load(t)
	clock := clocktesting.NewFakePassiveClock(time.Now())
	l := newLog(clock, &bytes.Buffer{})
	l.Maps = programs.Maps
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	if err := programs.Tell(bytesOf(event{flags: 1}), 1); err != nil { // no direction was judged
		t.Fatal(err)
	}
	go func() { done <- l.Run(ctx) }()
	e := sample()
	e.src, e.dst = addr("2001:db8::1"), addr("2001:db8::2")
	if err := programs.Tell(bytesOf(e), 1); err != nil {
		t.Fatal(err)
	}
	until := func(what string, is func() bool) {
		t.Helper()
		for range 3000 {
			if is() {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatalf("%s: not after 30 s", what)
	}
	until("an event", func() bool { return l.Size() == 1 })
	f := l.Flows()[0]
	if f.From.Address != "2001:db8::1" || f.To.Port != 5432 || f.Verdict != policyapi.Allowed || clock.Now().Sub(f.Last).Abs() > time.Minute {
		t.Errorf("%+v", f)
	}
	denied := sample()
	denied.rule, denied.flags = [2]uint32{0, 2}, byEgress|isDenied
	const flood = 20000
	if err := programs.Tell(bytesOf(e), flood); err != nil {
		t.Fatal(err)
	}
	if err := programs.Tell(bytesOf(denied), 1); err != nil {
		t.Fatal(err)
	}
	until("a denied flow beside a flood", func() bool { return l.Size() == 2 })
	lost, err := l.Lost()
	if got := l.Flows()[0].Count; err != nil || lost.Pace == 0 || got+lost.Pace+lost.Full != flood+1 || lost.Unknown != 1 {
		t.Errorf("%d of %d events arrived, lost %+v, %v", got, flood+1, lost, err)
	}
	if lost.Rule == 0 {
		t.Error("rules without a counter are not counted")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A full ring loses events, which are counted, and what is in it is read later.
func TestAFullRing(t *testing.T) {
	programs := policymaptest.Load(t)
	l := newLog(clocktesting.NewFakePassiveClock(time.Now()), &bytes.Buffer{})
	l.Maps = programs.Maps
	told := uint64(0)
	for range 40 { // 512 events each, and the ring has a MiB
		tallies, err := bpfobj.Tallies(programs.Maps)
		if err != nil {
			t.Fatal(err)
		}
		for i := range tallies {
			tallies[i].Told[0].Told = 0
		}
		if err := programs.Maps["tw_desk_3"].Put(uint32(0), tallies); err != nil {
			t.Fatal(err)
		}
		if err := programs.Tell(bytesOf(sample()), 512); err != nil {
			t.Fatal(err)
		}
		told += 512
	}
	lost, err := l.Lost()
	if err != nil || lost.Full == 0 || lost.Full+lost.Pace >= told {
		t.Fatalf("of %d events %+v are lost, %v", told, lost, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	for range 3000 {
		if flows := l.Flows(); len(flows) == 1 && flows[0].Count == told-lost.Full-lost.Pace {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%+v, want %d connections", l.Flows(), told-lost.Full-lost.Pace)
}

func FuzzRead(f *testing.F) {
	f.Add(bytesOf(sample()))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := read(b)
		if err != nil {
			return
		}
		again, err := read(bytesOf(e))
		if err != nil || again != e {
			t.Errorf("%+v is read as %+v again: %v", e, again, err)
		}
	})
}
