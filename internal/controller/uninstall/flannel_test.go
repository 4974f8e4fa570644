package uninstall

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/controller/podroute"
	"terway.dev/terway/internal/datapath/claims"
)

// flannelRig is a rig whose nodes have route entries, in place of ENIs.
func flannelRig(t *testing.T, nodes int) (*rig, Flannel, string) {
	r := newRig(t)
	f := Flannel{Cloud: r.Cloud.API, PodCIDR: netip.MustParsePrefix("172.20.0.0/16")}
	ctx := context.Background()
	for name := range r.instances {
		r.Must(r.kube.Delete(ctx, r.agent(name)))
	}
	r.set = flannelAgents
	for name := range r.instances {
		r.create(r.agent(name))
		nn := &v1alpha1.NodeNetwork{}
		r.Must(r.kube.Get(ctx, client.ObjectKey{Name: name}, nn))
		nn.Finalizers = nil
		r.Must(errors.Join(r.kube.Update(ctx, nn), r.kube.Delete(ctx, nn)))
	}
	r.Must(r.kube.Delete(ctx, &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: agents}}))
	r.create(flannelSet())
	list, err := r.API.DescribeInstances(ctx, []string{r.instances["n1"]})
	r.Must(err)
	tables, err := r.API.DescribeRouteTables(ctx, list[0].VPCID)
	r.Must(err)
	table := tables[0].ID
	for name, id := range r.instances {
		n := &corev1.Node{}
		r.Must(r.kube.Get(ctx, client.ObjectKey{Name: name}, n))
		n.Spec.ProviderID = "cn-hangzhou." + id
		n.Annotations[claims.AnnotationPodCIDR] = "172.20.1.0/24"
		r.Must(r.kube.Update(ctx, n))
	}
	entry := func(destination, name string) {
		failures, err := r.API.CreateRouteEntries(ctx, table, []cloud.NewRouteEntry{{Destination: netip.MustParsePrefix(destination), InstanceID: r.instances["n1"], Name: name}})
		r.Must(err)
		if len(failures) > 0 {
			t.Fatal(failures)
		}
		r.Clock.Pass(time.Minute)
	}
	for i := range nodes {
		entry(fmt.Sprintf("172.20.%d.0/24", i+1), podroute.Mark("c1"))
	}
	// Not this cluster's.
	entry("172.20.250.0/24", podroute.Mark("c2"))
	entry("10.99.0.0/24", podroute.Mark("c1"))
	return r, f, table
}

func flannelSet() *appsv1.DaemonSet {
	return &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: flannelAgents}, Spec: appsv1.DaemonSetSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{
		{Name: "kube-flannel", Command: []string{"/opt/bin/flanneld"}}, {Name: "cni", Command: []string{"/usr/bin/terwayd", "flannel-cni"}}}}}}}
}

// custom returns the table's entries that people or clusters have made.
func custom(r *rig, table string) (all []string) {
	r.Helper()
	list, err := r.API.DescribeRouteEntries(context.Background(), table)
	r.Must(err)
	for _, e := range list {
		if e.Custom {
			all = append(all, e.Destination.String())
		}
	}
	return all
}

// The cluster's route entries go, more than one call takes, and nobody else's; and what marks Nodes.
func TestFlannelsRoutes(t *testing.T) {
	r, f, table := flannelRig(t, 53)
	for name := range r.instances { // as after a kill while the agents were stopped
		r.Must(r.kube.Delete(t.Context(), r.agent(name)))
	}
	r.Must(RunFlannel(t.Context(), r.o, f))
	if left := custom(r, table); len(left) != 2 {
		t.Errorf("left: %v; want those of the other cluster and of another range", left)
	}
	if !r.led {
		t.Error("it did not act as the only controller")
	}
	for node := range r.instances {
		if want := []string{"teardown", "--flannel=172.20.0.0/16"}; !slices.Equal(r.ran[node], want) {
			t.Errorf("node %s was cleaned with %q, want %q", node, r.ran[node], want)
		}
	}
	var nodes corev1.NodeList
	r.Must(r.kube.List(t.Context(), &nodes))
	for _, n := range nodes.Items {
		if len(n.Annotations) != 1 || len(n.Spec.Taints) != 1 {
			t.Errorf("node %s: annotations %v, taints %v; want only those of others", n.Name, n.Annotations, n.Spec.Taints)
		}
	}
	r.Must(RunFlannel(t.Context(), r.o, f)) // as after a kill at the end
}

func TestFlannelInUse(t *testing.T) {
	r, f, table := flannelRig(t, 1)
	pod := func(name, ip string, phase corev1.PodPhase) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Spec: corev1.PodSpec{NodeName: "n1"}, Status: corev1.PodStatus{PodIP: ip, Phase: phase}}
	}
	r.create(pod("cart", "172.20.1.2", corev1.PodRunning), pod("done", "172.20.1.3", corev1.PodSucceeded), pod("host", "192.168.0.9", corev1.PodRunning))
	var use InUse
	if err := RunFlannel(t.Context(), r.o, f); !errors.As(err, &use) || len(use) != 1 || use[0] != "pod shop/cart on node n1 has address 172.20.1.2" {
		t.Fatalf("%v; want one line, of the pod that runs with an address of the range", err)
	}
	r.kept()
	if all := custom(r, table); len(all) != 3 {
		t.Errorf("after the refusal there are the entries %v", all)
	}
	r.o.Force = true
	r.Must(RunFlannel(t.Context(), r.o, f))
	if left := custom(r, table); len(left) != 2 {
		t.Errorf("forced: left %v", left)
	}
}

// What a node says decides; the agents start again, and the routes stay.
func TestFlannelNodeDecides(t *testing.T) {
	r, f, table := flannelRig(t, 1)
	r.journal["n2"] = "terwayd: bridge cni0 connects 1 pods"
	if err := RunFlannel(t.Context(), r.o, f); err == nil || !strings.Contains(err.Error(), "node n2: "+r.journal["n2"]) {
		t.Fatalf("%v; want what node n2 said", err)
	}
	r.kept()
	if all := custom(r, table); len(all) != 3 {
		t.Errorf("after the refusal there are the entries %v", all)
	}
	r.o.Force = true
	r.Must(RunFlannel(t.Context(), r.o, f))
	if left := custom(r, table); len(left) != 2 || !slices.Contains(r.ran["n2"], "--force") {
		t.Errorf("forced: left %v, node n2 was cleaned with %q", left, r.ran["n2"])
	}
}

// A node that does not answer cannot be cleaned.
func TestFlannelSilentNode(t *testing.T) {
	r, f, table := flannelRig(t, 1)
	n := &corev1.Node{}
	r.Must(r.kube.Get(t.Context(), client.ObjectKey{Name: "n1"}, n))
	n.Status.Conditions[0].Status = corev1.ConditionUnknown
	r.Must(r.kube.Status().Update(t.Context(), n))
	var use InUse
	if err := RunFlannel(t.Context(), r.o, f); !errors.As(err, &use) || !strings.Contains(err.Error(), "node n1 cannot be cleaned") {
		t.Fatalf("%v; want which node cannot be cleaned", err)
	}
	r.kept()
	var said strings.Builder
	r.o.Force, r.o.Log = true, slog.New(slog.NewTextHandler(&said, nil))
	r.Must(RunFlannel(t.Context(), r.o, f))
	if left := custom(r, table); len(left) != 2 || !strings.Contains(said.String(), "forced: not cleaned: node n1") || len(r.ran["n2"]) == 0 {
		t.Errorf("forced: left %v, node n2 was cleaned with %q; it said %s", left, r.ran["n2"], said.String())
	}
}

// Without a credential the entries stay and are named; without an instance nobody knows where they are.
func TestFlannelWithoutCloud(t *testing.T) {
	r, f, table := flannelRig(t, 1)
	for name := range r.instances {
		n := &corev1.Node{}
		r.Must(r.kube.Get(t.Context(), client.ObjectKey{Name: name}, n))
		n.Spec.ProviderID = "cn-hangzhou.i-gone"
		r.Must(r.kube.Update(t.Context(), n))
	}
	if err := RunFlannel(t.Context(), r.o, f); err == nil || !strings.Contains(err.Error(), "terway-c1") || !strings.Contains(err.Error(), "uninstall.withoutCloud") {
		t.Fatalf("%v; want the entries' name and the value", err)
	}
	r.kept()
	var said strings.Builder
	r.o.Log = slog.New(slog.NewTextHandler(&said, nil))
	f.Cloud = nil
	r.Must(RunFlannel(t.Context(), r.o, f))
	if all := custom(r, table); len(all) != 3 || !strings.Contains(said.String(), "terway-c1") {
		t.Errorf("entries %v; it said %s", all, said.String())
	}
}

// Wherever it is stopped, another run ends it.
func TestFlannelStopped(t *testing.T) {
	stop := errors.New("SIGTERM")
	for at := 1; ; at++ {
		r, f, table := flannelRig(t, 2)
		r.stop = func(slept int) error {
			if slept == at {
				return stop
			}
			return nil
		}
		err := RunFlannel(t.Context(), r.o, f)
		ended := r.slept < at
		r.stop = nil
		if !ended {
			if !errors.Is(err, stop) {
				t.Fatalf("stopped at %d: %v", at, err)
			}
			d := &appsv1.Deployment{}
			if r.get(d, controller); *d.Spec.Replicas > 0 {
				r.kept()
			}
			err = RunFlannel(t.Context(), r.o, f)
		}
		r.Must(err)
		if left := custom(r, table); len(left) != 2 {
			t.Errorf("stopped at %d, and again: left %v", at, left)
		}
		if ended {
			if at < 3 {
				t.Errorf("it waited %d times only", at-1)
			}
			return
		}
	}
}
