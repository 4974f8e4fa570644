// Package podeni reads whether a pod requests an exclusive ENI: by the annotation, and by the
// resource that the scheduler counts. The admission webhook and the node's agent both use it,
// so that they cannot disagree.
//
// It has no state. It must never guess: a contradiction is an error.
package podeni

import (
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"terway.dev/terway/internal/datapath/claims"
)

// Asked reports whether the annotations of a pod request an exclusive ENI.
func Asked(annotations map[string]string) (bool, error) {
	switch v, set := annotations[claims.AnnotationExclusiveENI]; {
	case !set || v == "false":
		return false, nil
	case v == "true":
		return true, nil
	default:
		return false, fmt.Errorf(`annotation %s: %q: want "true" (an ENI of its own) or "false"`, claims.AnnotationExclusiveENI, v)
	}
}

// Admit validates a new pod. add says that the first container must get the resource, request
// and limit 1. Pods without the annotation are never changed, nor pods of the host network,
// which have no interface of their own.
func Admit(pod *corev1.Pod) (add bool, err error) {
	if _, set := pod.Annotations[claims.AnnotationExclusiveENI]; !set || pod.Spec.HostNetwork {
		return false, nil
	}
	asks, err := Asked(pod.Annotations)
	if err != nil {
		return false, err
	}
	found := asksOf(pod)
	if !asks {
		return false, none(found)
	}
	// The API server rejects a pod without containers.
	return len(found) == 0 && len(pod.Spec.Containers) > 0, one(found)
}

// claim is the resource in one container; nil: not set.
type claim struct {
	where          string
	init           bool
	request, limit *resource.Quantity
}

func asksOf(pod *corev1.Pod) []claim {
	var out []claim
	list := func(path string, init bool, containers []corev1.Container) {
		for i, c := range containers {
			k := claim{fmt.Sprintf("spec.%s[%d].resources", path, i), init, amount(c.Resources.Requests), amount(c.Resources.Limits)}
			if k.request != nil || k.limit != nil {
				out = append(out, k)
			}
		}
	}
	list("initContainers", true, pod.Spec.InitContainers)
	list("containers", false, pod.Spec.Containers)
	return out
}

func amount(r corev1.ResourceList) *resource.Quantity {
	if q, set := r[claims.ResourceENI]; set {
		return &q
	}
	return nil
}

func (c claim) String() string {
	text := func(q *resource.Quantity) string {
		if q == nil {
			return "not set"
		}
		return q.String()
	}
	return fmt.Sprintf("%s: request of %s %s, limit %s", c.where, claims.ResourceENI, text(c.request), text(c.limit))
}

// one checks that the pod requests the resource at most once, with the value 1.
func one(found []claim) error {
	is1 := func(q *resource.Quantity) bool {
		return q != nil && q.Cmp(*resource.NewQuantity(1, resource.DecimalSI)) == 0
	}
	var errs []error
	for i, c := range found {
		switch {
		case c.init:
			errs = append(errs, fmt.Errorf("%s: want it in one of spec.containers, or nowhere: the annotation adds it", c))
		// A request that is not set equals the limit (Kubernetes' default).
		case !is1(c.limit) || c.request != nil && !is1(c.request):
			errs = append(errs, fmt.Errorf("%s: want 1 and 1, or none: the annotation adds them", c))
		case i > 0:
			errs = append(errs, fmt.Errorf("%s, and %s has it too: want one, a pod has one ENI", c, found[0].where))
		}
	}
	return contradicts("true", errs)
}

// none checks that a pod without an exclusive ENI does not request the resource.
func none(found []claim) error {
	var errs []error
	for _, c := range found {
		if c.limit != nil && !c.limit.IsZero() || c.request != nil && !c.request.IsZero() {
			errs = append(errs, fmt.Errorf("%s: want none", c))
		}
	}
	return contradicts("false", errs)
}

func contradicts(value string, errs []error) error {
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("annotation %s is %q, and the pod's resources say something else: %w", claims.AnnotationExclusiveENI, value, errors.Join(errs...))
}
