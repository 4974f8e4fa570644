package lab

import (
	"os"
	"path/filepath"
	"testing"
)

// Whatever changes in a module's folder, in packages below it too, its programs are built anew.
func TestStamp(t *testing.T) {
	o := &Options{Source: t.TempDir()}
	module := target{name: "a program", dir: "module"}
	write := func(file, text string) {
		t.Helper()
		if err := writeFile(filepath.Join(o.Source, module.dir, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]string{}
	stamp := func(after string) {
		t.Helper()
		s, err := o.stamp(t.Context(), module)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := o.stamp(t.Context(), module); err != nil || again != s {
			t.Errorf("after %s: %s, and then %s, %v", after, s, again, err)
		}
		if other, known := seen[s]; known {
			t.Errorf("after %s the stamp is that after %s", after, other)
		}
		seen[s] = after
	}
	write("go.mod", "module example.com/a\n")
	stamp("the first file")
	write("package/main.go", "package main\n")
	stamp("a package")
	write("package/main.go", "package main // changed\n")
	stamp("a change in a package")
	if err := os.Rename(filepath.Join(o.Source, module.dir, "package"), filepath.Join(o.Source, module.dir, "other")); err != nil {
		t.Fatal(err)
	}
	stamp("another name of the package")
}
