package migrate

import (
	"context"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/internal/agentpod"
	"terway.dev/terway/internal/migrate"
)

// labelJob is on the pods that do something on a node.
const labelJob = "network.terway.dev/migrate"

func (r *runner) disable(ctx context.Context, node string) error {
	return r.job(ctx, node, "cni-files", "--disable="+strings.Join(r.plan.ConfFiles, ","))
}

// teardown also cuts off the pods that tolerate every taint, and so came back to the node when they were evicted: they are renewed.
func (r *runner) teardown(ctx context.Context, node string) error {
	return r.job(ctx, node, "teardown", "--force")
}

// enable also starts the old network's pods again: what installs its plugin runs at their start, and teardown may have
// removed a plugin with the same name.
func (r *runner) enable(ctx context.Context, node string) error {
	if err := r.job(ctx, node, "cni-files", "--enable="+strings.Join(r.plan.ConfFiles, ",")); err != nil {
		return err
	}
	pods, err := r.on(ctx, node, r.ofOld)
	if err != nil {
		return err
	}
	for i := range pods {
		err := r.client.Delete(ctx, &pods[i], client.Preconditions{UID: &pods[i].UID})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("start pod %s/%s again: %w", pods[i].Namespace, pods[i].Name, err)
		}
	}
	return nil
}

// job runs a command of terwayd on a node, with the files of the node that the agent has, and waits for its end.
func (r *runner) job(ctx context.Context, node, command string, args ...string) error {
	d := &appsv1.DaemonSet{}
	if err := r.client.Get(ctx, client.ObjectKey{Namespace: r.namespace, Name: migrate.AgentName}, d); err != nil {
		return fmt.Errorf("read Terway's DaemonSet: %w", err)
	}
	spec, err := agentpod.Spec(d, node, command, args...)
	if err != nil {
		return err
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "terway-migrate-", Namespace: r.namespace, Labels: map[string]string{labelJob: command}}, Spec: *spec}
	// One that was left by a command that was killed does the same, or its opposite.
	old, err := r.on(ctx, node, isJob)
	if err != nil {
		return err
	}
	for i := range old {
		if err := client.IgnoreNotFound(r.client.Delete(ctx, &old[i])); err != nil {
			return fmt.Errorf("delete pod %s/%s: %w", old[i].Namespace, old[i].Name, err)
		}
	}
	if err := r.gone(ctx, node, isJob); err != nil {
		return err
	}
	if err := r.client.Create(ctx, pod); err != nil {
		return fmt.Errorf("create a pod that runs terwayd %s: %w", command, err)
	}
	if err := r.ended(ctx, pod, command); err != nil {
		return err // the pod stays: its log says more
	}
	if err := client.IgnoreNotFound(r.client.Delete(ctx, pod)); err != nil {
		return fmt.Errorf("delete pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

func isJob(p *corev1.Pod) bool { return p.Labels[labelJob] != "" }

// ended waits until a pod has succeeded.
func (r *runner) ended(ctx context.Context, pod *corev1.Pod, command string) error {
	now := &corev1.Pod{}
	err := r.wait(ctx, r.ready, func(ctx context.Context) (bool, error) {
		if err := r.client.Get(ctx, client.ObjectKeyFromObject(pod), now); err != nil {
			return false, err
		}
		return now.Status.Phase == corev1.PodSucceeded || now.Status.Phase == corev1.PodFailed, nil
	})
	if err != nil {
		return fmt.Errorf("pod %s/%s, which runs terwayd %s: %w", pod.Namespace, pod.Name, command, err)
	}
	if now.Status.Phase == corev1.PodSucceeded {
		return nil
	}
	why := []string{now.Status.Reason, now.Status.Message}
	for _, c := range now.Status.ContainerStatuses {
		if c.State.Terminated != nil {
			why = append(why, c.State.Terminated.Message)
		}
	}
	why = slices.DeleteFunc(why, func(s string) bool { return s == "" })
	return fmt.Errorf("terwayd %s in pod %s/%s has failed: %s", command, pod.Namespace, pod.Name, strings.TrimSpace(strings.Join(why, ": ")))
}
