package lab

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/inventory"
)

// Objects returns a client for Kubernetes' and the product's objects.
func (o *Options) Objects() (client.Client, error) {
	cfg, err := o.RESTConfig()
	if err != nil {
		return nil, err
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	c, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("make a client for the cluster: %w", err)
	}
	return c, nil
}

// waitReady waits until the nodes accept pods. It fails at once if a node's kernel does not
// support the datapath.
func (o *Options) waitReady(ctx context.Context, c kubernetes.Interface, s *State) error {
	if o.Network != NetworkTerway {
		return withTroubles(c, waitNodes(ctx, c, s, inventory.Unready))
	}
	objects, err := o.Objects()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var refused error
	err = waitNodes(ctx, c, s, func(n *corev1.Node) string {
		why := inventory.Unready(n)
		if why == "" {
			return ""
		}
		ask, done := context.WithTimeout(ctx, 5*time.Second)
		defer done()
		nn := &v1alpha1.NodeNetwork{}
		if objects.Get(ask, client.ObjectKey{Name: n.Name}, nn) == nil {
			if refused = refusal(nn); refused != nil {
				cancel(refused)
			}
		}
		return why
	})
	if refused != nil {
		return refused
	}
	return withTroubles(c, err)
}

func withTroubles(c kubernetes.Interface, err error) error {
	if err != nil {
		return fmt.Errorf("%w\n%s", err, podTroubles(c))
	}
	return nil
}

// refusal returns the node's reason for not running a datapath.
func refusal(nn *v1alpha1.NodeNetwork) error {
	c := meta.FindStatusCondition(nn.Status.Conditions, v1alpha1.ConditionDatapathReady)
	if c == nil || c.Reason != v1alpha1.ReasonDatapathRefused {
		return nil
	}
	return fmt.Errorf("--datapath %s: %s: %s", nn.Spec.Datapath, nn.Name, c.Message)
}
