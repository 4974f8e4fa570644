package config

import (
	"errors"
	"fmt"

	"sigs.k8s.io/yaml"
)

// Where the configuration is in the cluster.
const (
	ConfigMapName = "eni-config"
	ConfigMapKey  = "eni-config.yaml"
)

// FromConfigMap reads the configuration of a ConfigMap's data.
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

// FromFile reads a configuration in any form in which it is kept: alone, as chart
// values (eniConfig), or as the ConfigMap.
func FromFile(data []byte) (*Config, error) {
	var form struct {
		ENIConfig map[string]any    `json:"eniConfig"`
		Data      map[string]string `json:"data"`
	}
	if err := yaml.Unmarshal(data, &form); err != nil {
		return Parse(data) // names what is wrong
	}
	switch {
	case form.Data != nil:
		return FromConfigMap(form.Data)
	case form.ENIConfig != nil:
		// A key that is there twice is an error at any depth.
		var strict map[string]any
		if err := yaml.UnmarshalStrict(data, &strict); err != nil {
			return nil, fmt.Errorf("the chart values are not YAML: %w", err)
		}
		inner, err := yaml.Marshal(form.ENIConfig)
		if err != nil {
			return nil, errors.Join(errors.New("encode eniConfig"), err)
		}
		return Parse(inner)
	}
	return Parse(data)
}
