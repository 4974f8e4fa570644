package ebpf

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"terway.dev/terway/internal/datapath/bpfobj"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/fastpath"
	"terway.dev/terway/internal/datapath/suite/policed"
	"terway.dev/terway/internal/datapath/suite/world"
	"terway.dev/terway/internal/policy"
)

func newPoliced(o world.Options) (world.Subject, policed.Enforcer, error) {
	k := New(4096)
	p := k.Policy()
	s, err := subjectOf(k, o, p)
	return s, p, err
}

// What policies do to pods of this kind.
func TestPolicy(t *testing.T) { policed.Run(t, kit, newPoliced) }

// The programs that judge get a fast path with the node's first pod that has one, or is to have one, and a later agent's have none when
// no such pod is left. Connections that are allowed go on, and what was judged stays known.
func TestFastPathComesAndGoes(t *testing.T) {
	c := policed.New()
	w := c.Kit(kit, newPoliced).NewWorld(t, 2, 1)
	n0, n1 := w.Nodes[0], w.Nodes[1]
	n0.Desired.Kind = claims.Route
	n0.Sync()
	n1.Sync()
	kind := func() *Kind { return n0.DP.(*policed.Node).Subject.(*subject).kind }
	judged := func() ebpf.MapID {
		t.Helper()
		maps, err := n0.DP.(*policed.Node).Prepare()
		if err != nil {
			t.Fatal(err)
		}
		info, err := maps[mapJudged].Info()
		if err != nil {
			t.Fatal(err)
		}
		id, _ := info.ID()
		return id
	}
	old := n0.DescribeShared(claims.Route, 1, "4", "6")
	old.Add()
	far, stranger := n1.AddPod(1, "4", "6"), n1.AddPod(1, "4", "6")
	fresh := n0.DescribeShared(claims.EBPF, 1, "4", "6")
	for _, p := range []*world.Pod{old, far} {
		p.Echo(7)
	}
	allow := func(pods ...*world.Pod) {
		t.Helper()
		var nets []netip.Prefix
		for _, p := range pods {
			nets = append(nets, netip.PrefixFrom(p.V4, 32), netip.PrefixFrom(p.V6, 128))
		}
		p := policy.Policy{Ref: policy.Ref{Kind: "NetworkPolicy", Namespace: "default", Name: "known"}, Subject: policy.PodSelector{Namespace: "default"}, Directions: [2]bool{true, false}}
		p.Rules[policy.Ingress] = []policy.Rule{{Action: policy.Allow, Peers: []policy.Match{{In: []policy.AddrSet{{Nets: nets}}}}}}
		if err := c.Apply(p); err != nil {
			t.Fatal(err)
		}
	}
	allow(old, far, fresh)
	var talks []*world.Talking
	for _, network := range []string{"tcp", "udp"} {
		for _, to := range []netip.Addr{old.V4, old.V6} {
			talks = append(talks, world.StartRepeatingTalk(t, far.NS, network, world.At(to, 7)))
		}
		talks = append(talks, world.StartRepeatingTalk(t, old.NS, network, world.At(far.V4, 7)))
	}
	was := judged()
	look := func(when string, direct bool, pods ...*world.Pod) {
		t.Helper()
		for _, k := range talks {
			k.More(20)
		}
		n0.Sync(pods...)
		if repairs := n0.Sync(pods...); len(repairs) != 0 {
			t.Errorf("%s: another Sync repairs %q", when, repairs)
		}
		for _, k := range talks {
			k.More(20)
		}
		world.MustNotReach(t, stranger.NS, world.At(old.V4, 7))
		allow(old, far, fresh, stranger)
		world.Talk(t, stranger.NS, "tcp", world.At(old.V4, 7), 1)
		allow(old, far, fresh)
		world.MustNotReach(t, stranger.NS, world.At(old.V4, 7))
		if id := judged(); id != was {
			t.Errorf("%s: what was judged is in map %d, was in %d", when, id, was)
		}
		k := kind()
		h := must(handle(n0))
		defer h.Close()
		maps, err := bpfobj.Maps(must(k.Running(h)))
		if err != nil {
			t.Fatal(err)
		}
		for name, m := range maps {
			if slices.Contains([]string{fastpath.MapKnown4, fastpath.MapPods, mapEnds}, name) && !direct {
				t.Errorf("%s: a program has map %s", when, name)
			}
			_ = m.Close()
		}
		if got := k.Loader.Objects.Direct(); got != direct {
			t.Errorf("%s: the programs have a fast path: %t, want %t", when, got, direct)
		}
	}
	restart := func() {
		t.Helper()
		if err := n0.DP.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		n0.DP = n0.NewDatapath()
	}
	look("no pod has a fast path", false, old)
	n0.Desired.Kind = claims.EBPF
	fresh.Add()
	look("one pod has one", true, old, fresh)
	sent := func() uint64 {
		t.Helper()
		counts, err := kind().Counters()
		if err != nil {
			t.Fatal(err)
		}
		return counts["to-eni"]
	}
	before := sent()
	world.Talk(t, fresh.NS, "tcp", world.At(far.V4, 7), 20)
	if n := sent() - before; n < 15 {
		t.Errorf("%d packets of 20 exchanges took the fast path", n)
	}
	n0.Desired.Kind = claims.Route
	restart()
	look("one pod has one, and new pods do not", true, old, fresh)
	fresh.Del()
	n0.Settle() // its device keeps its programs
	look("the pod is gone", true, old)
	restart()
	look("the pod is gone, and the agent is new", false, old)
	for _, k := range talks {
		k.End(t)
	}
}
