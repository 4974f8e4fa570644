package instruments

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Deployment is a Deployment of pods that answer HTTP.
type Deployment struct {
	cluster  *Cluster
	name     string
	replicas int32
	// Node is the node of the pods; empty: any.
	Node string
	// Change changes what Create creates, if it is not nil.
	Change func(*appsv1.DeploymentSpec)
}

// Create creates it in the cluster's namespace without waiting.
func (d *Deployment) Create(ctx context.Context) error {
	labels := map[string]string{"app": d.name}
	spec := d.cluster.PodSpec(d.Node)
	if d.Node == "" {
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
	if d.Change != nil {
		d.Change(&dep.Spec)
	}
	if _, err := d.cluster.Client.AppsV1().Deployments(d.cluster.Namespace).Create(ctx, dep, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create Deployment %s: %w", d.name, err)
	}
	return nil
}

// Scale changes the number of replicas; Settle waits for them.
func (d *Deployment) Scale(ctx context.Context, n int32) error {
	d.replicas = n
	patch := fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, n)
	_, err := d.cluster.Client.AppsV1().Deployments(d.cluster.Namespace).Patch(ctx, d.name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("scale Deployment %s to %d: %w", d.name, n, err)
	}
	return nil
}

// renewed is an annotation of pods: another value makes all pods anew.
const renewed = "lab.terway.dev/renewed"

// Rollout makes all pods anew, like "kubectl rollout restart"; Rolled waits until that is done.
func (d *Deployment) Rollout(ctx context.Context) error {
	patch := fmt.Appendf(nil, `{"spec":{"template":{"metadata":{"annotations":{%q:%q}}}}}`, renewed, time.Now().Format(time.RFC3339Nano))
	_, err := d.cluster.Client.AppsV1().Deployments(d.cluster.Namespace).Patch(ctx, d.name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("make the pods of Deployment %s anew: %w", d.name, err)
	}
	return nil
}

// Rolled waits until all pods are new and ready, and the old ones are gone.
func (d *Deployment) Rolled(ctx context.Context) ([]corev1.Pod, error) {
	if err := d.cluster.Poll(ctx, "the pods of Deployment "+d.name+" to be new", func() (bool, error) {
		now, err := d.cluster.Client.AppsV1().Deployments(d.cluster.Namespace).Get(ctx, d.name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		s := now.Status
		return s.ObservedGeneration >= now.Generation && s.UpdatedReplicas == d.replicas && s.Replicas == d.replicas, nil
	}); err != nil {
		pods, list := d.Pods(ctx)
		err = errors.Join(err, list)
		for i := range pods {
			if !PodReady(&pods[i]) {
				err = errors.Join(err, d.cluster.explain(pods[i].Name))
			}
		}
		return nil, err
	}
	return d.Settle(ctx)
}

// Pods lists the Deployment's pods, including those that are being deleted.
func (d *Deployment) Pods(ctx context.Context) ([]corev1.Pod, error) {
	list, err := d.cluster.Client.CoreV1().Pods(d.cluster.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + d.name})
	if err != nil {
		return nil, fmt.Errorf("list the pods of Deployment %s: %w", d.name, err)
	}
	return list.Items, nil
}

// Settle waits until exactly the desired number of pods exists and all are ready.
func (d *Deployment) Settle(ctx context.Context) ([]corev1.Pod, error) {
	var pods []corev1.Pod
	ready := 0
	err := d.cluster.Poll(ctx, fmt.Sprintf("%d pods of Deployment %s", d.replicas, d.name), func() (_ bool, err error) {
		if pods, err = d.Pods(ctx); err != nil {
			return false, err
		}
		ready = 0
		for i := range pods {
			if PodReady(&pods[i]) {
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
		if !PodReady(&pods[i]) {
			return nil, errors.Join(err, d.cluster.explain(pods[i].Name))
		}
	}
	return nil, err
}

// SharedAddresses returns an error if two pods have the same address.
func SharedAddresses(pods []corev1.Pod) error {
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
