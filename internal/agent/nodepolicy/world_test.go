package nodepolicy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"google.golang.org/grpc"
	"k8s.io/utils/clock"

	"terway.dev/terway/internal/controller/certs"
	"terway.dev/terway/internal/datapath/policymap/policymaptest"
	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
	"terway.dev/terway/internal/policy/hub"
	"terway.dev/terway/internal/policy/node"
	"terway.dev/terway/internal/policy/policytest"
	"terway.dev/terway/internal/policy/selector"
)

// These tests follow real hubs over TLS and write real maps, which bpf/policy.h is asked about.

const host = "terway-policy.kube-system.svc"

var certificates = sync.OnceValue(func() map[string][]byte {
	data, _, err := certs.Server{Name: "terway-policy", Host: host}.Turn(nil, time.Now())
	if err != nil {
		panic(err)
	}
	return data
})

func serving(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c, _, err := certs.Server{Name: "terway-policy", Host: host}.Serving(certificates(), time.Now())
	return c, err
}

// byName takes tokens that say a node's name.
type byName struct{}

func (byName) Review(_ context.Context, token string) (hub.Identity, error) {
	var node string
	if _, err := fmt.Sscanf(token, "token of %s", &node); err != nil {
		return hub.Identity{}, &hub.RefusedError{Why: "it is no token"}
	}
	return hub.Identity{Node: node, Expires: time.Now().Add(time.Hour)}, nil
}

// A replica is a hub that is served.
type replica struct {
	*hub.Hub
	server *grpc.Server
	addr   string
}

// serve serves a hub until the test ends, or stop. A hub that is told nothing serves nobody.
func serve(t *testing.T, name string, first ...compile.Delta) *replica {
	t.Helper()
	h := hub.New(hub.Config{Name: name, Authenticator: byName{}, Budget: compile.DefaultBudget, Log: slog.New(slog.DiscardHandler), Clock: clock.RealClock{}})
	for _, d := range first {
		if err := h.Apply(d); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &replica{h, h.Server(serving), l.Addr().String()}
	go func() { _ = r.server.Serve(l) }()
	t.Cleanup(r.server.Stop)
	return r
}

// A machine is what outlives an agent: its disk, the kernel's maps, and who finds hubs where.
type machine struct {
	t        *testing.T
	name     string
	dir      string
	programs *policymaptest.Programs
	clock    clock.Clock
	lines    lines

	mu     sync.Mutex
	hubs   []string
	alarms []string
}

func newMachine(t *testing.T, name string, hubs ...*replica) *machine {
	t.Helper()
	m := &machine{t: t, name: name, dir: t.TempDir(), programs: policymaptest.Load(t), clock: clock.RealClock{}}
	m.find(hubs...)
	return m
}

// lines are what an agent logs of flows.
type lines struct {
	mu   sync.Mutex
	text []byte
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, b...)
	return len(b), nil
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text)
}

// find says where hubs are from now on.
func (m *machine) find(hubs ...*replica) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hubs = nil
	for _, h := range hubs {
		m.hubs = append(m.hubs, h.addr)
	}
}

func (m *machine) alarmed() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.alarms)
}

// An agent runs on a machine.
type agent struct {
	*Policies
	m     *machine
	first chan struct{} // closed when something is in the maps
	stop  func()
}

// options are an agent's.
func (m *machine) options(first chan struct{}) Options {
	return Options{
		Hub: node.Config{
			Path: filepath.Join(m.dir, "state"), Version: "test", ServerName: host,
			Hubs: func(context.Context) ([]string, error) {
				m.mu.Lock()
				defer m.mu.Unlock()
				return m.hubs, nil
			},
			Trust: func() ([]byte, error) { return certificates()[certs.Trust], nil },
			Token: func() (string, error) { return "token of " + m.name, nil },
			Log:   slog.New(slog.DiscardHandler), Clock: clock.RealClock{},
		},
		Maps: func() (map[string]*ebpf.Map, error) { return m.programs.Maps, nil },
		Written: func() error {
			close(first)
			return nil
		},
		Denied: func() (ingress, egress uint64, err error) { return 3, 4, nil },
		Lines:  &m.lines,
		Wait:   200 * time.Millisecond,
		Alarm: func(reason, note string) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.alarms = append(m.alarms, reason+": "+note)
		},
		Log: slog.New(slog.DiscardHandler), Clock: m.clock,
	}
}

// start starts an agent, whose journal has these pods.
func (m *machine) start(wired map[policy.NamespacedName][]netip.Addr) *agent {
	m.t.Helper()
	first := make(chan struct{})
	return m.run(m.options(first), first, wired)
}

func (m *machine) run(o Options, first chan struct{}, wired map[policy.NamespacedName][]netip.Addr) *agent {
	m.t.Helper()
	p := New(o)
	for pod, addresses := range wired {
		p.Restore(pod, addresses)
	}
	p.Start()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.Run(ctx)
	}()
	a := &agent{p, m, first, sync.OnceFunc(func() { cancel(); <-done })}
	m.t.Cleanup(a.stop)
	return a
}

// follows waits until the agent follows a hub.
func (a *agent) follows() {
	a.m.t.Helper()
	eventually(a.m.t, "the node follows", func() error {
		if _, reason, message := a.State(); reason != "Following" {
			return fmt.Errorf("%s: %s", reason, message)
		}
		return nil
	})
}

// endpoint is the number that programs find for an address.
func (m *machine) endpoint(address string) uint32 {
	m.t.Helper()
	number, err := m.programs.Endpoint(netip.MustParseAddr(address))
	if err != nil {
		m.t.Fatal(err)
	}
	return number
}

// decides is what the kernel says of a connection.
func (m *machine) decides(c policy.Connection) (compile.VerdictRow, error) {
	number, err := m.programs.Endpoint(c.Own)
	if err != nil {
		return compile.VerdictRow{}, err
	}
	_, row, err := m.programs.Ask(compile.Packet{
		Endpoint: number, Direction: c.Direction, Peer: c.Peer, Protocol: c.Protocol,
		SourcePort: c.SourcePort, DestinationPort: c.DestinationPort, ICMPType: c.ICMPType, ICMPCode: c.ICMPCode,
	})
	return row, err
}

// has says why the kernel does not say what a part says of connections of pods that are wired; other pods are closed.
func (a *agent) has(part *compile.Node, wired map[policy.NamespacedName][]netip.Addr, list []policy.Connection) error {
	m := part.Maps()
	for _, c := range list {
		row, err := a.m.decides(c)
		if err != nil {
			return err
		}
		got, known := a.kernel.Decision(row)
		want := policy.Decision{Action: policy.Deny, Reason: policy.Closed}
		if slices.Contains(wired[c.Pod], c.Own) {
			want = m.Decision(m.Lookup(compile.Packet{
				Endpoint: m.EndpointOf[c.Pod], Direction: c.Direction, Peer: c.Peer, Protocol: c.Protocol,
				SourcePort: c.SourcePort, DestinationPort: c.DestinationPort, ICMPType: c.ICMPType, ICMPCode: c.ICMPCode,
			}))
		}
		if !known || !reflect.DeepEqual(got, want) {
			return fmt.Errorf("%+v: the kernel says %+v, want %+v", c, got, want)
		}
	}
	return nil
}

func eventually(t *testing.T, what string, is func() error) {
	t.Helper()
	var err error
	for range 3000 {
		if err = is(); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%s: %v", what, err)
}

// A cluster changes by chance. It has a compiler of its own, which says what nodes should have.
type cluster struct {
	policytest.World
	set     policy.Set
	cluster policy.Cluster
	*compile.Compiler
}

func newCluster(t *testing.T, seed uint64) *cluster {
	t.Helper()
	w := policytest.World{Source: rand.New(rand.NewPCG(seed, 21))}
	c := &cluster{World: w, set: w.Set(), cluster: w.Cluster(), Compiler: compile.New(compile.DefaultBudget)}
	if _, err := c.Apply(c.all()); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *cluster) all() compile.Delta {
	set := policy.Set{}
	for _, t := range c.set.Tiers {
		set.Tiers = append(set.Tiers, policy.Tier{Name: t.Name, Default: t.Default, Policies: slices.Clone(t.Policies)})
	}
	all := c.cluster
	all.Pods = maps.Clone(all.Pods)
	return compile.All(set, all)
}

// change changes a pod or a policy.
func (c *cluster) change(t *testing.T, hubs ...*replica) {
	t.Helper()
	var d compile.Delta
	if c.IntN(2) == 0 {
		i := c.IntN(len(policytest.PodNames()))
		name, p := policytest.PodNames()[i], c.Pod(i)
		if c.IntN(4) == 0 {
			p = nil
			delete(c.cluster.Pods, name)
		} else {
			c.cluster.Pods[name] = p
		}
		d.Pods = map[policy.NamespacedName]*policy.Pod{name: p}
	} else {
		at := c.IntN(len(c.set.Tiers))
		tier := &c.set.Tiers[at]
		p := c.Policy(fmt.Sprintf("p%d-%d", at, c.IntN(4)))
		index := slices.IndexFunc(tier.Policies, func(o policy.Policy) bool { return o.Ref == p.Ref })
		if index < 0 {
			index = len(tier.Policies)
			tier.Policies = append(tier.Policies, p)
		} else {
			tier.Policies[index] = p
		}
		d.Policies = []compile.Change{{Ref: p.Ref, Policy: &p, Tier: tier.Name, Index: index}}
	}
	if _, err := c.Apply(d); err != nil {
		t.Fatal(err)
	}
	for _, h := range hubs {
		copied := d
		copied.Pods = maps.Clone(d.Pods)
		if err := h.Apply(copied); err != nil {
			t.Fatal(err)
		}
	}
}

// pods are those of a node that have a network of their own, with their addresses.
func (c *cluster) pods(node string) map[policy.NamespacedName][]netip.Addr {
	out := map[policy.NamespacedName][]netip.Addr{}
	for name, p := range c.cluster.Pods {
		if p.Node == node && !p.HostNetwork && !p.Ended && len(p.Addresses) > 0 {
			out[name] = p.Addresses
		}
	}
	return out
}

// connections are some at pods of a node.
func (c *cluster) connections(node string) (list []policy.Connection) {
	for range 1000 {
		conn, ok := c.Connection(c.cluster)
		if !ok || len(list) == 50 {
			break
		}
		if c.cluster.Pods[conn.Pod].Node == node {
			list = append(list, conn)
		}
	}
	return list
}

func in(namespace, name string) policy.NamespacedName {
	return policy.NamespacedName{Namespace: namespace, Name: name}
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// shop is pods and policies: web and its neighbour on node1, and db on node2, which lets web in.
func shop() compile.Delta {
	p := policy.Policy{
		Ref:        policy.Ref{Kind: "NetworkPolicy", Namespace: "shop", Name: "db"},
		Subject:    policy.PodSelector{Namespace: "shop", Pods: selector.In("app", "db")},
		Directions: [2]bool{policy.Ingress: true},
	}
	p.Rules[policy.Ingress] = []policy.Rule{{Action: policy.Allow, Peers: []policy.Match{{In: []policy.AddrSet{{Pods: &policy.PodSelector{Namespace: "shop", Pods: selector.In("app", "web")}}}}}}}
	pods := map[policy.NamespacedName]*policy.Pod{}
	for _, pod := range []*policy.Pod{
		{NamespacedName: in("shop", "web"), Labels: policy.Labels{"app": "web"}, Node: "node1"},
		{NamespacedName: in("shop", "old"), Labels: policy.Labels{"app": "old"}, Node: "node1", Addresses: []netip.Addr{addr("10.0.0.7")}},
		{NamespacedName: in("shop", "db"), Labels: policy.Labels{"app": "db"}, Node: "node2", Addresses: []netip.Addr{addr("10.0.0.9")}},
	} {
		pods[pod.NamespacedName] = pod
	}
	return compile.All(policy.Set{Tiers: []policy.Tier{{Name: "default", Default: policy.Deny, Policies: []policy.Policy{p}}}}, policy.Cluster{
		Namespaces: map[string]policy.Labels{"shop": {}, "other": {}}, Nodes: map[string]*policy.Node{"node1": {}, "node2": {}}, Pods: pods,
	})
}

var errNot = errors.New("not yet")
