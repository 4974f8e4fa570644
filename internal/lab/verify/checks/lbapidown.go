package checks

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/load"
	"terway.dev/terway/internal/lab/verify"
	"terway.dev/terway/internal/vpcsim/faults"
)

// apiDown is how long lb-api-down keeps the cloud's API from answering.
const apiDown = 200 * time.Second

var lbAPIDown = verify.Check{
	Name: "lb-api-down",
	About: fmt.Sprintf("no call to the cloud is answered for %s, while the pods behind a CLB and an NLB are replaced and other pods take all addresses that nodes have: no request reaches one of those, "+
		"no one has an address of a pod that is gone, and when calls are answered again the new pods serve", apiDown),
	NotFor: noPodBackends, Once: true, Shared: true, Trouble: true,
	Run: run(func(ctx context.Context, e *env) (_ string, err error) {
		d := e.Webservers("web", 4, 0, 4, "--at-sigterm", "exit")
		all, before, err := e.behind(ctx, "web", d, false)
		if err != nil {
			return "", err
		}
		n, err := e.Burst(ctx)
		if err != nil {
			return "", err
		}
		others := e.Webservers("other", n, 0, 1)
		var taken []corev1.Pod
		reports, err := e.underLoad(ctx, all, before, 0, func() (_ []corev1.Pod, err error) {
			defer func() {
				clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
				defer cancel()
				err = errors.Join(err, e.Lab.Cloud.RemoveFault(clean, faultName))
			}()
			if err := e.Lab.Cloud.AddFault(ctx, faults.Rule{Name: faultName, Error: &faults.Error{Code: "ServiceUnavailable", Status: 503}}); err != nil {
				return nil, err
			}
			up := time.After(apiDown)
			if err := d.Rollout(ctx); err != nil {
				return nil, err
			}
			if err := e.gone(ctx, d, before); err != nil {
				return nil, err
			}
			if err := others.Create(ctx); err != nil {
				return nil, err
			}
			select {
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			case <-up:
			}
			if taken, err = e.noneOf(ctx, others, before); err != nil {
				return nil, err
			}
			if err := e.Lab.Cloud.RemoveFault(ctx, faultName); err != nil {
				return nil, err
			}
			if err := others.Scale(ctx, 0); err != nil {
				return nil, err
			}
			return d.Rolled(ctx)
		})
		var said []string
		for i, r := range reports {
			said = append(said, all[i].Name+": "+r.Summary())
			err = errors.Join(err, onlyWeb(r))
		}
		return fmt.Sprintf("%d pods gone, %d others started in %s without the cloud; %s", len(before), len(taken), apiDown, strings.Join(said, "; ")), err
	}),
}

// gone waits until no pod of a Deployment is one of these.
func (e *env) gone(ctx context.Context, d *instruments.Deployment, pods []corev1.Pod) error {
	return e.Poll(ctx, "the former pods to be gone", func() (bool, error) {
		now, err := d.Pods(ctx)
		return !slices.ContainsFunc(now, func(p corev1.Pod) bool {
			return slices.ContainsFunc(pods, func(old corev1.Pod) bool { return old.UID == p.UID })
		}), err
	})
}

// noneOf returns a Deployment's pods that have an address, and an error if one is an address of pods that are gone. Some
// must have one and others wait for one: else not all addresses that there are were taken.
func (e *env) noneOf(ctx context.Context, d *instruments.Deployment, gone []corev1.Pod) (have []corev1.Pod, err error) {
	pods, err := d.Pods(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range pods {
		if p.Status.PodIP == "" {
			continue
		}
		have = append(have, p)
		for _, old := range gone {
			if old.Status.PodIP == p.Status.PodIP {
				err = errors.Join(err, fmt.Errorf("pod %s has the address %s of pod %s, which load balancers still have as a backend", p.Name, p.Status.PodIP, old.Name))
			}
		}
	}
	if err == nil && (len(have) == 0 || len(have) == len(pods)) {
		err = fmt.Errorf("%d of %d pods have an address without the cloud, want some of them, and others that wait: nothing was tested", len(have), len(pods))
	}
	return have, err
}

// onlyWeb returns an error if a pod has answered that is not of the Deployment web, or none has.
func onlyWeb(r *load.Report) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(r.Pods)) {
		if !strings.HasPrefix(name, "web-") {
			errs = append(errs, fmt.Errorf("%s, a pod of another workload, has answered %d requests, the last connection at %s", name, r.Pods[name].Answers, r.Pods[name].Last.Format("15:04:05.000")))
		}
	}
	if len(r.Pods) == 0 {
		errs = append(errs, errors.New("no request was answered: nothing was tested"))
	}
	return errors.Join(errs...)
}
