package podroute

import (
	"context"
	"fmt"
	"time"

	"terway.dev/terway/internal/cloud"
)

// instances knows which instances exist, and in which VPC.
type instances struct {
	cloud Cloud
	now   func() time.Time
	// settle is how long an instance must be missing before that is believed:
	// lists may be old. fresh is how long an answer is good.
	settle, fresh time.Duration
	known         map[string]*instance
}

// instance is what the cloud last said of one.
type instance struct {
	asked   time.Time
	vpc     string // empty: never seen
	vswitch string
	missing time.Time // since when; zero: not missing
}

// learn asks for the instances that it does not know well enough, and forgets all
// others. It returns when to ask again; zero: when the answers are not fresh any more.
func (s *instances) learn(ctx context.Context, ids []string) (again time.Duration, err error) {
	now := s.now()
	keep := map[string]*instance{}
	var ask []string
	for _, id := range ids {
		in := s.known[id]
		if in == nil {
			in = &instance{}
		}
		if _, dup := keep[id]; !dup && (in.asked.IsZero() || now.Sub(in.asked) >= s.fresh || !in.missing.IsZero() && now.Sub(in.missing) < s.settle || s.due(in, now)) {
			ask = append(ask, id)
		}
		keep[id] = in
	}
	s.known = keep
	if len(ask) > 0 {
		found, err := s.cloud.DescribeInstances(ctx, ask)
		if err != nil {
			return 0, fmt.Errorf("look for the nodes' instances: %w", err)
		}
		there := map[string]cloud.Instance{}
		for _, in := range found {
			there[in.ID] = in
		}
		for _, id := range ask {
			in := keep[id]
			in.asked = now
			if x, ok := there[id]; ok {
				in.vpc, in.vswitch, in.missing = x.VPCID, x.VSwitchID, time.Time{}
			} else if in.missing.IsZero() {
				in.missing = now
			}
		}
	}
	for _, in := range keep {
		if d := s.settle - now.Sub(in.missing); !in.missing.IsZero() && d > 0 && (again == 0 || d < again) {
			again = d
		}
	}
	return again, nil
}

// due reports whether an instance was last asked for before its absence could be believed.
func (s *instances) due(in *instance, now time.Time) bool {
	believed := in.missing.Add(s.settle)
	return !in.missing.IsZero() && !now.Before(believed) && in.asked.Before(believed)
}

// doubt makes the next learn ask for an instance.
func (s *instances) doubt(id string) {
	if in := s.known[id]; in != nil {
		in.asked = time.Time{}
	}
}

// where an instance is; empty when it was never seen.
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
