package checks

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/verify"
)

var addressTaken = verify.Check{
	Name:   "address-taken-away",
	About:  "a pod whose address is unassigned without Terway is a problem in terwayctl status and in an event of the pod; after it is recreated it answers",
	NotFor: map[string]string{lab.NetworkFlannel: "the cloud does not have pods' addresses"},
	// For two minutes the controller does not trust a list that lacks an address.
	Trouble: true, Shared: true, Slow: true,
	Run: run(func(ctx context.Context, e *env) (string, error) {
		_, nb, pods, err := e.PodsOnTwo(ctx, 2)
		if err != nil {
			return "", err
		}
		if _, err := e.Consistent(ctx); err != nil {
			return "", fmt.Errorf("before: %w", err)
		}
		pod, eni, err := e.onSecondary(ctx, nb, pods[1:])
		if err != nil {
			return "", err
		}
		addr := pod.Status.PodIP
		if err := e.Lab.Cloud.UnassignAddress(eni, addr); err != nil {
			return "", err
		}
		said, err := e.SaysProblem(ctx, nb.Name, pod.Namespace+"/"+pod.Name, addr, "on no ENI")
		if err != nil {
			return "", err
		}
		var event string
		var all []string
		if err := e.Poll(ctx, "an event of pod "+pod.Name+" that names "+addr, func() (_ bool, err error) {
			all, err = e.Events(ctx, pod.Name)
			event = instruments.WithWords(all, addr, "ENI")
			return event != "", err
		}); err != nil {
			return "", fmt.Errorf("%w; it has %q", err, all)
		}
		if err := e.DeletePod(ctx, pod.Name); err != nil {
			return "", err
		}
		if err := e.NoProblem(ctx); err != nil {
			return "", err
		}
		if err := e.CreatePod(ctx, pod.Name, e.PodSpec(nb.Name)); err != nil {
			return "", err
		}
		next, err := e.Ready(ctx, pod.Name)
		if err != nil {
			return "", err
		}
		if err := e.allAnswer(ctx, next); err != nil {
			return "", err
		}
		_, err = e.Consistent(ctx)
		return fmt.Sprintf("%s of pod %s was unassigned from %s: status says %q, the pod's event %q; after it was recreated the pod answers with %s", addr, pod.Name, eni, said, event, next[0].Status.PodIP), err
	}),
}

// onSecondary returns a pod whose address is a secondary address, which can be unassigned.
func (e *env) onSecondary(ctx context.Context, m lab.Machine, pods []corev1.Pod) (pod corev1.Pod, eni string, err error) {
	nn, err := e.NodeNetwork(ctx, m.Name)
	if err != nil {
		return pod, "", err
	}
	for _, p := range pods {
		by, err := e.Holder(ctx, m, p.Status.PodIP)
		if err != nil {
			return pod, "", err
		}
		for _, known := range nn.Spec.ENIs {
			if known.ID == by.ID && known.PrimaryAddress != p.Status.PodIP {
				return p, by.ID, nil
			}
		}
	}
	return pod, "", errors.New("all pods have the primary address of an ENI")
}
