package admit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"terway.dev/terway/internal/bandwidth"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/podeni"
)

// HandleExclusiveENI answers a request about a pod that is being created.
func HandleExclusiveENI(_ context.Context, req admission.Request) admission.Response {
	var pod corev1.Pod
	if err := json.Unmarshal(req.Object.Raw, &pod); err != nil {
		return admission.Errored(http.StatusBadRequest, fmt.Errorf("the object is not a pod: %w", err))
	}
	add, err := podeni.Admit(&pod)
	switch {
	case err != nil:
		return admission.Denied(err.Error())
	case !add:
		return admission.Allowed("")
	}
	raw, err := withENI(req.Object.Raw)
	if err != nil {
		return admission.Errored(http.StatusInternalServerError, fmt.Errorf("add %s to the pod's first container: %w", claims.ResourceENI, err))
	}
	return admission.PatchResponseFromRaw(req.Object.Raw, raw)
}

// withENI returns the pod with the resource in its first container. The pod is not decoded into its
// Go type: fields of a newer API server, which this program does not know, would be lost.
func withENI(raw []byte) ([]byte, error) {
	var pod map[string]any
	if err := utiljson.Unmarshal(raw, &pod); err != nil {
		return nil, err
	}
	containers, _, err := unstructured.NestedSlice(pod, "spec", "containers")
	if err != nil {
		return nil, err
	}
	if len(containers) == 0 {
		return nil, errors.New("spec.containers is empty")
	}
	first, ok := containers[0].(map[string]any)
	if !ok {
		return nil, errors.New("spec.containers[0] is not an object")
	}
	for _, kind := range []string{"limits", "requests"} {
		if err := unstructured.SetNestedField(first, "1", "resources", kind, claims.ResourceENI); err != nil {
			return nil, err
		}
	}
	if err := unstructured.SetNestedSlice(pod, containers, "spec", "containers"); err != nil {
		return nil, err
	}
	return json.Marshal(pod)
}

// HandleBandwidth answers a request about a pod with limits or a network priority that is being created or changed. A pod that already
// has a wrong value, because no webhook answered then, may still be changed otherwise: its finalizers
// have to go at last.
func HandleBandwidth(_ context.Context, req admission.Request) admission.Response {
	var pod, old metav1.PartialObjectMetadata
	if err := json.Unmarshal(req.Object.Raw, &pod); err != nil {
		return admission.Errored(http.StatusBadRequest, fmt.Errorf("the object is not a pod: %w", err))
	}
	if raw := req.OldObject.Raw; len(raw) > 0 {
		if err := json.Unmarshal(raw, &old); err != nil {
			return admission.Errored(http.StatusBadRequest, fmt.Errorf("the old object is not a pod: %w", err))
		}
		if bandwidth.Same(pod.Annotations, old.Annotations) && samePriority(pod.Annotations, old.Annotations) {
			return admission.Allowed("")
		}
	}
	_, wrong := bandwidth.Of(pod.Annotations)
	_, err := bandwidth.PriorityOf(pod.Annotations)
	if err := errors.Join(wrong, err); err != nil {
		return admission.Denied(err.Error())
	}
	return admission.Allowed("")
}

func samePriority(a, b map[string]string) bool {
	x, inA := a[bandwidth.NetworkPriority]
	y, inB := b[bandwidth.NetworkPriority]
	return x == y && inA == inB
}
