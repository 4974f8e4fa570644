package chart

import (
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// The values of the log are flags of every program of ours: the controller, the agent with either network, and the job that uninstalls.
func TestLog(t *testing.T) {
	for network, want := range map[string][]string{"terway": {"DaemonSet terwayd", "Deployment terway-controller", "Job terway-uninstall"}, "flannel": {"DaemonSet kube-flannel", "Deployment terway-controller"}} {
		for _, c := range []struct {
			values map[string]any
			flags  []string
		}{
			{nil, nil},
			{map[string]any{"log.format": "json"}, []string{"--log-format=json"}},
			{map[string]any{"log.format": "json", "log.level": "debug"}, []string{"--log-format=json", "--verbose"}},
		} {
			var have []string
			for name, o := range objects(t, with(network, c.values)) {
				containers, _, _ := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "containers")
				for _, container := range containers {
					args, _, _ := unstructured.NestedStringSlice(container.(map[string]any), "args")
					var flags []string
					for _, flag := range []string{"--log-format=json", "--verbose"} {
						if slices.Contains(args, flag) {
							flags = append(flags, flag)
						}
					}
					if len(c.flags) > 0 && slices.Equal(flags, c.flags) {
						have = append(have, name)
					} else if len(flags) > 0 {
						t.Errorf("%s, %v: %s has %q, want %q", network, c.values, name, flags, c.flags)
					}
				}
			}
			if slices.Sort(have); len(c.flags) > 0 && !slices.Equal(have, want) {
				t.Errorf("%s, %v: %q have the flags, want %q", network, c.values, have, want)
			}
		}
	}
}
