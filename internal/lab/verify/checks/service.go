package checks

import (
	"context"
	"fmt"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/verify"
)

// service creates a NodePort Service for a Deployment.
func (e *env) service(ctx context.Context, name string) (*corev1.Service, error) {
	svc, err := e.Client.CoreV1().Services(e.Namespace).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeNodePort, Selector: map[string]string{"app": name},
			Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(instruments.HTTPPort)}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("create Service %s: %w", name, err)
	}
	return svc, nil
}

// web creates the Service web with some pods.
func (e *env) web(ctx context.Context, pods int32) (*corev1.Service, []corev1.Pod, error) {
	d := e.NewDeployment("web", pods)
	if err := d.Create(ctx); err != nil {
		return nil, nil, err
	}
	svc, err := e.service(ctx, "web")
	if err != nil {
		return nil, nil, err
	}
	backends, err := d.Settle(ctx)
	return svc, backends, err
}

var podToService = verify.Check{
	Name:   "pod-to-service",
	About:  "a pod reaches a Service's pods on both nodes, and itself through the Service, with its own address; NodePorts work from the VPC",
	Beside: true,
	Run: run(func(ctx context.Context, e *env) (string, error) {
		na, nb, err := e.TwoNodes()
		if err != nil {
			return "", err
		}
		svc, backends, err := e.web(ctx, 2)
		if err != nil {
			return "", err
		}
		pods, err := e.PodOn(ctx, na)
		if err != nil {
			return "", err
		}
		client := pods[0]
		// kube-proxy programs a Service soon after its pods are ready.
		const requests = 40
		hits := map[string]int{}
		if err := e.Poll(ctx, "both pods of the Service to answer", func() (bool, error) {
			clear(hits)
			out, err := e.Curl(ctx, client.Name, instruments.URL(svc.Spec.ClusterIP, 80, fmt.Sprintf("hostname?[1-%d]", requests)), "-w", "\n")
			for _, h := range strings.Fields(out) {
				hits[h]++
			}
			return err == nil && len(hits) == len(backends), nil
		}); err != nil {
			return "", fmt.Errorf("%w: %d of %d pods answered: %v", err, len(hits), len(backends), hits)
		}
		seen, err := e.Curl(ctx, client.Name, instruments.URL(svc.Spec.ClusterIP, 80, "clientip"))
		if err != nil {
			return "", err
		}
		if instruments.HostOf(seen) != client.Status.PodIP {
			return "", fmt.Errorf("through the Service the server saw client %s, want %s", seen, client.Status.PodIP)
		}
		// Of so many requests of a backend to its own Service some go to itself.
		self := backends[0]
		out, err := e.Curl(ctx, self.Name, instruments.URL(svc.Spec.ClusterIP, 80, fmt.Sprintf("hostname?[1-%d]", requests)), "-w", "\n")
		if err != nil {
			return "", fmt.Errorf("pod %s through its own Service: %w", self.Name, err)
		}
		hairpin := countWord(out, self.Name)
		if hairpin == 0 || len(strings.Fields(out)) != requests {
			return "", fmt.Errorf("pod %s through its own Service: %d of %d requests answered, %d by itself", self.Name, len(strings.Fields(out)), requests, hairpin)
		}
		// From an instance outside the cluster, through each node's NodePort.
		nodePort := uint16(svc.Spec.Ports[0].NodePort)
		for _, n := range []lab.Machine{na, nb} {
			for range 4 {
				if _, err := instruments.HTTPFrom(ctx, e.Lab.Master.NetNS, n.Address.String(), nodePort, "hostname"); err != nil {
					return "", fmt.Errorf("NodePort %d of %s from %s: %w", nodePort, n.Name, e.Lab.Master.Name, err)
				}
			}
		}
		var spread []string
		for name, n := range hits {
			spread = append(spread, fmt.Sprintf("%s %d", name, n))
		}
		sort.Strings(spread)
		return fmt.Sprintf("%d requests to %s: %s; client address kept (%s); %d of %d of a backend's own came back to it; NodePort %d answers on both nodes",
			requests, svc.Spec.ClusterIP, strings.Join(spread, ", "), client.Status.PodIP, hairpin, requests, nodePort), nil
	}),
}

func countWord(s, word string) (n int) {
	for w := range strings.FieldsSeq(s) {
		if w == word {
			n++
		}
	}
	return n
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
