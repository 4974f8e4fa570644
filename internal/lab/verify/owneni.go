package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/controller/nodenetwork"
	"terway.dev/terway/internal/lab"
)

// ownENI gives one ENI of a node to pods that ask for one, and takes it back at the end.
var ownENI = Check{
	Name:   "own-eni",
	About:  "a pod that asks for aliyun/eni has an ENI to itself as its eth0 and reaches, and is reached by, pods, nodes and a Service; a second one waits for it",
	NotFor: map[string]string{lab.NetworkFlannel: "Flannel's pods have no ENIs"},
	Run: func(ctx context.Context, e *Env) (measured string, err error) {
		na, nb, err := e.twoNodes()
		if err != nil {
			return "", err
		}
		if err := e.offerENIs(ctx, nb.Name, 1); err != nil {
			return "", err
		}
		defer func() {
			// Also after a failure, and not for ever: a pod that is left keeps its ENI.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
			defer cancel()
			none := int64(0)
			errs := []error{err}
			for _, name := range []string{"own", "next"} {
				if e := e.Client.CoreV1().Pods(e.Namespace).Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &none}); !apierrors.IsNotFound(e) {
					errs = append(errs, e)
				}
			}
			err = errors.Join(append(errs, e.offerENIs(ctx, nb.Name, 0))...)
		}()
		spec := podSpec(nb.Name)
		spec.Containers[0].Resources.Limits = corev1.ResourceList{v1alpha1.ResourceENI: resource.MustParse("1")}
		if err := e.pod(ctx, "own", spec); err != nil {
			return "", err
		}
		own, err := e.ready(ctx, "own")
		if err != nil {
			return "", err
		}
		addr := own[0].Status.PodIP
		eni, err := e.ownENIOf(ctx, nb, addr)
		if err != nil {
			return "", err
		}
		link, err := e.exec(ctx, "own", "ip", "-o", "link", "show", "dev", "eth0")
		if err != nil {
			return "", err
		}
		if !strings.Contains(link, strings.ToLower(eni.MAC)) || len(eni.Addresses) != 1 {
			return "", fmt.Errorf("eth0 of the pod is %q; the cloud has %s on %s, MAC %s, with %v", link, addr, eni.ID, eni.MAC, eni.Addresses)
		}
		if _, err := e.podOn(ctx, na, nb); err != nil {
			return "", err
		}
		if err := e.reachOwn(ctx, na, nb, addr); err != nil {
			return "", err
		}
		if err := e.pod(ctx, "next", spec); err != nil {
			return "", err
		}
		if err := e.poll(ctx, "the scheduler to say that no ENI is left", func() (bool, error) {
			lines, err := e.events(ctx, "next")
			return strings.Contains(strings.Join(lines, "; "), "Insufficient "+v1alpha1.ResourceENI), err
		}); err != nil {
			return "", err
		}
		if err := e.deletePod(ctx, "own"); err != nil {
			return "", err
		}
		if _, err := e.ready(ctx, "next"); err != nil {
			return "", err
		}
		if err := e.deletePod(ctx, "next"); err != nil {
			return "", err
		}
		return fmt.Sprintf("%s on %s is eth0 of a pod on %s with %s; pods of both nodes, both nodes and a Service: all answered; the next pod waited (Insufficient %s) and had the ENI after it",
			eni.ID, eni.MAC, nb.Name, addr, v1alpha1.ResourceENI), nil
	},
}

// ownENIOf is the interface that the cloud has with the address. Its device is in the pod.
func (e *Env) ownENIOf(ctx context.Context, m lab.Machine, addr string) (lab.ENI, error) {
	list, err := e.Lab.Cloud.ENIs(ctx, m.InstanceID)
	if err != nil {
		return lab.ENI{}, err
	}
	for _, i := range list {
		if slices.Contains(i.Addresses, addr) {
			return i, nil
		}
	}
	return lab.ENI{}, fmt.Errorf("the cloud has %s on no interface of %s (%s)", addr, m.Name, m.InstanceID)
}

// reachOwn sends to the pod own and from it: from pods p1 and p2 and both nodes, and to
// those by their addresses and by a Service.
func (e *Env) reachOwn(ctx context.Context, na, nb lab.Machine, addr string) error {
	for _, from := range []string{"p1", "p2"} {
		if who, err := e.curl(ctx, from, url(addr, httpPort, "hostname")); err != nil || who != "own" {
			return fmt.Errorf("from pod %s to %s: %q, %w", from, addr, who, err)
		}
	}
	for _, m := range []lab.Machine{na, nb} {
		if who, err := httpFrom(ctx, m.NetNS, addr, httpPort, "hostname"); err != nil || who != "own" {
			return fmt.Errorf("from %s to %s: %q, %w", m.Name, addr, who, err)
		}
	}
	peers, err := e.ready(ctx, "p1", "p2")
	if err != nil {
		return err
	}
	for _, p := range peers {
		seen, err := e.curl(ctx, "own", url(p.Status.PodIP, httpPort, "clientip"))
		if err != nil || hostOf(seen) != addr {
			return fmt.Errorf("from the pod to %s: it sees %q, want %s, %w", p.Name, seen, addr, err)
		}
	}
	svc, err := e.service(ctx, "p1")
	if err != nil {
		return err
	}
	return e.poll(ctx, "the Service to answer the pod", func() (bool, error) {
		who, err := e.curl(ctx, "own", url(svc.Spec.ClusterIP, 80, "hostname"))
		return err == nil && who == "p1", nil
	})
}

// offerENIs labels a node and waits until its kubelet offers as many ENIs.
func (e *Env) offerENIs(ctx context.Context, node string, n int64) error {
	value := fmt.Sprintf(`"%d"`, n)
	if n == 0 {
		value = "null"
	}
	patch := fmt.Sprintf(`{"metadata":{"labels":{%q:%s}}}`, nodenetwork.LabelExclusiveENIs, value)
	if _, err := e.Client.CoreV1().Nodes().Patch(ctx, node, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("label node %s: %w", node, err)
	}
	return e.poll(ctx, fmt.Sprintf("node %s to offer %d of %s", node, n, v1alpha1.ResourceENI), func() (bool, error) {
		got, err := e.Client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		q := got.Status.Allocatable[v1alpha1.ResourceENI]
		nn, err := e.nodeNetwork(ctx, node)
		if err != nil {
			return false, err
		}
		left := 0
		for _, eni := range nn.Spec.ENIs {
			if eni.Own {
				left++
			}
		}
		// At the end the ENI must have gone back too.
		return q.Value() == n && (n > 0 || left == 0), nil
	})
}
