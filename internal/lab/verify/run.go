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
	// From is Env.From.
	From string
	// Parallel is how many of the checks that may run beside others run at a time; less than 2: one.
	Parallel int
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
	// Seconds is how long the checks took, of which some may have run at the same time.
	Seconds float64 `json:"seconds,omitempty"`
}

// Failed returns the number of failed checks.
func (g *Group) Failed() (n int) {
	for _, r := range g.Results {
		if !r.OK && r.Untested == "" {
			n++
		}
	}
	return n
}

// tested reports whether a check has run and there was something to test.
func (g *Group) tested(name string) bool {
	return slices.ContainsFunc(g.Results, func(r Result) bool { return r.Name == name && r.Untested == "" })
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

// Run runs the checks in their order on each datapath, neighbours that may run beside others at the same time. The error is about the run itself;
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
	e := &Env{Cluster: *c, Traffic: r.Traffic, From: r.From, suite: suite, parallel: r.Parallel}
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
		if err := errors.Join(e.runAll(ctx, due(r.Checks, groups), g, report), e.sweep(ctx)); err != nil {
			return groups, err
		}
	}
	return groups, nil
}

// due returns those of the checks that are to run on the datapath of the last group.
func due(checks []Check, groups []*Group) []Check {
	last := len(groups) - 1
	return slices.DeleteFunc(slices.Clone(checks), func(c Check) bool {
		var before []string
		for _, g := range groups[:last] {
			if g.tested(c.Name) {
				before = append(before, g.Datapath)
			}
		}
		return !c.Due(groups[last].Datapath, before)
	})
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
	began := time.Now()
	defer func() { g.Seconds = time.Since(began).Seconds() }()
	for len(checks) > 0 {
		var next []Check
		next, checks = neighbours(checks)
		n, err := e.atOnce(ctx, len(next))
		if err != nil {
			return err
		}
		sideBySide(ctx, next, n, e.run, func(r Result) {
			g.Results = append(g.Results, r)
			report.Result(r)
		})
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

// neighbours splits off the first check, with those behind it that may run beside it.
func neighbours(checks []Check) (next, rest []Check) {
	n := 1
	for checks[0].Beside && n < len(checks) && checks[n].Beside {
		n++
	}
	return checks[:n], checks[n:]
}

// podsBeside is how many pods a check that may run beside others has on a node at most.
const podsBeside = 2

// atOnce returns how many of n checks run at a time: as many as were requested, but no more than the fullest node has room for. Checks that
// wait for each other's pods to end would wait for ever.
func (e *Env) atOnce(ctx context.Context, n int) (int, error) {
	if n = min(n, e.parallel); n < 2 {
		return 1, nil
	}
	room, err := e.LeastRoom(ctx)
	if err != nil {
		return 0, err
	}
	return max(1, min(n, room/podsBeside)), nil
}

// sideBySide runs checks, n at a time, and reports their results in the order of the checks, each as soon as there is none before it. After
// an interrupt no further check starts.
func sideBySide(ctx context.Context, checks []Check, n int, run func(context.Context, Check) Result, report func(Result)) {
	ended := make([]chan Result, len(checks))
	for i := range ended {
		ended[i] = make(chan Result, 1)
	}
	go func() {
		free := make(chan struct{}, n)
		for i, c := range checks {
			free <- struct{}{}
			if i > 0 && ctx.Err() != nil {
				close(ended[i])
				<-free
				continue
			}
			go func() {
				ended[i] <- run(ctx, c)
				close(ended[i])
				<-free
			}()
		}
	}()
	for _, c := range ended {
		if r, ran := <-c; ran {
			report(r)
		}
	}
}
