package policymap

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
)

// decided counts as programs do: once for each of a kernel's verdicts.
func (k *kernel) decided(t *testing.T, row compile.VerdictRow, direction policy.Direction) {
	t.Helper()
	counts := make([]ruleCount, ebpf.MustPossibleCPU())
	m := k.Programs.Maps[counted]
	if err := m.Lookup(row.Rule, &counts); err != nil {
		t.Fatalf("rule %d: %v", row.Rule, err)
	}
	counts[len(counts)-1][direction]++
	if err := m.Put(row.Rule, counts); err != nil {
		t.Fatal(err)
	}
}

// Whatever decides has a counter, through all changes, and what it counts is never another's.
func TestEveryRuleHasACounter(t *testing.T) {
	t.Parallel()
	k := newKernel(t, DefaultLimits)
	const node = "node1"
	s := newState(5, 30)
	want := map[string][2]uint64{}
	asked := 0
	check := func(w *Writer) {
		t.Helper()
		list, gone, without, err := w.Counts()
		if err != nil || without != 0 || len(gone) != 0 {
			t.Fatalf("%v, %d rules without a counter, %v gone", err, without, gone)
		}
		got := map[string][2]uint64{}
		for _, c := range list {
			if c.Decided != [2]uint64{} {
				got[fmt.Sprintf("%+v", c.Decision)] = c.Decided
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("counted:\n%v\nwant:\n%v", got, want)
		}
	}
	for range few(40) {
		if err := k.Write(s.part(t, node)); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			c, ok := s.Connection(s.cluster)
			if !ok {
				break
			}
			if s.cluster.Pods[c.Pod].Node != node {
				continue
			}
			d, row, err := k.decide(c)
			if err != nil {
				t.Fatal(err)
			}
			k.decided(t, row, c.Direction)
			d.Logs = nil
			sum := want[fmt.Sprintf("%+v", d)]
			sum[c.Direction]++
			want[fmt.Sprintf("%+v", d)] = sum
			asked++
		}
		check(k.Writer)
		s.step()
	}
	if asked < few(100) || len(want) < few(10) {
		t.Errorf("%d connections, %d rules: the worlds are too simple", asked, len(want))
	}

	// The next process gives other numbers: until it writes, the rules of this one count, and not for its own.
	_, row, err := k.decide(policy.Connection{Pod: policy.NamespacedName{Namespace: "gone", Name: "gone"}, Own: addr("10.9.9.9"), Peer: addr("10.9.9.8"), Protocol: 6})
	if err != nil || row.Rule != 0 {
		t.Fatalf("a pod that is not there: %+v, %v", row, err)
	}
	other := newWriter(t, k.Programs, DefaultLimits)
	used := map[uint32]bool{}
	for number := range k.counters.has {
		used[number] = true
	}
	if err := other.Write(s.part(t, node)); err != nil {
		t.Fatal(err)
	}
	for number := range other.counters.has {
		if number != 0 && used[number] {
			t.Errorf("number %d is another rule's in the next process", number)
		}
	}
	closed := want[fmt.Sprintf("%+v", policy.Decision{Action: policy.Deny, Reason: policy.Closed})]
	want = map[string][2]uint64{}
	if closed != [2]uint64{} {
		want[fmt.Sprintf("%+v", policy.Decision{Action: policy.Deny, Reason: policy.Closed})] = closed
	}
	check(other)
	n := 0
	var number uint32
	var value []ruleCount
	for rows := k.Programs.Maps[counted].Iterate(); rows.Next(&number, &value); {
		n++
	}
	if n != len(other.counters.has) {
		t.Errorf("the map has %d entries, want %d: those of the process before go", n, len(other.counters.has))
	}
}

// More rules than counters hold as all others do; names that are forgotten give their counters back, and what they counted is in the sums.
func TestCountersAreBounded(t *testing.T) {
	t.Parallel()
	k := newKernel(t, DefaultLimits)
	most := int(k.Programs.Maps[counted].MaxEntries())
	take := func(from, to int) {
		for i := from; i < to; i++ {
			k.rules.take(ruleName{compile.RuleRow{Reason: policy.ByTier, Tier: fmt.Sprint(i)}, policy.Deny})
		}
		k.counters.add(&k.rules)
		for range 1000 {
			if k.counters.failed == nil {
				return
			}
			time.Sleep(time.Millisecond) // the kernel is making memory for all processors
			k.counters.add(&k.rules)
		}
		t.Fatal(k.counters.failed)
	}
	take(0, most+9)
	if n := len(k.counters.has); n != most || k.counters.without != 10 { // beside them the closed pods'
		t.Errorf("%d counters, %d rules without: want %d and 10", n, k.counters.without, most)
	}
	k.decided(t, compile.VerdictRow{Rule: 0}, policy.Egress)
	some := uint32(0)
	for number := range k.counters.has {
		some = max(some, number)
	}
	k.decided(t, compile.VerdictRow{Rule: some}, policy.Ingress)
	for number := uint32(1); number < uint32(most+10); number++ {
		k.rules.release(number)
	}
	k.counters.prune(&k.rules)
	take(most+9, most+10+remembered)
	if k.counters.without != 0 {
		t.Errorf("%d rules without a counter, and others have gone", k.counters.without)
	}
	for number := range k.rules.by {
		if number > uint32(most+9) {
			k.rules.release(number)
		}
	}
	k.counters.prune(&k.rules)
	_, gone, _, err := k.Counts()
	if err != nil || gone[policy.Deny][policy.Ingress] != 1 || gone[policy.Deny][policy.Egress] != 0 {
		t.Errorf("gone: %v, %v: want one", gone, err)
	}
}

// A counter that could not be made is no reason to say that there are too many: it is made later.
func TestCountersThatFailAreMadeLater(t *testing.T) {
	t.Parallel()
	k := newKernel(t, DefaultLimits)
	m := k.counters.m
	closed, err := m.Clone()
	if err == nil {
		err = closed.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	k.counters.m = closed
	k.rules.take(ruleName{compile.RuleRow{Reason: policy.ByTier, Tier: "a"}, policy.Deny})
	k.rules.take(ruleName{compile.RuleRow{Reason: policy.ByTier, Tier: "b"}, policy.Deny})
	if err := k.Write(&compile.Node{Ranges: [2][]compile.Range{{{From: netip.IPv4Unspecified()}}, {{From: netip.IPv6Unspecified()}}}}); err != nil {
		t.Fatal(err)
	}
	if k.counters.without != 3 { // with the closed pods'
		t.Errorf("%d rules are without a counter, want 3", k.counters.without)
	}
	if _, err := k.Repair(); err == nil || !strings.Contains(err.Error(), counted) {
		t.Errorf("what is said of it: %v", err)
	}
	k.counters.m = m
	if differ, err := k.Repair(); err != nil || len(differ) > 0 || k.counters.without != 0 {
		t.Errorf("later: %v, %v, and %d rules are without a counter", differ, err, k.counters.without)
	}
}
