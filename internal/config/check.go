package config

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/zone"
)

// maxTags leaves room for the controller's own tags (ECS: at most 20 on a resource).
const maxTags = 15

// maxENIs is more than any instance type has; maxHostStack is the limit of NodeNetwork.
const (
	maxENIs      = 100
	maxHostStack = 16
)

// Bounds of network_priority.eni_mbit. At less than 100 Mbit/s one packet of many segments (64 KiB), for which a
// guaranteed pod may have to wait, takes more than 5 ms; no instance type has more than 1 Tbit/s.
const (
	minENIMbit = 100
	maxENIMbit = 1_000_000
)

func (c *Config) check() (errs []error) {
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !id(c.ClusterID) {
		bad("cluster_id %q: want 1 to 64 letters, digits, '-', '_' or '.'", c.ClusterID)
	}
	if !id(c.Region) {
		bad("region %q: want a region such as cn-hangzhou", c.Region)
	}
	for _, v := range []struct{ key, value string }{
		{"network", c.Network}, {"mode", c.Mode}, {"datapath", c.Datapath}, {"vswitch_selection_policy", c.VSwitchSelectionPolicy},
		{"network_policy", strconv.FormatBool(c.NetworkPolicy)},
	} {
		if err := choice(v.key, v.value); err != nil {
			errs = append(errs, err)
		}
	}
	if c.Mode == claims.ModeExclusive && c.Datapath != claims.Auto {
		bad("datapath %q with mode: exclusive: the ENI itself is moved into the pod, and %s is for ENIs that pods share; want datapath auto, or mode shared", c.Datapath, c.Datapath)
	}
	if c.ExclusiveENIs < 0 || c.ExclusiveENIs > maxENIs {
		bad("exclusive_enis %d: want 0 to %d", c.ExclusiveENIs, maxENIs)
	}
	if c.WarmENIs < 0 || c.WarmENIs > maxENIs {
		bad("warm_enis %d: want 0 to %d", c.WarmENIs, maxENIs)
	}
	for _, s := range c.HostStackCIDRs {
		p, err := netip.ParsePrefix(s)
		if err != nil || p != p.Masked() {
			bad("host_stack_cidrs: %q: want a range such as 169.254.20.10/32", s)
		}
	}
	if len(c.HostStackCIDRs) > maxHostStack {
		bad("host_stack_cidrs has %d entries: want at most %d", len(c.HostStackCIDRs), maxHostStack)
	}
	if n := c.NetworkPriority.ENIMbit; n != 0 && (n < minENIMbit || n > maxENIMbit) {
		bad("network_priority.eni_mbit %d: want %d to %d, for example 1000 (1 Gbit/s), or leave network_priority out", n, minENIMbit, maxENIMbit)
	}
	c.checkFlannel(bad)
	if len(c.VSwitches) == 0 && c.Network == claims.NetworkTerway {
		bad("vswitches is empty: want the Pod vSwitches by zone, for example {cn-hangzhou-i: [vsw-1]}")
	}
	where := map[string]string{}
	for _, z := range slices.Sorted(maps.Keys(c.VSwitches)) {
		switch {
		case !id(z):
			bad("vswitches: zone %q: want a zone such as cn-hangzhou-i", z)
		case id(c.Region) && !zone.In(z, c.Region):
			bad("vswitches: zone %q: want a zone of region %s", z, c.Region)
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
	if len(c.ENITags) > maxTags {
		bad("eni_tags has %d entries: want at most %d", len(c.ENITags), maxTags)
	}
	for _, k := range slices.Sorted(maps.Keys(c.ENITags)) {
		if k == "" || len(k) > 64 || strings.HasPrefix(k, "aliyun") || strings.HasPrefix(k, "acs:") || k == claims.TagCreator || strings.HasPrefix(k, "terway.dev/") {
			bad("eni_tags: key %q: want 1 to 64 characters, not beginning with aliyun or acs:, and none of the controller's own (creator, terway.dev/…)", k)
		}
	}
	for _, class := range slices.Sorted(maps.Keys(c.LoadBalancerClasses)) {
		if p := c.LoadBalancerClasses[class]; p != "CLB" && p != "NLB" {
			bad("load_balancer_classes: class %q: %q: want CLB or NLB", class, p)
		}
	}
	c.checkServices(bad)
	return errs
}

func (c *Config) checkServices(bad func(string, ...any)) {
	c.serviceCIDRs = nil
	for _, s := range strings.Split(c.ServiceCIDR, ",") {
		p, err := netip.ParsePrefix(strings.TrimSpace(s))
		if err != nil || p != p.Masked() || p.Addr().Is4In6() {
			bad("service_cidr %q: want the cluster's Service range, for example 172.21.0.0/20", c.ServiceCIDR)
			return
		}
		// The same rule as the API server's (--service-cluster-ip-range).
		if slices.ContainsFunc(c.serviceCIDRs, func(o netip.Prefix) bool { return o.Addr().Is4() == p.Addr().Is4() }) {
			bad("service_cidr %q: want one range, or an IPv4 and an IPv6 one", c.ServiceCIDR)
			return
		}
		if c.podRange.IsValid() && c.podRange.Overlaps(p) {
			bad("pod_cidr %q overlaps service_cidr %s: want two ranges that have no address in common", c.PodCIDR, p)
		}
		c.serviceCIDRs = append(c.serviceCIDRs, p)
	}
}

func (c *Config) checkFlannel(bad func(string, ...any)) {
	c.podRange = netip.Prefix{}
	if c.Network != claims.NetworkFlannel {
		if c.PodCIDR != "" {
			bad("pod_cidr %q: only with network: flannel (Terway's pods have addresses of the vswitches)", c.PodCIDR)
		}
		if len(c.RouteTables) > 0 {
			bad("route_tables: only with network: flannel (Terway needs no route entries)")
		}
		return
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

// notWithFlannel returns an error for each key that is set and only has a meaning with Terway.
func notWithFlannel(raw map[string]any) (errs []error) {
	for _, k := range slices.Sorted(maps.Keys(raw)) {
		if known := find(k); known != nil && known.terway {
			errs = append(errs, fmt.Errorf("%s: not with network: flannel, whose pods have addresses of pod_cidr and no ENIs; leave it out", k))
		}
	}
	return errs
}

func id(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.')
	}) < 0
}
