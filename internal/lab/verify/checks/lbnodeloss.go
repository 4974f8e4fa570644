package checks

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/load"
	"terway.dev/terway/internal/lab/verify"
)

const (
	// lossInterval and lossThreshold are those of instruments.QuickChecks, lossTimeout is set in lb-node-loss.
	lossInterval  = 1 * time.Second
	lossThreshold = 2
	lossTimeout   = 1 * time.Second
	// lossBound is how long after the loss of a node requests may fail at most.
	lossBound = lossInterval*lossThreshold + lossTimeout + time.Second
)

var lbNodeLoss = verify.Check{
	Name: "lb-node-loss",
	About: fmt.Sprintf("the instance of a node with half of the pods behind a CLB and an NLB is stopped: no request that is sent later than %s fails (health checks: interval %s × threshold %d + time-out %s, + 1 s); started again, a new pod on it answers",
		lossBound, lossInterval, lossThreshold, lossTimeout),
	NotFor: noPodBackends, Once: true, Shared: true, Trouble: true,
	Run: run(func(ctx context.Context, e *env) (_ string, err error) {
		leads, err := e.Leader(ctx)
		if err != nil {
			return "", err
		}
		na, nb, err := e.TwoNodes()
		if err != nil {
			return "", err
		}
		lost := nb // not the leader's: its loss is another check's
		if lost.Name == leads.Name {
			lost = na
		}
		all, err := e.balance(ctx, "web", false, instruments.QuickChecks("health-check-connect-timeout", fmt.Sprint(lossTimeout.Seconds())))
		if err != nil {
			return "", err
		}
		d := e.Webservers("web", 4, 1, 0)
		if err := d.Create(ctx); err != nil {
			return "", err
		}
		pods, err := d.Settle(ctx)
		if err != nil {
			return "", err
		}
		there := 0
		for _, p := range pods {
			if p.Spec.NodeName == lost.Name {
				there++
			}
		}
		if there == 0 || there == len(pods) {
			return "", fmt.Errorf("%d of %d pods are on %s: nothing would be tested", there, len(pods), lost.Name)
		}
		var loads []*load.Load
		for _, b := range all {
			if err := b.Serves(ctx, pods); err != nil {
				return "", err
			}
			// A request ends soon, so that what fails was sent shortly before.
			l, err := b.LoadFrom(e.Lab.Master.NetNS, lbRate, 0, 2*time.Second)
			if err != nil {
				return "", err
			}
			defer l.Stop()
			loads = append(loads, l)
		}
		defer func() { err = errors.Join(err, e.powerOn(ctx)) }()
		if err := e.Lab.Cloud.PowerOff(ctx, lost); err != nil {
			return "", err
		}
		at := time.Now()
		var said []string
		select {
		case <-ctx.Done():
			return "", context.Cause(ctx)
		case <-time.After(3 * lossBound):
		}
		for i, l := range loads {
			r := l.Stop()
			last := time.Duration(0)
			for _, f := range r.Failures {
				if last = f.At.Sub(at); last > lossBound {
					err = errors.Join(err, fmt.Errorf("%s: %.1f s after the loss: %s", all[i].Name, last.Seconds(), f))
				}
			}
			if len(r.Failures) == 0 {
				err = errors.Join(err, fmt.Errorf("%s: no request failed: the node was not lost", all[i].Name))
			}
			said = append(said, fmt.Sprintf("%s: %s, the last %.1f s after it", all[i].Name, r.Summary(), last.Seconds()))
		}
		if err == nil {
			err = e.usableAgain(ctx, lost)
		}
		return fmt.Sprintf("%s with %d of %d pods lost: %s", lost.Name, there, len(pods), strings.Join(said, "; ")), err
	}),
}

// usableAgain starts a machine that a check has stopped, and waits until a new pod there answers an instance of the VPC.
func (e *env) usableAgain(ctx context.Context, m lab.Machine) error {
	if err := e.powerOn(ctx); err != nil {
		return err
	}
	const name = "again"
	if err := e.CreatePod(ctx, name, e.PodSpec(m.Name)); err != nil {
		return err
	}
	pods, err := e.Ready(ctx, name)
	if err != nil {
		return err
	}
	to := net.JoinHostPort(pods[0].Status.PodIP, strconv.Itoa(instruments.HTTPPort))
	return e.Poll(ctx, "a new pod on "+m.Name+" to answer", func() (bool, error) {
		got, err := instruments.Reach(ctx, e.Lab.Master.NetNS, "tcp", to)
		return got == instruments.Open, err
	})
}

// powerOn starts the instances that a check has stopped, and waits until their nodes are ready.
func (e *env) powerOn(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), 2*time.Minute, errors.New("not done within two minutes"))
	defer cancel()
	some := false
	for _, m := range e.Lab.Machines {
		started, err := e.Lab.Cloud.PowerOn(ctx, m)
		if err != nil {
			return err
		}
		some = some || started
	}
	if !some {
		return nil
	}
	return e.Poll(ctx, "all nodes to be ready", func() (bool, error) {
		nodes, err := e.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		for _, n := range nodes.Items {
			for _, c := range n.Status.Conditions {
				if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
					return false, nil
				}
			}
		}
		return true, nil
	})
}
