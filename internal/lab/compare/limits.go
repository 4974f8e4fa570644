package compare

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/internal/lab/instruments"
)

// askedBits is the limit that a pod requests: far below the capacity of any path.
const askedBits = 10e6

// limits starts a pod with a bandwidth limit beside another pod on a node, and measures its
// bandwidth to a pod on another node.
func (c *cluster) limits(ctx context.Context, node string, other instruments.End, d time.Duration) ([]Limit, error) {
	spec := c.podSpec()
	spec.NodeSelector = map[string]string{corev1.LabelHostname: node}
	// The annotations of the CNI bandwidth capability in Kubernetes, in bits per second.
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "limited", Annotations: map[string]string{
		"kubernetes.io/egress-bandwidth": "10M", "kubernetes.io/ingress-bandwidth": "10M"}}, Spec: spec}
	if _, err := c.Client.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("create pod %s: %w", pod.Name, err)
	}
	if err := c.wait(ctx, "pod "+pod.Name, func() (_ bool, err error) {
		pod, err = c.Client.CoreV1().Pods(namespace).Get(ctx, pod.Name, metav1.GetOptions{})
		return err == nil && running(pod), err
	}); err != nil {
		return nil, err
	}
	limited, err := c.end(pod)
	if err != nil {
		return nil, err
	}
	var all []Limit
	for _, m := range []struct {
		direction string
		pair      instruments.Pair
	}{{"egress", instruments.Pair{From: limited, To: other}}, {"ingress", instruments.Pair{From: other, To: limited}}} {
		// The first stream uses up the burst of the shaper; the second is measured.
		if _, err := m.pair.Stream(ctx, d); err != nil {
			return nil, err
		}
		got, err := m.pair.Stream(ctx, d)
		if err != nil {
			return nil, err
		}
		all = append(all, Limit{Direction: m.direction, Asked: askedBits, Got: got})
	}
	return all, nil
}
