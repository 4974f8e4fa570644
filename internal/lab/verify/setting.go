package verify

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/lab/instruments"
)

// setting has datapath and mode of the configuration; nil: not set.
type setting struct {
	Datapath any `json:"datapath"`
	Mode     any `json:"mode"`
}

// beforeAnnotation on the ConfigMap has the setting from before the nodes were switched. If a
// verify is killed, the next one restores it.
const beforeAnnotation = "lab.terway.dev/before-verify"

// settingOf returns the configuration that selects a datapath.
func settingOf(datapath string) setting {
	if datapath == instruments.Exclusive {
		return setting{Datapath: claims.Auto, Mode: claims.ModeExclusive}
	}
	return setting{Datapath: datapath, Mode: claims.ModeShared}
}

// put writes the setting into a configuration and returns the former one. It changes nothing
// else, and returns an error if the controller would refuse the result.
func (s setting) put(data string) (out string, was setting, err error) {
	var raw map[string]any
	if err := yaml.Unmarshal([]byte(data), &raw); err != nil {
		return "", was, fmt.Errorf("the configuration is not YAML: %w", err)
	}
	was = setting{Datapath: raw["datapath"], Mode: raw["mode"]}
	for key, v := range map[string]any{"datapath": s.Datapath, "mode": s.Mode} {
		if v == nil {
			delete(raw, key)
		} else {
			raw[key] = v
		}
	}
	b, err := yaml.Marshal(raw)
	if err != nil {
		return "", was, fmt.Errorf("write the configuration as YAML: %w", err)
	}
	if _, err := config.Parse(b); err != nil {
		return "", was, fmt.Errorf("with datapath %v and mode %v the configuration would not be valid:\n%w", s.Datapath, s.Mode, err)
	}
	return string(b), was, nil
}

// configure writes a setting to the cluster's configuration, and records the first former one.
func (e *Env) configure(ctx context.Context, s setting) error {
	return e.EditConfig(ctx, func(m *corev1.ConfigMap) error {
		out, was, err := s.put(m.Data[config.ConfigMapKey])
		if err != nil {
			return err
		}
		m.Data[config.ConfigMapKey] = out
		if _, there := m.Annotations[beforeAnnotation]; there {
			return nil
		}
		b, err := json.Marshal(was)
		if err != nil {
			return fmt.Errorf("note the setting from before: %w", err)
		}
		if m.Annotations == nil {
			m.Annotations = map[string]string{}
		}
		m.Annotations[beforeAnnotation] = string(b)
		return nil
	})
}

// reconfigure restores the former setting; moved is false if nothing was changed.
func (e *Env) reconfigure(ctx context.Context) (moved bool, err error) {
	err = e.EditConfig(ctx, func(m *corev1.ConfigMap) error {
		var before string
		if before, moved = m.Annotations[beforeAnnotation]; !moved {
			return nil
		}
		var s setting
		if err := json.Unmarshal([]byte(before), &s); err != nil {
			return fmt.Errorf("annotation %s is %q: want JSON with datapath and mode: %w", beforeAnnotation, before, err)
		}
		out, _, err := s.put(m.Data[config.ConfigMapKey])
		if err != nil {
			return err
		}
		m.Data[config.ConfigMapKey] = out
		return nil
	})
	return moved, err
}

// forgetBefore deletes the record of the former setting.
func (e *Env) forgetBefore(ctx context.Context) error {
	return e.EditConfig(ctx, func(m *corev1.ConfigMap) error {
		delete(m.Annotations, beforeAnnotation)
		return nil
	})
}
