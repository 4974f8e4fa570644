package checks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
)

// Temporary changes of checks outside their namespace. Each leaves a note by which a later run
// can revert it, if this one is killed before.

// undo reverts what a check that was killed has left.
func (e *env) undo(ctx context.Context) error {
	errs := []error{e.withdraw(ctx), e.Lab.Cloud.RemoveFault(ctx, faultName)}
	if e.Lab.Options.Network == lab.NetworkTerway {
		errs = append(errs, e.restoreSurely(ctx)) // first: the others change what it installs
		errs = append(errs, e.putVSwitchesBack(ctx), e.probesBack(ctx), e.removeVSwitch(ctx), e.putControllerBack(ctx), e.putAgentsBack(ctx), e.putPoliciesBack(ctx), e.removePolicies(ctx, client.HasLabels{ofCheck}),
			e.Lab.Cloud.AcceptNoMore(outsideRange, instruments.HTTPPort), e.uncordon(ctx), e.powerOn(ctx))
		for _, m := range e.Lab.Machines {
			errs = append(errs, e.forward(m.Name, true))
		}
	}
	return errors.Join(errs...)
}

// faultName is the name of the faults that checks add to the cloud.
const faultName = "lab-verify"

// beforeCheck is an annotation on a Deployment or DaemonSet with its values before a check.
const beforeCheck = "lab.terway.dev/before-check"

// note records the current values, unless there is a record: then they were changed since.
func note(o *metav1.ObjectMeta, before any) error {
	if _, noted := o.Annotations[beforeCheck]; noted {
		return nil
	}
	b, err := json.Marshal(before)
	if err != nil {
		return fmt.Errorf("note what is there: %w", err)
	}
	metav1.SetMetaDataAnnotation(o, beforeCheck, string(b))
	return nil
}

// noted removes the note and decodes it into before; false if there is none.
func noted(o *metav1.ObjectMeta, before any) (bool, error) {
	text, noted := o.Annotations[beforeCheck]
	if !noted {
		return false, nil
	}
	if err := json.Unmarshal([]byte(text), before); err != nil {
		return false, fmt.Errorf("annotation %s is %q: want what a check noted: %w", beforeCheck, text, err)
	}
	delete(o.Annotations, beforeCheck)
	return true, nil
}

// objects is the client interface of one kind of object.
type objects[T any] interface {
	Get(ctx context.Context, name string, o metav1.GetOptions) (T, error)
	Update(ctx context.Context, object T, o metav1.UpdateOptions) (T, error)
}

// edit changes an object, and retries if it was changed meanwhile.
func edit[T any](ctx context.Context, in objects[T], name string, change func(T) error) (changed T, err error) {
	err = retry.RetryOnConflict(retry.DefaultRetry, func() error {
		object, err := in.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if err := change(object); err != nil {
			return err
		}
		changed, err = in.Update(ctx, object, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		return changed, fmt.Errorf("change %s: %w", name, err)
	}
	return changed, nil
}

const controllerName = "terway-controller"

// controllerBefore has the values that checks change in the controller's Deployment.
type controllerBefore struct {
	Replicas *int32   `json:"replicas"`
	Args     []string `json:"args"`
}

// changeController changes the controller's Deployment and waits until the change is rolled
// out.
func (e *env) changeController(ctx context.Context, change func(*appsv1.DeploymentSpec)) error {
	return e.editController(ctx, func(d *appsv1.Deployment) error {
		if err := note(&d.ObjectMeta, controllerBefore{d.Spec.Replicas, d.Spec.Template.Spec.Containers[0].Args}); err != nil {
			return err
		}
		change(&d.Spec)
		return nil
	})
}

// putControllerBack reverts changeController.
func (e *env) putControllerBack(ctx context.Context) error {
	return e.editController(ctx, func(d *appsv1.Deployment) error {
		var before controllerBefore
		ok, err := noted(&d.ObjectMeta, &before)
		if ok {
			d.Spec.Replicas, d.Spec.Template.Spec.Containers[0].Args = before.Replicas, before.Args
		}
		return err
	})
}

func (e *env) editController(ctx context.Context, change func(*appsv1.Deployment) error) error {
	deployments := e.Client.AppsV1().Deployments(metav1.NamespaceSystem)
	d, err := edit(ctx, deployments, controllerName, change)
	if err != nil {
		return err
	}
	return e.Poll(ctx, "Deployment "+controllerName+" to have the pods that it asks for, and no others", func() (bool, error) {
		now, err := deployments.Get(ctx, controllerName, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		pods, err := e.Client.CoreV1().Pods(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{LabelSelector: "app=" + controllerName})
		if err != nil {
			return false, err
		}
		s, want := now.Status, *now.Spec.Replicas
		return s.ObservedGeneration >= d.Generation && s.UpdatedReplicas == want && s.ReadyReplicas == want && len(pods.Items) == int(want), nil
	})
}

// sweepRarely sets the controller's sweep period to a time longer than any check.
func sweepRarely(d *appsv1.DeploymentSpec) {
	args := &d.Template.Spec.Containers[0].Args
	*args = slices.DeleteFunc(*args, func(a string) bool { return strings.HasPrefix(a, "--sweep-period=") })
	*args = append(*args, "--sweep-period=1h")
}

const agentName = "terwayd"

// lookRarely sets the agents' period of kernel checks to a time longer than any check.
func lookRarely(args []string) []string {
	args = slices.DeleteFunc(slices.Clone(args), func(a string) bool { return strings.HasPrefix(a, "--repair-period=") })
	return append(args, "--repair-period="+lookPeriod.String())
}

// changeAgents changes the agents' arguments and waits for the rollout.
func (e *env) changeAgents(ctx context.Context, change func(args []string) []string) error {
	return e.editAgents(ctx, func(d *appsv1.DaemonSet) error {
		args := &d.Spec.Template.Spec.Containers[0].Args
		if err := note(&d.ObjectMeta, *args); err != nil {
			return err
		}
		*args = change(*args)
		return nil
	})
}

// putAgentsBack reverts changeAgents.
func (e *env) putAgentsBack(ctx context.Context) error {
	return e.editAgents(ctx, func(d *appsv1.DaemonSet) error {
		var args []string
		ok, err := noted(&d.ObjectMeta, &args)
		if ok {
			d.Spec.Template.Spec.Containers[0].Args = args
		}
		return err
	})
}

// putAgentsBackSurely also works after a failure or an interrupt.
func (e *env) putAgentsBackSurely(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), 2*time.Minute, errors.New("not done within two minutes"))
	defer cancel()
	return e.putAgentsBack(ctx)
}

func (e *env) editAgents(ctx context.Context, change func(*appsv1.DaemonSet) error) error {
	sets := e.Client.AppsV1().DaemonSets(metav1.NamespaceSystem)
	d, err := edit(ctx, sets, agentName, change)
	if err != nil {
		return err
	}
	return e.Poll(ctx, "DaemonSet "+agentName+" to have a ready pod of its last form on each node", func() (bool, error) {
		now, err := sets.Get(ctx, agentName, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		s := now.Status
		return s.ObservedGeneration >= d.Generation && s.UpdatedNumberScheduled == s.DesiredNumberScheduled && s.NumberReady == s.DesiredNumberScheduled, nil
	})
}

// forwardMark is a chain that marks a FORWARD policy as set by a check.
const forwardMark = "LAB-VERIFY"

// forward sets the policy of a node's chain FORWARD to DROP, as some programs do, or restores
// it.
func (e *env) forward(node string, accept bool) error {
	iptables := func(args ...string) error {
		_, err := e.onNode(node, append([]string{"iptables", "-w"}, args...)...)
		return err
	}
	if accept {
		if iptables("-n", "-L", forwardMark) != nil {
			return nil // not set by a check
		}
		return errors.Join(iptables("-P", "FORWARD", "ACCEPT"), iptables("-X", forwardMark))
	}
	if err := iptables("-N", forwardMark); err != nil {
		return err
	}
	return iptables("-P", "FORWARD", "DROP")
}

// removeVSwitch deletes the checks' vSwitch, if there is one.
func (e *env) removeVSwitch(ctx context.Context) error {
	id, err := e.Lab.Cloud.VSwitch(vswitchName)
	if err != nil || id == "" {
		return err
	}
	var refused error
	err = e.Poll(ctx, "vSwitch "+id+" to be deleted", func() (bool, error) {
		id, err := e.Lab.Cloud.VSwitch(vswitchName)
		if err != nil || id == "" {
			return id == "" && err == nil, err
		}
		refused = e.Lab.Cloud.RemoveVSwitch(id)
		return false, nil
	})
	if err != nil {
		return errors.Join(err, refused)
	}
	return nil
}
