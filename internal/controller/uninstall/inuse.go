package uninstall

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/controller/loadbalancer"
	"terway.dev/terway/internal/controller/nodeinfo"
	"terway.dev/terway/internal/datapath/claims"
)

var crd = schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"}

// found is what exists of Terway.
type found struct {
	namespace string
	networks  []v1alpha1.NodeNetwork
	nodes     []corev1.Node
	// services have something in the cloud by Terway.
	services []corev1.Service
	// agents are the agents' pods.
	agents []corev1.Pod
	// enis are the cluster's, in the cloud.
	enis []cloud.ENI
}

// target is a node to clean.
type target struct {
	name string
	// silent: its kubelet does not report, so nothing can run there.
	silent bool
}

// targets returns the nodes on which Terway, or Flannel of the chart, runs or has run, sorted. A node that Terway ignores is none,
// unless an agent is left there.
func (f *found) targets() []target {
	has := map[string]bool{}
	for i := range f.nodes {
		_, flannel := f.nodes[i].Annotations[claims.AnnotationPodCIDR]
		has[f.nodes[i].Name] = flannel
	}
	for i := range f.networks {
		has[f.networks[i].Name] = true
	}
	runs := map[string]bool{}
	for i := range f.agents {
		runs[f.agents[i].Spec.NodeName] = true
	}
	var all []target
	for i := range f.nodes {
		if n := &f.nodes[i]; runs[n.Name] || has[n.Name] && !nodeinfo.Ignored(n) {
			all = append(all, target{n.Name, silent(n)})
		}
	}
	slices.SortFunc(all, func(a, b target) int {
		if a.name < b.name {
			return -1
		}
		return 1
	})
	return all
}

// silent reports whether a node's kubelet does not report. A node without a network is not ready either, but its kubelet runs
// pods of the node's own network.
func silent(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionUnknown
		}
	}
	return true // it has never reported
}

// inUse returns what still uses the network, a line each.
func (f *found) inUse() (lines []string) {
	instances := map[string]bool{}
	for i := range f.networks {
		nn := &f.networks[i]
		instances[nn.Spec.InstanceID] = true
		for _, a := range nn.Status.Used {
			lines = append(lines, fmt.Sprintf("pod %s on node %s has address %s", a.Pod, nn.Name, a.Address))
		}
		for _, e := range nn.Spec.ENIs {
			for _, a := range e.Addresses {
				if a.Held && !uses(nn, a.Address) {
					lines = append(lines, fmt.Sprintf("a load balancer has address %s of node %s as a backend", a.Address, nn.Name))
				}
			}
		}
	}
	for i := range f.services {
		s := &f.services[i]
		lines = append(lines, fmt.Sprintf("Service %s/%s has a load balancer (%s)", s.Namespace, s.Name, s.Annotations[loadbalancer.AnnotationUses]))
	}
	for _, t := range f.targets() {
		if t.silent {
			lines = append(lines, fmt.Sprintf("node %s cannot be cleaned: its kubelet does not report; start it, or delete the Node if its instance is gone", t.name))
		}
	}
	for i := range f.enis {
		if e := &f.enis[i]; e.InstanceID != "" && !instances[e.InstanceID] {
			lines = append(lines, fmt.Sprintf("ENI %s of this cluster is attached to instance %s, which is no node of it: somebody may use it; detach it there", e.ID, e.InstanceID))
		}
	}
	return lines
}

func uses(nn *v1alpha1.NodeNetwork, address string) bool {
	return slices.ContainsFunc(nn.Status.Used, func(u v1alpha1.UsedAddress) bool { return u.Address == address })
}

// withoutMarks removes from a Node what the controller and the agents have added, and reports whether there was anything.
func withoutMarks(n *corev1.Node) bool {
	before := len(n.Spec.Taints)
	n.Spec.Taints = slices.DeleteFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == claims.TaintNotReady })
	changed := len(n.Spec.Taints) < before
	for _, key := range []string{claims.AnnotationMaxPods, claims.AnnotationPodCIDR} {
		_, annotated := n.Annotations[key]
		changed = changed || annotated
		delete(n.Annotations, key)
	}
	return changed
}
