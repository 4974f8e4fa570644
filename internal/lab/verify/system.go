package verify

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"terway.dev/terway/internal/datapath/claims"
)

// renewedAnnotation on a pod template restarts a Deployment's pods, like "kubectl rollout
// restart".
const renewedAnnotation = "lab.terway.dev/renewed"

// renewSystem restarts the pods of the system's Deployments, so that the new datapath wires
// them. With exclusive ENIs the pods request one, because the scheduler counts only requests.
func (e *Env) renewSystem(ctx context.Context) error {
	list, err := e.Client.AppsV1().Deployments(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list the system's Deployments: %w", err)
	}
	for i := range list.Items {
		d := &list.Items[i]
		if d.Spec.Template.Spec.HostNetwork {
			continue
		}
		if err := e.renew(ctx, d); err != nil {
			return fmt.Errorf("restart the pods of Deployment %s: %w", d.Name, err)
		}
	}
	return nil
}

func (e *Env) renew(ctx context.Context, d *appsv1.Deployment) error {
	var eni any // null removes the key
	if e.AllExclusive() {
		eni = "1"
	}
	resources := map[string]any{"limits": map[string]any{claims.ResourceENI: eni}, "requests": map[string]any{claims.ResourceENI: eni}}
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"template": map[string]any{
		"metadata": map[string]any{"annotations": map[string]string{renewedAnnotation: time.Now().Format(time.RFC3339Nano)}},
		"spec":     map[string]any{"containers": []any{map[string]any{"name": d.Spec.Template.Spec.Containers[0].Name, "resources": resources}}},
	}}})
	if err != nil {
		return fmt.Errorf("encode the patch: %w", err)
	}
	deployments := e.Client.AppsV1().Deployments(d.Namespace)
	next, err := deployments.Patch(ctx, d.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return err
	}
	// The old pods hold their addresses until they are gone.
	pods := metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(d.Spec.Selector)}
	return e.Poll(ctx, "the new pods to be ready and the old ones gone", func() (bool, error) {
		now, err := deployments.Get(ctx, d.Name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		all, err := e.Client.CoreV1().Pods(d.Namespace).List(ctx, pods)
		if err != nil {
			return false, err
		}
		s, want := now.Status, *now.Spec.Replicas
		return s.ObservedGeneration >= next.Generation && s.UpdatedReplicas == want && s.ReadyReplicas == want && len(all.Items) == int(want), nil
	})
}
