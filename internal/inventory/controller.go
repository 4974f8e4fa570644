package inventory

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
)

// ControllerName is the name of the chart's Deployment (deploy/chart/templates/controller.yaml)
// and of the Lease for leader election (cmd/terway-controller).
const ControllerName = "terway-controller"

// Controller is the state of terway-controller.
type Controller struct {
	// Ready is the number of ready replicas, Replicas the desired number.
	Ready    int `json:"ready"`
	Replicas int `json:"replicas"`
	// Leader is the holder of the Lease; empty if there is none.
	Leader string `json:"leader,omitempty"`
	// Problems are sentences for people.
	Problems []string `json:"problems,omitempty"`

	// deployed: the Deployment of the replicas exists.
	deployed bool
}

// clockSlack is the tolerated difference between the clocks of this machine and the
// controller's.
const clockSlack = time.Minute

// without says what stops while no controller works.
const without = "until one works, nodes get no more addresses or ENIs and new nodes get none; running pods go on"

// controller evaluates the Deployment and the Lease. A missing one alone is no problem: the
// controller may be installed in another way.
func (o *Objects) controller() Controller {
	c := Controller{}
	if o.Deployment.Name != "" {
		c.of(o.Deployment)
	}
	if o.Lease.Name != "" {
		c.led(o.Lease, o.Now)
	}
	if o.Deployment.Name == "" && o.Lease.Name == "" {
		c.problem("namespace %s has neither a Deployment nor a Lease %s: no controller was ever there; %s", o.Namespace, ControllerName, without)
	}
	return c
}

func (c *Controller) problem(format string, args ...any) {
	c.Problems = append(c.Problems, fmt.Sprintf(format, args...))
}

// of evaluates the Deployment.
func (c *Controller) of(d *appsv1.Deployment) {
	c.deployed = true
	c.Ready, c.Replicas = int(d.Status.ReadyReplicas), 1 // the default of Kubernetes
	if d.Spec.Replicas != nil {
		c.Replicas = int(*d.Spec.Replicas)
	}
	at := d.Namespace + "/" + d.Name
	switch {
	case c.Replicas == 0:
		c.problem("Deployment %s is scaled to 0; %s: kubectl -n %s scale deployment %s --replicas=2", at, without, d.Namespace, d.Name)
	case c.Ready == 0:
		c.problem("none of the %d replicas of Deployment %s is ready; %s: kubectl -n %s describe pods -l app=%s says why", c.Replicas, at, without, d.Namespace, d.Name)
	}
}

// led evaluates the Lease, which the leader renews every few seconds.
func (c *Controller) led(l *coordinationv1.Lease, now time.Time) {
	spec := l.Spec
	var held time.Duration
	if spec.LeaseDurationSeconds != nil {
		held = time.Duration(*spec.LeaseDurationSeconds) * time.Second
	}
	var old time.Duration
	if spec.RenewTime != nil {
		old = now.Sub(spec.RenewTime.Time)
	}
	stale := old > held+clockSlack
	if len(c.Problems) > 0 {
		return // reported already; a replica that was killed does not release the Lease
	}
	if spec.HolderIdentity != nil && !stale {
		c.Leader = *spec.HolderIdentity
	}
	if stale {
		c.problem("Lease %s/%s has not been renewed for %s, so none of the replicas works; %s: their logs say why", l.Namespace, l.Name, old.Round(time.Second), without)
	}
}

// String formats the state for people.
func (c Controller) String() string {
	leader := "none leads"
	if c.Leader != "" {
		leader = c.Leader + " leads"
	}
	if !c.deployed {
		return leader
	}
	return fmt.Sprintf("%d of %d replicas ready, %s", c.Ready, c.Replicas, leader)
}
