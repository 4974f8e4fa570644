// Package inventory evaluates the network state of a cluster's nodes and pods, and its
// problems: "terwayctl status", "terwayctl pods" and "terway-lab status" print it.
//
// It is pure: objects of the cluster and ENIs of the cloud in, a status out. It must never read a cluster. It writes
// sentences for people; its callers print tables.
package inventory

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/datapath/claims"
)

// Status is the network state of a cluster.
type Status struct {
	Controller Controller `json:"controller"`
	Nodes      []Node     `json:"nodes"`
}

// Node is the network state of a node, with that of its agent.
type Node struct {
	Node string `json:"node"`
	Mode string `json:"mode,omitempty"`
	// Datapath is the active datapath; Asked is the configured one.
	Datapath string `json:"datapath,omitempty"`
	Asked    string `json:"asked,omitempty"`
	// Reason and Why are from the condition DatapathReady.
	Reason string `json:"reason,omitempty"`
	Why    string `json:"why,omitempty"`
	// AgentReady: the agent's pod is ready and it can wire pods.
	AgentReady bool `json:"agentReady"`
	// ENIs are the attached ENIs, including the primary, and the maximum of the instance type.
	ENIs Share `json:"enis"`
	// Addresses are those of shared ENIs: used by pods, and assigned.
	Addresses Share `json:"addresses"`
	// ExclusiveENIs are the exclusive ENIs: used by pods, and the maximum of the node.
	ExclusiveENIs Share `json:"exclusiveENIs"`
	// OwnENIs has the same value, for programs that use the former name.
	OwnENIs Share `json:"ownENIs"`
	// Waiting is the number of pods that wait for an address or an ENI.
	Waiting int `json:"waiting"`
	// Lost are the pods whose address is on none of the node's ENIs: they cannot be reached.
	Lost []LostPod `json:"lost,omitempty"`
	// Conditions are the conditions of the node from controller and agent.
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// Problems are sentences for people.
	Problems []string `json:"problems,omitempty"`
}

// LostPod is a pod, "namespace/name", and its address.
type LostPod struct {
	Pod     string `json:"pod"`
	Address string `json:"address"`
}

// Share is a number out of a total.
type Share struct {
	Used  int `json:"used"`
	Total int `json:"total"`
}

// String formats the share for people; a total of 0 is a dash.
func (s Share) String() string {
	if s == (Share{}) {
		return "-"
	}
	return fmt.Sprintf("%d/%d", s.Used, s.Total)
}

// Objects are the objects of the cluster that a Status is made from.
type Objects struct {
	// Now is when they were read.
	Now time.Time
	// Namespace is where Terway is installed.
	Namespace string
	Nodes     []corev1.Node
	Networks  []v1alpha1.NodeNetwork
	// Agents are the pods of terwayd.
	Agents []corev1.Pod
	// Deployment and Lease are the controller's; without a name if they do not exist.
	Deployment *appsv1.Deployment
	Lease      *coordinationv1.Lease
}

// Status returns the state of each node, by name.
func (o *Objects) Status() *Status {
	st := &Status{Controller: o.controller(), Nodes: []Node{}}
	agents, networks := map[string]*corev1.Pod{}, map[string]*v1alpha1.NodeNetwork{}
	for i := range o.Agents {
		p := &o.Agents[i]
		// A pod that is being deleted may be listed beside its successor.
		if old := agents[p.Spec.NodeName]; old == nil || old.DeletionTimestamp != nil {
			agents[p.Spec.NodeName] = p
		}
	}
	for i := range o.Networks {
		networks[o.Networks[i].Name] = &o.Networks[i]
	}
	for i := range o.Nodes {
		name := o.Nodes[i].Name
		st.Nodes = append(st.Nodes, node(name, networks[name], agents[name]))
		delete(networks, name)
	}
	for name, nn := range networks {
		n := node(name, nn, agents[name])
		n.Problems = []string{"the cluster has no such node any more; its ENIs go back when none of its pods can be using them"}
		if c := meta.FindStatusCondition(nn.ControllerConditions(), v1alpha1.ConditionNodeGone); c != nil {
			n.Problems = []string{c.Message} // its message says until when
		}
		st.Nodes = append(st.Nodes, n)
	}
	slices.SortFunc(st.Nodes, func(a, b Node) int { return cmp.Compare(a.Node, b.Node) })
	return st
}

// SameDatapath is a group of nodes with the same datapath and reason.
type SameDatapath struct {
	Name, Why string
	Nodes     []string
}

// Datapaths groups the nodes, in the order of the first node of each group.
func (st *Status) Datapaths() []*SameDatapath {
	var all []*SameDatapath
	for _, n := range st.Nodes {
		if n.Datapath == "" || n.Why == "" {
			continue // no datapath is a problem, which has the reason
		}
		i := slices.IndexFunc(all, func(g *SameDatapath) bool { return g.Name == n.Datapath && g.Why == n.Why })
		if i < 0 {
			i, all = len(all), append(all, &SameDatapath{Name: n.Datapath, Why: n.Why})
		}
		all[i].Nodes = append(all[i].Nodes, n.Node)
	}
	return all
}

// String formats the group for people.
func (g *SameDatapath) String() string {
	return fmt.Sprintf("datapath %s on %s: %s", g.Name, few(g.Nodes), g.Why)
}

// Policy says how many of the nodes with policy on have what policies say, "" if it is on nowhere.
func (st *Status) Policy() string {
	on, has := 0, 0
	for _, n := range st.Nodes {
		if c := meta.FindStatusCondition(n.Conditions, v1alpha1.ConditionPolicyReady); c != nil {
			on++
			if c.Status == metav1.ConditionTrue {
				has++
			}
		}
	}
	if on == 0 {
		return ""
	}
	return fmt.Sprintf("%d of %d nodes have what policies say", has, on)
}

// Verdict is an error if the controller or a node has a problem.
func (st *Status) Verdict() error {
	n := 0
	for _, node := range st.Nodes {
		if len(node.Problems) > 0 {
			n++
		}
	}
	var all []string
	if len(st.Controller.Problems) > 0 {
		all = append(all, "the controller has a problem")
	}
	if n > 0 {
		all = append(all, fmt.Sprintf("%d of %d nodes have problems", n, len(st.Nodes)))
	}
	if len(all) == 0 {
		return nil
	}
	return errors.New(strings.Join(all, "; "))
}

func (n *Node) problem(format string, args ...any) {
	n.Problems = append(n.Problems, fmt.Sprintf(format, args...))
}

func node(name string, nn *v1alpha1.NodeNetwork, agent *corev1.Pod) Node {
	n := Node{Node: name}
	running := n.agent(agent)
	if nn == nil {
		n.problem("it has no NodeNetwork: terway-controller has not seen the node, or cannot find its instance; its log says why")
		return n
	}
	n.Mode, n.Datapath, n.Asked = cmp.Or(nn.Spec.Mode, claims.ModeShared), nn.Status.Datapath, nn.Spec.Datapath
	if c := meta.FindStatusCondition(nn.Status.Conditions, v1alpha1.ConditionDatapathReady); c != nil {
		n.Reason, n.Why = c.Reason, c.Message
		if c.Status != metav1.ConditionTrue || c.Reason == v1alpha1.ReasonDatapathKept {
			n.problem("datapath: %s: %s", c.Reason, c.Message)
		}
	}
	switch c := meta.FindStatusCondition(nn.Status.Conditions, v1alpha1.ConditionReady); {
	case c == nil:
		n.problem("its agent has never reported")
	case c.Status != metav1.ConditionTrue && c.Message == n.Why: // reported already
	case c.Status != metav1.ConditionTrue:
		n.problem("it wires no pods: %s: %s", c.Reason, c.Message)
	default:
		n.AgentReady = running
	}
	n.Conditions = slices.Concat(nn.ControllerConditions(), nn.Status.Conditions)
	said := false
	for _, c := range n.Conditions {
		switch c.Type {
		case v1alpha1.ConditionReady, v1alpha1.ConditionDatapathReady, v1alpha1.ConditionLimitsFromCloud:
			// Reported above. The last reason means that the built-in table is used, which is
			// no problem.
		case v1alpha1.ConditionAddressesAvailable:
			if said = c.Status == metav1.ConditionFalse; said {
				n.problem("no more addresses: %s: %s", c.Reason, c.Message)
			}
		case v1alpha1.ConditionAddressesGone: // lost reports it
		default:
			// Most conditions are bad if False; those that name a problem are bad if True.
			bad := metav1.ConditionFalse
			if c.Type == v1alpha1.ConditionNodeGone {
				bad = metav1.ConditionTrue
			}
			if c.Status == bad {
				n.problem("%s: %s: %s", c.Type, c.Reason, c.Message)
			}
		}
	}
	n.count(nn)
	if ids := nn.Status.MissingENIs; len(ids) > 0 {
		n.problem("the devices of %s are not on the node, although they are attached according to the controller: it compares the node with the cloud", few(ids))
	}
	n.lost(nn)
	if n.Waiting = nn.Status.Demand + nn.Status.ENIDemand; n.Waiting > 0 && !said && !underWay(nn) {
		n.problem("%s for an address or an ENI, and terway-controller has neither acted nor given a reason; its log may", waits(n.Waiting))
	}
	return n
}

// underWay reports whether the waiting pods will be served: an ENI is being attached, or there
// is a free address that the agent has not reported yet.
func underWay(nn *v1alpha1.NodeNetwork) bool {
	taken := map[string]bool{}
	for _, u := range nn.Status.Used {
		taken[u.Address] = true
	}
	for _, a := range nn.Status.Cooling {
		taken[a] = true
	}
	for _, e := range nn.Spec.ENIs {
		if e.Phase == v1alpha1.ENICreating || e.Phase == v1alpha1.ENIAttaching {
			return true
		}
		for _, a := range e.Addresses {
			if e.Phase == v1alpha1.ENIReady && !a.Releasing && !a.Held && !taken[a.Address] {
				return true
			}
		}
	}
	return false
}

func waits(n int) string {
	if n == 1 {
		return "1 pod waits"
	}
	return fmt.Sprintf("%d pods wait", n)
}

// fewNames is the maximum number of pods or nodes in a line.
const fewNames = 5

// few joins the first names of a list and counts the others.
func few(names []string) string {
	if more := len(names) - fewNames; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:fewNames], ", "), more)
	}
	return strings.Join(names, ", ")
}

// lost finds the pods whose address is on none of the node's ENIs.
func (n *Node) lost(nn *v1alpha1.NodeNetwork) {
	var names []string
	for _, u := range nn.Stranded() {
		n.Lost = append(n.Lost, LostPod{Pod: u.Pod, Address: u.Address})
		names = append(names, fmt.Sprintf("%s (%s)", u.Pod, u.Address))
	}
	switch len(names) {
	case 0:
	case 1:
		n.problem("pod %s has an address that is on no ENI of the node: it cannot be reached; delete it, so that it is recreated with another", names[0])
	default:
		n.problem("%d pods have addresses that are on no ENI of the node: they cannot be reached; delete them, so that they are recreated with others: %s", len(names), few(names))
	}
}

// agent reports whether the agent's pod runs. The last report of an agent stays after the agent
// has ended.
func (n *Node) agent(p *corev1.Pod) bool {
	if p == nil {
		n.problem("it has no pod of terwayd, the agent: the information about the node may be old")
		return false
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return true
		}
	}
	n.problem("its agent, pod %s/%s, is not ready: the information about the node may be old", p.Namespace, p.Name)
	return false
}

// count counts the node's ENIs and addresses, and those that pods use.
func (n *Node) count(nn *v1alpha1.NodeNetwork) {
	used := map[string]bool{}
	for _, u := range nn.Status.Used {
		used[u.Address] = true
	}
	n.ENIs = Share{Used: 1, Total: nn.Spec.Limits.ENIs} // the primary is the node's own
	n.ExclusiveENIs.Total = nn.Spec.ExclusiveENIs
	for _, e := range nn.Spec.ENIs {
		if e.Phase == v1alpha1.ENIReady || e.Phase == v1alpha1.ENIDetaching {
			n.ENIs.Used++
		}
		share := &n.Addresses
		if e.Exclusive {
			share = &n.ExclusiveENIs
		} else {
			share.Total += len(e.Addresses)
		}
		for _, a := range e.Addresses {
			if used[a.Address] {
				share.Used++
			}
		}
	}
	n.OwnENIs = n.ExclusiveENIs
}
