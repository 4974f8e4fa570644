package config

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write the golden files anew")

// show formats a conversion.
func show(t *testing.T, c *Conversion) string {
	t.Helper()
	text, err := yaml.Marshal(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.Write(text)
	for _, k := range c.Keys {
		fmt.Fprintf(&b, "%s | %s | %s | %s | %s\n", k.Source, k.Key, k.Outcome, k.To, k.Why)
	}
	fmt.Fprintf(&b, "problem: %v\n", c.Problem)
	return b.String()
}

func TestConvertConfigMap(t *testing.T) {
	data, err := os.ReadFile("testdata/old-configmap.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c, err := Convert(data, Given{Region: "cn-hangzhou"})
	if err != nil {
		t.Fatal(err)
	}
	got := show(t, c)
	const golden = "testdata/old-configmap.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// eni_conf alone, and the result for each value.
func TestConvert(t *testing.T) {
	const base = `"vswitches": {"z": ["vsw-1"]}, "service_cidr": "172.21.0.0/20"`
	given := Given{ClusterID: "c", Region: "r"}
	for in, want := range map[string]string{
		`"max_pool_size": 3, "min_pool_size": 7`:                        "max_pool_size: 7",
		`"max_pool_size": 2`:                                            "max_pool_size: 2\nmin_pool_size: 0\nregion: r\nservice_cidr: 172.21.0.0/20\nvswitches:\n  z:\n  - vsw-1\neni_conf | max_pool_size | kept | max_pool_size | with min_pool_size 0, the default",
		`"security_group": "sg-1", "security_groups": ["sg-2", "sg-1"]`: "security_groups:\n- sg-1\n- sg-2",
		`"vswitch_selection_policy": "random"`:                          "vswitch_selection_policy: random",
		`"vswitch_selection_policy": "best"`:                            "vswitch_selection_policy | not supported |  | want ordered or random",
		`"security_groups": "sg-1, sg-2"`:                               "security_groups:\n- sg-1\n- sg-2",
		`"security_groups": "[sg-1]"`:                                   "security_groups | renamed | security_groups | a list, not text",
		`"vswitches": {"z": "vsw-1,vsw-2"}`:                             "vswitches:\n  z:\n  - vsw-1\n  - vsw-2\neni_conf | service_cidr | kept | service_cidr | \neni_conf | vswitches | renamed | vswitches | a list for each zone, not text",
		`"vswitches": "{\"z\": [\"vsw-2\"]}"`:                           "vswitches:\n  z:\n  - vsw-2\neni_conf | service_cidr | kept | service_cidr | \neni_conf | vswitches | renamed | vswitches | vSwitches by zone, not text",
		`"vswitches": "vsw-1"`:                                          "vswitches | not supported |  | want vSwitches by zone",
		`"wait_trunk_eni": true`:                                        "wait_trunk_eni | not supported |  | trunk ENIs",
		`"allow_eip_rob": "true"`:                                       "allow_eip_rob | dropped |  | the existing Terway",
		`"ip_stack": "dual"`:                                            "ip_stack | not supported |  | only IPv4",
		`"ip_stack": ""`:                                                "ip_stack | dropped |  | it is always so here",
		`"disable_device_plugin": true`:                                 "disable_device_plugin | not supported |  | the agent is a device plugin",
		`"disable_device_plugin": false`:                                "disable_device_plugin | dropped |  | it is always so here",
		`"eni_cap_ratio": 0.5`:                                          "eni_cap_ratio | not supported",
		`"ip_pool_sync_period": "60s"`:                                  "ip_pool_sync_period | elsewhere",
		`"idle_ip_reclaim_after": "5m"`:                                 "idle_ip_reclaim_after | elsewhere |  | the chart value controller.surplusAfter",
		`"idle_ip_reclaim_batch_size": 5`:                               "idle_ip_reclaim_batch_size | elsewhere |  | the chart value controller.surplusAfter",
		`"rate_limit": {"AssignPrivateIpAddresses": 5}`:                 "rate_limit | elsewhere |  | the chart value controller.cloudLimits",
		`"colour": "red"`:                                               "colour | not supported |  | unknown key of eni_conf",
		`"vswitch_selection_polic": "random"`:                           "unknown key of eni_conf; did you mean vswitch_selection_policy?",
		`"eni_tags": {"creator": "terway"}`:                             "without creator",
		`"min_pool_size": "five"`:                                       `problem: min_pool_size "five": want a whole number`,
		`"region_id": "cn-beijing"`:                                     "region_id | renamed | region",
	} {
		c, err := Convert([]byte("{"+base+", "+in+"}"), given)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if got := show(t, c); !strings.Contains(got, want) {
			t.Errorf("%s:\n%s\nwant %q in it", in, got, want)
		}
	}
	for in, want := range map[string]string{
		"{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {a: the-secret}}": "Deployment web: want the ConfigMap eni-config; kubectl",
		"{apiVersion: v1, kind: ConfigMap, metadata: {name: eni-config}}":                       "no key eni_conf",
		"[1]":                        "want eni_conf",
		"{}":                         "nothing in it",
		"data: {}":                   "no key eni_conf",
		"data: {eni-config.yaml: x}": "not the existing Terway's",
		"data: {eni_conf: 5}":        "eni_conf: want a JSON object as text",
		"data: {eni_conf: 'the-secret: [the-secret'}": "eni_conf: neither YAML nor JSON",
	} {
		if _, err := Convert([]byte(in), given); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: error %v, want one with %q", in, err, want)
		}
	}
}

// kubectl prints several objects as a List: Convert finds the ConfigMap in it.
func TestConvertList(t *testing.T) {
	item := func(kind, namespace, name, data string) string {
		return fmt.Sprintf("{kind: %s, metadata: {namespace: %s, name: %s}, data: %s}", kind, namespace, name, data)
	}
	const conf = `{eni_conf: '{"version":"1","max_pool_size":7}'}`
	wanted, other := item("ConfigMap", "kube-system", "eni-config", conf), item("ConfigMap", "kube-system", "coredns", "{a: the-secret}")
	for _, c := range []struct {
		items []string
		want  string
	}{
		{[]string{wanted}, ""},
		{[]string{other, item("Secret", "kube-system", "eni-config", "{a: the-secret}"), wanted}, ""},
		{nil, "a List with no ConfigMap eni-config, but nothing in it"},
		{[]string{other, "3", "{metadata: 3}"}, "no ConfigMap eni-config, but ConfigMap coredns, ? ?, ? ?: want that one; kubectl -n NAMESPACE get configmap eni-config -o yaml prints it"},
		{[]string{other, other, other, other, other, other, other}, "ConfigMap coredns, 2 more: want"},
		{[]string{wanted, item("ConfigMap", "old", "eni-config", conf)}, "a List with the ConfigMap eni-config of the namespaces kube-system, old: want one"},
	} {
		for _, kind := range []string{"List", "ConfigMapList"} {
			text := []byte("apiVersion: v1\nkind: " + kind + "\nitems: [" + strings.Join(c.items, ", ") + "]")
			got, err := Convert(text, Given{})
			if c.want == "" {
				if err != nil || got.Config["max_pool_size"] != 7.0 {
					t.Errorf("%s: %v, %+v", text, err, got)
				}
			} else if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%s: error %v, want one with %q", text, err, c.want)
			}
			// FromFile reads such a file in the same way.
			want := c.want
			if want == "" {
				want = "terwayctl config convert makes"
			}
			if _, err := FromFile(text); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("FromFile: %s: error %v, want one with %q", text, err, want)
			}
		}
	}
}

// The plugin's file, alone or in a list of plugins, chooses the datapath.
func TestConvertPlugin(t *testing.T) {
	for kind, name := range map[string]string{"Veth": "route", "IPVlan": "ipvlan", "datapathv2": "ebpf", "macvlan": ""} {
		want := "datapath: " + name
		if name == "" {
			want = "want veth, IPVlan or datapathv2"
		}
		conf := `{"type":"terway","eniip_virtual_type":"` + kind + `"}`
		for form, text := range map[string]string{
			"conf": conf,
			"list": `{"plugins":[` + conf + `,{"type":"portmap"},{"type":"tuning"}]}`,
			// Written by hand; values from Kubernetes are text.
			"objects":   "data: {eni_conf: {version: 1}, 10-terway.conf: " + conf + "}",
			"ConfigMap": "data: {eni_conf: '{\"version\":\"1\"}', 10-terway.conf: '{\"type\":\"other\"}', 10-terway.conflist: '{\"plugins\":[" + conf + "]}'}",
		} {
			c, err := Convert([]byte(text), Given{})
			if err != nil {
				t.Errorf("%s: %v", text, err)
				continue
			}
			got := show(t, c)
			if form == "list" && !strings.Contains(got, "plugin tuning | not supported") {
				t.Errorf("which plugin is not supported?\n%s", got)
			}
			if !strings.Contains(got, want) {
				t.Errorf("%s, %s:\n%s\nwant %q in it", form, kind, got, want)
			}
			// Policies are enforced if the ConfigMap does not say otherwise.
			if form == "ConfigMap" && (!c.Policy || !strings.Contains(got, "disable_network_policy | renamed | policy.enabled") || !strings.Contains(got, "10-terway.conf | dropped")) {
				t.Errorf("%s:\n%s", form, got)
			}
		}
	}
}

// Other keys of the plugin's file.
func TestConvertPluginKeys(t *testing.T) {
	c, err := Convert([]byte(`{"type":"terway","ip_stack":"dual","enable-debug":true,"runtimeConfig":{},"bandwidth_mode":"edt","capabilities":{"bandwidth":true},"enable_network_priority":true,"host_stack_cidrs":"169.254.20.10/32"}`), Given{})
	if err != nil {
		t.Fatal(err)
	}
	got := show(t, c)
	for _, want := range []string{
		"ip_stack | not supported |  | only IPv4", "enable-debug | elsewhere |  | agent.extraArgs", "runtimeConfig | dropped",
		// Pods' bandwidth is limited without them.
		"bandwidth_mode | dropped", "capabilities | dropped",
		"enable_network_priority | elsewhere |  | write network_priority: {eni_mbit: …}",
		"host_stack_cidrs:\n- 169.254.20.10/32\n", "host_stack_cidrs | renamed | host_stack_cidrs | a list",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%s\nwant %q in it", got, want)
		}
	}
}

// Plugins that ran after Terway's, each with its own result; what is no list of plugins is not passed over.
func TestConvertChain(t *testing.T) {
	for chain, want := range map[string][]string{
		"- type: portmap\n  capabilities: {portMappings: true}\n- type: tuning\n  sysctl: {net.core.somaxconn: \"500\"}\n": {
			"eni-config | cni_chain | dropped", "cni_chain | plugin portmap | dropped", "cni_chain | plugin tuning | not supported"},
		"type: portmap": {"cni_chain | plugin | not supported"},
	} {
		data, err := yaml.Marshal(map[string]any{"kind": "ConfigMap", "data": map[string]any{"eni_conf": `{"version": "1"}`, "cni_chain": chain}})
		if err != nil {
			t.Fatal(err)
		}
		c, err := Convert(data, Given{})
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if got := show(t, c); !strings.Contains(got, w) {
				t.Errorf("%q: got\n%s\nwant %q in it", chain, got, w)
			}
		}
	}
}

// Every key has an explanation, and none is converted to an unknown key.
func TestOldKeysAreWhole(t *testing.T) {
	for source, table := range map[string]map[string]oldKey{oldConf: oldKeys(), confFile: pluginKeys(), "eni-config": mapKeys()} {
		for name, k := range table {
			if find(name) == nil && k.why == "" {
				t.Errorf("%s: %s: no explanation for a user who writes it into our file", source, name)
			}
			if k.to == nil && k.outcome == "" {
				t.Errorf("%s: %s: it has no result", source, name)
			}
			if k.to != nil {
				c, row := &Conversion{Config: map[string]any{}}, OldKey{Key: name}
				k.to(c, "x", &row)
				if row.Outcome == Unsupported && !MayBeUnsupported(name) {
					t.Errorf("%s: %s: x is not supported, which MayBeUnsupported does not know", source, name)
				}
				for to := range c.Config {
					if find(to) == nil {
						t.Errorf("%s: %s becomes %s, which is no key", source, name, to)
					}
				}
			}
		}
	}
}

// For any input, every key has a row and no secret appears.
func FuzzConvert(f *testing.F) {
	data, err := os.ReadFile("testdata/old-configmap.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"access_key": "SECRET-1", "vswitches": {"z": ["vsw-1"]}, "min_pool_size": 3}`))
	f.Add([]byte(`{kind: List, items: [{kind: ConfigMap, metadata: {name: eni-config}, data: {eni_conf: "{access_key: SECRET-1}"}}, 3]}`))
	f.Add([]byte(`data: {eni_conf: "{access_secret: SECRET-1, security_group: 7}", 10-terway.conflist: "{plugins: [3, {type: terway}]}"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Convert(data, Given{ClusterID: "c", Region: "r"})
		if err != nil {
			return
		}
		if len(c.Keys) == 0 {
			t.Error("no key has a row")
		}
		for _, name := range []string{"access_key", "access_secret"} {
			if c.Config[name] != nil {
				t.Errorf("%s came through", name)
			}
			if slices.ContainsFunc(c.Keys, func(k OldKey) bool {
				return k.Source == oldConf && k.Key == name && k.Outcome != Moved && k.Outcome != Dropped
			}) {
				t.Errorf("%s: %+v", name, c.Keys)
			}
		}
		if c.Problem == nil {
			text, err := yaml.Marshal(c.Config)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Parse(text); err != nil {
				t.Errorf("called valid, but: %v", err)
			}
		}
	})
}

// A chart value that a row names exists.
func TestMovedKeysNameChartValues(t *testing.T) {
	text, err := os.ReadFile("../../deploy/chart/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var values map[string]map[string]any
	if err := yaml.Unmarshal(text, &values); err != nil {
		t.Fatal(err)
	}
	for _, known := range []map[string]oldKey{oldKeys(), pluginKeys(), mapKeys()} {
		for name, key := range known {
			if key.outcome != Moved {
				continue
			}
			section, value := "", ""
			if m := regexp.MustCompile(`\b(?:chart value )?([a-z]+)\.([a-zA-Z]+)\b|chart value ([a-z]+)\b`).FindStringSubmatch(key.why); m != nil {
				section, value = cmp.Or(m[1], m[3]), m[2]
			}
			_, found := values[section][value]
			if value == "" {
				_, found = values[section]
			}
			if !found {
				t.Errorf("%s went elsewhere, and %q names no chart value that there is", name, key.why)
			}
		}
	}
}
