package nodenetwork

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/datapath/claims"
)

const (
	// silencedAtOnce is how many agents one check may find silent. Checks are seconds apart, so a
	// mistake that concerns all nodes can be noticed before all of them are tainted.
	silencedAtOnce = 10
	// tooManySilent is a share of the nodes in hundredths, which counts from fewSilent nodes on:
	// above it the cause is not the agents but the connection to the API server, and no more nodes
	// are tainted. The node lifecycle controller uses the same figures (unhealthyZoneThreshold
	// 0.55, three nodes).
	tooManySilent = 55
	fewSilent     = 3
)

// Agents watches the Leases of the nodes' agents. An agent that does not renew its Lease for its
// duration is dead or stuck, and its node is tainted until it does.
//
// The controller's own clock measures when a Lease was renewed. It starts when the controller
// starts to watch, and again after the API server could not be reached: the agents could not renew
// then either.
type Agents struct {
	*Reconciler
	// Namespace of the Leases; Leader is the controller's own Lease in it.
	Namespace, Leader string
	Period            time.Duration

	seen map[string]renewal
	// sure is since when the observations are valid, last when the API server last answered.
	sure, last time.Time
	many       bool
}

// renewal is the last renewal of a Lease.
type renewal struct {
	time metav1.MicroTime
	// at is when it was first seen; moved: an earlier renewal was seen before it.
	at    time.Time
	moved bool
}

// What is known of an agent (memory.life).
const (
	lifeUnknown int32 = iota // the condition stays as it is
	lifeAlive
	lifeSilent
)

// NeedLeaderElection: only the leader watches.
func (s *Agents) NeedLeaderElection() bool { return true }

// Start checks periodically until ctx is done.
func (s *Agents) Start(ctx context.Context) error {
	tick := time.NewTicker(s.Period)
	defer tick.Stop()
	for {
		if err := s.Look(ctx); err != nil && ctx.Err() == nil {
			s.Log.Warn("look for the agents' Leases", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// Look checks all Leases once.
func (s *Agents) Look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, max(s.Period, time.Second))
	defer cancel()
	now := s.Now()
	if _, err := s.live(ctx, s.Leader); err != nil {
		return fmt.Errorf("query the API server: %w", err)
	}
	if now.Sub(s.last) > 3*s.Period { // the API server or this process was not available until now
		s.sure = now
	}
	s.last = now

	leases, nns := &coordinationv1.LeaseList{}, &v1alpha1.NodeNetworkList{}
	if err := s.Client.List(ctx, leases, client.InNamespace(s.Namespace), client.HasLabels{claims.LabelLease}, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("list Leases: %w", err)
	}
	if err := s.Client.List(ctx, nns, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("list NodeNetworks: %w", err)
	}
	renewed := map[string]metav1.MicroTime{}
	for i := range leases.Items {
		if t := leases.Items[i].Spec.RenewTime; t != nil {
			renewed[leases.Items[i].Name] = *t
		}
	}
	seen := map[string]renewal{}
	var old []*v1alpha1.NodeNetwork
	for i := range nns.Items {
		nn := &nns.Items[i]
		if nn.Status.LeaseSeconds == 0 || !nn.DeletionTimestamp.IsZero() {
			s.judge(nn, lifeAlive) // as far as is known
			continue
		}
		is := s.observe(nn.Name, renewed[v1alpha1.LeaseName(nn.Name)], now)
		seen[nn.Name] = is
		switch {
		case s.silence(is, now) >= time.Duration(nn.Status.LeaseSeconds)*time.Second:
			old = append(old, nn)
		case is.moved:
			s.judge(nn, lifeAlive)
		}
	}
	s.seen = seen
	many := len(old) >= fewSilent && len(old)*100 > len(seen)*tooManySilent
	if many && !s.many {
		s.Log.Error("most agents do not renew their Leases: no more nodes are tainted for that; check the connection from the nodes to the API server, and the pods of terwayd", "silent", len(old), "nodes", len(seen))
	}
	if s.many = many; many {
		return nil
	}
	return s.silent(ctx, old)
}

// silent judges agents whose Lease has expired, those that are silent longest first, and a few at a
// time.
func (s *Agents) silent(ctx context.Context, old []*v1alpha1.NodeNetwork) error {
	slices.SortFunc(old, func(a, b *v1alpha1.NodeNetwork) int {
		return cmp.Or(s.seen[a.Name].at.Compare(s.seen[b.Name].at), cmp.Compare(a.Name, b.Name))
	})
	left := silencedAtOnce
	for _, nn := range old {
		if s.memories.get(nn.Name).life.Load() == lifeSilent {
			s.judge(nn, lifeSilent)
			continue
		}
		if left == 0 {
			continue
		}
		left--
		t, err := s.live(ctx, v1alpha1.LeaseName(nn.Name)) // the cache may lag
		if err != nil {
			return fmt.Errorf("read the Lease of node %s: %w", nn.Name, err)
		}
		if was := s.seen[nn.Name]; !t.Equal(&was.time) {
			s.seen[nn.Name] = renewal{time: t, at: s.Now(), moved: true}
			continue
		}
		s.judge(nn, lifeSilent)
	}
	return nil
}

// observe records a Lease's renewal as it is in the cache; zero if there is no Lease.
func (s *Agents) observe(node string, t metav1.MicroTime, now time.Time) renewal {
	is, before := s.seen[node]
	switch {
	case !before:
		return renewal{time: t, at: now}
	case !t.IsZero() && !t.Equal(&is.time):
		return renewal{time: t, at: now, moved: true}
	}
	return is
}

// silence returns for how long an agent is known not to have renewed its Lease.
func (s *Agents) silence(r renewal, now time.Time) time.Duration {
	since := r.at
	if s.sure.After(since) {
		since = s.sure
	}
	return now.Sub(since)
}

// live reads from the API server when a Lease was renewed; zero if there is none.
func (s *Agents) live(ctx context.Context, name string) (metav1.MicroTime, error) {
	l := &coordinationv1.Lease{}
	if err := s.Live.Get(ctx, client.ObjectKey{Namespace: s.Namespace, Name: name}, l); client.IgnoreNotFound(err) != nil {
		return metav1.MicroTime{}, err
	}
	if l.Spec.RenewTime == nil {
		return metav1.MicroTime{}, nil
	}
	return *l.Spec.RenewTime, nil
}

// judge records what is known of an agent, and requests a reconcile of its node if the conditions
// differ.
func (s *Agents) judge(nn *v1alpha1.NodeNetwork, life int32) {
	s.memories.get(nn.Name).life.Store(life)
	if (life == lifeSilent) != silent(nn.ControllerConditions()) {
		s.look(nn.Name)
	}
}

// look requests a reconcile of a node.
func (r *Reconciler) look(name string) {
	select {
	case r.wake <- event.GenericEvent{Object: &v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: name}}}:
	default: // the queue is full: the caller tries again later
	}
}

// silent reports whether the controller's conditions say that the agent is silent.
func silent(said []metav1.Condition) bool {
	return meta.IsStatusConditionFalse(said, v1alpha1.ConditionAgentAlive)
}

// reportAgent writes the condition AgentAlive.
func (w *work) reportAgent() {
	switch w.mem.life.Load() {
	case lifeAlive:
		w.removeCondition(v1alpha1.ConditionAgentAlive)
	case lifeSilent:
		c := metav1.Condition{Type: v1alpha1.ConditionAgentAlive, Status: metav1.ConditionFalse, Reason: "LeaseExpired",
			Message: fmt.Sprintf("the node's agent, terwayd, does not renew its Lease %s: it is dead, stuck or not there; running pods keep their network, new ones are kept away (taint %s). Check the node's pod of terwayd, and whether the node reaches the API server",
				v1alpha1.LeaseName(w.name), claims.TaintNotReady)}
		if w.setCondition(c) {
			w.warn(w.node, "AgentSilent", c.Message)
			w.warn(w.nn, "AgentSilent", c.Message)
		}
	}
}
