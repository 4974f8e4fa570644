package checks

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/verify"
)

var crossNode = verify.Check{
	Name:   "pod-to-pod-cross-node",
	About:  "pods on different nodes reach each other with their own addresses in the VPC and without encapsulation",
	Beside: true,
	Run: run(func(ctx context.Context, e *env) (string, error) {
		na, nb, pods, err := e.PodsOnTwo(ctx, 1)
		if err != nil {
			return "", err
		}
		a, b := pods[0], pods[1]
		by, err := e.Carrier(ctx, na, a)
		if err != nil {
			return "", err
		}
		port, err := e.FabricPort(by.Dev)
		if err != nil {
			return "", err
		}
		c, err := instruments.Sniff(e.Lab.Cloud.FabricNS, port)
		if err != nil {
			return "", err
		}
		const requests = 20
		answer, err := e.Curl(ctx, a.Name, instruments.URL(b.Status.PodIP, instruments.HTTPPort, fmt.Sprintf("clientip?[1-%d]", requests)), "-w", "\n")
		frames, stopErr := c.Stop()
		if err := errors.Join(err, stopErr); err != nil {
			return "", err
		}
		seen := instruments.HostOf(firstLine(answer))
		src, dst := netip.MustParseAddr(a.Status.PodIP), netip.MustParseAddr(b.Status.PodIP)
		own, wrapped := 0, 0
		for _, f := range frames {
			switch {
			case f.Tunnelled():
				wrapped++
			case f.Src == src && f.Dst == dst:
				own++
			}
		}
		measured := fmt.Sprintf("%d requests %s (%s) → %s (%s): the port of %s in the fabric saw %d packets with the pod's own source, %d encapsulated; the server saw client %s",
			requests, src, na.Name, dst, nb.Name, by.ENI.ID, own, wrapped, seen)
		if own < 4*requests {
			return measured, fmt.Errorf("%d packets from %s to %s in the fabric are too few for %d requests", own, src, dst, requests)
		}
		if wrapped > 0 {
			return measured, fmt.Errorf("%d packets in the fabric were encapsulated", wrapped)
		}
		if seen != src.String() {
			return measured, fmt.Errorf("the server saw client %s, not the pod's address %s", seen, src)
		}
		return measured, nil
	}),
}
