package instruments

import (
	"context"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/lab"
)

// Exclusive is the datapath that nodes in mode exclusive report.
const Exclusive = claims.Exclusive

// LookAtNodes reads the nodes' datapaths.
func (c *Cluster) LookAtNodes(ctx context.Context) error {
	c.Runs = nil
	if c.Lab.Options.Network != lab.NetworkTerway {
		return nil
	}
	for _, m := range c.Lab.Machines {
		nn, err := c.NodeNetwork(ctx, m.Name)
		if err != nil {
			return err
		}
		r := NodeDatapath{Node: m.Name, Datapath: nn.Status.Datapath}
		if c := meta.FindStatusCondition(nn.Status.Conditions, v1alpha1.ConditionDatapathReady); c != nil {
			r.Why = c.Message
		}
		c.Runs = append(c.Runs, r)
	}
	return nil
}

// NodeDatapath is a node's datapath with the reason.
type NodeDatapath struct {
	Node     string `json:"node"`
	Datapath string `json:"datapath"`
	Why      string `json:"why"`
}

// Exclusive reports whether each pod of a node has an exclusive ENI.
func (c *Cluster) Exclusive(node string) bool {
	return slices.ContainsFunc(c.Runs, func(r NodeDatapath) bool { return r.Node == node && r.Datapath == Exclusive })
}

// Datapath returns the nodes' datapath, or several names with commas.
func (c *Cluster) Datapath() string {
	var names []string
	for _, r := range c.Runs {
		if !slices.Contains(names, r.Datapath) {
			names = append(names, r.Datapath)
		}
	}
	return strings.Join(names, ",")
}

// AllExclusive reports whether every node gives each pod an ENI.
func (c *Cluster) AllExclusive() bool {
	return len(c.Runs) > 0 && c.Datapath() == Exclusive
}
