// Package fleet runs the agents of many nodes in one process. Each answers the controller like
// terwayd, with the same address pool, the same NodeNetwork status and the same pause between
// two reports. It has no datapath, no journal and no kubelet, and all agents share one watch,
// so that thousands of them fit on a machine.
//
// It must only use what an agent can know: it reads NodeNetworks and writes their status.
package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/agent"
	"terway.dev/terway/internal/agent/pool"
	"terway.dev/terway/internal/datapath/claims"
)

// The periods are those of NodeSync in internal/agent.
const (
	statusPause = 100 * time.Millisecond
	retryPause  = time.Second
	lookPeriod  = time.Minute
)

// Fleet is a set of agents. Its nodes are fixed at the start.
type Fleet struct {
	api   rest.Interface
	nodes map[string]*Node
	// Reports counts the status patches that were sent, Failed the failed writes.
	Reports, Failed atomic.Int64
	// Leases is the namespace of the agents' Leases; empty: they have none.
	Leases string
}

// Node is a node's agent with its pods.
type Node struct {
	Name string

	fleet *Fleet
	open  chan struct{} // closed when pods may be scheduled on the node
	dirty chan struct{}

	mu         sync.Mutex
	opened     bool
	pool       *pool.Pool
	uid        types.UID
	generation int64
	minPool    int
	known      bool // the controller has written the NodeNetwork
	usable     bool // an ENI serves pods, or has done so
	waiting    []*wish
	holds      map[string]pool.Lease // by pod
	timer      *time.Timer           // for the end of the next cooling period
	reported   v1alpha1.NodeNetworkStatus
	vswitches  map[string]bool
	enis       int
}

// wish is a waiting pod.
type wish struct {
	pod   string
	since time.Time
	got   func(time.Duration)
}

// New makes the agents of the named nodes, without starting them.
func New(cfg *rest.Config, names []string) (*Fleet, error) {
	c, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("client of the agents: %w", err)
	}
	f := &Fleet{api: c.Discovery().RESTClient(), nodes: make(map[string]*Node, len(names))}
	for _, name := range names {
		f.nodes[name] = &Node{
			Name: name, fleet: f, open: make(chan struct{}), dirty: make(chan struct{}, 1), pool: pool.New(), holds: map[string]pool.Lease{},
		}
	}
	return f, nil
}

// Node returns the agent with that name.
func (f *Fleet) Node(name string) *Node { return f.nodes[name] }

// Start watches and reports until ctx is done; it returns after the first list.
func (f *Fleet) Start(ctx context.Context, cfg *rest.Config) error {
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		return err
	}
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return err
	}
	// Unused fields are dropped: thousands of these objects are in memory.
	lean := func(o any) (any, error) {
		if m, ok := o.(metav1.Object); ok {
			m.SetManagedFields(nil)
		}
		return o, nil
	}
	watch, err := cache.New(cfg, cache.Options{Scheme: scheme, DefaultTransform: lean})
	if err != nil {
		return fmt.Errorf("the agents' watch: %w", err)
	}
	for o, take := range map[client.Object]func(any){
		&v1alpha1.NodeNetwork{}: func(o any) {
			if nn, ok := o.(*v1alpha1.NodeNetwork); ok && f.nodes[nn.Name] != nil {
				f.nodes[nn.Name].take(nn)
			}
		},
		&corev1.Node{}: func(o any) {
			if n, ok := o.(*corev1.Node); ok && f.nodes[n.Name] != nil {
				f.nodes[n.Name].look(n)
			}
		},
	} {
		i, err := watch.GetInformer(ctx, o)
		if err != nil {
			return fmt.Errorf("the agents' watch: %w", err)
		}
		if _, err := i.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
			AddFunc: take, UpdateFunc: func(_, o any) { take(o) },
		}); err != nil {
			return fmt.Errorf("the agents' watch: %w", err)
		}
	}
	go watch.Start(ctx) // it ends with ctx
	if !watch.WaitForCacheSync(ctx) {
		return fmt.Errorf("the agents' watch: %w", context.Cause(ctx))
	}
	for _, n := range f.nodes {
		go n.report(ctx)
		if f.Leases != "" {
			go n.live(ctx)
		}
	}
	return nil
}

// live renews the node's Lease, like the Lease in internal/agent.
func (n *Node) live(ctx context.Context) {
	const renewal = agent.LeaseDuration / 4
	pause := rand.N(renewal)
	for {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		if err := n.renew(ctx); err != nil && ctx.Err() == nil {
			n.fleet.Failed.Add(1)
		}
		pause = renewal + rand.N(renewal/5)
	}
}

func (n *Node) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	seconds := int32(agent.LeaseDuration / time.Second)
	lease := &coordinationv1.Lease{
		TypeMeta:   metav1.TypeMeta{APIVersion: coordinationv1.SchemeGroupVersion.String(), Kind: "Lease"},
		ObjectMeta: metav1.ObjectMeta{Namespace: n.fleet.Leases, Name: v1alpha1.LeaseName(n.Name), Labels: map[string]string{claims.LabelLease: ""}},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &n.Name, LeaseDurationSeconds: &seconds, RenewTime: &metav1.MicroTime{Time: time.Now()}},
	}
	at := []string{"/apis", coordinationv1.SchemeGroupVersion.Group, coordinationv1.SchemeGroupVersion.Version, "namespaces", n.fleet.Leases, "leases"}
	patch, err := json.Marshal(map[string]any{"spec": lease.Spec})
	if err != nil {
		return err
	}
	err = n.fleet.api.Patch(types.MergePatchType).AbsPath(append(at, lease.Name)...).Body(patch).Do(ctx).Error()
	if !apierrors.IsNotFound(err) {
		return err
	}
	whole, err := json.Marshal(lease)
	if err != nil {
		return err
	}
	return n.fleet.api.Post().AbsPath(at...).Body(whole).SetHeader("Content-Type", "application/json").Do(ctx).Error()
}

// Open is closed when pods can be scheduled on the node: the controller has removed its taint.
func (n *Node) Open() <-chan struct{} { return n.open }

func (n *Node) look(node *corev1.Node) {
	for _, t := range node.Spec.Taints {
		if t.Key == claims.TaintNotReady {
			return
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.opened {
		n.opened = true
		close(n.open)
	}
}

// take handles a NodeNetwork from the controller.
func (n *Node) take(nn *v1alpha1.NodeNetwork) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if nn.UID != n.uid {
		n.uid, n.generation, n.reported = nn.UID, 0, nn.Status
	}
	if nn.Generation <= n.generation {
		return // our own report, or an old version
	}
	n.generation, n.known, n.minPool = nn.Generation, nn.Spec.Datapath != "", nn.Spec.Pool.Min
	n.pool.SetCooling(time.Duration(nn.Spec.Pool.CoolingSeconds) * time.Second)
	n.vswitches, n.enis = map[string]bool{}, len(nn.Spec.ENIs)
	var offers []pool.Offer
	for _, e := range nn.Spec.ENIs {
		n.vswitches[e.VSwitchID] = true
		if e.ID == "" || e.MAC == "" || e.Phase == v1alpha1.ENICreating {
			continue
		}
		n.usable = n.usable || e.Phase == v1alpha1.ENIReady
		for _, a := range e.Addresses {
			addr, err := netip.ParseAddr(a.Address)
			if err != nil {
				continue // the API server's schema rejects these
			}
			offers = append(offers, pool.Offer{
				Address: addr, ENI: e.MAC, Usable: e.Phase == v1alpha1.ENIReady, Exclusive: e.Exclusive,
				Releasing: a.Releasing || e.Phase == v1alpha1.ENIDetaching, Held: a.Held,
			})
		}
	}
	n.pool.Update(offers)
	n.serveLocked(time.Now())
	signal(n.dirty)
}

// Add does the ADD of pods that start at once; they wait without limit. got is called once for
// each pod, with the node's lock held, with the time that the pod waited: 0 if there was a free
// address.
func (n *Node) Add(got func(time.Duration), pods ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	for _, pod := range pods {
		w := &wish{pod: pod, since: now, got: got}
		if !n.giveLocked(w, now) {
			n.waiting = append(n.waiting, w)
			n.serveLocked(now)
		}
	}
	signal(n.dirty)
}

// Delete does the DEL of pods, or ends their wait.
func (n *Node) Delete(pods ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, pod := range pods {
		if l, ok := n.holds[pod]; ok {
			delete(n.holds, pod)
			for _, a := range l.Addresses {
				n.pool.Free(a, pod, time.Now())
			}
		}
	}
	n.waiting = slices.DeleteFunc(n.waiting, func(w *wish) bool { return slices.Contains(pods, w.pod) })
	signal(n.dirty)
}

// Waiting returns the number of waiting pods.
func (n *Node) Waiting() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.waiting)
}

// Count returns the number of the node's addresses by use.
func (n *Node) Count() pool.Count {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.pool.Count(time.Now())
}

// Uses reports whether an ENI of the node is in the vSwitch.
func (n *Node) Uses(vswitch string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.vswitches[vswitch]
}

// ENIs returns the number of the node's ENIs, including those being attached or detached.
func (n *Node) ENIs() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.enis
}

// Addresses calls f for each address of a pod.
func (n *Node) Addresses(f func(pod string, a netip.Addr)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for pod, l := range n.holds {
		for _, a := range l.Addresses {
			f(pod, a)
		}
	}
}

func (n *Node) giveLocked(w *wish, now time.Time) bool {
	l, ok := n.pool.Take(pool.Holder{Key: w.pod, Pod: w.pod, Sandbox: w.pod}, now)
	if !ok {
		return false
	}
	n.holds[w.pod] = l
	w.got(now.Sub(w.since))
	return true
}

// serveLocked gives free addresses to waiting pods.
func (n *Node) serveLocked(now time.Time) {
	for len(n.waiting) > 0 && n.giveLocked(n.waiting[0], now) {
		n.waiting = n.waiting[1:]
	}
	if n.timer != nil {
		n.timer.Stop()
		n.timer = nil
	}
	if at, ok := n.pool.NextCooled(now); ok && len(n.waiting) > 0 {
		n.timer = time.AfterFunc(at.Sub(now)+time.Millisecond, func() {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.serveLocked(time.Now())
			signal(n.dirty)
		})
	}
}

// status returns the status that the agent reports, like Status in internal/agent.
func (n *Node) status() v1alpha1.NodeNetworkStatus {
	n.mu.Lock()
	defer n.mu.Unlock()
	used, cooling, released := n.pool.Report(time.Now())
	st := v1alpha1.NodeNetworkStatus{
		LeaseSeconds:       n.fleet.leaseSeconds(),
		ObservedGeneration: n.generation, Datapath: "route", Demand: len(n.waiting), UsedCount: len(used),
		Cooling: texts(cooling), Released: texts(released),
	}
	for _, u := range used {
		st.Used = append(st.Used, v1alpha1.UsedAddress{Address: u.Address.String(), Pod: u.Pod, Sandbox: u.Sandbox})
	}
	st.Conditions = append(st.Conditions, n.reported.Conditions...)
	condition := func(kind string, ok bool, yes, no [2]string) {
		c := metav1.Condition{Type: kind, Status: metav1.ConditionFalse, Reason: no[0], Message: no[1], ObservedGeneration: n.generation}
		if ok {
			c.Status, c.Reason, c.Message = metav1.ConditionTrue, yes[0], yes[1]
		}
		meta.SetStatusCondition(&st.Conditions, c)
	}
	ready := n.known && (n.usable || n.minPool == 0)
	condition(v1alpha1.ConditionReady, ready, [2]string{"Serving", "pods can be wired"}, [2]string{"NoENI", "no ENI for pods is attached yet"})
	condition(v1alpha1.ConditionDatapathReady, n.known, [2]string{v1alpha1.ReasonDatapathAuto, "auto takes the fastest datapath that this agent and kernel support: route"},
		[2]string{"NotChosen", "no datapath runs yet"})
	return st
}

func (f *Fleet) leaseSeconds() int {
	if f.Leases == "" {
		return 0
	}
	return int(agent.LeaseDuration / time.Second)
}

func texts(in []netip.Addr) (out []string) {
	for _, a := range in {
		out = append(out, a.String())
	}
	return out
}

// report writes the status after each change, like NodeSync in internal/agent.
func (n *Node) report(ctx context.Context) {
	// The agents of a cluster start at different times, so their periods are not aligned.
	first := time.NewTimer(rand.N(lookPeriod))
	defer first.Stop()
	tick := time.NewTicker(lookPeriod)
	defer tick.Stop()
	for {
		select {
		case <-n.dirty:
		case <-first.C:
			tick.Reset(lookPeriod)
		case <-tick.C: // addresses whose cooling period is over are reported at the next tick
		case <-ctx.Done():
			return
		}
		pause := statusPause
		if err := n.write(ctx); err != nil && ctx.Err() == nil {
			n.fleet.Failed.Add(1)
			pause = retryPause
			signal(n.dirty)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

func (n *Node) write(ctx context.Context) error {
	n.mu.Lock()
	uid, reported := n.uid, n.reported
	n.mu.Unlock()
	if uid == "" {
		return nil // the controller has not created it yet
	}
	st := n.status()
	if equality.Semantic.DeepEqual(reported, st) {
		return nil
	}
	raw, err := json.Marshal(st)
	if err != nil {
		return err
	}
	full := map[string]any{"observedGeneration": nil, "datapath": nil, "used": nil, "cooling": nil, "released": nil, "conditions": nil}
	if err := json.Unmarshal(raw, &full); err != nil {
		return err
	}
	patch, err := json.Marshal(map[string]any{"status": full})
	if err != nil {
		return err
	}
	n.fleet.Reports.Add(1)
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := n.fleet.api.Patch(types.MergePatchType).
		AbsPath("/apis", v1alpha1.GroupVersion.Group, v1alpha1.GroupVersion.Version, "nodenetworks", n.Name, "status").
		Body(patch).Do(ctx).Error(); err != nil {
		return fmt.Errorf("report of node %s: %w", n.Name, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.uid == uid {
		n.reported = st
	}
	return nil
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
