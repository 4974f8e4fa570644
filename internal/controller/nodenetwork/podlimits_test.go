package nodenetwork

import (
	"context"
	"errors"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/bandwidth"
	"terway.dev/terway/internal/controller/podlimits"
)

// annotated are pods of namespace default with annotations.
type annotated struct {
	known bool
	pods  map[string]podlimits.Pod
	// live are pods as the API server has them, where those are behind.
	live  map[string]podlimits.Pod
	err   error
	asked int
}

func (a *annotated) Get(pod types.NamespacedName) (podlimits.Pod, bool, bool) {
	p, limited := a.pods[pod.Name]
	return p, limited, a.known
}

func (a *annotated) Read(_ context.Context, pod types.NamespacedName) (podlimits.Pod, bool, error) {
	a.asked++
	p := a.live[pod.Name]
	return p, p.Limits != (bandwidth.Limits{}), a.err
}

// The spec has the limits of the node's pods as they are now, and 0 where the agent still has some.
func TestPodLimits(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/19"})
	g.addNode("n1", "ecs.g6.2xlarge")
	g.settle("n1", minute)
	pods := &annotated{live: map[string]podlimits.Pod{}}
	g.r.PodLimits = pods
	g.r.Bandwidth = func(string) (uint64, bool) { return 4e9, true }
	reported := map[string]*v1alpha1.PodLimits{}
	report := func() {
		t.Helper()
		nn := g.nn("n1")
		nn.Status.Used = nil
		for name, l := range reported {
			nn.Status.Used = append(nn.Status.Used, v1alpha1.UsedAddress{Address: "192.168.32." + name, Pod: "default/" + name, Limits: l})
		}
		g.Must(g.kube.Status().Update(context.Background(), nn))
		g.once("n1")
	}
	spec := func(want ...v1alpha1.PodLimits) {
		t.Helper()
		report()
		if got := g.nn("n1").Spec.PodLimits; !slices.Equal(got, want) {
			t.Errorf("spec.podLimits %+v, want %+v", got, want)
		}
	}
	reported["1"], reported["2"], reported["3"] = nil, nil, nil
	pods.pods = map[string]podlimits.Pod{
		"1": {UID: "u1", Limits: bandwidth.Limits{Ingress: 1e6}}, "2": {UID: "u2", Limits: bandwidth.Limits{Egress: 2e6}},
		"elsewhere": {UID: "u9", Limits: bandwidth.Limits{Ingress: 1e6}},
	}
	spec() // not all pods were read yet
	// An agent limits a pod that nothing is known of yet: nobody says when it is.
	reported["1"] = &v1alpha1.PodLimits{UID: "u1", Ingress: 1e6}
	spec()
	if again, _ := g.once("n1"); again == 0 || again > g.r.Retry {
		t.Errorf("a node with a limited pod is reconciled again after %s, want %s at most", again, g.r.Retry)
	}
	reported["1"] = nil
	pods.known = true
	one, two := v1alpha1.PodLimits{UID: "u1", Ingress: 1e6}, v1alpha1.PodLimits{UID: "u2", Egress: 2e6}
	spec(one, two)
	reported["1"], reported["2"] = &one, &two

	// A change, and a wrong one, which changes nothing but is said.
	pods.pods["1"] = podlimits.Pod{UID: "u1", Limits: bandwidth.Limits{Ingress: 5e9}}
	pods.pods["2"] = podlimits.Pod{UID: "u2", Err: errors.New("annotation x is wrong")}
	spec(v1alpha1.PodLimits{UID: "u1", Ingress: 5e9}, two)
	spec(v1alpha1.PodLimits{UID: "u1", Ingress: 5e9}, two)
	for _, event := range [][]string{{"BandwidthLimitAboveType", "5 Gbit/s", "4 Gbit/s"}, {"BandwidthLimitInvalid", "annotation x is wrong"}} {
		if n := g.events.Count(event...); n != 1 {
			t.Errorf("%d events %q, want 1: %v", n, event, g.events.All())
		}
	}

	// One has lost its annotations, and goes on until the agent does not limit it any more; of another one nothing
	// is said when it is gone.
	delete(pods.pods, "1")
	delete(pods.pods, "2")
	pods.live["1"] = podlimits.Pod{UID: "u1"}
	spec(v1alpha1.PodLimits{UID: "u1"})
	pods.err = errors.New("no answer")
	spec(v1alpha1.PodLimits{UID: "u1"})
	pods.err = nil
	// It has new ones, of which the watch has not told yet, or another pod has its name.
	pods.live["1"] = podlimits.Pod{UID: "u1", Limits: bandwidth.Limits{Ingress: 3e6}}
	spec(v1alpha1.PodLimits{UID: "u1", Ingress: 3e6})
	pods.live["1"] = podlimits.Pod{UID: "another"}
	spec()
	reported["1"] = nil
	spec()
	asked := pods.asked
	delete(reported, "2")
	spec()
	if pods.asked != asked {
		t.Error("pods without limits were asked for")
	}
}

// A change of a pod's annotations reconciles its node.
func TestPodLimitsChanged(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/19"})
	for _, name := range []string{"n1", "n2", "n3"} {
		g.addNode(name, "ecs.g6.2xlarge")
		g.settle(name, minute)
		nn := g.nn(name)
		nn.Status.Used = []v1alpha1.UsedAddress{
			{Address: "192.168.32.1", Pod: "default/of-" + name}, {Address: "192.168.32.2", Pod: "default/also-of-" + name}, {Address: "192.168.32.3"},
		}
		g.Must(g.kube.Status().Update(context.Background(), nn))
	}
	for len(g.r.wake) > 0 {
		<-g.r.wake
	}
	pods := func(names ...string) (list []types.NamespacedName) {
		for _, name := range names {
			list = append(list, types.NamespacedName{Namespace: "default", Name: name})
		}
		return list
	}
	g.r.PodLimitsChanged(t.Context(), pods("of-n2"))
	g.r.PodLimitsChanged(t.Context(), pods("of-none"))
	g.r.PodLimitsChanged(t.Context(), pods("of-n3", "of-none", "of-n1", "also-of-n1"))
	var woken []string
	for len(g.r.wake) > 0 {
		woken = append(woken, (<-g.r.wake).Object.GetName())
	}
	if len(woken) != 3 || woken[0] != "n2" || !slices.Contains(woken[1:], "n1") || !slices.Contains(woken[1:], "n3") {
		t.Errorf("nodes %q are reconciled, want n2, then n1 and n3", woken)
	}
}
