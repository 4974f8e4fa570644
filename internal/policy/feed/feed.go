// Package feed makes what a compiler is told (compile.Delta) of objects that come, change and go.
//
// It owns what translate.Policies and translate.Cluster do for a folder of objects, for one object at a
// time: a change costs what it concerns, not what the cluster has. In the end both say the same. It is
// pure: whoever watches a cluster tells it, and it must never ask one.
package feed

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cnpv1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	v3 "terway.dev/terway/api/calico/v3"
	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
	"terway.dev/terway/internal/policy/translate"
)

// A Feed knows the objects that it was told. It is for one goroutine at a time.
type Feed struct {
	options     translate.Options
	arrangement arrangement
	pods        pods
	services    services
	// delta has what else has changed since Changes was called.
	delta compile.Delta
	// notes are those of objects alone, said are all that Changes last returned.
	notes, said map[policy.Ref][]translate.Note
	// noted are objects whose notes may be others.
	noted map[policy.Ref]struct{}
}

// New is a Feed that knows nothing.
func New(o translate.Options) *Feed {
	return &Feed{
		options: o, arrangement: newArrangement(), pods: newPods(), services: newServices(),
		notes: map[policy.Ref][]translate.Note{}, said: map[policy.Ref][]translate.Note{}, noted: map[policy.Ref]struct{}{},
	}
}

// Set says what an object is now, or, unless there, that it is gone; then its name is enough. It panics
// for kinds that no policy speaks of.
func (f *Feed) Set(object metav1.Object, there bool) {
	name := policy.NamespacedName{Namespace: object.GetNamespace(), Name: object.GetName()}
	switch o := object.(type) {
	case *corev1.Namespace:
		put(&f.delta.Namespaces, name.Name, labels(o), there)
	case *corev1.ServiceAccount:
		put(&f.delta.ServiceAccounts, name, labels(o), there)
	case *corev1.Node:
		put(&f.delta.Nodes, name.Name, translate.Node(o), there)
	case *corev1.Pod:
		f.Set(Kept(o), there)
	case *Pod:
		f.pods.set(name, o.pod, there)
	case *discoveryv1.EndpointSlice:
		f.services.set(name, o, there)
	case *v3.NetworkSet:
		in, set, notes := translate.NetworkSet(o)
		put(&f.delta.NetworkSets, in, set, there)
		f.note(translate.KindNetworkSet, name, notes, there)
	case *v3.GlobalNetworkSet:
		in, set, notes := translate.GlobalNetworkSet(o)
		put(&f.delta.NetworkSets, in, set, there)
		f.note(translate.KindGlobalNetworkSet, name, notes, there)
	case *v3.HostEndpoint:
		in, set, notes := translate.HostEndpoint(o)
		put(&f.delta.NetworkSets, in, set, there)
		f.note(translate.KindHostEndpoint, name, notes, there)
	case *v3.Tier:
		tier, notes := translate.Tier(o)
		if !there {
			tier = nil
		}
		f.arrangement.setTier(name.Name, tier)
		f.note(translate.KindTier, name, notes, there)
	case *NetworkPolicy:
		if !there {
			policyOf(f, translate.KindNetworkPolicy, name, o, false, nil)
			return
		}
		// An informer tells all that it has from time to time.
		if placed, notes, told := o.tell(); !told {
			policyOf(f, translate.KindNetworkPolicy, name, o, true, func(*NetworkPolicy) (*translate.Placed, []translate.Note) { return placed, notes })
		}
	case *networkingv1.NetworkPolicy:
		policyOf(f, translate.KindNetworkPolicy, name, o, there, translate.NetworkPolicy)
	case *cnpv1.ClusterNetworkPolicy:
		policyOf(f, translate.KindClusterNetworkPolicy, name, o, there, translate.ClusterNetworkPolicy)
	case *v3.NetworkPolicy:
		policyOf(f, translate.KindCalicoPolicy, name, o, there, translate.CalicoPolicy)
	case *v3.GlobalNetworkPolicy:
		policyOf(f, translate.KindGlobalNetworkPolicy, name, o, there, translate.GlobalNetworkPolicy)
	default:
		panic(fmt.Sprintf("%T %s: no policy speaks of it", o, name))
	}
}

// Ref is the name of an object that Changes may return Notes of; false for kinds that have none.
func Ref(object metav1.Object) (policy.Ref, bool) {
	kind := ""
	switch object.(type) {
	case *v3.NetworkSet:
		kind = translate.KindNetworkSet
	case *v3.GlobalNetworkSet:
		kind = translate.KindGlobalNetworkSet
	case *v3.HostEndpoint:
		kind = translate.KindHostEndpoint
	case *v3.Tier:
		kind = translate.KindTier
	case *networkingv1.NetworkPolicy, *NetworkPolicy:
		kind = translate.KindNetworkPolicy
	case *cnpv1.ClusterNetworkPolicy:
		kind = translate.KindClusterNetworkPolicy
	case *v3.NetworkPolicy:
		kind = translate.KindCalicoPolicy
	case *v3.GlobalNetworkPolicy:
		kind = translate.KindGlobalNetworkPolicy
	}
	return policy.Ref{Kind: kind, Namespace: object.GetNamespace(), Name: object.GetName()}, kind != ""
}

// SetOptions says what the cluster's settings are now.
func (f *Feed) SetOptions(o translate.Options) { f.options = o }

// Changes are what has changed since they were last asked for, and of all objects of which others are to be
// said now, the Notes; none: nothing is to be said any more. The first Delta has everything.
func (f *Feed) Changes() (compile.Delta, map[policy.Ref][]translate.Note) {
	d := f.delta
	f.delta = compile.Delta{}
	d.Pods = f.pods.changes()
	d.Services = f.services.changes()
	var touched []policy.Ref
	d.Tiers, d.Policies, touched = f.arrangement.changes(f.options)
	for _, r := range touched {
		f.noted[r] = struct{}{}
	}
	var say map[policy.Ref][]translate.Note
	for r := range f.noted {
		notes := f.notes[r]
		if missing := f.arrangement.misses(r); missing != nil {
			notes = append(slices.Clone(notes), translate.NoTier(missing))
		}
		if slices.Equal(notes, f.said[r]) {
			continue
		}
		if f.said[r] = notes; len(notes) == 0 {
			delete(f.said, r)
		}
		put(&say, r, notes, true)
	}
	clear(f.noted)
	return d, say
}

// policyOf takes a policy of any language.
func policyOf[T metav1.Object](f *Feed, kind string, name policy.NamespacedName, o T, there bool, of func(T) (*translate.Placed, []translate.Note)) {
	ref := policy.Ref{Kind: kind, Namespace: name.Namespace, Name: name.Name}
	var p *translate.Placed
	var notes []translate.Note
	if there {
		p, notes = of(o)
	}
	f.arrangement.setPolicy(ref, p)
	f.note(kind, name, notes, there)
}

func (f *Feed) note(kind string, name policy.NamespacedName, notes []translate.Note, there bool) {
	ref := policy.Ref{Kind: kind, Namespace: name.Namespace, Name: name.Name}
	if f.notes[ref] = notes; !there || len(notes) == 0 {
		delete(f.notes, ref)
	}
	f.noted[ref] = struct{}{}
}

// put sets what is at a key; what is not there is the zero value.
func put[K comparable, V any](m *map[K]V, k K, v V, there bool) {
	if *m == nil {
		*m = map[K]V{}
	}
	if !there {
		var gone V
		v = gone
	}
	(*m)[k] = v
}

// labels are an object's. None are not nil: that is an object that is gone.
func labels(o metav1.Object) policy.Labels {
	if l := o.GetLabels(); l != nil {
		return l
	}
	return policy.Labels{}
}

// services are the endpoints of Services: each has several slices.
type services struct {
	slices map[policy.NamespacedName]slice
	of     map[policy.NamespacedName]map[policy.NamespacedName]struct{} // a Service's slices
	dirty  map[policy.NamespacedName]struct{}
}

type slice struct {
	service   policy.NamespacedName
	endpoints []policy.Endpoint
}

func newServices() services {
	return services{map[policy.NamespacedName]slice{}, map[policy.NamespacedName]map[policy.NamespacedName]struct{}{}, map[policy.NamespacedName]struct{}{}}
}

func (s *services) set(name policy.NamespacedName, o *discoveryv1.EndpointSlice, there bool) {
	was, had := s.slices[name]
	now := slice{policy.NamespacedName{Namespace: name.Namespace, Name: o.Labels[discoveryv1.LabelServiceName]}, nil}
	there = there && now.service.Name != ""
	if there {
		now.endpoints = translate.Endpoints(o)
		if had && was.service == now.service && slices.Equal(was.endpoints, now.endpoints) {
			return
		}
	}
	if had {
		delete(s.slices, name)
		if delete(s.of[was.service], name); len(s.of[was.service]) == 0 {
			delete(s.of, was.service)
		}
		s.dirty[was.service] = struct{}{}
	}
	if there {
		s.slices[name] = now
		if s.of[now.service] == nil {
			s.of[now.service] = map[policy.NamespacedName]struct{}{}
		}
		s.of[now.service][name] = struct{}{}
		s.dirty[now.service] = struct{}{}
	}
}

func (s *services) changes() (out map[policy.NamespacedName][]policy.Endpoint) {
	for name := range s.dirty {
		var all []policy.Endpoint
		for slice := range s.of[name] {
			all = append(all, s.slices[slice].endpoints...)
		}
		put(&out, name, all, true)
	}
	clear(s.dirty)
	return out
}

// sorted are the keys of a set of Refs, in an order that is always the same.
func sorted(refs map[policy.Ref]struct{}) []policy.Ref {
	return slices.SortedFunc(maps.Keys(refs), compareRefs)
}
