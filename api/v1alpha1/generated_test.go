package v1alpha1

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The generated files are committed: a change of the types without `go generate`
// would ship a schema that drops the new field.
func TestGeneratedFilesAreCurrent(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command("go", "run", "sigs.k8s.io/controller-tools/cmd/controller-gen",
		"object", "paths=.", "crd", "output:crd:dir="+dir, "output:object:dir="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("controller-gen: %v\n%s", err, out)
	}
	for _, committed := range []string{
		"../../deploy/chart/kinds/network.terway.dev_nodenetworks.yaml",
		"zz_generated.deepcopy.go",
	} {
		want, err := os.ReadFile(filepath.Join(dir, filepath.Base(committed)))
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(committed)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("%s is out of date: run `go generate ./api/v1alpha1`", committed)
		}
	}
}
