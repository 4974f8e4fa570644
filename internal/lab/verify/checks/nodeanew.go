package checks

import (
	"context"
	"fmt"
	"net/netip"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/verify"
)

var nodeAnew = verify.Check{
	Name:   "node-made-anew",
	About:  "a node that is deleted and registered again at once, while its pods run, accepts no pod before flanneld has restarted for the new block",
	NotFor: map[string]string{lab.NetworkTerway: vpcAddresses},
	Run: run(func(ctx context.Context, e *env) (string, error) {
		na, nb, err := e.TwoNodes()
		if err != nil {
			return "", err
		}
		blocks, err := e.blocks(ctx)
		if err != nil {
			return "", err
		}
		old := blocks[nb.Name]
		before, err := e.flanneld(ctx, nb)
		if err != nil {
			return "", err
		}
		if err := e.Client.CoreV1().Nodes().Delete(ctx, nb.Name, metav1.DeleteOptions{}); err != nil {
			return "", fmt.Errorf("delete node %s: %w", nb.Name, err)
		}
		block, err := e.registerAgain(ctx, nb)
		if err != nil {
			return "", err
		}
		if block == old {
			return "", fmt.Errorf("%s has the block %s again: nothing was tested", nb.Name, block)
		}
		answer, err := e.newPodAnswers(ctx, na, nb, block)
		if err != nil {
			return "", err
		}
		after, err := e.flanneld(ctx, nb)
		if err != nil {
			return "", err
		}
		if after.uid != before.uid || after.restarts != before.restarts+1 {
			return "", fmt.Errorf("the node's pod of kube-flannel was %+v before and is %+v now: want the same pod, with flanneld restarted once", before, after)
		}
		e.Killed++ // by the kubelet, as intended
		moved, err := e.leaveBlock(ctx, nb, old)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%s deleted and registered again with its pods running: block %s became %s, flanneld restarted once, and then its new pod %s; %d pods with addresses of %s were recreated",
			nb.Name, old, block, answer, moved, old), nil
	}),
}

// flanneld is a pod of kube-flannel with the number of its restarts.
type flanneld struct {
	uid      string
	restarts int32
}

func (e *env) flanneld(ctx context.Context, m lab.Machine) (flanneld, error) {
	pods, err := e.Client.CoreV1().Pods(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{
		LabelSelector: "app=kube-flannel", FieldSelector: "spec.nodeName=" + m.Name,
	})
	if err == nil && len(pods.Items) != 1 {
		err = fmt.Errorf("%d found, want 1", len(pods.Items))
	}
	if err != nil {
		return flanneld{}, fmt.Errorf("look for the pod of kube-flannel on %s: %w", m.Name, err)
	}
	p := pods.Items[0]
	f := flanneld{uid: string(p.UID)}
	for _, c := range p.Status.ContainerStatuses {
		if c.Name == "kube-flannel" {
			f.restarts = c.RestartCount
		}
	}
	return f, nil
}

// leaveBlock deletes the node's pods with addresses of a block that the node no longer has, so
// that their controllers recreate them.
func (e *env) leaveBlock(ctx context.Context, m lab.Machine, old netip.Prefix) (n int, err error) {
	pods, err := e.Client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + m.Name})
	if err != nil {
		return 0, fmt.Errorf("list the pods of %s: %w", m.Name, err)
	}
	for _, p := range pods.Items {
		if addr, err := netip.ParseAddr(p.Status.PodIP); err != nil || !old.Contains(addr) {
			continue
		}
		if err := e.Client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{}); err != nil {
			return n, fmt.Errorf("delete pod %s/%s: %w", p.Namespace, p.Name, err)
		}
		n++
	}
	return n, nil
}
