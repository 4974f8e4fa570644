package podroute

import (
	"context"
	"fmt"
	"slices"
	"time"

	"terway.dev/terway/internal/cloud"
)

// instancesPerCall is how many ids one DescribeInstances call takes (ECS API).
const instancesPerCall = 100

// instances knows which instances exist, and in which VPC. When the cloud does not answer, its last
// answers are used, except that no instance counts as gone.
type instances struct {
	cloud Cloud
	now   func() time.Time
	// settle is how long an instance must be missing before it counts as gone: lists may be old.
	// fresh is how long an answer is used.
	settle, fresh time.Duration
	backoff       func(failures int) time.Duration
	known         map[string]*instance
	query         query
}

// instance is the cloud's last answer for one instance.
type instance struct {
	asked   time.Time
	vpc     string // empty: never seen
	vswitch string
	missing time.Time // since when; zero: not missing
	// own is the outcome of queries that failed because of this id.
	own query
	// err is why the last query had no answer; nil: it had one, or there was none yet.
	err error
}

// learn queries the instances that are not known well enough, and forgets all others. It returns
// when to query again; zero: when the answers are no longer fresh.
func (s *instances) learn(ctx context.Context, ids []string) (again time.Duration) {
	now := s.now()
	keep := map[string]*instance{}
	var want []string
	for _, id := range ids {
		in := s.known[id]
		if in == nil {
			in = &instance{}
		}
		if _, dup := keep[id]; !dup && s.wants(in, now) {
			want = append(want, id)
		}
		keep[id] = in
	}
	s.known = keep
	// Unknown instances come first: the others have old answers.
	slices.SortStableFunc(want, func(a, b string) int { return len(keep[a].vpc) - len(keep[b].vpc) })
	switch {
	case len(want) == 0:
		s.query = query{}
	case s.query.backsOff(now):
		s.fail(want, s.query.err)
	default:
		s.query.record(s.askFor(ctx, want), s.now(), s.backoff)
	}
	now = s.now()
	soon := func(d time.Duration) {
		if d > 0 && (again == 0 || d < again) {
			again = d
		}
	}
	soon(s.query.again.Sub(now))
	for _, in := range keep {
		soon(in.own.again.Sub(now))
		if !in.missing.IsZero() {
			soon(s.settle - now.Sub(in.missing))
		}
	}
	return again
}

// wants reports whether an instance is to be queried.
func (s *instances) wants(in *instance, now time.Time) bool {
	switch {
	case in.own.backsOff(now):
		return false
	case in.err != nil || in.asked.IsZero() || now.Sub(in.asked) >= s.fresh:
		return true
	}
	return !in.missing.IsZero() && now.Sub(in.missing) < s.settle || s.due(in, now)
}

// askFor queries instances, until a query fails: answers before that are kept.
func (s *instances) askFor(ctx context.Context, ids []string) error {
	for at := 0; at < len(ids); at += instancesPerCall {
		if err := s.askOnce(ctx, ids[at:min(at+instancesPerCall, len(ids))]); err != nil {
			s.fail(ids[at:], err)
			return err
		}
	}
	return nil
}

// askOnce makes one call. If it is refused because of one id, it queries the others without that
// id.
func (s *instances) askOnce(ctx context.Context, ids []string) error {
	found, err := s.cloud.DescribeInstances(ctx, ids)
	now := s.now() // an answer is as old as the call: it may have waited for the rate limit
	switch {
	case err == nil:
	case !itsOwn(err):
		return fmt.Errorf("describe the nodes' instances: %w", err)
	case len(ids) > 1:
		if err := s.askOnce(ctx, ids[:len(ids)/2]); err != nil {
			return err
		}
		return s.askOnce(ctx, ids[len(ids)/2:])
	default:
		in := s.known[ids[0]]
		in.err = err
		in.own.record(err, now, s.backoff)
		return nil
	}
	there := map[string]cloud.Instance{}
	for _, in := range found {
		there[in.ID] = in
	}
	for _, id := range ids {
		in := s.known[id]
		in.asked, in.err, in.own = now, nil, query{}
		if x, ok := there[id]; ok {
			in.vpc, in.vswitch, in.missing = x.VPCID, x.VSwitchID, time.Time{}
		} else if in.missing.IsZero() {
			in.missing = now
		}
	}
	return nil
}

// fail records that there was no answer.
func (s *instances) fail(ids []string, err error) {
	for _, id := range ids {
		s.known[id].err = err
	}
}

// due reports whether the last query for an instance was too early to decide that it is gone.
func (s *instances) due(in *instance, now time.Time) bool {
	believed := in.missing.Add(s.settle)
	return !in.missing.IsZero() && !now.Before(believed) && in.asked.Before(believed)
}

// recheck makes the next learn query an instance.
func (s *instances) recheck(id string) {
	if in := s.known[id]; in != nil {
		in.asked = time.Time{}
	}
}

// where returns the VPC and vSwitch of an instance, by the last answer; empty when it was never
// seen.
func (s *instances) where(id string) (vpc, vswitch string) {
	if in := s.known[id]; in != nil {
		return in.vpc, in.vswitch
	}
	return "", ""
}

// gone reports whether an instance does not exist.
func (s *instances) gone(id string) bool {
	in := s.known[id]
	return in != nil && !in.missing.IsZero() && in.asked.Sub(in.missing) >= s.settle
}

// failed returns why the last query for an instance failed.
func (s *instances) failed(id string) error {
	if in := s.known[id]; in != nil {
		return in.err
	}
	return nil
}
