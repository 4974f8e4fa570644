package policymap

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cilium/ebpf"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
	"terway.dev/terway/internal/policy/naive"
	"terway.dev/terway/internal/policy/policytest"
	"terway.dev/terway/internal/policy/selector"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// A packet sees the rules before a change or after it, and never some of both.
func TestAPacketSeesTheRulesBeforeOrAfter(t *testing.T) {
	t.Parallel()
	k := newKernel(t, DefaultLimits)
	const node, worlds, changes = "node1", 12, 24
	differ, answers := 0, map[bool]int{}
	for seed := uint64(1); seed <= worlds; seed++ {
		old := newState(seed, 12)
		now := &state{old.World, old.set, old.cluster}
		for range 8 {
			now.step()
		}
		// Connections of pods that are there before and after, where the answers differ.
		type asked struct {
			policy.Connection
			packet compile.Packet
			want   [2]policy.Decision
		}
		parts := [2]*compile.Node{old.part(t, node), now.part(t, node)}
		var list []asked
		for range 2000 {
			c, ok := old.Connection(old.cluster)
			if !ok || len(list) == 16 {
				break
			}
			before, after := old.cluster.Pods[c.Pod], now.cluster.Pods[c.Pod]
			if after == nil || after.Ended || after.HostNetwork || before.Node != node || after.Node != node || !slices.Contains(after.Addresses, c.Own) {
				continue
			}
			a := asked{Connection: c}
			a.want[0], _ = naive.Decide(old.set, old.cluster, c)
			a.want[1], _ = naive.Decide(now.set, now.cluster, c)
			if !reflect.DeepEqual(a.want[0], a.want[1]) {
				list = append(list, a)
			}
		}
		differ += len(list)
		for _, p := range parts {
			if err := k.Write(p); err != nil {
				t.Fatal(err)
			}
		}
		for i := range list {
			list[i].packet = k.packet(list[i].Connection)
		}
		seen := make([]map[compile.VerdictRow]int, len(list))
		stop := make(chan struct{})
		var reader sync.WaitGroup
		var failed error
		reader.Go(func() {
			for {
				for i, a := range list {
					if seen[i] == nil {
						seen[i] = map[compile.VerdictRow]int{}
					}
					_, row, err := k.Ask(a.packet)
					if err != nil {
						failed = err
						return
					}
					seen[i][row]++
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
		for i := range changes {
			if err := k.Write(parts[i%2]); err != nil {
				t.Error(err)
			}
		}
		close(stop)
		reader.Wait()
		if failed != nil {
			t.Fatal(failed)
		}
		for i, a := range list {
			for row, n := range seen[i] {
				d, ok := k.Decision(row)
				if !ok {
					t.Fatalf("nobody knows the rules of %+v", row)
				}
				is := slices.IndexFunc(a.want[:], func(w policy.Decision) bool { return reflect.DeepEqual(d, w) })
				if is < 0 {
					t.Errorf("seed %d: %+v: %d times %+v; before %+v, after %+v", seed, a.Connection, n, d, a.want[0], a.want[1])
					continue
				}
				answers[is == 1] += n
			}
		}
	}
	t.Logf("%d connections with another answer after the change; the reader saw the answer before %d times, the one after %d times", differ, answers[false], answers[true])
	if differ < 4*worlds || answers[false] == 0 || answers[true] == 0 {
		t.Error("the worlds are too simple, or nobody read")
	}
}

// Maps that grow, and rows that move, are not seen.
func TestGrowing(t *testing.T) {
	t.Parallel()
	k := newKernel(t, DefaultLimits)
	write := func(n int) {
		set, cluster := rules(n)
		if err := k.Write(compiled(t, set, cluster)); err != nil {
			t.Error(err)
		}
	}
	write(10)
	packets := []compile.Packet{k.packet(from(1)), k.packet(from(9))}
	stop := make(chan struct{})
	var reader sync.WaitGroup
	var failed error
	asked, denied := 0, 0
	reader.Go(func() {
		for {
			for _, p := range packets {
				_, row, err := k.Ask(p)
				if err != nil {
					failed = err
					return
				}
				if asked++; row.Action != uint8(policy.Allow) {
					denied++
				}
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	for _, n := range []int{70, 300, 20, 1500, 10, 1500} {
		write(n)
	}
	close(stop)
	reader.Wait()
	if failed != nil || denied > 0 {
		t.Errorf("%d of %d packets were denied, which the rules always allow; %v", denied, asked, failed)
	}
	if k.spans.size[k.active] < 1500 {
		t.Error("the maps did not grow")
	}
}

// rules is a node whose pods all have so many rules, no two alike; the peers are pods.
func rules(n int) (policy.Set, policy.Cluster) {
	pods := map[policy.NamespacedName]*policy.Pod{}
	p := policy.Policy{Ref: policy.Ref{Kind: "NetworkPolicy", Namespace: "a", Name: "p"}, Directions: [2]bool{true, false}}
	p.Subject.Pods = selector.In("app", "app0")
	for i := range n {
		name := policy.NamespacedName{Namespace: "a", Name: fmt.Sprint("pod", i)}
		app := fmt.Sprint("app", i)
		pods[name] = &policy.Pod{NamespacedName: name, Node: "node", Labels: policy.Labels{"app": app}, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})}}
		rule := policy.Rule{Number: i, Action: policy.Allow, Traffic: []policy.Traffic{{DestinationPorts: []policy.Port{{From: uint16(i), To: uint16(i)}}}}}
		rule.Peers = []policy.Match{{In: []policy.AddrSet{{Pods: &policy.PodSelector{Pods: selector.In("app", app)}}}}}
		p.Rules[policy.Ingress] = append(p.Rules[policy.Ingress], rule)
	}
	return policy.Set{Tiers: []policy.Tier{{Name: "t", Default: policy.Deny, Policies: []policy.Policy{p}}}}, policy.Cluster{Pods: pods}
}

func compiled(t *testing.T, set policy.Set, cluster policy.Cluster) *compile.Node {
	t.Helper()
	c, err := compile.Compile(set, cluster, compile.DefaultBudget)
	if err != nil {
		t.Fatal(err)
	}
	return c.ForNode("node")
}

func from(i int) policy.Connection {
	return policy.Connection{
		Pod: policy.NamespacedName{Namespace: "a", Name: "pod0"}, Own: addr("10.1.0.0"), Peer: netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}),
		Protocol: policy.TCPProtocol, DestinationPort: uint16(i),
	}
}

func (k *kernel) action(t *testing.T, c policy.Connection) policy.Action {
	t.Helper()
	d, _, err := k.decide(c)
	if err != nil {
		t.Fatal(err)
	}
	return d.Action
}

// dirty is how many rows are still to be written into a half.
func (w *Writer) dirty() (n int) {
	half := 1 - w.active
	return len(w.endpoints.dirty[half]) + len(w.addresses.dirty[half]) + len(w.ranges.dirty[half]) +
		len(w.peers.dirty[half]) + len(w.spans.dirty[half]) + len(w.verdicts.dirty[half])
}

// What is written follows the change and not what is there.
func TestAChangeWritesWhatChanged(t *testing.T) {
	t.Parallel()
	k := newKernel(t, DefaultLimits)
	set, cluster := rules(1000)
	if err := k.Write(compiled(t, set, cluster)); err != nil {
		t.Fatal(err)
	}
	for _, change := range []struct {
		what   string
		most   int
		change func()
	}{
		{"nothing", 0, func() {}},
		{"a pod's labels", 8, func() {
			p := *cluster.Pods[policy.NamespacedName{Namespace: "a", Name: "pod7"}]
			p.Labels = policy.Labels{"app": "app8"}
			cluster.Pods[p.NamespacedName] = &p
		}},
		{"a pod that goes", 8, func() { delete(cluster.Pods, policy.NamespacedName{Namespace: "a", Name: "pod9"}) }},
		{"a policy for another pod", 16, func() {
			p := policy.Policy{Ref: policy.Ref{Kind: "NetworkPolicy", Namespace: "a", Name: "q"}, Directions: [2]bool{true, false}}
			p.Subject.Pods = selector.In("app", "app11")
			set.Tiers[0].Policies = append(slices.Clone(set.Tiers[0].Policies), p)
		}},
	} {
		change.change()
		part := compiled(t, set, cluster)
		k.stage(part, false)
		got := k.dirty()
		t.Logf("%s: %d rows", change.what, got)
		if got > change.most {
			t.Errorf("%s: %d rows are written to each half, want at most %d", change.what, got, change.most)
		}
		if err := k.Write(part); err != nil {
			t.Fatal(err)
		}
	}
}

// What comes without a change of what is there holds without a change of halves, for which the kernel waits for all programs; all
// else changes halves. Connections are judged again in both cases.
func TestWhatComesIsAdded(t *testing.T) {
	t.Parallel()
	k := newKernel(t, DefaultLimits)
	set, cluster := rules(10)
	pod := func(i int) *policy.Pod {
		return &policy.Pod{
			NamespacedName: policy.NamespacedName{Namespace: "a", Name: fmt.Sprint("new", i)}, Node: "node",
			Labels: policy.Labels{"app": fmt.Sprint("app", i%10)}, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 2, 0, byte(i)})},
		}
	}
	write := func() (added bool) {
		t.Helper()
		half, epoch := k.active, k.epoch
		if err := k.Write(compiled(t, set, cluster)); err != nil {
			t.Fatal(err)
		}
		if k.epoch == epoch {
			t.Error("nothing is judged again")
		}
		if differ, err := k.Repair(); err != nil || len(differ) > 0 {
			t.Errorf("repairs %q (error %v)", differ, err)
		}
		return k.active == half
	}
	if write() {
		t.Error("the first part of a process changed no halves")
	}
	// A connection that nothing of it concerns is asked about all the time.
	packet, stop := k.packet(from(1)), make(chan struct{})
	var reader sync.WaitGroup
	var failed error
	denied := 0
	reader.Go(func() {
		for {
			_, row, err := k.Ask(packet)
			if err != nil {
				failed = err
				return
			}
			if row.Action != uint8(policy.Allow) {
				denied++
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	for i := range 20 {
		p := pod(i)
		cluster.Pods[p.NamespacedName] = p
		if !write() {
			t.Errorf("%s, whose rules are there, changed halves", p.Name)
		}
		c := from(i % 10) // of the one that came, to the port that is its label's
		c.Peer = p.Addresses[0]
		if got := k.action(t, c); got != policy.Allow {
			t.Errorf("from %s: %s", p.Name, got)
		}
		c.DestinationPort++
		if got := k.action(t, c); got != policy.Deny {
			t.Errorf("from %s to another port: %s", p.Name, got)
		}
		if i%10 == 0 { // it is selected
			c := from(1)
			c.Pod, c.Own = p.NamespacedName, p.Addresses[0]
			if got := k.action(t, c); got != policy.Allow {
				t.Errorf("to %s: %s", p.Name, got)
			}
			c.DestinationPort++
			if got := k.action(t, c); got != policy.Deny {
				t.Errorf("to another port of %s: %s", p.Name, got)
			}
		}
	}
	for what, change := range map[string]func(){
		"a pod that goes": func() { delete(cluster.Pods, pod(3).NamespacedName) },
		"other labels":    func() { p := pod(4); p.Labels = policy.Labels{"app": "app5"}; cluster.Pods[p.NamespacedName] = p },
		"a rule less":     func() { r := &set.Tiers[0].Policies[0].Rules[policy.Ingress]; *r = (*r)[:9] },
		"a pod in its place": func() {
			p := pod(5)
			p.Name = "other"
			delete(cluster.Pods, pod(5).NamespacedName)
			cluster.Pods[p.NamespacedName] = p
		},
	} {
		change()
		if write() {
			t.Errorf("%s changed no halves", what)
		}
	}
	close(stop)
	reader.Wait()
	if failed != nil || denied > 0 {
		t.Errorf("%d packets were denied, which the rules always allow; %v", denied, failed)
	}
}

// When rules could not be written, what is written next of endpoints alone brings them, too.
func TestEndpointsAfterFullMaps(t *testing.T) {
	t.Parallel()
	limits := DefaultLimits
	limits.Endpoints = 60
	k := newKernel(t, limits)
	set, cluster := rules(40)
	if err := k.Write(compiled(t, set, cluster)); err != nil {
		t.Fatal(err)
	}
	for i := range set.Tiers[0].Policies[0].Rules[policy.Ingress] {
		set.Tiers[0].Policies[0].Rules[policy.Ingress][i].Traffic[0].DestinationPorts[0] = policy.Port{From: uint16(1000 + i), To: uint16(1000 + i)}
	}
	for i := range 40 {
		name := policy.NamespacedName{Namespace: "a", Name: fmt.Sprint("more", i)}
		cluster.Pods[name] = &policy.Pod{NamespacedName: name, Node: "node", Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 2, 0, byte(i)})}}
	}
	part := compiled(t, set, cluster)
	if err := k.Write(part); err == nil {
		t.Fatal("maps for 60 endpoints took 80")
	}
	for i := range 40 {
		delete(part.Endpoints, policy.NamespacedName{Namespace: "a", Name: fmt.Sprint("more", i)})
	}
	if err := k.WriteEndpoints(part); err != nil {
		t.Fatal(err)
	}
	c := from(1)
	for port, want := range map[uint16]policy.Action{1: policy.Deny, 1001: policy.Allow} {
		c.DestinationPort = port
		if got := k.action(t, c); got != want {
			t.Errorf("from pod1 to port %d: %s, want %s, as the new rules say", port, got, want)
		}
	}
}

// Maps that are full keep the rules that they have, new endpoints are closed, and the next change that fits holds.
func TestFullMapsKeepTheirRules(t *testing.T) {
	t.Parallel()
	for name, limit := range map[string]func(*Limits){
		"tw_pol_peers_3": func(l *Limits) { l.Peers = 60 },
		"tw_pol_addrs_3": func(l *Limits) { l.Addresses = 60 },
		"tw_pol_spans_3": func(l *Limits) { l.Spans = 800 },
		"tw_pol_verd_3":  func(l *Limits) { l.Verdicts = 60 },
		"tw_pol_ends_3":  func(l *Limits) { l.Endpoints = 60 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			limits := DefaultLimits
			limit(&limits)
			k := newKernel(t, limits)
			set, cluster := rules(40)
			part := compiled(t, set, cluster)
			if err := k.Write(part); err != nil {
				t.Fatal(err)
			}
			// The part is the caller's, who puts the next one into it.
			clear(part.Endpoints)
			clear(part.Peers)
			clear(part.Addresses)
			clear(part.Tables)
			// The rules of many, of which the first pods' connections are no longer allowed.
			more, big := rules(400)
			more.Tiers[0].Policies[0].Rules[policy.Ingress] = more.Tiers[0].Policies[0].Rules[policy.Ingress][20:]
			late := policy.NamespacedName{Namespace: "a", Name: "late"}
			big.Pods[late] = &policy.Pod{NamespacedName: late, Node: "node", Addresses: []netip.Addr{addr("10.2.0.1")}}
			delete(big.Pods, policy.NamespacedName{Namespace: "a", Name: "pod30"})
			// Its address is now the late one's; a new pod of its name has another.
			again := *big.Pods[policy.NamespacedName{Namespace: "a", Name: "pod31"}]
			big.Pods[late].Addresses, again.Addresses = again.Addresses, []netip.Addr{addr("10.2.0.1")}
			big.Pods[again.NamespacedName] = &again
			for range 2 {
				var full *FullError
				if err := k.Write(compiled(t, more, big)); !errors.As(err, &full) || full.Map != name || !strings.Contains(err.Error(), name) {
					t.Fatalf("%v: want that %s is full", err, name)
				}
				for _, i := range []int{1, 19, 39} {
					if got := k.action(t, from(i)); got != policy.Allow {
						t.Errorf("from pod%d: %s: want the rules before", i, got)
					}
				}
				if got := k.action(t, from(50)); got != policy.Deny {
					t.Errorf("from pod50: %s", got)
				}
				for _, pod := range []*policy.Pod{big.Pods[late], &again} {
					closed := from(1)
					closed.Pod, closed.Own = pod.NamespacedName, pod.Addresses[0]
					if d, _, err := k.decide(closed); err != nil || d.Reason != policy.Closed {
						t.Errorf("at %s, which is new: %+v, %v: want it closed", pod.NamespacedName, d, err)
					}
					if has, err := k.Programs.Endpoint(closed.Own); err != nil || has != 0 {
						t.Errorf("%s of %s is endpoint %d, %v: want none", closed.Own, pod.NamespacedName, has, err)
					}
				}
				if n := k.Writer.Endpoint(policy.NamespacedName{Namespace: "a", Name: "pod30"}); n != 0 {
					t.Errorf("a pod that is gone is still endpoint %d", n)
				}
			}
			// The same in the next process, which does not know them.
			allowed := k.packet(from(1))
			k.Writer = newWriter(t, k.Programs, limits)
			if err := k.Write(compiled(t, more, big)); err == nil {
				t.Error("the next process wrote them")
			}
			if _, row, err := k.Ask(allowed); err != nil || row.Action != uint8(policy.Allow) {
				t.Errorf("%+v, %v: want the rules before", row, err)
			}
			set, cluster = rules(40)
			set.Tiers[0].Policies[0].Rules[policy.Ingress] = set.Tiers[0].Policies[0].Rules[policy.Ingress][20:]
			if err := k.Write(compiled(t, set, cluster)); err != nil {
				t.Fatal(err)
			}
			for i, want := range map[int]policy.Action{1: policy.Deny, 19: policy.Deny, 20: policy.Allow, 39: policy.Allow} {
				if got := k.action(t, from(i)); got != want {
					t.Errorf("from pod%d: %s, want %s", i, got, want)
				}
			}
			if differ, err := k.Repair(); err != nil || len(differ) > 0 {
				t.Errorf("%q, %v", differ, err)
			}
		})
	}
}

// Whatever somebody else does to the maps, Repair names it and brings it back.
func TestRepair(t *testing.T) {
	t.Parallel()
	k := newKernel(t, DefaultLimits)
	if differ, err := k.Repair(); err != nil || len(differ) > 0 {
		t.Fatalf("nothing was written: %q, %v", differ, err)
	}
	s := newState(4, 13)
	s.set.Tiers[0].Policies = append(s.set.Tiers[0].Policies, s.Policy("a"), s.Policy("b"), s.Policy("c"))
	const node = "node1"
	part := s.part(t, node)
	if err := k.Write(part); err != nil {
		t.Fatal(err)
	}
	inner := map[string]*halves{}
	rows := map[string]int{}
	for name, h := range map[*halves]int{
		&k.endpoints.halves: len(k.endpoints.rows), &k.addresses.halves: len(k.addresses.rows),
		&k.ranges.halves: len(k.ranges.rows), &k.peers.halves: len(k.peers.rows),
		&k.spans.halves: len(k.spans.rows), &k.verdicts.halves: len(k.verdicts.rows),
	} {
		inner[name.shape.Name], rows[name.shape.Name] = name, h
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(inner)) {
		h := inner[name]
		key, row := make([]byte, h.shape.KeySize), make([]byte, h.shape.ValueSize)
		for i := range row {
			row[i] = 0xa5
		}
		for half := range 2 {
			if rows[name] > 0 {
				if h.shape.Type == ebpf.Hash {
					it := h.inner[half].Iterate()
					var v []byte
					if !it.Next(&key, &v) {
						t.Fatalf("%s is empty: %v", name, it.Err())
					}
				}
				must(h.inner[half].Put(key, row))
				k.repaired(t, s, node, part, name)
			}
			if h.shape.Type == ebpf.Hash {
				must(h.inner[half].Put(bytes.Repeat([]byte{0x5a}, len(key)), row))
				k.repaired(t, s, node, part, name)
				if rows[name] > 0 {
					must(h.inner[half].Delete(key))
					k.repaired(t, s, node, part, name)
				}
			}
			other, err := newHalf(h.shape, 64)
			must(err)
			must(h.outer.Put(uint32(half), other))
			must(other.Close())
			k.repaired(t, s, node, part, name)
			must(h.outer.Delete(uint32(half)))
			k.repaired(t, s, node, part, name)
		}
	}
	must(k.verdicts.outer.Delete(headAt))
	k.repaired(t, s, node, part, mapVerdicts+", head")
	must(k.heads[k.active].Put(uint32(0), head{Half: 1 - uint32(k.active)}))
	k.repaired(t, s, node, part, mapVerdicts+", head")
}

func (k *kernel) repaired(t *testing.T, s *state, node string, part *compile.Node, name string) {
	t.Helper()
	differ, err := k.Repair()
	if err != nil || len(differ) != 1 || !strings.HasPrefix(differ[0], name) {
		t.Errorf("%q, %v: want one of %s", differ, err, name)
	}
	if differ, err := k.Repair(); err != nil || len(differ) > 0 {
		t.Errorf("still %q, %v", differ, err)
	}
	k.agree(t, s, node, part, 20, map[string]int{})
}

// While a map is missing the kernel says what the rules say, or nothing passes.
func TestWhatIsMissingCloses(t *testing.T) {
	t.Parallel()
	k := newKernel(t, DefaultLimits)
	const theHead = "the head"
	outer := map[string]*ebpf.Map{theHead: k.verdicts.outer}
	for name, m := range k.Maps {
		if m.Type() == ebpf.ArrayOfMaps {
			outer[name] = m
		}
	}
	const node = "node1"
	closed := map[string]int{}
	for seed := uint64(1); seed <= 12; seed++ {
		s := newState(seed, 17)
		if err := k.Write(s.part(t, node)); err != nil {
			t.Fatal(err)
		}
		for name, m := range outer {
			key := uint32(k.active)
			if name == theHead {
				key = headAt
			}
			if err := m.Delete(key); err != nil {
				t.Fatal(err)
			}
			for range 200 {
				c, ok := s.Connection(s.cluster)
				if !ok || s.cluster.Pods[c.Pod].Node != node {
					continue
				}
				want, _ := naive.Decide(s.set, s.cluster, c)
				number, row, err := k.Ask(k.packet(c))
				if err != nil {
					t.Fatal(err)
				}
				d, ok := k.Decision(row)
				if d.Reason == policy.Closed {
					closed[name]++
				}
				if number == 0 && d.Action == policy.Deny && d.Reason == policy.Closed {
					continue
				}
				if !ok || !reflect.DeepEqual(d, want) {
					t.Fatalf("seed %d without %s: %+v: verdict %d, %+v; want verdict 0 or %+v", seed, name, c, number, d, want)
				}
			}
			if differ, err := k.Repair(); err != nil || len(differ) != 1 {
				t.Fatalf("%q, %v", differ, err)
			}
		}
	}
	t.Log(closed)
	for name := range outer {
		if closed[name] == 0 {
			t.Errorf("without %s nothing was closed", name)
		}
	}
}

// Another process finds the maps with rules in them, and makes others of them.
func TestAnotherProcess(t *testing.T) {
	t.Parallel()
	k := newKernel(t, DefaultLimits)
	for seed := uint64(1); seed < 6; seed++ {
		s := newState(seed, 14)
		for range seed % 3 {
			s.step()
			if err := k.Write(s.part(t, policytest.Nodes[0])); err != nil {
				t.Fatal(err)
			}
		}
		ask := from(1)
		_, before, err := k.Ask(packetOf(1, ask))
		if err != nil {
			t.Fatal(err)
		}
		had := map[netip.Addr]uint32{}
		for name, e := range k.node.Endpoints {
			for _, a := range e.Addresses {
				had[a] = k.Writer.Endpoint(name)
			}
		}
		// The former one ends before its change holds.
		s.step()
		k.stage(s.part(t, policytest.Nodes[0]), false)
		if err := k.fill(1 - k.active); err != nil {
			t.Fatal(err)
		}
		k.Writer = newWriter(t, k.Programs, DefaultLimits)
		if _, row, err := k.Ask(packetOf(1, ask)); err != nil || row != before {
			t.Errorf("%+v, %v: want %+v until rules are written", row, err, before)
		}
		part := s.part(t, policytest.Nodes[0])
		if err := k.Write(part); err != nil {
			t.Fatal(err)
		}
		k.agree(t, s, policytest.Nodes[0], part, 100, map[string]int{})
		for name, e := range part.Endpoints {
			number := k.Writer.Endpoint(name)
			var before []uint32
			for _, a := range e.Addresses {
				if n := had[a]; n != 0 {
					before = append(before, n)
				}
			}
			another := slices.Contains(slices.Collect(maps.Values(had)), number)
			if len(before) > 0 && !slices.Contains(before, number) || len(before) == 0 && another {
				t.Errorf("seed %d: %s %v is endpoint %d; its addresses were %v, all %v", seed, name, e.Addresses, number, before, had)
			}
		}
	}
}
