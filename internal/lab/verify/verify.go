// Package verify runs named checks of a lab's network, on one datapath or on several, and
// prints their results. The checks are in package checks, their tools in package instruments.
//
// It owns the namespace of the running check, and the setting of datapath and mode while the
// nodes are switched. Both are restored after a failure and an interrupt, and by the next run
// after a kill.
package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/internal/lab/instruments"
)

// Check is a named test of the network.
type Check struct {
	Name string
	// About is one line on what the check proves.
	About string
	// NotFor has, for each network that the check does not apply to, the reason.
	NotFor map[string]string
	// Trouble marks a check that causes failures outside the datapath. These checks take long
	// and run only on request.
	Trouble bool
	// Slow marks a check that waits for minutes: it runs only by name.
	Slow bool
	// Shared marks a check that needs several pods on one ENI, or its addresses: on nodes with exclusive ENIs there is nothing to test.
	Shared bool
	// Policy marks a check of network policies: it is for labs with policies.
	Policy bool
	// Once marks a check of what does not depend on the datapath: of several datapaths it runs on the first on which there is something
	// to test.
	Once bool
	// PerMode marks a check of what depends on whether pods share ENIs, but not on how those are wired that do: of several datapaths it runs
	// on one of those, and on exclusive.
	PerMode bool
	// Beside marks a check that may run beside others of the kind: it changes nothing outside its namespace, ends no process, needs
	// few pods (podsBeside), and measures nothing that others' traffic or a busy machine would change.
	Beside bool
	// Run returns what was measured, and an error if the network does not work as it should, or instruments.NothingToTest.
	Run func(ctx context.Context, e *Env) (measured string, err error)
}

// Due reports whether the check is to run on a datapath when it has tested something on others before.
func (c *Check) Due(datapath string, before []string) bool {
	return !slices.ContainsFunc(before, func(b string) bool {
		return c.Once || c.PerMode && (b == instruments.Exclusive) == (datapath == instruments.Exclusive)
	})
}

// Result is the result of a check.
type Result struct {
	Name string `json:"name"`
	// Datapath is the nodes' datapath, several names with commas if they differ; none with
	// Flannel.
	Datapath string `json:"datapath,omitempty"`
	OK       bool   `json:"ok"`
	// Untested is why there was nothing to test: the check has neither passed nor failed.
	Untested string  `json:"untested,omitempty"`
	Measured string  `json:"measured"`
	Error    string  `json:"error,omitempty"`
	Seconds  float64 `json:"seconds"`
}

// Env is the environment of a check.
type Env struct {
	// Cluster has the check's own namespace.
	instruments.Cluster
	// Traffic is how long checks send traffic while something is interrupted.
	Traffic time.Duration
	// From is the version from which checks upgrade: a git tag or commit; empty: the release before.
	From string
	// Killed is how many processes of the system the check has killed.
	Killed int

	suite Suite
	// parallel is Request.Parallel.
	parallel int
}

// Suite is a set of checks.
type Suite struct {
	// Checks are in the order in which they run.
	Checks []Check
	// Undo reverts what a check that was killed has left outside its namespace.
	Undo func(context.Context, *Env) error
}

// checkTimeout limits a check that hangs.
const checkTimeout = 5 * time.Minute

// DefaultTraffic is the default of Env.Traffic.
const DefaultTraffic = time.Minute

// DefaultParallel is the default of Request.Parallel.
const DefaultParallel = 4

func (e *Env) run(ctx context.Context, c Check) Result {
	began := time.Now()
	own := *e
	measured, err := func() (string, error) {
		ctx, cancel := context.WithTimeoutCause(ctx, checkTimeout, fmt.Errorf("the check took more than %s", checkTimeout))
		defer cancel()
		before, err := own.restarts(ctx)
		if err != nil {
			return "", err
		}
		if c.Shared && own.AllExclusive() {
			return "", instruments.NothingToTest("each pod has an exclusive ENI")
		}
		if err := own.MakeNamespace(ctx, metav1.ObjectMeta{GenerateName: "verify-" + c.Name + "-", Labels: map[string]string{namespaceLabel: c.Name}}); err != nil {
			return "", err
		}
		measured, err := c.Run(ctx, &own)
		if err != nil {
			return measured, err
		}
		return measured, own.unharmed(ctx, before)
	}()
	// Cleaning up is part of the check, also after an interrupt.
	if own.Namespace != "" {
		clean, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), time.Minute, errors.New("the check's pods were not gone within a minute"))
		defer cancel()
		err = errors.Join(err, own.Empty(clean, own.Namespace))
	}
	r := Result{Name: c.Name, Datapath: e.Datapath(), OK: err == nil, Measured: measured, Seconds: time.Since(began).Seconds()}
	var nothing instruments.NothingToTest
	switch {
	case errors.As(err, &nothing) && err.Error() == nothing.Error(): // and nothing else is wrong
		r.Untested = string(nothing)
	case err != nil:
		r.Error = err.Error()
	}
	return r
}

// namespaceLabel marks the namespaces of checks.
const namespaceLabel = "lab.terway.dev/check"

// sweep deletes the namespaces of all checks, including those of an interrupted run, waits
// until they are gone, and reverts the checks' other changes.
func (e *Env) sweep(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), time.Minute, errors.New("not gone within a minute"))
	defer cancel()
	left := func() ([]corev1.Namespace, error) {
		list, err := e.Client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{LabelSelector: namespaceLabel})
		if err != nil {
			return nil, fmt.Errorf("list the checks' namespaces: %w", err)
		}
		return list.Items, nil
	}
	all, err := left()
	if err != nil {
		return err
	}
	for _, ns := range all {
		if err := e.Empty(ctx, ns.Name); err != nil {
			return err
		}
	}
	if err := e.Poll(ctx, "the checks' namespaces to be gone", func() (bool, error) {
		all, err := left()
		return err == nil && len(all) == 0, err
	}); err != nil {
		return err
	}
	return e.suite.Undo(ctx, e)
}
