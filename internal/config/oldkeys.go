package config

import (
	"fmt"
	"slices"
	"strings"
	"unicode"

	"sigs.k8s.io/yaml"

	"terway.dev/terway/internal/datapath/claims"
)

// Keys of the existing Terway's ConfigMap eni-config whose values are files.
const (
	oldConf      = "eni_conf"
	confFile     = "10-terway.conf"
	conflistFile = "10-terway.conflist"
)

// oldKey describes a key of the existing Terway (github.com/AliyunContainerService/terway:
// types/daemon/config.go, plugin/driver/types/types.go, charts/terway).
type oldKey struct {
	outcome Outcome // if to is nil; with to, Unsupported if there are values that it cannot convert
	// why says what to write instead, or what is missing, for a key without a new key.
	why string
	// same are values, as text, that ask for the behaviour that is always there.
	same []string
	// to converts any other value.
	to func(c *Conversion, v any, row *OldKey)
}

// idle reports whether a value has no effect here.
func (k *oldKey) idle(v any) bool {
	if v == nil || v == "" {
		return true
	}
	return slices.Contains(k.same, strings.ToLower(fmt.Sprint(v)))
}

func lost(why string, same ...string) oldKey {
	return oldKey{outcome: Unsupported, why: why, same: same}
}
func dropped(why string) oldKey { return oldKey{outcome: Dropped, why: why} }
func moved(why string) oldKey   { return oldKey{outcome: Moved, why: why} }

// byHand returns the oldKey of a key for which the user has to write another one, whose value only he knows.
func byHand(why string, same ...string) oldKey {
	return oldKey{why: why, same: same, to: func(_ *Conversion, _ any, row *OldKey) { row.Outcome, row.Why = Moved, why }}
}

// keep returns the oldKey of a key that stays the same.
func keep(name string) oldKey {
	return oldKey{to: func(c *Conversion, v any, row *OldKey) { c.Config[name], row.To = v, name }}
}

const (
	credential = "the credential is in a Secret (chart value credentials); this configuration has no secrets"
	idleBack   = "the chart value controller.surplusAfter is how long addresses above max_pool_size stay before they are given back"
	pace       = "the controller adapts its rate of calls to the cloud's answers"
	apiPace    = "the API server limits the rate of calls to Kubernetes"
	eips       = "the existing Terway does not use it any more either"
	prefixes   = "address prefixes are not supported yet"
	onlyIPv4   = "only IPv4 is supported yet"
	trunks     = "trunk ENIs are not supported yet"
)

// oldKeys are the keys of eni_conf. Our own parser uses their explanations for unknown keys.
func oldKeys() map[string]oldKey {
	return map[string]oldKey{
		"version":       dropped("the configuration has no versions"),
		"region_id":     {why: "write region", to: rename("region")},
		"access_key":    moved(credential),
		"access_secret": moved(credential),
		"credential_path": moved("the chart value credentials says where the credential is: a Secret, the instance's RAM role or one " +
			"for the service account; an encrypted token file is not read"),
		"service_cidr":                   keep("service_cidr"),
		"vswitches":                      {outcome: Unsupported, to: vswitches},
		"eni_tags":                       {outcome: Unsupported, to: eniTags},
		"security_group":                 {why: "write security_groups, a list", to: securityGroups},
		"security_groups":                {to: securityGroups},
		"resource_group_id":              lost("ENIs are created in the account's default resource group"),
		"max_pool_size":                  keep("max_pool_size"),
		"min_pool_size":                  keep("min_pool_size"),
		"ip_warm_up_size":                lost("min_pool_size addresses are at hand at all times, on new nodes too", "0"),
		"idle_ip_reclaim_after":          moved(idleBack),
		"idle_ip_reclaim_interval":       moved(idleBack),
		"idle_ip_reclaim_batch_size":     moved(idleBack),
		"idle_ip_reclaim_jitter_factor":  moved(idleBack),
		"ip_pool_sync_period":            moved("the chart value controller.sweepPeriod says how often all ENIs are compared with the cloud"),
		"min_eni":                        lost("a node has the ENIs that its pods and min_pool_size need", "0"),
		"max_eni":                        lost("a node may use as many ENIs as its instance type has", "0"),
		"eni_cap_ratio":                  lost("a node may use as many ENIs as its instance type has", "0", "1"),
		"eni_cap_shift":                  lost("a node may use as many ENIs as its instance type has", "0"),
		"vswitch_selection_policy":       {outcome: Unsupported, to: selection},
		"eni_selection_policy":           lost("the first ENI that has room is used", "most_ips"),
		"ip_stack":                       lost(onlyIPv4, "ipv4"),
		"enable_eni_trunking":            lost(trunks, "false"),
		"wait_trunk_eni":                 lost(trunks, "false"),
		"eni_cap_policy":                 lost(trunks, "secondary"),
		"enable_erdma":                   lost("eRDMA is not supported", "false"),
		"custom_stateful_workload_kinds": lost("fixed addresses for stateful pods are not supported"),
		"ipam_type":                      dropped("the controller manages the addresses of all nodes, as ipam_type crd does"),
		"backoff_override":               dropped(pace),
		"rate_limit":                     moved("the chart value controller.cloudLimits says how many calls a minute of an action are made at most; below that " + pace),
		"extra_routes":                   lost("pods have no extra routes"),
		"disable_device_plugin":          lost("the agent is a device plugin: pods may request exclusive ENIs (aliyun/eni)", "false"),
		"eni_tag_filter":                 dropped("only ENIs that carry the cluster's own tag are managed"),
		"eni_tag_block_list":             dropped("only ENIs that carry the cluster's own tag are managed"),
		"kube_client_qps":                dropped(apiPace),
		"kube_client_burst":              dropped(apiPace),
		"enable_patch_pod_ips":           lost("pods are not annotated with their addresses (k8s.aliyun.com/pod-ips)", "false"),
		"enable_ip_prefix":               lost(prefixes, "false"),
		"ipv4_prefix_count":              lost(prefixes, "0"),
		"ipv6_prefix_count":              lost(prefixes, "0"),
		"prefix":                         dropped(eips),
		"enable_eip_pool":                dropped(eips),
		"enable_eip_migrate":             dropped(eips),
		"allow_eip_rob":                  dropped(eips),
		"disable_security_group_check":   dropped("whether an instance's security groups let pods through is not checked"),
	}
}

// pluginKeys are the keys of 10-terway.conf, and of the plugin's entry in 10-terway.conflist.
func pluginKeys() map[string]oldKey {
	hubble := lost("flows are not shown by Hubble", "false")
	return map[string]oldKey{
		"cniVersion":                   dropped("the agent writes the file (agent.extraArgs: --cni-version)"),
		"name":                         dropped("the agent writes the file"),
		"type":                         dropped("the agent writes the file"),
		"eniip_virtual_type":           {outcome: Unsupported, why: "write datapath: route (veth), ipvlan (IPVlan) or ebpf (datapathv2)", to: datapath},
		"host_stack_cidrs":             {to: list},
		"ip_stack":                     lost(onlyIPv4, "ipv4"),
		"enable-debug":                 moved("agent.extraArgs: --verbose"),
		"runtimeConfig":                dropped("the runtime fills it in"),
		"disable_host_peer":            lost("the node reaches every pod of its own", "false"),
		"vlan_strip_type":              lost(trunks),
		"mtu":                          dropped("a pod has the MTU of its ENI"),
		"auto_mtu":                     dropped("a pod has the MTU of its ENI"),
		"bandwidth_mode":               dropped("the annotations of pods suffice, with every datapath"),
		"capabilities":                 dropped("the agent writes the file; bandwidth limits need none"),
		"enable_network_priority":      byHand("write network_priority: {eni_mbit: …}: what an ENI may send, below what the instance may; priorities have no effect without it", "false"),
		"debug":                        moved("agent.extraArgs: --verbose"),
		"symmetric_routing":            lost("answers leave by the pod's ENI", "false"),
		"symmetric_routing_config":     lost("answers leave by the pod's ENI"),
		"veth_prefix":                  dropped("the existing Terway does not use it either"),
		"network_policy_provider":      dropped("the engine that enforces policies cannot be chosen"),
		"cilium_args":                  lost("there is no Cilium here"),
		"cilium_enable_hubble":         hubble,
		"cilium_hubble_listen_address": hubble,
		"cilium_hubble_metrics_server": hubble,
		"cilium_hubble_metrics":        hubble,
	}
}

// mapKeys are the other keys of the ConfigMap.
func mapKeys() map[string]oldKey {
	return map[string]oldKey{
		"disable_network_policy": {why: "write the chart's value policy.enabled, beside eniConfig", to: policy},
		"cni_chain":              {why: "no other plugin than portmap is chained, and that always is", to: chain},
		"in_cluster_loadbalance": lost("load balancers' addresses are not served inside the cluster", "false"),
		"felix_relay_service":    dropped("there is no Felix here"),
	}
}

// MayBeUnsupported reports whether a Conversion can call a key of the existing Terway's files, or "plugin NAME",
// Unsupported. Of an unknown key, which always is, it does not know.
func MayBeUnsupported(name string) bool {
	for _, known := range []map[string]oldKey{oldKeys(), pluginKeys(), mapKeys()} {
		if known[name].outcome == Unsupported {
			return true
		}
	}
	return strings.HasPrefix(name, "plugin ") && name != pluginPortmap && name != pluginCilium
}

// chain converts the plugins that ran after Terway's: a list, as text.
func chain(c *Conversion, v any, row *OldKey) {
	items, _ := listOf(v)
	row.Outcome, row.Why = Dropped, "its plugins follow"
	for _, item := range items {
		conf, _ := item.(map[string]any)
		c.chained(row.Key, conf)
	}
}

func rename(name string) func(*Conversion, any, *OldKey) {
	return func(c *Conversion, v any, row *OldKey) {
		c.Config[name], row.Outcome, row.To = v, Renamed, name
	}
}

// securityGroups merges the list and the single group.
func securityGroups(c *Conversion, v any, row *OldKey) {
	row.To = "security_groups"
	if row.Key != row.To {
		row.Outcome = Renamed
	}
	list, asText := listOf(v)
	if asText && row.Key == row.To {
		row.Outcome, row.Why = Renamed, writtenAsList
	}
	all, _ := c.Config[row.To].([]any)
	for _, g := range list {
		if !slices.ContainsFunc(all, func(x any) bool { return fmt.Sprint(x) == fmt.Sprint(g) }) {
			all = append(all, g)
		}
	}
	c.Config[row.To] = all
}

const writtenAsList = "a list, not text"

// listOf reads a list that may be text: with brackets, or separated by commas.
func listOf(v any) (list []any, asText bool) {
	switch v := v.(type) {
	case []any:
		return v, false
	case string:
		if yaml.Unmarshal([]byte(v), &list) == nil {
			return list, true
		}
		list = []any{}
		for _, word := range strings.FieldsFunc(v, func(r rune) bool { return r == ',' || unicode.IsSpace(r) }) {
			list = append(list, word)
		}
		return list, true
	}
	return []any{v}, false // check reports the error
}

// list converts a key that is a list in both.
func list(c *Conversion, v any, row *OldKey) {
	items, asText := listOf(v)
	if asText {
		row.Outcome, row.Why = Renamed, writtenAsList
	}
	c.Config[row.Key], row.To = items, row.Key
}

// vswitches converts lists by zone; all of it, or a zone's list, may be text.
func vswitches(c *Conversion, v any, row *OldKey) {
	row.To = row.Key
	if text, ok := v.(string); ok {
		var zones map[string]any
		if yaml.Unmarshal([]byte(text), &zones) != nil || len(zones) == 0 {
			row.Outcome, row.To, row.Why = Unsupported, "", "want vSwitches by zone, for example {cn-hangzhou-i: [vsw-1]}"
			return
		}
		row.Outcome, row.Why = Renamed, "vSwitches by zone, not text"
		v = zones
	}
	zones, ok := v.(map[string]any)
	if !ok {
		c.Config[row.To] = v // check reports the error
		return
	}
	out := map[string]any{}
	for zone, ids := range zones {
		items, asText := listOf(ids)
		if asText {
			row.Outcome, row.Why = Renamed, "a list for each zone, not text"
		}
		out[zone] = items
	}
	c.Config[row.To] = out
}

// eniTags leaves out the tag that the controller sets itself. In a cluster of Container Service
// one tag is the cluster's id.
func eniTags(c *Conversion, v any, row *OldKey) {
	tags, ok := v.(map[string]any)
	if !ok {
		row.Outcome, row.Why = Unsupported, "want tags with their values"
		return
	}
	row.To = "eni_tags"
	out := map[string]any{}
	for name, value := range tags {
		if name == claims.TagCreator {
			row.Why = "without creator, which the controller sets"
			continue
		}
		out[name] = value
	}
	if cluster, ok := tags["ack.aliyun.com"].(string); ok && cluster != "" {
		c.Config["cluster_id"] = cluster
		row.Why = strings.TrimPrefix(row.Why+"; cluster_id is that of ack.aliyun.com", "; ")
	}
	if len(out) > 0 {
		c.Config["eni_tags"] = out
	}
}

// selection converts the policy: the existing Terway's "ordered" sorts by free addresses
// (daemon/config.go).
func selection(c *Conversion, v any, row *OldKey) {
	row.To = row.Key
	switch v {
	case "random":
		c.Config[row.To] = v
	case "ordered", "most":
		row.Outcome, row.Why = Renamed, "most: by free addresses, as the existing Terway does for ordered"
		c.Config[row.To] = "most"
	default:
		row.Outcome, row.To, row.Why = Unsupported, "", "want ordered or random"
	}
}

func datapath(c *Conversion, v any, row *OldKey) {
	name, ok := map[string]string{"veth": claims.Route, "ipvlan": claims.IPvlan, "datapathv2": claims.EBPF}[strings.ToLower(fmt.Sprint(v))]
	row.To = "datapath"
	if !ok {
		row.Outcome, row.To, row.Why = Unsupported, "", "want veth, IPVlan or datapathv2"
		return
	}
	row.Outcome, row.Why = Renamed, name
	c.Config["datapath"] = name
}

func policy(c *Conversion, v any, row *OldKey) {
	row.Outcome, row.To, row.Why = Renamed, "policy.enabled", "false, the chart's default"
	if c.Policy = strings.ToLower(fmt.Sprint(v)) != "true"; c.Policy {
		row.Why = "true: a value of the chart, beside eniConfig; nodes need Linux 5.10 or later for it"
	}
}
