//go:build bench

package scale

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/lab"
)

// TestOwners runs the real controller, a real API server with the chart's CRD, and agents,
// which all write about a node: the conditions of each survive the writes of the other, and do
// not change the generation. Conditions that a former controller wrote to the spec are moved;
// with the former CRD, which drops the controller's conditions, pods still get their addresses.
func TestOwners(t *testing.T) {
	ctrl.SetLogger(logr.Discard()) // the log of the agents' watch
	c := newCluster(t, settings{nodes: 2, pods: 5, instanceType: "ecs.g7.2xlarge", cooling: 5, factor: 10, leases: true})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	name := c.names[0]
	if err := c.cloud.pace(ctx, 10, 100*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	nn := func() *v1alpha1.NodeNetwork {
		t.Helper()
		nn := &v1alpha1.NodeNetwork{}
		if err := c.kube.Get(ctx, client.ObjectKey{Name: name}, nn); err != nil {
			t.Fatal(err)
		}
		return nn
	}
	await := func(what string, is func(*v1alpha1.NodeNetwork) bool) *v1alpha1.NodeNetwork {
		t.Helper()
		got := &v1alpha1.NodeNetwork{}
		if err := lab.Poll(ctx, 50*time.Millisecond, func() (bool, error) {
			return client.IgnoreNotFound(c.kube.Get(ctx, client.ObjectKey{Name: name}, got)) == nil && is(got), nil
		}); err != nil {
			t.Fatalf("%s: %v; the NodeNetwork is %+v", what, err, got)
		}
		return got
	}
	both := func(nn *v1alpha1.NodeNetwork) bool {
		return meta.IsStatusConditionTrue(nn.Status.ControllerConditions, v1alpha1.ConditionAddressesAvailable) &&
			meta.IsStatusConditionTrue(nn.Status.Conditions, v1alpha1.ConditionReady) && len(nn.Spec.Conditions) == 0
	}
	p := c.start(10)
	await("at first", both)

	// The agent reports, and the controller's conditions stay; and the other way round.
	pods := 0
	more := func() {
		t.Helper()
		pods++
		c.agents.Node(name).Add(func(time.Duration) {}, fmt.Sprintf("default/pod-%d", pods))
		await("a pod more", func(nn *v1alpha1.NodeNetwork) bool { return nn.Status.UsedCount == pods })
	}
	more()
	if got := nn(); !both(got) {
		t.Errorf("after the agent's report: %+v", got.Status)
	}
	said := []metav1.Condition{{Type: v1alpha1.ConditionAddressesAvailable, Status: metav1.ConditionFalse, Reason: "Test", Message: "somebody else's", LastTransitionTime: metav1.Now()}}
	patch := func(patch map[string]any) (*v1alpha1.NodeNetwork, error) {
		raw, err := json.Marshal(patch)
		if err != nil {
			t.Fatal(err)
		}
		got := &v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: name}}
		return got, c.kube.Status().Patch(ctx, got, client.RawPatch(types.MergePatchType, raw), client.FieldValidation(metav1.FieldValidationStrict))
	}
	// The controller may write the spec meanwhile, which is another generation.
	var before, got *v1alpha1.NodeNetwork
	for err := error(nil); got == nil || apierrors.IsConflict(err); {
		before = nn()
		if got, err = patch(map[string]any{"metadata": map[string]any{"resourceVersion": before.ResourceVersion}, "status": map[string]any{"controllerConditions": said}}); err != nil && !apierrors.IsConflict(err) {
			t.Fatal(err)
		}
	}
	if got.Generation != before.Generation || len(got.Status.Used) != pods || len(got.Status.Conditions) != len(before.Status.Conditions) {
		t.Errorf("after another message: generation %d after %d, %+v", got.Generation, before.Generation, got.Status)
	}

	// An agent of the former version replaces the status: the controller's conditions come
	// back.
	former := map[string]any{"status": map[string]any{"controllerConditions": nil, "uncountedENIs": 1}}
	if _, err := patch(former); err != nil {
		t.Fatal(err)
	}
	await("after a report of the former version", both)

	// Conditions of the former controller are moved.
	p.end(syscall.SIGKILL)
	since := metav1.NewTime(time.Now().Add(-time.Hour).Truncate(time.Second))
	raw, err := json.Marshal(map[string]any{"spec": map[string]any{"conditions": []metav1.Condition{
		{Type: v1alpha1.ConditionLimitsFromCloud, Status: metav1.ConditionTrue, Reason: "Former", Message: "as the former version has it", LastTransitionTime: since},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.kube.Patch(ctx, nn(), client.RawPatch(types.MergePatchType, raw)); err != nil {
		t.Fatal(err)
	}
	p = c.start(10)
	got = await("after the former version's controller", both)
	if l := meta.FindStatusCondition(got.Status.ControllerConditions, v1alpha1.ConditionLimitsFromCloud); l == nil || !l.LastTransitionTime.Equal(&since) {
		t.Errorf("moved from the spec: %+v, want it since %s", l, since)
	}

	// The former version's CRD.
	raw, err = os.ReadFile("../../../deploy/chart/kinds/network.terway.dev_nodenetworks.yaml")
	if err != nil {
		t.Fatal(err)
	}
	crd := &unstructured.Unstructured{}
	if err := yaml.Unmarshal(raw, &crd.Object); err != nil {
		t.Fatal(err)
	}
	live := crd.DeepCopy()
	if err := c.kube.Get(ctx, client.ObjectKeyFromObject(crd), live); err != nil {
		t.Fatal(err)
	}
	versions, _, err := unstructured.NestedSlice(live.Object, "spec", "versions")
	if err != nil {
		t.Fatal(err)
	}
	status := []string{"schema", "openAPIV3Schema", "properties", "status"}
	v := versions[0].(map[string]any)
	unstructured.RemoveNestedField(v, append(status, "properties", "controllerConditions")...)
	if err := unstructured.SetNestedStringSlice(v, []string{"demand", "eniDemand", "usedCount"}, append(status, "required")...); err != nil {
		t.Fatal(err)
	}
	if err := unstructured.SetNestedSlice(live.Object, versions, "spec", "versions"); err != nil {
		t.Fatal(err)
	}
	if err := c.kube.Update(ctx, live); err != nil {
		t.Fatal(err)
	}
	if err := lab.Poll(ctx, 50*time.Millisecond, func() (bool, error) {
		_, err := patch(map[string]any{"status": map[string]any{"controllerConditions": said}})
		return err != nil && strings.Contains(err.Error(), "unknown field"), nil
	}); err != nil {
		t.Fatalf("the CRD without the field is not in force: %v", err)
	}
	more()
	for range 20 {
		more()
	}
	log, err := os.ReadFile(p.log)
	if err != nil || strings.Count(string(log), "CRDOutdated") != 1 {
		t.Errorf("the controller's log does not say once that the CRD is outdated (%v):\n%s", err, log)
	}
	if n := c.agents.Failed.Load(); n > 0 {
		t.Errorf("%d reports of agents failed", n)
	}
}
