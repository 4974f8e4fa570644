// Package config is the controller's configuration: one file, the ConfigMap
// eni-config, read and validated here and nowhere else.
package config

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sort"
	"strings"

	"sigs.k8s.io/yaml"
)

// Config is the configuration. The JSON names are the keys of the file.
type Config struct {
	// ClusterID tags what the controller creates; two clusters of one VPC must differ.
	ClusterID string `json:"cluster_id"`
	// Region is the cloud region, "cn-hangzhou".
	Region string `json:"region"`
	// Network is "terway" or "flannel".
	Network string `json:"network"`
	// PodCIDR is the pods' range with Flannel: each node has a block of it
	// (Node.spec.podCIDR), and each block an entry in the VPC's route tables.
	PodCIDR string `json:"pod_cidr,omitempty"`
	// RouteTables are the tables that get Flannel's entries; empty: the VPC's system table.
	RouteTables []string `json:"route_tables,omitempty"`
	// VSwitches are the Pod vSwitches by zone; none with Flannel.
	VSwitches map[string][]string `json:"vswitches"`
	// SecurityGroups are those of the ENIs; empty: those of the instance.
	SecurityGroups []string `json:"security_groups,omitempty"`
	// MinPoolSize and MaxPoolSize are how many free addresses a node keeps.
	MinPoolSize int `json:"min_pool_size"`
	MaxPoolSize int `json:"max_pool_size"`
	// CoolingSeconds is how long a freed address rests before another pod has it.
	CoolingSeconds int `json:"cooling_seconds"`
	// ServiceCIDR is one range, or an IPv4 and an IPv6 one with a comma between.
	ServiceCIDR string `json:"service_cidr"`
	// VSwitchSelectionPolicy is "most" (free addresses), "ordered" or "random".
	VSwitchSelectionPolicy string `json:"vswitch_selection_policy"`
	// ENITags are put on every ENI beside the controller's own.
	ENITags map[string]string `json:"eni_tags,omitempty"`
	// Datapath is "auto" or a datapath's name.
	Datapath string `json:"datapath"`
	// MasqueradeOutside makes pods leave the VPC with their node's address.
	MasqueradeOutside bool `json:"masquerade_outside"`

	serviceCIDRs []netip.Prefix
	podRange     netip.Prefix
}

// Defaults. The cooling period is longer than a peer's connection tracking
// remembers an unanswered SYN (Linux: nf_conntrack_tcp_timeout_syn_sent, 120 s).
const (
	DefaultMinPool = 3
	DefaultMaxPool = 8
	DefaultCooling = 130
)

// The networks.
const (
	NetworkTerway  = "terway"
	NetworkFlannel = "flannel"
)

// Policies and Datapaths are the values that are known.
var (
	Networks  = []string{NetworkTerway, NetworkFlannel}
	Policies  = []string{"most", "ordered", "random"}
	Datapaths = []string{"auto", "route"}
)

// maxTags leaves room for the controller's own tags (ECS: at most 20 on a resource).
const maxTags = 15

var keys = []string{
	"cluster_id", "region", "network", "pod_cidr", "route_tables", "vswitches", "security_groups", "min_pool_size", "max_pool_size", "cooling_seconds",
	"service_cidr", "vswitch_selection_policy", "eni_tags", "datapath", "masquerade_outside",
}

// Parse reads a configuration in YAML or JSON. The error names every problem,
// not the first: field, value, and what would be right.
func Parse(data []byte) (*Config, error) {
	var raw map[string]any
	if err := yaml.UnmarshalStrict(data, &raw); err != nil {
		return nil, fmt.Errorf("the configuration is not YAML: %w", err)
	}
	var errs []error
	names := make([]string, 0, len(raw))
	for k := range raw {
		names = append(names, k)
	}
	sort.Strings(names)
	for _, k := range names {
		if !slices.Contains(keys, k) {
			errs = append(errs, unknown(k))
		}
	}
	c := &Config{
		MinPoolSize: DefaultMinPool, MaxPoolSize: DefaultMaxPool, CoolingSeconds: DefaultCooling,
		VSwitchSelectionPolicy: "most", Datapath: "auto", Network: NetworkTerway,
	}
	if err := yaml.Unmarshal(data, c); err != nil {
		return nil, errors.Join(append(errs, fmt.Errorf("a value has the wrong type: %w", err))...)
	}
	if _, set := raw["max_pool_size"]; !set {
		c.MaxPoolSize = max(c.MaxPoolSize, c.MinPoolSize)
	}
	errs = append(errs, c.check()...)
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return c, nil
}

// ServiceCIDRs are the ranges of ServiceCIDR.
func (c *Config) ServiceCIDRs() []netip.Prefix { return c.serviceCIDRs }

func (c *Config) check() (errs []error) {
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !id(c.ClusterID) {
		bad("cluster_id %q: want 1 to 64 letters, digits, '-', '_' or '.'", c.ClusterID)
	}
	if !id(c.Region) {
		bad("region %q: want a region such as cn-hangzhou", c.Region)
	}
	if !slices.Contains(Networks, c.Network) {
		bad("network %q: want one of %s", c.Network, strings.Join(Networks, ", "))
	}
	c.checkFlannel(bad)
	if len(c.VSwitches) == 0 && c.Network == NetworkTerway {
		bad("vswitches is empty: want the Pod vSwitches by zone, for example {cn-hangzhou-i: [vsw-1]}")
	}
	zones := make([]string, 0, len(c.VSwitches))
	for z := range c.VSwitches {
		zones = append(zones, z)
	}
	sort.Strings(zones)
	where := map[string]string{}
	for _, z := range zones {
		if !id(z) {
			bad("vswitches: zone %q: want a zone such as cn-hangzhou-i", z)
		}
		if len(c.VSwitches[z]) == 0 {
			bad("vswitches.%s is empty: want at least one vSwitch id", z)
		}
		for _, v := range c.VSwitches[z] {
			if !strings.HasPrefix(v, "vsw-") || !id(v) {
				bad("vswitches.%s: %q: want a vSwitch id, vsw-…", z, v)
			}
			if other, dup := where[v]; dup {
				bad("vswitches.%s: %s is listed under %s already", z, v, other)
			}
			where[v] = z
		}
	}
	if len(c.SecurityGroups) > 10 {
		bad("security_groups has %d entries: want at most 10 (five by default, more by quota)", len(c.SecurityGroups))
	}
	for _, g := range c.SecurityGroups {
		if !strings.HasPrefix(g, "sg-") || !id(g) {
			bad("security_groups: %q: want a security group id, sg-…", g)
		}
	}
	if c.MinPoolSize < 0 || c.MinPoolSize > 1000 {
		bad("min_pool_size %d: want 0 to 1000", c.MinPoolSize)
	}
	if c.MaxPoolSize < c.MinPoolSize || c.MaxPoolSize > 1000 {
		bad("max_pool_size %d: want min_pool_size (%d) to 1000", c.MaxPoolSize, c.MinPoolSize)
	}
	if c.CoolingSeconds < 0 || c.CoolingSeconds > 3600 {
		bad("cooling_seconds %d: want 0 to 3600", c.CoolingSeconds)
	}
	if !slices.Contains(Policies, c.VSwitchSelectionPolicy) {
		bad("vswitch_selection_policy %q: want one of %s", c.VSwitchSelectionPolicy, strings.Join(Policies, ", "))
	}
	if !slices.Contains(Datapaths, c.Datapath) {
		bad("datapath %q: want one of %s", c.Datapath, strings.Join(Datapaths, ", "))
	}
	if len(c.ENITags) > maxTags {
		bad("eni_tags has %d entries: want at most %d", len(c.ENITags), maxTags)
	}
	for k := range c.ENITags {
		if k == "" || len(k) > 64 || strings.HasPrefix(k, "aliyun") || strings.HasPrefix(k, "acs:") || k == "creator" || strings.HasPrefix(k, "terway.dev/") {
			bad("eni_tags: key %q: want 1 to 64 characters, not beginning with aliyun or acs:, and none of the controller's own (creator, terway.dev/…)", k)
		}
	}
	c.serviceCIDRs = nil
	for _, s := range strings.Split(c.ServiceCIDR, ",") {
		p, err := netip.ParsePrefix(strings.TrimSpace(s))
		if err != nil || p != p.Masked() {
			bad("service_cidr %q: want the cluster's Service range, for example 172.21.0.0/20", c.ServiceCIDR)
			break
		}
		c.serviceCIDRs = append(c.serviceCIDRs, p)
	}
	return errs
}

// PodRange is PodCIDR; the zero prefix without Flannel.
func (c *Config) PodRange() netip.Prefix { return c.podRange }

func (c *Config) checkFlannel(bad func(string, ...any)) {
	c.podRange = netip.Prefix{}
	if c.Network != NetworkFlannel {
		if c.PodCIDR != "" {
			bad("pod_cidr %q: only with network: flannel (Terway's pods have addresses of the vswitches)", c.PodCIDR)
		}
		if len(c.RouteTables) > 0 {
			bad("route_tables: only with network: flannel (Terway needs no route entries)")
		}
		return
	}
	if len(c.VSwitches) > 0 {
		bad("vswitches: not with network: flannel, whose pods have addresses of pod_cidr")
	}
	p, err := netip.ParsePrefix(c.PodCIDR)
	if err != nil || p != p.Masked() || !p.Addr().Is4() {
		bad("pod_cidr %q: want the range of Flannel's pods, for example 172.20.0.0/16", c.PodCIDR)
		return
	}
	c.podRange = p
	for _, t := range c.RouteTables {
		if !strings.HasPrefix(t, "vtb-") || !id(t) {
			bad("route_tables: %q: want a route table id, vtb-…", t)
		}
	}
}

func id(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.')
	}) < 0
}

// elsewhere are keys that users of other versions of Terway have in this file.
var elsewhere = map[string]string{
	"access_key":            "the credential is in a Secret, which the flag --secret-dir names; nothing secret is in this file",
	"access_secret":         "the credential is in a Secret, which the flag --secret-dir names; nothing secret is in this file",
	"credential_path":       "the flags --credentials and --secret-dir say where the credential is",
	"security_group":        "write security_groups, a list",
	"region_id":             "write region",
	"ip_stack":              "only IPv4 is there yet",
	"enable_eni_trunking":   "trunk ENIs are not supported yet",
	"enable_ip_prefix":      "address prefixes are not supported yet",
	"eni_selection_policy":  "the ENI with room that comes first is used",
	"ip_pool_sync_period":   "the flag --sweep-period of the controller says it",
	"idle_ip_reclaim_after": "idle addresses above max_pool_size are given back at once",
	"version":               "the file has no versions",
}

// unknown says what to write instead, or names the nearest known key.
func unknown(k string) error {
	if hint, ok := elsewhere[k]; ok {
		return fmt.Errorf("%q is not a key: %s", k, hint)
	}
	best, d := "", 4
	for _, known := range keys {
		if n := distance(k, known); n < d {
			best, d = known, n
		}
	}
	if best != "" {
		return fmt.Errorf("%q is not a key: did you mean %q?", k, best)
	}
	return fmt.Errorf("%q is not a key: the keys are %s", k, strings.Join(keys, ", "))
}

// distance is how many letters must be changed, added or removed to turn a into b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diag
			if a[i] != b[j] {
				change++
			}
			diag = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
