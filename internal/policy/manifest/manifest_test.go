package manifest_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	"terway.dev/terway/internal/policy/manifest"
)

func TestFolder(t *testing.T) {
	r, err := manifest.NewReader()
	if err != nil {
		t.Fatal(err)
	}
	r.Namespace = "shop"
	if err := r.Folder(fstest.MapFS{
		"a.yaml":        {Data: []byte("# nothing\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\n")},
		"deep/er/b.yml": {Data: []byte("apiVersion: v1\nkind: List\nitems:\n- apiVersion: projectcalico.org/v3\n  kind: NetworkPolicy\n  metadata: {name: b, namespace: bank}\n- apiVersion: apps/v1\n  kind: Deployment\n- apiVersion: projectcalico.org/v3\n  kind: GlobalNetworkPolicy\n  metadata: {name: g}\n")},
		"c.json":        {Data: []byte(`{"apiVersion": "v1", "kind": "ConfigMap"}`)},
		"d.txt":         {Data: []byte("}")},
	}); err != nil {
		t.Fatal(err)
	}
	o := r.Objects
	if got, want := fmt.Sprint(len(o.Pods), len(o.Namespaces), len(o.CalicoPolicies), len(o.GlobalNetworkPolicies), r.Skipped), "1 1 1 1 map[ConfigMap:1 Deployment:1]"; got != want {
		t.Errorf("read %s, want %s", got, want)
	}
	if o.Pods[0].Namespace != "shop" || o.CalicoPolicies[0].Namespace != "bank" || o.GlobalNetworkPolicies[0].Namespace != "" || o.Namespaces[0].Namespace != "" {
		t.Errorf("namespaces: %q, %q, %q, %q", o.Pods[0].Namespace, o.CalicoPolicies[0].Namespace, o.GlobalNetworkPolicies[0].Namespace, o.Namespaces[0].Namespace)
	}
	err = r.Folder(fstest.MapFS{
		"a.yaml": {Data: []byte("apiVersion: v1\nkind: Pod\nspec: {hostNetwrok: true}\n")},
		"b.yaml": {Data: []byte("a: [\n")},
		"c.yaml": {Data: []byte("apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: Pod}, {apiVersion: v1, kind: Node, spec: 3}]\n")},
	})
	for _, want := range []string{`a.yaml: document 1: strict decoding error: unknown field "spec.hostNetwrok"`, "b.yaml: document 1: ", "c.yaml: document 1: item 2: "} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// FuzzRead reads any file.
func FuzzRead(f *testing.F) {
	f.Add([]byte("apiVersion: v1\nkind: Pod\n---\n# x\n"))
	f.Add([]byte(`{"kind": "List", "apiVersion": "v1", "items": [{}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := manifest.NewReader()
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Read(text); err != nil && err.Error() == "" {
			t.Fatal("an error without text")
		}
	})
}
