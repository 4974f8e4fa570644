package docs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"terway.dev/terway/internal/datapath/claims"
)

// TestKubeProxy runs the page's commands for kube-proxy with a kubectl that has a ConfigMap as kubeadm makes it: both keys are set, and
// nothing else changes.
func TestKubeProxy(t *testing.T) {
	const before = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nclusterCIDR: \"\"\ndetectLocal:\n  bridgeInterface: \"\"\n  interfaceNamePrefix: \"\"\ndetectLocalMode: \"\"\nkind: KubeProxyConfiguration\nmode: \"\"\n"
	ran := 0
	for _, p := range pages(t) {
		for _, b := range p.Blocks {
			script := strings.Join(b.Code, "\n")
			if !strings.Contains(script, "detectLocalMode") || !strings.HasPrefix(b.Info, "sh") {
				continue
			}
			ran++
			dir := t.TempDir()
			object, err := yaml.Marshal(map[string]any{"kind": "ConfigMap", "metadata": map[string]any{"name": "kube-proxy"}, "data": map[string]any{"config.conf": before, "kubeconfig.conf": "kind: Config\n"}})
			if err != nil {
				t.Fatal(err)
			}
			kubectl := `#!/bin/sh
case "$*" in
*" get configmap kube-proxy -o yaml") cat before.yaml ;;
*"replace -f -") cat > after.yaml ;;
*" rollout restart daemonset/kube-proxy") touch restarted ;;
esac
`
			for name, text := range map[string]string{"before.yaml": string(object), "kubectl": kubectl} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			out, err := shell(dir, []string{"PATH=" + dir + ":" + os.Getenv("PATH")}, b.Code)
			if err != nil {
				t.Fatalf("%s:%d: %v\n%s", p.Path, b.Line, err, out)
			}
			text, err := os.ReadFile(filepath.Join(dir, "after.yaml"))
			var after struct{ Data map[string]string }
			if err != nil || yaml.Unmarshal(text, &after) != nil {
				t.Fatalf("%s:%d: %v: %s", p.Path, b.Line, err, text)
			}
			want := strings.Replace(strings.Replace(before, `detectLocalMode: ""`, "detectLocalMode: InterfaceNamePrefix", 1), `interfaceNamePrefix: ""`, "interfaceNamePrefix: "+claims.DevicePrefix, 1)
			if got := after.Data["config.conf"]; got != want || after.Data["kubeconfig.conf"] != "kind: Config\n" {
				t.Errorf("%s:%d: configuration\n%s\nwant\n%s", p.Path, b.Line, got, want)
			}
			if _, err := os.Stat(filepath.Join(dir, "restarted")); err != nil {
				t.Errorf("%s:%d: kube-proxy, which reads its configuration when it starts, is not restarted", p.Path, b.Line)
			}
		}
	}
	if ran < 2 {
		t.Errorf("%d pages have the commands", ran)
	}
}
