package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/api/v1alpha1"
)

const (
	// statusPause is the least time between two reports: a burst of pods is one
	// report, and a waiting pod's demand is heard within this time.
	statusPause = 100 * time.Millisecond
	// retryPause is how long a failed report or read waits.
	retryPause = time.Second
	// callTimeout bounds one call of the API server.
	callTimeout = 10 * time.Second
	// nodePeriod is how often the node's own addresses are looked at.
	nodePeriod = time.Minute
	// patience is how long a starting agent waits for the API server before it
	// goes by what it was told before it stopped.
	patience = 3 * time.Second
)

// Cluster is what NodeSync needs of the API server.
type Cluster struct {
	// Client writes, and reads what must be fresh.
	Client client.Client
	// Own is the last seen state of the node's NodeNetwork; reading it costs no call.
	Own client.Reader
	// Watch calls changed whenever Own has something new, until ctx is done.
	Watch func(ctx context.Context, changed func()) error
}

// NodeSync carries the controller's word to the agent and the agent's report back.
type NodeSync struct {
	agent   *Agent
	name    string
	cluster Cluster

	// told is the controller's last word, of this life of the agent.
	told word
	// before is the last word of the one before, as the journal has it, read once.
	before *word
	// reported is the status that the API server has from us in the object
	// reportedTo; certain is false when the outcome of a write is not known.
	reported   v1alpha1.NodeNetworkStatus
	reportedTo types.UID
	certain    bool
	// bare: the object may have no status yet.
	bare bool
}

// word is what the controller and the kubelet say of the node. The journal keeps
// it, so that an agent that starts while the API server is away can serve. It is
// written before it is acted on: an address that the agent has given back is
// marked so in the word that it finds when it starts again.
type word struct {
	UID        types.UID
	Generation int64
	Spec       v1alpha1.NodeNetworkSpec
	Addresses  []netip.Addr
	// Offered: since it booted, the node has offered ENIs for pods of their own.
	Offered bool `json:",omitempty"`
}

// offered says it also of a word from an agent that did not note it.
func (w word) offered() bool { return w.Offered || offers(&w.Spec) > 0 || w.Spec.ExclusiveENIs > 0 }

// same compares field by field: DeepEqual cannot look into an address.
func (w word) same(o word) bool {
	return w.UID == o.UID && w.Generation == o.Generation && w.Offered == o.Offered && slices.Equal(w.Addresses, o.Addresses) &&
		equality.Semantic.DeepEqual(w.Spec, o.Spec)
}

// NewNodeSync asks nothing of the API server yet.
func NewNodeSync(a *Agent, c Cluster, nodeName string) *NodeSync {
	return &NodeSync{agent: a, name: nodeName, cluster: c}
}

// Run watches and reports until ctx is done.
func (s *NodeSync) Run(ctx context.Context) error {
	changed := make(chan struct{}, 1)
	stopped := make(chan error, 1)
	go func() { stopped <- s.cluster.Watch(ctx, func() { signal(changed) }) }()
	// Until there is an object nothing can be reported, and Own cannot be read.
	startReports := sync.OnceFunc(func() { go s.report(ctx) })

	impatient := time.NewTimer(patience)
	defer impatient.Stop()
	node := time.NewTicker(nodePeriod)
	defer node.Stop()
	var again <-chan time.Time
	for {
		var err error
		select {
		case <-changed:
			startReports()
			err = s.take(ctx, false)
		case <-again:
			err = s.take(ctx, true)
		case <-node.C:
			err = s.take(ctx, true)
			signal(s.agent.dirty) // what is to be reported may follow from the time alone
		case <-impatient.C:
			err = s.recall()
		case err := <-stopped:
			return err
		case <-ctx.Done():
			return <-stopped
		}
		again = nil
		if err != nil && ctx.Err() == nil {
			s.agent.Log.Warn("the controller's word cannot be taken; trying again", "error", err)
			again = time.After(retryPause)
		}
	}
}

// take hands the controller's word to the agent if it differs from the last.
// look makes it look at the node's addresses even if it does not.
func (s *NodeSync) take(ctx context.Context, look bool) error {
	nn := &v1alpha1.NodeNetwork{}
	if err := s.cluster.Own.Get(ctx, client.ObjectKey{Name: s.name}, nn); err != nil {
		if apierrors.IsNotFound(err) {
			return nil // not made yet, or deleted: pods keep what they have
		}
		return fmt.Errorf("read NodeNetwork %s: %w", s.name, err)
	}
	last := s.last()
	if last.UID != "" && nn.UID != last.UID {
		// Generations do not say which of two objects of one name is the older, and what is
		// watched may be an API server that lags behind: only a read past every cache does.
		if err := s.live(ctx, nn); err != nil {
			return client.IgnoreNotFound(err)
		}
	}
	w := word{UID: nn.UID, Generation: nn.Generation, Spec: nn.Spec, Addresses: s.told.Addresses}
	w.Spec.Conditions = nil // said below
	if w.UID == last.UID && w.Generation < last.Generation {
		s.agent.Log.Info("an older word than the agent has acted on is passed over: the API server lags behind", "generation", w.Generation, "acted on", last.Generation)
		return nil
	}
	s.agent.SetWhyNoMore(whyNoMore(nn))
	if !look && equality.Semantic.DeepEqual(w.Spec, s.told.Spec) && w.UID == s.told.UID && w.Generation == s.told.Generation {
		return nil // our own report, or the controller's conditions
	}
	w.Offered = w.offered() || last.offered()
	addresses, nodeErr := s.nodeAddresses(ctx)
	switch {
	case nodeErr == nil:
		w.Addresses = addresses
	case len(w.Addresses) == 0:
		return nodeErr
	}
	if w.same(s.told) {
		return nodeErr
	}
	raw, err := json.Marshal(w)
	if err != nil {
		return fmt.Errorf("NodeNetwork %s: %w", s.name, err)
	}
	if err := s.agent.Journal.SetNode(raw); err != nil {
		return err
	}
	return errors.Join(nodeErr, s.apply(w))
}

// live reads the node's NodeNetwork from the API server itself.
func (s *NodeSync) live(ctx context.Context, nn *v1alpha1.NodeNetwork) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	*nn = v1alpha1.NodeNetwork{}
	if err := s.cluster.Client.Get(ctx, client.ObjectKey{Name: s.name}, nn); err != nil {
		return fmt.Errorf("read NodeNetwork %s: %w", s.name, err)
	}
	return nil
}

// recall goes by what the journal kept, if nothing was heard since the start.
func (s *NodeSync) recall() error {
	if s.told.UID != "" {
		return nil
	}
	w := s.last()
	if w.UID == "" {
		return nil
	}
	s.agent.Log.Warn("nothing heard from the API server; going by what the controller said before the agent stopped", "generation", w.Generation)
	return s.apply(w)
}

// kept is the word in the journal, empty if there is none.
func (s *NodeSync) kept() (w word, err error) {
	raw, err := s.agent.Journal.Node()
	if err != nil || raw == nil {
		return word{}, err
	}
	if err := json.Unmarshal(raw, &w); err != nil {
		return word{}, fmt.Errorf("the node's state in the journal: %w", err)
	}
	return w, nil
}

// last is the word that the agent has acted on last, in this life or the one before. Order
// is judged by it, not by what this life has heard: an address that was given back since an
// older word may be another node's. Of one that cannot be read nothing is known, but that
// the node may have offered ENIs: then each ADD asks the kubelet.
func (s *NodeSync) last() word {
	if s.told.UID != "" {
		return s.told
	}
	if s.before == nil {
		w, err := s.kept()
		if err != nil {
			s.agent.Log.Error("what the controller said before the agent stopped cannot be read", "error", err)
			w = word{Offered: true}
		}
		s.before = &w
	}
	return *s.before
}

func (s *NodeSync) apply(w word) error {
	nn := &v1alpha1.NodeNetwork{Spec: w.Spec}
	nn.Generation = w.Generation
	want, err := ParseWant(nn, w.Addresses)
	if err != nil {
		s.agent.Log.Error("NodeNetwork has parts that cannot be used; they are left out", "error", err)
	}
	want.Offered = w.offered()
	if err := s.agent.SetWant(want); err != nil {
		return err
	}
	s.told = w
	return nil
}

func (s *NodeSync) nodeAddresses(ctx context.Context) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	n := &corev1.Node{}
	if err := s.cluster.Client.Get(ctx, client.ObjectKey{Name: s.name}, n); err != nil {
		return nil, fmt.Errorf("read Node %s: %w", s.name, err)
	}
	var out []netip.Addr
	for _, a := range n.Status.Addresses {
		if a.Type != corev1.NodeInternalIP {
			continue
		}
		ip, err := netip.ParseAddr(a.Address)
		if err != nil {
			return nil, fmt.Errorf("InternalIP %q of Node %s is not an address", a.Address, s.name)
		}
		out = append(out, ip)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no InternalIP yet on Node %s", s.name)
	}
	return out, nil
}

// report writes the agent's half of NodeNetwork whenever it changes.
func (s *NodeSync) report(ctx context.Context) {
	for {
		select {
		case <-s.agent.Dirty():
		case <-ctx.Done():
			return
		}
		pause := statusPause
		if err := s.write(ctx); err != nil && ctx.Err() == nil {
			s.agent.Log.Warn("report to NodeNetwork", "error", err)
			pause = retryPause
			signal(s.agent.dirty)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// write sends all of the status that is the agent's, not a difference to what the cache
// has: the cache lags behind our own last report, and a difference to it would lose changes.
func (s *NodeSync) write(ctx context.Context) error {
	nn := &v1alpha1.NodeNetwork{}
	if err := s.cluster.Own.Get(ctx, client.ObjectKey{Name: s.name}, nn); err != nil {
		if apierrors.IsNotFound(err) {
			return nil // the controller has not made it yet; its arrival makes us dirty
		}
		return err
	}
	if s.reportedTo != nn.UID {
		nn.Status.ControllerConditions = nil
		s.reportedTo, s.reported, s.certain = nn.UID, nn.Status, true
		s.bare = equality.Semantic.DeepEqual(nn.Status, v1alpha1.NodeNetworkStatus{})
	}
	st := s.agent.Status(s.reported)
	if s.certain && equality.Semantic.DeepEqual(s.reported, st) {
		return nil
	}
	patch, err := statusPatch(nn.UID, st)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if s.bare {
		err = s.cluster.Client.Status().Patch(ctx, nn.DeepCopy(), client.RawPatch(types.MergePatchType, []byte(emptyStatus)))
	}
	if err == nil {
		err = s.cluster.Client.Status().Patch(ctx, nn, client.RawPatch(types.JSONPatchType, patch))
	}
	s.bare = apierrors.IsInvalid(err)
	s.agent.Metrics.reported(err)
	s.agent.reported(st.Demand+st.ENIDemand, err)
	if s.certain = err == nil; !s.certain {
		return err
	}
	s.reported = st
	return nil
}

// emptyStatus makes a status where there is none: a JSON patch can add no field to what is
// not there. Where there is one, the report that follows says the same fields again.
const emptyStatus = `{"status":{"demand":0,"eniDemand":0,"usedCount":0}}`

// statusPatch makes the agent's part of the status exactly st, in the object with that UID: a
// report that was made for an object must not land in one of the same name that came after
// it. (A UID in a merge patch would be passed over: the API server takes the status alone.)
// What st does not name is the controller's.
func statusPatch(uid types.UID, st v1alpha1.NodeNetworkStatus) ([]byte, error) {
	ops := []map[string]any{{"op": "test", "path": "/metadata/uid", "value": uid}}
	for _, f := range []struct {
		name  string
		value any
	}{
		{"observedGeneration", st.ObservedGeneration},
		{"datapath", st.Datapath},
		{"demand", st.Demand},
		{"eniDemand", st.ENIDemand},
		{"usedCount", st.UsedCount},
		{"used", list(st.Used)},
		{"cooling", list(st.Cooling)},
		{"released", list(st.Released)},
		{"missingENIs", list(st.MissingENIs)},
		{"uncountedENIs", st.UncountedENIs},
		{"leaseSeconds", st.LeaseSeconds},
		{"conditions", list(st.Conditions)},
	} {
		ops = append(ops, map[string]any{"op": "add", "path": "/status/" + f.name, "value": f.value})
	}
	return json.Marshal(ops)
}

// list is never null, which the API server takes for no list.
func list[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}
