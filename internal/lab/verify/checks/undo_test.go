package checks

import (
	"context"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/verify"
)

// A check that is killed leaves a note with the original values, and the next run's undo
// restores them from the note alone.
func TestControllerIsPutBack(t *testing.T) {
	replicas := int32(2)
	before := appsv1.DeploymentSpec{Replicas: &replicas, Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{
		Args: []string{"--credentials=secret", "--sweep-period=10s"}}}}}}
	c := fake.NewClientset(&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: controllerName, Namespace: metav1.NamespaceSystem}, Spec: before})
	// There is no Deployment controller: the pods count as present.
	var pods corev1.PodList
	c.PrependReactor("update", "deployments", func(a clienttesting.Action) (bool, runtime.Object, error) {
		d := a.(clienttesting.UpdateAction).GetObject().(*appsv1.Deployment)
		d.Status = appsv1.DeploymentStatus{UpdatedReplicas: *d.Spec.Replicas, ReadyReplicas: *d.Spec.Replicas}
		pods.Items = slices.Repeat([]corev1.Pod{{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": controllerName}}}}, int(*d.Spec.Replicas))
		return true, d, c.Tracker().Update(a.GetResource(), d, d.Namespace)
	})
	c.PrependReactor("list", "pods", func(clienttesting.Action) (bool, runtime.Object, error) { return true, &pods, nil })
	e := &env{&verify.Env{Cluster: instruments.Cluster{Client: c}}}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	now := func() *appsv1.Deployment {
		t.Helper()
		d, err := c.AppsV1().Deployments(metav1.NamespaceSystem).Get(ctx, controllerName, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	none := int32(0)
	for _, change := range []func(*appsv1.DeploymentSpec){sweepRarely, func(d *appsv1.DeploymentSpec) { d.Replicas = &none }} {
		if err := e.changeController(ctx, change); err != nil {
			t.Fatal(err)
		}
	}
	if d := now(); *d.Spec.Replicas != 0 || !slices.Equal(d.Spec.Template.Spec.Containers[0].Args, []string{"--credentials=secret", "--sweep-period=1h"}) {
		t.Errorf("changed: %+v", d.Spec)
	}
	if err := e.putControllerBack(ctx); err != nil {
		t.Fatal(err)
	}
	d := now()
	if _, noted := d.Annotations[beforeCheck]; noted || *d.Spec.Replicas != 2 || !slices.Equal(d.Spec.Template.Spec.Containers[0].Args, before.Template.Spec.Containers[0].Args) {
		t.Errorf("put back: annotations %v, %+v", d.Annotations, d.Spec)
	}
}

func TestVSwitchesArePutBack(t *testing.T) {
	b, err := yaml.Marshal(map[string]any{"cluster_id": "c", "region": "cn-hangzhou", "service_cidr": "172.21.0.0/20", "min_pool_size": 3,
		"vswitches": map[string]any{"cn-hangzhou-i": []any{"vsw-1", "vsw-2"}, "cn-hangzhou-j": []any{"vsw-3"}}})
	if err != nil {
		t.Fatal(err)
	}
	c := fake.NewClientset(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: config.ConfigMapName, Namespace: metav1.NamespaceSystem},
		Data: map[string]string{config.ConfigMapKey: string(b)}})
	e := &env{&verify.Env{Cluster: instruments.Cluster{Client: c}}}
	data := func() string {
		t.Helper()
		m, err := c.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(t.Context(), config.ConfigMapName, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return m.Data[config.ConfigMapKey]
	}
	if err := e.replaceVSwitches(t.Context(), "cn-hangzhou-i", "vsw-new"); err != nil {
		t.Fatal(err)
	}
	changed, err := config.Parse([]byte(data()))
	if err != nil || !slices.Equal(changed.VSwitches["cn-hangzhou-i"], []string{"vsw-new"}) || !slices.Equal(changed.VSwitches["cn-hangzhou-j"], []string{"vsw-3"}) {
		t.Errorf("replaced: %v, %v", changed, err)
	}
	for range 2 { // the second time does nothing
		if err := e.putVSwitchesBack(t.Context()); err != nil || data() != string(b) {
			t.Errorf("put back: %v\n%s\nwant\n%s", err, data(), b)
		}
	}
}
