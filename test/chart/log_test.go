package chart

import (
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// The values of the log are flags of every program of ours: the controller, the agent with either network, and the job that uninstalls.
func TestLog(t *testing.T) {
	for _, network := range []string{"terway", "flannel"} {
		for _, c := range []struct {
			values map[string]any
			flags  []string
		}{
			{nil, nil},
			{map[string]any{"log.format": "json"}, []string{"--log-format=json"}},
			{map[string]any{"log.format": "json", "log.level": "debug"}, []string{"--log-format=json", "--verbose"}},
		} {
			ours := 0
			for name, o := range objects(t, with(network, c.values)) {
				containers, _, _ := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "containers")
				first, _, _ := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "initContainers")
				for _, container := range slices.Concat(first, containers) {
					args, _, _ := unstructured.NestedStringSlice(container.(map[string]any), "args")
					flags := slices.DeleteFunc(args, func(a string) bool { return !strings.HasPrefix(a, "--log-format") && a != "--verbose" })
					want := c.flags
					if image, _, _ := unstructured.NestedString(container.(map[string]any), "image"); !strings.HasPrefix(image, "terway.local/terway:") {
						want = nil
					} else {
						ours++
					}
					if !slices.Equal(flags, want) {
						t.Errorf("%s, %v: %s has %q, want %q", network, c.values, name, flags, want)
					}
				}
			}
			if ours < 2 {
				t.Errorf("%s: %d containers of ours", network, ours)
			}
		}
	}
}
