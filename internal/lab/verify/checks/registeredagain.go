package checks

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/verify"
)

var registeredAgain = verify.Check{
	Name:    "node-registered-again",
	About:   "a node that is deleted and registered again at once keeps the ENIs of its pods, whose connections go on; then its NodeNetwork and the cloud agree and a new pod starts",
	NotFor:  map[string]string{lab.NetworkFlannel: "the node has another block then: see node-made-anew"},
	Trouble: true,
	Run: run(func(ctx context.Context, e *env) (string, error) {
		_, nb, pods, err := e.PodsOnTwo(ctx, 2)
		if err != nil {
			return "", err
		}
		if _, err := e.Consistent(ctx); err != nil {
			return "", fmt.Errorf("before: %w", err)
		}
		held, err := e.held(ctx, nb)
		if err != nil {
			return "", err
		}
		t, err := instruments.StartTraffic(pods[0], pods[1:], "")
		if err != nil {
			return "", err
		}
		after, err := e.deleteAndRegister(ctx, nb, held)
		r := t.Stop()
		if err := errors.Join(err, r.Err()); err != nil {
			return r.String(), err
		}
		if err := e.CreatePod(ctx, "after", e.PodSpec(nb.Name)); err != nil {
			return "", err
		}
		next, err := e.Ready(ctx, "after")
		if err != nil {
			return "", err
		}
		if _, err := e.Curl(ctx, pods[0].Name, instruments.URL(next[0].Status.PodIP, instruments.HTTPPort, "hostname")); err != nil {
			return "", fmt.Errorf("to a pod made after it: %w", err)
		}
		return fmt.Sprintf("%s deleted and registered again with pods on %v: %s; nothing was taken, all agree again (%s), and a new pod answers", nb.Name, held, r, instruments.DescribeAccounts(after)), e.NoProblem(ctx)
	}),
}

// held returns the ENIs of a machine that have an address of one of its pods.
func (e *env) held(ctx context.Context, m lab.Machine) ([]string, error) {
	pods, err := e.Client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + m.Name})
	if err != nil {
		return nil, fmt.Errorf("list the pods of %s: %w", m.Name, err)
	}
	var ids []string
	for _, p := range pods.Items {
		if p.Spec.HostNetwork || p.Status.PodIP == "" || lab.Ended(&p) {
			continue
		}
		eni, err := e.Holder(ctx, m, p.Status.PodIP)
		if err != nil {
			return nil, fmt.Errorf("pod %s/%s: %w", p.Namespace, p.Name, err)
		}
		if !slices.Contains(ids, eni.ID) {
			ids = append(ids, eni.ID)
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// deleteAndRegister deletes a node, makes its kubelet register it again, and waits until it is
// ready and all agree about its addresses. It fails if an ENI is removed meanwhile.
func (e *env) deleteAndRegister(ctx context.Context, m lab.Machine, held []string) ([]*instruments.Account, error) {
	old, err := e.Client.CoreV1().Nodes().Get(ctx, m.Name, metav1.GetOptions{})
	if err == nil {
		err = e.Client.CoreV1().Nodes().Delete(ctx, m.Name, metav1.DeleteOptions{})
	}
	// The lab keeps its nodes after any failure.
	_, killed := instruments.Kill("kubelet", m)
	if err := errors.Join(err, killed); err != nil {
		return nil, fmt.Errorf("delete node %s and register it again: %w", m.Name, err)
	}
	if err := e.Poll(ctx, m.Name+" to be registered again and ready", func() (bool, error) {
		if err := e.still(ctx, m, held); err != nil {
			return false, err
		}
		return e.readyAgain(ctx, m.Name, old.UID)
	}); err != nil {
		return nil, err
	}
	var all []*instruments.Account
	err = e.PollCloud(ctx, "all to agree again", func() (_ bool, err error) {
		if err := e.still(ctx, m, held); err != nil {
			return false, err
		}
		all, err = e.Accounts(ctx)
		if apierrors.IsNotFound(err) {
			return false, nil // its NodeNetwork does not exist yet
		}
		return err == nil && !slices.ContainsFunc(all, func(a *instruments.Account) bool { return a.Wrong() != "" }), err
	})
	if err != nil {
		for _, a := range all {
			if w := a.Wrong(); w != "" {
				err = errors.Join(err, errors.New(w))
			}
		}
		return all, err
	}
	return all, nil
}

// still returns an error if the machine has lost one of the ENIs.
func (e *env) still(ctx context.Context, m lab.Machine, ids []string) error {
	list, err := e.Lab.Cloud.ENIs(ctx, m.InstanceID)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if !slices.ContainsFunc(list, func(i lab.ENI) bool { return i.ID == id && i.Status == "InUse" }) {
			return fmt.Errorf("%s, with addresses that pods have, was taken from %s", id, m.Name)
		}
	}
	return nil
}

// readyAgain reports whether the node is registered with another UID and ready.
func (e *env) readyAgain(ctx context.Context, name string, old types.UID) (bool, error) {
	n, err := e.Client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && n.UID == old {
		return false, nil
	}
	return err == nil && slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	}), err
}
