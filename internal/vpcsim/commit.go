package vpcsim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"terway.dev/terway/internal/vpcsim/faults"
	"terway.dev/terway/internal/vpcsim/state"
)

// The steps of a call: under mu, advance the clock, apply the conditions of faults and run the
// action; then, without mu, save everything up to this revision and apply it to the planes;
// then answer. Concurrent calls share one commit.

// retryCommit is the pause before a failed save or Apply is retried.
const retryCommit = time.Second

var _ interface {
	Read(context.Context, time.Duration, func(state.API) error) error
	Write(context.Context, func(state.API) error) error
} = (*Server)(nil)

// Write runs f on the state. It returns after everything that f saw and did is saved and
// applied to the planes.
func (s *Server) Write(_ context.Context, f func(state.API) error) error {
	err, clean := s.step(f)
	if clean {
		return err
	}
	s.poke()
	// The commit continues if the caller goes away, so that no change is half done.
	if e := s.commit(); e != nil && err == nil {
		return fmt.Errorf("the change is made, but not applied to the data plane or not saved; this is retried: %w", e)
	}
	return err
}

// Read runs f on the state as it was age ago. What f sees is applied to the planes: an ENI that
// is InUse is a device.
func (s *Server) Read(_ context.Context, age time.Duration, f func(state.API) error) error {
	if age > 0 {
		s.step(nil)
		s.mu.Lock()
		defer s.mu.Unlock()
		past, err := s.past(age)
		if err != nil {
			return err
		}
		return f(past)
	}
	err, clean := s.step(f)
	if !clean {
		s.poke()
		// A commit that fails is logged and retried; reading continues.
		_ = s.commit()
	}
	return err
}

// step advances the cloud to now and runs f, which may be nil. clean means that nothing is left
// to commit.
func (s *Server) step(f func(state.API) error) (err error, clean bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.cloud.Revision()
	now := s.Now()
	s.cloud.Tick(now)
	s.putConditions(now)
	if f != nil {
		err = f(s.cloud)
	}
	if s.cloud.Revision() != before {
		s.remember(now)
	}
	return err, s.committed == s.cloud.Revision()+1
}

// commit saves the state and applies it to the planes.
func (s *Server) commit() error {
	s.commits.Lock()
	defer s.commits.Unlock()
	s.mu.Lock()
	revision := s.cloud.Revision() + 1
	if s.committed == revision {
		s.mu.Unlock()
		return nil
	}
	if s.reapply {
		s.reapply, s.applied = false, 0
	}
	var data []byte
	var err error
	var put func([]byte) error
	if s.store != nil && s.saved != revision {
		if s.store.wantsWhole() {
			data, err = s.cloud.Snapshot()
			put = s.store.save
		} else {
			data, err = s.cloud.Changes()
			put = s.store.add
		}
	}
	var view *state.View
	if len(s.planes) > 0 {
		view = s.cloud.View()
	}
	s.mu.Unlock()

	if err == nil && put != nil {
		err = put(data)
	}
	if err == nil {
		s.saved = revision
	}
	if s.applied != revision {
		e := s.apply(view)
		if e == nil {
			s.applied = revision
		}
		err = errors.Join(err, e)
	}
	if err != nil {
		if s.ctx.Err() == nil {
			s.Log.Error("a change of the cloud is not saved or not applied to the data plane yet", "revision", revision-1, "err", err)
		}
		return err
	}
	s.mu.Lock()
	s.committed = revision
	s.mu.Unlock()
	return nil
}

// loop completes operations when they are due, and retries commits.
func (s *Server) loop() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-timer.C:
		case <-s.wake:
		}
		_, clean := s.step(nil)
		wait := time.Hour
		if !clean && s.commit() != nil {
			wait = retryCommit
		}
		s.mu.Lock()
		due, ok := s.cloud.NextDue()
		s.mu.Unlock()
		now := s.Now()
		if ok {
			wait = min(wait, due.Sub(now))
		}
		if edge, ok := s.faults.NextEdge(now); ok {
			wait = min(wait, edge.Sub(now))
		}
		timer.Reset(max(wait, time.Millisecond))
	}
}

// poke makes the loop recompute what is due next.
func (s *Server) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// putConditions applies the current conditions of the fault rules to the cloud. The caller
// holds mu.
func (s *Server) putConditions(now time.Time) {
	want := s.faults.Conditions(now)
	first := s.conditions == nil
	if first {
		s.conditions = &faults.Conditions{}
	}
	if first || want.StuckAttaching != s.conditions.StuckAttaching {
		s.cloud.SetStuckAttaching(want.StuckAttaching)
	}
	if first || want.FailingAttach != s.conditions.FailingAttach {
		s.cloud.SetFailingAttach(want.FailingAttach)
	}
	if first || want.StrictDetach != s.conditions.StrictDetach {
		s.cloud.SetStrictDetach(want.StrictDetach)
	}
	if first || want.TypeBandwidth != s.conditions.TypeBandwidth {
		s.cloud.SetTypeBandwidth(want.TypeBandwidth)
	}
	if first || want.StuckJobs != s.conditions.StuckJobs {
		s.cloud.SetStuckJobs(want.StuckJobs)
	}
	if first || want.FailingJobs != s.conditions.FailingJobs {
		s.cloud.SetFailingJobs(want.FailingJobs)
	}
	if first || len(want.VSwitchFull)+len(s.conditions.VSwitchFull) > 0 {
		s.putFull(want.VSwitchFull)
	}
	*s.conditions = want
}

// putFull makes exactly the named vSwitches full. For one that does not exist (yet), the next
// step tries again.
func (s *Server) putFull(ids []string) {
	full := map[string]bool{}
	for _, id := range ids {
		full[id] = true
	}
	all, err := s.cloud.DescribeVSwitches(state.DescribeVSwitchesRequest{})
	if err != nil {
		s.Log.Error("list vSwitches for fault rules", "err", err)
		return
	}
	for _, v := range all {
		if v.Full == full[v.VSwitchId] {
			continue
		}
		if err := s.cloud.SetVSwitchFull(v.VSwitchId, full[v.VSwitchId]); err != nil {
			s.Log.Error("set a fault on a vSwitch", "vSwitch", v.VSwitchId, "err", err)
		}
	}
}

// faultsChanged applies new rules.
func (s *Server) faultsChanged() {
	s.mu.Lock()
	s.remember(s.Now())
	s.mu.Unlock()
	s.step(nil)
	s.poke()
}

// snapshot is the cloud as it was from a time on.
type snapshot struct {
	at    time.Time
	data  []byte
	cloud *state.State // made on first use
}

// remember stores the current cloud if a rule may ask for it later, and drops what no rule can
// ask for any more. The caller holds mu.
func (s *Server) remember(now time.Time) {
	back := s.faults.MaxStale()
	if back == 0 {
		s.history = nil
		return
	}
	data, err := s.cloud.MarshalJSON()
	if err != nil {
		s.Log.Error("keep the cloud for stale reads", "err", err)
		return
	}
	s.history = append(s.history, snapshot{at: now, data: data})
	for len(s.history) > 1 && !s.history[1].at.After(now.Add(-back)) {
		s.history = s.history[1:]
	}
}

// past returns the cloud as it was age ago, or as long ago as is stored. The caller holds mu.
func (s *Server) past(age time.Duration) (*state.State, error) {
	then := s.Now().Add(-age)
	if len(s.history) == 0 {
		return s.cloud, nil
	}
	i := 0
	for i+1 < len(s.history) && !s.history[i+1].at.After(then) {
		i++
	}
	old := &s.history[i]
	if old.cloud == nil {
		c, err := state.Load(s.stateOptions(), old.data)
		if err != nil {
			return nil, fmt.Errorf("look at the cloud of %s: %w", old.at.Format(time.RFC3339Nano), err)
		}
		old.cloud = c
	}
	return old.cloud, nil
}
