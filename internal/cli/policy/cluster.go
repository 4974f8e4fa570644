package policy

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "terway.dev/terway/api/calico/v3"
	"terway.dev/terway/internal/cli/agents"
	"terway.dev/terway/internal/pages"
	"terway.dev/terway/internal/policy/migrate"
)

// cluster is where policies are moved.
type cluster struct {
	client client.Client
	groups *discovery.DiscoveryClient
	host   string
}

func (m *migration) connect(ctx context.Context) (*cluster, error) {
	cfg, err := m.Config(ctx)
	if err != nil {
		return nil, err
	}
	cfg.QPS = -1 // the API server sets the pace
	scheme := runtime.NewScheme()
	if err := v3.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("register kinds: %w", err)
	}
	c := &cluster{host: cfg.Host}
	if c.client, err = client.New(cfg, client.Options{Scheme: scheme}); err != nil {
		return nil, fmt.Errorf("make a client for the cluster at %s: %w", c.host, err)
	}
	if c.groups, err = discovery.NewDiscoveryClientForConfig(cfg); err != nil {
		return nil, fmt.Errorf("make a client for the cluster at %s: %w", c.host, err)
	}
	return c, nil
}

// served says whether the cluster serves projectcalico.org/v3 by CRDs. If another API server does,
// what it has is the old objects themselves: whoever deletes those deletes both.
func (c *cluster) served(ctx context.Context) (bool, error) {
	const name = "v3.projectcalico.org"
	api := &unstructured.Unstructured{}
	api.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiregistration.k8s.io", Version: "v1", Kind: "APIService"})
	switch err := c.client.Get(ctx, client.ObjectKey{Name: name}, api); {
	case apierrors.IsNotFound(err):
		return false, nil
	case err != nil:
		return false, c.explain("get apiservices.apiregistration.k8s.io "+name, err)
	}
	namespace, _, _ := unstructured.NestedString(api.Object, "spec", "service", "namespace")
	if service, there, _ := unstructured.NestedString(api.Object, "spec", "service", "name"); there {
		return false, fmt.Errorf("the API projectcalico.org/v3 is served by Service %s/%s from what is in %s: another Calico owns it, and there is nothing to move. Remove that one (its API server and the APIService %s) first", namespace, service, migrate.OldAPI, name)
	}
	return true, nil
}

// old are the objects that can be moved, and how many there are of other kinds.
func (c *cluster) old(ctx context.Context) ([]*unstructured.Unstructured, map[string]int, error) {
	left := map[string]int{}
	resources, err := c.groups.ServerResourcesForGroupVersionWithContext(ctx, migrate.OldAPI)
	if apierrors.IsNotFound(err) {
		return nil, left, nil
	}
	if err != nil {
		return nil, nil, c.explain("read which kinds "+migrate.OldAPI+" has", err)
	}
	var olds []*unstructured.Unstructured
	for _, r := range resources.APIResources {
		if strings.Contains(r.Name, "/") || !slices.Contains(r.Verbs, "list") {
			continue
		}
		what := "list " + r.Name + ".crd.projectcalico.org"
		kind := schema.FromAPIVersionAndKind(migrate.OldAPI, r.Kind+"List")
		if !migrate.Moves(r.Kind) {
			list := &metav1.PartialObjectMetadataList{}
			list.SetGroupVersionKind(kind)
			for page, err := range pages.Of(ctx, c.client, list) {
				if err != nil {
					return nil, nil, c.explain(what, err)
				}
				if n := len(page.Items); n > 0 {
					left[r.Kind] += n
				}
			}
			continue
		}
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(kind)
		for page, err := range pages.Of(ctx, c.client, list) {
			if err != nil {
				return nil, nil, c.explain(what, err)
			}
			for i := range page.Items {
				olds = append(olds, &page.Items[i])
			}
		}
	}
	return olds, left, nil
}

// get is what projectcalico.org/v3 has by the kind and name of an object; nil if it has nothing.
func (c *cluster) get(ctx context.Context, like migrate.Object) (migrate.Object, error) {
	// What the API server says nothing of would stay as it is, so it must be empty.
	there, ok := reflect.New(reflect.TypeOf(like).Elem()).Interface().(migrate.Object)
	if !ok {
		return nil, fmt.Errorf("%T is no object", like)
	}
	switch err := c.client.Get(ctx, client.ObjectKeyFromObject(like), there); {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, c.explain(fmt.Sprintf("get %s of projectcalico.org/v3", slashed(like.GetNamespace(), like.GetName())), err)
	}
	return there, nil
}

// create creates what is new. An error is about the cluster; what it says of the object is in the
// row.
func (c *cluster) create(ctx context.Context, r *row) error {
	object, ok := r.New.DeepCopyObject().(client.Object)
	if !ok {
		return fmt.Errorf("%T is no object", r.New)
	}
	switch err := c.client.Create(ctx, object); {
	case err == nil:
		r.finish(isCreated)
	case apierrors.IsAlreadyExists(err): // since it was looked for
		there, err := c.get(ctx, r.New)
		if err != nil {
			return err
		}
		return r.compare(there)
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err), apierrors.IsNotFound(err), apierrors.IsForbidden(err) && namespaceEnds(err):
		r.finish(isRefused, err.Error())
	default:
		return c.explain("create "+r.to(), err)
	}
	return nil
}

// namespaceEnds says that an object was refused because its namespace is being deleted.
func namespaceEnds(err error) bool {
	return apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause)
}

// delete deletes the old object, if it still is as it was read and its equal is still there.
func (c *cluster) delete(ctx context.Context, r *row) error {
	there, err := c.get(ctx, r.New)
	if err != nil {
		return err
	}
	if there == nil {
		r.finish(isKept, "its equal was deleted meanwhile")
		return nil
	}
	if difference, err := migrate.Difference(r.New, there); err != nil || difference != "" {
		r.finish(isOther, difference)
		return err
	}
	uid, version := r.Old.GetUID(), r.Old.GetResourceVersion()
	switch err := c.client.Delete(ctx, r.Old, client.Preconditions{UID: &uid, ResourceVersion: &version}); {
	case err == nil, apierrors.IsNotFound(err):
		r.finish(isGone)
	case apierrors.IsConflict(err):
		r.finish(isKept, "it was changed meanwhile: run the command again")
	default:
		return c.explain("delete "+r.from()+" of "+migrate.OldAPI, err)
	}
	return nil
}

// explain says what an error of the cluster means to the user.
func (c *cluster) explain(what string, err error) error { return explain(c.host, what, err) }

func explain(host, what string, err error) error { return agents.Explain(host, what, err) }
