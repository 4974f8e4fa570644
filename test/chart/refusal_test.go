package chart

import (
	"strings"
	"testing"
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
	} {
		if _, problem := helm.render(t, with("terway", paths)); !strings.Contains(problem, want) {
			t.Errorf("%v: %q, want %q", paths, problem, want)
		}
	}
}
