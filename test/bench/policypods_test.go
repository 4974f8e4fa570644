//go:build bench

package bench

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	bpf "github.com/cilium/ebpf"
	"k8s.io/utils/clock"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/agent/nodepolicy"
	"terway.dev/terway/internal/controller/certs"
	"terway.dev/terway/internal/datapath/ebpf"
	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
	"terway.dev/terway/internal/policy/hub"
	policynode "terway.dev/terway/internal/policy/node"
	"terway.dev/terway/internal/policy/wire"
	"terway.dev/terway/internal/testutil"
	"terway.dev/terway/test/bench/report"
)

const (
	hubName = "terway-policy.kube-system.svc"
	// rulesOfNode is how many rules the node's pods have, otherNodes how many other nodes have rules that name pods.
	rulesOfNode, otherNodes = 1000, 20
	// fullNode is how many pods the node has when its maps are measured.
	fullNode = 250
)

// hubJob is where an agent's process finds the policy hub.
type hubJob struct {
	Socket string
	Trust  []byte
	Node   string // its token
}

func (h *hubJob) config(path string, log *slog.Logger) policynode.Config {
	return policynode.Config{
		Path: path, Version: "bench", ServerName: hubName,
		Hubs:  func(context.Context) ([]string, error) { return []string{"unix:" + h.Socket}, nil },
		Trust: func() ([]byte, error) { return h.Trust, nil },
		Token: func() (string, error) { return h.Node, nil },
		Log:   log, Clock: clock.RealClock{},
	}
}

// follow returns an agent's policies as terwayd has them.
func (h *hubJob) follow(dir string, e *ebpf.Policy, repair func(), log *slog.Logger) *nodepolicy.Policies {
	return nodepolicy.New(nodepolicy.Options{
		Hub: h.config(filepath.Join(dir, "policy"), log), Maps: e.Prepare,
		Written: func() error {
			if err := e.On(); err != nil {
				return err
			}
			repair()
			return nil
		},
		Denied: e.Denied, Lines: io.Discard, Wait: 10 * time.Second,
		Alarm: func(reason, note string) { log.Error("alarm", "reason", reason, "note", note) }, Log: log, Clock: clock.RealClock{},
	})
}

// byName accepts a node's name as its token.
type byName struct{}

func (byName) Review(_ context.Context, token string) (hub.Identity, error) {
	return hub.Identity{Node: token, Expires: time.Now().Add(24 * time.Hour)}, nil
}

// policyHub is a hub that agents in other namespaces reach by a socket in the file system.
type policyHub struct {
	*hub.Hub
	job     hubJob
	cluster policy.Cluster
	list    []policy.Policy
}

func newPolicyHub(t testing.TB) *policyHub {
	server := certs.Server{Name: "terway-policy", Host: hubName}
	data, _, err := server.Turn(nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	h := &policyHub{
		Hub:     hub.New(hub.Config{Name: "bench", Authenticator: byName{}, Budget: compile.DefaultBudget, Log: slog.New(slog.DiscardHandler), Clock: clock.RealClock{}}),
		job:     hubJob{Socket: filepath.Join(t.TempDir(), "hub"), Trust: data[certs.Trust]},
		cluster: policy.Cluster{Namespaces: map[string]policy.Labels{}, Pods: map[policy.NamespacedName]*policy.Pod{}},
	}
	l, err := net.Listen("unix", h.job.Socket)
	if err != nil {
		t.Fatal(err)
	}
	s := h.Server(func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		c, _, err := server.Serving(data, time.Now())
		return c, err
	})
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return h
}

// of returns the job of a node's agent.
func (h *policyHub) of(node string) *hubJob {
	j := h.job
	j.Node = node
	return &j
}

// pods adds pods of a node, which have no addresses yet, and their namespace.
func (h *policyHub) pods(namespace, node string, pods int, addresses ...netip.Addr) {
	h.cluster.Namespaces[namespace] = policy.Labels{"name": namespace}
	for i := range pods {
		name := policy.NamespacedName{Namespace: namespace, Name: fmt.Sprintf("pod-%d", i)}
		h.cluster.Pods[name] = &policy.Pod{NamespacedName: name, Node: node, Addresses: addresses}
	}
}

// select adds a policy for the pods of a namespace, with rules for connections from each of the peers.
func (h *policyHub) selects(namespace string, peers ...policy.AddrSet) {
	p := policy.Policy{Ref: policy.Ref{Kind: "NetworkPolicy", Namespace: namespace, Name: "rules"}, Subject: policy.PodSelector{Namespace: namespace}, Directions: [2]bool{true, false}}
	for i, peer := range peers {
		t := policy.Traffic{Protocols: &[256]bool{policy.TCPProtocol: true}, DestinationPorts: []policy.Port{{From: uint16(1 + i), To: uint16(100 + i)}}}
		p.Rules[policy.Ingress] = append(p.Rules[policy.Ingress], policy.Rule{Number: i, Action: policy.Allow, Peers: []policy.Match{{In: []policy.AddrSet{peer}}}, Traffic: []policy.Traffic{t}})
	}
	h.list = append(h.list, p)
}

// networks returns so many peers, a network each.
func networks(n int) (out []policy.AddrSet) {
	for i := range n {
		out = append(out, policy.AddrSet{Nets: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 3, byte(i >> 8), byte(i)}), 32)}})
	}
	return out
}

// onlooker enforces nothing.
type onlooker struct{}

func (onlooker) Apply(*wire.Part, *wire.Keys) error { return nil }

// others makes other nodes follow the hub until the test ends. They keep what they have on disk, as agents do.
func (h *policyHub) others(t testing.TB, names []string) {
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	t.Cleanup(all.Wait)
	t.Cleanup(cancel)
	dir := inMemory(t)
	for _, name := range names {
		c := h.of(name).config(filepath.Join(dir, name), slog.New(slog.DiscardHandler))
		c.Consumer = onlooker{}
		n := policynode.New(c)
		all.Go(func() { n.Run(ctx) })
	}
}

// What is on an arm's node, and whether rules on other nodes name its pods.
const (
	policyOff, noName, names = "off", "no rule names the pod", "rules on 20 nodes name the pod"
)

// TestPolicyPods measures ADD with policy on and off, and then the maps of a full node.
func TestPolicyPods(t *testing.T) {
	rounds, pods := number(t, "ROUNDS", 15), number(t, "PODS", fullNode)
	b := begin(t, "bench-policy")
	b.part = "pods"
	list, notes := chosen(t)
	b.progress("building the plugin")
	dir := buildPrograms(t, "./cmd/terway")
	h := newPolicyHub(t)
	v := newVPC(t)
	var arms []*arm
	var nodes []*node
	var starts []func()
	var follow []string
	for i := range otherNodes {
		follow = append(follow, fmt.Sprintf("other-%d", i))
	}
	for _, k := range list {
		for _, what := range []string{policyOff, noName, names} {
			n := v.node(true)
			namespace := strings.ReplaceAll(k.name+" "+what, " ", "-")
			a := &arm{name: namespace, n: n, most: 1}
			if what == noName && !k.own {
				a.most = pods
			}
			if k.own {
				n.own = append(n.own, v.eni(n, 1))
			} else {
				shared := v.eni(n, upTo(pods)...)
				n.shared = &shared
			}
			nodes, arms = append(nodes, n), append(arms, a)
			j := job{Product: true, Spec: v1alpha1.NodeNetworkSpec{Datapath: k.shared()}}
			if what != policyOff {
				j.Policies = h.of(namespace)
				h.pods(namespace, namespace, a.most)
				// Another pod has the same rules all the time, as on most nodes: they are not made anew for each pod.
				resident := policy.NamespacedName{Namespace: namespace, Name: "resident"}
				h.cluster.Pods[resident] = &policy.Pod{NamespacedName: resident, Node: namespace, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 2, 254, byte(len(arms))})}}
				h.selects(namespace, networks(rulesOfNode)...)
			}
			if what == names {
				for i, other := range follow {
					there := fmt.Sprintf("%s-%d", namespace, i)
					h.pods(there, other, 1, netip.AddrFrom4([4]byte{10, 2, 255, byte(len(arms)*otherNodes + i)}))
					h.selects(there, policy.AddrSet{Pods: &policy.PodSelector{Namespace: namespace}})
				}
			}
			starts = append(starts, func() { a.startJob(k, dir, j, namespace) })
		}
	}
	set := policy.Set{Tiers: []policy.Tier{{Name: "default", Default: policy.Deny, Policies: h.list}}}
	if err := h.Apply(compile.All(set, h.cluster)); err != nil {
		t.Fatal(err)
	}
	h.others(t, follow)
	b.progress("%d instances on the fabric", len(nodes))
	v.open(nodes...)
	for i, a := range arms {
		for i := range a.most {
			a.boxes = append(a.boxes, testutil.NewNS(t, fmt.Sprintf("node%d-pod%d", a.n.number, i)))
		}
		starts[i]()
		b.progress("%s: a first pod", a.name)
		if _, _, err := a.burst(1); err != nil {
			t.Fatal(err)
		}
	}
	// ADD waits for the hub and for other nodes, which are this process here and other machines
	// elsewhere: they must not wait for a CPU.
	if err := firstAll(os.Getpid(), true); err != nil {
		t.Fatal(err)
	}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	for round := range rounds {
		took := map[*arm][]float64{}
		for range alone {
			for _, a := range turns(arms, round) {
				add, _, err := a.burst(1)
				if err != nil {
					t.Fatal(err)
				}
				took[a] = append(took[a], ms(add))
			}
		}
		for i, a := range arms {
			k := list[i/3].name
			b.run.Add(round, report.Key{Datapath: k, Metric: "add " + a.name}, report.Median(took[a]))
			b.run.Add(round, report.Key{Datapath: k, Metric: "more " + a.name}, report.Median(took[a])-report.Median(took[arms[i-i%3]]))
		}
		b.progress("one at a time, round %d of %d", round+1, rounds)
	}
	if err := firstAll(os.Getpid(), false); err != nil {
		t.Fatal(err)
	}
	if late := h.Stats().Late; late > 0 {
		notes = append(notes, fmt.Sprintf("%d of %d pods started before all nodes knew their address.", late, h.Stats().Addresses))
	}
	var lines []report.Comparison
	for i, k := range list {
		off, unnamed, named := arms[3*i], arms[3*i+1], arms[3*i+2]
		line := func(a *arm, what string, goal report.Goal) {
			lines = append(lines, report.Comparison{
				Name: "ADD, " + what, Unit: "ms", Of: report.Key{Datapath: k.name, Metric: "add " + a.name},
				To: report.Key{Datapath: k.name, Metric: "add " + off.name}, Baseline: "policy off", Goal: goal,
			})
		}
		line(off, "policy off", report.Goal{})
		line(unnamed, noName, report.Goal{AtMost: 1.2})
		line(named, names, report.Goal{})
		lines = append(lines, report.Comparison{
			Name: "the last one more than policy off", Unit: "ms", Of: report.Key{Datapath: k.name, Metric: "more " + named.name}, Goal: report.Goal{AtMost: 30},
		})
		if k.own {
			continue
		}
		b.progress("%s: %d pods", k.name, pods)
		if err := unnamed.fill(); err != nil {
			t.Fatal(err)
		}
		without, err := mapsOf(off.agent)
		if err != nil {
			t.Fatal(err)
		}
		with, err := mapsOf(unnamed.agent)
		if err != nil {
			t.Fatal(err)
		}
		full := fmt.Sprintf("%s, %d pods with %d rules", k.name, pods, rulesOfNode)
		value := func(metric, unit string, v float64, goal report.Goal) {
			b.run.Add(0, report.Key{Datapath: full, Metric: metric}, v)
			lines = append(lines, report.Comparison{Name: metric, Unit: unit, Of: report.Key{Datapath: full, Metric: metric}, Goal: goal})
		}
		value("memory of maps", "MiB", with.mib, report.Goal{AtMost: 60})
		value("memory of maps with policy off", "MiB", without.mib, report.Goal{})
		value("maps more than with policy off", "", float64(len(with.names)-len(without.names)), report.Goal{AtMost: 12})
		value("maps more, counting both halves", "", float64(with.count-without.count), report.Goal{})
		for _, m := range with.large {
			b.progress("%s: %s", k.name, m)
		}
	}
	b.finish(lines, append(notes, "ADD is one pod at a time, from the plugin's execution to its answer. The other nodes keep what the hub says, and enforce nothing."))
}

// fill makes as many pods as the arm has, a few at a time.
func (a *arm) fill() error { return a.few("ADD") }

// few calls the plugin for all pods of the arm, a few at a time.
func (a *arm) few(verb string) error {
	errs := make([]error, a.most)
	turns := make(chan struct{}, atOnce)
	var all sync.WaitGroup
	for i := range a.most {
		turns <- struct{}{}
		all.Go(func() {
			defer func() { <-turns }()
			errs[i] = a.n.Do(func() error {
				return a.call(verb, i, fmt.Sprintf("full-%s-%d-%d", a.n.Name, a.serial, i), a.boxes[i])
			})
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// usedMaps are the eBPF maps of a process.
type usedMaps struct {
	mib   float64
	count int
	// names are those of maps of ours; both halves of a map of policies have one.
	names map[string]bool
	// ids are those of the maps, by name.
	ids   map[string][]bpf.MapID
	large []string // lines about those of 1 MiB or more
}

// mapsOf reads the maps that a process has open, and how much memory the kernel counts for them
// (memlock of its fdinfo).
func mapsOf(pid int) (out usedMaps, err error) {
	out.names, out.ids = map[string]bool{}, map[string][]bpf.MapID{}
	dir := fmt.Sprintf("/proc/%d/fdinfo", pid)
	files, err := os.ReadDir(dir)
	if err != nil {
		return out, fmt.Errorf("maps of the agent: %w", err)
	}
	seen := map[int]bool{}
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue // closed meanwhile
		}
		if err != nil {
			return out, fmt.Errorf("maps of the agent: %w", err)
		}
		var id, bytes int
		for line := range strings.Lines(string(text)) {
			_, _ = fmt.Sscanf(line, "map_id: %d", &id)
			_, _ = fmt.Sscanf(line, "memlock: %d", &bytes)
		}
		if id == 0 || seen[id] {
			continue
		}
		seen[id] = true
		m, err := bpf.NewMapFromID(bpf.MapID(id))
		if err != nil {
			return out, fmt.Errorf("map %d of the agent: %w", id, err)
		}
		info, err := m.Info()
		_ = m.Close()
		if err != nil {
			return out, fmt.Errorf("map %d of the agent: %w", id, err)
		}
		mib := float64(bytes) / (1 << 20)
		out.mib += mib
		out.count++
		out.names[info.Name] = true
		out.ids[info.Name] = append(out.ids[info.Name], bpf.MapID(id))
		if mib >= 1 {
			out.large = append(out.large, fmt.Sprintf("%s has %.1f MiB, %d entries", info.Name, mib, info.MaxEntries))
		}
	}
	return out, nil
}
