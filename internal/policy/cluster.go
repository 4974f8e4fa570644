package policy

import "net/netip"

// A Cluster is what rules are asked about. Whoever fills it has checked it: addresses are
// unmapped, and no two running pods have the same.
type Cluster struct {
	Namespaces      map[string]Labels
	ServiceAccounts map[NamespacedName]Labels
	Pods            map[NamespacedName]*Pod
	Nodes           map[string]*Node
	NetworkSets     map[NamespacedName]*NetworkSet // namespace "": global
	Services        map[NamespacedName][]Endpoint
}

// Labels are those that an object of the Kubernetes API has; selectors are asked of them
// with what is added on the spot (PodLabels and others).
type Labels = map[string]string

// NamespacedName names an object.
type NamespacedName struct{ Namespace, Name string }

func (n NamespacedName) String() string { return n.Namespace + "/" + n.Name }

// A Pod is what policies know of one.
type Pod struct {
	NamespacedName
	Labels         Labels
	ServiceAccount string
	Node           string
	// Addresses, at most one of each family is usual; none before the pod has one.
	Addresses   []netip.Addr
	HostNetwork bool
	// Ended: its phase is Succeeded or Failed. Its addresses may be another's.
	Ended bool
	Ports []NamedPort
}

// A NamedPort is a container's port that has a name.
type NamedPort struct {
	Name     string
	Protocol uint8 // IP number
	Port     uint16
}

// A Node is what policies know of one.
type Node struct {
	Labels    Labels
	Addresses []netip.Addr
}

// A NetworkSet is Calico's list of networks with labels.
type NetworkSet struct {
	Labels Labels
	Nets   []netip.Prefix
}

// An Endpoint is one of a Service: an address and a port that the Service sends to.
type Endpoint struct {
	Address  netip.Addr
	Protocol uint8 // IP number
	Port     uint16
}
