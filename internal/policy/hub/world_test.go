package hub_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"k8s.io/utils/clock"

	"terway.dev/terway/internal/controller/certs"
	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
	"terway.dev/terway/internal/policy/hub"
	"terway.dev/terway/internal/policy/node"
	"terway.dev/terway/internal/policy/policytest"
	"terway.dev/terway/internal/policy/wire"
)

const host = "terway-policy.kube-system.svc"

// certificates of the hub, as the controller makes them.
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

// byName accepts tokens that contain a node's name, until a time.
type byName struct{ expires func() time.Time }

func (a byName) Review(_ context.Context, token string) (hub.Identity, error) {
	var node string
	if _, err := fmt.Sscanf(token, "token of %s", &node); err != nil {
		return hub.Identity{}, &hub.RefusedError{Why: "it is no token"}
	}
	return hub.Identity{Node: node, Expires: a.expires()}, nil
}

func inAnHour() time.Time { return time.Now().Add(time.Hour) }

// A replica is a hub with its server.
type replica struct {
	*hub.Hub
	server *grpc.Server
	addr   string
}

func newHub(name string) *hub.Hub { return newHubOf(name, compile.DefaultBudget) }

func newHubOf(name string, budget compile.Budget) *hub.Hub {
	return hub.New(hub.Config{
		Name: name, Authenticator: byName{inAnHour}, Budget: budget, Log: slog.New(slog.DiscardHandler), Clock: clock.RealClock{},
	})
}

// serve serves a hub until the test ends, or stop.
func serve(t *testing.T, h *hub.Hub) *replica {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &replica{h, h.Server(serving), l.Addr().String()}
	go func() { _ = r.server.Serve(l) }()
	t.Cleanup(r.server.Stop)
	return r
}

// A consumer keeps a copy of its node's part, and updates it only by the keys.
type consumer struct {
	mu     sync.Mutex
	part   *compile.Node
	calls  int
	keys   int // of the last call; -1: all
	broken error
	unfit  error // what was missing in a part
	slow   chan struct{}
}

func (c *consumer) Apply(part *wire.Part, keys *wire.Keys) error {
	n := part.Node()
	if c.slow != nil {
		<-c.slow
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls++
	if c.broken != nil {
		return c.broken
	}
	if err := n.Complete(); err != nil {
		c.unfit = err
	}
	if keys == nil {
		c.keys = -1
		c.part = &compile.Node{
			Endpoints: maps.Clone(n.Endpoints), RuleSets: maps.Clone(n.RuleSets), Addresses: maps.Clone(n.Addresses),
			Ranges: n.Ranges, Peers: maps.Clone(n.Peers), Tables: maps.Clone(n.Tables),
		}
		return nil
	}
	if c.part == nil {
		c.unfit = errors.New("the first call has keys")
		return nil
	}
	c.keys = bring(c.part.Endpoints, n.Endpoints, keys.Endpoints) + bring(c.part.RuleSets, n.RuleSets, keys.RuleSets) +
		bring(c.part.Addresses, n.Addresses, keys.Addresses) + bring(c.part.Peers, n.Peers, keys.Peers) + bring(c.part.Tables, n.Tables, keys.Tables)
	for f, is := range keys.Ranges {
		if is {
			c.keys++
			c.part.Ranges[f] = n.Ranges[f]
		}
	}
	return nil
}

func bring[K comparable, V any](to, from map[K]V, keys map[K]struct{}) int {
	for k := range keys {
		if v, ok := from[k]; ok {
			to[k] = v
		} else {
			delete(to, k)
		}
	}
	return len(keys)
}

// has returns why the consumer's copy differs from a part; nil: it does not.
func (c *consumer) has(want *compile.Node) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.unfit != nil {
		return c.unfit
	}
	if !reflect.DeepEqual(c.part, want) {
		return fmt.Errorf("the node has\n%+v\nwant\n%+v", c.part, want)
	}
	return nil
}

func (c *consumer) count() (calls, keys int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls, c.keys
}

func (c *consumer) breakDown(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken = err
}

// An agent is a node's client and its consumer.
type agent struct {
	*node.Client
	consumer *consumer
	path     string
	stop     func()
}

// start starts a node's client with the file at path.
func start(t *testing.T, name, path string, c *consumer, hubs func() []string) *agent {
	t.Helper()
	cl := node.New(node.Config{
		Path: path, Consumer: c, Version: "test",
		Hubs:       func(context.Context) ([]string, error) { return hubs(), nil },
		ServerName: host,
		Trust:      func() ([]byte, error) { return certificates()[certs.Trust], nil },
		Token:      func() (string, error) { return "token of " + name, nil },
		Log:        slog.New(slog.DiscardHandler), Clock: clock.RealClock{},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		cl.Run(ctx)
	}()
	a := &agent{cl, c, path, sync.OnceFunc(func() { cancel(); <-done })}
	t.Cleanup(a.stop)
	return a
}

// kill stops the client as kill -9 would: the file stays as it was at that moment.
func (a *agent) kill(t *testing.T) {
	was, err := os.ReadFile(a.path)
	a.stop()
	if errors.Is(err, os.ErrNotExist) {
		err = nil
		_ = os.Remove(a.path)
	} else if err == nil {
		err = os.WriteFile(a.path, was, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func stateFile(t *testing.T) string { return filepath.Join(t.TempDir(), "state") }

// eventually waits for a condition.
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

// A cluster that changes at random. Its own compiler returns what nodes should have.
type cluster struct {
	policytest.World
	set     policy.Set
	cluster policy.Cluster
	*compile.Compiler
}

func newCluster(t *testing.T, seed uint64) *cluster {
	t.Helper()
	w := policytest.World{Source: rand.New(rand.NewPCG(seed, 7))}
	c := &cluster{World: w, set: w.Set(), cluster: w.Cluster(), Compiler: compile.New(compile.DefaultBudget)}
	if _, err := c.Apply(c.all()); err != nil {
		t.Fatal(err)
	}
	return c
}

// all returns the Delta with everything, for an empty compiler.
func (c *cluster) all() compile.Delta {
	set := policy.Set{}
	for _, t := range c.set.Tiers {
		set.Tiers = append(set.Tiers, policy.Tier{Name: t.Name, Default: t.Default, Policies: append([]policy.Policy(nil), t.Policies...)})
	}
	return compile.All(set, policy.Cluster{
		Namespaces: maps.Clone(c.cluster.Namespaces), ServiceAccounts: maps.Clone(c.cluster.ServiceAccounts), Pods: maps.Clone(c.cluster.Pods),
		Nodes: maps.Clone(c.cluster.Nodes), NetworkSets: maps.Clone(c.cluster.NetworkSets), Services: maps.Clone(c.cluster.Services),
	})
}

// change makes one change, for all given compilers.
func (c *cluster) change(t *testing.T, to ...func(compile.Delta) error) {
	t.Helper()
	d := c.delta()
	for _, apply := range append([]func(compile.Delta) error{func(d compile.Delta) error { _, err := c.Apply(d); return err }}, to...) {
		copied := d
		copied.Pods = maps.Clone(d.Pods)
		if err := apply(copied); err != nil {
			t.Fatal(err)
		}
	}
}

func (c *cluster) delta() (d compile.Delta) {
	switch c.IntN(6) {
	case 0, 1, 2:
		i := c.IntN(len(policytest.PodNames()))
		name := policytest.PodNames()[i]
		p := c.Pod(i)
		if c.IntN(4) == 0 {
			p = nil
			delete(c.cluster.Pods, name)
		} else {
			c.cluster.Pods[name] = p
		}
		d.Pods = map[policy.NamespacedName]*policy.Pod{name: p}
	case 3, 4:
		at := c.IntN(len(c.set.Tiers))
		tier := &c.set.Tiers[at]
		p := c.Policy(fmt.Sprintf("p%d-%d", at, c.IntN(4)))
		for i := range tier.Policies {
			if tier.Policies[i].Ref == p.Ref {
				tier.Policies[i] = p
				d.Policies = []compile.Change{{Ref: p.Ref, Policy: &p, Tier: tier.Name, Index: i}}
				return d
			}
		}
		d.Policies = []compile.Change{{Ref: p.Ref, Policy: &p, Tier: tier.Name, Index: len(tier.Policies)}}
		tier.Policies = append(tier.Policies, p)
	case 5:
		ns, labels := policytest.Namespaces[c.IntN(3)], c.Labels()
		c.cluster.Namespaces[ns] = labels
		d.Namespaces = map[string]policy.Labels{ns: labels}
	}
	return d
}
