package main

import (
	"maps"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// The guest gets every library of a program that this machine's loader would load, and its loader.
func TestToolHasTheLibrariesThatTheLoaderLoads(t *testing.T) {
	a, err := createArchive(filepath.Join(t.TempDir(), "archive"))
	if err != nil {
		t.Fatal(err)
	}
	if err := (guestFiles{a, "/", runtime.GOARCH}).tool("ip"); err != nil {
		t.Fatal(err)
	}
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for key := range maps.Keys(a.dirs) {
		if lib, ok := strings.CutPrefix(key, "library "); ok {
			got = append(got, filepath.Base(lib))
		}
	}
	out, err := exec.Command("ldd", "/bin/ip").Output()
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, m := range regexp.MustCompile(`(/\S+) \(0x`).FindAllStringSubmatch(string(out), -1) {
		want = append(want, filepath.Base(m[1]))
	}
	slices.Sort(got) // the loader is a library of libc too, at another path
	slices.Sort(want)
	if len(want) < 3 || !slices.Equal(slices.Compact(got), want) {
		t.Errorf("the guest has %v, the loader loads %v", got, want)
	}
	if err := (guestFiles{a, t.TempDir(), runtime.GOARCH}).tool("ip"); err == nil || !strings.Contains(err.Error(), "ip, which tests call, is missing") {
		t.Errorf("without the program: %v", err)
	}
}

// Each architecture that is not this machine's has its kernels in named suites: apt's own lists are this machine's.
func TestKernelsOfOtherArchitecturesHaveSuites(t *testing.T) {
	for arch, a := range architectures {
		for series, from := range a.kernels {
			if arch != "amd64" && from.suites == nil {
				t.Errorf("%s for %s has no suites", series, arch)
			}
		}
	}
	if _, err := fetchKernel(t.Context(), t.TempDir(), "arm64", "5.10"); err == nil || err.Error() != "--kernel 5.10: must be one of 6.12 for arm64" {
		t.Errorf("a kernel that arm64 has not: %v", err)
	}
}
