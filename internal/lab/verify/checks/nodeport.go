package checks

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/verify"
)

var nodePort = verify.Check{
	Name: "nodeport",
	About: "through a NodePort with externalTrafficPolicy Cluster both nodes answer, and the pod sees the node's address; with Local only the pod's node does, " +
		"and the pod sees the client's (with an exclusive ENI the node's)",
	NotFor: map[string]string{lab.NetworkFlannel: "a pod sees the bridge's address in place of its node's"},
	Beside: true,
	Run: run(func(ctx context.Context, e *env) (string, error) {
		na, nb, err := e.TwoNodes()
		if err != nil {
			return "", err
		}
		if _, err := e.PodOn(ctx, nb); err != nil {
			return "", err
		}
		ports := map[corev1.ServiceExternalTrafficPolicy]uint16{}
		for _, policy := range []corev1.ServiceExternalTrafficPolicy{corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal} {
			if ports[policy], err = e.nodePortOf(ctx, "p1", policy); err != nil {
				return "", err
			}
		}
		client := e.Lab.Master
		seen := func(node, addr string, policy corev1.ServiceExternalTrafficPolicy) (string, error) {
			s, err := instruments.HTTPFrom(ctx, client.NetNS, addr, ports[policy], "clientip")
			if err != nil {
				return "", fmt.Errorf("NodePort with policy %s at %s from %s: %w", policy, node, client.Name, err)
			}
			return instruments.HostOf(s), nil
		}
		// kube-proxy programs a Service soon after its pod is ready.
		if err := e.Poll(ctx, "the NodePorts to answer at the pod's node", func() (bool, error) {
			for policy := range ports {
				if _, err := seen(nb.Name, nb.Address.String(), policy); err != nil {
					return false, nil
				}
			}
			_, err := seen(na.Name, na.Address.String(), corev1.ServiceExternalTrafficPolicyCluster)
			return err == nil, nil
		}); err != nil {
			return "", err
		}
		for _, n := range []struct{ name, addr string }{{na.Name, na.Address.String()}, {nb.Name, nb.Address.String()}} {
			s, err := seen(n.name, n.addr, corev1.ServiceExternalTrafficPolicyCluster)
			if err != nil {
				return "", err
			}
			if s != n.addr {
				return "", fmt.Errorf("policy Cluster at %s: the pod saw %s, want the node's %s", n.name, s, n.addr)
			}
		}
		want, whose := client.Address.String(), "the client"
		if e.Exclusive(nb.Name) { // the answer must return through the node
			want, whose = nb.Address.String(), "the node's address"
		}
		s, err := seen(nb.Name, nb.Address.String(), corev1.ServiceExternalTrafficPolicyLocal)
		if err != nil {
			return "", err
		}
		if s != want {
			return "", fmt.Errorf("policy Local at the pod's node %s: the pod saw %s, want %s", nb.Name, s, want)
		}
		if s, err := seen(na.Name, na.Address.String(), corev1.ServiceExternalTrafficPolicyLocal); err == nil {
			return "", fmt.Errorf("policy Local at %s, which has no pod of the Service: answered, the pod saw %s", na.Name, s)
		}
		return fmt.Sprintf("from %s (%s) to a pod on %s: Cluster at %s saw %s and at %s %s; Local at %s %s, at %s no answer",
			client.Name, client.Address, nb.Name, na.Name, na.Address, nb.Name, nb.Address, nb.Name, whose, na.Name), nil
	}),
}

// nodePortOf creates a Service with a NodePort for a pod.
func (e *env) nodePortOf(ctx context.Context, app string, policy corev1.ServiceExternalTrafficPolicy) (uint16, error) {
	s, err := e.Client.CoreV1().Services(e.Namespace).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{GenerateName: app + "-"},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, ExternalTrafficPolicy: policy, Selector: map[string]string{"app": app},
			Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(instruments.HTTPPort)}}},
	}, metav1.CreateOptions{})
	if err != nil {
		return 0, fmt.Errorf("create a Service with a NodePort and policy %s: %w", policy, err)
	}
	return uint16(s.Spec.Ports[0].NodePort), nil
}
