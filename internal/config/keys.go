package config

import (
	"fmt"
	"strings"

	"terway.dev/terway/internal/decode"
)

// key is a key of the file.
type key struct {
	name string
	// terway: it has no meaning with network flannel.
	terway bool
	// fixed says why the key cannot change on a running cluster, and what to do; "" if it can.
	fixed string
}

// keys are all keys, in the order of the documentation.
var keys = []key{
	{name: "cluster_id", fixed: "the ENIs of nodes have the old one and would belong to no cluster; it can change only while no node has an ENI"},
	{name: "region", fixed: "a VPC and its instances are in one region; another region is another cluster"},
	{name: "network", fixed: "pods that run have addresses of the old network; another network is another cluster"},
	{name: "pod_cidr", fixed: "each node's block was cut from it when the node joined (Node.spec.podCIDR); another range is another cluster"},
	{name: "route_tables"},
	{name: "mode", terway: true},
	{name: "exclusive_enis", terway: true},
	{name: "warm_enis", terway: true},
	{name: "host_stack_cidrs", terway: true},
	{name: "datapath", terway: true},
	{name: "network_priority", terway: true},
	{name: "network_policy", terway: true},
	{name: "policy_allow_load_balancer_probes", terway: true},
	{name: "vswitches", terway: true},
	{name: "vswitch_selection_policy", terway: true},
	{name: "security_groups", terway: true},
	{name: "eni_tags", terway: true},
	{name: "min_pool_size", terway: true},
	{name: "max_pool_size", terway: true},
	{name: "cooling_seconds", terway: true},
	{name: "service_cidr"},
	{name: "masquerade_outside", terway: true},
	{name: "load_balancer_classes"},
}

func find(name string) *key {
	for i := range keys {
		if keys[i].name == name {
			return &keys[i]
		}
	}
	return nil
}

func names() []string {
	var out []string
	for _, k := range keys {
		out = append(out, k.name)
	}
	return out
}

// unknown says what to write instead, or names the most similar key.
func unknown(k string) error {
	for _, table := range []map[string]oldKey{oldKeys(), pluginKeys(), mapKeys()} {
		if old, ok := table[k]; ok {
			return fmt.Errorf("%q is not a key: %s", k, old.why)
		}
	}
	if near := decode.Nearest(k, names()); near != "" {
		return fmt.Errorf("%q is not a key: did you mean %q?", k, near)
	}
	return fmt.Errorf("%q is not a key: the keys are %s", k, strings.Join(names(), ", "))
}
