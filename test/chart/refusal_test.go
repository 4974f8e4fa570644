package chart

import (
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// A refusal names the value and says what would be right.
func TestRefusalsInWords(t *testing.T) {
	for want, paths := range map[string]map[string]any{
		"controller.podLabels: app is the chart's own label: want another name":                             {"controller.podLabels": map[string]any{"app": "x"}},
		`agent.podAnnotations: "a b": want the name of an annotation, for example example.com/team`:         {"agent.podAnnotations": map[string]any{"a b": "x"}},
		"credentials.existingSecret: only with credentials.source secret, and it is ecs-role: leave it out": {"credentials.source": "ecs-role", "credentials.existingSecret": "key"},
		"controller.extraEnv: name POD_NAMESPACE is the chart's own: want another":                          {"controller.extraEnv": []any{map[string]any{"name": "POD_NAMESPACE"}}},
		"agent.extraEnv: name KUBERNETES_SERVICE_PORT is the chart's own: want another, or leave out apiServer.host": {"apiServer.host": "10.0.0.1",
			"agent.extraEnv": []any{map[string]any{"name": "KUBERNETES_SERVICE_PORT"}}},
		`eniConfig.service_cidr: "172.21.0.0": want the cluster's Service range, for example 172.21.0.0/20`:       {"eniConfig.service_cidr": "172.21.0.0"},
		"controller.podDisruptionBudget.maxUnavailable: 0: no node that a replica runs on could be drained":       {"controller.podDisruptionBudget": map[string]any{"maxUnavailable": 0}},
		"controller.podDisruptionBudget.minAvailable: 2 of 2 replicas: no node that one runs on could be drained": {"controller.podDisruptionBudget": map[string]any{"minAvailable": 2}},
		"controller.podDisruptionBudget: minAvailable 1 and maxUnavailable 1: want one of them":                   {"controller.podDisruptionBudget": map[string]any{"minAvailable": 1, "maxUnavailable": 1}},
	} {
		if _, problem := helm.render(t, with("terway", paths)); !strings.Contains(problem, want) {
			t.Errorf("%v: %q, want %q", paths, problem, want)
		}
	}
}

// null removes a default: a port, a name or a folder would be missing where the templates have it.
func TestNullIsRefused(t *testing.T) {
	var values map[string]any
	read(t, dir+"values.yaml", func(b []byte, v any) error { return yaml.Unmarshal(b, v) }, &values)
	// null means something in these, and eniConfig has defaults of the controller.
	free := []string{"eniConfig", "labels", "rollingUpdate", "securityContext", "startupProbe", "livenessProbe", "readinessProbe", "resources"}
	seen := 0
	var walk func(path string, section map[string]any)
	walk = func(path string, section map[string]any) {
		for key, v := range section {
			switch v := v.(type) {
			case map[string]any:
				if !slices.Contains(free, key) {
					walk(path+key+".", v)
				}
			case []any:
			default:
				seen++
				if _, problem := helm.render(t, with("terway", map[string]any{path + key: nil})); !strings.Contains(problem, key) {
					t.Errorf("%s: null is not refused by its name: %q", path+key, problem)
				}
			}
		}
	}
	walk("", values)
	if seen < 40 {
		t.Errorf("%d values, want all", seen)
	}
}
