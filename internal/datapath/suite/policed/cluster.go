// Package policed tests what network policies do on a node: policies are compiled as the controller does, written into the
// kernel's maps, and packets arrive or not. Package suite tests everything else.
//
// A scenario observes from outside: which server answers, and which does not. It uses no program, and maps only to make a node
// forget connections.
//
// It needs root, and the programs ip (iproute2) and nft. Only tests import it.
package policed

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/cilium/ebpf"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/policymap"
	"terway.dev/terway/internal/datapath/suite/world"
	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
)

// Enforcer is the feature under test (ebpf.Policy).
type Enforcer interface {
	Prepare() (map[string]*ebpf.Map, error)
	On() error
	Off() error
	Denied() (ingress, egress uint64, err error)
}

// Make makes a node of the kind under test, with the feature.
type Make func(world.Options) (world.Subject, Enforcer, error)

// Cluster is the controller and the agents of a world: what policies say, and the nodes that enforce them.
type Cluster struct {
	mu       sync.Mutex
	policies []policy.Policy
	// labels are those that pods will have, by name.
	labels map[string]policy.Labels
	pods   map[policy.NamespacedName]*policy.Pod
	nodes  map[string]*Node // by the path of the namespace
	// late pods are not told of, so that their endpoints are closed. silent agents say nothing about policies when they start.
	late, silent bool
}

// New returns a cluster without policies.
func New() *Cluster {
	return &Cluster{labels: map[string]policy.Labels{}, pods: map[policy.NamespacedName]*policy.Pod{}, nodes: map[string]*Node{}}
}

// Kit is the kit with nodes that enforce the cluster's policies.
func (c *Cluster) Kit(k world.Kit, make Make) world.Kit {
	k.New = func(o world.Options) (world.Subject, error) {
		s, e, err := make(o)
		if err != nil {
			return nil, err
		}
		n := &Node{Subject: s, Enforcer: e, c: c, path: o.NetNS}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.silent {
			return n, nil
		}
		if err := n.turnOn(); err != nil {
			return nil, errors.Join(err, s.Close(context.Background()))
		}
		return n, nil
	}
	return k
}

// Node is a node that enforces policies.
type Node struct {
	world.Subject
	Enforcer
	c      *Cluster
	path   string
	writer *policymap.Writer
}

// turnOn does what an agent does when policies are turned on, but for Sync. The caller holds the lock.
func (n *Node) turnOn() error {
	maps, err := n.Prepare()
	if err != nil {
		return err
	}
	if n.writer, err = policymap.New(maps, policymap.DefaultLimits); err != nil {
		return err
	}
	n.c.nodes[n.path] = n
	if err := n.c.apply(); err != nil {
		return err
	}
	return n.On()
}

// turnOnAgain does what an agent does when they are turned on later, but for Sync.
func (n *Node) turnOnAgain() error {
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	return n.turnOn()
}

// turnOff does what an agent does when they are turned off, but for Sync.
func (n *Node) turnOff() error {
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	w := n.writer
	n.writer = nil
	return errors.Join(n.Off(), w.Close())
}

// evict makes the node's programs lose what they know of connections, as they do when there are too many.
func (n *Node) evict() error {
	maps, err := n.Prepare()
	if err != nil {
		return err
	}
	for _, name := range []string{"tw_judged_1", "tw_known4_1", "tw_known6_1", "tw_pending4_1", "tw_pending6_1"} {
		for maps[name] != nil { // the programs may have no fast path
			key, err := maps[name].NextKeyBytes(nil)
			if err == nil && key == nil {
				break
			}
			if err == nil {
				err = maps[name].Delete(key)
			}
			if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return fmt.Errorf("empty map %s: %w", name, err)
			}
		}
	}
	return nil
}

// Close implements world.Subject.
func (n *Node) Close(ctx context.Context) error {
	err := n.Subject.Close(ctx)
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	if n.writer != nil {
		err = errors.Join(err, n.writer.Close())
		n.writer = nil
	}
	return err
}

// AddPod implements world.Subject; the cluster knows of the pod before.
func (n *Node) AddPod(ctx context.Context, want datapath.Node, pod datapath.Pod) (datapath.Wiring, error) {
	if !slices.ContainsFunc(pod.Addresses, func(a netip.Addr) bool { return !a.IsValid() || a.Is4In6() || a.Zone() != "" || a.IsUnspecified() }) {
		if err := n.c.know(n.path, pod); err != nil {
			return datapath.Wiring{}, err
		}
	}
	return n.Subject.AddPod(ctx, want, pod)
}

// know makes a pod known, instead of others that have its addresses.
func (c *Cluster) know(node string, pod datapath.Pod) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.pods, func(_ policy.NamespacedName, p *policy.Pod) bool {
		return slices.ContainsFunc(p.Addresses, func(a netip.Addr) bool { return slices.Contains(pod.Addresses, a) })
	})
	name := policy.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
	c.pods[name] = &policy.Pod{NamespacedName: name, Node: node, Labels: c.labels[pod.Name], Addresses: slices.Clone(pod.Addresses)}
	if c.late {
		return nil
	}
	return c.apply()
}

// Apply makes these the cluster's policies, and all nodes enforce them when it returns.
func (c *Cluster) Apply(policies ...policy.Policy) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.policies = policies
	return c.apply()
}

// apply compiles everything and writes every node's part. The caller holds the lock.
func (c *Cluster) apply() error {
	set := policy.Set{Tiers: []policy.Tier{{Name: "default", Default: policy.Deny, Policies: c.policies}}}
	cluster := policy.Cluster{Namespaces: map[string]policy.Labels{"default": {}}, Pods: c.pods, Nodes: map[string]*policy.Node{}}
	for i := range 4 {
		cluster.Nodes[fmt.Sprint("node", i)] = &policy.Node{Labels: policy.Labels{"node": fmt.Sprint(i)}, Addresses: []netip.Addr{
			netip.MustParseAddr(fmt.Sprintf("192.168.0.%d", 11+i)), netip.MustParseAddr(fmt.Sprintf("2001:db8:0::%x", 0x11+i)),
		}}
	}
	compiled, err := compile.Compile(set, cluster, compile.DefaultBudget)
	if err != nil {
		return err
	}
	for path, n := range c.nodes {
		if n.writer == nil {
			continue
		}
		if err := n.writer.Write(compiled.ForNode(path)); err != nil {
			return err
		}
	}
	return nil
}
