package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// deployment is a Deployment of a check.
type deployment struct {
	e        *Env
	name     string
	replicas int32
	// node is empty for anywhere.
	node string
}

func (d *deployment) create(ctx context.Context) error {
	labels := map[string]string{"app": d.name}
	spec := d.e.podSpec(d.node)
	if d.node == "" {
		spec.NodeSelector = nil
		spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
			MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.ScheduleAnyway,
			LabelSelector: &metav1.LabelSelector{MatchLabels: labels},
		}}
	}
	dep := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: d.name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &d.replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: spec},
		},
	}
	if _, err := d.e.Client.AppsV1().Deployments(d.e.Namespace).Create(ctx, dep, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create Deployment %s: %w", d.name, err)
	}
	return nil
}

func (d *deployment) scale(ctx context.Context, n int32) error {
	d.replicas = n
	patch := fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, n)
	_, err := d.e.Client.AppsV1().Deployments(d.e.Namespace).Patch(ctx, d.name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("scale Deployment %s to %d: %w", d.name, n, err)
	}
	return nil
}

// pods lists the Deployment's pods, those on their way out too.
func (d *deployment) pods(ctx context.Context) ([]corev1.Pod, error) {
	list, err := d.e.Client.CoreV1().Pods(d.e.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + d.name})
	if err != nil {
		return nil, fmt.Errorf("list the pods of Deployment %s: %w", d.name, err)
	}
	return list.Items, nil
}

// settle waits until exactly the wanted number of pods is there and all are ready.
func (d *deployment) settle(ctx context.Context) ([]corev1.Pod, error) {
	var pods []corev1.Pod
	ready := 0
	err := d.e.poll(ctx, fmt.Sprintf("%d pods of Deployment %s", d.replicas, d.name), func() (_ bool, err error) {
		if pods, err = d.pods(ctx); err != nil {
			return false, err
		}
		ready = 0
		for i := range pods {
			if podReady(&pods[i]) {
				ready++
			}
		}
		return len(pods) == int(d.replicas) && ready == len(pods), nil
	})
	if err == nil {
		return pods, nil
	}
	err = fmt.Errorf("%w: %d pods are there, %d ready", err, len(pods), ready)
	for i := range pods {
		if !podReady(&pods[i]) {
			return nil, errors.Join(err, d.e.explain(pods[i].Name))
		}
	}
	return nil, err
}

// sharedAddresses names the addresses that two pods have; there must be none.
func sharedAddresses(pods []corev1.Pod) error {
	owner := map[string]string{}
	var shared []string
	for _, p := range pods {
		if other, ok := owner[p.Status.PodIP]; ok {
			shared = append(shared, fmt.Sprintf("%s: %s and %s", p.Status.PodIP, other, p.Name))
		}
		owner[p.Status.PodIP] = p.Name
	}
	slices.Sort(shared)
	if len(shared) > 0 {
		return fmt.Errorf("pods share addresses: %s", strings.Join(shared, ", "))
	}
	return nil
}
