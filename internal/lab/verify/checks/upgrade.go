package checks

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/verify"
)

// upgrades is how often the agents are replaced while traffic runs.
const upgrades = 5

var agentUpgrade = verify.Check{
	Name:   "agent-upgrade",
	NotFor: map[string]string{lab.NetworkFlannel: "there is no agent of Terway's: nothing to upgrade on a node"},
	About:  "every agent is replaced 5 times under traffic (--traffic): no connection is lost, new ones open, the loss of a 1 kHz UDP stream is measured",
	Run: run(func(ctx context.Context, e *env) (string, error) {
		na, nb, err := e.TwoNodes()
		if err != nil {
			return "", err
		}
		t, _, err := e.startTraffic(ctx, na, nb)
		if err != nil {
			return "", err
		}
		began := time.Now()
		for i := 0; i < upgrades && err == nil; i++ {
			err = e.replaceAgents(ctx)
		}
		select {
		case <-time.After(e.Traffic - time.Since(began)):
		case <-ctx.Done():
			err = errors.Join(err, context.Cause(ctx))
		}
		r := t.Stop()
		measured := fmt.Sprintf("agents of %d nodes replaced %d times in %s: %s", len(e.Lab.Machines), upgrades, time.Since(began).Round(time.Second), r)
		return measured, errors.Join(err, r.Err())
	}),
}

// startTraffic starts traffic from a pod on a to another one there, to one on b, and to a Service of the last. The pods are in this order.
func (e *env) startTraffic(ctx context.Context, a, b lab.Machine) (*instruments.Traffic, []corev1.Pod, error) {
	pods, err := e.PodOn(ctx, a, a, b)
	if err != nil {
		return nil, nil, err
	}
	service, err := e.trafficService(ctx, pods[2])
	if err != nil {
		return nil, nil, err
	}
	t, err := instruments.StartTraffic(pods[0], pods[1:], service)
	return t, pods, err
}

// trafficService creates a Service for the pod's echo.
func (e *env) trafficService(ctx context.Context, pod corev1.Pod) (string, error) {
	s, err := e.Client.CoreV1().Services(e.Namespace).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "traffic"},
		Spec: corev1.ServiceSpec{Selector: map[string]string{"app": pod.Labels["app"]},
			Ports: []corev1.ServicePort{{Port: instruments.TrafficPort, TargetPort: intstr.FromInt32(instruments.TrafficPort)}}},
	}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("create Service traffic: %w", err)
	}
	return s.Spec.ClusterIP, nil
}

// replaceAgents deletes the agents' pods, like an upgrade, and waits for the new ones.
func (e *env) replaceAgents(ctx context.Context) error {
	agents := func() (map[types.UID]bool, bool, error) {
		list, err := e.Client.CoreV1().Pods(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{LabelSelector: "app=terwayd"})
		if err != nil {
			return nil, false, fmt.Errorf("list the agents: %w", err)
		}
		uids, ready := map[types.UID]bool{}, len(list.Items) == len(e.Lab.Machines)
		for i := range list.Items {
			uids[list.Items[i].UID] = true
			ready = ready && instruments.PodReady(&list.Items[i])
		}
		return uids, ready, nil
	}
	old, _, err := agents()
	if err != nil {
		return err
	}
	if err := e.Client.CoreV1().Pods(metav1.NamespaceSystem).DeleteCollection(ctx, metav1.DeleteOptions{},
		metav1.ListOptions{LabelSelector: "app=terwayd"}); err != nil {
		return fmt.Errorf("delete the agents: %w", err)
	}
	return e.Poll(ctx, "the agents to be replaced", func() (bool, error) {
		now, ready, err := agents()
		for uid := range old {
			ready = ready && !now[uid]
		}
		return ready, err
	})
}
