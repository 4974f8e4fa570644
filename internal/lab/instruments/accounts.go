package instruments

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Account collects what cluster, agent, controller and cloud report about the addresses of a
// node.
type Account struct {
	Node string
	// pods are the addresses of running pods, without the host network.
	pods []string
	// used are the addresses that the agent reports as used.
	used []string
	// spec are the addresses that the controller gives to the node, cloud those on its ENIs.
	spec, cloud []string
	devices     int
	// Min and Max are the limits of the number of free addresses.
	Min, Max int
}

// Free returns the number of addresses for further pods.
func (a *Account) Free() int { return len(a.cloud) - len(a.used) }

func (a *Account) String() string {
	return fmt.Sprintf("%s %d addresses, %d used", a.Node, len(a.cloud), len(a.used))
}

// Wrong returns a disagreement, or "".
func (a *Account) Wrong() string {
	switch {
	case !slices.Equal(a.pods, a.used):
		return fmt.Sprintf("%s: pods have %v, the agent reports %v", a.Node, a.pods, a.used)
	case !slices.Equal(a.spec, a.cloud):
		return fmt.Sprintf("%s: the controller lets it use %v, the cloud has %v", a.Node, a.spec, a.cloud)
	case a.devices != len(a.pods):
		return fmt.Sprintf("%s: %d devices for %d pods", a.Node, a.devices, len(a.pods))
	case a.Free() > a.Max:
		return fmt.Sprintf("%s: %d free addresses, at most %d are to stay", a.Node, a.Free(), a.Max)
	case a.Free() < a.Min:
		return fmt.Sprintf("%s: %d free addresses, at least %d are to be there", a.Node, a.Free(), a.Min)
	}
	return ""
}

// Accounts reads the state of every node from cluster, agent, controller, cloud and kernel.
func (c *Cluster) Accounts(ctx context.Context) ([]*Account, error) {
	pods, err := c.Client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	var all []*Account
	for _, m := range c.Lab.Machines {
		nn, err := c.NodeNetwork(ctx, m.Name)
		if err != nil {
			return nil, err
		}
		a := &Account{Node: m.Name, Min: nn.Spec.Pool.Min, Max: nn.Spec.Pool.Max, spec: specAddresses(nn)}
		if c.Exclusive(m.Name) {
			// Free ENIs, each with one address: one may stay after a pod has ended.
			a.Min, a.Max = nn.Spec.Pool.WarmENIs, nn.Spec.Pool.WarmENIs+1
		}
		// A node that is nearly full cannot keep its reserve.
		a.Min = min(a.Min, max(0, nn.Spec.Limits.MaxPods-len(nn.Status.Used)))
		for _, p := range pods.Items {
			if p.Spec.NodeName == m.Name && !p.Spec.HostNetwork && p.Status.PodIP != "" &&
				p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
				a.pods = append(a.pods, p.Status.PodIP)
			}
		}
		for _, u := range nn.Status.Used {
			a.used = append(a.used, u.Address)
		}
		enis, err := c.Lab.Cloud.ENIs(ctx, m.InstanceID)
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

// Consistent waits until all agree about every address, no ENI is left over and the pools are
// within their limits.
func (c *Cluster) Consistent(ctx context.Context) ([]*Account, error) {
	var all []*Account
	var wrong []string
	err := c.PollCloud(ctx, "cluster, agents, controller, cloud and kernel to agree", func() (_ bool, err error) {
		if all, err = c.Accounts(ctx); err != nil {
			return false, err
		}
		wrong = wrong[:0]
		for _, a := range all {
			if w := a.Wrong(); w != "" {
				wrong = append(wrong, w)
			}
		}
		loose, err := c.looseENIs(ctx)
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

// looseENIs returns the secondary ENIs that are attached to no instance.
func (c *Cluster) looseENIs(ctx context.Context) ([]string, error) {
	all, err := c.Lab.Cloud.ENIs(ctx, "")
	var loose []string
	for _, i := range all {
		if i.Type != "Primary" && i.Status == "Available" {
			loose = append(loose, i.ID)
		}
	}
	return loose, err
}

// TotalAddresses returns the number of addresses of the nodes in the cloud.
func TotalAddresses(all []*Account) (n int) {
	for _, a := range all {
		n += len(a.cloud)
	}
	return n
}

// DescribeAccounts formats all nodes on one line.
func DescribeAccounts(all []*Account) string {
	var parts []string
	for _, a := range all {
		parts = append(parts, a.String())
	}
	return strings.Join(parts, ", ")
}
