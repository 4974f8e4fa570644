package verify

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// account is what everybody says about the addresses of a node.
type account struct {
	node string
	// pods are the running pods with an address of their own.
	pods []string
	// used is what the agent says its pods hold.
	used []string
	// spec is what the controller lets the node use, cloud what the interfaces have.
	spec, cloud []string
	devices     int
	min, max    int
}

func (a *account) free() int { return len(a.cloud) - len(a.used) }

func (a *account) String() string {
	return fmt.Sprintf("%s %d addresses, %d used", a.node, len(a.cloud), len(a.used))
}

// wrong says what does not agree, or nothing.
func (a *account) wrong() string {
	switch {
	case !slices.Equal(a.pods, a.used):
		return fmt.Sprintf("%s: pods have %v, the agent says %v", a.node, a.pods, a.used)
	case !slices.Equal(a.spec, a.cloud):
		return fmt.Sprintf("%s: the controller lets it use %v, the cloud has %v", a.node, a.spec, a.cloud)
	case a.devices != len(a.pods):
		return fmt.Sprintf("%s: %d devices for %d pods", a.node, a.devices, len(a.pods))
	case a.free() > a.max:
		return fmt.Sprintf("%s: %d free addresses, at most %d are to stay", a.node, a.free(), a.max)
	case a.free() < a.min:
		return fmt.Sprintf("%s: %d free addresses, at least %d are to be there", a.node, a.free(), a.min)
	}
	return ""
}

// accounts asks cluster, agent, controller, cloud and kernel about every node.
func (e *Env) accounts(ctx context.Context) ([]*account, error) {
	pods, err := e.Client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	var all []*account
	for _, m := range e.Lab.Machines {
		nn, err := e.nodeNetwork(ctx, m.Name)
		if err != nil {
			return nil, err
		}
		a := &account{node: m.Name, min: nn.Spec.Pool.Min, max: nn.Spec.Pool.Max, spec: specAddresses(nn)}
		if e.exclusive(m.Name) {
			// Free ENIs, each with one address: one may stay after a pod's end.
			a.min, a.max = nn.Spec.Pool.WarmENIs, nn.Spec.Pool.WarmENIs+1
		}
		// A node that is nearly full cannot keep its reserve.
		a.min = min(a.min, max(0, nn.Spec.Limits.MaxPods-len(nn.Status.Used)))
		for _, p := range pods.Items {
			if p.Spec.NodeName == m.Name && !p.Spec.HostNetwork && p.Status.PodIP != "" &&
				p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
				a.pods = append(a.pods, p.Status.PodIP)
			}
		}
		for _, u := range nn.Status.Used {
			a.used = append(a.used, u.Address)
		}
		enis, err := e.Lab.Cloud.ENIs(ctx, m.InstanceID)
		if err != nil {
			return nil, err
		}
		for _, i := range enis {
			if i.Type != "Primary" {
				a.cloud = append(a.cloud, i.Addresses...)
			}
		}
		if a.devices, err = podDevices(m); err != nil {
			return nil, err
		}
		for _, l := range [][]string{a.pods, a.used, a.spec, a.cloud} {
			slices.Sort(l)
		}
		all = append(all, a)
	}
	return all, nil
}

// consistent waits until everybody agrees about every address, nothing is left over
// and the pools are within their marks.
func (e *Env) consistent(ctx context.Context) ([]*account, error) {
	var all []*account
	var wrong []string
	err := e.pollCloud(ctx, "cluster, agents, controller, cloud and kernel to agree", func() (_ bool, err error) {
		if all, err = e.accounts(ctx); err != nil {
			return false, err
		}
		wrong = wrong[:0]
		for _, a := range all {
			if w := a.wrong(); w != "" {
				wrong = append(wrong, w)
			}
		}
		loose, err := e.looseENIs(ctx)
		if err != nil {
			return false, err
		}
		if len(loose) > 0 {
			wrong = append(wrong, fmt.Sprintf("interfaces attached to nothing: %v", loose))
		}
		return len(wrong) == 0, nil
	})
	if err != nil {
		return all, fmt.Errorf("%w: %s", err, strings.Join(wrong, "; "))
	}
	return all, nil
}

// looseENIs are secondary interfaces that no instance has.
func (e *Env) looseENIs(ctx context.Context) ([]string, error) {
	all, err := e.Lab.Cloud.ENIs(ctx, "")
	var loose []string
	for _, i := range all {
		if i.Type != "Primary" && i.Status == "Available" {
			loose = append(loose, i.ID)
		}
	}
	return loose, err
}

func total(all []*account) (n int) {
	for _, a := range all {
		n += len(a.cloud)
	}
	return n
}

func describe(all []*account) string {
	var parts []string
	for _, a := range all {
		parts = append(parts, a.String())
	}
	return strings.Join(parts, ", ")
}
