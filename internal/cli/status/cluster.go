package status

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
	"terway.dev/terway/internal/cli/kubeflags"
	"terway.dev/terway/internal/inventory"
	"terway.dev/terway/internal/pages"
)

// agentLabels are the labels of the chart's DaemonSet (deploy/chart/templates/agent.yaml).
var agentLabels = client.MatchingLabels{"app": "terwayd"}

// cluster is the cluster to read and how to connect.
type cluster struct {
	kubeflags.Flags
	// host is for messages.
	host string
}

func (c *cluster) connect(ctx context.Context) (client.Reader, agents.Fleet, error) {
	cfg, err := c.Config(ctx)
	if err != nil {
		return nil, nil, err
	}
	r, err := c.client(cfg)
	if err != nil {
		return nil, nil, err
	}
	fleet, err := agents.New(cfg, r, c.Terway)
	return r, fleet, err
}

func (c *cluster) client(cfg *rest.Config) (client.Reader, error) {
	c.host = cfg.Host
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	r, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("make a client for the cluster at %s: %w", c.host, err)
	}
	return r, nil
}

// ask reads all objects that the status needs.
func (c *cluster) ask(ctx context.Context, r client.Reader) (*inventory.Objects, error) {
	o := &inventory.Objects{Namespace: c.Terway, Deployment: &appsv1.Deployment{}, Lease: &coordinationv1.Lease{}}
	for page, err := range pages.Of(ctx, r, &v1alpha1.NodeNetworkList{}) {
		if err != nil {
			return nil, c.explain("nodenetworks.network.terway.dev", err)
		}
		o.Networks = append(o.Networks, page.Items...)
	}
	for page, err := range pages.Of(ctx, r, &corev1.NodeList{}) {
		if err != nil {
			return nil, c.explain("nodes", err)
		}
		o.Nodes = append(o.Nodes, page.Items...)
	}
	for page, err := range pages.Of(ctx, r, &corev1.PodList{}, client.InNamespace(c.Terway), agentLabels) {
		if err != nil {
			return nil, c.explain("pods in "+c.Terway, err)
		}
		o.Agents = append(o.Agents, page.Items...)
	}
	if len(o.Networks) == 0 {
		return nil, fmt.Errorf("the cluster at %s has no NodeNetworks: terway-controller has not made any yet, or the cluster's network is Flannel, which has none", c.host)
	}
	o.Now = time.Now()
	for _, g := range []struct {
		what string
		into client.Object
	}{
		{"deployments.apps in " + c.Terway, o.Deployment},
		{"leases.coordination.k8s.io in " + c.Terway, o.Lease},
	} {
		if err := r.Get(ctx, client.ObjectKey{Namespace: c.Terway, Name: inventory.ControllerName}, g.into); err != nil && !apierrors.IsNotFound(err) {
			return nil, c.explain(g.what, err)
		}
	}
	return o, nil
}

// explain adds the meaning of an error for the user.
func (c *cluster) explain(what string, err error) error {
	switch {
	case meta.IsNoMatchError(err), apierrors.IsNotFound(err):
		return fmt.Errorf("the cluster at %s does not know %s: Terway is not installed in it (deploy/chart)", c.host, what)
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		return fmt.Errorf("the cluster at %s does not let this user read %s: want a role with \"list\" on nodes, nodenetworks.network.terway.dev and pods in %s, and \"get\" on deployments.apps and leases.coordination.k8s.io there: %w", c.host, what, c.Terway, err)
	case apierrors.ReasonForError(err) == "" && !errors.Is(err, context.Canceled):
		return fmt.Errorf("the cluster at %s cannot be reached: %w", c.host, err)
	}
	return fmt.Errorf("read %s of the cluster at %s: %w", what, c.host, err)
}
