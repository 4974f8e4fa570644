package uninstall

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/internal/agentpod"
)

// teardownApp is the label app of the Jobs that clean nodes, and of their pods.
const teardownApp = "terwayd-teardown"

// teardownSeconds is how long a node may take, with the download of the image.
const teardownSeconds = 300

// jobName returns the name of the Job for a node. A Node's name may be longer than that of a Job.
func jobName(node string) string {
	sum := sha256.Sum256([]byte(node))
	return teardownApp + "-" + hex.EncodeToString(sum[:6])
}

// TeardownJob returns the Job that cleans a node: the agent's own pod, that runs "terwayd teardown" in place of the agent. With Flannel
// podCIDR is the range of the pods.
func TeardownJob(set *appsv1.DaemonSet, node string, podCIDR netip.Prefix, force bool) (*batchv1.Job, error) {
	var args []string
	if podCIDR.IsValid() {
		args = append(args, "--flannel="+podCIDR.String())
	}
	if force {
		args = append(args, "--force")
	}
	spec, err := agentpod.Spec(set, node, "teardown", args...)
	if err != nil {
		return nil, err
	}
	if podCIDR.IsValid() {
		addFlannels(spec)
	}
	labels := map[string]string{"app": teardownApp}
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Namespace: set.Namespace, Name: jobName(node), Labels: labels},
		Spec: batchv1.JobSpec{
			BackoffLimit:            ptr.To[int32](1),
			ActiveDeadlineSeconds:   ptr.To[int64](teardownSeconds),
			TTLSecondsAfterFinished: ptr.To[int32](teardownSeconds),
			Template:                corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: *spec},
		},
	}, nil
}

// ipamDir is host-local's folder (its README), with the addresses of a node's pods.
const ipamDir = "/var/lib/cni/networks"

// addFlannels adds what a pod of the chart's kube-flannel needs for more than to write files: others make devices and rules, and keep
// the addresses.
func addFlannels(spec *corev1.PodSpec) {
	c := &spec.Containers[0]
	spec.Volumes = append(spec.Volumes, corev1.Volume{Name: "addresses", VolumeSource: corev1.VolumeSource{
		HostPath: &corev1.HostPathVolumeSource{Path: ipamDir, Type: ptr.To(corev1.HostPathDirectoryOrCreate)}}})
	c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "addresses", MountPath: ipamDir})
	if c.SecurityContext == nil {
		c.SecurityContext = &corev1.SecurityContext{}
	}
	if c.SecurityContext.Capabilities == nil {
		c.SecurityContext.Capabilities = &corev1.Capabilities{}
	}
	c.SecurityContext.Capabilities.Add = append(c.SecurityContext.Capabilities.Add, "NET_ADMIN")
}

// Outcome returns whether a Job has ended, and why it failed if it has.
func Outcome(j *batchv1.Job) (ended bool, why string) {
	for _, c := range j.Status.Conditions {
		if c.Status != corev1.ConditionTrue {
			continue
		}
		switch c.Type {
		case batchv1.JobComplete:
			return true, ""
		case batchv1.JobFailed:
			return true, c.Reason + ": " + c.Message
		}
	}
	return false, ""
}

// teardown cleans nodes, some at once, and returns a line for each that could not be cleaned.
func (u *uninstaller) teardown(ctx context.Context, set *appsv1.DaemonSet, nodes []target) (failed []string, err error) {
	if err := u.deleteJobs(ctx); err != nil { // of a run that was killed
		return nil, err
	}
	var waiting []string
	for _, n := range nodes {
		if n.silent {
			failed = append(failed, fmt.Sprintf("node %s: its kubelet does not report", n.name))
			continue
		}
		waiting = append(waiting, n.name)
	}
	running := map[string]string{} // Job's name → node's
	err = u.until(ctx, "the nodes to be cleaned", func() (string, error) {
		var jobs batchv1.JobList
		if err := u.Client.List(ctx, &jobs, client.InNamespace(u.Namespace), client.MatchingLabels{"app": teardownApp}); err != nil {
			return "", fmt.Errorf("list the Jobs of nodes: %w", err)
		}
		for i := range jobs.Items {
			j := &jobs.Items[i]
			node, ours := running[j.Name]
			ended, why := Outcome(j)
			if !ours || !ended {
				continue
			}
			delete(running, j.Name)
			if why != "" {
				failed = append(failed, fmt.Sprintf("node %s: %s", node, u.explain(ctx, j, why)))
			}
		}
		for len(waiting) > 0 && len(running) < u.AtOnce {
			j, err := TeardownJob(set, waiting[0], u.podCIDR, u.Force)
			if err != nil {
				return "", err
			}
			if err := u.Client.Create(ctx, j); err != nil && !apierrors.IsAlreadyExists(err) {
				return "", fmt.Errorf("create Job %s for node %s: %w", j.Name, waiting[0], err)
			}
			running[j.Name] = waiting[0]
			waiting = waiting[1:]
		}
		if left := len(running) + len(waiting); left > 0 {
			return fmt.Sprintf("%d nodes", left), nil
		}
		return "", nil
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(failed)
	return failed, u.deleteJobs(ctx)
}

// explain returns what a Job's pod said last; else why, which is what Kubernetes says.
func (u *uninstaller) explain(ctx context.Context, j *batchv1.Job, why string) string {
	var pods corev1.PodList
	if err := u.Client.List(ctx, &pods, client.InNamespace(u.Namespace), client.MatchingLabels{batchv1.JobNameLabel: j.Name}); err != nil {
		return why
	}
	for i := range pods.Items {
		for _, c := range pods.Items[i].Status.ContainerStatuses {
			if t := c.State.Terminated; t != nil && t.Message != "" {
				return strings.TrimSpace(t.Message)
			}
		}
	}
	return why
}

// deleteJobs deletes the Jobs of all nodes, and waits until they are gone: the next ones have the same names.
func (u *uninstaller) deleteJobs(ctx context.Context) error {
	of := []client.ListOption{client.InNamespace(u.Namespace), client.MatchingLabels{"app": teardownApp}}
	return u.until(ctx, "the Jobs of nodes to be deleted", func() (string, error) {
		var jobs batchv1.JobList
		if err := u.Client.List(ctx, &jobs, of...); err != nil {
			return "", fmt.Errorf("list the Jobs of nodes: %w", err)
		}
		for i := range jobs.Items {
			if err := client.IgnoreNotFound(u.Client.Delete(ctx, &jobs.Items[i], client.PropagationPolicy(metav1.DeletePropagationBackground))); err != nil {
				return "", fmt.Errorf("delete Job %s: %w", jobs.Items[i].Name, err)
			}
		}
		if n := len(jobs.Items); n > 0 {
			return fmt.Sprintf("%d Jobs", n), nil
		}
		return "", nil
	})
}
