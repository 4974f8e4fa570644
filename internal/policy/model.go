package policy

import (
	"fmt"
	"net/netip"

	"terway.dev/terway/internal/policy/selector"
)

// Direction is the direction of a connection from the view of the pod.
type Direction uint8

// The directions.
const (
	Ingress Direction = iota
	Egress
)

func (d Direction) String() string {
	if d == Ingress {
		return "ingress"
	}
	return "egress"
}

// Action is what happens to a connection that matches a rule.
type Action uint8

// The actions. The package doc says what each does.
const (
	Allow Action = iota + 1
	Deny
	Pass
	Log
)

func (a Action) String() string {
	switch a {
	case Allow:
		return "allow"
	case Deny:
		return "deny"
	case Pass:
		return "pass"
	case Log:
		return "log"
	}
	return fmt.Sprintf("action %d", uint8(a))
}

// A Set holds all policies of a cluster: tiers in the order of evaluation.
type Set struct {
	Tiers []Tier
}

// A Tier is an ordered list of policies.
type Tier struct {
	Name string
	// Default applies to a pod that a policy of the tier selects, if no rule of the tier
	// decides. It is Deny, or Pass (continue with the next tier).
	Default Action
	// Policies in the order of evaluation.
	Policies []Policy
}

// A Policy is one policy object of an API.
type Policy struct {
	Ref Ref
	// Subject selects the pods whose connections are judged.
	Subject PodSelector
	// Directions says for which directions the policy applies to its subject, even if it has no
	// rules for them. Index: Direction.
	Directions [2]bool
	// Rules in the order of evaluation. Index: Direction.
	Rules [2][]Rule
}

// A Ref identifies the object that a policy was translated from.
type Ref struct {
	// Kind includes the API group where two groups have the same kind: "NetworkPolicy",
	// "NetworkPolicy.projectcalico.org", "GlobalNetworkPolicy", "ClusterNetworkPolicy" …
	Kind      string
	Namespace string // "" for cluster-scoped objects
	Name      string
}

func (r Ref) String() string {
	if r.Namespace == "" {
		return r.Kind + " " + r.Name
	}
	return r.Kind + " " + r.Namespace + "/" + r.Name
}

// A Rule matches a connection if Family and Self match, one of Peers and one of Traffic.
type Rule struct {
	// Number counts the rules of one direction of the object, from 0.
	Number int
	// Name is the rule's name in the object, if it has one.
	Name   string
	Action Action
	// Family is 4, 6, or 0 for both.
	Family uint8
	// Self must match the pod's own address. The zero value matches every pod.
	Self Match
	// Peers are alternatives that the other end's address must match. Nil: every address;
	// empty: none.
	Peers []Match
	// Traffic are alternatives. Nil: all traffic; empty: none.
	Traffic []Traffic
}

// A Match is a conjunction: it matches an address that is in every set of In and in no set of
// NotIn.
type Match struct {
	In    []AddrSet
	NotIn []AddrSet
}

// An AddrSet is a set of addresses: the union of its fields.
type AddrSet struct {
	// Pods: the addresses of the selected pods.
	Pods *PodSelector
	// NetworkSets: the networks of the selected network sets.
	NetworkSets *NetworkSetSelector
	// Nodes: every address of the nodes whose labels match.
	Nodes *selector.Selector
	// Service: the addresses of the Service's endpoints.
	Service *ServiceRef
	// Nets: every address in these networks, also those of pods and nodes.
	Nets []netip.Prefix
}

// PodSelector selects pods for which all conditions that are set hold. It never selects pods of
// the host network or pods that have ended.
type PodSelector struct {
	// Namespace, if not "": only pods in this namespace.
	Namespace string
	// Namespaces is evaluated on Cluster.NamespaceLabels of the pod's namespace.
	Namespaces *selector.Selector
	// Pods is evaluated on Cluster.PodLabels.
	Pods *selector.Selector
	// ServiceAccountNames, if not nil: the pod's service account has one of these names.
	ServiceAccountNames []string
	// ServiceAccounts is evaluated on Cluster.ServiceAccountLabels of the pod's service
	// account.
	ServiceAccounts *selector.Selector
}

// NetworkSetSelector selects Calico's network sets.
type NetworkSetSelector struct {
	// Namespace, if not "": only NetworkSets in this namespace.
	Namespace string
	// Namespaces is evaluated on Cluster.NamespaceLabels of a NetworkSet's namespace.
	// GlobalNetworkSets ignore it.
	Namespaces *selector.Selector
	// Global includes GlobalNetworkSets.
	Global bool
	// Namespaced includes NetworkSets.
	Namespaced bool
	// Sets is evaluated on Cluster.NetworkSetLabels.
	Sets *selector.Selector
}

// ServiceRef identifies a Service.
type ServiceRef struct {
	Namespace, Name string
}

// Traffic is a conjunction of conditions on protocol, ports, ICMP type and code.
type Traffic struct {
	// Protocols are the IP numbers that match; nil: every protocol.
	Protocols *[256]bool
	// ICMP must match. If it is set, only ICMP and ICMPv6 match.
	ICMP *ICMP
	// NotICMP must not match.
	NotICMP *ICMP
	// SourcePorts and DestinationPorts are alternatives; nil: every port. If either is set,
	// only TCP, UDP and SCTP match.
	SourcePorts, DestinationPorts []Port
	// Ports in the Not lists do not match.
	NotSourcePorts, NotDestinationPorts []Port
	// DestinationService: the destination's address, protocol and port must be an endpoint of
	// the Service.
	DestinationService *ServiceRef
}

// ICMP matches a type, and a code unless Code is -1.
type ICMP struct {
	Type uint8
	Code int16
}

// A Port is a range of numbers, or the name of a port. A name stands for the port that the pod
// at that end of the connection declares under it for the connection's protocol. Ends that
// declare no such name, or are no pods, do not match.
type Port struct {
	From, To uint16
	Name     string
}
