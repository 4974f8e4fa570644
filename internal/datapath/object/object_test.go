package object

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netns"

	"terway.dev/terway/internal/sysctl"
)

// step is an object that records its calls.
type step struct {
	name string
	fail error
	log  *[]string
}

func (s step) Name() string               { return s.name }
func (s step) Have(*Site) (string, error) { return "", nil }
func (s step) Put(*Site) error            { *s.log = append(*s.log, "put "+s.name); return s.fail }
func (s step) Del(*Site) error            { *s.log = append(*s.log, "del "+s.name); return s.fail }
func (s step) failing(with string) Object { s.fail = errors.New(with); return s }

// A list is put in order up to the first that fails, and is deleted in reverse whatever fails.
func TestOrder(t *testing.T) {
	var log []string
	a, b, c := step{name: "a", log: &log}, step{name: "b", log: &log}, step{name: "c", log: &log}
	if done, err := Put(&Site{}, []Object{a, b, c}); done != 3 || err != nil {
		t.Errorf("%d were put, %v", done, err)
	}
	done, err := Put(&Site{}, []Object{a, b.failing("no"), c})
	if done != 1 || err == nil || err.Error() != "b: no" {
		t.Errorf("%d were put, %v; want the one before b, and b's error with its name", done, err)
	}
	if errs := Del(&Site{}, []Object{a, b.failing("no"), c}); fmt.Sprint(errs) != "[b: no]" {
		t.Errorf("deleted with %v", errs)
	}
	if want := strings.Fields("a b c a b"); !slices.Equal(log[:5], prefixed("put ", want)) || !slices.Equal(log[5:], prefixed("del ", []string{"c", "b", "a"})) {
		t.Errorf("in the order %q", log)
	}
}

func prefixed(prefix string, list []string) (out []string) {
	for _, s := range list {
		out = append(out, prefix+s)
	}
	return out
}

// Consecutive sysctls are all written, whichever of them fails, and count together.
func TestSysctls(t *testing.T) {
	s := &Site{ProcSys: t.TempDir(), NodeNS: netns.None()}
	file := func(name string) string { return filepath.Join(s.ProcSys, "net", name) }
	if err := os.MkdirAll(file("refused"), 0o755); err != nil { // cannot be written
		t.Fatal(err)
	}
	for _, name := range []string{"first", "last"} {
		if err := os.WriteFile(file(name), []byte("0\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	of := func(path string) Object { return Sysctl{Setting: sysctl.Setting{Path: path, Value: "1"}} }
	list := []Object{of("first"), of("not-there"), of("last")}
	view := &View{}
	s.View = view
	have := func(o Object) string {
		t.Helper()
		if err := view.ReadSysctls(s.ProcSys, s.NodeNS, list); err != nil {
			t.Fatal(err)
		}
		problem, err := o.Have(s)
		if err != nil {
			t.Error(err)
		}
		return problem
	}
	if got := have(list[0]); got != "sysctl net/first is not 1" {
		t.Errorf("before: %q", got)
	}
	if got := have(list[1]); got != "" {
		t.Errorf("a setting that the kernel has not: %q", got)
	}
	if done, err := Put(s, list); done != 3 || err != nil {
		t.Errorf("%d were put, %v", done, err)
	}
	for _, o := range list {
		if got := have(o); got != "" {
			t.Errorf("after: %q", got)
		}
	}
	if err := os.WriteFile(file("last"), []byte("0"), 0o644); err != nil {
		t.Fatal(err)
	}
	if done, err := Put(s, []Object{of("refused"), of("last")}); done != 0 || err == nil || !strings.Contains(err.Error(), "net/refused") {
		t.Errorf("%d were put, %v", done, err)
	}
	if got := have(list[2]); got != "" {
		t.Errorf("one that fails kept another: %q", got)
	}
	if done, err := Put(s, []Object{of("last"), of("refused")}); done != 0 || err == nil || !strings.Contains(err.Error(), "set sysctl net/refused to 1") || strings.Contains(err.Error(), "net/last") {
		t.Errorf("%d were put, %v; want an error that names the one that was refused alone", done, err)
	}
}
