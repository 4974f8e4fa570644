package checks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/verify"
)

var exclusiveENI = verify.Check{
	Name: "exclusive-eni",
	About: "a pod that asks by annotation, or for aliyun/eni, has an ENI to itself as its eth0 and reaches, and is reached by, pods, nodes and a Service; " +
		"a second one waits for it (in mode exclusive that is pod-limit's)",
	NotFor: map[string]string{lab.NetworkFlannel: "Flannel's pods have no ENIs"},
	Once:   true,
	Run: run(withENI(2, func(ctx context.Context, e *env, na, nb lab.Machine) (string, error) {
		if err := e.askByAnnotation(ctx, "own", nb.Name); err != nil {
			return "", err
		}
		own, err := e.Ready(ctx, "own")
		if err != nil {
			return "", err
		}
		addr := own[0].Status.PodIP
		eni, err := e.Holder(ctx, nb, addr)
		if err != nil {
			return "", err
		}
		link, err := e.Exec(ctx, "own", "ip", "-o", "link", "show", "dev", "eth0")
		if err != nil {
			return "", err
		}
		if !strings.Contains(link, strings.ToLower(eni.MAC)) || len(eni.Addresses) != 1 {
			return "", fmt.Errorf("eth0 of the pod is %q; the cloud has %s on %s, MAC %s, with %v", link, addr, eni.ID, eni.MAC, eni.Addresses)
		}
		if _, err := e.PodOn(ctx, na, nb); err != nil {
			return "", err
		}
		if err := e.reachExclusive(ctx, na, nb, addr); err != nil {
			return "", err
		}
		measured := fmt.Sprintf("%s on %s is eth0 of a pod on %s that asked by annotation, with %s; pods of both nodes, both nodes and a Service: all answered", eni.ID, eni.MAC, nb.Name, addr)
		if e.Exclusive(nb.Name) {
			return measured + "; each of those pods has an ENI too; that the one for which none is left waits: see " + podLimitName, nil
		}
		return measured + fmt.Sprintf("; the next pod waited (Insufficient %s) and had the ENI after it", claims.ResourceENI), e.nextWaits(ctx, nb.Name)
	})),
}

// withENI is a check with two nodes, of which the second offers exclusive ENIs: one during the check, unless all its ENIs are exclusive;
// then it must have room for so many pods of the check. Pods that take the one are named own or next.
func withENI(pods int, check func(ctx context.Context, e *env, na, nb lab.Machine) (string, error)) func(context.Context, *env) (string, error) {
	return func(ctx context.Context, e *env) (measured string, err error) {
		na, nb, err := e.TwoNodes()
		if err != nil {
			return "", err
		}
		if e.Exclusive(nb.Name) {
			if _, err := e.RoomOn(ctx, nb, pods, pods); err != nil {
				return "", err
			}
		} else {
			if err := e.offerENIs(ctx, nb.Name, 1); err != nil {
				return "", err
			}
			defer func() { err = errors.Join(err, e.takeBack(ctx, nb.Name)) }()
		}
		return check(ctx, e, na, nb)
	}
}

// askByAnnotation creates a pod with only the annotation, and checks that the resource is
// added, that an invalid value is rejected, and that a pod of the host network is not changed,
// whatever its annotation.
func (e *env) askByAnnotation(ctx context.Context, name, node string) error {
	create := func(name, value string, spec corev1.PodSpec, o metav1.CreateOptions) (*corev1.Pod, error) {
		return e.Client.CoreV1().Pods(e.Namespace).Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{"app": name}, Annotations: map[string]string{claims.AnnotationExclusiveENI: value},
		}, Spec: spec}, o)
	}
	dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	spec := instruments.PlainSpec(node)
	if _, err := create("wrong", "yes", spec, dry); err == nil || !strings.Contains(err.Error(), claims.AnnotationExclusiveENI+`: "yes"`) {
		return fmt.Errorf("a pod whose annotation is \"yes\" was not refused with the annotation's name and value: %w", cmp.Or(err, errors.New("it was made")))
	}
	host := instruments.PlainSpec(node)
	host.HostNetwork = true
	host.Containers[0].Ports = nil
	p, err := create("host", "yes", host, dry)
	if err != nil {
		return fmt.Errorf("make a pod of the host network: %w", err)
	}
	if q, asks := p.Spec.Containers[0].Resources.Limits[claims.ResourceENI]; asks {
		return fmt.Errorf("a pod of the host network was given the limit %s %s", claims.ResourceENI, &q)
	}
	if p, err = create(name, "true", spec, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create pod %s: %w", name, err)
	}
	r := p.Spec.Containers[0].Resources
	if limit, request := r.Limits[claims.ResourceENI], r.Requests[claims.ResourceENI]; limit.Value() != 1 || request.Value() != 1 {
		return fmt.Errorf("pod %s was made with limit %s %s and request %s, want 1 and 1", name, claims.ResourceENI, &limit, &request)
	}
	return nil
}

// nextWaits starts a pod for which no ENI is left while the first pod has it.
func (e *env) nextWaits(ctx context.Context, node string) error {
	spec := instruments.PlainSpec(node)
	lab.AskForENI(&spec)
	if err := e.CreatePod(ctx, "next", spec); err != nil {
		return err
	}
	if err := e.Poll(ctx, "the scheduler to say that no ENI is left", func() (bool, error) {
		lines, err := e.Events(ctx, "next")
		return strings.Contains(strings.Join(lines, "; "), insufficientENI), err
	}); err != nil {
		return err
	}
	if err := e.DeletePod(ctx, "own"); err != nil {
		return err
	}
	if _, err := e.Ready(ctx, "next"); err != nil {
		return err
	}
	return e.DeletePod(ctx, "next")
}

// takeBack deletes the pods that may hold the node's ENI and withdraws the offer, also after a
// failure. It waits only for a limited time, because a pod that is left keeps its ENI.
func (e *env) takeBack(ctx context.Context, node string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	none := int64(0)
	var errs []error
	for _, name := range []string{"own", "next"} {
		if err := e.Client.CoreV1().Pods(e.Namespace).Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &none}); !apierrors.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, e.offerENIs(ctx, node, 0))...)
}

// insufficientENI is the scheduler's message for a node without a free ENI.
const insufficientENI = "Insufficient " + claims.ResourceENI

// reachExclusive tests connections to and from the pod own: with the pods p1 and p2, with both
// nodes, and through a Service.
func (e *env) reachExclusive(ctx context.Context, na, nb lab.Machine, addr string) error {
	for _, from := range []string{"p1", "p2"} {
		if who, err := e.Curl(ctx, from, instruments.URL(addr, instruments.HTTPPort, "hostname")); err != nil || who != "own" {
			return fmt.Errorf("from pod %s to %s: %q, %w", from, addr, who, err)
		}
	}
	for _, m := range []lab.Machine{na, nb} {
		if who, err := instruments.HTTPFrom(ctx, m.NetNS, addr, instruments.HTTPPort, "hostname"); err != nil || who != "own" {
			return fmt.Errorf("from %s to %s: %q, %w", m.Name, addr, who, err)
		}
	}
	peers, err := e.Ready(ctx, "p1", "p2")
	if err != nil {
		return err
	}
	for _, p := range peers {
		seen, err := e.Curl(ctx, "own", instruments.URL(p.Status.PodIP, instruments.HTTPPort, "clientip"))
		if err != nil || instruments.HostOf(seen) != addr {
			return fmt.Errorf("from the pod to %s: it sees %q, want %s, %w", p.Name, seen, addr, err)
		}
	}
	svc, err := e.service(ctx, "p1")
	if err != nil {
		return err
	}
	return e.Poll(ctx, "the Service to answer the pod", func() (bool, error) {
		who, err := e.Curl(ctx, "own", instruments.URL(svc.Spec.ClusterIP, 80, "hostname"))
		return err == nil && who == "p1", nil
	})
}

// offeredAnnotation on a node says that a check has set its label.
const offeredAnnotation = "lab.terway.dev/offered"

// withdraw withdraws what a node offers because of a check that was killed.
func (e *env) withdraw(ctx context.Context) error {
	nodes, err := e.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	for _, n := range nodes.Items {
		if _, offered := n.Annotations[offeredAnnotation]; offered {
			if err := e.offerENIs(ctx, n.Name, 0); err != nil {
				return err
			}
		}
	}
	return nil
}

// offerENIs labels a node and waits until its kubelet offers as many ENIs.
func (e *env) offerENIs(ctx context.Context, node string, n int64) error {
	value := fmt.Sprintf(`"%d"`, n)
	if n == 0 {
		value = "null"
	}
	patch := fmt.Sprintf(`{"metadata":{"labels":{%q:%s},"annotations":{%q:%s}}}`, claims.LabelExclusiveENIs, value, offeredAnnotation, value)
	if _, err := e.Client.CoreV1().Nodes().Patch(ctx, node, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("label node %s: %w", node, err)
	}
	return e.Poll(ctx, fmt.Sprintf("node %s to offer %d of %s", node, n, claims.ResourceENI), func() (bool, error) {
		got, err := e.Client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		q := got.Status.Allocatable[claims.ResourceENI]
		nn, err := e.NodeNetwork(ctx, node)
		if err != nil {
			return false, err
		}
		left := 0
		for _, eni := range nn.Spec.ENIs {
			if eni.Exclusive {
				left++
			}
		}
		// At the end the ENI must have been given back too.
		return q.Value() == n && (n > 0 || left == 0), nil
	})
}
