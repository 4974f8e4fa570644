package compare

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
)

// calm is how long the number of addresses must not change: nodes get and give back addresses
// for a while after pods have started.
const calm = 5 * time.Second

// addresses counts the addresses that the pod network holds and that pods use.
func (c *cluster) addresses(ctx context.Context) (Addresses, error) {
	var last Addresses
	var since time.Time
	err := c.wait(ctx, "the nodes to have all the addresses they want", func() (bool, error) {
		now, err := c.count(ctx)
		if err != nil {
			return false, err
		}
		if now.OnENIs != last.OnENIs || now.Routes != last.Routes || now.Pods != last.Pods || since.IsZero() {
			last, since = now, time.Now()
		}
		return time.Since(since) >= calm, nil
	})
	return last, err
}

func (c *cluster) count(ctx context.Context) (Addresses, error) {
	var a Addresses
	for _, m := range c.Lab.Machines {
		n, err := c.Lab.Cloud.AddressCount(ctx, m.InstanceID)
		if err != nil {
			return a, err
		}
		a.OnENIs += n
	}
	nodes, err := c.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return a, fmt.Errorf("list nodes: %w", err)
	}
	for _, n := range nodes.Items {
		for _, s := range n.Spec.PodCIDRs {
			p, err := netip.ParsePrefix(s)
			if err != nil {
				return a, fmt.Errorf("node %s: podCIDR: %w", n.Name, err)
			}
			// An IPv6 block is never used up, and its size does not fit the table.
			if p.Addr().Is4() {
				a.Blocks = append(a.Blocks, s)
				a.InBlocks += 1 << (32 - p.Bits())
			}
		}
	}
	slices.Sort(a.Blocks)
	pods, err := c.Client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return a, fmt.Errorf("list pods: %w", err)
	}
	for i := range pods.Items {
		if p := &pods.Items[i]; running(p) && !p.Spec.HostNetwork {
			a.Pods++
		}
	}
	a.Routes, err = c.Lab.Cloud.CustomRoutes(ctx)
	return a, err
}

// commonDatapath returns the nodes' datapath from a list of NodeNetworks; if they differ, it
// lists all.
func commonDatapath(list []byte) (string, error) {
	var l v1alpha1.NodeNetworkList
	if err := json.Unmarshal(list, &l); err != nil {
		return "", fmt.Errorf("read NodeNetworks: %w", err)
	}
	var names []string
	for _, nn := range l.Items {
		if d := nn.Status.Datapath; d != "" && !slices.Contains(names, d) {
			names = append(names, d)
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", "), nil
}

// seenFrom returns the client address that an instance outside the cluster sees for a pod.
func seenFrom(ctx context.Context, p instruments.Pair, node lab.Machine) (Seen, error) {
	client, server, err := p.Open(ctx)
	if err != nil {
		return Seen{}, err
	}
	defer client.Close()
	defer server.Close()
	as, err := netip.ParseAddrPort(server.RemoteAddr().String())
	if err != nil {
		return Seen{}, fmt.Errorf("address of %s as seen by %s: %w", p.From.Addr, p.To.Addr, err)
	}
	return Seen{Pod: p.From.Addr.String(), As: as.Addr().Unmap().String(), Node: node.Address.String()}, nil
}
