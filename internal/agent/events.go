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

// Events are functions that record warning events.
type Events struct {
	// Pod is Options.PodEvent.
	Pod func(pod PodRef, reason, note string)
	// Node records one on the node.
	Node func(reason, note string)
}

// RecordEvents returns functions that record events until ctx is done. An event that the API server
// rejects is lost; the log has its text.
func RecordEvents(ctx context.Context, cfg *rest.Config, node string) (Events, error) {
	c, err := eventsv1.NewForConfig(cfg)
	if err != nil {
		return Events{}, fmt.Errorf("client of events: %w", err)
	}
	b := events.NewBroadcaster(&events.EventSinkImpl{Interface: c})
	if err := b.StartRecordingToSinkWithContext(ctx); err != nil {
		return Events{}, fmt.Errorf("record events: %w", err)
	}
	context.AfterFunc(ctx, b.Shutdown)
	r := b.NewRecorder(scheme.Scheme, "terwayd")
	return Events{
		Pod: func(pod PodRef, reason, note string) {
			r.Eventf(&corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: types.UID(pod.UID)},
				nil, corev1.EventTypeWarning, reason, "Repair", "%s (node %s)", note, node)
		},
		Node: func(reason, note string) {
			// kubectl describe looks for a node's events by this UID, as the kubelet writes them.
			r.Eventf(&corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: node, UID: types.UID(node)},
				nil, corev1.EventTypeWarning, reason, "Repair", "%s", clip(note, maxNote))
		},
	}, nil
}
