// Package tiers keeps the Tier objects that every cluster with Calico's API has: calicoctl
// refuses a policy whose tier has no object. Helm cannot make them, since it takes no object of
// a kind that comes with the same chart.
//
// It makes what is missing and touches nothing else: what these tiers are, internal/policy/translate
// says, whatever their objects have, and the API server refuses other values.
package tiers

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "terway.dev/terway/api/calico/v3"
	"terway.dev/terway/internal/policy/translate"
)

// A Keeper runs where the controller leads.
type Keeper struct {
	// Live lists tiers without a cache; Client creates.
	Live   client.Reader
	Client client.Client
	Log    *slog.Logger
	// Period is how often the tiers are looked at, Retry how soon after an error.
	Period, Retry time.Duration
}

// CheckOwner returns an error if another Calico's API server serves projectcalico.org/v3: then the chart's kinds are not what
// the API server serves, and both would own the policies.
func CheckOwner(ctx context.Context, live client.Reader) error {
	name := v3.GroupVersion.Version + "." + v3.GroupVersion.Group
	service := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService"}}
	if err := live.Get(ctx, client.ObjectKey{Name: name}, service); apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("read APIService %s: %w", name, err)
	}
	// For a kind, the API server makes an APIService without a Service.
	if of, found, err := unstructured.NestedMap(service.Object, "spec", "service"); err == nil && found {
		return fmt.Errorf("the API projectcalico.org/v3 is served by Service %s/%s: another Calico owns it. Remove that one (its API server and the APIService %s) first, or set policy.enabled: false", of["namespace"], of["name"], name)
	}
	return nil
}

// Start looks at the tiers until ctx ends.
func (k *Keeper) Start(ctx context.Context) error {
	said := ""
	for {
		pause, problem := k.Period, ""
		if err := k.Keep(ctx); err != nil {
			pause, problem = k.Retry, err.Error()
		}
		if problem != said && problem != "" && ctx.Err() == nil {
			k.Log.Error("keep the tiers of policies", "error", problem)
		}
		said = problem
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
	}
}

// Keep makes the tiers that are missing.
func (k *Keeper) Keep(ctx context.Context) error {
	var list v3.TierList
	if err := k.Live.List(ctx, &list); err != nil {
		return fmt.Errorf("list tiers: %w", err)
	}
	there := map[string]bool{}
	for _, t := range list.Items {
		there[t.Name] = true
	}
	for _, t := range translate.Builtin() {
		if there[t.Name] {
			continue
		}
		if err := k.Client.Create(ctx, t); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create tier %s: %w", t.Name, err)
		}
	}
	return nil
}
