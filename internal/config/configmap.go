package config

import (
	"fmt"

	"terway.dev/terway/internal/decode"
)

// The ConfigMap of the configuration.
const (
	ConfigMapName = "eni-config"
	ConfigMapKey  = "eni-config.yaml"
)

// FromConfigMap reads the configuration from a ConfigMap's data.
func FromConfigMap(data map[string]string) (*Config, error) {
	text, ok := data[ConfigMapKey]
	if !ok {
		if _, old := data[oldConf]; old {
			return nil, fmt.Errorf("this is the ConfigMap of the existing Terway (key %s): terwayctl config convert makes the configuration that belongs under %s", oldConf, ConfigMapKey)
		}
		return nil, fmt.Errorf("the ConfigMap has no key %s", ConfigMapKey)
	}
	return Parse([]byte(text))
}

// FromFile reads a configuration in any of its forms: alone, as chart values (eniConfig), or as
// the ConfigMap, also in a List.
func FromFile(data []byte) (*Config, error) {
	doc, err := document(data)
	if err == nil {
		doc, err = unlisted(doc)
	}
	if err != nil {
		return nil, err
	}
	if of, ok := doc["data"].(map[string]any); ok {
		texts := map[string]string{}
		for key, value := range of {
			if text, ok := value.(string); ok {
				texts[key] = text
			}
		}
		return FromConfigMap(texts)
	}
	values, ok := doc["eniConfig"]
	if !ok {
		return parse(doc)
	}
	inner, ok := values.(map[string]any)
	if !ok && values != nil {
		return nil, fmt.Errorf("eniConfig %s: want keys with values: cluster_id, region, …", decode.Describe(values))
	}
	return parse(inner)
}
