package status

import (
	"cmp"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/api/v1alpha1"
)

// Status is what the command tells.
type Status struct {
	Nodes []Node `json:"nodes"`
}

// Node is what a node says of its network, and the cluster of its agent.
type Node struct {
	Node string `json:"node"`
	Mode string `json:"mode,omitempty"`
	// Datapath runs; Asked is what the configuration says.
	Datapath string `json:"datapath,omitempty"`
	Asked    string `json:"asked,omitempty"`
	// Reason and Why are those of condition DatapathReady.
	Reason string `json:"reason,omitempty"`
	Why    string `json:"why,omitempty"`
	// AgentReady: the agent's pod is ready, and it can wire pods.
	AgentReady bool `json:"agentReady"`
	// ENIs are those attached, the primary included, and how many the type may have.
	ENIs Share `json:"enis"`
	// Addresses are those of shared ENIs: held by pods, and assigned.
	Addresses Share `json:"addresses"`
	// OwnENIs are those that serve one pod: held, and how many the node may have.
	OwnENIs Share `json:"ownENIs"`
	// Problems are in plain words.
	Problems []string `json:"problems,omitempty"`
}

// Share is a part of a whole.
type Share struct {
	Used  int `json:"used"`
	Total int `json:"total"`
}

// objects are what the cluster was asked for.
type objects struct {
	nodes    []corev1.Node
	networks []v1alpha1.NodeNetwork
	agents   []corev1.Pod
}

// status puts together what belongs to each node, by name.
func (o *objects) status() *Status {
	st := &Status{Nodes: []Node{}}
	agents, networks := map[string]*corev1.Pod{}, map[string]*v1alpha1.NodeNetwork{}
	for i := range o.agents {
		p := &o.agents[i]
		// One that is ending may be listed beside its successor.
		if old := agents[p.Spec.NodeName]; old == nil || old.DeletionTimestamp != nil {
			agents[p.Spec.NodeName] = p
		}
	}
	for i := range o.networks {
		networks[o.networks[i].Name] = &o.networks[i]
	}
	for i := range o.nodes {
		name := o.nodes[i].Name
		st.Nodes = append(st.Nodes, node(name, networks[name], agents[name]))
		delete(networks, name)
	}
	for name, nn := range networks {
		n := node(name, nn, agents[name])
		n.Problems = []string{"the cluster has no such node any more; the controller is giving back its ENIs"}
		st.Nodes = append(st.Nodes, n)
	}
	slices.SortFunc(st.Nodes, func(a, b Node) int { return cmp.Compare(a.Node, b.Node) })
	return st
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
	n.Mode, n.Datapath, n.Asked = cmp.Or(nn.Spec.Mode, "shared"), nn.Status.Datapath, nn.Spec.Datapath
	if c := meta.FindStatusCondition(nn.Status.Conditions, v1alpha1.ConditionDatapathReady); c != nil {
		n.Reason, n.Why = c.Reason, c.Message
		if c.Status != metav1.ConditionTrue || c.Reason == v1alpha1.ReasonDatapathKept {
			n.problem("datapath: %s: %s", c.Reason, c.Message)
		}
	}
	switch c := meta.FindStatusCondition(nn.Status.Conditions, v1alpha1.ConditionReady); {
	case c == nil:
		n.problem("its agent has never reported")
	case c.Status != metav1.ConditionTrue && c.Message == n.Why: // said already
	case c.Status != metav1.ConditionTrue:
		n.problem("it wires no pods: %s: %s", c.Reason, c.Message)
	default:
		n.AgentReady = running
	}
	for _, c := range nn.Spec.Conditions {
		if c.Type == v1alpha1.ConditionAddressesAvailable && c.Status == metav1.ConditionFalse {
			n.problem("no more addresses: %s: %s", c.Reason, c.Message)
		}
	}
	n.count(nn)
	return n
}

// agent says whether the agent's pod runs: what a dead agent reported last stays.
func (n *Node) agent(p *corev1.Pod) bool {
	if p == nil {
		n.problem("it has no pod of terwayd, the agent: what is said of the node may be old")
		return false
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return true
		}
	}
	n.problem("its agent, pod %s/%s, is not ready: what is said of the node may be old", p.Namespace, p.Name)
	return false
}

// count counts what the node has and what pods hold of it.
func (n *Node) count(nn *v1alpha1.NodeNetwork) {
	used := map[string]bool{}
	for _, u := range nn.Status.Used {
		used[u.Address] = true
	}
	n.ENIs = Share{Used: 1, Total: nn.Spec.Limits.ENIs} // the primary is the node's own
	n.OwnENIs.Total = nn.Spec.OwnENIs
	for _, e := range nn.Spec.ENIs {
		if e.Phase == v1alpha1.ENIReady || e.Phase == v1alpha1.ENIDetaching {
			n.ENIs.Used++
		}
		share := &n.Addresses
		if e.Own {
			share = &n.OwnENIs
		} else {
			share.Total += len(e.Addresses)
		}
		for _, a := range e.Addresses {
			if used[a.Address] {
				share.Used++
			}
		}
	}
}
