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
	// statusPause is the least time between two reports: a burst of pods causes one report, and a
	// waiting pod's demand is reported within this time.
	statusPause = 100 * time.Millisecond
	// retryPause is the pause after a failed report or read.
	retryPause = time.Second
	// callTimeout bounds one call to the API server.
	callTimeout = 10 * time.Second
	// nodePeriod is how often the node's own addresses are read.
	nodePeriod = time.Minute
	// patience is how long a starting agent waits for the API server before it uses the desired
	// state in the journal.
	patience = 3 * time.Second
)

// Cluster is what NodeSync needs of the API server.
type Cluster struct {
	// Client writes, and reads what must not be stale.
	Client client.Client
	// Own reads the node's NodeNetwork from a cache.
	Own client.Reader
	// Watch calls changed whenever Own has a new version, until ctx is done.
	Watch func(ctx context.Context, changed func()) error
}

// NodeSync passes the desired state to the agent, and writes the agent's report.
type NodeSync struct {
	agent   *Agent
	name    string
	cluster Cluster

	// received is the last desired state that this process has received and applied.
	received desiredState
	// saved is the last desired state of the previous process, read once from the journal.
	saved *desiredState
	// reported is the last status written, in the object reportedTo; certain is false when the
	// outcome of a write is unknown.
	reported   v1alpha1.NodeNetworkStatus
	reportedTo types.UID
	certain    bool
	// bare: the object may have no status yet.
	bare bool
}

// desiredState is what the controller and the kubelet say about the node. The journal keeps it, so
// that an agent that starts while the API server is unreachable can serve. It is written before it
// is applied: a restarted agent finds the addresses marked that it has given back.
type desiredState struct {
	UID        types.UID
	Generation int64
	Spec       v1alpha1.NodeNetworkSpec
	Addresses  []netip.Addr
	// Offered: since it booted, the node has offered exclusive ENIs.
	Offered bool `json:",omitempty"`
}

// offered also covers a desiredState written by an agent that did not record it.
func (w desiredState) offered() bool {
	return w.Offered || offers(&w.Spec) > 0 || w.Spec.ExclusiveENIs > 0
}

// same compares by field: DeepEqual cannot compare netip addresses.
func (w desiredState) same(o desiredState) bool {
	return w.UID == o.UID && w.Generation == o.Generation && w.Offered == o.Offered && slices.Equal(w.Addresses, o.Addresses) &&
		equality.Semantic.DeepEqual(w.Spec, o.Spec)
}

// NewNodeSync does not call the API server.
func NewNodeSync(a *Agent, c Cluster, nodeName string) *NodeSync {
	return &NodeSync{agent: a, name: nodeName, cluster: c}
}

// Run watches and reports until ctx is done.
func (s *NodeSync) Run(ctx context.Context) error {
	changed := make(chan struct{}, 1)
	stopped := make(chan error, 1)
	go func() { stopped <- s.cluster.Watch(ctx, func() { signal(changed) }) }()
	// Until the object exists nothing can be reported, and Own has nothing to read.
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
			err = s.receive(ctx, false)
		case <-again:
			err = s.receive(ctx, true)
		case <-node.C:
			err = s.receive(ctx, true)
			signal(s.agent.dirty) // the report may change with time alone
		case <-impatient.C:
			err = s.restoreSaved()
		case err := <-stopped:
			return err
		case <-ctx.Done():
			return <-stopped
		}
		again = nil
		if err != nil && ctx.Err() == nil {
			s.agent.Log.Warn("cannot apply NodeNetwork; trying again", "error", err)
			again = time.After(retryPause)
		}
	}
}

// receive passes the NodeNetwork to the agent if it differs from the last one. If refresh is set it
// also reads the node's addresses when nothing differs.
func (s *NodeSync) receive(ctx context.Context, refresh bool) error {
	nn := &v1alpha1.NodeNetwork{}
	if err := s.cluster.Own.Get(ctx, client.ObjectKey{Name: s.name}, nn); err != nil {
		if apierrors.IsNotFound(err) {
			return nil // not created yet, or deleted: pods keep what they have
		}
		return fmt.Errorf("read NodeNetwork %s: %w", s.name, err)
	}
	last := s.last()
	if last.UID != "" && nn.UID != last.UID {
		// Generations do not order two objects of one name, and the watched API server may lag
		// behind: only a live read tells.
		if err := s.live(ctx, nn); err != nil {
			return client.IgnoreNotFound(err)
		}
	}
	w := desiredState{UID: nn.UID, Generation: nn.Generation, Spec: nn.Spec, Addresses: s.received.Addresses}
	w.Spec.Conditions = nil // read by whyNoMore
	if w.UID == last.UID && w.Generation < last.Generation {
		s.agent.Log.Info("ignoring a NodeNetwork that is older than the one applied: the API server lags behind", "generation", w.Generation, "applied", last.Generation)
		return nil
	}
	s.agent.SetWhyNoMore(whyNoMore(nn))
	if !refresh && equality.Semantic.DeepEqual(w.Spec, s.received.Spec) && w.UID == s.received.UID && w.Generation == s.received.Generation {
		return nil // a change of the agent's own report, or of the controller's conditions
	}
	w.Offered = w.offered() || last.offered()
	addresses, nodeErr := s.nodeAddresses(ctx)
	switch {
	case nodeErr == nil:
		w.Addresses = addresses
	case len(w.Addresses) == 0:
		return nodeErr
	}
	if w.same(s.received) {
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

// live reads the node's NodeNetwork from the API server, not from a cache.
func (s *NodeSync) live(ctx context.Context, nn *v1alpha1.NodeNetwork) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	*nn = v1alpha1.NodeNetwork{}
	if err := s.cluster.Client.Get(ctx, client.ObjectKey{Name: s.name}, nn); err != nil {
		return fmt.Errorf("read NodeNetwork %s: %w", s.name, err)
	}
	return nil
}

// restoreSaved applies the desired state in the journal if none was received since the start.
func (s *NodeSync) restoreSaved() error {
	if s.received.UID != "" {
		return nil
	}
	w := s.last()
	if w.UID == "" {
		return nil
	}
	s.agent.Log.Warn("no answer from the API server; using the NodeNetwork that was applied before the agent stopped", "generation", w.Generation)
	return s.apply(w)
}

// loadSaved reads the desired state in the journal, empty if there is none.
func (s *NodeSync) loadSaved() (w desiredState, err error) {
	raw, err := s.agent.Journal.Node()
	if err != nil || raw == nil {
		return desiredState{}, err
	}
	if err := json.Unmarshal(raw, &w); err != nil {
		return desiredState{}, fmt.Errorf("the node's state in the journal: %w", err)
	}
	return w, nil
}

// last returns the desired state that was applied last, by this process or the one before. Order is
// judged by it, not by what this process has received: an address that was given back may be
// another node's by now. If it cannot be read, only Offered is assumed: each ADD then asks the
// kubelet.
func (s *NodeSync) last() desiredState {
	if s.received.UID != "" {
		return s.received
	}
	if s.saved == nil {
		w, err := s.loadSaved()
		if err != nil {
			s.agent.Log.Error("cannot read the NodeNetwork that was applied before the agent stopped", "error", err)
			w = desiredState{Offered: true}
		}
		s.saved = &w
	}
	return *s.saved
}

func (s *NodeSync) apply(w desiredState) error {
	nn := &v1alpha1.NodeNetwork{Spec: w.Spec}
	nn.Generation = w.Generation
	want, err := ParseDesired(nn, w.Addresses)
	if err != nil {
		s.agent.Log.Error("NodeNetwork has parts that cannot be used; they are left out", "error", err)
	}
	want.Offered = w.offered()
	if err := s.agent.SetDesired(want); err != nil {
		return err
	}
	s.received = w
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

// report writes the agent's part of the status whenever it changes.
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

// write sends all of the agent's part of the status, not a diff against the cache: the cache lags
// behind the agent's own last report, so a diff would lose changes.
func (s *NodeSync) write(ctx context.Context) error {
	nn := &v1alpha1.NodeNetwork{}
	if err := s.cluster.Own.Get(ctx, client.ObjectKey{Name: s.name}, nn); err != nil {
		if apierrors.IsNotFound(err) {
			return nil // not created yet; its arrival signals dirty
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

// emptyStatus creates a status where there is none: a JSON patch cannot add a field to a missing
// object. The report that follows writes the same fields again.
const emptyStatus = `{"status":{"demand":0,"eniDemand":0,"usedCount":0}}`

// statusPatch sets the agent's part of the status to st, in the object with that UID: a report must
// not land in a later object of the same name. (In a merge patch the UID would be ignored: the API
// server reads only the status.) It leaves fields that are not in st to the controller.
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
		{"waitingSandboxes", list(st.WaitingSandboxes)},
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

// list never returns nil: the API server does not accept null for a list.
func list[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}
