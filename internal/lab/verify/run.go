package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
)

// Request is what to run.
type Request struct {
	// Checks are the checks of the suite to run.
	Checks []Check
	// Datapaths are the datapaths to run the checks on, one after the other: the nodes are
	// switched, and switched back at the end. Empty: the current datapath.
	Datapaths []string
	// Traffic is Env.Traffic.
	Traffic time.Duration
}

// Group is a datapath with the results of the checks on it.
type Group struct {
	Datapath string `json:"datapath"`
	// Nodes are the nodes' datapaths with their reasons.
	Nodes []instruments.NodeDatapath `json:"nodes,omitempty"`
	// Lacking is why a node does not support the datapath, so that no check has run.
	Lacking string `json:"lacking,omitempty"`
	// Error is why no check has run, if the datapath is supported.
	Error   string   `json:"error,omitempty"`
	Results []Result `json:"-"`
}

// Failed returns the number of failed checks.
func (g *Group) Failed() (n int) {
	for _, r := range g.Results {
		if !r.OK {
			n++
		}
	}
	return n
}

// Report has functions that are called during a run.
type Report struct {
	// Moving is called before the nodes are switched.
	Moving func(to string)
	// Begin is called with the nodes' datapath, or why they do not run it.
	Begin  func(*Group)
	Result func(Result)
}

// moveTimeout limits how long a switch to another datapath, with the system's pods, may take.
const moveTimeout = 3 * time.Minute

// Run runs the checks one after another on each datapath. The error is about the run itself;
// errors of checks and datapaths are in the groups.
func Run(ctx context.Context, s *lab.State, suite Suite, r Request, report Report) (groups []*Group, err error) {
	unlock, err := s.LockVerify()
	if err != nil {
		return nil, err
	}
	defer unlock()
	c, err := instruments.Connect(s)
	if err != nil {
		return nil, err
	}
	e := &Env{Cluster: *c, Traffic: r.Traffic, suite: suite}
	if err := errors.Join(e.sweep(ctx), e.LookAtNodes(ctx)); err != nil {
		return nil, err
	}
	terway := s.Options.Network == lab.NetworkTerway
	if terway {
		if err := e.leave(ctx, report); err != nil {
			return nil, err
		}
	}
	if len(r.Datapaths) == 0 {
		g := &Group{Datapath: e.Datapath(), Nodes: e.Runs}
		report.Begin(g)
		err := e.runAll(ctx, r.Checks, g, report)
		return []*Group{g}, errors.Join(err, e.sweep(ctx))
	}
	// The datapath is restored after a failure and an interrupt too.
	defer func() { err = errors.Join(err, e.leave(ctx, report)) }()
	checks := slices.Clone(r.Checks)
	names := r.Datapaths
	if names[0] == AllDatapaths {
		names = Datapaths()
	}
	for _, name := range names {
		g := &Group{Datapath: name}
		groups = append(groups, g)
		report.Moving(name)
		if err := e.moveTimely(ctx, name); err != nil {
			if refused := (*refusedError)(nil); errors.As(err, &refused) {
				g.Lacking = refused.Error()
			} else {
				g.Error = err.Error()
			}
			report.Begin(g)
			if ctx.Err() != nil {
				return groups, context.Cause(ctx)
			}
			continue
		}
		g.Nodes = e.Runs
		report.Begin(g)
		if err := errors.Join(e.runAll(ctx, checks, g, report), e.sweep(ctx)); err != nil {
			return groups, err
		}
		checks = slices.DeleteFunc(checks, func(c Check) bool { return c.Once && e.pointless(c) == "" })
	}
	return groups, nil
}

func (e *Env) moveTimely(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, moveTimeout, fmt.Errorf("not done within %s", moveTimeout))
	defer cancel()
	return e.move(ctx, name)
}

// leave restores the lab's former datapath.
func (e *Env) leave(ctx context.Context, report Report) error {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), moveTimeout, fmt.Errorf("not done within %s", moveTimeout))
	defer cancel()
	if err := e.moveBack(ctx, report.Moving); err != nil {
		return fmt.Errorf("put back the datapath from before: %w", err)
	}
	return nil
}

func (e *Env) runAll(ctx context.Context, checks []Check, g *Group, report Report) error {
	for _, c := range checks {
		r := e.run(ctx, c)
		g.Results = append(g.Results, r)
		report.Result(r)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}
