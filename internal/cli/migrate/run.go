package migrate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/migrate"
)

// poll is how often the cluster is asked about what a step waits for.
const poll = time.Second

// runner changes nodes. Everything it does may be cut off and done again.
type runner struct {
	client    client.Client
	plan      *migrate.Plan
	namespace string // Terway's
	// drain and ready are how long a node's pods may take to leave it, and anything else that a step waits for.
	drain, ready time.Duration
	sleep        func(context.Context, time.Duration) error
	report       io.Writer
}

func (r *runner) say(format string, args ...any) { fmt.Fprintf(r.report, format+"\n", args...) }

// prepare gives the old network's nodes the label, and confines the old network to them. Nothing moves
// by that, but the pods of its DaemonSets are restarted, as by any change of theirs.
func (r *runner) prepare(ctx context.Context) error {
	if r.plan.Confined {
		return nil
	}
	// The label first: a confined DaemonSet leaves nodes without.
	for _, n := range r.plan.Nodes {
		if err := r.change(ctx, n.Name, func(n *corev1.Node) { label(n) }); err != nil {
			return err
		}
	}
	for _, name := range r.plan.DaemonSets {
		namespace, name, _ := strings.Cut(name, "/")
		err := r.write(ctx, func() error {
			d := &appsv1.DaemonSet{}
			if err := r.client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, d); err != nil {
				return err
			}
			migrate.Confine(&d.Spec.Template.Spec)
			return r.client.Update(ctx, d)
		})
		if err != nil {
			return fmt.Errorf("confine DaemonSet %s/%s to nodes with the label %s: %w", namespace, name, claims.LabelIgnore, err)
		}
		r.say("DaemonSet %s/%s: for nodes with the label %s alone", namespace, name, claims.LabelIgnore)
	}
	return nil
}

// run takes nodes through all steps, one after the other.
func (r *runner) run(ctx context.Context) error {
	do := map[migrate.Step]func(context.Context, string) error{
		migrate.Cordon: r.cordon, migrate.Drain: r.drainNode, migrate.Disable: r.disable, migrate.Switch: r.switchNode, migrate.Uncordon: r.uncordon,
		migrate.Ready: r.becomeReady, migrate.Renew: r.renew, migrate.Return: r.returnNode, migrate.Teardown: r.teardown, migrate.Enable: r.enable, migrate.OldReady: r.oldReady,
		migrate.Release: r.release,
	}
	for i, node := range r.plan.Change {
		for _, step := range r.plan.Steps {
			r.say("%s: %s", node, step)
			if err := r.patiently(ctx, r.timeOf(step), func() error { return do[step](ctx, node) }); err != nil {
				return fmt.Errorf("node %s, step %s: %w\n%d of %d nodes are done; the same command goes on with this one", node, step, err, i, len(r.plan.Change))
			}
		}
		if err := r.change(ctx, node, func(n *corev1.Node) { delete(n.Annotations, migrate.AnnotationMigrating) }); err != nil {
			return err
		}
		r.say("%s: done", node)
	}
	return nil
}

// timeOf returns how long a step may take.
func (r *runner) timeOf(s migrate.Step) time.Duration {
	if s == migrate.Drain || s == migrate.Renew {
		return r.drain
	}
	return r.ready
}

// change changes a node, if there is something to change.
func (r *runner) change(ctx context.Context, name string, change func(*corev1.Node)) error {
	err := r.write(ctx, func() error {
		n := &corev1.Node{}
		if err := r.client.Get(ctx, client.ObjectKey{Name: name}, n); err != nil {
			return err
		}
		before := n.DeepCopy()
		change(n)
		// Others write to the list of taints too: the lock keeps theirs.
		return r.client.Patch(ctx, n, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
	})
	if err != nil {
		return fmt.Errorf("change node %s: %w", name, err)
	}
	return nil
}

// write reads and writes an object, again after a conflict with another writer and after errors that pass.
func (r *runner) write(ctx context.Context, do func() error) error {
	return r.patiently(ctx, r.ready, func() error { return retry.RetryOnConflict(retry.DefaultRetry, do) })
}

func label(n *corev1.Node) {
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	n.Labels[claims.LabelIgnore] = "true"
}

func isNotReady(t corev1.Taint) bool { return t.Key == claims.TaintNotReady }

func (r *runner) cordon(ctx context.Context, name string) error {
	return r.change(ctx, name, func(n *corev1.Node) {
		if n.Annotations[migrate.AnnotationMigrating] == "" {
			if n.Annotations == nil {
				n.Annotations = map[string]string{}
			}
			n.Annotations[migrate.AnnotationMigrating] = migrate.SchedulableBefore
			if n.Spec.Unschedulable {
				n.Annotations[migrate.AnnotationMigrating] = migrate.CordonedBefore
			}
		}
		n.Spec.Unschedulable = true
		if !slices.ContainsFunc(n.Spec.Taints, isNotReady) {
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: claims.TaintNotReady, Effect: corev1.TaintEffectNoSchedule})
		}
	})
}

func (r *runner) uncordon(ctx context.Context, name string) error {
	return r.change(ctx, name, func(n *corev1.Node) {
		n.Spec.Unschedulable = n.Annotations[migrate.AnnotationMigrating] == migrate.CordonedBefore
	})
}

// on returns the pods of a node that pick picks.
func (r *runner) on(ctx context.Context, node string, pick func(*corev1.Pod) bool) ([]corev1.Pod, error) {
	list := &corev1.PodList{}
	if err := r.client.List(ctx, list, client.MatchingFields{"spec.nodeName": node}); err != nil {
		return nil, fmt.Errorf("list the pods of node %s: %w", node, err)
	}
	return slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return !pick(&p) }), nil
}

func (r *runner) drainNode(ctx context.Context, node string) error {
	return r.evict(ctx, node, migrate.HasAddress)
}

func (r *runner) renew(ctx context.Context, node string) error {
	return r.evict(ctx, node, func(p *corev1.Pod) bool { return migrate.HasAddress(p) && migrate.Tolerates(p) })
}

// evict evicts the pods that a node has now, and waits until they are gone. Those that come to it meanwhile stay:
// they tolerate everything.
func (r *runner) evict(ctx context.Context, node string, pick func(*corev1.Pod) bool) error {
	pods, err := r.on(ctx, node, pick)
	if err != nil {
		return err
	}
	left := map[types.UID]string{}
	for _, p := range pods {
		left[p.UID] = p.Namespace + "/" + p.Name
	}
	var budget error // of the pod that was last refused
	err = r.wait(ctx, r.drain, func(ctx context.Context) (bool, error) {
		now, err := r.on(ctx, node, func(p *corev1.Pod) bool { return left[p.UID] != "" })
		if err != nil {
			return false, err
		}
		there := map[types.UID]string{}
		budget = nil
		for i := range now {
			p := &now[i]
			there[p.UID] = left[p.UID]
			if p.DeletionTimestamp != nil {
				continue
			}
			err := r.client.SubResource("eviction").Create(ctx, p, &policyv1.Eviction{
				ObjectMeta:    metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name},
				DeleteOptions: &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &p.UID}},
			})
			switch {
			case apierrors.IsTooManyRequests(err):
				budget = fmt.Errorf("pod %s: %w", left[p.UID], err)
			case err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err):
				return false, fmt.Errorf("evict pod %s: %w", left[p.UID], err)
			}
		}
		left = there
		return len(left) == 0, nil
	})
	if err != nil && len(left) > 0 {
		return errors.Join(fmt.Errorf("%d pods have not left it, the first is %s: %w", len(left), slices.Sorted(maps.Values(left))[0], err), budget)
	}
	return err
}

// errLate is the cause of a wait that ends.
var errLate = errors.New("not within the time")

// wait repeats until done. Errors that pass are repeated too, and the last of them is told when the time is over.
func (r *runner) wait(ctx context.Context, most time.Duration, done func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, most, fmt.Errorf("%w of %s", errLate, most))
	defer cancel()
	var last error
	for {
		ok, err := done(ctx)
		switch {
		case ctx.Err() != nil: // the error may be no more than that
		case err == nil:
			if ok {
				return nil
			}
			last = nil
		case passes(err):
			last = r.again(last, err)
		default:
			return err
		}
		if err := r.sleep(ctx, poll); err != nil {
			if last != nil {
				return fmt.Errorf("%w: %w", context.Cause(ctx), last)
			}
			return context.Cause(ctx)
		}
	}
}

// patiently does what may be done again, and repeats it after errors that pass, as long as the time is not over.
func (r *runner) patiently(ctx context.Context, most time.Duration, do func() error) error {
	limited, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	var last error
	for {
		err := do()
		if err == nil || ctx.Err() != nil || errors.Is(err, errLate) || !passes(err) {
			return err
		}
		last = r.again(last, err)
		if r.sleep(limited, poll) != nil {
			return err
		}
	}
}

// again says that something is repeated after an error, unless the last one was the same, and returns the error.
func (r *runner) again(last, err error) error {
	if last == nil || last.Error() != err.Error() {
		r.say("%v; this is repeated", err)
	}
	return err
}

// passes reports whether the API server may answer otherwise later: it is overloaded, starts again, or was not reached.
func passes(err error) bool {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		code := status.Status().Code
		return code == http.StatusTooManyRequests || code == http.StatusRequestTimeout || code >= http.StatusInternalServerError
	}
	var network net.Error // also a refused connection, a reset one and a time that is over
	return errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// sleep waits, or returns an error when ctx ends before.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// ofOld picks pods of the old network's DaemonSets, ofAgent those of Terway's agent.
func (r *runner) ofOld(p *corev1.Pod) bool {
	return slices.ContainsFunc(r.plan.DaemonSets, func(d string) bool { return isOf(p, d) })
}

func (r *runner) ofAgent(p *corev1.Pod) bool { return isOf(p, r.namespace+"/"+migrate.AgentName) }

// isOf reports whether a pod is of a DaemonSet, NAMESPACE/NAME.
func isOf(p *corev1.Pod, set string) bool {
	return slices.ContainsFunc(p.OwnerReferences, func(o metav1.OwnerReference) bool {
		return o.Kind == "DaemonSet" && p.Namespace+"/"+o.Name == set
	})
}

// gone waits until none of a node's pods is picked.
func (r *runner) gone(ctx context.Context, node string, pick func(*corev1.Pod) bool) error {
	var last []corev1.Pod
	err := r.wait(ctx, r.ready, func(ctx context.Context) (_ bool, err error) {
		last, err = r.on(ctx, node, pick)
		return len(last) == 0, err
	})
	if err != nil && len(last) > 0 {
		return fmt.Errorf("pod %s/%s is still there: %w", last[0].Namespace, last[0].Name, err)
	}
	return err
}

func (r *runner) switchNode(ctx context.Context, node string) error {
	err := r.change(ctx, node, func(n *corev1.Node) {
		delete(n.Labels, claims.LabelIgnore)
		delete(n.Annotations, claims.AnnotationPodCIDR) // of Flannel's plugins, which the node's pods do not use any more
	})
	if err != nil {
		return err
	}
	return r.gone(ctx, node, r.ofOld)
}

func (r *runner) returnNode(ctx context.Context, node string) error {
	err := r.change(ctx, node, func(n *corev1.Node) {
		label(n)
		delete(n.Annotations, claims.AnnotationMaxPods)
	})
	if err != nil {
		return err
	}
	return r.gone(ctx, node, r.ofAgent)
}

// becomeReady waits until the controller has removed the taint: it does so when the agent has said that pods can start.
func (r *runner) becomeReady(ctx context.Context, node string) error {
	err := r.wait(ctx, r.ready, func(ctx context.Context) (bool, error) {
		n := &corev1.Node{}
		if err := r.client.Get(ctx, client.ObjectKey{Name: node}, n); err != nil {
			return false, err
		}
		return !slices.ContainsFunc(n.Spec.Taints, isNotReady), nil
	})
	if errors.Is(err, errLate) {
		return fmt.Errorf("the controller has not removed the taint %s: %w: \"terwayctl status\" and \"kubectl -n %s get pods -o wide\" say why", claims.TaintNotReady, err, r.namespace)
	}
	return err
}

// oldReady waits for the old network's pods; then it removes the taint, as the controller ignores the node.
func (r *runner) oldReady(ctx context.Context, node string) error {
	err := r.wait(ctx, r.ready, func(ctx context.Context) (bool, error) {
		pods, err := r.on(ctx, node, r.ofOld)
		return len(pods) > 0 && !slices.ContainsFunc(pods, func(p corev1.Pod) bool { return !isReady(&p) }), err
	})
	if err != nil {
		return fmt.Errorf("the pods of %s are not ready on it: %w", strings.Join(r.plan.DaemonSets, ", "), err)
	}
	return r.change(ctx, node, func(n *corev1.Node) { n.Spec.Taints = slices.DeleteFunc(n.Spec.Taints, isNotReady) })
}

func isReady(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// release says in the place of the agent, which has left the node, that no pod has one of its addresses: else the controller would keep
// the ENIs while the agent's last word names a pod, and for some minutes otherwise. It ends when the controller has begun to give them back.
func (r *runner) release(ctx context.Context, node string) error {
	err := r.wait(ctx, r.ready, func(ctx context.Context) (bool, error) {
		nn := &v1alpha1.NodeNetwork{}
		err := r.client.Get(ctx, client.ObjectKey{Name: node}, nn)
		if apierrors.IsNotFound(err) || meta.IsNoMatchError(err) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		if !nn.DeletionTimestamp.IsZero() {
			return true, nil
		}
		before := nn.DeepCopy()
		st := &nn.Status
		st.ObservedGeneration, st.Used, st.UsedCount, st.Cooling, st.Released = nn.Generation, nil, 0, nil, nil
		for _, e := range nn.Spec.ENIs {
			for _, a := range e.Addresses {
				if a.Releasing {
					st.Released = append(st.Released, a.Address)
				}
			}
		}
		// The generation is that of the spec that was read: the controller does not count an older one.
		return false, r.client.Status().Patch(ctx, nn, client.MergeFrom(before))
	})
	if errors.Is(err, errLate) {
		return fmt.Errorf("the node has the old network, but the controller has not begun to give its ENIs back: %w: \"terwayctl status\" says whether it runs", err)
	}
	return err
}

// migrate does all of the plan that can be done now.
func (r *runner) migrate(ctx context.Context) error {
	if !r.plan.Back {
		if err := r.prepare(ctx); err != nil {
			return err
		}
	}
	if !r.plan.Installed {
		return fmt.Errorf("the nodes are prepared, and Terway is not installed in namespace %s: install it (terwayctl install --terway-namespace %s --values …), then run the same command again",
			r.namespace, r.namespace)
	}
	return r.run(ctx)
}
