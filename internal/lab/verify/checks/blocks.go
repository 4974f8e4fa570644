package checks

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/verify"
)

// vpcAddresses is why Flannel's checks do not apply to Terway.
const vpcAddresses = "pods have addresses of the VPC itself: no blocks, no route entries, no NAT"

// blocks returns the nodes' blocks of the pod CIDR, which must not overlap.
func (e *env) blocks(ctx context.Context) (map[string]netip.Prefix, error) {
	nodes, err := e.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	blocks := map[string]netip.Prefix{}
	for _, n := range nodes.Items {
		b, err := e.blockOf(&n)
		if err != nil {
			return nil, err
		}
		for other, o := range blocks {
			if o.Overlaps(b) {
				return nil, fmt.Errorf("the blocks of %s and %s overlap: %s, %s", other, n.Name, o, b)
			}
		}
		blocks[n.Name] = b
	}
	return blocks, nil
}

func (e *env) blockOf(n *corev1.Node) (netip.Prefix, error) {
	b, err := netip.ParsePrefix(n.Spec.PodCIDR)
	if err != nil {
		return b, fmt.Errorf("node %s: block of the pod CIDR: %w", n.Name, err)
	}
	if all := e.Lab.Options.Plan.PodCIDR; !all.Overlaps(b) || b.Bits() < all.Bits() {
		return b, fmt.Errorf("node %s: its block %s is not of the pod CIDR %s", n.Name, b, all)
	}
	return b, nil
}

var addressFromBlock = verify.Check{
	Name:   "address-from-block",
	About:  "a pod's address is of its node's block of the pod CIDR, as the node's CNI configuration says, and the pod has no other",
	NotFor: map[string]string{lab.NetworkTerway: vpcAddresses},
	Beside: true,
	Run: run(func(ctx context.Context, e *env) (string, error) {
		pods, err := e.PodOn(ctx, e.Lab.Machines...)
		if err != nil {
			return "", err
		}
		blocks, err := e.blocks(ctx)
		if err != nil {
			return "", err
		}
		var lines []string
		for i, p := range pods {
			m := e.Lab.Machines[i]
			block := blocks[m.Name]
			addr, err := netip.ParseAddr(p.Status.PodIP)
			if err != nil {
				return "", fmt.Errorf("pod %s: %w", p.Name, err)
			}
			if !block.Contains(addr) {
				return "", fmt.Errorf("pod %s on %s has %s, which is not of the node's block %s", p.Name, m.Name, addr, block)
			}
			inside, err := e.Exec(ctx, p.Name, "ip", "-4", "-o", "addr", "show", "dev", "eth0")
			if err != nil {
				return "", err
			}
			if want := fmt.Sprintf(" %s/%d ", addr, block.Bits()); !strings.Contains(inside, want) || strings.Count(inside, " inet ") != 1 {
				return "", fmt.Errorf("pod %s: eth0 has %q, want only%s", p.Name, inside, want)
			}
			lines = append(lines, fmt.Sprintf("%s of %s on %s", addr, block, m.Name))
		}
		return strings.Join(lines, "; "), nil
	}),
}

var vpcRoutes = verify.Check{
	Name:   "vpc-routes",
	About:  "the VPC's route table has one entry for each node's block, to the node's instance, and none besides in the pod CIDR",
	NotFor: map[string]string{lab.NetworkTerway: vpcAddresses},
	Beside: true,
	Run: run(func(ctx context.Context, e *env) (string, error) {
		blocks, err := e.blocks(ctx)
		if err != nil {
			return "", err
		}
		routes, err := e.podRoutes(ctx)
		if err != nil {
			return "", err
		}
		var lines []string
		for _, m := range e.Lab.Machines {
			r, ok := routes[blocks[m.Name]]
			if !ok {
				return "", fmt.Errorf("no route entry for %s, the block of %s", blocks[m.Name], m.Name)
			}
			if r.Via != m.InstanceID || r.Type != "Instance" || r.Status != "Available" {
				return "", fmt.Errorf("the entry for %s goes to %s %s and is %s, want instance %s (%s)", r.To, r.Type, r.Via, r.Status, m.InstanceID, m.Name)
			}
			lines = append(lines, fmt.Sprintf("%s → %s (%s)", r.To, r.Via, m.Name))
			delete(routes, r.To)
		}
		for to, r := range routes {
			return "", fmt.Errorf("entry for %s to %s, which is no node's block", to, r.Via)
		}
		return strings.Join(lines, "; "), nil
	}),
}

// podRoutes returns the VPC's route entries in the pod CIDR.
func (e *env) podRoutes(ctx context.Context) (map[netip.Prefix]lab.Route, error) {
	all, err := e.Lab.Cloud.Routes(ctx)
	routes := map[netip.Prefix]lab.Route{}
	for _, r := range all {
		if r.To.Overlaps(e.Lab.Options.Plan.PodCIDR) {
			routes[r.To] = r
		}
	}
	return routes, err
}
