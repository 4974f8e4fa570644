package checks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"terway.dev/terway/internal/lab"
)

// What checks change for a while outside their namespace, each with the note by which a
// later run finds it, should this one be killed before it has put it back.

// undo takes back what a check that was killed has left.
func (e *env) undo(ctx context.Context) error {
	errs := []error{e.withdraw(ctx), e.Lab.Cloud.RemoveFault(ctx, faultName)}
	if e.Lab.Options.Network == lab.NetworkTerway {
		errs = append(errs, e.putVSwitchesBack(ctx), e.removeVSwitch(ctx), e.putControllerBack(ctx), e.putAgentsBack(ctx))
		for _, m := range e.Lab.Machines {
			errs = append(errs, e.forward(m.Name, true))
		}
	}
	return errors.Join(errs...)
}

// faultName is that of the faults that checks add to the cloud.
const faultName = "lab-verify"

const (
	controllerName = "terway-controller"
	// controllerAnnotation on the controller's Deployment has what it was before a check.
	controllerAnnotation = "lab.terway.dev/before-check"
)

// controllerBefore is what checks change of the controller's Deployment.
type controllerBefore struct {
	Replicas *int32   `json:"replicas"`
	Args     []string `json:"args"`
}

// changeController changes the controller's Deployment and waits until that is done.
func (e *env) changeController(ctx context.Context, change func(*appsv1.DeploymentSpec)) error {
	return e.editController(ctx, func(d *appsv1.Deployment) error {
		if _, noted := d.Annotations[controllerAnnotation]; !noted {
			b, err := json.Marshal(controllerBefore{d.Spec.Replicas, d.Spec.Template.Spec.Containers[0].Args})
			if err != nil {
				return fmt.Errorf("note what is there: %w", err)
			}
			metav1.SetMetaDataAnnotation(&d.ObjectMeta, controllerAnnotation, string(b))
		}
		change(&d.Spec)
		return nil
	})
}

// putControllerBack undoes changeController.
func (e *env) putControllerBack(ctx context.Context) error {
	return e.editController(ctx, func(d *appsv1.Deployment) error {
		note, noted := d.Annotations[controllerAnnotation]
		if !noted {
			return nil
		}
		var before controllerBefore
		if err := json.Unmarshal([]byte(note), &before); err != nil {
			return fmt.Errorf("annotation %s is %q: want JSON with replicas and args: %w", controllerAnnotation, note, err)
		}
		d.Spec.Replicas, d.Spec.Template.Spec.Containers[0].Args = before.Replicas, before.Args
		delete(d.Annotations, controllerAnnotation)
		return nil
	})
}

func (e *env) editController(ctx context.Context, edit func(*appsv1.Deployment) error) error {
	deployments := e.Client.AppsV1().Deployments(metav1.NamespaceSystem)
	var d *appsv1.Deployment
	err := retry.RetryOnConflict(retry.DefaultRetry, func() (err error) {
		if d, err = deployments.Get(ctx, controllerName, metav1.GetOptions{}); err != nil {
			return err
		}
		if err := edit(d); err != nil {
			return err
		}
		d, err = deployments.Update(ctx, d, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("change Deployment %s: %w", controllerName, err)
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

// sweepRarely gives the controller a period of the sweep within which no check ends.
func sweepRarely(d *appsv1.DeploymentSpec) {
	args := &d.Template.Spec.Containers[0].Args
	*args = slices.DeleteFunc(*args, func(a string) bool { return strings.HasPrefix(a, "--sweep-period=") })
	*args = append(*args, "--sweep-period=1h")
}

// forwardMark is a chain that says that the policy of FORWARD is a check's.
const forwardMark = "LAB-VERIFY"

// forward has a node drop what no rule of its chain FORWARD accepts, as some programs do, or
// puts back the policy from before.
func (e *env) forward(node string, accept bool) error {
	iptables := func(args ...string) error {
		cmd, err := e.Lab.Shell(node, append([]string{"iptables", "-w"}, args...))
		if err != nil {
			return err
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("on %s: iptables %s: %w: %s", node, strings.Join(args, " "), err, bytes.TrimSpace(out))
		}
		return nil
	}
	if accept {
		if iptables("-n", "-L", forwardMark) != nil {
			return nil // not a check's
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
