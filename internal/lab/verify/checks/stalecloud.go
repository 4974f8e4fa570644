package checks

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/verify"
	"terway.dev/terway/internal/vpcsim/faults"
)

const (
	// listsOld is the age of the cloud's lists: more than the 10 s during which the controller
	// does not trust a single list.
	listsOld = 40 * time.Second
	// afterRestart is how long the check watches after the restarts: more than those 10 s.
	afterRestart = 20 * time.Second
	// nextBurst is how many pods start then: few enough that no ENI must be attached, which the
	// lists would show only after listsOld.
	nextBurst = 8
)

var staleCloud = verify.Check{
	Name:    "stale-cloud",
	About:   fmt.Sprintf("while the cloud's lists are %s old and all controllers and agents are killed, no unassigned address is offered to pods, and all pods of the next burst answer", listsOld),
	NotFor:  map[string]string{lab.NetworkFlannel: "pods' addresses do not come from the cloud"},
	Trouble: true, Shared: true,
	Run: run(func(ctx context.Context, e *env) (_ string, err error) {
		na, _, err := e.TwoNodes()
		if err != nil {
			return "", err
		}
		if _, err := e.PodOn(ctx, na); err != nil {
			return "", err
		}
		n, err := e.Burst(ctx)
		if err != nil {
			return "", err
		}
		d := e.NewDeployment("burst", n)
		if err := d.Create(ctx); err != nil {
			return "", err
		}
		if _, err := d.Settle(ctx); err != nil {
			return "", err
		}
		peak, err := e.Lab.Cloud.Attached(ctx)
		if err != nil {
			return "", err
		}
		defer func() {
			clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
			defer cancel()
			err = errors.Join(err, e.Lab.Cloud.RemoveFault(clean, faultName))
		}()
		if err := e.Lab.Cloud.AddFault(ctx, faults.Rule{Name: faultName, Action: "Describe*", Stale: faults.Duration(listsOld)}); err != nil {
			return "", err
		}
		if err := d.Scale(ctx, 0); err != nil {
			return "", err
		}
		var taken int
		if err := e.Poll(ctx, "addresses to be taken off ENIs", func() (bool, error) {
			if err := e.onlyAssigned(ctx); err != nil {
				return false, err
			}
			now, err := e.Lab.Cloud.Attached(ctx)
			taken = len(peak) - len(now)
			return taken >= int(n)/4, err
		}); err != nil {
			return "", err
		}
		for _, program := range []string{controllerName, "terwayd"} {
			killed, err := instruments.Kill(program, e.Lab.Machines...)
			if err != nil {
				return "", err
			}
			e.Killed += killed
		}
		for until := time.Now().Add(afterRestart); time.Now().Before(until); time.Sleep(200 * time.Millisecond) {
			if err := e.onlyAssigned(ctx); err != nil {
				return "", err
			}
		}
		next := min(n, nextBurst)
		if err := d.Scale(ctx, next); err != nil {
			return "", err
		}
		pods, err := d.Settle(ctx)
		if err != nil {
			return "", errors.Join(err, e.onlyAssigned(ctx))
		}
		if err := errors.Join(instruments.SharedAddresses(pods), e.onlyAssigned(ctx), e.allAnswer(ctx, pods)); err != nil {
			return "", err
		}
		if err := e.Lab.Cloud.RemoveFault(ctx, faultName); err != nil {
			return "", err
		}
		if err := d.Scale(ctx, 0); err != nil {
			return "", err
		}
		if _, err := d.Settle(ctx); err != nil {
			return "", err
		}
		return fmt.Sprintf("lists %s old, %d addresses taken off ENIs, all controllers and agents killed: no such address was offered in %s, and %d pods had addresses that ENIs have and answered",
			listsOld, taken, afterRestart, next), e.NoProblem(ctx)
	}),
}

// onlyAssigned returns an error if the controller lets a node use an address that none of its
// ENIs has.
func (e *env) onlyAssigned(ctx context.Context) error {
	for _, m := range e.Lab.Machines {
		bad, err := e.unassigned(ctx, m)
		if err != nil {
			return err
		}
		if len(bad) == 0 {
			continue
		}
		// An address may be removed between the two reads, if the node had confirmed it.
		again, err := e.unassigned(ctx, m)
		if err != nil {
			return err
		}
		for addr := range again {
			if bad[addr] {
				return fmt.Errorf("%s may give pods %s, which the cloud has on none of its ENIs", m.Name, addr)
			}
		}
	}
	return nil
}

// unassigned returns the addresses that a node may give to pods and that none of its ENIs has.
func (e *env) unassigned(ctx context.Context, m lab.Machine) (map[netip.Addr]bool, error) {
	nn, err := e.NodeNetwork(ctx, m.Name)
	if err != nil {
		return nil, err
	}
	there, err := e.Lab.Cloud.Attached(ctx)
	if err != nil {
		return nil, err
	}
	bad := map[netip.Addr]bool{}
	for _, eni := range nn.Spec.ENIs {
		for _, a := range eni.Addresses {
			addr, err := netip.ParseAddr(a.Address)
			if err != nil {
				return nil, fmt.Errorf("NodeNetwork %s: %w", m.Name, err)
			}
			if eni.Phase == v1alpha1.ENIReady && !a.Releasing && !a.Unassigning && there[addr] != m.InstanceID {
				bad[addr] = true
			}
		}
	}
	return bad, nil
}

// allAnswer sends a request to each pod from pod p1.
func (e *env) allAnswer(ctx context.Context, pods []corev1.Pod) error {
	for _, p := range pods {
		if who, err := e.Curl(ctx, "p1", instruments.URL(p.Status.PodIP, instruments.HTTPPort, "hostname"), "--max-time", "3"); err != nil || who != p.Name {
			return fmt.Errorf("pod %s on %s with %s: %q answered, %w", p.Name, p.Spec.NodeName, p.Status.PodIP, who, err)
		}
	}
	return nil
}
