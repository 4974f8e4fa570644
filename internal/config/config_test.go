package config

import (
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"terway.dev/terway/internal/datapath/claims"
)

const good = `
cluster_id: c1
region: cn-hangzhou
vswitches: {cn-hangzhou-i: [vsw-1, vsw-2]}
service_cidr: 172.21.0.0/20
`

const flannel = `
cluster_id: c1
region: cn-hangzhou
network: flannel
pod_cidr: 172.20.0.0/16
service_cidr: 172.21.0.0/20
`

func TestDefaults(t *testing.T) {
	c, err := Parse([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if c.MinPoolSize != 3 || c.MaxPoolSize != 8 || c.CoolingSeconds != 130 || c.Datapath != "auto" || c.Mode != "shared" || c.NetworkPolicy || !c.PolicyAllowLoadBalancerProbes || c.VSwitchSelectionPolicy != "most" {
		t.Errorf("defaults %+v", c)
	}
	if parsed(t, good+"policy_allow_load_balancer_probes: false").PolicyAllowLoadBalancerProbes {
		t.Error("policy_allow_load_balancer_probes: false is not read")
	}
	if c.NetworkPriority.ENIMbit != 0 || parsed(t, good+"network_priority: {eni_mbit: 1000}").NetworkPriority.ENIMbit != 1000 {
		t.Error("network_priority is not off, or is not read")
	}
	if two := parsed(t, strings.Replace(good, "0.0/20", "0.0/20, fd00::/112", 1)).ServiceCIDRs(); len(two) != 2 || two[1].String() != "fd00::/112" {
		t.Errorf("two Service ranges are %v", two)
	}
	if got := c.ServiceCIDRs(); len(got) != 1 || got[0].String() != "172.21.0.0/20" {
		t.Errorf("service ranges %v", got)
	}
}

func TestEveryProblemIsNamed(t *testing.T) {
	for in, want := range map[string]string{
		good + "min_pol_size: 3":                                           `did you mean "min_pool_size"`,
		good + "access_key: LTAI":                                          "the credential is in a Secret",
		good + "security_group: sg-1":                                      "write security_groups",
		good + "Region: x":                                                 `"Region" is not a key: did you mean "region"`,
		good + "region: b":                                                 "already set",
		good + "colour: red":                                               `the keys are cluster_id`,
		good + "min_pool_size: many":                                       `min_pool_size "many": want a whole number`,
		good + "eni_tags: {team: 5}":                                       "eni_tags.team 5: want text",
		good + "min_pool_size: 9\nmax_pool_size: 3":                        "max_pool_size 3",
		good + "min_pool_size: -1":                                         "min_pool_size -1",
		good + "cooling_seconds: 99999":                                    "cooling_seconds 99999",
		good + "datapath: magic":                                           `datapath "magic"`,
		good + "vswitch_selection_policy: best":                            `vswitch_selection_policy "best"`,
		good + "security_groups: [x]":                                      `security_groups: "x"`,
		good + "security_groups: [" + strings.Repeat("sg-1, ", 11) + "]":   "security_groups has 11 entries: want at most 10",
		good + "eni_tags: {creator: me}":                                   `eni_tags: key "creator"`,
		good + "mode: exclusive\ndatapath: ipvlan":                         "ENIs that pods share",
		good + "eniip_virtual_type: IPVlan":                                "write datapath",
		good + "disable_network_policy: 'true'":                            "write the chart's value policy.enabled",
		good + "pod_cidr: 172.20.0.0/16":                                   "only with network: flannel",
		good + "policy_allow_load_balancer_probes: no!":                    `policy_allow_load_balancer_probes "no!": want true or false`,
		good + "network_priority: {eni_mbit: 99}":                          "network_priority.eni_mbit 99: want 100 to 1000000, for example 1000",
		good + "network_priority: {eni_mbit: -1}":                          "network_priority.eni_mbit -1: want",
		good + "network_priority: {eni_mbit: 1Gi}":                         `network_priority.eni_mbit "1Gi": want a whole number`,
		good + "network_priority: {mbit: 100}":                             "network_priority.mbit is not a key: want one of eni_mbit",
		good + "network_priority: true":                                    "network_priority true: want keys with values below it",
		good + "enable_network_priority: true":                             "write network_priority: {eni_mbit: …}",
		flannel + "network_priority: {eni_mbit: 1000}":                     "network_priority: not with network: flannel",
		flannel + "policy_allow_load_balancer_probes: true":                "policy_allow_load_balancer_probes: not with network: flannel",
		strings.Replace(good, "0.0/20", "0.0/20,172.22.0.0/20", 1):         `service_cidr "172.21.0.0/20,172.22.0.0/20": want one range, or`,
		strings.Replace(good, "172.21.0.0/20", "::ffff:172.21.0.0/116", 1): `service_cidr "::ffff:172.21.0.0/116"`,
		strings.Replace(flannel, "172.21.0.0/20", "172.20.16.0/20", 1):     `pod_cidr "172.20.0.0/16" overlaps service_cidr 172.20.16.0/20`,
		flannel + "min_pool_size: 3":                                       "min_pool_size: not with network: flannel",
		flannel + "vswitches: {}":                                          "vswitches: not with network: flannel",
		flannel + "route_tables: [x]":                                      `route_tables: "x"`,
		"{cluster_id: c, region: r, network: flannel}":                     `pod_cidr ""`,
		"region: [": "not YAML",
		"[]":        "the configuration is a list: want keys",
		"region: cn-hangzhou\nvswitches: {z: [vsw-1], a: [vsw-1, foo]}": "vsw-1 is listed under a already",
		"region: cn-hangzhou\nvswitches: {cn-beijing-a: [vsw-1]}":       `vswitches: zone "cn-beijing-a": want a zone of region cn-hangzhou`,
		"region: cn-hangzhou\nvswitches: {cn-hangzhou: [vsw-1]}":        `vswitches: zone "cn-hangzhou": want a zone of region cn-hangzhou`,
		"cluster_id: c\nregion: r\nservice_cidr: 172.21.0.1/20":         `service_cidr "172.21.0.1/20"`,
	} {
		_, err := Parse([]byte(in))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want one with %q", in, err, want)
		}
	}
	_, err := Parse([]byte("min_pool_size: many\nmax_pool_size: 1.5\nvswitches: {z: vsw-1}\nregio: a\nregion: r\ncluster_id: 7\nservice_cidr: 172.21.0.0/20"))
	if want := `"regio" is not a key: did you mean "region"?
cluster_id 7: want text (in quotes when it looks like a number or is a word such as no)
max_pool_size 1.5: want a whole number
min_pool_size "many": want a whole number
vswitches.z "vsw-1": want a list`; err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	_, err = Parse([]byte("vswitchs: {z: [vsw-1]}\nregion: r\ncluster_id: c\nservice_cidr: 172.21.0.0/20"))
	if want := `"vswitchs" is not a key: did you mean "vswitches"?`; err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	_, err = Parse([]byte("cooling_seconds: -5\ndatapath: x"))
	if n := strings.Count(err.Error(), "\n"); n < 4 {
		t.Errorf("%d lines of problems, want all of them:\n%v", n+1, err)
	}
}

// Values that are known but not supported are refused as such, and supported ones are accepted.
func TestChoices(t *testing.T) {
	for name, values := range choices {
		if find(name) == nil {
			t.Errorf("%s is no key", name)
		}
		for _, v := range values {
			err := choice(name, v.name)
			if v.there != (err == nil) || err != nil && !strings.Contains(err.Error(), name+" "+v.name+": not supported yet; this version supports "+values[0].name) {
				t.Errorf("%s: %s: error %v, there: %v", name, v.name, err, v.there)
			}
		}
	}
	if _, err := Parse([]byte(good + "network_policy: true")); (err == nil) != has("network_policy", "true") {
		t.Errorf("network_policy: true: %v", err)
	}
}

// An accepted configuration is complete, and writing and reading it again changes nothing.
func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(flannel))
	f.Add([]byte(`{"vswitches":{"z":null}}`))
	f.Add([]byte("eniConfig: {mode: exclusive, mode: shared}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := FromFile(data); err != nil && err.Error() == "" {
			t.Error("an error without text")
		}
		c, err := Parse(data)
		if err != nil {
			return
		}
		if c.MinPoolSize < 0 || c.MaxPoolSize < c.MinPoolSize || (len(c.VSwitches) == 0) != (c.Network == claims.NetworkFlannel) || len(c.ServiceCIDRs()) == 0 {
			t.Errorf("accepted %q as %+v", data, c)
		}
		if c.Network == claims.NetworkFlannel {
			return // its defaults are keys that may not be set
		}
		text, err := yaml.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(text)
		if err != nil {
			t.Fatalf("%s\nis refused: %v", text, err)
		}
		if d := Diff(c, again); len(d) > 0 {
			t.Errorf("%q: written and read again it differs: %v", data, d)
		}
	})
}
