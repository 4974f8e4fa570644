package chart

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
)

// Others can scrape both programs, which ask the API server who may; without metrics.enabled nothing leaves the node, and
// neither program may ask.
func TestMetricsLeaveTheNodeWithAToken(t *testing.T) {
	for _, on := range []bool{true, false} {
		all := objects(t, with("terway", map[string]any{"metrics.enabled": on, "metrics.agentPort": 10377}))
		for _, c := range []struct {
			workload, role string
			port           int32
			arg            string // with metrics.enabled: as told
			told           bool
		}{
			{"DaemonSet terwayd", "ClusterRole terwayd", 10377, "--scrape-address=:10377", on},
			{"Deployment terway-controller", "ClusterRole terway-controller", 10363, "--metrics-address=127.0.0.1:10363", !on},
		} {
			container := podOf(t, all[c.workload]).Spec.Containers[0]
			if slices.Contains(container.Args, c.arg) != c.told {
				t.Errorf("metrics.enabled: %v: %s has the arguments %v; %s: want %v", on, c.workload, container.Args, c.arg, c.told)
			}
			if there := slices.ContainsFunc(container.Ports, func(p corev1.ContainerPort) bool { return p.Name == "metrics" && p.ContainerPort == c.port }); there != on {
				t.Errorf("metrics.enabled: %v: %s has the ports %v", on, c.workload, container.Ports)
			}
			var role rbacv1.ClusterRole
			into(t, all[c.role], &role)
			asks := may(role.Rules, "authentication.k8s.io", "tokenreviews", "", "create") && may(role.Rules, "authorization.k8s.io", "subjectaccessreviews", "", "create")
			if asks != on {
				t.Errorf("metrics.enabled: %v: %s lets it ask who may scrape: %v", on, c.role, asks)
			}
		}
	}
	// The policy hub reviews tokens too.
	var role rbacv1.ClusterRole
	into(t, objects(t, with("terway", map[string]any{"metrics.enabled": false, "policy.enabled": true}))["ClusterRole terway-controller"], &role)
	if !may(role.Rules, "authentication.k8s.io", "tokenreviews", "", "create") {
		t.Error("policy.enabled without metrics.enabled: the controller may not review tokens")
	}
}
