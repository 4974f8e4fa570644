package hub

import (
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"k8s.io/utils/clock"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
	"terway.dev/terway/internal/policy/policytest"
)

// What a node tells of its pod is newer than what the API server had then, and older than an address that the API server has later.
func TestClaimsAndTheAPIServer(t *testing.T) {
	name := policy.NamespacedName{Namespace: "shop", Name: "web"}
	for _, c := range []struct {
		before, claim, after, want string
	}{
		{"", "10.0.0.5", "", "10.0.0.5"},
		{"", "10.0.0.5", "10.0.0.5", "10.0.0.5"},
		{"", "10.0.0.5", "10.0.0.7", "10.0.0.7"},
		{"10.0.0.4", "10.0.0.5", "10.0.0.4", "10.0.0.5"}, // it says something else of the pod
		{"10.0.0.4", "10.0.0.5", "", "10.0.0.5"},
		{"10.0.0.4", "10.0.0.5", "10.0.0.5", "10.0.0.5"},
		{"10.0.0.4", "10.0.0.5", "10.0.0.7", "10.0.0.7"},
		{"10.0.0.4", "", "10.0.0.4", "10.0.0.4"},
		{"10.0.0.4", "10.0.0.5", "10.0.0.5 2001:db8::5", "10.0.0.5 2001:db8::5"},
	} {
		pod := func(list string, labels policy.Labels) map[policy.NamespacedName]*policy.Pod {
			return map[policy.NamespacedName]*policy.Pod{name: {NamespacedName: name, Labels: labels, Node: "node1", Addresses: addresses(list)}}
		}
		h := New(Config{Budget: compile.DefaultBudget, Log: slog.New(slog.DiscardHandler), Clock: clock.RealClock{}})
		if err := h.Apply(compile.Delta{Namespaces: map[string]policy.Labels{"shop": {}}, Pods: pod(c.before, nil)}); err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := h.claim(name, "node1", addresses(c.claim)); err != nil {
			t.Fatal(err)
		}
		if err := h.Apply(compile.Delta{Pods: pod(c.after, policy.Labels{"app": "web"})}); err != nil {
			t.Fatal(err)
		}
		if got := h.pods.effective(name).Addresses; !slices.Equal(got, addresses(c.want)) {
			t.Errorf("%+v: the pod has %s", c, got)
		}
	}
}

func addresses(list string) (out []netip.Addr) {
	for a := range strings.FieldsSeq(list) {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// Nodes claim addresses, and the API server reports pods, in any order. Afterwards each claimed
// address belongs to one pod, and the compiler has the same as one that starts from scratch. An
// invalid change has no effect.
func TestClaimsInAnyOrder(t *testing.T) {
	claimed, refused, taken := 0, 0, 0
	for seed := range uint64(100) {
		w := policytest.World{Source: rand.New(rand.NewPCG(seed, 9))}
		h := New(Config{Budget: compile.DefaultBudget, Log: slog.New(slog.DiscardHandler), Clock: clock.RealClock{}})
		set, cluster := w.Set(), w.Cluster()
		all := cluster
		all.Pods = maps.Clone(cluster.Pods)
		if err := h.Apply(compile.All(set, all)); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			i := w.IntN(len(policytest.PodNames()))
			name := policytest.PodNames()[i]
			switch w.IntN(4) {
			case 0:
				p := w.Pod(i)
				cluster.Pods[name] = p
				if w.IntN(4) == 0 {
					p = nil
					delete(cluster.Pods, name)
				} else if w.IntN(2) == 0 && !p.HostNetwork {
					p.Addresses = nil
				}
				if err := h.Apply(compile.Delta{Pods: map[policy.NamespacedName]*policy.Pod{name: p}}); err != nil {
					t.Fatal(err)
				}
			case 1: // it is invalid, and is undone
				before := fmt.Sprint(h.pods.claims, h.pods.claimed, h.pods.owners)
				d := compile.Delta{Pods: map[policy.NamespacedName]*policy.Pod{name: nil}, Nodes: map[string]*policy.Node{"node1": {Addresses: []netip.Addr{{}}}}}
				if err := h.Apply(d); err == nil {
					t.Fatal("a node without address is accepted")
				}
				if after := fmt.Sprint(h.pods.claims, h.pods.claimed, h.pods.owners); after != before {
					t.Fatalf("seed %d: after an error there are\n%s\nwant\n%s", seed, after, before)
				}
			default:
				var addresses []netip.Addr
				if w.IntN(5) > 0 {
					addresses = []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(w.IntN(10))})}
				}
				if _, _, _, err := h.claim(name, policytest.Nodes[w.IntN(2)], addresses); err != nil {
					refused++
				} else {
					claimed++
				}
			}
			owners := map[netip.Addr]policy.NamespacedName{}
			now := cluster
			now.Pods = map[policy.NamespacedName]*policy.Pod{}
			for name := range cluster.Pods {
				p := h.pods.effective(name)
				now.Pods[name] = p
				if !running(p) {
					continue
				}
				for _, a := range p.Addresses {
					if o, ok := owners[a]; ok {
						t.Fatalf("seed %d: %s and %s have %s", seed, o, name, a)
					}
					owners[a] = name
				}
				if len(p.Addresses) < len(cluster.Pods[name].Addresses) {
					taken++
				}
			}
			for a, name := range h.pods.claimed {
				if o, ok := owners[a]; ok && o != name {
					t.Fatalf("seed %d: %s claims %s, and %s has it", seed, name, a, o)
				}
			}
			anew, err := compile.Compile(set, now, compile.DefaultBudget)
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range policytest.Nodes {
				if got, want := h.compiler.ForNode(n), anew.ForNode(n); !reflect.DeepEqual(got, want) {
					t.Fatalf("seed %d: %s has\n%+v\nwant\n%+v", seed, n, got, want)
				}
			}
		}
	}
	t.Logf("%d claims, %d refused; %d times a claim took a pod's address", claimed, refused, taken)
	if claimed < 150 || refused < 150 || taken < 50 {
		t.Errorf("too few of %d claims, %d refused ones, %d addresses taken over", claimed, refused, taken)
	}
}
