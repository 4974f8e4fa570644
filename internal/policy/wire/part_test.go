package wire_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
	"terway.dev/terway/internal/policy/policytest"
	"terway.dev/terway/internal/policy/wire"
)

func encode(n *compile.Node, open ...string) (map[wire.Name]*wire.Resource, wire.Digest) {
	out := map[wire.Name]*wire.Resource{}
	var digest wire.Digest
	for _, r := range wire.Encode(n, wire.EncodeNamespaces(open)) {
		if out[r.Name] == nil {
			digest.Add(r.Name)
		}
		out[r.Name] = r.Resource
	}
	return out, digest
}

// difference returns what takes one part to another.
func difference(was, now map[wire.Name]*wire.Resource) (put map[wire.Name]*wire.Resource, remove map[wire.Name]struct{}) {
	put, remove = map[wire.Name]*wire.Resource{}, map[wire.Name]struct{}{}
	for n, r := range now {
		if was[n] == nil {
			put[n] = r
		}
	}
	for n := range was {
		if now[n] == nil {
			remove[n] = struct{}{}
		}
	}
	return put, remove
}

func random(seed uint64) (*compile.Compiler, error) {
	w := policytest.World{Source: rand.New(rand.NewPCG(seed, 5))}
	budget := compile.DefaultBudget
	if seed%5 == 0 {
		budget = compile.Budget{Atoms: 6, Spans: 60} // some fail closed
	}
	return compile.Compile(w.Set(), w.Cluster(), budget)
}

// A part is the same after encoding and decoding, also when it replaces another part, and a
// replica with another history uses the same names.
func TestAPartIsWhatItsResourcesSay(t *testing.T) {
	part := wire.NewPart()
	was := map[wire.Name]*wire.Resource{}
	kinds := map[wire.Kind]int{}
	for seed := range uint64(500) {
		c, err := random(seed)
		if err != nil {
			t.Fatal(err)
		}
		n := c.ForNode("node1")
		now, digest := encode(n, "blue", "green")
		put, remove := difference(was, now)
		keys, err := part.Change(put, remove, digest)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if !reflect.DeepEqual(part.Node(), n) {
			t.Fatalf("seed %d: the part is\n%+v\nwant\n%+v", seed, part.Node(), n)
		}
		if !part.Open("blue") || part.Open("red") {
			t.Fatalf("seed %d: blue is open: %t, red %t", seed, part.Open("blue"), part.Open("red"))
		}
		if len(put)+len(remove) == 0 && !keys.Empty() {
			t.Fatalf("seed %d: nothing was put or removed, and %+v changed", seed, keys)
		}
		again, _ := random(seed)
		if same, _ := encode(again.ForNode("node1"), "green", "blue"); !reflect.DeepEqual(names(same), names(now)) {
			t.Fatalf("seed %d: another replica has other names", seed)
		}
		for _, r := range now {
			kinds[r.Kind]++
		}
		was = now
	}
	t.Logf("resources by kind: %v", kinds)
	for k := range wire.Kind_name {
		if k > 0 && kinds[wire.Kind(k)] < 100 {
			t.Errorf("%d resources of %s: want some in most parts", kinds[wire.Kind(k)], wire.Kind(k))
		}
	}
}

// A namespace that is open no more is a change.
func TestOpenNamespacesAreAChange(t *testing.T) {
	c, err := random(1)
	if err != nil {
		t.Fatal(err)
	}
	n := c.ForNode("node1")
	part := wire.NewPart()
	was, digest := encode(n, "blue", "green")
	if _, err := part.Change(was, nil, digest); err != nil {
		t.Fatal(err)
	}
	now, digest := encode(n, "blue")
	put, remove := difference(was, now)
	keys, err := part.Change(put, remove, digest)
	if err != nil {
		t.Fatal(err)
	}
	if !keys.Open || keys.Empty() || part.Open("green") || !part.Open("blue") {
		t.Errorf("%+v: want the open namespaces changed; green is open: %t", keys, part.Open("green"))
	}
}

func names(m map[wire.Name]*wire.Resource) map[wire.Name]bool {
	out := map[wire.Name]bool{}
	for n := range m {
		out[n] = true
	}
	return out
}

// Two replicas may hold a decision as one value or as several: the table has the same name.
func TestATableHasOneName(t *testing.T) {
	decision := func() *compile.Decision {
		d, err := compile.NewDecision(policy.Decision{Action: policy.Allow, Tier: "default"})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	d := decision()
	table := func(a, b *compile.Decision) *compile.Table {
		return &compile.Table{Lines: [6]compile.Line{{{Decision: a}, {From: 7, Level: 1, Decision: b}}}}
	}
	if a, b := wire.EncodeTable(table(d, d)), wire.EncodeTable(table(decision(), decision())); a.Name != b.Name {
		t.Errorf("%s and %s", a.Name, b.Name)
	}
}

// A change of one address in 30,000 changes few resources, and few bytes.
func TestAChangeOfOneEntryIsSmall(t *testing.T) {
	n := &compile.Node{Addresses: map[netip.Addr]compile.Place{}}
	place := compile.Place{Atom: compile.Hash{1}, Base: compile.Hash{2}, Pod: true}
	at := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}) }
	const all = 30_000
	for i := range all {
		n.Addresses[at(2*i)] = place
	}
	was, _ := encode(n)
	t.Logf("%d addresses are %d resources", all, len(was))
	if len(was) < all/64 || len(was) > all/16 {
		t.Errorf("%d addresses are %d resources: want one for about 32", all, len(was))
	}
	bytes, most := 0, 0
	for i := range 20 {
		a := at(2*i*97 + 1)
		n.Addresses[a] = place
		now, _ := encode(n)
		put, remove := difference(was, now)
		if len(put) > 2 || len(remove) > 2 {
			t.Fatalf("with %s %d resources were put and %d removed: want one or two", a, len(put), len(remove))
		}
		for _, r := range put {
			bytes += len(r.Body)
			most = max(most, len(r.Body))
		}
		delete(n.Addresses, a)
	}
	t.Logf("one more address is %d bytes on average, %d at most", bytes/20, most)
}

// An inconsistent change is refused, and the part stays as it was.
func TestWhatDoesNotFitIsRefused(t *testing.T) {
	c, err := random(1)
	if err != nil {
		t.Fatal(err)
	}
	n := c.ForNode("node1")
	all, digest := encode(n)
	table := compile.Hash{7}
	resource := func(k wire.Kind, m proto.Message) *wire.Resource {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return &wire.Resource{Kind: k, Body: b}
	}
	var address netip.Addr
	for address = range n.Addresses {
	}
	tests := map[string]*wire.Resource{
		"an address twice":            resource(wire.Kind_KIND_ADDRESSES, &wire.Addresses{Places: []*wire.Place{{Addresses: [][]byte{address.AsSlice()}}}}),
		"an address of 5 bytes":       resource(wire.Kind_KIND_ADDRESSES, &wire.Addresses{Places: []*wire.Place{{Addresses: [][]byte{{1, 2, 3, 4, 5}}}}}),
		"a table without a name":      resource(wire.Kind_KIND_TABLE, &wire.Table{}),
		"a table of a seventh class":  resource(wire.Kind_KIND_TABLE, &wire.Table{Name: table[:], Lines: []*wire.Line{{Class: 6}}}),
		"spans that do not begin":     resource(wire.Kind_KIND_TABLE, &wire.Table{Name: table[:], Lines: []*wire.Line{{Spans: []*wire.Span{{From: 1}}}}}),
		"a decision that is none":     resource(wire.Kind_KIND_TABLE, &wire.Table{Name: table[:], Decisions: []*wire.Decision{{Action: 3}}}),
		"a decision that is not here": resource(wire.Kind_KIND_TABLE, &wire.Table{Name: table[:], Lines: []*wire.Line{{Spans: []*wire.Span{{Decision: 1}}}}}),
		"a rule set without tables":   resource(wire.Kind_KIND_RULE_SET, &wire.RuleSet{Name: table[:], Defaults: [][]byte{table[:], table[:]}}),
		"peers of no rule set":        resource(wire.Kind_KIND_PEERS, &wire.Peers{RuleSet: table[:], Peers: []*wire.Peer{{}}}),
		"a pod without rule sets": resource(wire.Kind_KIND_ENDPOINT, &wire.Endpoint{
			Namespace: "n", Pod: "p", RuleSets: [][]byte{table[:], nil, nil, nil},
		}),
		"ranges from before the first": resource(wire.Kind_KIND_RANGES, &wire.Ranges{Ranges: []*wire.Range{{From: []byte{0, 0, 0, 0}}}}),
		"no message":                   {Kind: wire.Kind_KIND_ADDRESSES, Body: []byte{0xff}},
	}
	for what, r := range tests {
		t.Run(what, func(t *testing.T) {
			part := wire.NewPart()
			if _, err := part.Change(all, nil, digest); err != nil {
				t.Fatal(err)
			}
			with := digest
			with.Add(r.Name())
			_, err := part.Change(map[wire.Name]*wire.Resource{r.Name(): r}, nil, with)
			if err == nil {
				t.Fatal("it is accepted")
			}
			t.Log(err)
			if !reflect.DeepEqual(part.Node(), n) || len(part.Resources()) != len(all) {
				t.Errorf("the part has changed")
			}
			if _, err := part.Change(nil, nil, digest); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
	t.Run("one is missing", func(t *testing.T) {
		for n := range all {
			part := wire.NewPart()
			less := map[wire.Name]*wire.Resource{}
			for k, r := range all {
				if k != n {
					less[k] = r
				}
			}
			if _, err := part.Change(less, nil, digest); err == nil {
				t.Fatalf("%s can be missing", all[n].Kind)
			}
		}
	})
}

// A resource of an unknown kind is kept, and has no effect.
func TestAnUnknownKindIsKept(t *testing.T) {
	c, err := random(2)
	if err != nil {
		t.Fatal(err)
	}
	all, digest := encode(c.ForNode("node1"))
	future := &wire.Resource{Kind: 99, Body: []byte("later")}
	all[future.Name()] = future
	digest.Add(future.Name())
	part := wire.NewPart()
	if _, err := part.Change(all, nil, digest); err != nil {
		t.Fatal(err)
	}
	if part.Resources()[future.Name()] == nil || !reflect.DeepEqual(part.Node(), c.ForNode("node1")) {
		t.Error("it is not kept, or has an effect")
	}
}

// Any input gives an error, or a part that Maps can be called on.
func FuzzResource(f *testing.F) {
	for seed := range uint64(3) {
		c, err := random(seed)
		if err != nil {
			f.Fatal(err)
		}
		all, _ := encode(c.ForNode("node1"), "blue")
		for _, r := range all {
			f.Add(int32(r.Kind), r.Body)
		}
	}
	c, err := random(3)
	if err != nil {
		f.Fatal(err)
	}
	all, digest := encode(c.ForNode("node1"))
	f.Fuzz(func(t *testing.T, kind int32, body []byte) {
		part := wire.NewPart()
		if _, err := part.Change(all, nil, digest); err != nil {
			t.Fatal(err)
		}
		r := &wire.Resource{Kind: wire.Kind(kind), Body: body}
		if all[r.Name()] != nil {
			return
		}
		with := digest
		with.Add(r.Name())
		if _, err := part.Change(map[wire.Name]*wire.Resource{r.Name(): r}, nil, with); err == nil {
			part.Node().Maps()
		}
		if _, err := part.Change(nil, map[wire.Name]struct{}{r.Name(): {}}, digest); err == nil {
			if !reflect.DeepEqual(part.Node(), c.ForNode("node1")) {
				t.Error("after its removal the part is not what it was before")
			}
		}
	})
}

// Keys contain each entry that changed, and few that did not.
func TestKeysNameWhatChanged(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64Range(0, 1<<20).Draw(t, "seed")
		w := policytest.World{Source: rand.New(rand.NewPCG(seed, 6))}
		set, cluster := w.Set(), w.Cluster()
		c, err := compile.Compile(set, cluster, compile.DefaultBudget)
		if err != nil {
			t.Fatal(err)
		}
		was := c.ForNode("node1")
		before, digest := encode(was)
		part := wire.NewPart()
		if _, err := part.Change(before, nil, digest); err != nil {
			t.Fatal(err)
		}
		i := w.IntN(len(policytest.PodNames()))
		if _, err := c.Apply(compile.Delta{Pods: map[policy.NamespacedName]*policy.Pod{policytest.PodNames()[i]: w.Pod(i)}}); err != nil {
			t.Fatal(err)
		}
		now := c.ForNode("node1")
		after, digest := encode(now)
		put, remove := difference(before, after)
		keys, err := part.Change(put, remove, digest)
		if err != nil {
			t.Fatal(err)
		}
		for _, err := range []error{
			named("address", was.Addresses, now.Addresses, keys.Addresses, true),
			named("peer", was.Peers, now.Peers, keys.Peers, true),
			named("table", was.Tables, now.Tables, keys.Tables, false),
			named("rule set", was.RuleSets, now.RuleSets, keys.RuleSets, false),
			named("endpoint", was.Endpoints, now.Endpoints, keys.Endpoints, false),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		for f := range was.Ranges {
			if !reflect.DeepEqual(was.Ranges[f], now.Ranges[f]) && !keys.Ranges[f] {
				t.Fatalf("ranges changed, and Keys do not say so")
			}
		}
	})
}

func named[K comparable, V any](what string, was, now map[K]V, keys map[K]struct{}, exact bool) error {
	all := map[K]struct{}{}
	for k := range was {
		all[k] = struct{}{}
	}
	for k := range now {
		all[k] = struct{}{}
	}
	for k := range all {
		a, had := was[k]
		b, has := now[k]
		_, is := keys[k]
		if other := had != has || !reflect.DeepEqual(a, b); other != is && (exact || other) {
			return fmt.Errorf("%s %v: changed: %t, in Keys: %t", what, k, other, is)
		}
	}
	return nil
}
