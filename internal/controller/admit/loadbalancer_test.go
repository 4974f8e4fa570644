package admit

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"terway.dev/terway/internal/loadbalancer"
)

// needs15 is what a pod with any label needs.
func needs15(labels map[string]string) loadbalancer.Needs {
	if len(labels) == 0 {
		return loadbalancer.Needs{}
	}
	return loadbalancer.Needs{Gates: []corev1.PodConditionType{loadbalancer.Gate("a"), loadbalancer.Gate("b")}, Sleep: 15}
}

const (
	gatesAB = `"readinessGates":[{"conditionType":"service.readiness.alibabacloud.com/a"},{"conditionType":"service.readiness.alibabacloud.com/b"}]`
	labels  = `"labels":{"app":"x","network.terway.dev/readiness-gate":"true"}`
	sleep15 = `"lifecycle":{"preStop":{"sleep":{"seconds":15}}}`
	added15 = `"annotations":{"network.terway.dev/drain-added-seconds":"15"}`
)

func TestPodsForLoadBalancers(t *testing.T) {
	for name, c := range map[string]struct{ pod, want string }{
		"plain": {
			`{"metadata":{"labels":{"app":"x"}},"spec":{"containers":[{"name":"a"},{"name":"b"}],"terminationGracePeriodSeconds":30}}`,
			`{"metadata":{` + labels + `,` + added15 + `},"spec":{"containers":[{"name":"a",` + sleep15 + `},{"name":"b",` + sleep15 + `}],"terminationGracePeriodSeconds":45,` + gatesAB + `}}`,
		},
		"fields that are not known here": {
			`{"metadata":{"labels":{"app":"x"},"future":1},"spec":{"newField":9007199254740993,"containers":[{"name":"a","future":{"x":1},"lifecycle":{"stopSignal":"SIGUSR1"}}]}}`,
			`{"metadata":{` + labels + `,"future":1,` + added15 + `},"spec":{"newField":9007199254740993,"containers":[{"name":"a","future":{"x":1},"lifecycle":{"stopSignal":"SIGUSR1","preStop":{"sleep":{"seconds":15}}}}],"terminationGracePeriodSeconds":45,` + gatesAB + `}}`,
		},
		"a hook of its own stays": {
			`{"metadata":{"labels":{"app":"x"}},"spec":{"containers":[{"name":"a","lifecycle":{"preStop":{"exec":{"command":["x"]}}}}],"terminationGracePeriodSeconds":30}}`,
			`{"metadata":{` + labels + `},"spec":{"containers":[{"name":"a","lifecycle":{"preStop":{"exec":{"command":["x"]}}}}],"terminationGracePeriodSeconds":30,` + gatesAB + `}}`,
		},
		"a gate of its own stays, and is not doubled": {
			`{"metadata":{"labels":{"app":"x"}},"spec":{"containers":[{"name":"a","lifecycle":{"preStop":{"sleep":{"seconds":2}}}}],"readinessGates":[{"conditionType":"service.readiness.alibabacloud.com/b"},{"conditionType":"other"}]}}`,
			`{"metadata":{` + labels + `},"spec":{"containers":[{"name":"a","lifecycle":{"preStop":{"sleep":{"seconds":2}}}}],"readinessGates":[{"conditionType":"service.readiness.alibabacloud.com/b"},{"conditionType":"other"},{"conditionType":"service.readiness.alibabacloud.com/a"}]}}`,
		},
		"another webhook has added a container since": {
			`{"metadata":{"labels":{"app":"x"},` + added15 + `},"spec":{"containers":[{"name":"a",` + sleep15 + `},{"name":"b"}],"terminationGracePeriodSeconds":45,` + gatesAB + `}}`,
			`{"metadata":{` + labels + `,` + added15 + `},"spec":{"containers":[{"name":"a",` + sleep15 + `},{"name":"b",` + sleep15 + `}],"terminationGracePeriodSeconds":45,` + gatesAB + `}}`,
		},
		"a sleep fits into the grace period, whatever the annotation says": {
			`{"metadata":{"labels":{"app":"x"},"annotations":{"network.terway.dev/drain-added-seconds":"900"}},"spec":{"containers":[{"name":"a"}],"terminationGracePeriodSeconds":1}}`,
			`{"metadata":{` + labels + `,"annotations":{"network.terway.dev/drain-added-seconds":"900"}},"spec":{"containers":[{"name":"a",` + sleep15 + `}],"terminationGracePeriodSeconds":15,` + gatesAB + `}}`,
		},
		"a grace period without end": {
			`{"metadata":{"labels":{"app":"x"}},"spec":{"containers":[{"name":"a"}],"terminationGracePeriodSeconds":9223372036854775807}}`,
			`{"metadata":{` + labels + `},"spec":{"containers":[{"name":"a",` + sleep15 + `}],"terminationGracePeriodSeconds":9223372036854775807,` + gatesAB + `}}`,
		},
		"no Service selects it":      {`{"metadata":{},"spec":{"containers":[{"name":"a"}]}}`, `{"metadata":{},"spec":{"containers":[{"name":"a"}]}}`},
		"on the network of its node": {`{"metadata":{"labels":{"app":"x"}},"spec":{"hostNetwork":true,"containers":[{"name":"a"}]}}`, `{"metadata":{"labels":{"app":"x"}},"spec":{"hostNetwork":true,"containers":[{"name":"a"}]}}`},
	} {
		got, err := withGates([]byte(c.pod), needs15)
		if err != nil || !same(t, got, []byte(c.want)) {
			t.Errorf("%s: %s (%v), want %s", name, got, err, c.want)
			continue
		}
		if again, err := withGates(got, needs15); err != nil || !same(t, again, got) {
			t.Errorf("%s: a second call makes %s of %s (%v)", name, again, got, err)
		}
	}
}

func same(t *testing.T, a, b []byte) bool {
	t.Helper()
	var x, y any
	if err := errors.Join(utiljson.Unmarshal(a, &x), utiljson.Unmarshal(b, &y)); err != nil {
		t.Fatal(err)
	}
	return reflect.DeepEqual(x, y)
}

// hookWith is a Webhook in a cluster with Services; fails makes reading them fail.
func hookWith(fails error, services ...client.Object) *Webhook {
	w := newWorld(0).replica()
	w.LoadBalancers = func() loadbalancer.Settings { return loadbalancer.Settings{PodBackends: true} }
	w.client = fake.NewClientBuilder().WithScheme(scheme.Scheme).WithObjects(services...).WithInterceptorFuncs(interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, l client.ObjectList, opts ...client.ListOption) error {
			if fails != nil {
				return fails
			}
			return c.List(ctx, l, opts...)
		}}).Build()
	return w
}

func web(namespace string) *corev1.Service {
	class := loadbalancer.ClassCLB
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "a"}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeLoadBalancer, LoadBalancerClass: &class, Selector: map[string]string{"app": "x"}}}
}

func asked(namespace, raw string) admission.Request {
	r := review(raw)
	r.Namespace = namespace
	return r
}

// Only Services of the pod's namespace count. The request has the namespace, the object perhaps not.
func TestServicesOfTheNamespaceCount(t *testing.T) {
	const pod = `{"metadata":{"labels":{"app":"x"}},"spec":{"containers":[{"name":"a"}]}}`
	w := hookWith(nil, web("one"))
	if r := w.handleLoadBalancers(t.Context(), asked("one", pod)); !r.Allowed || len(r.Patches) != 5 {
		t.Errorf("%v %v, want a gate, a label, a sleep, a grace period and an annotation", r.Allowed, r.Patches)
	}
	if r := w.handleGatesRequired(t.Context(), asked("one", pod)); !r.Allowed || len(r.Patches) != 5 {
		t.Errorf("gates are required: %v %v, want the same", r.Allowed, r.Patches)
	}
	if r := w.handleLoadBalancers(t.Context(), asked("two", pod)); !r.Allowed || len(r.Patches) != 0 {
		t.Errorf("in another namespace: %v %v", r.Allowed, r.Patches)
	}
}

// No pod is refused unless its namespace requires gates: failurePolicy does not concern a webhook that answers.
func TestNoPodIsRefusedForLoadBalancers(t *testing.T) {
	for name, c := range map[string]struct {
		w   *Webhook
		pod string
	}{
		"Services cannot be read": {hookWith(errors.New("no answer")), `{"metadata":{"labels":{"app":"x"}},"spec":{"containers":[{"name":"a"}]}}`},
		"not a pod":               {hookWith(nil, web("one")), `[]`},
		"no containers":           {hookWith(nil, web("one")), `{"metadata":{"labels":{"app":"x"}},"spec":{"containers":"a"}}`},
		"a grace period in words": {hookWith(nil, web("one")), `{"metadata":{"labels":{"app":"x"}},"spec":{"containers":[{"name":"a"}],"terminationGracePeriodSeconds":"long"}}`},
	} {
		r := c.w.handleLoadBalancers(t.Context(), asked("one", c.pod))
		if !r.Allowed || len(r.Patches) != 0 || len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "gets no readiness gates") {
			t.Errorf("%s: %+v", name, r)
		}
		r = c.w.handleGatesRequired(t.Context(), asked("one", c.pod))
		if r.Allowed || len(r.Patches) != 0 || !strings.Contains(r.Result.Message, "namespace one requires") {
			t.Errorf("%s, gates are required: %+v", name, r)
		}
	}
}

// What comes out is a pod that the API server takes if it took what came in, and a second call changes nothing.
func FuzzPodsForLoadBalancers(f *testing.F) {
	f.Add([]byte(`{"metadata":{"labels":{"app":"x"}},"spec":{"containers":[{"name":"a"}]}}`))
	f.Add([]byte(`{"metadata":{"labels":{"app":"x"},` + added15 + `},"spec":{"containers":[{"lifecycle":null},{"lifecycle":{"preStop":null}}],"terminationGracePeriodSeconds":9223372036854775800}}`))
	f.Add([]byte(`{"metadata":{"labels":{"app":"x"},"annotations":{"network.terway.dev/drain-added-seconds":"99999999999"}},"spec":{"containers":[{"lifecycle":null}],"terminationGracePeriodSeconds":0,"readinessGates":[null]}}`))
	f.Add([]byte(`{"metadata":{"labels":{"app":"x"}},"speC":{"ContAiners":[{}]},"spec":{}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		out, err := withGates(raw, needs15)
		if err != nil || bytes.Equal(out, raw) {
			return
		}
		again, err := withGates(out, needs15)
		if err != nil || !same(t, again, out) {
			t.Fatalf("a second call makes %s of %s (%v)", again, out, err)
		}
		var before, pod corev1.Pod
		// As the API server reads them: fields of another case are others.
		if utiljson.Unmarshal(raw, &before) != nil {
			return // the API server does not call with such
		}
		if err := utiljson.Unmarshal(out, &pod); err != nil {
			t.Fatalf("%s: %v", out, err)
		}
		gates := map[corev1.PodConditionType]bool{}
		for _, g := range pod.Spec.ReadinessGates {
			gates[g.ConditionType] = true
		}
		if !gates[loadbalancer.Gate("a")] || !gates[loadbalancer.Gate("b")] {
			t.Fatalf("%s lacks a gate", out)
		}
		was := int64(30)
		if g := before.Spec.TerminationGracePeriodSeconds; g != nil {
			was = *g
		}
		if g := pod.Spec.TerminationGracePeriodSeconds; g != nil && *g < was {
			t.Fatalf("the grace period was %d and is %d", was, *g)
		}
		for i, c := range pod.Spec.Containers {
			if before.Spec.Containers[i].Lifecycle != nil && before.Spec.Containers[i].Lifecycle.PreStop != nil {
				continue
			}
			g := pod.Spec.TerminationGracePeriodSeconds
			if c.Lifecycle == nil || c.Lifecycle.PreStop == nil || c.Lifecycle.PreStop.Sleep.Seconds != 15 || g == nil || *g < 15 {
				t.Fatalf("%s: containers[%d] does not sleep", out, i)
			}
		}
	})
}
