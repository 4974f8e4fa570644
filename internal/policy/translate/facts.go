package translate

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	v3 "terway.dev/terway/api/calico/v3"
	"terway.dev/terway/internal/policy"
)

// Cluster converts the objects that policies refer to. If running pods have the same address,
// the youngest one gets it: the objects of deleted pods can still exist.
func Cluster(o Objects) (policy.Cluster, []Note) {
	c := policy.Cluster{
		Namespaces:      map[string]policy.Labels{},
		ServiceAccounts: map[policy.NamespacedName]policy.Labels{},
		Pods:            map[policy.NamespacedName]*policy.Pod{},
		Nodes:           map[string]*policy.Node{},
		NetworkSets:     map[policy.NamespacedName]*policy.NetworkSet{},
		Services:        map[policy.NamespacedName][]policy.Endpoint{},
	}
	var notes []Note
	for _, n := range o.Namespaces {
		c.Namespaces[n.Name] = n.Labels
	}
	for _, a := range o.ServiceAccounts {
		c.ServiceAccounts[policy.NamespacedName{Namespace: a.Namespace, Name: a.Name}] = a.Labels
	}
	for _, n := range o.Nodes {
		c.Nodes[n.Name] = Node(n)
	}
	pods := slices.Clone(o.Pods)
	slices.SortFunc(pods, func(a, b *corev1.Pod) int {
		return cmp.Or(b.CreationTimestamp.Compare(a.CreationTimestamp.Time), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	has := map[netip.Addr]*policy.Pod{}
	for _, object := range pods {
		p := Pod(object)
		c.Pods[p.NamespacedName] = p
		if p.HostNetwork || p.Ended {
			continue
		}
		p.Addresses = slices.DeleteFunc(p.Addresses, func(a netip.Addr) bool {
			other := has[a]
			if other == nil {
				has[a] = p
				return false
			}
			r := report{ref: ref(KindPod, object)}
			r.note(Partly, "status.podIPs", a, "the pod "+other.String()+" is younger and has this address")
			notes = append(notes, r.notes...)
			return true
		})
	}
	for _, s := range o.EndpointSlices {
		if service := s.Labels[discoveryv1.LabelServiceName]; service != "" {
			name := policy.NamespacedName{Namespace: s.Namespace, Name: service}
			c.Services[name] = append(c.Services[name], Endpoints(s)...)
		}
	}
	put := func(name policy.NamespacedName, s *policy.NetworkSet, more []Note) {
		c.NetworkSets[name] = s
		notes = append(notes, more...)
	}
	for _, s := range o.NetworkSets {
		put(NetworkSet(s))
	}
	for _, s := range o.GlobalNetworkSets {
		put(GlobalNetworkSet(s))
	}
	for _, h := range o.HostEndpoints {
		put(HostEndpoint(h))
	}
	return c, notes
}

// NetworkSet converts a NetworkSet, and returns its name in a Cluster.
func NetworkSet(s *v3.NetworkSet) (policy.NamespacedName, *policy.NetworkSet, []Note) {
	r := report{ref: ref(KindNetworkSet, s)}
	set := &policy.NetworkSet{Labels: s.Labels, Nets: r.setNets(s.Spec.Nets)}
	return policy.NamespacedName{Namespace: s.Namespace, Name: s.Name}, set, r.notes
}

// GlobalNetworkSet converts a GlobalNetworkSet, and returns its name in a Cluster.
func GlobalNetworkSet(s *v3.GlobalNetworkSet) (policy.NamespacedName, *policy.NetworkSet, []Note) {
	r := report{ref: ref(KindGlobalNetworkSet, s)}
	set := &policy.NetworkSet{Labels: s.Labels, Nets: r.setNets(s.Spec.Nets)}
	return policy.NamespacedName{Name: s.Name}, set, r.notes
}

// setNets returns the networks of a set. Invalid ones are left out, with a Note.
func (r *report) setNets(list []string) (nets []netip.Prefix) {
	for i, text := range list {
		if n, ok := networkOrAddress(text); ok {
			nets = append(nets, n)
		} else {
			r.note(Partly, item("spec.nets", i), text, "is left out: want an address, or a network such as 192.168.0.0/16 or 2001:db8::/32")
		}
	}
	return nets
}

// HostEndpoint converts a HostEndpoint to a GlobalNetworkSet with its labels and expected
// addresses, so that selectors find it, under a name that no GlobalNetworkSet has. Traffic from and
// to the node itself is not judged.
func HostEndpoint(h *v3.HostEndpoint) (policy.NamespacedName, *policy.NetworkSet, []Note) {
	r := report{ref: ref(KindHostEndpoint, h)}
	s := &policy.NetworkSet{Labels: h.Labels}
	for i, text := range h.Spec.ExpectedIPs {
		if a, ok := address(text); ok {
			s.Nets = append(s.Nets, netip.PrefixFrom(a, a.BitLen()))
		} else {
			r.note(Partly, item("spec.expectedIPs", i), text, "is left out: want an address")
		}
	}
	r.note(Partly, "spec.node", h.Spec.Node, "traffic from and to the node itself is not judged; selectors of rules find spec.expectedIPs by the object's labels")
	// No object's name has a slash.
	return policy.NamespacedName{Name: "hostendpoint/" + h.Name}, s, r.notes
}

// Node converts a node.
func Node(n *corev1.Node) *policy.Node {
	node := &policy.Node{Labels: n.Labels}
	for _, a := range n.Status.Addresses {
		if addr, ok := address(a.Address); ok && !slices.Contains(node.Addresses, addr) {
			node.Addresses = append(node.Addresses, addr)
		}
	}
	return node
}

// Pod converts a pod.
func Pod(p *corev1.Pod) *policy.Pod {
	pod := &policy.Pod{
		NamespacedName: policy.NamespacedName{Namespace: p.Namespace, Name: p.Name},
		Labels:         p.Labels,
		ServiceAccount: cmp.Or(p.Spec.ServiceAccountName, "default"),
		Node:           p.Spec.NodeName,
		HostNetwork:    p.Spec.HostNetwork,
		Ended:          p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed,
	}
	texts := []string{p.Status.PodIP}
	for _, ip := range p.Status.PodIPs {
		texts = append(texts, ip.IP)
	}
	for _, text := range texts {
		if a, ok := address(text); ok && !slices.Contains(pod.Addresses, a) {
			pod.Addresses = append(pod.Addresses, a)
		}
	}
	// Sidecars (init containers that keep running) serve ports too.
	containers := slices.Clone(p.Spec.Containers)
	for _, c := range p.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			containers = append(containers, c)
		}
	}
	for _, c := range containers {
		for _, port := range c.Ports {
			protocol := port.Protocol
			if protocol == "" {
				protocol = corev1.ProtocolTCP
			}
			if number, ok := kubernetesProtocol(&protocol); ok && port.Name != "" {
				pod.Ports = append(pod.Ports, policy.NamedPort{Name: port.Name, Protocol: number, Port: uint16(port.ContainerPort)})
			}
		}
	}
	return pod
}

// Endpoints returns the addresses and ports of a slice, ready or not: a Service may send to
// endpoints that are not ready.
func Endpoints(s *discoveryv1.EndpointSlice) (list []policy.Endpoint) {
	ports := []policy.Endpoint{}
	for _, p := range s.Ports {
		if number, ok := kubernetesProtocol(p.Protocol); ok && p.Port != nil {
			ports = append(ports, policy.Endpoint{Protocol: number, Port: uint16(*p.Port)})
		}
	}
	if len(ports) == 0 {
		// Without ports the addresses still belong to the Service.
		ports = []policy.Endpoint{{}}
	}
	for _, e := range s.Endpoints {
		for _, text := range e.Addresses {
			a, ok := address(text) // not a name
			if !ok {
				continue
			}
			for _, p := range ports {
				p.Address = a
				list = append(list, p)
			}
		}
	}
	return list
}
