package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// portPolicy is the name of the policy hub's port in its Service.
	portPolicy = "policy"
	// keyTrust is the key of the certificates to trust in the ConfigMap with the Service's name.
	keyTrust = "ca.crt"
	// hubTimeout bounds a look at the API server for the policy hub.
	hubTimeout = 5 * time.Second
)

// PolicyHub finds the policy hub: its replicas are the ready endpoints of a Service, and the
// certificates to trust are in a ConfigMap with the Service's name. It asks the API server, because
// the node's own network has no DNS of the cluster. A replica asks the same server whose token it
// is, so this is needed for nothing that would work without it.
type PolicyHub struct {
	namespace, service string
	slices             cache.Cache
	client             client.Client
}

// NewPolicyHub does not call the API server. The watch covers the Service's EndpointSlices.
func NewPolicyHub(cfg *rest.Config, namespace, service string) (*PolicyHub, error) {
	scheme, mapper, err := known()
	if err != nil {
		return nil, err
	}
	c, err := cache.New(cfg, cache.Options{
		Scheme: scheme,
		Mapper: mapper,
		ByObject: map[client.Object]cache.ByObject{
			&discoveryv1.EndpointSlice{}: {Namespaces: map[string]cache.Config{
				namespace: {LabelSelector: labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: service})},
			}},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("watch of Service %s/%s: %w", namespace, service, err)
	}
	cl, err := NodeClient(cfg)
	if err != nil {
		return nil, err
	}
	return &PolicyHub{namespace, service, c, cl}, nil
}

// Run watches until ctx is done.
func (h *PolicyHub) Run(ctx context.Context) error { return h.slices.Start(ctx) }

// ServerName is the DNS name in the replicas' certificates.
func (h *PolicyHub) ServerName() string { return h.service + "." + h.namespace + ".svc" }

// Replicas returns the replicas' addresses, as host:port.
func (h *PolicyHub) Replicas(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, hubTimeout)
	defer cancel()
	list := &discoveryv1.EndpointSliceList{}
	if err := h.slices.List(ctx, list, client.InNamespace(h.namespace)); err != nil {
		return nil, fmt.Errorf("endpoints of Service %s/%s: %w", h.namespace, h.service, err)
	}
	return replicas(list.Items), nil
}

// replicas returns the ready endpoints, of one family: each replica counts once.
func replicas(list []discoveryv1.EndpointSlice) []string {
	found := map[discoveryv1.AddressType][]string{}
	for _, s := range list {
		i := slices.IndexFunc(s.Ports, func(p discoveryv1.EndpointPort) bool { return p.Name != nil && *p.Name == portPolicy && p.Port != nil })
		if i < 0 {
			continue
		}
		for _, e := range s.Endpoints {
			if e.Conditions.Ready != nil && !*e.Conditions.Ready || len(e.Addresses) == 0 {
				continue
			}
			found[s.AddressType] = append(found[s.AddressType], net.JoinHostPort(e.Addresses[0], strconv.Itoa(int(*s.Ports[i].Port))))
		}
	}
	of := found[discoveryv1.AddressTypeIPv4]
	if len(of) == 0 {
		of = found[discoveryv1.AddressTypeIPv6]
	}
	slices.Sort(of)
	return slices.Compact(of) // while an endpoint moves, two slices have it
}

// Trust returns the certificates to trust, in PEM.
func (h *PolicyHub) Trust() ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), hubTimeout)
	defer cancel()
	cm := &corev1.ConfigMap{}
	if err := h.client.Get(ctx, client.ObjectKey{Namespace: h.namespace, Name: h.service}, cm); err != nil {
		return nil, fmt.Errorf("read ConfigMap %s/%s: %w", h.namespace, h.service, err)
	}
	pem := cm.Data[keyTrust]
	if pem == "" {
		return nil, errors.New("ConfigMap " + h.namespace + "/" + h.service + " has no " + keyTrust + " yet: the controller writes it")
	}
	return []byte(pem), nil
}
