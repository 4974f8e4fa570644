// Package eniconfig adds a Pod vSwitch to the configuration of a running cluster, the ConfigMap
// eni-config. It changes nothing else in it, and never writes what the controller would reject.
package eniconfig

import (
	"context"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/provision"
)

// AddVSwitch appends a vSwitch to those of its zone.
func AddVSwitch(data []byte, zone, id string) (out []byte, changed bool, err error) {
	if _, err := config.Parse(data); err != nil {
		return nil, false, fmt.Errorf("the configuration is not valid as it is:\n%w", err)
	}
	// Keys that this program does not know are kept.
	var raw map[string]any
	if err := yaml.Unmarshal(data, &raw); err != nil {
		return nil, false, fmt.Errorf("the configuration is not YAML: %w", err)
	}
	vswitches, _ := raw["vswitches"].(map[string]any)
	if vswitches == nil {
		vswitches = map[string]any{}
	}
	ids, _ := vswitches[zone].([]any)
	if slices.Contains(ids, any(id)) {
		return data, false, nil
	}
	vswitches[zone] = append(ids, id)
	raw["vswitches"] = vswitches
	if out, err = yaml.Marshal(raw); err != nil {
		return nil, false, fmt.Errorf("write the configuration as YAML: %w", err)
	}
	if _, err := config.Parse(out); err != nil {
		return nil, false, fmt.Errorf("with vSwitch %s in zone %s the configuration would not be valid:\n%w", id, zone, err)
	}
	return out, true, nil
}

// Cluster reads which vSwitches and Service range a cluster uses that is to get a vSwitch of a VPC.
// It returns an error if the cluster is in another region, or none of its vSwitches is in the VPC:
// the kubeconfig may be that of another cluster.
func Cluster(ctx context.Context, c kubernetes.Interface, namespace, region string, vswitches []string, say func(string)) (*provision.Cluster, error) {
	m, err := c.CoreV1().ConfigMaps(namespace).Get(ctx, config.ConfigMapName, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("read ConfigMap %s/%s: %w", namespace, config.ConfigMapName, err)
	}
	cfg, err := config.FromConfigMap(m.Data)
	if err != nil {
		return nil, fmt.Errorf("ConfigMap %s/%s:\n%w", namespace, config.ConfigMapName, err)
	}
	if cfg.Region != region {
		return nil, fmt.Errorf("cluster %s is in region %s, the plan's VPC in %s: is it the right cluster?", cfg.ClusterID, cfg.Region, region)
	}
	var has []string
	for _, ids := range cfg.VSwitches {
		has = append(has, ids...)
	}
	slices.Sort(has)
	if !slices.ContainsFunc(has, func(id string) bool { return slices.Contains(vswitches, id) }) {
		return nil, fmt.Errorf("cluster %s has no vSwitch of the plan's VPC, but %v: is it the right cluster?", cfg.ClusterID, has)
	}
	return &provision.Cluster{VSwitches: has, Services: cfg.ServiceCIDRs(), Adopt: func(ctx context.Context, zone, id string) error {
		changed, err := Adopt(ctx, c, namespace, zone, id)
		switch {
		case err != nil:
			return err
		case changed:
			say(fmt.Sprintf("ConfigMap %s/%s has vSwitch %s now", namespace, config.ConfigMapName, id))
		default:
			say(fmt.Sprintf("ConfigMap %s/%s has vSwitch %s already", namespace, config.ConfigMapName, id))
		}
		return nil
	}}, nil
}

// Adopt makes a cluster use a vSwitch; it reports whether the ConfigMap was changed.
func Adopt(ctx context.Context, c kubernetes.Interface, namespace, zone, id string) (changed bool, err error) {
	maps := c.CoreV1().ConfigMaps(namespace)
	err = retry.RetryOnConflict(retry.DefaultRetry, func() error {
		m, err := maps.Get(ctx, config.ConfigMapName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		data, ok := m.Data[config.ConfigMapKey]
		if !ok {
			return fmt.Errorf("it has no key %s", config.ConfigMapKey)
		}
		var out []byte
		if out, changed, err = AddVSwitch([]byte(data), zone, id); err != nil || !changed {
			return err
		}
		m.Data[config.ConfigMapKey] = string(out)
		_, err = maps.Update(ctx, m, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		return false, fmt.Errorf("add vSwitch %s to ConfigMap %s/%s: %w", id, namespace, config.ConfigMapName, err)
	}
	return changed, nil
}
