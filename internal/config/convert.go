package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"terway.dev/terway/internal/decode"
)

// Outcome is the result of converting a key of the existing Terway.
type Outcome string

const (
	Kept        Outcome = "kept"
	Renamed     Outcome = "renamed"       // the same meaning under another key or value
	Dropped     Outcome = "dropped"       // it is always so here, or has no effect
	Moved       Outcome = "elsewhere"     // the user must set it elsewhere
	Unsupported Outcome = "not supported" // a function of the old cluster that is missing
)

// OldKey is a key of the existing Terway's configuration, with the result of its conversion.
type OldKey struct {
	// Source is the file with the key: eni_conf, 10-terway.conf, 10-terway.conflist or
	// eni-config.
	Source  string  `json:"source"`
	Key     string  `json:"key"`
	Outcome Outcome `json:"outcome"`
	// To is the new key.
	To  string `json:"to,omitempty"`
	Why string `json:"why,omitempty"`
}

// Conversion is a converted configuration of the existing Terway.
type Conversion struct {
	// Config is the value of eniConfig, without defaults.
	Config map[string]any
	Keys   []OldKey
	// Policy: network policies were enforced, which the chart's value policy.enabled says here.
	Policy bool
	// Problem is why Config is not valid yet, or nil.
	Problem error
}

// Given has values that the existing Terway's configuration may lack.
type Given struct{ ClusterID, Region string }

// Convert converts the existing Terway's configuration: eni_conf, or the ConfigMap eni-config
// as kubectl prints it, alone or in a List. Values of the old configuration that may be secret
// are not in the result, nor in an error.
func Convert(data []byte, given Given) (*Conversion, error) {
	doc, err := object(data)
	if err == nil {
		doc, err = unlisted(doc)
	}
	if err != nil {
		return nil, err
	}
	c := &Conversion{Config: map[string]any{}}
	values, isMap := doc["data"].(map[string]any)
	switch {
	case isMap || doc["kind"] == "ConfigMap":
		err = c.configMap(values)
	case doc["plugins"] != nil:
		c.conflist(doc)
	case doc["type"] == "terway":
		c.table(confFile, pluginKeys(), doc)
	default:
		c.table(oldConf, oldKeys(), doc)
	}
	if err != nil {
		return nil, err
	}
	c.limits()
	if given.ClusterID != "" {
		c.Config["cluster_id"] = given.ClusterID
	}
	if given.Region != "" {
		c.Config["region"] = given.Region
	}
	slices.SortStableFunc(c.Keys, func(a, b OldKey) int {
		return cmp.Or(cmp.Compare(a.Source, b.Source), cmp.Compare(a.Key, b.Key))
	})
	text, err := yaml.Marshal(c.Config)
	if err != nil {
		return nil, fmt.Errorf("encode the configuration: %w", err)
	}
	_, c.Problem = Parse(text)
	return c, nil
}

// object parses a YAML or JSON object. It hides the parser's error, which may quote secrets.
func object(data []byte) (map[string]any, error) {
	var doc map[string]any
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, errors.New("neither YAML nor JSON, or not an object: want eni_conf, or the whole ConfigMap eni-config")
	}
	if err := decode.OneDocument(data); err != nil {
		return nil, err
	}
	if len(doc) == 0 {
		return nil, errors.New("there is nothing in it: want eni_conf, or the whole ConfigMap eni-config")
	}
	return doc, nil
}

// configMap converts the data of the ConfigMap eni-config.
func (c *Conversion) configMap(data map[string]any) error {
	if data[ConfigMapKey] != nil {
		return fmt.Errorf("the ConfigMap has %s already: it is not the existing Terway's", ConfigMapKey)
	}
	parts := map[string]map[string]any{}
	for _, name := range []string{oldConf, confFile, conflistFile} {
		switch part := data[name].(type) {
		case string:
			doc, err := object([]byte(part))
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			parts[name] = doc
		case map[string]any: // written by hand: values of a ConfigMap are text
			parts[name] = part
		case nil:
		default:
			return fmt.Errorf("%s: want a JSON object as text", name)
		}
	}
	if parts[oldConf] == nil {
		return fmt.Errorf("the ConfigMap has no key %s: it is not the existing Terway's", oldConf)
	}
	c.table(oldConf, oldKeys(), parts[oldConf])
	if list := parts[conflistFile]; list != nil {
		c.conflist(list)
		if parts[confFile] != nil {
			c.say(OldKey{Source: "eni-config", Key: confFile, Outcome: Dropped, Why: conflistFile + " wins over it"})
		}
	} else if conf := parts[confFile]; conf != nil {
		c.table(confFile, pluginKeys(), conf)
	}
	rest := map[string]any{"disable_network_policy": "false"} // the default of the existing Terway enforces policies
	maps.Copy(rest, data)
	for _, name := range []string{oldConf, confFile, conflistFile} {
		delete(rest, name)
	}
	c.table("eni-config", mapKeys(), rest)
	return nil
}

// conflist converts the plugin's entry in a list of plugins.
func (c *Conversion) conflist(doc map[string]any) {
	plugins, _ := doc["plugins"].([]any)
	for _, p := range plugins {
		conf, _ := p.(map[string]any)
		if conf["type"] == "terway" {
			c.table(conflistFile, pluginKeys(), conf)
			continue
		}
		c.chained(conflistFile, conf)
	}
}

// Plugins that are not lost.
const (
	pluginPortmap = "plugin portmap"
	pluginCilium  = "plugin cilium-cni"
)

// chained converts a plugin that ran after Terway's.
func (c *Conversion) chained(source string, conf map[string]any) {
	switch kind, _ := conf["type"].(string); kind {
	case "portmap":
		c.say(OldKey{Source: source, Key: pluginPortmap, Outcome: Dropped, Why: "it is chained anyway"})
	case "cilium-cni":
		c.say(OldKey{Source: source, Key: pluginCilium, Outcome: Dropped, Why: "the datapaths need no other plugin"})
	default:
		c.say(OldKey{Source: source, Key: strings.TrimSpace("plugin " + kind), Outcome: Unsupported, Why: "other plugins than portmap are not chained"})
	}
}

// table converts the keys of one file.
func (c *Conversion) table(source string, known map[string]oldKey, doc map[string]any) {
	for _, name := range slices.Sorted(maps.Keys(doc)) {
		row := OldKey{Source: source, Key: name}
		switch k, ok := known[name]; {
		case !ok:
			row.Outcome, row.Why = Unsupported, "unknown key of "+source
			if near := decode.Nearest(name, slices.Sorted(maps.Keys(known))); near != "" {
				row.Why += "; did you mean " + near + "?"
			}
		case k.idle(doc[name]):
			row.Outcome, row.Why = Dropped, "it is always so here"
		case k.to != nil:
			row.Outcome = Kept
			k.to(c, doc[name], &row)
		default:
			row.Outcome, row.Why = k.outcome, k.why
		}
		c.say(row)
	}
}

func (c *Conversion) say(k OldKey) { c.Keys = append(c.Keys, k) }

// limits raises a maximum that is below the minimum, which the existing Terway accepts. If only
// the maximum is set, the existing Terway's minimum is 0, which is not the default here.
func (c *Conversion) limits() {
	high, set := c.Config["max_pool_size"].(float64)
	if !set {
		return
	}
	at := slices.IndexFunc(c.Keys, func(k OldKey) bool { return k.Source == oldConf && k.Key == "max_pool_size" })
	row := &c.Keys[at]
	if _, said := c.Config["min_pool_size"]; !said {
		c.Config["min_pool_size"] = 0
		row.Why = "with min_pool_size 0, the default of the existing Terway"
	}
	if low, _ := c.Config["min_pool_size"].(float64); high < low {
		c.Config["max_pool_size"] = low
		row.Outcome, row.Why = Renamed, "raised to min_pool_size"
	}
}
