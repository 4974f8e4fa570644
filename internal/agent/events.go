package agent

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	eventsv1 "k8s.io/client-go/kubernetes/typed/events/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"
)

// PodEvents returns a function that records warning events on pods until ctx is done. An event that
// the API server rejects is lost; the log has its text.
func PodEvents(ctx context.Context, cfg *rest.Config, node string) (func(pod PodRef, reason, note string), error) {
	c, err := eventsv1.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("client of events: %w", err)
	}
	b := events.NewBroadcaster(&events.EventSinkImpl{Interface: c})
	if err := b.StartRecordingToSinkWithContext(ctx); err != nil {
		return nil, fmt.Errorf("record events: %w", err)
	}
	context.AfterFunc(ctx, b.Shutdown)
	r := b.NewRecorder(scheme.Scheme, "terwayd")
	return func(pod PodRef, reason, note string) {
		r.Eventf(&corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: types.UID(pod.UID)},
			nil, corev1.EventTypeWarning, reason, "Repair", "%s (node %s)", note, node)
	}, nil
}
