package podlimits

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/internal/bandwidth"
)

// server is an API server with pods' metadata, which serves pages of two.
type server struct {
	client.WithWatch
	t *testing.T

	mu      sync.Mutex
	items   []metav1.PartialObjectMetadata
	lists   int
	watched chan *watch.FakeWatcher
}

func (s *server) Get(_ context.Context, key client.ObjectKey, o client.Object, _ ...client.GetOption) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	into := o.(*metav1.PartialObjectMetadata)
	if into.GroupVersionKind() != corev1.SchemeGroupVersion.WithKind("Pod") {
		s.t.Errorf("asked for %v", into.GroupVersionKind())
	}
	for i := range s.items {
		if s.items[i].Name == key.Name {
			s.items[i].DeepCopyInto(into)
			return nil
		}
	}
	return apierrors.NewNotFound(corev1.Resource("pods"), key.Name)
}

// asks checks a request for a list.
func (s *server) asks(l client.ObjectList, opts []client.ListOption) (o client.ListOptions) {
	o.ApplyOptions(opts)
	const want = "spec.hostNetwork=false,spec.nodeName!=,status.phase!=Failed,status.phase!=Succeeded"
	if kind := l.GetObjectKind().GroupVersionKind(); kind != corev1.SchemeGroupVersion.WithKind("PodList") || o.FieldSelector.String() != want {
		s.t.Errorf("asked for %v with field selector %s", kind, o.FieldSelector)
	}
	return o
}

func (s *server) List(_ context.Context, list client.ObjectList, opts ...client.ListOption) error {
	o := s.asks(list, opts)
	if o.Limit == 0 {
		s.t.Errorf("list options %+v", o)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l := list.(*metav1.PartialObjectMetadataList)
	l.ResourceVersion = "7"
	rest := s.items
	if o.Continue == "" {
		s.lists++
		l.Continue = "second"
		rest = rest[:min(2, len(rest))]
	} else {
		rest = rest[min(2, len(rest)):]
	}
	l.Items = append(l.Items, rest...)
	return nil
}

func (s *server) Watch(_ context.Context, l client.ObjectList, opts ...client.ListOption) (watch.Interface, error) {
	o := s.asks(l, opts)
	if o.AsListOptions().ResourceVersion == "" {
		s.t.Errorf("watch options %+v", o)
	}
	f := watch.NewFake()
	s.watched <- f
	return f, nil
}

func pod(name string, annotations map[string]string) *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name), Annotations: annotations, ResourceVersion: "8"}}
}

// It knows the pods with limits and no others, says what changes, and reads all anew when the API server has forgotten
// where the watch was.
func TestWatcher(t *testing.T) {
	s := &server{t: t, watched: make(chan *watch.FakeWatcher, 1)}
	s.items = []metav1.PartialObjectMetadata{
		*pod("plain", map[string]string{"other": "x"}), *pod("a", map[string]string{bandwidth.Ingress: "1M"}),
		*pod("b", nil), *pod("wrong", map[string]string{bandwidth.Ingress: "1m"}),
	}
	changes := make(chan string, 100)
	w := &Watcher{Client: s, Changed: func(_ context.Context, all []types.NamespacedName) {
		for _, p := range all {
			changes <- p.Name
		}
	}, Log: slog.New(slog.DiscardHandler), Retry: time.Millisecond}
	if _, _, known := w.Get(types.NamespacedName{}); known {
		t.Error("it knows all pods before it has read them")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Start(ctx) }()
	changed := func(want ...string) {
		t.Helper()
		left := map[string]bool{}
		for _, name := range want {
			left[name] = true
		}
		for len(left) > 0 {
			select {
			case name := <-changes:
				if !left[name] {
					t.Errorf("%s has changed, want %v", name, left)
				}
				delete(left, name)
			case <-time.After(10 * time.Second):
				t.Fatalf("%v have not changed", left)
			}
		}
	}
	has := func(name string, limits bandwidth.Limits, limited, wrong bool) {
		t.Helper()
		p, is, known := w.Get(types.NamespacedName{Namespace: "ns", Name: name})
		if !known || is != limited || p.Limits != limits || (p.Err != nil) != wrong || limited && p.UID != types.UID("uid-"+name) {
			t.Errorf("pod %s: %+v, %t, %t", name, p, is, known)
		}
	}
	changed("a", "wrong")
	has("a", bandwidth.Limits{Ingress: 1e6}, true, false)
	has("wrong", bandwidth.Limits{}, true, true)
	has("plain", bandwidth.Limits{}, false, false)

	f := <-s.watched
	f.Modify(pod("a", map[string]string{bandwidth.Ingress: "1M", "other": "y"}))
	f.Modify(pod("plain", map[string]string{"other": "y"}))
	f.Modify(pod("b", map[string]string{bandwidth.EgressBytes: "1M"}))
	changed("b")
	has("b", bandwidth.Limits{Egress: 8 << 20}, true, false)
	f.Modify(pod("a", map[string]string{bandwidth.Ingress: "2M"}))
	changed("a")
	has("a", bandwidth.Limits{Ingress: 2e6}, true, false)
	f.Modify(pod("a", nil))
	changed("a")
	has("a", bandwidth.Limits{}, false, false)
	f.Delete(pod("wrong", map[string]string{bandwidth.Ingress: "1m"}))
	f.Add(pod("new", map[string]string{bandwidth.Ingress: "3M"}))
	changed("wrong", "new")

	s.mu.Lock()
	s.items = []metav1.PartialObjectMetadata{*pod("b", map[string]string{bandwidth.EgressBytes: "1M"}), *pod("late", map[string]string{bandwidth.Egress: "4M"})}
	s.mu.Unlock()
	expired := apierrors.NewResourceExpired("too old").Status()
	f.Error(&expired)
	changed("new", "late")
	has("b", bandwidth.Limits{Egress: 8 << 20}, true, false)
	has("new", bandwidth.Limits{}, false, false)
	<-s.watched
	// What the API server has now, whatever the watch has told.
	s.mu.Lock()
	s.items = append(s.items, *pod("plain", nil), *pod("wrong", map[string]string{bandwidth.Ingress: "1m"}))
	s.mu.Unlock()
	for name, want := range map[string]struct {
		uid            types.UID
		limits         bandwidth.Limits
		limited, wrong bool
	}{
		"late": {"uid-late", bandwidth.Limits{Egress: 4e6}, true, false}, "plain": {uid: "uid-plain"}, "gone": {},
		"wrong": {"uid-wrong", bandwidth.Limits{}, true, true},
	} {
		p, limited, err := w.Read(ctx, types.NamespacedName{Namespace: "ns", Name: name})
		if err != nil || p.UID != want.uid || p.Limits != want.limits || limited != want.limited || (p.Err != nil) != want.wrong {
			t.Errorf("pod %s: %+v, limited %t, %v", name, p, limited, err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
