package lab

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// After any change in a module's directory or below, its programs are built again.
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

// With several builds each message has the number of builds; existing programs do not count.
func TestBuildsAreCounted(t *testing.T) {
	o := &Options{Source: t.TempDir(), Cache: t.TempDir()}
	module := func(name string) target {
		for file, text := range map[string]string{"go.mod": "module example.com/" + name + "\n", "main.go": "package main\n\nfunc main() {}\n"} {
			if err := writeFile(filepath.Join(o.Source, name, file), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return target{name: name, dir: name, packages: []string{"."}, out: "bin/" + name, made: []string{"bin/" + name}, stamped: true}
	}
	a, b, c := module("a"), module("b"), module("c")
	build := func(want []string, targets ...target) {
		t.Helper()
		var out bytes.Buffer
		if err := o.buildAll(t.Context(), targets, NewProgress(&out, time.Now)); err != nil {
			t.Fatal(err)
		}
		var said []string
		for line := range strings.Lines(out.String()) {
			if _, step, ok := strings.Cut(line, "  ok     "); ok {
				step, _, _ = strings.Cut(step, " (")
				said = append(said, step)
			}
		}
		if !slices.Equal(said, want) {
			t.Errorf("it printed %q, want %q", said, want)
		}
	}
	build([]string{"build a"}, a)
	build([]string{"build 1 of 2: b", "build 2 of 2: c"}, a, b, c)
	build(nil, a, b, c)
}
