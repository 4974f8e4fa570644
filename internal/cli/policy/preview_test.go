package policy_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

const shop = `
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Node, metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}}
- {apiVersion: v1, kind: Namespace, metadata: {name: shop}}
- apiVersion: v1
  kind: Pod
  metadata:
    {name: web-5d8-x, namespace: shop, labels: {app: web, pod-template-hash: 5d8}, ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: frontend-5d8, uid: u, controller: true}]}
  spec: {containers: []}
  status: {podIP: 10.0.0.1}
- apiVersion: v1
  kind: Pod
  metadata:
    {name: web-5d8-y, namespace: shop, labels: {app: web, pod-template-hash: 5d8}, ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: frontend-5d8, uid: u, controller: true}]}
  spec: {containers: []}
  status: {podIP: 10.0.0.3}
- apiVersion: v1
  kind: Pod
  metadata: {name: db-0, namespace: shop, labels: {app: db}}
  spec: {containers: []}
  status: {podIP: 10.0.0.2}
- apiVersion: v1
  kind: Pod
  metadata: {name: pending, namespace: shop}
  spec: {containers: []}
`

const allowWeb = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 5432}]}]
`

const stagedDelete = `
apiVersion: projectcalico.org/v3
kind: StagedKubernetesNetworkPolicy
metadata: {name: db, namespace: shop}
spec: {stagedAction: Delete}
`

// file writes a file with a text, outside the folder.
func file(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "new.yaml")
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestPreview(t *testing.T) {
	const pending = "ignored: 1 pods without an address\n"
	out, err := run(t, map[string]string{"a.yaml": shop}, "preview", "-f", file(t, allowWeb))
	want := pending + `CHANGE  FROM           TO       TRAFFIC           BEFORE                      AFTER
cut     nodes          shop/db  all               ingress allow by no policy  ingress deny by the end of tier default
cut     outside        shop/db  all               ingress allow by no policy  ingress deny by the end of tier default
cut     shop/frontend  shop/db  all but tcp/5432  ingress allow by no policy  ingress deny by the end of tier default
3 cut, 0 opened
`
	// Health checks come from outside, and are always allowed.
	want = strings.ReplaceAll(want, "outside        shop/db", "outside except 100.64.0.0/10  shop/db")
	if squeeze(out) != squeeze(want) {
		t.Errorf("%s, want\n%s", out, want)
	}
	var cut interface{ ExitStatus() int }
	if !errors.As(err, &cut) || cut.ExitStatus() != 2 || err.Error() != "3 changes cut what was allowed" {
		t.Errorf("%v: want exit status 2", err)
	}

	both := map[string]string{"a.yaml": shop, "b.yaml": allowWeb}
	wider := strings.ReplaceAll(allowWeb, "port: 5432", "port: 5432, endPort: 5433")
	out, err = run(t, both, "preview", "-f", file(t, wider))
	if err != nil || squeeze(out) != squeeze(pending+`CHANGE FROM TO TRAFFIC BEFORE AFTER
opened shop/frontend shop/db tcp/5433 ingress deny by the end of tier default ingress allow by NetworkPolicy shop/db, ingress rule 0, tier default
0 cut, 1 opened
`) {
		t.Errorf("%s%v", out, err)
	}

	// Deleting it gives the same result in every notation.
	for _, args := range [][]string{{"--delete", "networkpolicy/shop/db"}, {"--delete", "NetworkPolicy/db", "-n", "shop"}, {"--staged", "-f", file(t, stagedDelete)}} {
		out, err = run(t, both, append([]string{"preview"}, args...)...)
		if err != nil || !strings.Contains(out, "0 cut, 3 opened\n") {
			t.Errorf("%v: %s%v", args, out, err)
		}
	}
	name := file(t, stagedDelete)
	if out, err = run(t, both, "preview", "-f", name); err != nil || out != "-f "+name+": 1 staged policies change nothing: --staged applies them\n"+pending+"nothing changes\n" {
		t.Errorf("%s%v", out, err)
	}
	if out, err = run(t, both, "preview", "-f", file(t, allowWeb)); err != nil || out != pending+"nothing changes\n" {
		t.Errorf("what is there already: %s%v", out, err)
	}

	// The standard input is a file too, beside others, of which the last has its way.
	out, err = runWith(t, wider, both, "preview", "-f", file(t, allowWeb), "-f", "-")
	if err != nil || !strings.Contains(out, "0 cut, 1 opened\n") {
		t.Errorf("%s%v", out, err)
	}

	out, err = run(t, both, "preview", "-o", "json", "-f", file(t, wider))
	var got, wanted any
	if bad := json.Unmarshal([]byte(strings.TrimPrefix(out, pending)), &got); bad != nil || err != nil {
		t.Fatalf("%s%v %v", out, bad, err)
	}
	if err := json.Unmarshal([]byte(`{"changes": [{"change": "opened",
		"from": {"name": "shop/frontend", "pods": ["shop/web-5d8-x", "shop/web-5d8-y"]}, "to": {"name": "shop/db", "pods": ["shop/db-0"]},
		"traffic": ["tcp/5433"],
		"before": {"verdict": "deny", "by": ["ingress deny by the end of tier default"]},
		"after": {"verdict": "allow", "by": ["ingress allow by NetworkPolicy shop/db, ingress rule 0, tier default"]}}]}`), &wanted); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, wanted) {
		t.Errorf("%s", out)
	}
}

func squeeze(s string) string {
	var lines []string
	for line := range strings.Lines(s) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return strings.Join(lines, "\n")
}

func TestPreviewRefuses(t *testing.T) {
	both := map[string]string{"a.yaml": shop, "b.yaml": allowWeb}
	for _, c := range []struct {
		files map[string]string
		args  []string
		want  string
	}{
		{both, nil, "want -f FILE of what is applied, --delete of what goes, or both"},
		{both, []string{"-o", "xml", "-f", "x"}, "want text, json or yaml"},
		{both, []string{"-f", "/gone.yaml"}, "-f: open /gone.yaml: no such file"},
		{both, []string{"-f", "-"}, "-f -: there is nothing in it: want policies, tiers and network sets"},
		{both, []string{"-f", file(t, shop)}, "has objects of other kinds: want policies, tiers and network sets"},
		{both, []string{"-f", file(t, strings.Replace(allowWeb, "ingress:", "ingres:", 1))}, `unknown field "spec.ingres"`},
		{both, []string{"--delete", "Pod/shop/db"}, `--delete "Pod/shop/db": want KIND/[NAMESPACE/]NAME; kinds are NetworkPolicy, `},
		{both, []string{"--delete", "Tier/shop/db"}, `--delete "Tier/shop/db": want Tier/NAME: the kind has no namespaces`},
		{both, []string{"--delete", "NetworkPolicy/db"}, "--delete NetworkPolicy/db: there is no NetworkPolicy default/db in the folder"},
		{both, []string{"-f", file(t, "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: x}\nspec: {tier: gone}\n")}, `GlobalNetworkPolicy x: spec.tier "gone": want the name of a Tier that is there`},
		{map[string]string{"b.yaml": allowWeb}, []string{"-f", file(t, allowWeb)}, "there are no pods with an address in the folder"},
	} {
		_, err := run(t, c.files, append([]string{"preview"}, c.args...)...)
		var status interface{ ExitStatus() int }
		if err == nil || !strings.Contains(err.Error(), c.want) || errors.As(err, &status) {
			t.Errorf("%v: %v, want %q", c.args, err, c.want)
		}
	}
}
