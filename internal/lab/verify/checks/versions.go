package checks

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/verify"
)

// Checks of two versions: this tree's, and the release before or --from. While a chart is upgraded or rolled back, controller and
// agents are of different versions on some nodes; the checks hold that state, by the agents' update strategy OnDelete.

var oneVersion = map[string]string{lab.NetworkFlannel: "there is no agent of Terway's: nothing to upgrade on a node"}

var upgradeCheck = verify.Check{
	Name:    "upgrade",
	About:   "helm upgrade from the release before (a git tag; or --from, a commit) to this one under traffic: the controller first, then the agents; no connection is lost, new ones open, and pods start with both pairs of versions",
	NotFor:  oneVersion,
	Trouble: true, Slow: true, Once: true,
	Run: run(func(ctx context.Context, e *env) (string, error) { return e.versions(ctx, upgradeNow) }),
}

var rollbackCheck = verify.Check{
	Name:    "rollback",
	About:   "what upgrade does, then helm rollback to the release before, the controller first, under the same traffic: no connection is lost, new ones open, and pods start with both pairs of versions on the way back too",
	NotFor:  oneVersion,
	Trouble: true, Slow: true, Once: true,
	Run: run(func(ctx context.Context, e *env) (string, error) {
		return e.versions(ctx, func(ctx context.Context, v *versions) error {
			before, err := e.Lab.Release()
			if err != nil {
				return err
			}
			if err := upgradeNow(ctx, v); err != nil {
				return err
			}
			if err := e.Lab.Rollback(ctx, before.Revision); err != nil {
				return err
			}
			return v.agentsFollow(ctx, v.this, v.older)
		})
	}),
}

// upgradeNow upgrades from the older version to this one.
func upgradeNow(ctx context.Context, v *versions) error {
	if err := v.Lab.Change(ctx, v.this, false); err != nil {
		return err
	}
	return v.agentsFollow(ctx, v.older, v.this)
}

// versions are two versions, and pods between which there is traffic.
type versions struct {
	*env
	older, this *lab.Version
	// node is where pods start, which ask peer.
	node lab.Machine
	peer corev1.Pod
	// started is how many have.
	started int
}

// versions puts the older version in place, and lets change change versions under traffic.
func (e *env) versions(ctx context.Context, change func(context.Context, *versions) error) (_ string, err error) {
	if err := e.asInstalled(); err != nil {
		return "", err
	}
	older, err := e.Lab.Older(ctx, e.From)
	if errors.Is(err, lab.ErrNoRelease) {
		return "", instruments.NothingToTest(err.Error() + "; --from names a commit")
	}
	if err != nil {
		return "", err
	}
	na, nb, err := e.TwoNodes()
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, e.restoreSurely(ctx)) }()
	if err := e.changeAll(ctx, older); err != nil {
		return "", err
	}
	t, pods, err := e.startTraffic(ctx, na, nb)
	if err != nil {
		return "", err
	}
	v := &versions{env: e, older: older, this: e.Lab.This(), node: na, peer: pods[2]}
	began := time.Now()
	err = change(ctx, v)
	r := t.Stop()
	return fmt.Sprintf("%s and this version: %d pods started in %s: %s", older.Name, v.started, time.Since(began).Round(time.Second), r), errors.Join(err, r.Err())
}

// changeAll puts a version in place of the controller and of the agents, whatever checks before have changed.
func (e *env) changeAll(ctx context.Context, to *lab.Version) error {
	if err := e.Lab.Change(ctx, to, true); err != nil {
		return err
	}
	return e.replaceAgents(ctx)
}

// agentsFollow replaces the agents, when the controller is already of the version to. A pod starts before and after.
func (v *versions) agentsFollow(ctx context.Context, from, to *lab.Version) error {
	if err := v.podStarts(ctx, to, from); err != nil {
		return err
	}
	if err := v.replaceAgents(ctx); err != nil {
		return err
	}
	return v.podStarts(ctx, to, to)
}

// podStarts starts a pod, which asks another one, while controller and agents are of these versions.
func (v *versions) podStarts(ctx context.Context, controller, agents *lab.Version) error {
	if err := v.run(ctx, controllerName, controller); err != nil {
		return err
	}
	if err := v.run(ctx, agentName, agents); err != nil {
		return err
	}
	v.started++
	name := fmt.Sprintf("started-%d", v.started)
	err := v.CreatePod(ctx, name, v.PodSpec(v.node.Name))
	if err == nil {
		_, err = v.Ready(ctx, name)
	}
	if err == nil {
		_, err = v.Curl(ctx, name, instruments.URL(v.peer.Status.PodIP, instruments.HTTPPort, "hostname"))
	}
	if err != nil {
		return fmt.Errorf("a pod with the controller of %s and agents of %s: %w", controller.Name, agents.Name, err)
	}
	return nil
}

// run returns an error unless all pods of an app are of a version.
func (v *versions) run(ctx context.Context, app string, of *lab.Version) error {
	pods, err := v.Client.CoreV1().Pods(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{LabelSelector: "app=" + app})
	if err != nil {
		return fmt.Errorf("list the pods of %s: %w", app, err)
	}
	for i := range pods.Items {
		if p := &pods.Items[i]; p.Spec.Containers[0].Image != of.Image {
			return fmt.Errorf("pod %s has the image %s, want that of %s, %s", p.Name, p.Spec.Containers[0].Image, of.Name, of.Image)
		}
	}
	return nil
}
