package agent

import (
	"context"
	"fmt"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/api/v1alpha1"
)

// Scheme returns the types that the agent reads and writes.
func Scheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	if err := corev1.AddToScheme(s); err != nil {
		return nil, err
	}
	if err := coordinationv1.AddToScheme(s); err != nil {
		return nil, err
	}
	if err := discoveryv1.AddToScheme(s); err != nil {
		return nil, err
	}
	if err := v1alpha1.AddToScheme(s); err != nil {
		return nil, err
	}
	return s, nil
}

// known returns the types with a fixed REST mapping; the default mapper would ask the API server
// for its resources.
func known() (*runtime.Scheme, meta.RESTMapper, error) {
	scheme, err := Scheme()
	if err != nil {
		return nil, nil, err
	}
	mapper := meta.NewDefaultRESTMapper(nil)
	mapper.Add(v1alpha1.GroupVersion.WithKind("NodeNetwork"), meta.RESTScopeRoot)
	mapper.Add(corev1.SchemeGroupVersion.WithKind("Node"), meta.RESTScopeRoot)
	mapper.Add(coordinationv1.SchemeGroupVersion.WithKind("Lease"), meta.RESTScopeNamespace)
	mapper.Add(corev1.SchemeGroupVersion.WithKind("ConfigMap"), meta.RESTScopeNamespace)
	mapper.Add(discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"), meta.RESTScopeNamespace)
	// A cache of single namespaces asks for the list's scope.
	mapper.Add(discoveryv1.SchemeGroupVersion.WithKind("EndpointSliceList"), meta.RESTScopeNamespace)
	return scheme, mapper, nil
}

// NodeClient makes a client for the objects of a node. It does not call the API server.
func NodeClient(cfg *rest.Config) (client.Client, error) {
	scheme, mapper, err := known()
	if err != nil {
		return nil, err
	}
	c, err := client.New(cfg, client.Options{Scheme: scheme, Mapper: mapper})
	if err != nil {
		return nil, fmt.Errorf("client of the API server: %w", err)
	}
	return c, nil
}

// Connect makes the clients. It does not call the API server, so an agent can start while the API
// server is unreachable. The watch covers one object, whatever the size of the cluster.
func Connect(cfg *rest.Config, nodeName string) (Cluster, error) {
	scheme, mapper, err := known()
	if err != nil {
		return Cluster{}, err
	}
	own, err := cache.New(cfg, cache.Options{
		Scheme: scheme,
		Mapper: mapper,
		ByObject: map[client.Object]cache.ByObject{
			&v1alpha1.NodeNetwork{}: {Field: fields.OneTermEqualSelector("metadata.name", nodeName)},
		},
	})
	if err != nil {
		return Cluster{}, fmt.Errorf("watch of NodeNetwork %s: %w", nodeName, err)
	}
	cl, err := NodeClient(cfg)
	if err != nil {
		return Cluster{}, err
	}
	watch := func(ctx context.Context, changed func()) error {
		inf, err := own.GetInformer(ctx, &v1alpha1.NodeNetwork{})
		if err != nil {
			return fmt.Errorf("watch NodeNetwork %s: %w", nodeName, err)
		}
		if _, err := inf.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { changed() }, UpdateFunc: func(any, any) { changed() }, DeleteFunc: func(any) { changed() },
		}); err != nil {
			return fmt.Errorf("watch NodeNetwork %s: %w", nodeName, err)
		}
		return own.Start(ctx)
	}
	return Cluster{Client: cl, Own: own, Watch: watch}, nil
}
