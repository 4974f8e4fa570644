package verify

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
)

// AllDatapaths means every datapath that the nodes' kernel supports.
const AllDatapaths = "all"

// Datapaths returns the valid names.
func Datapaths() []string {
	var names []string
	for _, n := range config.Choices("datapath") {
		if n != claims.Auto {
			names = append(names, n)
		}
	}
	return append(names, instruments.Exclusive)
}

// CheckDatapaths validates a choice of datapaths.
func CheckDatapaths(network string, names []string) error {
	if len(names) > 0 && network != lab.NetworkTerway {
		return fmt.Errorf("--datapath %s: the lab was started with --network %s, which has no datapaths of Terway's; leave it out", strings.Join(names, ","), network)
	}
	for i, n := range names {
		switch {
		case n == AllDatapaths && len(names) > 1:
			return fmt.Errorf("--datapath %s: %s is every datapath already; give it alone", strings.Join(names, ","), AllDatapaths)
		case n != AllDatapaths && !slices.Contains(Datapaths(), n):
			return fmt.Errorf("--datapath %q: must be %s, or %s", n, strings.Join(Datapaths(), ", "), AllDatapaths)
		case slices.Contains(names[:i], n):
			return fmt.Errorf("--datapath %s: %s is named twice", strings.Join(names, ","), n)
		}
	}
	return nil
}

// refusedError is a node's reason for not running a datapath.
type refusedError struct{ node, why string }

func (r *refusedError) Error() string { return r.node + ": " + r.why }

// move switches all nodes to a datapath, like an operator, by the configuration. Running pods
// keep their datapath, so the system's pods are recreated.
func (e *Env) move(ctx context.Context, datapath string) error {
	if err := e.unlabelled(ctx); err != nil {
		return err
	}
	if err := e.configure(ctx, settingOf(datapath)); err != nil {
		return err
	}
	if err := e.arrive(ctx, settingOf(datapath)); err != nil {
		return err
	}
	if err := e.renewSystem(ctx); err != nil || datapath != instruments.Exclusive {
		return err
	}
	return e.Poll(ctx, "the nodes to give back the ENIs that pods shared", func() (bool, error) {
		for _, m := range e.Lab.Machines {
			nn, err := e.NodeNetwork(ctx, m.Name)
			if err != nil {
				return false, err
			}
			less, err := e.offers(ctx, nn)
			if err != nil || less != "" || offered(nn) < nn.Spec.ExclusiveENIs {
				return false, err
			}
		}
		return true, nil
	})
}

// offered returns how many exclusive ENIs the node should offer.
func offered(nn *v1alpha1.NodeNetwork) int {
	if n := nn.Spec.OfferedENIs; n != nil {
		return *n
	}
	return nn.Spec.ExclusiveENIs
}

// moveBack restores the configuration from before move, also of a verify that was killed.
func (e *Env) moveBack(ctx context.Context, moving func(string)) error {
	moved, err := e.reconfigure(ctx)
	if err != nil || !moved {
		return err
	}
	moving("what they ran before")
	m, err := e.Client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, config.ConfigMapName, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read ConfigMap %s: %w", config.ConfigMapName, err)
	}
	c, err := config.FromConfigMap(m.Data)
	if err != nil {
		return fmt.Errorf("ConfigMap %s: %w", config.ConfigMapName, err)
	}
	if err := e.arrive(ctx, setting{Datapath: c.Datapath, Mode: c.Mode}); err != nil {
		return err
	}
	if err := e.renewSystem(ctx); err != nil {
		return err
	}
	return e.forgetBefore(ctx)
}

// unlabelled returns an error for a node that would ignore the configuration.
func (e *Env) unlabelled(ctx context.Context) error {
	nodes, err := e.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	for _, n := range nodes.Items {
		if v, set := n.Labels[claims.LabelMode]; set {
			return fmt.Errorf("node %s has the label %s=%s, which comes before the configuration: kubectl label node %s %s-",
				n.Name, claims.LabelMode, v, n.Name, claims.LabelMode)
		}
	}
	return nil
}

// arrive waits until every node runs the configured datapath, and its kubelet offers the ENIs
// that pods may request. It fails at once for a node that cannot.
func (e *Env) arrive(ctx context.Context, s setting) error {
	var left string
	err := e.Poll(ctx, fmt.Sprintf("the nodes to run datapath %v, mode %v", s.Datapath, s.Mode), func() (bool, error) {
		left = ""
		for _, m := range e.Lab.Machines {
			nn, err := e.NodeNetwork(ctx, m.Name)
			if err != nil {
				return false, err
			}
			why, err := awaits(nn, s)
			if err != nil {
				return false, err
			}
			if why == "" {
				if why, err = e.offers(ctx, nn); err != nil {
					return false, err
				}
			}
			if why != "" {
				left = m.Name + " " + why
			}
		}
		return left == "", nil
	})
	if err != nil && left != "" {
		return fmt.Errorf("%w: %s", err, left)
	}
	if err != nil {
		return err
	}
	return e.LookAtNodes(ctx)
}

// awaits returns what a node still has to do for a setting, or an error if it refuses it.
func awaits(nn *v1alpha1.NodeNetwork, s setting) (string, error) {
	if nn.Spec.Datapath != s.Datapath || nn.Spec.Mode != s.Mode {
		return fmt.Sprintf("is configured with datapath %s, mode %s", nn.Spec.Datapath, nn.Spec.Mode), nil
	}
	c := meta.FindStatusCondition(nn.Status.Conditions, v1alpha1.ConditionDatapathReady)
	if c == nil || c.ObservedGeneration != nn.Generation {
		return "has not acted on it", nil
	}
	if c.Reason == v1alpha1.ReasonDatapathRefused || c.Reason == v1alpha1.ReasonDatapathKept {
		return "", &refusedError{nn.Name, c.Message}
	}
	if c.Status != metav1.ConditionTrue {
		return c.Reason + ": " + c.Message, nil
	}
	if runs := nn.Status.Datapath; s.Mode == claims.ModeExclusive && runs != instruments.Exclusive || s.Mode != claims.ModeExclusive && s.Datapath != claims.Auto && runs != s.Datapath {
		return "runs " + runs, nil
	}
	return "", nil
}

// offers returns what is missing until the kubelet offers the node's ENIs.
func (e *Env) offers(ctx context.Context, nn *v1alpha1.NodeNetwork) (string, error) {
	node, err := e.Client.CoreV1().Nodes().Get(ctx, nn.Name, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("read node %s: %w", nn.Name, err)
	}
	q := node.Status.Allocatable[claims.ResourceENI]
	if got, want := q.Value(), int64(offered(nn)); got != want {
		return fmt.Sprintf("offers %d of %s, want %d", got, claims.ResourceENI, want), nil
	}
	return "", nil
}
