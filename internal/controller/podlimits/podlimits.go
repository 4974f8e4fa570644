// Package podlimits knows the annotations that limit pods' bandwidth, as they are now.
//
// It reads the metadata of pods alone, without their specs and statuses, of those that have a network
// of their own and run: an API server cannot select pods by annotations. It keeps only those that have
// such an annotation, so its memory does not grow with the cluster. It must not write anything.
package podlimits

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	toolswatch "k8s.io/client-go/tools/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/internal/bandwidth"
	"terway.dev/terway/internal/pages"
)

// Pod is a pod with at least one annotation of package bandwidth.
type Pod struct {
	UID    types.UID
	Limits bandwidth.Limits
	// Err is what is wrong with the annotations; then there are no Limits.
	Err error
}

// equal compares errors by their text.
func (p Pod) equal(o Pod) bool {
	return p.UID == o.UID && p.Limits == o.Limits && (p.Err == nil) == (o.Err == nil) && (p.Err == nil || p.Err.Error() == o.Err.Error())
}

// Watcher knows the pods. Its zero value, with the exported fields, is ready for Start.
type Watcher struct {
	// Client has no cache.
	Client client.WithWatch
	// Changed is called after pods have got, changed or lost limits, or are gone.
	Changed func(ctx context.Context, pods []types.NamespacedName)
	Log     *slog.Logger
	// Retry is the pause after an error; after each further one it doubles, up to longestRetry times as much.
	Retry time.Duration

	mu   sync.Mutex
	pods map[types.NamespacedName]Pod // nil until all were read once
}

// running selects pods that have an address of their own, or will get one.
var running = fields.ParseSelectorOrDie("spec.nodeName!=,spec.hostNetwork=false,status.phase!=Succeeded,status.phase!=Failed")

// noPods is an empty list of pods' metadata.
func noPods() *metav1.PartialObjectMetadataList {
	var l metav1.PartialObjectMetadataList
	l.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("PodList"))
	return &l
}

// NeedLeaderElection: only the leader writes what follows from it.
func (w *Watcher) NeedLeaderElection() bool { return true }

// longestRetry bounds the pauses between attempts, each of which may read all pods of the cluster.
const longestRetry = 32

// Start watches until ctx is done.
func (w *Watcher) Start(ctx context.Context) error {
	for pause := w.Retry; ; pause = min(2*pause, longestRetry*w.Retry) {
		began := time.Now()
		err := w.watch(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > longestRetry*w.Retry { // it has watched
			pause = w.Retry
		}
		w.Log.Warn("watch pods' metadata, for the limits of their bandwidth; trying again", "in", pause, "error", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
	}
}

// Get returns a pod with limits; known is false until all pods were read.
func (w *Watcher) Get(name types.NamespacedName) (p Pod, limited, known bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p, limited = w.pods[name]
	return p, limited, w.pods != nil
}

// Read returns a pod, with limits or without, as the API server has it now. It has no UID if there is no
// such pod.
func (w *Watcher) Read(ctx context.Context, name types.NamespacedName) (p Pod, limited bool, err error) {
	var o metav1.PartialObjectMetadata
	o.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Pod"))
	err = w.Client.Get(ctx, name, &o)
	if apierrors.IsNotFound(err) {
		return Pod{}, false, nil
	}
	if err != nil {
		return Pod{}, false, fmt.Errorf("read the metadata of pod %s: %w", name, err)
	}
	p, limited = of(&o)
	p.UID = o.UID
	return p, limited, nil
}

// watch reads all pods, then follows their changes.
func (w *Watcher) watch(ctx context.Context) error {
	version, err := w.list(ctx)
	if err != nil {
		return err
	}
	changes, err := toolswatch.NewRetryWatcherWithContext(ctx, version, source{w.Client})
	if err != nil {
		return fmt.Errorf("watch pods: %w", err)
	}
	defer changes.Stop()
	for e := range changes.ResultChan() {
		p, ok := e.Object.(*metav1.PartialObjectMetadata)
		switch {
		case e.Type == watch.Error:
			return fmt.Errorf("watch pods: %w", apierrors.FromObject(e.Object))
		case !ok:
		case e.Type == watch.Deleted:
			w.set(ctx, p, false)
		case e.Type == watch.Added, e.Type == watch.Modified:
			w.set(ctx, p, true)
		}
	}
	return errors.New("the watch of pods has ended")
}

// source watches pods' metadata.
type source struct{ client client.WithWatch }

var _ cache.WatcherWithContext = source{}

func (s source) WatchWithContext(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	return s.client.Watch(ctx, noPods(), &client.ListOptions{FieldSelector: running, Raw: &o})
}

// list reads all pods, and returns the version that they had.
func (w *Watcher) list(ctx context.Context) (version string, err error) {
	now := map[types.NamespacedName]Pod{}
	for l, err := range pages.Of(ctx, w.Client, noPods(), client.MatchingFieldsSelector{Selector: running}) {
		if err != nil {
			return "", fmt.Errorf("list pods: %w", err)
		}
		for i := range l.Items {
			if p, limited := of(&l.Items[i]); limited {
				now[nameOf(&l.Items[i])] = p
			}
		}
		version = l.ResourceVersion
	}
	w.mu.Lock()
	before := w.pods
	w.pods = now
	w.mu.Unlock()
	var changed []types.NamespacedName
	for name, p := range now {
		if was, there := before[name]; !there || !was.equal(p) {
			changed = append(changed, name)
		}
	}
	for name := range before {
		if _, there := now[name]; !there {
			changed = append(changed, name)
		}
	}
	if len(changed) > 0 {
		w.Changed(ctx, changed)
	}
	return version, nil
}

// set records one pod.
func (w *Watcher) set(ctx context.Context, object *metav1.PartialObjectMetadata, there bool) {
	name := nameOf(object)
	p, limited := of(object)
	limited = limited && there
	w.mu.Lock()
	was, before := w.pods[name]
	if limited {
		w.pods[name] = p
	} else {
		delete(w.pods, name)
	}
	w.mu.Unlock()
	if limited != before || limited && !was.equal(p) {
		w.Changed(ctx, []types.NamespacedName{name})
	}
}

func nameOf(o *metav1.PartialObjectMetadata) types.NamespacedName {
	return types.NamespacedName{Namespace: o.Namespace, Name: o.Name}
}

// of returns what is kept of a pod.
func of(o *metav1.PartialObjectMetadata) (p Pod, limited bool) {
	if bandwidth.Same(o.Annotations, nil) {
		return Pod{}, false
	}
	p.UID = o.UID
	p.Limits, p.Err = bandwidth.Of(o.Annotations)
	return p, true
}
