// Package config is the cluster's configuration: the ConfigMap eni-config. Only this package
// parses and validates it.
//
// It owns the keys, their defaults, which values this version supports, which keys may change
// on a running cluster, and the conversion of the existing Terway's configuration. It is pure:
// others read the ConfigMap.
package config

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/decode"
)

// Config is the configuration. The JSON names are the keys of the file.
type Config struct {
	// ClusterID tags the resources that the controller creates; it must be unique in a VPC.
	ClusterID string `json:"cluster_id"`
	// Region is the cloud region, "cn-hangzhou".
	Region string `json:"region"`
	// Network is "terway" or "flannel".
	Network string `json:"network"`
	// PodCIDR is the pods' range with Flannel: each node has a block of it (Node.spec.podCIDR),
	// and the VPC's route tables an entry for each block.
	PodCIDR string `json:"pod_cidr,omitempty"`
	// RouteTables are the tables for Flannel's entries; empty: the VPC's system table.
	RouteTables []string `json:"route_tables,omitempty"`
	// VSwitches are the Pod vSwitches by zone; empty with Flannel.
	VSwitches map[string][]string `json:"vswitches"`
	// SecurityGroups are the security groups of ENIs; empty: those of the instance.
	SecurityGroups []string `json:"security_groups,omitempty"`
	// MinPoolSize and MaxPoolSize limit the number of free addresses of a node.
	MinPoolSize int `json:"min_pool_size"`
	MaxPoolSize int `json:"max_pool_size"`
	// CoolingSeconds is how long a freed address is not used again.
	CoolingSeconds int `json:"cooling_seconds"`
	// ServiceCIDR is one range, or an IPv4 and an IPv6 range separated by a comma.
	ServiceCIDR string `json:"service_cidr"`
	// VSwitchSelectionPolicy is "most" (free addresses), "ordered" or "random".
	VSwitchSelectionPolicy string `json:"vswitch_selection_policy"`
	// ENITags are added to every ENI, beside the controller's own.
	ENITags map[string]string `json:"eni_tags,omitempty"`
	// Mode is "shared" (pods share ENIs) or "exclusive" (an ENI for each pod).
	Mode string `json:"mode"`
	// ExclusiveENIs is the number of ENIs of each node for pods that request an exclusive ENI,
	// in mode shared.
	ExclusiveENIs int `json:"exclusive_enis"`
	// WarmENIs is the number of free ENIs that a node keeps attached for such pods.
	WarmENIs int `json:"warm_enis"`
	// HostStackCIDRs are ranges that every pod reaches through the node's network stack.
	HostStackCIDRs []string `json:"host_stack_cidrs,omitempty"`
	// Datapath is "auto" or a datapath's name.
	Datapath string `json:"datapath"`
	// NetworkPriority is what pods' network priority needs to have an effect.
	NetworkPriority NetworkPriority `json:"network_priority,omitzero"`
	// NetworkPolicy enables enforcement. When it is off, policies are not read.
	NetworkPolicy bool `json:"network_policy"`
	// PolicyAllowLoadBalancerProbes lets the health checks of load balancers (100.64.0.0/10) reach
	// every pod, whatever policies say; when false only rules do.
	PolicyAllowLoadBalancerProbes bool `json:"policy_allow_load_balancer_probes"`
	// MasqueradeOutside makes pods leave the VPC with their node's address.
	MasqueradeOutside bool `json:"masquerade_outside"`
	// LoadBalancerClasses are the further classes of Services that get a load balancer, and of which
	// product, "CLB" or "NLB"; "" stands for Services without a class.
	LoadBalancerClasses map[string]string `json:"load_balancer_classes,omitempty"`

	serviceCIDRs []netip.Prefix
	podRange     netip.Prefix
}

// NetworkPriority is the value of the key network_priority.
type NetworkPriority struct {
	// ENIMbit is the rate in Mbit/s that each shared ENI may send; 0: priorities have no effect.
	ENIMbit int `json:"eni_mbit"`
}

// Defaults. The cooling period is longer than a peer's connection tracking
// remembers an unanswered SYN (Linux: nf_conntrack_tcp_timeout_syn_sent, 120 s).
const (
	DefaultMinPool = 3
	DefaultMaxPool = 8
	DefaultCooling = 130
)

// Parse parses a configuration in YAML or JSON. The error lists every problem with field,
// value, and what would be right.
func Parse(data []byte) (*Config, error) {
	raw, err := document(data)
	if err != nil {
		return nil, err
	}
	return parse(raw)
}

// document parses a YAML or JSON object. Empty input is an object without keys.
func document(data []byte) (map[string]any, error) {
	doc, err := decode.YAML(data)
	if err != nil {
		return nil, fmt.Errorf("the configuration is %w", err)
	}
	raw, ok := doc.(map[string]any)
	if !ok && doc != nil {
		return nil, fmt.Errorf("the configuration is %s: want keys with values: cluster_id, region, …", decode.Describe(doc))
	}
	return raw, nil
}

// parse does the rest of Parse.
func parse(raw map[string]any) (*Config, error) {
	c := &Config{
		MinPoolSize: DefaultMinPool, MaxPoolSize: DefaultMaxPool, CoolingSeconds: DefaultCooling,
		VSwitchSelectionPolicy: "most", Network: claims.NetworkTerway, Mode: claims.ModeShared, WarmENIs: 1, Datapath: claims.Auto,
		PolicyAllowLoadBalancerProbes: true,
	}
	var errs []error
	known := maps.Clone(raw)
	mistaken := map[string]bool{}
	for _, k := range slices.Sorted(maps.Keys(raw)) {
		if find(k) == nil {
			errs = append(errs, unknown(k))
			delete(known, k)
			mistaken[decode.Nearest(k, names())] = true
		}
	}
	for _, m := range decode.Object(known, c) {
		errs = append(errs, fmt.Errorf("%s", m))
		mistaken[keyOf(m.Field)] = true
	}
	if _, set := raw["max_pool_size"]; !set {
		c.MaxPoolSize = max(c.MaxPoolSize, c.MinPoolSize)
	}
	if c.Network == claims.NetworkFlannel {
		errs = append(errs, notWithFlannel(raw)...)
	}
	for _, err := range c.check() {
		if !mistaken[keyOf(err.Error())] { // a key with a wrong form or name is not reported as missing too
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return c, nil
}

// keyOf returns the key of a field or of a problem: its first word.
func keyOf(s string) string {
	if end := strings.IndexAny(s, " .:["); end >= 0 {
		return s[:end]
	}
	return s
}

// ServiceCIDRs returns the ranges of ServiceCIDR.
func (c *Config) ServiceCIDRs() []netip.Prefix { return c.serviceCIDRs }

// PodRange returns PodCIDR, or the zero prefix without Flannel.
func (c *Config) PodRange() netip.Prefix { return c.podRange }
