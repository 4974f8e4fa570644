package policyhub_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "terway.dev/terway/api/calico/v3"
	"terway.dev/terway/internal/controller/policyhub"
	"terway.dev/terway/internal/policy/compile"
)

func (w *world) condition(o client.Object, of func() []metav1.Condition) *metav1.Condition {
	w.Helper()
	if err := w.kube.Get(w.Context(), client.ObjectKeyFromObject(o), o); err != nil {
		w.Fatal(err)
	}
	return meta.FindStatusCondition(of(), policyhub.Programmed)
}

// What is not enforced as it is written is said on the object by who leads, as long as it is so.
func TestAuthorsAreTold(t *testing.T) {
	calico := func(spec v3.PolicySpec) *v3.NetworkPolicy {
		return &v3.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db"}, Spec: spec}
	}
	bad := v3.PolicySpec{Selector: "((", Ingress: []v3.Rule{{Action: v3.Allow, HTTP: &v3.HTTPMatch{Methods: []string{"GET"}}}}}
	w := newWorld(t)
	r := w.replica("a", nil)
	eventually(t, "the replica is ready", func() error { return r.Ready(nil) })
	w.put(calico(bad))
	partners := &v3.GlobalNetworkSet{ObjectMeta: metav1.ObjectMeta{Name: "partners"}, Spec: v3.NetworkSetSpec{Nets: []string{"10.0.0.0/8", "10.0.0.0/99"}}}
	w.put(partners)
	p := calico(v3.PolicySpec{})
	of := func() []metav1.Condition { return p.Status.Conditions }
	if c := w.condition(p, of); c != nil || len(w.events.Events) > 0 {
		t.Fatalf("a replica that does not lead says %+v and %d events", c, len(w.events.Events))
	}
	stop := w.run(r.Report)
	eventually(t, "the condition", func() error {
		c := w.condition(p, of)
		if c == nil || c.Status != metav1.ConditionFalse || c.Reason != "PolicyRefused" || !strings.Contains(c.Message, "spec.selector") || !strings.Contains(c.Message, "http") {
			return fmt.Errorf("%+v", c)
		}
		return nil
	})
	if e := w.event(); !strings.Contains(e, corev1.EventTypeWarning+" PolicyNotEnforced") || !strings.Contains(e, "10.0.0.0/99") {
		t.Errorf("the event is %q", e)
	}

	// The same said again is nothing; another leader says events once more, and conditions not.
	version := p.ResourceVersion
	again := partners.DeepCopy()
	again.Labels = map[string]string{"a": "b"}
	w.put(again)
	stop()
	stop = w.run(r.Report)
	if e := w.event(); !strings.Contains(e, "10.0.0.0/99") {
		t.Errorf("the event is %q", e)
	}
	if w.condition(p, of); p.ResourceVersion != version {
		t.Errorf("the condition was written again: version %s, %s", version, p.ResourceVersion)
	}

	// It is mended while nobody leads, and the next leader is a replica that never saw the former.
	stop()
	r.stop()
	mended := calico(v3.PolicySpec{Selector: "app == 'db'"})
	mended.Status = p.Status
	w.put(mended)
	other := w.replica("b", nil)
	eventually(t, "the other replica is ready", func() error { return other.Ready(nil) })
	w.put(mended.DeepCopy())
	w.run(other.Report)
	eventually(t, "no condition", func() error {
		if c := w.condition(p, of); c != nil {
			return fmt.Errorf("%+v", c)
		}
		return nil
	})
	if p.Spec.Selector != mended.Spec.Selector {
		t.Errorf("the spec is %+v", p.Spec)
	}
	if n := len(w.events.Events); n != 0 {
		t.Errorf("%d more events", n)
	}
}

// A policy whose pods fail closed is told so, once, however many pods come and go.
func TestAuthorsAreToldOfTheBudget(t *testing.T) {
	w := newWorld(t)
	w.budget = compile.Budget{Atoms: 4, Spans: 1000}
	r := w.replica("a", nil)
	eventually(t, "the replica is ready", func() error { return r.Ready(nil) })
	w.run(r.Report)
	web := web()
	for i := range 5 {
		web.Spec.Ingress[0].From = append(web.Spec.Ingress[0].From, networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": fmt.Sprint("web", i)}}})
		w.put(pod(fmt.Sprint("web-", i), "node2", fmt.Sprint("10.0.1.", i), map[string]string{"app": fmt.Sprint("web", i)}))
	}
	for i := range 5 {
		port := intstr.FromInt32(int32(80 + 2*i))
		web.Spec.Ingress[0].Ports = append(web.Spec.Ingress[0].Ports, networkingv1.NetworkPolicyPort{Port: &port})
	}
	w.put(pod("db-0", "node1", "10.0.0.1", map[string]string{"app": "db"}))
	w.put(web)
	if e := w.event(); !strings.Contains(e, "PolicyTooLarge") || !strings.Contains(e, "more than 4 tables or 1000 intervals") {
		t.Errorf("the event is %q", e)
	}
	w.put(pod("db-1", "node1", "10.0.0.2", map[string]string{"app": "db"}))
	smaller := web.DeepCopy()
	smaller.Spec.Ingress = nil
	w.put(smaller)
	eventually(t, "nothing is to be said", func() error {
		families, err := r.metrics.Gather()
		if err != nil {
			return err
		}
		for _, f := range families {
			if f.GetName() == "terway_policy_hub_reports" && f.Metric[0].GetGauge().GetValue() == 0 {
				return nil
			}
		}
		return errors.New("there is")
	})
	if n := len(w.events.Events); n != 0 {
		t.Errorf("%d more events", n)
	}
}
