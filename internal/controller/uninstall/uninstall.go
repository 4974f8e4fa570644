// Package uninstall takes Terway off a cluster, before its chart is deleted: it asks whether something still uses the network,
// cleans the nodes, gives back the ENIs and removes what Terway has added to objects of the cluster.
//
// Until every node is clean nothing is lost: a refusal, a failure or a signal starts the agents again. After that the way is only
// forward. Each step can be repeated, so a run continues where an earlier one was killed.
//
// It must never take anything from a pod unless Force is set. Who has an address is decided by the journal of each node
// (terwayd teardown), after the node's agent has stopped; what the cluster's objects say only lets it refuse earlier.
package uninstall

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/controller/loadbalancer"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/pages"
)

// Names in the chart.
const (
	agents     = "terwayd"           // the DaemonSet, and the label app of its pods
	controller = "terway-controller" // the Deployment
)

// kinds is the CustomResourceDefinition of NodeNetworks.
const kinds = "nodenetworks.network.terway.dev"

// selector is added to the agents' DaemonSet: no node has this label, so no agent runs.
const selector = "network.terway.dev/uninstalling"

// Options are what an uninstallation needs.
type Options struct {
	// Client reads the API server itself, not a cache.
	Client client.Client
	// Cloud is nil to keep the ENIs: where there is no credential any more.
	Cloud cloud.API
	// Namespace is Terway's, Cluster the cluster_id of its configuration.
	Namespace, Cluster string
	// Force cuts off pods that still use the network, and passes over nodes that cannot be cleaned.
	Force bool
	// Kinds: delete the kind NodeNetwork too.
	Kinds bool
	// Lead calls a function as the only controller that acts, and returns its error.
	Lead func(ctx context.Context, do func(context.Context) error) error
	Log  *slog.Logger
	// Sleep waits, or returns the context's cause.
	Sleep func(context.Context, time.Duration) error
	// Poll is the pause between two looks at what is awaited. A list of ENIs that is empty counts when
	// the next one, Settle later, is empty too: the cloud's lists may be old.
	Poll, Settle time.Duration
	// AtOnce is how many nodes are cleaned at once, and how many calls the cloud gets at once.
	AtOnce int
	// Grace is for how long the agents may take to start again after a failure.
	Grace time.Duration
}

// InUse is the error of a cluster that still uses Terway.
type InUse []string

func (u InUse) Error() string {
	const most = 20
	list := []string(u)
	if len(list) > most {
		list = append(list[:most:most], fmt.Sprintf("and %d more", len(list)-most))
	}
	return "Terway is still in use, and nothing was changed:\n  " + strings.Join(list, "\n  ") +
		"\nEnd that and uninstall again, or force it (value uninstall.force of the chart)"
}

// Run uninstalls.
func Run(ctx context.Context, o Options) error {
	u := &uninstaller{Options: o, set: agents}
	found, err := u.look(ctx)
	if err != nil {
		return err
	}
	return u.run(ctx, found.targets(), found.inUse(), u.giveBack)
}

type uninstaller struct {
	Options
	// set is the DaemonSet of the agents.
	set string
	// podCIDR is the range of the pods, with Flannel alone.
	podCIDR netip.Prefix
}

// run cleans nodes and gives back what the cluster has in the cloud, if nothing is in use.
func (u *uninstaller) run(ctx context.Context, nodes []target, use []string, giveBack func(context.Context) error) error {
	if len(use) > 0 {
		if !u.Force {
			return InUse(use)
		}
		for _, what := range use {
			u.Log.Warn("forced: " + what)
		}
	}
	if err := u.cleanNodes(ctx, nodes); err != nil {
		return err
	}
	if err := u.stopController(ctx); err != nil {
		return err
	}
	return u.Lead(ctx, func(ctx context.Context) error {
		if err := giveBack(ctx); err != nil {
			return err
		}
		return u.forget(ctx)
	})
}

// look reads what exists. It changes nothing; a credential that the cloud refuses ends it here.
func (u *uninstaller) look(ctx context.Context) (*found, error) {
	f := &found{namespace: u.Namespace}
	var err error
	if f.networks, err = u.nodeNetworks(ctx); err != nil {
		return nil, err
	}
	for list, err := range pages.Of(ctx, u.Client, &corev1.NodeList{}) {
		if err != nil {
			return nil, fmt.Errorf("list Nodes: %w", err)
		}
		f.nodes = append(f.nodes, list.Items...)
	}
	for list, err := range pages.Of(ctx, u.Client, &corev1.ServiceList{}) {
		if err != nil {
			return nil, fmt.Errorf("list Services: %w", err)
		}
		for _, s := range list.Items {
			if s.Annotations[loadbalancer.AnnotationUses] != "" {
				f.services = append(f.services, s)
			}
		}
	}
	if f.agents, err = u.agentPods(ctx); err != nil {
		return nil, err
	}
	if f.enis, err = u.enis(ctx); err != nil {
		return nil, err
	}
	return f, nil
}

// nodeNetworks returns all, and none when an earlier run, or somebody else, has deleted their kind.
func (u *uninstaller) nodeNetworks(ctx context.Context) (all []v1alpha1.NodeNetwork, err error) {
	for list, err := range pages.Of(ctx, u.Client, &v1alpha1.NodeNetworkList{}) {
		if noKind(err) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list NodeNetworks: %w", err)
		}
		all = append(all, list.Items...)
	}
	return all, nil
}

// noKind reports whether the API server does not know the kind that was listed.
func noKind(err error) bool { return meta.IsNoMatchError(err) || apierrors.IsNotFound(err) }

func (u *uninstaller) agentPods(ctx context.Context) ([]corev1.Pod, error) {
	var pods corev1.PodList
	if err := u.Client.List(ctx, &pods, client.InNamespace(u.Namespace), client.MatchingLabels{"app": u.set}); err != nil {
		return nil, fmt.Errorf("list the agents' pods: %w", err)
	}
	return pods.Items, nil
}

// cleanNodes stops the agents and removes what they have made on the nodes. When it fails, the agents run again and what it has
// removed is made again by them.
func (u *uninstaller) cleanNodes(ctx context.Context, nodes []target) (err error) {
	set := &appsv1.DaemonSet{}
	err = u.Client.Get(ctx, client.ObjectKey{Namespace: u.Namespace, Name: u.set}, set)
	if apierrors.IsNotFound(err) {
		u.Log.Info("there are no agents: the nodes are left as they are") // deleted by hand, or by an uninstallation that ended later
		return nil
	}
	if err != nil {
		return fmt.Errorf("read DaemonSet %s: %w", u.set, err)
	}
	defer func() {
		if err != nil {
			later, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), u.Grace, fmt.Errorf("not done within %s", u.Grace))
			defer cancel()
			// A Job that still runs has the node's journal, or finds that the agent has it.
			err = errors.Join(err, u.deleteJobs(later), u.selectNodes(later, "null"))
		}
	}()
	u.Log.Info("stopping the agents", "nodes", len(nodes))
	if err := u.selectNodes(ctx, `"true"`); err != nil {
		return err
	}
	if err := u.agentsEnd(ctx, nodes); err != nil {
		return err
	}
	failed, err := u.teardown(ctx, set, nodes)
	if err != nil || len(failed) == 0 {
		return err
	}
	if !u.Force {
		return fmt.Errorf("nodes were not cleaned, so their agents start again and Terway stays:\n  %s", strings.Join(failed, "\n  "))
	}
	for _, what := range failed {
		u.Log.Warn("forced: not cleaned: " + what)
	}
	return nil
}

// agentsEnd waits until no agent runs, except on silent nodes.
func (u *uninstaller) agentsEnd(ctx context.Context, nodes []target) error {
	silent := map[string]bool{}
	for _, n := range nodes {
		silent[n.name] = n.silent
	}
	return u.until(ctx, "the agents to stop", func() (string, error) {
		pods, err := u.agentPods(ctx)
		for _, p := range pods {
			if !silent[p.Spec.NodeName] {
				return fmt.Sprintf("pod %s on node %s", p.Name, p.Spec.NodeName), err
			}
		}
		return "", err
	})
}

// selectNodes sets the value of selector in the agents' DaemonSet, as JSON; null removes it.
func (u *uninstaller) selectNodes(ctx context.Context, value string) error {
	set := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: u.Namespace, Name: u.set}}
	patch := fmt.Sprintf(`{"spec":{"template":{"spec":{"nodeSelector":{%q:%s}}}}}`, selector, value)
	if err := u.Client.Patch(ctx, set, client.RawPatch(types.MergePatchType, []byte(patch))); err != nil {
		return fmt.Errorf("write the nodeSelector %s of DaemonSet %s: %w", selector, u.set, err)
	}
	return nil
}

// stopController ends all replicas: from now on nobody creates ENIs.
func (u *uninstaller) stopController(ctx context.Context) error {
	u.Log.Info("stopping the controller")
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: u.Namespace, Name: controller}}
	err := u.Client.Patch(ctx, d, client.RawPatch(types.MergePatchType, []byte(`{"spec":{"replicas":0}}`)))
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("stop Deployment %s: %w", controller, err)
	}
	return nil
}

// forget removes what Terway has added to the cluster's objects, and its own.
func (u *uninstaller) forget(ctx context.Context) error {
	f, err := u.look(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for i := range f.nodes {
		errs = append(errs, u.forgetNode(ctx, &f.nodes[i]))
	}
	for i := range f.services {
		errs = append(errs, u.forgetService(ctx, &f.services[i]))
	}
	for i := range f.networks {
		errs = append(errs, u.forgetNetwork(ctx, &f.networks[i]))
	}
	ours := []client.DeleteAllOfOption{client.InNamespace(u.Namespace), client.HasLabels{claims.LabelLease}}
	if err := u.Client.DeleteAllOf(ctx, &coordinationv1.Lease{}, ours...); err != nil {
		errs = append(errs, fmt.Errorf("delete the agents' Leases: %w", err))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := u.until(ctx, "the NodeNetworks to be gone", func() (string, error) {
		left, err := u.nodeNetworks(ctx)
		for _, nn := range left {
			return fmt.Sprintf("NodeNetwork %s has the finalizers %q", nn.Name, nn.Finalizers), nil
		}
		return "", err
	}); err != nil {
		return err
	}
	if u.Kinds {
		kind := &unstructured.Unstructured{}
		kind.SetGroupVersionKind(crd)
		kind.SetName(kinds)
		if err := client.IgnoreNotFound(u.Client.Delete(ctx, kind)); err != nil {
			return fmt.Errorf("delete CustomResourceDefinition %s: %w", kinds, err)
		}
	}
	u.Log.Info("the cluster has nothing of Terway but its chart", "nodes", len(f.nodes), "nodeNetworks", len(f.networks))
	return nil
}

func (u *uninstaller) forgetNode(ctx context.Context, n *corev1.Node) error {
	was := n.DeepCopy()
	if !withoutMarks(n) {
		return nil
	}
	// Others write to the list of taints too: the lock keeps theirs.
	err := u.Client.Patch(ctx, n, client.MergeFromWithOptions(was, client.MergeFromWithOptimisticLock{}))
	if apierrors.IsConflict(err) {
		if err = u.Client.Get(ctx, client.ObjectKeyFromObject(was), n); err == nil {
			return u.forgetNode(ctx, n)
		}
	}
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("remove Terway's taint and annotation from Node %s: %w", n.Name, err)
	}
	return nil
}

// forgetService is reached by force alone: what the Service has in the cloud stays there.
func (u *uninstaller) forgetService(ctx context.Context, s *corev1.Service) error {
	u.Log.Warn("forced: delete its load balancer, or the groups of servers, in the cloud yourself",
		"service", client.ObjectKeyFromObject(s), "uses", s.Annotations[loadbalancer.AnnotationUses], "tag", loadbalancer.TagService+"="+string(s.UID))
	was := s.DeepCopy()
	controllerutil.RemoveFinalizer(s, loadbalancer.Finalizer)
	delete(s.Annotations, loadbalancer.AnnotationUses)
	if err := client.IgnoreNotFound(u.Client.Patch(ctx, s, client.MergeFromWithOptions(was, client.MergeFromWithOptimisticLock{}))); err != nil {
		return fmt.Errorf("remove Terway's finalizer from Service %s/%s: %w", s.Namespace, s.Name, err)
	}
	return nil
}

func (u *uninstaller) forgetNetwork(ctx context.Context, nn *v1alpha1.NodeNetwork) error {
	if err := client.IgnoreNotFound(u.Client.Delete(ctx, nn, client.Preconditions{UID: &nn.UID})); err != nil {
		return fmt.Errorf("delete NodeNetwork %s: %w", nn.Name, err)
	}
	was := nn.DeepCopy() // the API server lets nobody add finalizers to an object that is being deleted
	if !controllerutil.RemoveFinalizer(nn, claims.FinalizerENIs) {
		return nil
	}
	if err := client.IgnoreNotFound(u.Client.Patch(ctx, nn, client.MergeFrom(was))); err != nil {
		return fmt.Errorf("remove the finalizer of NodeNetwork %s: %w", nn.Name, err)
	}
	return nil
}

// until looks again and again until nothing is left of what is awaited. Errors of a look are repeated too, unless the API server will
// always refuse it. When the time is up, the last error or what was left is told.
func (u *uninstaller) until(ctx context.Context, what string, look func() (left string, err error)) error {
	told := ""
	for {
		left, err := look()
		switch {
		case err == nil && left == "":
			return nil
		case apierrors.IsForbidden(err) || apierrors.IsInvalid(err):
			return err
		case err != nil:
			u.Log.Warn("wait for "+what+"; this is repeated", "error", err)
		case left != told:
			u.Log.Info("wait for "+what, "left", left)
			told = left
		}
		if ended := u.Sleep(ctx, u.Poll); ended != nil {
			if err == nil {
				err = errors.New("there still is " + left)
			}
			return fmt.Errorf("wait for %s: %w: %w", what, ended, err)
		}
	}
}
