package install

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/internal/cli/cluster"
	"terway.dev/terway/internal/cli/status"
	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/helm"
	"terway.dev/terway/internal/inventory"
	"terway.dev/terway/internal/migrate"
)

// target is the cluster.
type target struct {
	client    client.Client
	helm      *helm.Client
	cfg       *rest.Config
	namespace string
}

func (o *options) connect(ctx context.Context) (*target, error) {
	cfg, err := o.kube.Config(ctx)
	if err != nil {
		return nil, err
	}
	known, err := cluster.Scheme()
	if err != nil {
		return nil, err
	}
	cfg.QPS = -1 // a question for each kind of the chart's objects: the API server has a limit of its own
	c, err := client.New(cfg, client.Options{Scheme: known})
	if err != nil {
		return nil, fmt.Errorf("make a client for the cluster at %s: %w", cfg.Host, err)
	}
	// Helm goes on for a moment after an interrupt, to record it.
	free, err := o.kube.Unbound()
	if err != nil {
		return nil, err
	}
	free.QPS = -1
	h, err := helm.New(free, o.kube.Terway)
	return &target{c, h, cfg, o.kube.Terway}, err
}

// explain says what an error of the cluster means for the user.
func (t *target) explain(err error) error {
	switch {
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		return fmt.Errorf("the cluster at %s does not let this user: %w: installing needs a user who may, such as one with the ClusterRole cluster-admin", t.cfg.Host, err)
	case apierrors.ReasonForError(err) == metav1.StatusReasonUnknown && !errors.Is(err, context.Canceled):
		return fmt.Errorf("the cluster at %s: %w", t.cfg.Host, err)
	}
	return err
}

func isAuth(err error) bool { return cloud.ClassOf(err) == cloud.Auth }

// poll is the time between two looks of wait, which read two objects each.
const poll = 500 * time.Millisecond

// wait waits until the chart's pods are those of this installation, and Terway has no problem.
func (t *target) wait(ctx context.Context, network string, most time.Duration, say io.Writer) error {
	set := migrate.AgentName
	if network == claims.NetworkFlannel {
		set = "kube-flannel"
	}
	began, said := time.Now(), ""
	for {
		trouble, err := t.rollout(ctx, set)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			trouble = err.Error()
		case trouble == "" && network == claims.NetworkFlannel:
			return nil
		case trouble == "":
			return t.works(ctx, most-time.Since(began), say)
		}
		if time.Since(began)+poll > most {
			return fmt.Errorf("after %s: %s", most, trouble)
		}
		if trouble != said {
			fmt.Fprintln(say, "waiting: "+trouble)
			said = trouble
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(poll):
		}
	}
}

// works waits as "terwayctl status --wait" does.
func (t *target) works(ctx context.Context, most time.Duration, say io.Writer) error {
	reader, err := cluster.New(t.cfg, t.namespace)
	if err != nil {
		return err
	}
	o, err := status.Wait(ctx, reader.Objects, most, say)
	if err != nil {
		return err
	}
	if err := o.Status().Verdict(); err != nil {
		return fmt.Errorf("%w: \"terwayctl status\" names each", err)
	}
	return nil
}

// rollout returns what is not yet as the chart has it, "" if all is.
func (t *target) rollout(ctx context.Context, set string) (string, error) {
	d := &appsv1.Deployment{}
	if err := t.client.Get(ctx, client.ObjectKey{Namespace: t.namespace, Name: inventory.ControllerName}, d); err != nil {
		return "", fmt.Errorf("get deployments.apps %s: %w", inventory.ControllerName, err)
	}
	s := &appsv1.DaemonSet{}
	if err := t.client.Get(ctx, client.ObjectKey{Namespace: t.namespace, Name: set}, s); err != nil {
		return "", fmt.Errorf("get daemonsets.apps %s: %w", set, err)
	}
	return rolledOut(d, s), nil
}

// rolledOut returns which pods are still old or not available, "" if none is.
func rolledOut(d *appsv1.Deployment, s *appsv1.DaemonSet) string {
	want := int32(1)
	if d.Spec.Replicas != nil {
		want = *d.Spec.Replicas
	}
	switch {
	case d.Status.ObservedGeneration < d.Generation || s.Status.ObservedGeneration < s.Generation:
		return "the cluster has not looked at the new revision"
	case d.Status.UpdatedReplicas < want || d.Status.Replicas > d.Status.UpdatedReplicas || d.Status.AvailableReplicas < want:
		return fmt.Sprintf("%d of %d pods of Deployment %s are new, %d are available", d.Status.UpdatedReplicas, want, d.Name, d.Status.AvailableReplicas)
	case s.Status.UpdatedNumberScheduled < s.Status.DesiredNumberScheduled || s.Status.NumberAvailable < s.Status.DesiredNumberScheduled:
		return fmt.Sprintf("%d of %d pods of DaemonSet %s are new, %d are available", s.Status.UpdatedNumberScheduled, s.Status.DesiredNumberScheduled, s.Name, s.Status.NumberAvailable)
	}
	return ""
}
