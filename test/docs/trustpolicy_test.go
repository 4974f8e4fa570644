package docs

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestTrustPolicy: the RAM role of the installation page trusts the service account and the audience that the chart has.
func TestTrustPolicy(t *testing.T) {
	find := func(template, pattern string) string {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(root, "deploy/chart/templates", template))
		if err != nil {
			t.Fatal(err)
		}
		m := regexp.MustCompile(pattern).FindSubmatch(text)
		if m == nil {
			t.Fatalf("%s has no %s", template, pattern)
		}
		return string(m[1])
	}
	audience, account := find("_helpers.tpl", `serviceAccountToken: {audience: ([a-z.]+)`), find("controller.yaml", `serviceAccountName: ([a-z-]+)`)
	found := 0
	for _, p := range pages(t) {
		for _, b := range p.Blocks {
			text := strings.Join(b.Code, "\n")
			if b.Info != "json" || !strings.Contains(text, "oidc:sub") {
				continue
			}
			found++
			var policy struct {
				Version   string
				Statement []struct {
					Effect, Action string
					Principal      struct{ Federated []string }
					Condition      struct{ StringEquals map[string][]string }
				}
			}
			if err := json.Unmarshal([]byte(text), &policy); err != nil || len(policy.Statement) != 1 {
				t.Fatalf("%s:%d: %v", p.Path, b.Line, err)
			}
			equals := policy.Statement[0].Condition.StringEquals
			if got, want := equals["oidc:sub"], []string{"system:serviceaccount:kube-system:" + account}; !slices.Equal(got, want) {
				t.Errorf("%s:%d: oidc:sub %q, want %q", p.Path, b.Line, got, want)
			}
			if got := equals["oidc:aud"]; !slices.Equal(got, []string{audience}) {
				t.Errorf("%s:%d: oidc:aud %q, want %q", p.Path, b.Line, got, audience)
			}
		}
	}
	if found == 0 {
		t.Error("no page has the trust policy for RRSA")
	}
}
