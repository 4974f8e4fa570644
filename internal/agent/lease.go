package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/datapath/claims"
)

const (
	// LeaseDuration is how long the agent's Lease is valid, leaseRenewal how often it is renewed:
	// the same times as for the kubelet's Lease of the node (nodeLeaseDurationSeconds 40, a quarter
	// of it). It adds the same load to the API server: one small write every 10 s.
	LeaseDuration = 40 * time.Second
	leaseRenewal  = LeaseDuration / 4
)

// Lease is the agent's heartbeat. It is renewed only while the agent makes progress, so the
// controller detects an agent that hangs, crashes before it has checked the node, or does not run,
// and keeps pods away from its node.
type Lease struct {
	Client          client.Client
	Namespace, Node string
}

// Run renews the Lease of a's node until ctx is done.
func (l Lease) Run(ctx context.Context, a *Agent) {
	said := ""
	for {
		pause := time.Second // renew soon after the start
		if a.progresses() {
			pause = leaseRenewal + rand.N(leaseRenewal/5) // spread the nodes' renewals
			err := l.renew(ctx, a.Now())
			switch {
			case err == nil:
				said = ""
			case ctx.Err() == nil:
				pause = retryPause
				if err.Error() != said {
					said = err.Error()
					a.Log.Warn("cannot renew the agent's Lease", "error", err)
				}
			}
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// progresses reports whether the agent has checked its node once, and continues to.
func (a *Agent) progresses() bool {
	a.mu.Lock()
	starting := a.startingLocked()
	a.mu.Unlock()
	return !starting && a.Healthy(stuck)
}

func (l Lease) renew(ctx context.Context, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	seconds := int32(LeaseDuration / time.Second)
	lease := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: l.Namespace, Name: v1alpha1.LeaseName(l.Node), Labels: map[string]string{claims.LabelLease: ""}},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &l.Node, LeaseDurationSeconds: &seconds, RenewTime: &metav1.MicroTime{Time: now}},
	}
	patch, err := json.Marshal(map[string]any{"spec": lease.Spec})
	if err != nil {
		return fmt.Errorf("lease %s: %w", lease.Name, err)
	}
	err = l.Client.Patch(ctx, lease.DeepCopy(), client.RawPatch(types.MergePatchType, patch))
	if !apierrors.IsNotFound(err) {
		if err != nil {
			return fmt.Errorf("renew Lease %s/%s: %w", l.Namespace, lease.Name, err)
		}
		return nil
	}
	node := &corev1.Node{}
	if err := l.Client.Get(ctx, client.ObjectKey{Name: l.Node}, node); err != nil {
		return fmt.Errorf("read Node %s: %w", l.Node, err)
	}
	// The Lease is deleted with the Node.
	lease.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}}
	if err := l.Client.Create(ctx, lease); err != nil {
		return fmt.Errorf("create Lease %s/%s: %w", l.Namespace, lease.Name, err)
	}
	return nil
}
