// Package verify runs named checks of a lab's network, on one datapath after the other if
// it is asked to, and prints what they measured. The checks are in package checks, what they
// measure with in package instruments.
//
// It owns the namespace that each check has while it runs, and the setting of datapath and
// mode while the nodes are moved; both are put back after a failure and an interrupt, and by
// the next run after a kill.
package verify

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/internal/lab/instruments"
)

// Check is one named proof.
type Check struct {
	Name string
	// About is what passes if the check does, in one line.
	About string
	// NotFor says, for each network whose labs it is not for, why.
	NotFor map[string]string
	// Trouble makes something go wrong around the network, what no datapath has a part in.
	// Such checks take long and run only if they are asked for.
	Trouble bool
	// Slow is one that waits for minutes for what the product promises only then: it runs by
	// its name alone.
	Slow bool
	// Shared is a check of addresses that pods of one ENI have: there is nothing to show on
	// nodes where each pod has an ENI to itself.
	Shared bool
	// Run returns what was measured, and an error when the network is not as it should be.
	Run func(ctx context.Context, e *Env) (measured string, err error)
}

// Result is what became of a check.
type Result struct {
	Name string `json:"name"`
	// Datapath is what the nodes ran, several names with commas if they differ; none with Flannel.
	Datapath string  `json:"datapath,omitempty"`
	OK       bool    `json:"ok"`
	Measured string  `json:"measured"`
	Error    string  `json:"error,omitempty"`
	Seconds  float64 `json:"seconds"`
}

// Env is what a check works with.
type Env struct {
	// Cluster has a namespace that is the check's own.
	instruments.Cluster
	// Traffic is how long checks send that interrupt something meanwhile.
	Traffic time.Duration
	// Killed is how many processes of the system the check has killed.
	Killed int

	suite Suite
}

// Suite are checks that belong together.
type Suite struct {
	// Checks are in the order in which they run.
	Checks []Check
	// Undo takes back what a check that was killed has left outside its namespace.
	Undo func(context.Context, *Env) error
}

// checkTimeout ends a check that hangs.
const checkTimeout = 4 * time.Minute

// DefaultTraffic is Env.Traffic where nobody says otherwise.
const DefaultTraffic = time.Minute

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
			return "nothing to show: each pod has an ENI to itself", nil
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
	// Cleaning up is part of the check, and happens when the user interrupts it too.
	if own.Namespace != "" {
		clean, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), time.Minute, errors.New("the check's pods were not gone within a minute"))
		defer cancel()
		err = errors.Join(err, own.Empty(clean, own.Namespace))
	}
	r := Result{Name: c.Name, Datapath: e.Datapath(), OK: err == nil, Measured: measured, Seconds: time.Since(began).Seconds()}
	if err != nil {
		r.Error = err.Error()
	}
	return r
}

// namespaceLabel marks the namespaces of checks.
const namespaceLabel = "lab.terway.dev/check"

// sweep removes the namespaces of all checks, those of an interrupted run too, waits
// until they are gone, and takes back what else they have changed.
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
