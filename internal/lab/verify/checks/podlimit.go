package checks

import (
	"context"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/verify"
)

const podLimitName = "pod-limit"

var podLimit = verify.Check{
	Name:    podLimitName,
	About:   "on a full node (by the addresses or exclusive ENIs of its instance type, or by its block) the next pod waits, its events say why, and it starts when another ends",
	PerMode: true,
	Run: run(func(ctx context.Context, e *env) (string, error) {
		m := e.Lab.Machines[len(e.Lab.Machines)-1]
		full, err := e.FullnessOf(ctx, m)
		if err != nil {
			return "", err
		}
		limit, room := full.Limit, full.Room()
		if room < 1 {
			return "", instruments.NothingToTest(fmt.Sprintf("%s has %d pods of %d already", m.Name, full.There, limit))
		}
		fill := e.NewDeployment("fill", int32(room))
		fill.Node = m.Name
		if err := fill.Create(ctx); err != nil {
			return "", err
		}
		pods, err := fill.Settle(ctx)
		if err != nil {
			return "", err
		}
		if err := instruments.SharedAddresses(pods); err != nil {
			return "", err
		}
		if err := e.CreatePod(ctx, "next", e.PodSpec(m.Name)); err != nil {
			return "", err
		}
		var why string
		if err := e.Poll(ctx, "an event that says why the next pod waits", func() (bool, error) {
			events, err := e.Events(ctx, "next")
			if err != nil {
				return false, err
			}
			for _, ev := range events {
				if strings.Contains(ev, "Too many pods") || strings.Contains(ev, "instance type") || strings.Contains(ev, insufficientENI) {
					why = ev
				}
			}
			return why != "", nil
		}); err != nil {
			return "", err
		}
		next, err := e.Client.CoreV1().Pods(e.Namespace).Get(ctx, "next", metav1.GetOptions{})
		if err != nil {
			return "", fmt.Errorf("read pod next: %w", err)
		}
		if instruments.PodReady(next) {
			return "", fmt.Errorf("the pod beyond the limit of %d runs with %s", limit, next.Status.PodIP)
		}
		began := time.Now()
		if err := fill.Scale(ctx, int32(room-1)); err != nil {
			return "", err
		}
		if _, err := e.Ready(ctx, "next"); err != nil {
			return "", err
		}
		return fmt.Sprintf("%s (%s) took %d pods of %d, %d of them new, each with an address of its own; the next waited (%s) and started %.1f s after another's end",
			m.Name, m.Type, limit, limit, room, strings.TrimSpace(why), time.Since(began).Seconds()), nil
	}),
}
