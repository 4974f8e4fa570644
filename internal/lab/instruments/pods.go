package instruments

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"terway.dev/terway/internal/lab"
)

// HTTPPort is where agnhost netexec answers.
const HTTPPort = 8080

// TwoNodes are the nodes between which a check sends packets.
func (c *Cluster) TwoNodes() (a, b lab.Machine, err error) {
	if len(c.Lab.Machines) < 2 {
		return a, b, fmt.Errorf("the check needs two nodes, the lab has %d", len(c.Lab.Machines))
	}
	return c.Lab.Machines[0], c.Lab.Machines[1], nil
}

// PodSpec is a pod that answers HTTP on a node, or anywhere, with tools to send from.
// Where each pod has an ENI of its own it asks for it: the scheduler counts no others.
func (c *Cluster) PodSpec(node string) corev1.PodSpec {
	spec := PlainSpec(node)
	if c.AllExclusive() || c.Exclusive(node) {
		lab.AskForENI(&spec)
	}
	return spec
}

// PlainSpec is PodSpec for a pod that asks for no ENI.
func PlainSpec(node string) corev1.PodSpec {
	grace := int64(0)
	return corev1.PodSpec{
		NodeSelector:                  map[string]string{corev1.LabelHostname: node},
		TerminationGracePeriodSeconds: &grace,
		Containers: []corev1.Container{{
			Name: "main", Image: lab.ImageAgnhost, ImagePullPolicy: corev1.PullIfNotPresent,
			Args:  []string{"netexec", fmt.Sprintf("--http-port=%d", HTTPPort)},
			Ports: []corev1.ContainerPort{{ContainerPort: HTTPPort}},
			ReadinessProbe: &corev1.Probe{
				ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(HTTPPort)}},
				PeriodSeconds: 1,
			},
		}},
	}
}

// CreatePod creates a pod of the check's namespace.
func (c *Cluster) CreatePod(ctx context.Context, name string, spec corev1.PodSpec) error {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}}, Spec: spec}
	if _, err := c.Client.CoreV1().Pods(c.Namespace).Create(ctx, p, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create pod %s: %w", name, err)
	}
	return nil
}

// Ready waits for pods and returns them in the order of the names.
func (c *Cluster) Ready(ctx context.Context, names ...string) ([]corev1.Pod, error) {
	pods := make([]corev1.Pod, len(names))
	for i, name := range names {
		if err := c.Poll(ctx, "pod "+name, func() (bool, error) {
			p, err := c.Client.CoreV1().Pods(c.Namespace).Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return false, err
			}
			pods[i] = *p
			return PodReady(p), nil
		}); err != nil {
			return nil, errors.Join(err, c.explain(name))
		}
	}
	return pods, nil
}

// PodReady reports whether a pod has an address and is ready.
func PodReady(p *corev1.Pod) bool {
	return p.Status.PodIP != "" && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// explain says what the cluster says about a pod, for a message.
func (c *Cluster) explain(name string) error {
	ctx := context.Background()
	events, err := c.Events(ctx, name)
	if err != nil {
		return err
	}
	return fmt.Errorf("events of pod %s: %s", name, strings.Join(events, "; "))
}

// Events are the events of a pod, "reason: message".
func (c *Cluster) Events(ctx context.Context, pod string) ([]string, error) {
	list, err := c.Client.CoreV1().Events(c.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod})
	if err != nil {
		return nil, fmt.Errorf("list the events of pod %s: %w", pod, err)
	}
	var lines []string
	for _, ev := range list.Items {
		lines = append(lines, ev.Reason+": "+ev.Message)
	}
	return lines, nil
}

// PodOn makes a pod on each node and waits for all; the names are p1, p2, …
func (c *Cluster) PodOn(ctx context.Context, nodes ...lab.Machine) ([]corev1.Pod, error) {
	var names []string
	for i, n := range nodes {
		name := fmt.Sprintf("p%d", i+1)
		if err := c.CreatePod(ctx, name, c.PodSpec(n.Name)); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return c.Ready(ctx, names...)
}

// PodsOnTwo finds two nodes and makes a pod on the first and so many on the second.
func (c *Cluster) PodsOnTwo(ctx context.Context, second int) (na, nb lab.Machine, pods []corev1.Pod, err error) {
	if na, nb, err = c.TwoNodes(); err != nil {
		return na, nb, nil, err
	}
	pods, err = c.PodOn(ctx, append([]lab.Machine{na}, slices.Repeat([]lab.Machine{nb}, second)...)...)
	return na, nb, pods, err
}

// Exec runs a command in a pod with kubectl, as a user would, and returns what it printed.
func (c *Cluster) Exec(ctx context.Context, pod string, command ...string) (string, error) {
	o := &c.Lab.Options
	args := append([]string{"--kubeconfig", o.Kubeconfig(), "-n", c.Namespace, "exec", pod, "--"}, command...)
	cmd := exec.CommandContext(ctx, o.Bin("kubectl"), args...)
	var out, msg bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &msg
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("in pod %s: %s: %w: %s", pod, strings.Join(command, " "), err, strings.TrimSpace(msg.String()+" "+out.String()))
	}
	return strings.TrimSpace(out.String()), nil
}

// Curl fetches a URL in a pod. A pattern such as "?[1-20]" makes as many requests,
// each on a connection of its own.
func (c *Cluster) Curl(ctx context.Context, pod, url string, flags ...string) (string, error) {
	args := slices.Concat([]string{"curl", "-sS", "--max-time", "10", "-H", "Connection: close"}, flags, []string{url})
	return c.Exec(ctx, pod, args...)
}

// URL of a path at an address and port.
func URL(addr string, port int, path string) string {
	ip, err := netip.ParseAddr(addr)
	if err != nil {
		return fmt.Sprintf("http://%s:%d/%s", addr, port, path)
	}
	return fmt.Sprintf("http://%s/%s", netip.AddrPortFrom(ip, uint16(port)), path)
}

// HostOf is the host part of "address:port", as agnhost's /clientip answers.
func HostOf(s string) string {
	ap, err := netip.ParseAddrPort(strings.TrimSpace(s))
	if err != nil {
		return s
	}
	return ap.Addr().Unmap().String()
}

// NewDeployment makes pods by a ReplicaSet and a Deployment.
func (c *Cluster) NewDeployment(name string, replicas int32) *Deployment {
	return &Deployment{cluster: c, name: name, replicas: replicas}
}

// DeletePod deletes a pod and waits until it is gone.
func (c *Cluster) DeletePod(ctx context.Context, name string) error {
	if err := c.Client.CoreV1().Pods(c.Namespace).Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("delete pod %s: %w", name, err)
	}
	return c.Poll(ctx, "pod "+name+" to be gone", func() (bool, error) {
		_, err := c.Client.CoreV1().Pods(c.Namespace).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return false, err
	})
}
