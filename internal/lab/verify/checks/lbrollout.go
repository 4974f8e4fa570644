package checks

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/load"
	"terway.dev/terway/internal/lab/verify"
	"terway.dev/terway/internal/vpcsim/faults"
)

const (
	// lbRate is how many requests a second each load balancer gets in a check.
	lbRate = 100
	// lbConnections is how many connections are kept open to each.
	lbConnections = 10
	// lbTimeout limits a request.
	lbTimeout = 5 * time.Second
)

var lbRollingUpgrade = verify.Check{
	Name: "lb-rolling-upgrade",
	About: fmt.Sprintf("all pods behind a CLB and an NLB are replaced under %d requests/s to each: none fails, if the program exits at SIGTERM and each request has its own connection, "+
		"nor if the program closes gracefully and connections are kept", lbRate),
	NotFor: noPodBackends, Once: true, Shared: true,
	Run: run(func(ctx context.Context, e *env) (string, error) {
		exit, err := e.upgraded(ctx, "exit", 0, nil)
		if err != nil {
			return "", fmt.Errorf("the program exits at SIGTERM: %w", err)
		}
		drain, err := e.upgraded(ctx, "drain", lbConnections, nil)
		if err != nil {
			return "", fmt.Errorf("the program closes gracefully: %w", err)
		}
		return fmt.Sprintf("exits at SIGTERM: %s; closes gracefully: %s", exit, drain), nil
	}),
}

var lbControllerFailover = verify.Check{
	Name:   "lb-controller-failover",
	About:  "the leading controller is killed while pods behind a CLB and an NLB are replaced, in a namespace that requires gates: no request fails, with programs that exit at SIGTERM, and a connection for each request",
	NotFor: noPodBackends, Once: true, Shared: true,
	Run: run(func(ctx context.Context, e *env) (string, error) {
		return e.upgraded(ctx, "exit", 0, func(ctx context.Context, d *instruments.Deployment) error {
			if err := e.InjectGates(ctx, true); err != nil {
				return err
			}
			if err := e.Terminates(ctx, d); err != nil {
				return err
			}
			m, err := e.Leader(ctx)
			if err != nil {
				return err
			}
			n, err := instruments.Kill(controllerName, m)
			e.Killed += n
			return err
		})
	}),
}

var lbThrottled = verify.Check{
	Name:   "lb-throttled",
	About:  "half of the calls about load balancers are throttled while pods behind a CLB and an NLB are replaced: no request fails, with programs that exit at SIGTERM, and a connection for each request",
	NotFor: noPodBackends, Once: true, Shared: true, Trouble: true,
	Run: run(func(ctx context.Context, e *env) (_ string, err error) {
		defer func() {
			clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
			defer cancel()
			err = errors.Join(err, e.Lab.Cloud.RemoveFault(clean, faultName))
		}()
		return e.upgraded(ctx, "exit", 0, func(ctx context.Context, _ *instruments.Deployment) error {
			return e.Lab.Cloud.AddFault(ctx, faults.Rule{Name: faultName, Action: "?lb:*", Probability: new(0.5), Error: &faults.Error{Code: "Throttling.User"}})
		})
	}),
}

// upgraded makes all pods behind a CLB and an NLB anew under requests, of which none may fail. The
// pods' program ends at SIGTERM as it says; connections are how many are kept open, or 0. If
// meanwhile is not nil, it is called when the first pod is being replaced.
func (e *env) upgraded(ctx context.Context, atSIGTERM string, connections int, meanwhile func(context.Context, *instruments.Deployment) error) (string, error) {
	const pods, surge = 4, 2
	name := "web-" + atSIGTERM
	d := e.Webservers(name, pods, surge, 0, "--at-sigterm", atSIGTERM)
	all, before, err := e.behind(ctx, name, d, false)
	if err != nil {
		return "", err
	}
	var said []string
	reports, err := e.underLoad(ctx, all, before, connections, func() ([]corev1.Pod, error) {
		if err := d.Rollout(ctx); err != nil {
			return nil, err
		}
		if meanwhile != nil {
			if err := meanwhile(ctx, d); err != nil {
				return nil, err
			}
		}
		return d.Rolled(ctx)
	})
	for i, r := range reports {
		said = append(said, all[i].Name+": "+r.Summary())
		err = errors.Join(err, r.Err())
	}
	return strings.Join(said, "; "), err
}

// underLoad sends requests to load balancers from the control plane's instance while the pods
// behind them change, and returns what became of them. Each of the pods that are there in the end
// must have answered, if each request has its own connection.
func (e *env) underLoad(ctx context.Context, all []*instruments.Balanced, before []corev1.Pod, connections int, change func() ([]corev1.Pod, error)) (reports []*load.Report, err error) {
	var loads []*load.Load
	defer func() {
		for _, l := range loads {
			reports = append(reports, l.Stop())
		}
		if err != nil || connections > 0 {
			return
		}
		for i, r := range reports {
			for _, p := range before {
				if r.Pods[p.Name] == nil {
					err = errors.Join(err, fmt.Errorf("pod %s has answered nothing of %s", p.Name, all[i].Name))
				}
			}
		}
	}()
	for _, b := range all {
		if err := b.Serves(ctx, before); err != nil {
			return nil, err
		}
		l, err := b.LoadFrom(e.Lab.Master.NetNS, lbRate, connections, lbTimeout)
		if err != nil {
			return nil, err
		}
		loads = append(loads, l)
	}
	after, err := change()
	if err != nil {
		return nil, err
	}
	for _, b := range all {
		err = errors.Join(err, b.Serves(ctx, after))
	}
	before = append(before, after...)
	return nil, err
}

// drainedByCheck on a node says that a check has drained it.
const drainedByCheck = "lab.terway.dev/drained"

var lbDrain = verify.Check{
	Name: "lb-drain",
	About: "kubectl drain evicts the only pod behind a CLB and an NLB: it takes connections until the next one does, and none after its weight is 0; no request fails, " +
		"with a program that exits at SIGTERM, and a connection for each request",
	NotFor: noPodBackends, Once: true,
	Run: run(func(ctx context.Context, e *env) (_ string, err error) {
		d := e.Webservers("drained", 1, 1, 0)
		all, before, err := e.behind(ctx, "drained", d, false)
		if err != nil {
			return "", err
		}
		old := before[0]
		defer func() { err = errors.Join(err, e.uncordon(context.WithoutCancel(ctx))) }()
		off := make([]time.Time, len(all))
		reports, err := e.underLoad(ctx, all, before, 0, func() ([]corev1.Pod, error) {
			drained := make(chan error, 1)
			go func() { drained <- e.drain(ctx, old.Spec.NodeName, "drained") }()
			for i, b := range all {
				if err := e.noMore(ctx, b, old); err != nil {
					return nil, errors.Join(err, <-drained)
				}
				// What was picked just before may be opened after it.
				off[i] = time.Now().Add(time.Second)
			}
			if err := <-drained; err != nil {
				return nil, err
			}
			return d.Settle(ctx)
		})
		var said []string
		for i, r := range reports {
			said = append(said, all[i].Name+": "+r.Summary())
			err = errors.Join(err, r.Err())
			if p := r.Pods[old.Name]; p != nil && !off[i].IsZero() && p.Last.After(off[i]) {
				err = errors.Join(err, fmt.Errorf("%s: pod %s got a new connection at %s, its weight was 0 before %s", all[i].Name, old.Name, p.Last.Format("15:04:05.000"), off[i].Format("15:04:05.000")))
			}
		}
		return old.Spec.NodeName + " drained; " + strings.Join(said, "; "), err
	}),
}

// noMore waits until a pod gets no new connections of a load balancer. Another must get them then.
func (e *env) noMore(ctx context.Context, b *instruments.Balanced, pod corev1.Pod) error {
	return e.Poll(ctx, fmt.Sprintf("pod %s to get no new connection from %s", pod.Name, b.Name), func() (bool, error) {
		lb, err := b.State(ctx)
		if err != nil {
			return false, err
		}
		taking := instruments.Taking(lb)
		for at := range taking {
			if at.Addr().String() == pod.Status.PodIP {
				return false, nil
			}
		}
		if len(taking) == 0 {
			return false, fmt.Errorf("nobody gets connections from %s: pod %s was taken off before the next one was there", b.Name, pod.Name)
		}
		return true, nil
	})
}

// drain evicts a Deployment's pods from a node with kubectl.
func (e *env) drain(ctx context.Context, node, app string) error {
	mark := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:"true"}}}`, drainedByCheck)
	if _, err := e.Client.CoreV1().Nodes().Patch(ctx, node, types.StrategicMergePatchType, mark, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("mark node %s: %w", node, err)
	}
	o := &e.Lab.Options
	out, err := exec.CommandContext(ctx, o.Bin("kubectl"), "--kubeconfig", o.Kubeconfig(), "drain", node, "--pod-selector=app="+app, "--ignore-daemonsets").CombinedOutput()
	if err != nil {
		return fmt.Errorf("kubectl drain %s: %w: %s", node, err, out)
	}
	return nil
}

// uncordon reverts drain: pods can be placed on the nodes again.
func (e *env) uncordon(ctx context.Context) error {
	nodes, err := e.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	for _, n := range nodes.Items {
		if _, marked := n.Annotations[drainedByCheck]; !marked {
			continue
		}
		patch := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:null}},"spec":{"unschedulable":null}}`, drainedByCheck)
		if _, err := e.Client.CoreV1().Nodes().Patch(ctx, n.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("let pods be placed on %s: %w", n.Name, err)
		}
	}
	return nil
}
