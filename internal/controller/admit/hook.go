package admit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/podeni"
)

// Handle answers a request about a pod that is being created.
func Handle(_ context.Context, req admission.Request) admission.Response {
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
