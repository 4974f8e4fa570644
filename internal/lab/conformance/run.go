package conformance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/kinds"
	"terway.dev/terway/internal/kernel"
	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/verify"
)

// Outcome is what came out of one suite on pods of one kind.
type Outcome struct {
	Suite string `json:"suite"`
	// Kind is how pods were wired: the datapath, or exclusive.
	Kind   string `json:"kind"`
	Date   string `json:"date"`
	Kernel string `json:"kernel"`
	// NotRun is why the suite has not run.
	NotRun string `json:"notRun,omitempty"`
	Specs  []Spec `json:"specs,omitempty"`
	// report is the suite's own report, if it writes one.
	report []byte
}

// Count returns how many specs ended so.
func (o *Outcome) Count(s State) (n int) {
	for _, spec := range o.Specs {
		if spec.State == s {
			n++
		}
	}
	return n
}

// Unexpected returns an error that names the specs that ended otherwise than is known of the suite: those that did not
// pass and are not known for it, and those that passed and are.
func Unexpected(outcomes []Outcome) error {
	var errs []error
	for i := range outcomes {
		o := &outcomes[i]
		known := suiteOf(o).known
		for _, spec := range o.Specs {
			_, is := known[spec.Name]
			switch {
			case spec.State != Passed && !is:
				errs = append(errs, fmt.Errorf("%s on %s: %s: %s", o.Suite, o.Kind, spec.State, spec.Name))
			case spec.State == Passed && is:
				errs = append(errs, fmt.Errorf("%s on %s: passed, and is known not to (package conformance): %s", o.Suite, o.Kind, spec.Name))
			}
		}
	}
	return errors.Join(errs...)
}

// suiteOf returns the suite of an outcome; one without a name if there is none any more.
func suiteOf(o *Outcome) Suite {
	all := Suites()
	if at := slices.IndexFunc(all, func(s Suite) bool { return s.Name == o.Suite }); at >= 0 {
		return all[at]
	}
	return Suite{}
}

// Request is what to run.
type Request struct {
	Suites []Suite
	// Selection runs the selections of the suites alone.
	Selection bool
	// Procs is how many specs of e2e.test run at once; in mode exclusive it is one, as a node has few ENIs.
	Procs int
	// Logs gets a folder for each suite and kind.
	Logs string
}

// Check returns an error for values that cannot be run.
func (r *Request) Check() error {
	switch {
	case r.Procs < 1 || r.Procs > 16:
		return fmt.Errorf("--procs %d: must be 1 to 16", r.Procs)
	case r.Selection && !slices.ContainsFunc(r.Suites, func(s Suite) bool { return s.selection != nil }):
		return errors.New("--selection with --suites: none of these suites has a selection; leave --selection out, or name others")
	}
	return nil
}

// CheckRan returns an error if no spec has run.
func CheckRan(outcomes []Outcome) error {
	var why []string
	for i := range outcomes {
		o := &outcomes[i]
		if o.Count(Passed)+o.Count(Failed) > 0 {
			return nil
		}
		if o.NotRun != "" {
			why = append(why, fmt.Sprintf("%s on %s: %s", o.Suite, o.Kind, o.NotRun))
		}
	}
	return errors.New(strings.Join(append([]string{"no spec has run"}, why...), "; "))
}

// Kinds returns the kinds of pods that a lab on this machine can have, the names that "terway-lab verify" has for them.
func Kinds() ([]string, error) {
	lacking, err := kinds.Probe()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(verify.Datapaths(), func(name string) bool { return lacking[name] != nil }), nil
}

// exclusiveType is the instance type in mode exclusive: its 15 ENIs hold the pods of a suite.
const exclusiveType = "ecs.g6.26xlarge"

// Labs returns a lab for each kind of pods.
func Labs(base lab.Options, names []string) ([]*lab.Options, error) {
	switch {
	case len(names) == 0:
		return nil, errors.New("--datapath is empty: name at least one kind of pods")
	case slices.Contains(names, verify.AllDatapaths):
		return nil, fmt.Errorf("--datapath %s: name the kinds; without it those that the kernel has are run", verify.AllDatapaths)
	case base.Nodes < 2:
		return nil, fmt.Errorf("--nodes %d: must be 2 or more", base.Nodes)
	}
	if err := verify.CheckDatapaths(lab.NetworkTerway, names); err != nil {
		return nil, err
	}
	var labs []*lab.Options
	for _, name := range names {
		o := base
		o.Network, o.Datapath, o.Policy, o.InstanceType = lab.NetworkTerway, name, true, lab.ExclusiveInstanceType
		if name == instruments.Exclusive {
			o.Datapath, o.Mode, o.InstanceType = "", claims.ModeExclusive, exclusiveType
		}
		if err := o.Normalize(); err != nil {
			return nil, err
		}
		labs = append(labs, &o)
	}
	return labs, nil
}

// RunEach starts a lab for each of these, runs the suites on it and takes it down. After an error it goes on with the next.
func RunEach(ctx context.Context, labs []*lab.Options, r Request, p *lab.Progress) (all []Outcome, err error) {
	for _, l := range labs {
		if ctx.Err() != nil {
			break
		}
		got, failure := runOne(ctx, l, r, p)
		all, err = append(all, got...), errors.Join(err, failure)
	}
	return all, errors.Join(err, ctx.Err())
}

func runOne(ctx context.Context, l *lab.Options, r Request, p *lab.Progress) (_ []Outcome, err error) {
	defer func() {
		if errors.Is(err, lab.ErrRunning) {
			return // it belongs to another program
		}
		err = errors.Join(err, p.Step("lab down", func() error {
			_, err := lab.Down(context.WithoutCancel(ctx), l)
			return err
		}))
	}()
	s, err := lab.Up(ctx, l, p)
	if err != nil {
		return nil, err
	}
	return Run(ctx, s, r, p)
}

// Run runs the suites on the running lab. Specs that fail are in the outcomes. The error is about suites that have not run;
// after one it goes on with the next.
func Run(ctx context.Context, s *lab.State, r Request, p *lab.Progress) (all []Outcome, err error) {
	var programs []string
	for _, suite := range r.Suites {
		programs = append(programs, suite.programs...)
	}
	if err := s.Options.BuildSuites(ctx, programs, p); err != nil {
		return nil, err
	}
	c, err := instruments.Connect(s)
	if err != nil {
		return nil, err
	}
	if err := c.LookAtNodes(ctx); err != nil {
		return nil, err
	}
	version, err := kernel.Version()
	if err != nil {
		return nil, err
	}
	for _, suite := range r.Suites {
		if ctx.Err() != nil {
			break
		}
		if r.Selection && suite.selection == nil {
			continue
		}
		o := Outcome{Suite: suite.Name, Kind: c.Datapath(), Date: time.Now().Format(time.DateOnly), Kernel: version}
		if suite.Policy {
			o.NotRun = off(ctx, s)
		}
		if suite.product == instruments.NLB && len(s.Cloud.PodVSwitches) < 2 {
			o.NotRun = `an NLB needs vSwitches in two zones: "terway-lab up --zones 2" starts a lab with them`
		}
		if o.NotRun == "" {
			if failure := p.Step(suite.Name+" on "+o.Kind, func() error { return r.one(ctx, c, &suite, &o) }); failure != nil {
				err = errors.Join(err, failure)
				continue
			}
			p.Note("          %s on %s: %d passed, %d failed, %d skipped", suite.Name, o.Kind, o.Count(Passed), o.Count(Failed), o.Count(Skipped))
		}
		all = append(all, o)
	}
	return all, errors.Join(err, ctx.Err())
}

// off returns why suites of policies are not run.
func off(ctx context.Context, s *lab.State) string {
	if err := s.PoliciesOn(ctx); err != nil {
		return fmt.Sprintf(`network policies are not on: %v; "terway-lab up --policy" starts a lab with them`, err)
	}
	return ""
}

func (r *Request) one(ctx context.Context, c *instruments.Cluster, suite *Suite, o *Outcome) error {
	dir, err := filepath.Abs(filepath.Join(r.Logs, suite.Name+"-"+o.Kind))
	if err != nil {
		return fmt.Errorf("--logs %s: %w", r.Logs, err)
	}
	// Nothing of an earlier run may count as this one's.
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return fmt.Errorf("--logs: %w", err)
	}
	this := run{lab: c.Lab, cluster: c, procs: r.Procs, dir: dir}
	if c.Lab.Options.Mode == claims.ModeExclusive {
		this.procs = 1
	}
	if r.Selection {
		this.only = suite.selection
	}
	if o.Specs, err = suite.run(ctx, &this); err != nil {
		return err
	}
	if err := suite.check(o.Specs, this.only); err != nil {
		return fmt.Errorf("%w; the suite's output is in %s", err, this.output())
	}
	if o.report, err = os.ReadFile(filepath.Join(dir, policyReport)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read the suite's report: %w", err)
	}
	return nil
}
