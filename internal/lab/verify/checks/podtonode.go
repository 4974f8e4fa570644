package checks

import (
	"context"
	"fmt"
	"strings"

	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/verify"
)

// proxyHealthPort is the port of kube-proxy's health service on each node.
const proxyHealthPort = 10256

var podToNode = verify.Check{
	Name:   "pod-to-node",
	About:  "a pod reaches its own node and another one; each node reaches its own pods and another node's, with an address of its own",
	Beside: true,
	Run: run(func(ctx context.Context, e *env) (string, error) {
		na, nb, pods, err := e.PodsOnTwo(ctx, 1)
		if err != nil {
			return "", err
		}
		var lines []string
		for _, n := range []lab.Machine{na, nb} {
			code, err := e.Curl(ctx, pods[0].Name, instruments.URL(n.Address.String(), proxyHealthPort, "healthz"), "-o", "/dev/null", "-w", "%{http_code}")
			if err != nil {
				return "", fmt.Errorf("pod on %s to %s: %w", na.Name, n.Name, err)
			}
			if code != "200" {
				return "", fmt.Errorf("pod on %s to %s: answer %s", na.Name, n.Name, code)
			}
			lines = append(lines, fmt.Sprintf("pod on %s → %s", na.Name, n.Name))
		}
		for _, n := range []lab.Machine{na, nb} {
			for i, p := range pods {
				seen, err := instruments.HTTPFrom(ctx, n.NetNS, p.Status.PodIP, instruments.HTTPPort, "clientip")
				if err != nil {
					return "", fmt.Errorf("node %s to the pod on %s: %w", n.Name, e.Lab.Machines[i].Name, err)
				}
				want, err := e.nodeAddress(ctx, n, e.Lab.Machines[i])
				if err != nil {
					return "", err
				}
				if instruments.HostOf(seen) != want {
					return "", fmt.Errorf("node %s to the pod on %s: the pod saw client %s, not the node's address %s", n.Name, e.Lab.Machines[i].Name, seen, want)
				}
				lines = append(lines, fmt.Sprintf("%s (%s) → pod on %s", n.Name, want, e.Lab.Machines[i].Name))
			}
		}
		return strings.Join(lines, ", ") + ": all answered, with the node's own address", nil
	}),
}

// nodeAddress returns the address of a node in connections to pods of a node. To its own pods,
// with Flannel, it is the bridge's.
func (e *env) nodeAddress(ctx context.Context, from, to lab.Machine) (string, error) {
	if e.Lab.Options.Network != lab.NetworkFlannel || from.Name != to.Name {
		return from.Address.String(), nil
	}
	blocks, err := e.blocks(ctx)
	return blocks[from.Name].Addr().Next().String(), err
}
