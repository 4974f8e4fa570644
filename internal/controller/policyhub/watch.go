package policyhub

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	cnpv1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	v3 "terway.dev/terway/api/calico/v3"
	"terway.dev/terway/internal/policy/feed"
)

// A kind is one that is watched.
type kind struct {
	// name for people, the plural of the API.
	name   string
	object client.Object
	// installed: it comes with a CRD, which may not be there.
	installed bool
	// strip leaves of an object what package feed reads.
	strip func(client.Object)
}

func kinds() []kind {
	return []kind{
		{"namespaces", &corev1.Namespace{}, false, of(func(n *corev1.Namespace) { n.Spec, n.Status = corev1.NamespaceSpec{}, corev1.NamespaceStatus{} })},
		{"serviceaccounts", &corev1.ServiceAccount{}, false, of(func(a *corev1.ServiceAccount) { *a = corev1.ServiceAccount{ObjectMeta: a.ObjectMeta} })},
		{"nodes", &corev1.Node{}, false, of(func(n *corev1.Node) {
			n.Spec, n.Status = corev1.NodeSpec{}, corev1.NodeStatus{Addresses: n.Status.Addresses}
		})},
		{"pods", &corev1.Pod{}, false, whole},
		{"endpointslices.discovery.k8s.io", &discoveryv1.EndpointSlice{}, false, of(stripSlice)},
		{"networkpolicies.networking.k8s.io", &networkingv1.NetworkPolicy{}, false, whole},
		{"tiers.projectcalico.org", &v3.Tier{}, true, whole},
		{"networkpolicies.projectcalico.org", &v3.NetworkPolicy{}, true, whole},
		{"globalnetworkpolicies.projectcalico.org", &v3.GlobalNetworkPolicy{}, true, whole},
		{"networksets.projectcalico.org", &v3.NetworkSet{}, true, whole},
		{"globalnetworksets.projectcalico.org", &v3.GlobalNetworkSet{}, true, whole},
		{"hostendpoints.projectcalico.org", &v3.HostEndpoint{}, true, whole},
		{"clusternetworkpolicies.policy.networking.k8s.io", &cnpv1.ClusterNetworkPolicy{}, true, whole},
	}
}

// whole leaves an object as it is.
func whole(client.Object) {}

func of[T client.Object](strip func(T)) func(client.Object) {
	return func(o client.Object) {
		if t, ok := o.(T); ok {
			strip(t)
		}
	}
}

func stripSlice(s *discoveryv1.EndpointSlice) {
	var list []discoveryv1.Endpoint
	for _, e := range s.Endpoints {
		list = append(list, discoveryv1.Endpoint{Addresses: e.Addresses})
	}
	s.Endpoints = list
}

// CacheOptions make of a cache's options those for Options.Cache: with 30,000 pods what is not needed of an object counts. Options
// by object would ask for each kind at once, and not all are installed.
func CacheOptions(o cache.Options) cache.Options {
	of := map[reflect.Type]kind{}
	for _, k := range kinds() {
		of[reflect.TypeOf(k.object)] = k
	}
	o.DefaultTransform = func(object any) (any, error) {
		if c, ok := object.(client.Object); ok { // or what is left of one that is gone
			strip(c)
			if k, ok := of[reflect.TypeOf(c)]; ok {
				k.strip(c)
				return feed.Kept(c), nil
			}
		}
		return object, nil
	}
	o.ReaderFailOnMissingInformer = true
	return o
}

// strip leaves of an object's metadata what is read of all kinds.
func strip(o client.Object) {
	o.SetManagedFields(nil)
	o.SetAnnotations(nil)
	o.SetOwnerReferences(nil)
	o.SetFinalizers(nil)
}

// watching are the kinds that are watched.
type watching struct {
	changed func(o client.Object, there bool)
	// read is closed when all that there is has been read.
	read chan struct{}

	mu sync.Mutex
	// reading are kinds that are watched, and have been read or not; absent are those that are not installed.
	reading map[string]toolscache.ResourceEventHandlerRegistration
	absent  []kind
}

func newWatching(changed func(client.Object, bool)) *watching {
	return &watching{changed: changed, read: make(chan struct{}), reading: map[string]toolscache.ResourceEventHandlerRegistration{}, absent: kinds()}
}

// String says what has not been read yet.
func (w *watching) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var missing []string
	for _, k := range kinds() {
		if r, ok := w.reading[k.name]; (!ok && !k.installed) || (ok && !r.HasSynced()) {
			missing = append(missing, k.name)
		}
	}
	if len(missing) == 0 {
		return "it is being compiled"
	}
	return strings.Join(missing, ", ") + " are being read"
}

// watches says whether objects of a kind are in the cache: asking it for others would start to watch them.
func (w *watching) watches(o client.Object) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, k := range kinds() {
		if reflect.TypeOf(k.object) == reflect.TypeOf(o) {
			return w.reading[k.name] != nil
		}
	}
	return false
}

// begin watches a kind; false: it is not installed.
func (w *watching) begin(ctx context.Context, c cache.Cache, k kind) (bool, error) {
	informer, err := c.GetInformer(ctx, k.object, cache.BlockUntilSynced(false))
	if k.installed && meta.IsNoMatchError(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("watch %s: %w", k.name, err)
	}
	r, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { w.event(o, true) },
		UpdateFunc: func(_, o any) { w.event(o, true) },
		DeleteFunc: func(o any) { w.event(o, false) },
	})
	if err != nil {
		return false, fmt.Errorf("watch %s: %w", k.name, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reading[k.name] = r
	return true, nil
}

func (w *watching) event(o any, there bool) {
	if gone, ok := o.(toolscache.DeletedFinalStateUnknown); ok {
		o = gone.Obj
	}
	if c, ok := o.(client.Object); ok {
		w.changed(c, there)
	}
}

// watch watches all kinds until the context is done: those that are not installed as soon as they are.
func (s *Server) watch(ctx context.Context) error {
	w := s.watching
	said := map[string]string{}
	say := func(k kind, news string) bool {
		was := said[k.name]
		said[k.name] = news
		return was != news
	}
	for first := true; ; {
		var absent []kind
		pause := s.Look
		for _, k := range w.absent {
			there, err := w.begin(ctx, s.Cache, k)
			switch {
			case ctx.Err() != nil:
				return nil
			case err != nil:
				pause = s.Retry
				absent = append(absent, k)
				if say(k, err.Error()) {
					s.Log.Error("what policies are made of cannot be watched yet", "error", err)
				}
			case !there:
				absent = append(absent, k)
				if say(k, "not installed") {
					s.Log.Info("a kind of policies is not installed; it is watched as soon as it is", "kind", k.name)
				}
			case say(k, ""):
				s.Log.Info("a kind of policies is watched now", "kind", k.name)
			}
		}
		w.mu.Lock()
		w.absent = absent
		var read []toolscache.InformerSynced
		for _, r := range w.reading {
			read = append(read, r.HasSynced)
		}
		w.mu.Unlock()
		// An error may hide a kind with policies: nothing has been read then.
		if first && pause == s.Look {
			if !toolscache.WaitForCacheSync(ctx.Done(), read...) {
				return nil
			}
			first = false
			close(w.read)
		}
		if !s.sleep(ctx, pause) {
			return nil
		}
	}
}
