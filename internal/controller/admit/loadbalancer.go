package admit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/loadbalancer"
)

// handleLoadBalancers answers a request about a pod that is being created in a namespace whose pods get readiness
// gates. It refuses none: without them a pod runs, and only loses connections when it starts and ends.
func (w *Webhook) handleLoadBalancers(ctx context.Context, req admission.Request) admission.Response {
	return w.gates(ctx, req, false)
}

// handleGatesRequired is for a namespace that has no pod without them.
func (w *Webhook) handleGatesRequired(ctx context.Context, req admission.Request) admission.Response {
	return w.gates(ctx, req, true)
}

func (w *Webhook) gates(ctx context.Context, req admission.Request, required bool) admission.Response {
	raw, err := w.forLoadBalancers(ctx, req.Namespace, req.Object.Raw)
	switch {
	case err != nil && required:
		return admission.Errored(http.StatusInternalServerError, fmt.Errorf("readiness gates of its load balancers, which namespace %s requires (label %s): %w", req.Namespace, claims.LabelInjectGates, err))
	case err != nil:
		w.Log.Warn("a pod gets no readiness gates", "namespace", req.Namespace, "error", err)
		return admission.Allowed("").WithWarnings(fmt.Sprintf("the pod gets no readiness gates of its load balancers: %v", err))
	}
	return admission.PatchResponseFromRaw(req.Object.Raw, raw)
}

// forLoadBalancers returns the pod with what the load balancers of its Services need.
func (w *Webhook) forLoadBalancers(ctx context.Context, namespace string, raw []byte) ([]byte, error) {
	var services corev1.ServiceList
	if err := w.client.List(ctx, &services, client.InNamespace(namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list the Services of namespace %s: %w", namespace, err)
	}
	return withGates(raw, func(labels map[string]string) loadbalancer.Needs {
		return loadbalancer.NeedsOf(services.Items, labels, w.LoadBalancers())
	})
}

// withGates returns the pod with what a pod with its labels needs. Called again with the result it changes nothing,
// and after others have added containers only these. Like withENI it keeps fields that it does not know.
func withGates(raw []byte, needs func(labels map[string]string) loadbalancer.Needs) ([]byte, error) {
	var pod map[string]any
	if err := utiljson.Unmarshal(raw, &pod); err != nil {
		return nil, fmt.Errorf("the object is not a pod: %w", err)
	}
	labels, _, err := unstructured.NestedStringMap(pod, "metadata", "labels")
	if err != nil {
		return nil, err
	}
	host, _, err := unstructured.NestedBool(pod, "spec", "hostNetwork")
	if err != nil {
		return nil, err
	}
	n := needs(labels)
	if host || len(n.Gates) == 0 { // a load balancer's backends are pods with an address of their own
		return raw, nil
	}
	if err := addGates(pod, n.Gates); err != nil {
		return nil, err
	}
	if err := unstructured.SetNestedField(pod, "true", "metadata", "labels", claims.LabelReadinessGate); err != nil {
		return nil, err
	}
	slept := false
	if n.Sleep > 0 {
		if slept, err = addSleep(pod, n.Sleep); err != nil {
			return nil, err
		}
	}
	if slept {
		if err := prolong(pod, int64(n.Sleep)); err != nil {
			return nil, err
		}
	}
	return json.Marshal(pod)
}

// addGates adds the gates that a pod does not have.
func addGates(pod map[string]any, gates []corev1.PodConditionType) error {
	list, _, err := unstructured.NestedSlice(pod, "spec", "readinessGates")
	if err != nil {
		return err
	}
	has := map[string]bool{}
	for _, g := range list {
		if g, ok := g.(map[string]any); ok {
			if t, ok := g["conditionType"].(string); ok {
				has[t] = true
			}
		}
	}
	for _, g := range gates {
		if !has[string(g)] {
			list = append(list, map[string]any{"conditionType": string(g)})
		}
	}
	return unstructured.SetNestedSlice(pod, list, "spec", "readinessGates")
}

// addSleep lets all containers without a preStop hook sleep before they are told to end, and reports whether there
// are any. Containers of spec.initContainers that run on end after the others.
func addSleep(pod map[string]any, seconds int) (added bool, err error) {
	containers, _, err := unstructured.NestedSlice(pod, "spec", "containers")
	if err != nil {
		return false, err
	}
	for i, c := range containers {
		c, ok := c.(map[string]any)
		if !ok {
			return false, fmt.Errorf("spec.containers[%d] is not an object", i)
		}
		if c["lifecycle"] == nil {
			c["lifecycle"] = map[string]any{}
		}
		lifecycle, ok := c["lifecycle"].(map[string]any)
		if !ok {
			return false, fmt.Errorf("spec.containers[%d].lifecycle is not an object", i)
		}
		if lifecycle["preStop"] == nil {
			lifecycle["preStop"] = map[string]any{"sleep": map[string]any{"seconds": int64(seconds)}}
			added = true
		}
	}
	if !added {
		return false, nil
	}
	return true, unstructured.SetNestedSlice(pod, containers, "spec", "containers")
}

// prolong makes the pod's grace period longer by the sleep, so that its containers have their own time after it. An
// annotation remembers by how much.
func prolong(pod map[string]any, seconds int64) error {
	spec, ok := pod["spec"].(map[string]any)
	if !ok {
		return errors.New("spec is not an object")
	}
	grace := int64(corev1.DefaultTerminationGracePeriodSeconds)
	if v := spec["terminationGracePeriodSeconds"]; v != nil {
		if grace, ok = v.(int64); !ok || grace < 0 {
			return fmt.Errorf("spec.terminationGracePeriodSeconds: %v: want a number of seconds", v)
		}
	}
	annotations, _, err := unstructured.NestedStringMap(pod, "metadata", "annotations")
	if err != nil {
		return err
	}
	before, err := strconv.ParseInt(annotations[claims.AnnotationDrainAdded], 10, 64)
	if err != nil || before < 0 {
		before = 0
	}
	if grace > longestGrace {
		return nil // it is long enough
	}
	// The API server refuses a sleep that is longer than the grace period.
	spec["terminationGracePeriodSeconds"] = max(grace+max(seconds-before, 0), seconds)
	return unstructured.SetNestedField(pod, strconv.FormatInt(max(seconds, before), 10), "metadata", "annotations", claims.AnnotationDrainAdded)
}

// longestGrace is the longest grace period that is made longer: a year.
const longestGrace = 365 * 24 * 60 * 60
