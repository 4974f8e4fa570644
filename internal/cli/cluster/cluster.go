// Package cluster is how commands read Terway's objects of a cluster. It only reads, and judges
// nothing.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cli/agents"
	"terway.dev/terway/internal/inventory"
	"terway.dev/terway/internal/pages"
)

// AgentLabels are the labels of the chart's DaemonSet (deploy/chart/templates/agent.yaml).
var AgentLabels = client.MatchingLabels{"app": "terwayd"}

// ErrNoNetworks says that the cluster has no NodeNetworks.
var ErrNoNetworks = errors.New("it has no NodeNetworks: terway-controller has not made any yet, or the cluster's network is Flannel, which has none")

// Scheme returns the types of a cluster's objects, Terway's included.
func Scheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	return s, errors.Join(clientgoscheme.AddToScheme(s), v1alpha1.AddToScheme(s))
}

// Reader reads a cluster.
type Reader struct {
	client.Reader
	// Host is the API server, for messages.
	Host string
	// Terway is the namespace in which the cluster has Terway.
	Terway string
}

// New returns a Reader. It asks the cluster nothing.
func New(cfg *rest.Config, terway string) (*Reader, error) {
	scheme, err := Scheme()
	if err != nil {
		return nil, err
	}
	c, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("make a client for the cluster at %s: %w", cfg.Host, err)
	}
	return &Reader{Reader: c, Host: cfg.Host, Terway: terway}, nil
}

// Networks reads all NodeNetworks; none is ErrNoNetworks.
func (r *Reader) Networks(ctx context.Context) (all []v1alpha1.NodeNetwork, err error) {
	for page, err := range pages.Of(ctx, r.Reader, &v1alpha1.NodeNetworkList{}) {
		if err != nil {
			return nil, r.Explain("nodenetworks.network.terway.dev", err)
		}
		all = append(all, page.Items...)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("the cluster at %s: %w", r.Host, ErrNoNetworks)
	}
	return all, nil
}

// Pods reads the pods of all namespaces.
func (r *Reader) Pods(ctx context.Context) (all []inventory.Pod, err error) {
	for page, err := range pages.Of(ctx, r.Reader, &corev1.PodList{}) {
		if err != nil {
			return nil, r.Explain("pods of all namespaces", err)
		}
		part, _ := inventory.Pods(page.Items)
		all = append(all, part...)
	}
	return all, nil
}

// Objects reads all that the status is made from.
func (r *Reader) Objects(ctx context.Context) (o *inventory.Objects, err error) {
	o = &inventory.Objects{Namespace: r.Terway, Deployment: &appsv1.Deployment{}, Lease: &coordinationv1.Lease{}}
	if o.Networks, err = r.Networks(ctx); err != nil {
		return nil, err
	}
	for page, err := range pages.Of(ctx, r.Reader, &corev1.NodeList{}) {
		if err != nil {
			return nil, r.Explain("nodes", err)
		}
		o.Nodes = append(o.Nodes, page.Items...)
	}
	for page, err := range pages.Of(ctx, r.Reader, &corev1.PodList{}, client.InNamespace(r.Terway), AgentLabels) {
		if err != nil {
			return nil, r.Explain("pods in "+r.Terway, err)
		}
		o.Agents = append(o.Agents, page.Items...)
	}
	o.Now = time.Now()
	for _, g := range []struct {
		what string
		into client.Object
	}{
		{"deployments.apps in " + r.Terway, o.Deployment},
		{"leases.coordination.k8s.io in " + r.Terway, o.Lease},
	} {
		if err := r.Get(ctx, client.ObjectKey{Namespace: r.Terway, Name: inventory.ControllerName}, g.into); err != nil && !apierrors.IsNotFound(err) {
			return nil, r.Explain(g.what, err)
		}
	}
	return o, nil
}

// Explain adds the meaning of an error for the user, who wanted to read something.
func (r *Reader) Explain(what string, err error) error {
	if meta.IsNoMatchError(err) || apierrors.IsNotFound(err) {
		return fmt.Errorf("the cluster at %s does not know %s: Terway is not installed in it (deploy/chart)", r.Host, what)
	}
	return agents.Explain(r.Host, "read "+what, err)
}
