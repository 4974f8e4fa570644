// Package podeni reads what a pod says about an ENI of its own: by the annotation, and
// by the resource that the scheduler counts. The admission webhook and the node's agent
// both ask it, so that they cannot disagree.
//
// It owns no state. It must never guess: what contradicts itself is an error.
package podeni

import (
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"terway.dev/terway/internal/datapath/claims"
)

// Asked says whether the annotations of a pod ask for an ENI of its own.
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

// Admit judges a pod that is about to be made. add says that the first container must get
// the resource, request and limit 1. A pod without the annotation is never touched, nor
// one of the host network, which has no interface of its own.
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
	// A pod without containers is for the API server to refuse.
	return len(found) == 0 && len(pod.Spec.Containers) > 0, one(found)
}

// claim is the resource as one container asks for it; nil is not written.
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

// one checks that what the pod asks for by the resource, if anything, is one ENI.
func one(found []claim) error {
	is1 := func(q *resource.Quantity) bool {
		return q != nil && q.Cmp(*resource.NewQuantity(1, resource.DecimalSI)) == 0
	}
	var errs []error
	for i, c := range found {
		switch {
		case c.init:
			errs = append(errs, fmt.Errorf("%s: want it in one of spec.containers, or nowhere: the annotation adds it", c))
		// A request that is not set is the limit (Kubernetes' default).
		case !is1(c.limit) || c.request != nil && !is1(c.request):
			errs = append(errs, fmt.Errorf("%s: want 1 and 1, or none: the annotation adds them", c))
		case i > 0:
			errs = append(errs, fmt.Errorf("%s, and %s has it too: want one, a pod has one ENI", c, found[0].where))
		}
	}
	return contradicts("true", errs)
}

// none checks that a pod which does not want an ENI of its own does not ask for one.
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
