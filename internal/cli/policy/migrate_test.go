package policy_test

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"terway.dev/terway/internal/cli/policy"
)

// oldOnes are as kubectl prints them.
const oldOnes = `
apiVersion: v1
kind: List
items:
- apiVersion: crd.projectcalico.org/v1
  kind: NetworkPolicy
  metadata:
    name: default.web
    namespace: shop
    uid: u
    annotations: {projectcalico.org/metadata: '{"labels":{"team":"shop"}}'}
  spec: {order: 10, selector: app == 'web', types: [Ingress], ingress: [{action: Allow, source: {}, destination: {}}]}
- {apiVersion: crd.projectcalico.org/v1, kind: Tier, metadata: {name: security}, spec: {order: 5}}
- {apiVersion: crd.projectcalico.org/v1, kind: GlobalNetworkPolicy, metadata: {name: default.pruned}}
- {apiVersion: crd.projectcalico.org/v1, kind: IPPool, metadata: {name: a}, spec: {cidr: 10.0.0.0/8}}
- {apiVersion: crd.projectcalico.org/v1, kind: IPPool, metadata: {name: b}, spec: {cidr: 11.0.0.0/8}}
`

const newTier = `---
apiVersion: projectcalico.org/v3
kind: Tier
metadata:
  name: security
spec:
  order: 5
`

const newPolicy = `---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata:
  labels:
    team: shop
  name: web
  namespace: shop
spec:
  ingress:
  - action: Allow
  order: 10
  selector: app == 'web'
  types:
  - Ingress
`

func TestMigrateOffline(t *testing.T) {
	out, err := run(t, map[string]string{"old.yaml": oldOnes}, "migrate")
	if want := newTier + newPolicy + `KIND                 OLD               NEW       OUTCOME  WHY
Tier                 security          security  new      -
GlobalNetworkPolicy  default.pruned    -         refused  has no spec: write it again in projectcalico.org/v3, or delete it
NetworkPolicy        shop/default.web  shop/web  new      -
not about policies, and not moved: 2 IPPool
`; out != want {
		t.Errorf("%s\nwant\n%s", out, want)
	}
	if err == nil || err.Error() != "1 objects cannot be moved or deleted: the list says why" {
		t.Errorf("%v: want the number of objects", err)
	}

	// What comes out is what is there the next time.
	fit := strings.Replace(oldOnes, "- {apiVersion: crd.projectcalico.org/v1, kind: GlobalNetworkPolicy, metadata: {name: default.pruned}}\n", "", 1)
	out, err = run(t, map[string]string{"old.yaml": fit, "new.yaml": newTier + newPolicy}, "migrate")
	if want := `KIND           OLD               NEW       OUTCOME  WHY
Tier           security          security  same     -
NetworkPolicy  shop/default.web  shop/web  same     -
not about policies, and not moved: 2 IPPool
`; err != nil || out != want {
		t.Errorf("%v\n%s\nwant\n%s", err, out, want)
	}
	out, err = run(t, map[string]string{"old.yaml": fit, "new.yaml": newTier + strings.Replace(newPolicy, "10", "20", 1)}, "migrate")
	if !errors.As(err, new(*policy.UnmovedError)) || !strings.Contains(out, "shop/web  differs  spec.order is 20 there, and 10 in the old one") || strings.Contains(out, "---") {
		t.Errorf("%v\n%s", err, out)
	}

	// Other commands say that they do not read them.
	out, err = run(t, map[string]string{"old.yaml": fit, "a.yaml": cluster, "b.yaml": policies}, "lint")
	if err != nil || !strings.Contains(out, `not read: 1 NetworkPolicy of crd.projectcalico.org/v1; "terwayctl policy migrate" moves`) {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err = run(t, map[string]string{"a.yaml": cluster}, "migrate"); err != nil || out != "nothing of crd.projectcalico.org/v1 is to be moved\n" {
		t.Errorf("%v\n%s", err, out)
	}
	// As the API server lists them.
	list := "apiVersion: crd.projectcalico.org/v1\nkind: NetworkPolicyList\nitems: [{metadata: {name: default.a}, spec: {types: [Egress]}}]\n"
	if out, err = run(t, map[string]string{"a.yaml": list}, "migrate", "-n", "shop"); err != nil || !strings.Contains(out, "NetworkPolicy  shop/default.a  shop/a  new") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestMigrateJSON(t *testing.T) {
	out, err := run(t, map[string]string{"old.yaml": oldOnes}, "migrate", "-o", "json")
	var got struct {
		Objects []struct {
			Kind, Old, New, Outcome string
			Why                     []string
			Manifest                *struct{ Metadata struct{ Name string } }
		}
		Left []struct {
			Kind  string
			Count int
		}
	}
	if bad := json.Unmarshal([]byte(out), &got); bad != nil || err == nil {
		t.Fatalf("%v %v\n%s", bad, err, out)
	}
	if len(got.Objects) != 3 || len(got.Left) != 1 || got.Left[0].Kind != "IPPool" || got.Left[0].Count != 2 {
		t.Fatal(out)
	}
	if o := got.Objects[2]; o.Old != "shop/default.web" || o.New != "shop/web" || o.Outcome != "new" || o.Manifest == nil || o.Manifest.Metadata.Name != "web" {
		t.Error(out)
	}
	if o := got.Objects[1]; o.Outcome != "refused" || o.Manifest != nil || len(o.Why) != 1 {
		t.Error(out)
	}
}

func TestMigrateRefuses(t *testing.T) {
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	t.Setenv("HOME", t.TempDir())
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	for args, want := range map[string]string{
		"":                                   "no cluster is named: give --kubeconfig",
		"-o xml":                             "want text, json or yaml",
		"--offline DIR --apply":              "--offline changes nothing in a cluster",
		"--offline DIR --delete-old":         "--offline changes nothing in a cluster",
		"--offline /no/such":                 "--offline: stat /no/such: no such file",
		"--offline " + file(t, ""):           "is a file: want the folder that it is in",
		"--kubeconfig /no/such --delete-old": "--kubeconfig /no/such: ",
	} {
		cmd := policy.NewCommand()
		cmd.SetArgs(append([]string{"migrate"}, strings.Fields(args)...))
		cmd.SilenceUsage, cmd.SilenceErrors = true, true
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), want) || errors.As(err, new(*policy.UnmovedError)) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
}
