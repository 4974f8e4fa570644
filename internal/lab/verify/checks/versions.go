package checks

import (
	"context"
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/verify"
)

// Checks of two versions: this tree's, and the release before or --from.

var oneVersion = map[string]string{lab.NetworkFlannel: "there is no agent of Terway's: nothing to upgrade on a node"}

var upgradeCheck = verify.Check{
	Name:    "upgrade",
	About:   "from the release before (a git tag; or --from, a commit) to this one under traffic: first the agents alone, then all by helm upgrade; no connection is lost, new ones open, and pods start with both pairs of versions",
	NotFor:  oneVersion,
	Trouble: true, Slow: true, Once: true,
	Run: run(func(ctx context.Context, e *env) (string, error) {
		return e.versions(ctx, func(ctx context.Context, older *lab.Older, start func(string) error) error {
			if err := e.changeImage(ctx, lab.ImageTerway); err != nil {
				return err
			}
			if err := start("new agents, old controller"); err != nil {
				return err
			}
			if err := e.Lab.Restore(ctx); err != nil {
				return err
			}
			return start("both new")
		})
	}),
}

var rollbackCheck = verify.Check{
	Name:    "rollback",
	About:   "helm rollback from this version to the release before (a git tag; or --from, a commit) under traffic, after the agents alone went back; no connection is lost, new ones open, and pods start with both pairs of versions",
	NotFor:  oneVersion,
	Trouble: true, Slow: true, Once: true,
	Run: run(func(ctx context.Context, e *env) (string, error) {
		return e.versions(ctx, func(ctx context.Context, older *lab.Older, start func(string) error) error {
			revision, _, err := e.Lab.Revision(ctx)
			if err != nil {
				return err
			}
			if err := e.Lab.Restore(ctx); err != nil {
				return err
			}
			if err := start("both new"); err != nil {
				return err
			}
			if err := e.changeImage(ctx, older.Image); err != nil {
				return err
			}
			if err := start("old agents, new controller"); err != nil {
				return err
			}
			if err := e.Lab.Rollback(ctx, revision); err != nil {
				return err
			}
			return start("both old")
		})
	}),
}

// versions puts the older version in place, and changes versions under traffic. change calls start to see a pod start and answer.
func (e *env) versions(ctx context.Context, change func(ctx context.Context, older *lab.Older, start func(with string) error) error) (_ string, err error) {
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
	if err := e.Lab.Change(ctx, older); err != nil {
		return "", err
	}
	pods, err := e.PodOn(ctx, na, na, nb)
	if err != nil {
		return "", err
	}
	service, err := e.trafficService(ctx, pods[2])
	if err != nil {
		return "", err
	}
	t, err := instruments.StartTraffic(pods[0], pods[1:], service)
	if err != nil {
		return "", err
	}
	began, started := time.Now(), 0
	err = change(ctx, older, func(with string) error {
		started++
		if err := e.startsAndAnswers(ctx, fmt.Sprintf("started-%d", started), na, pods[2]); err != nil {
			return fmt.Errorf("a pod with %s: %w", with, err)
		}
		return nil
	})
	r := t.Stop()
	return fmt.Sprintf("%s and this version: %d pods started in %s: %s", older.Version, started, time.Since(began).Round(time.Second), r), errors.Join(err, r.Err())
}

// startsAndAnswers starts a pod on a node, which asks another one.
func (e *env) startsAndAnswers(ctx context.Context, name string, on lab.Machine, other corev1.Pod) error {
	if err := e.CreatePod(ctx, name, e.PodSpec(on.Name)); err != nil {
		return err
	}
	if _, err := e.Ready(ctx, name); err != nil {
		return err
	}
	_, err := e.Curl(ctx, name, instruments.URL(other.Status.PodIP, instruments.HTTPPort, "hostname"))
	return err
}

// changeImage gives the agents alone another version's image, and waits for the rollout.
func (e *env) changeImage(ctx context.Context, image string) error {
	return e.editAgents(ctx, func(d *appsv1.DaemonSet) error {
		d.Spec.Template.Spec.Containers[0].Image = image
		return nil
	})
}
