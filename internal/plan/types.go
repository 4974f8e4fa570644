// Package plan designs a cluster's network: the VPC's range, a node vSwitch and Pod vSwitches
// for each zone, the Service range, and the number of pods that follows from the nodes'
// instance types.
//
// It is pure: values in, values out. It uses no cloud, no files and no clock.
package plan

import (
	"net/netip"
)

// Plan is a cluster's network, as in the plan file (YAML or JSON).
type Plan struct {
	// Version of the file's format: 1.
	Version int `json:"version"`
	// Name is the name of the created resources: the VPC, its vSwitches and the security group.
	Name string `json:"name"`
	// Region is the cloud region, "cn-hangzhou".
	Region string `json:"region"`
	// Network is claims.NetworkTerway or claims.NetworkFlannel.
	Network string `json:"network"`
	// Mode is claims.ModeShared or claims.ModeExclusive; empty with Flannel.
	Mode string `json:"mode,omitempty"`
	// Prefixes: Terway uses /28 blocks instead of single addresses.
	Prefixes bool  `json:"prefixes,omitempty"`
	VPC      VPC   `json:"vpc"`
	Nodes    Nodes `json:"nodes"`
	// Zones in the order in which nodes are spread over them.
	Zones []Zone `json:"zones"`
	// ServiceCIDR is the cluster's Service range.
	ServiceCIDR netip.Prefix `json:"serviceCIDR"`
	// PodCIDR and NodeMask are for Flannel: the pods' range, and the prefix length of each
	// node's block. Zero with Terway.
	PodCIDR  netip.Prefix `json:"podCIDR,omitzero"`
	NodeMask int          `json:"nodeMask,omitempty"`
	// SecurityGroup is the kind of the security group: "normal" holds 2,000 private
	// addresses, "enterprise" 65,536.
	SecurityGroup string `json:"securityGroup"`
	// Avoid are ranges that the plan must not overlap: peered VPCs, data centres, other
	// clusters.
	Avoid []netip.Prefix `json:"avoid,omitempty"`
}

// VPC has the VPC's ranges.
type VPC struct {
	CIDR netip.Prefix `json:"cidr"`
	// Secondary ranges (at most five).
	Secondary []netip.Prefix `json:"secondary,omitempty"`
}

// Nodes is what the plan has room for.
type Nodes struct {
	// Count is the initial number of nodes, Max the number that the plan must hold later.
	Count int `json:"count"`
	Max   int `json:"max"`
	// InstanceTypes of the nodes.
	InstanceTypes []string `json:"instanceTypes"`
	// PodsPerNode is the number of pods that a node must hold; 0: the maximum of its type.
	PodsPerNode int `json:"podsPerNode,omitempty"`
}

// Zone is a zone's vSwitches.
type Zone struct {
	// ID is the zone, "cn-hangzhou-i".
	ID string `json:"id"`
	// Node is the vSwitch of the nodes' primary ENIs.
	Node VSwitch `json:"node"`
	// Pods are the Pod vSwitches of the same zone; none with Flannel.
	Pods []VSwitch `json:"pods,omitempty"`
}

// VSwitch is a subnet of the plan.
type VSwitch struct {
	Name string       `json:"name"`
	CIDR netip.Prefix `json:"cidr"`
}
