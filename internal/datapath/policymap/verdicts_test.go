package policymap

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"terway.dev/terway/internal/datapath/policymap/policymaptest"
	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
	"terway.dev/terway/internal/policy/naive"
	"terway.dev/terway/internal/policy/policytest"
)

// few is how many cases a test tries: with -short, on an emulated processor, a fifth of all.
func few(all int) int {
	if testing.Short() {
		return all / 5
	}
	return all
}

// kernel is the programs and the Writer of their maps.
type kernel struct {
	*policymaptest.Programs
	*Writer
}

func newKernel(t testing.TB, limits Limits) *kernel {
	t.Helper()
	p := policymaptest.Load(t)
	return &kernel{p, newWriter(t, p, limits)}
}

func newWriter(t testing.TB, p *policymaptest.Programs, limits Limits) *Writer {
	t.Helper()
	w, err := New(p.Maps, limits)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// decide is the kernel's verdict on a connection.
func (k *kernel) decide(c policy.Connection) (policy.Decision, compile.VerdictRow, error) {
	_, row, err := k.Ask(k.packet(c))
	if err != nil {
		return policy.Decision{}, row, err
	}
	d, ok := k.Decision(row)
	if !ok {
		return d, row, fmt.Errorf("nobody knows the rules of %+v", row)
	}
	return d, row, nil
}

func (k *kernel) packet(c policy.Connection) compile.Packet {
	return packetOf(k.Writer.Endpoint(c.Pod), c)
}

func packetOf(endpoint uint32, c policy.Connection) compile.Packet {
	return compile.Packet{
		Endpoint: endpoint, Direction: c.Direction, Peer: c.Peer, Protocol: c.Protocol,
		SourcePort: c.SourcePort, DestinationPort: c.DestinationPort, ICMPType: c.ICMPType, ICMPCode: c.ICMPCode,
	}
}

// state is a cluster and its policies.
type state struct {
	policytest.World
	set     policy.Set
	cluster policy.Cluster
}

func newState(seed, stream uint64) *state {
	w := policytest.World{Source: rand.New(rand.NewPCG(seed, stream))}
	return &state{w, w.Set(), w.Cluster()}
}

func (s *state) part(t testing.TB, node string) *compile.Node {
	t.Helper()
	c, err := compile.Compile(s.set, s.cluster, compile.DefaultBudget)
	if err != nil {
		t.Fatal(err)
	}
	return c.ForNode(node)
}

// step changes one to three things. What was made of the state before is not touched.
func (s *state) step() {
	c := s.cluster
	c.Pods, c.Namespaces, c.NetworkSets, c.Services = maps.Clone(c.Pods), maps.Clone(c.Namespaces), maps.Clone(c.NetworkSets), maps.Clone(c.Services)
	tiers := append([]policy.Tier{}, s.set.Tiers...)
	for range 1 + s.IntN(3) {
		switch s.IntN(8) {
		case 0, 1, 2:
			t := &tiers[s.IntN(len(tiers))]
			t.Policies = append([]policy.Policy{}, t.Policies...)
			if len(t.Policies) == 0 || s.IntN(3) == 0 {
				t.Policies = append(t.Policies, s.Policy(fmt.Sprintf("%s-new%d", t.Name, len(t.Policies))))
			} else {
				p := &t.Policies[s.IntN(len(t.Policies))]
				*p = s.Policy(p.Ref.Name)
			}
		case 3, 4:
			i := s.IntN(len(policytest.PodNames()))
			if name := policytest.PodNames()[i]; s.IntN(3) == 0 {
				delete(c.Pods, name)
			} else {
				c.Pods[name] = s.Pod(i)
			}
		case 5:
			c.Namespaces[policytest.Namespaces[s.IntN(3)]] = s.Labels()
		case 6:
			c.NetworkSets[s.SetName()] = s.NetworkSet()
		case 7:
			c.Services[s.ServiceName()] = s.Endpoints()
		}
	}
	s.cluster, s.set = c, policy.Set{Tiers: tiers}
}

// agree asks the kernel, Maps.Lookup and the model about connections of a node's pods.
func (k *kernel) agree(t *testing.T, s *state, node string, part *compile.Node, connections int, count map[string]int) {
	t.Helper()
	m := part.Maps()
	for range connections {
		conn, ok := s.Connection(s.cluster)
		if !ok {
			return
		}
		if s.cluster.Pods[conn.Pod].Node != node {
			continue
		}
		want, _ := naive.Decide(s.set, s.cluster, conn)
		packet := packetOf(m.EndpointOf[conn.Pod], conn)
		row := m.Verdicts[m.Lookup(packet)]
		if lookup := m.Decision(m.Lookup(packet)); !reflect.DeepEqual(lookup, want) {
			t.Fatalf("%+v: Lookup says %+v, the model %+v", conn, lookup, want)
		}
		got, has, err := k.decide(conn)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) || has.Level != row.Level || has.Action != row.Action || has.Count != row.Count {
			t.Fatalf("%+v: the kernel says %+v (%+v), want %+v (%+v)", conn, got, has, want, row)
		}
		number, err := k.Programs.Endpoint(conn.Own)
		if err != nil {
			t.Fatal(err)
		}
		if want := k.Writer.Endpoint(conn.Pod); number != want || number == 0 {
			t.Fatalf("the kernel says that %s is endpoint %d, want %d", conn.Own, number, want)
		}
		count["connections"]++
		count[want.Action.String()]++
		if len(want.Logs) > 0 {
			count["logged"]++
		}
		if conn.Own.Is6() {
			count["IPv6"]++
		}
	}
}

// The parts of all worlds are written over one another, each after some steps of history.
func TestTheKernelSaysWhatTheModelSays(t *testing.T) {
	t.Parallel()
	k := newKernel(t, DefaultLimits)
	want := few(20_000)
	count := map[string]int{}
	for seed := uint64(1); count["connections"] < want; seed++ {
		s, endpoints := newState(seed, 11), rand.New(rand.NewPCG(seed, 12))
		for range 1 + s.IntN(6) {
			for _, node := range policytest.Nodes {
				part := s.part(t, node)
				if err := k.Write(part); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				k.endpointsAlone(t, endpoints, part, count)
				k.agree(t, s, node, part, 400, count)
				if t.Failed() {
					t.Fatalf("seed %d", seed)
				}
			}
			s.step()
		}
	}
	t.Log(count)
	for what, least := range map[string]int{"allow": want / 5, "deny": want / 5, "logged": want / 50, "IPv6": want / 5, "taken away": want / 400, "moved": want / 2000} {
		if count[what] < least {
			t.Errorf("%d are %s, want %d: the worlds are too simple", count[what], what, least)
		}
	}
	differ, err := k.Repair()
	if err != nil || len(differ) > 0 {
		t.Errorf("the maps are not what was written: %q, %v", differ, err)
	}
}

// endpointsAlone takes endpoints away, gives some of them another one's addresses, and puts all back as they were. Each time the rows are those
// that Write would make.
func (k *kernel) endpointsAlone(t *testing.T, r *rand.Rand, part *compile.Node, count map[string]int) {
	t.Helper()
	other := *part
	other.Endpoints = map[policy.NamespacedName]compile.Endpoint{}
	var left []netip.Addr
	byName := func(a, b policy.NamespacedName) int { return strings.Compare(a.String(), b.String()) }
	for _, name := range slices.SortedFunc(maps.Keys(part.Endpoints), byName) { // the same ones in each run of the test
		e := part.Endpoints[name]
		switch r.IntN(3) {
		case 0:
			left = append(left, e.Addresses...)
			count["taken away"]++
			continue
		case 1:
			if len(left) > 0 && len(e.Addresses) > 0 {
				e.Addresses, left = left, nil
				count["moved"]++
			}
		}
		other.Endpoints[name] = e
	}
	for _, p := range []*compile.Node{&other, part} {
		if err := k.WriteEndpoints(p); err != nil {
			t.Fatal(err)
		}
		k.stage(p, false)
		if n := k.dirty(); n > 0 {
			t.Fatalf("%d rows are not as Write makes them", n)
		}
		if differ, err := k.Repair(); err != nil || len(differ) > 0 {
			t.Fatalf("the maps are not what was written: %q, %v", differ, err)
		}
	}
}

// Without rules, and for an endpoint that is none, nothing passes.
func TestWithoutRulesNothingPasses(t *testing.T) {
	t.Parallel()
	k := newKernel(t, DefaultLimits)
	ask := func() {
		t.Helper()
		for endpoint := range uint32(3) {
			for _, peer := range []string{"10.0.0.1", "fd00::1"} {
				number, row, err := k.Ask(compile.Packet{Endpoint: endpoint, Peer: addr(peer), Protocol: policy.TCPProtocol})
				if err != nil || number != 0 || row != (compile.VerdictRow{Action: uint8(policy.Deny)}) {
					t.Errorf("endpoint %d: verdict %d, %+v, %v", endpoint, number, row, err)
				}
				if d, ok := k.Decision(row); !ok || d.Reason != policy.Closed {
					t.Errorf("%+v stands for %+v, %v", row, d, ok)
				}
			}
		}
	}
	ask()
	c := compile.New(compile.DefaultBudget)
	if err := k.Write(c.ForNode("node")); err != nil {
		t.Fatal(err)
	}
	ask()
}
