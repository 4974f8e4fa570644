package migrate

import (
	"context"
	"errors"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/internal/cli/cluster"
	"terway.dev/terway/internal/cli/kubeflags"
	"terway.dev/terway/internal/migrate"
	"terway.dev/terway/internal/pages"
)

// connect returns a client for the cluster, and its address for messages.
func connect(ctx context.Context, f *kubeflags.Flags) (client.Client, string, error) {
	cfg, err := f.Config(ctx)
	if err != nil {
		return nil, "", err
	}
	known, err := cluster.Scheme()
	if err != nil {
		return nil, "", err
	}
	c, err := client.New(cfg, client.Options{Scheme: known})
	if err != nil {
		return nil, "", fmt.Errorf("make a client for the cluster at %s: %w", cfg.Host, err)
	}
	return c, cfg.Host, nil
}

// read reads what a plan needs.
func read(ctx context.Context, c client.Client, namespace string) (*migrate.Objects, error) {
	o := &migrate.Objects{Namespace: namespace, Others: map[string]int{}}
	for page, err := range pages.Of(ctx, c, &appsv1.DaemonSetList{}) {
		if err != nil {
			return nil, fmt.Errorf("list daemonsets.apps: %w", err)
		}
		o.DaemonSets = append(o.DaemonSets, page.Items...)
	}
	for page, err := range pages.Of(ctx, c, &corev1.NodeList{}) {
		if err != nil {
			return nil, fmt.Errorf("list nodes: %w", err)
		}
		o.Nodes = append(o.Nodes, page.Items...)
	}
	for page, err := range pages.Of(ctx, c, &corev1.PodList{}) {
		if err != nil {
			return nil, fmt.Errorf("list pods: %w", err)
		}
		o.Pods = append(o.Pods, page.Items...)
	}
	for page, err := range pages.Of(ctx, c, &networkingv1.NetworkPolicyList{}) {
		if err != nil {
			return nil, fmt.Errorf("list networkpolicies.networking.k8s.io: %w", err)
		}
		o.Policies += len(page.Items)
	}
	seen := map[string]bool{}
	for _, d := range o.DaemonSets {
		if seen[d.Namespace] {
			continue
		}
		seen[d.Namespace] = true
		for _, name := range migrate.ConfigMaps {
			m := corev1.ConfigMap{}
			err := c.Get(ctx, client.ObjectKey{Namespace: d.Namespace, Name: name}, &m)
			if err == nil {
				o.ConfigMaps = append(o.ConfigMaps, m)
			} else if !apierrors.IsNotFound(err) {
				return nil, fmt.Errorf("get configmap %s/%s: %w", d.Namespace, name, err)
			}
		}
	}
	for _, r := range migrate.Resources {
		n, err := count(ctx, c, r)
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", r.Name, err)
		}
		o.Others[r.Name] = n
	}
	return o, nil
}

// count returns the number of a resource's objects, 0 if the cluster does not know it.
func count(ctx context.Context, c client.Client, r migrate.Resource) (n int, err error) {
	_, group, _ := strings.Cut(r.Name, ".")
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(schema.GroupVersionKind{Group: group, Version: r.Version, Kind: r.Kind + "List"})
	for page, err := range pages.Of(ctx, c, list) {
		if meta.IsNoMatchError(err) || apierrors.IsNotFound(err) {
			return 0, nil
		}
		if err != nil {
			return 0, err
		}
		n += len(page.Items)
	}
	return n, nil
}

// explain says what an error of reading means for the user.
func explain(host string, err error) error {
	switch {
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		return fmt.Errorf("the cluster at %s does not let this user: %w: docs/migrate.md has what migrate needs", host, err)
	case apierrors.ReasonForError(err) == metav1.StatusReasonUnknown && !errors.Is(err, context.Canceled):
		return fmt.Errorf("the cluster at %s cannot be reached: %w", host, err)
	}
	return fmt.Errorf("the cluster at %s: %w", host, err)
}
