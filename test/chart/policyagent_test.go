package chart

import (
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	rbacv1 "k8s.io/api/rbac/v1"

	"terway.dev/terway/internal/policy/hub"
)

// With policy the agent is told where the hub is, may find it, and has a token that the hub takes and the API server does
// not; else nothing of that.
func TestAgentsFollowTheHub(t *testing.T) {
	const service = "terway-policy"
	for _, on := range []bool{true, false} {
		got := objects(t, with("terway", map[string]any{"policy.enabled": on}))
		var agent appsv1.DaemonSet
		into(t, got["DaemonSet terwayd"], &agent)
		var role rbacv1.Role
		into(t, got["Role terwayd"], &role)
		finds := slices.ContainsFunc(role.Rules, func(r rbacv1.PolicyRule) bool {
			return slices.Equal(r.APIGroups, []string{"discovery.k8s.io"}) && slices.Equal(r.Resources, []string{"endpointslices"}) &&
				slices.Contains(r.Verbs, "list") && slices.Contains(r.Verbs, "watch")
		})
		trusts := slices.ContainsFunc(role.Rules, func(r rbacv1.PolicyRule) bool {
			return slices.Equal(r.Resources, []string{"configmaps"}) && slices.Equal(r.ResourceNames, []string{service}) && slices.Equal(r.Verbs, []string{"get"})
		})
		spec := agent.Spec.Template.Spec
		told := slices.Contains(spec.Containers[0].Args, "--policy-hub="+service)
		if finds != on || trusts != on || told != on {
			t.Errorf("policy.enabled: %v: the agent may find the hub: %v, may read whom to trust: %v, is told to: %v", on, finds, trusts, told)
		}
		var tokens, states int
		for _, m := range spec.Containers[0].VolumeMounts {
			for _, v := range spec.Volumes {
				if v.Name != m.Name {
					continue
				}
				if v.HostPath != nil && v.HostPath.Path == "/var/lib/terway" && m.MountPath == v.HostPath.Path && !m.ReadOnly {
					states++
				}
				if v.Projected == nil || m.MountPath != "/var/run/secrets/terway-policy" {
					continue
				}
				for _, s := range v.Projected.Sources {
					if s.ServiceAccountToken != nil && s.ServiceAccountToken.Audience == hub.Audience && s.ServiceAccountToken.Path == "token" {
						tokens++
					}
				}
			}
		}
		// What was kept of the policies is removed when they are switched off.
		if (tokens == 1) != on || states != 1 {
			t.Errorf("policy.enabled: %v: %d tokens for the hub, %d folders for what it said", on, tokens, states)
		}
	}
}
