package policy

import (
	"context"
	"fmt"
	"io"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	cnpv1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	v3 "terway.dev/terway/api/calico/v3"
	"terway.dev/terway/internal/cli/agents"
	"terway.dev/terway/internal/cli/kubeflags"
	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/pages"
	"terway.dev/terway/internal/policy/translate"
)

// online is a cluster that is asked: its objects, and the agents of its nodes.
type online struct {
	client client.Reader
	agents agents.Fleet
	// host is for messages, terway is the namespace of Terway.
	host, terway string
	// within is how long an agent may take for an answer.
	within time.Duration
}

// dial is how commands reach a cluster.
type dial func(ctx context.Context, flags *kubeflags.Flags) (*online, error)

func connect(ctx context.Context, flags *kubeflags.Flags) (*online, error) {
	cfg, err := flags.Config(ctx)
	if err != nil {
		return nil, err
	}
	cfg.QPS = -1 // the API server sets the pace
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, discoveryv1.AddToScheme, networkingv1.AddToScheme, cnpv1.Install, v3.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("register kinds: %w", err)
		}
	}
	o := &online{host: cfg.Host, terway: flags.Terway, within: agents.Within}
	if o.client, err = client.New(cfg, client.Options{Scheme: scheme}); err != nil {
		return nil, fmt.Errorf("make a client for the cluster at %s: %w", o.host, err)
	}
	o.agents, err = agents.New(cfg, o.client, o.terway)
	return o, err
}

// objects reads what policies are made of. Kinds that are not installed have no objects.
func (o *online) objects(ctx context.Context) (out translate.Objects, err error) {
	for _, read := range []func() error{
		list(ctx, o, &corev1.NamespaceList{}, "namespaces", func(l *corev1.NamespaceList) { out.Namespaces = pointers(out.Namespaces, l.Items) }),
		list(ctx, o, &corev1.ServiceAccountList{}, "serviceaccounts", func(l *corev1.ServiceAccountList) { out.ServiceAccounts = pointers(out.ServiceAccounts, l.Items) }),
		list(ctx, o, &corev1.NodeList{}, "nodes", func(l *corev1.NodeList) { out.Nodes = pointers(out.Nodes, l.Items) }),
		list(ctx, o, &corev1.PodList{}, "pods", func(l *corev1.PodList) { out.Pods = pointers(out.Pods, l.Items) }),
		list(ctx, o, &discoveryv1.EndpointSliceList{}, "endpointslices.discovery.k8s.io", func(l *discoveryv1.EndpointSliceList) { out.EndpointSlices = pointers(out.EndpointSlices, l.Items) }),
		list(ctx, o, &networkingv1.NetworkPolicyList{}, "networkpolicies.networking.k8s.io", func(l *networkingv1.NetworkPolicyList) { out.NetworkPolicies = pointers(out.NetworkPolicies, l.Items) }),
		list(ctx, o, &cnpv1.ClusterNetworkPolicyList{}, "clusternetworkpolicies.policy.networking.k8s.io", func(l *cnpv1.ClusterNetworkPolicyList) {
			out.ClusterNetworkPolicies = pointers(out.ClusterNetworkPolicies, l.Items)
		}),
		list(ctx, o, &v3.TierList{}, "tiers.projectcalico.org", func(l *v3.TierList) { out.Tiers = pointers(out.Tiers, l.Items) }),
		list(ctx, o, &v3.NetworkPolicyList{}, "networkpolicies.projectcalico.org", func(l *v3.NetworkPolicyList) { out.CalicoPolicies = pointers(out.CalicoPolicies, l.Items) }),
		list(ctx, o, &v3.GlobalNetworkPolicyList{}, "globalnetworkpolicies.projectcalico.org", func(l *v3.GlobalNetworkPolicyList) {
			out.GlobalNetworkPolicies = pointers(out.GlobalNetworkPolicies, l.Items)
		}),
		list(ctx, o, &v3.NetworkSetList{}, "networksets.projectcalico.org", func(l *v3.NetworkSetList) { out.NetworkSets = pointers(out.NetworkSets, l.Items) }),
		list(ctx, o, &v3.GlobalNetworkSetList{}, "globalnetworksets.projectcalico.org", func(l *v3.GlobalNetworkSetList) { out.GlobalNetworkSets = pointers(out.GlobalNetworkSets, l.Items) }),
		list(ctx, o, &v3.HostEndpointList{}, "hostendpoints.projectcalico.org", func(l *v3.HostEndpointList) { out.HostEndpoints = pointers(out.HostEndpoints, l.Items) }),
	} {
		if err := read(); err != nil {
			return out, err
		}
	}
	return out, nil
}

func list[L client.ObjectList](ctx context.Context, o *online, empty L, what string, add func(L)) func() error {
	return func() error {
		for page, err := range pages.Of(ctx, o.client, empty) {
			switch {
			case meta.IsNoMatchError(err), apierrors.IsNotFound(err):
				return nil
			case err != nil:
				return explain(o.host, "list "+what, err)
			}
			add(page)
		}
		return nil
	}
}

func pointers[T any](to []*T, items []T) []*T {
	for i := range items {
		to = append(to, &items[i])
	}
	return to
}

// configuration returns the data of the cluster's ConfigMap; nil if there is none.
func (o *online) configuration(ctx context.Context) (map[string]string, error) {
	var m corev1.ConfigMap
	switch err := o.client.Get(ctx, client.ObjectKey{Namespace: o.terway, Name: config.ConfigMapName}, &m); {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, explain(o.host, fmt.Sprintf("get configmap %s/%s", o.terway, config.ConfigMapName), err)
	}
	return m.Data, nil
}

// ask reads an answer that ends.
func (o *online) ask(ctx context.Context, node, path string) (io.Reader, error) {
	return agents.Answer(ctx, o.agents, o.within, node, path)
}
