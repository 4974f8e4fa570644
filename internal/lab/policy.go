package lab

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/api/v1alpha1"
)

// SwitchPolicy turns network policies on or off in the running lab, like an operator: it upgrades the chart and waits until
// every pod of Terway is of the new form and, if they are on, every node has what policies say. The recorded options stay.
func (s *State) SwitchPolicy(ctx context.Context, on bool) error {
	to := *s
	to.Options.Policy = on
	if err := to.installTerway(ctx); err != nil {
		return err
	}
	return to.waitPolicy(ctx)
}

// PoliciesOn returns an error that says what a node lacks if network policies are not on at every node, whatever the recorded
// options say.
func (s *State) PoliciesOn(ctx context.Context) error {
	objects, err := s.Options.Objects()
	if err != nil {
		return err
	}
	on := *s
	on.Options.Policy = true
	for _, m := range s.Machines {
		if err := on.policyReady(ctx, objects, m.Name); err != nil {
			return err
		}
	}
	return nil
}

// waitPolicy waits until Terway's pods are those of the chart as it is now, and policies are as the options say.
func (s *State) waitPolicy(ctx context.Context) error {
	c, err := s.Options.Client()
	if err != nil {
		return err
	}
	objects, err := s.Options.Objects()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 3*time.Minute, errors.New("not done within three minutes"))
	defer cancel()
	return eventually(ctx, 100*time.Millisecond, func() error {
		if err := rolledOut(ctx, c); err != nil {
			return err
		}
		for _, m := range s.Machines {
			if err := s.policyReady(ctx, objects, m.Name); err != nil {
				return err
			}
		}
		return nil
	})
}

// rolledOut returns an error while a pod of Terway's is not of the last form, or is not ready, or ends.
func rolledOut(ctx context.Context, c kubernetes.Interface) error {
	sets, err := c.AppsV1().DaemonSets(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/part-of=terway"})
	if err != nil {
		return fmt.Errorf("list Terway's DaemonSets: %w", err)
	}
	if len(sets.Items) != 1 {
		return fmt.Errorf("there are %d DaemonSets of Terway's, want that of its network", len(sets.Items))
	}
	set := &sets.Items[0]
	if st := set.Status; st.ObservedGeneration < set.Generation || st.UpdatedNumberScheduled < st.DesiredNumberScheduled || st.NumberReady < st.DesiredNumberScheduled {
		return fmt.Errorf("of %d agents %d are new and %d ready", st.DesiredNumberScheduled, st.UpdatedNumberScheduled, st.NumberReady)
	}
	return controllerRolledOut(ctx, c)
}

// controllerRolledOut returns an error while a replica of the controller is not of the last form, or is not ready, or a pod of Terway's ends.
func controllerRolledOut(ctx context.Context, c kubernetes.Interface) error {
	d, err := c.AppsV1().Deployments(metav1.NamespaceSystem).Get(ctx, "terway-controller", metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read Deployment terway-controller: %w", err)
	}
	if st, want := d.Status, *d.Spec.Replicas; st.ObservedGeneration < d.Generation || st.UpdatedReplicas < want || st.ReadyReplicas < want || st.Replicas > want {
		return fmt.Errorf("of %d controllers %d are new and %d ready", want, st.UpdatedReplicas, st.ReadyReplicas)
	}
	pods, err := c.CoreV1().Pods(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{LabelSelector: "app in (terwayd,kube-flannel,terway-controller)"})
	if err != nil {
		return fmt.Errorf("list Terway's pods: %w", err)
	}
	for _, p := range pods.Items {
		if p.DeletionTimestamp != nil {
			return fmt.Errorf("pod %s ends", p.Name)
		}
	}
	return nil
}

// policyReady says what a node lacks.
func (s *State) policyReady(ctx context.Context, c client.Client, node string) error {
	nn := &v1alpha1.NodeNetwork{}
	if err := c.Get(ctx, client.ObjectKey{Name: node}, nn); err != nil {
		return fmt.Errorf("read NodeNetwork %s: %w", node, err)
	}
	r := meta.FindStatusCondition(nn.Status.Conditions, v1alpha1.ConditionPolicyReady)
	switch {
	case !s.Options.Policy && r != nil:
		return fmt.Errorf("%s still says that policies are on: %s %s", node, r.Reason, r.Message)
	case !s.Options.Policy:
		return nil
	case r == nil:
		return fmt.Errorf("%s says nothing of policies", node)
	case r.Status != metav1.ConditionTrue:
		return fmt.Errorf("%s: %s: %s", node, r.Reason, r.Message)
	}
	return nil
}
