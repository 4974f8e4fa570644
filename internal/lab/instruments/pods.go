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

// HTTPPort is the port of agnhost netexec.
const HTTPPort = 8080

// TwoNodes returns two nodes to send packets between.
func (c *Cluster) TwoNodes() (a, b lab.Machine, err error) {
	if len(c.Lab.Machines) < 2 {
		return a, b, fmt.Errorf("the check needs two nodes, the lab has %d", len(c.Lab.Machines))
	}
	return c.Lab.Machines[0], c.Lab.Machines[1], nil
}

// PodSpec returns a pod that answers HTTP on a node, or on any, with tools for sending. On
// nodes with exclusive ENIs it requests one, because the scheduler counts only requests.
func (c *Cluster) PodSpec(node string) corev1.PodSpec {
	spec := PlainSpec(node)
	if c.AllExclusive() || c.Exclusive(node) {
		lab.AskForENI(&spec)
	}
	return spec
}

// PlainSpec is PodSpec without the request for an ENI.
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

// CreatePod creates a pod in the check's namespace.
func (c *Cluster) CreatePod(ctx context.Context, name string, spec corev1.PodSpec) error {
	return c.CreateAnnotated(ctx, name, nil, spec, metav1.CreateOptions{})
}

// CreateAnnotated is CreatePod for a pod with annotations.
func (c *Cluster) CreateAnnotated(ctx context.Context, name string, annotations map[string]string, spec corev1.PodSpec, o metav1.CreateOptions) error {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}, Annotations: annotations}, Spec: spec}
	if _, err := c.Client.CoreV1().Pods(c.Namespace).Create(ctx, p, o); err != nil {
		return fmt.Errorf("create pod %s: %w", name, err)
	}
	return nil
}

// Ready waits until the pods are ready, and returns them in the order of the names.
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

// explain returns the events of a pod or of another object, for a message.
func (c *Cluster) explain(name string) error {
	ctx := context.Background()
	events, err := c.Events(ctx, name)
	if err != nil {
		return err
	}
	return fmt.Errorf("events of %s: %s", name, strings.Join(events, "; "))
}

// Events returns the events of a pod or of another object of the namespace, as "reason: message".
func (c *Cluster) Events(ctx context.Context, name string) ([]string, error) {
	list, err := c.Client.CoreV1().Events(c.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + name})
	if err != nil {
		return nil, fmt.Errorf("list the events of %s: %w", name, err)
	}
	var lines []string
	for _, ev := range list.Items {
		lines = append(lines, ev.Reason+": "+ev.Message)
	}
	return lines, nil
}

// PodOn creates a pod on each node and waits for all; their names are p1, p2, …
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

// PodsOnTwo selects two nodes, and creates a pod on the first and second pods on the other.
func (c *Cluster) PodsOnTwo(ctx context.Context, second int) (na, nb lab.Machine, pods []corev1.Pod, err error) {
	if na, nb, err = c.TwoNodes(); err != nil {
		return na, nb, nil, err
	}
	pods, err = c.PodOn(ctx, append([]lab.Machine{na}, slices.Repeat([]lab.Machine{nb}, second)...)...)
	return na, nb, pods, err
}

// Exec runs a command in a pod with kubectl, as a user would, and returns its output.
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

// Curl fetches a URL in a pod. A pattern such as "?[1-20]" makes as many requests, each on a
// new connection.
func (c *Cluster) Curl(ctx context.Context, pod, url string, flags ...string) (string, error) {
	args := slices.Concat([]string{"curl", "-sS", "--max-time", "10", "-H", "Connection: close"}, flags, []string{url})
	return c.Exec(ctx, pod, args...)
}

// URL returns the URL of a path at an address and port.
func URL(addr string, port int, path string) string {
	ip, err := netip.ParseAddr(addr)
	if err != nil {
		return fmt.Sprintf("http://%s:%d/%s", addr, port, path)
	}
	return fmt.Sprintf("http://%s/%s", netip.AddrPortFrom(ip, uint16(port)), path)
}

// HostOf returns the host part of "address:port", the answer of agnhost's /clientip.
func HostOf(s string) string {
	ap, err := netip.ParseAddrPort(strings.TrimSpace(s))
	if err != nil {
		return s
	}
	return ap.Addr().Unmap().String()
}

// NewDeployment returns a Deployment, which is not created yet.
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
