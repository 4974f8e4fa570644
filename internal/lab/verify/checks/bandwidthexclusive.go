package checks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/internal/bandwidth"
	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/verify"
)

var bandwidthExclusive = verify.Check{
	Name:   "bandwidth-exclusive",
	About:  "a pod with an exclusive ENI has one limit for both its devices: the ENI, and the one to its node",
	NotFor: noLimitsOfFlannel,
	Once:   true,
	Run: run(withENI(1, func(ctx context.Context, e *env, na, nb lab.Machine) (string, error) {
		spec := instruments.PlainSpec(nb.Name)
		lab.AskForENI(&spec)
		if err := e.CreateAnnotated(ctx, "own", map[string]string{bandwidth.Ingress: limitText, bandwidth.Egress: limitText}, spec, metav1.CreateOptions{}); err != nil {
			return "", err
		}
		if err := e.CreatePod(ctx, "far", e.PodSpec(na.Name)); err != nil {
			return "", err
		}
		ends, err := e.ends(ctx, "own", "far")
		if err != nil {
			return "", err
		}
		own, far, node := ends[0], ends[1], instruments.MachineEnd(nb)
		var all []string
		for _, egress := range []bool{true, false} {
			before, err := instruments.PodOctets(own.NetNS)
			if err != nil {
				return "", err
			}
			rate, err := rateDuring(own, egress, func() (float64, error) {
				return together(ctx, direct(own, far, egress), direct(own, node, egress))
			})
			if err != nil {
				return "", err
			}
			after, err := instruments.PodOctets(own.NetNS)
			if err != nil {
				return "", err
			}
			// A device that carried next to nothing proves nothing of the sum.
			var shares []string
			for device, now := range after {
				n := now.Received - before[device].Received
				if egress {
					n = now.Sent - before[device].Sent
				}
				if n >= 100e3 {
					shares = append(shares, fmt.Sprintf("%s %.1f MB", device, float64(n)/1e6))
				}
			}
			slices.Sort(shares)
			text, wrong := judged(directionOf(egress)+" both", rate, limitBits)
			all = append(all, fmt.Sprintf("%s by %s", text, strings.Join(shares, " and ")))
			if len(shares) != 2 {
				err = fmt.Errorf("packets went by %d devices of the pod (%s), want two", len(shares), strings.Join(shares, ", "))
			}
			if err := errors.Join(err, wrong); err != nil {
				return strings.Join(all, "; "), err
			}
		}
		return fmt.Sprintf("a pod of %s with a pod of %s and with its node at once: %s", nb.Name, na.Name, strings.Join(all, "; ")), nil
	})),
}

// together streams by two pairs at once, and returns the bits per second that arrived of both.
func together(ctx context.Context, a, b instruments.Pair) (float64, error) {
	var of [2]float64
	done := make(chan error, 1)
	go func() {
		var err error
		of[0], err = a.Stream(ctx, streaming)
		done <- err
	}()
	var err error
	of[1], err = b.Stream(ctx, streaming)
	err = errors.Join(err, <-done)
	return of[0] + of[1], err
}
