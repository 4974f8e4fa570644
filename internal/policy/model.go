package policy

import (
	"fmt"
	"net/netip"

	"terway.dev/terway/internal/policy/selector"
)

// Direction is that of a connection as its pod sees it.
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

// Action is what a rule does with a connection that it matches.
type Action uint8

// The actions; package doc says how each goes on.
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

// A Set is all that a cluster's policies say: its tiers in the order of evaluation.
type Set struct {
	Tiers []Tier
}

// A Tier is a list of policies that are tried one after another.
type Tier struct {
	Name string
	// Default holds for a pod that a policy of the tier selects, if no rule of the tier
	// decides: Deny, or Pass (on to the next tier).
	Default Action
	// Policies in the order of evaluation.
	Policies []Policy
}

// A Policy is one object of an API.
type Policy struct {
	Ref Ref
	// Subject selects the pods whose connections are judged.
	Subject PodSelector
	// Directions says for which directions the policy selects its subject, whether or not
	// it has rules for them. Index: Direction.
	Directions [2]bool
	// Rules in the order of evaluation. Index: Direction.
	Rules [2][]Rule
}

// A Ref names the object that a policy comes from.
type Ref struct {
	// Kind with its group where two groups have the same: "NetworkPolicy",
	// "NetworkPolicy.projectcalico.org", "GlobalNetworkPolicy", "ClusterNetworkPolicy" …
	Kind      string
	Namespace string // "" for objects of the cluster
	Name      string
}

func (r Ref) String() string {
	if r.Namespace == "" {
		return r.Kind + " " + r.Name
	}
	return r.Kind + " " + r.Namespace + "/" + r.Name
}

// A Rule matches a connection if Family, Self, one of Peers and one of Traffic match.
type Rule struct {
	// Number counts the rules of one direction of the object, from 0.
	Number int
	// Name is what the object calls the rule, if it does.
	Name   string
	Action Action
	// Family is 4 or 6; 0: both.
	Family uint8
	// Self is asked of the pod's own address; its zero value matches every pod.
	Self Match
	// Peers are alternatives, asked of the other end's address. Nil: every address;
	// empty: none.
	Peers []Match
	// Traffic are alternatives. Nil: all traffic; empty: none.
	Traffic []Traffic
}

// A Match is a conjunction: it holds for an address that every set of In contains and no set
// of NotIn.
type Match struct {
	In    []AddrSet
	NotIn []AddrSet
}

// An AddrSet is a set of addresses: the union of what its fields name.
type AddrSet struct {
	// Pods: the addresses of the pods selected.
	Pods *PodSelector
	// NetworkSets: the networks of the network sets selected.
	NetworkSets *NetworkSetSelector
	// Nodes: every address of the nodes whose labels match.
	Nodes *selector.Selector
	// Service: the addresses of its endpoints.
	Service *ServiceRef
	// Nets: these networks, whoever has an address in them, pods and nodes too.
	Nets []netip.Prefix
}

// PodSelector selects pods that have a network of their own and have not ended: all
// conditions that are set must hold. Pods of the host's network are never selected.
type PodSelector struct {
	// Namespace, if not "": only pods in it.
	Namespace string
	// Namespaces is asked of Cluster.NamespaceLabels of the pod's namespace.
	Namespaces *selector.Selector
	// Pods is asked of Cluster.PodLabels.
	Pods *selector.Selector
	// ServiceAccountNames, if not nil: the pod's service account has one of these names.
	ServiceAccountNames []string
	// ServiceAccounts is asked of Cluster.ServiceAccountLabels of the pod's service account.
	ServiceAccounts *selector.Selector
}

// NetworkSetSelector selects Calico's network sets.
type NetworkSetSelector struct {
	// Namespace, if not "": only NetworkSets in it.
	Namespace string
	// Namespaces is asked of Cluster.NamespaceLabels of a NetworkSet's namespace. It says
	// nothing of GlobalNetworkSets.
	Namespaces *selector.Selector
	// Global: GlobalNetworkSets are candidates.
	Global bool
	// Namespaced: NetworkSets are candidates.
	Namespaced bool
	// Sets is asked of Cluster.NetworkSetLabels.
	Sets *selector.Selector
}

// ServiceRef names a Service.
type ServiceRef struct {
	Namespace, Name string
}

// Traffic is a conjunction of conditions on the protocol and what it counts by.
type Traffic struct {
	// Protocols holds the protocol's IP number; nil: every protocol.
	Protocols *[256]bool
	// ICMP is asked of ICMP and ICMPv6; other protocols do not match if it is set.
	ICMP *ICMP
	// NotICMP: what it matches does not match.
	NotICMP *ICMP
	// SourcePorts and DestinationPorts are alternatives each; nil: every port. With any of
	// them only TCP, UDP and SCTP match.
	SourcePorts, DestinationPorts []Port
	// What is in the Not lists does not match.
	NotSourcePorts, NotDestinationPorts []Port
	// DestinationService: the destination's address and port are an endpoint of the
	// Service with that protocol.
	DestinationService *ServiceRef
}

// ICMP is a type, and a code if Code is not -1.
type ICMP struct {
	Type uint8
	Code int16
}

// A Port is a range of numbers, or a name that the pod at that end of the connection gives
// to a port of the connection's protocol. A pod that has no such name, and whatever is no
// pod, does not match a name.
type Port struct {
	From, To uint16
	Name     string
}
