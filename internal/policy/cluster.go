package policy

import "net/netip"

// A Cluster holds the objects that rules are evaluated against. Its producer has checked it:
// addresses are not IPv4-mapped, and no two running pods share one.
type Cluster struct {
	Namespaces      map[string]Labels
	ServiceAccounts map[NamespacedName]Labels
	Pods            map[NamespacedName]*Pod
	Nodes           map[string]*Node
	NetworkSets     map[NamespacedName]*NetworkSet // the global ones have Namespace ""
	Services        map[NamespacedName][]Endpoint
}

// Labels are the labels of an object of the Kubernetes API. Selectors are evaluated on these
// labels plus the generated ones (see PodLabels and the others).
type Labels = map[string]string

// NamespacedName names an object.
type NamespacedName struct{ Namespace, Name string }

func (n NamespacedName) String() string { return n.Namespace + "/" + n.Name }

// A Pod has the fields of a pod that policies use.
type Pod struct {
	NamespacedName
	Labels         Labels
	ServiceAccount string
	Node           string
	// Addresses has at most one address of each family, and is empty until the pod has one.
	Addresses   []netip.Addr
	HostNetwork bool
	// Ended: the pod's phase is Succeeded or Failed. Another pod may have its addresses now.
	Ended bool
	Ports []NamedPort
}

// A NamedPort is a named port of a container.
type NamedPort struct {
	Name     string
	Protocol uint8 // IP number
	Port     uint16
}

// A Node has the fields of a node that policies use.
type Node struct {
	Labels    Labels
	Addresses []netip.Addr
}

// A NetworkSet is Calico's list of networks with labels.
type NetworkSet struct {
	Labels Labels
	Nets   []netip.Prefix
}

// An Endpoint is an endpoint of a Service: an address and port that the Service sends to.
type Endpoint struct {
	Address  netip.Addr
	Protocol uint8 // IP number
	Port     uint16
}
