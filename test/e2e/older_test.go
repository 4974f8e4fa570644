//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// beforeTags is the commit from which the check upgrade upgrades as long as no version has a tag.
const beforeTags = "c61150152b6d7acf6d491b0016ed9e3d74f9447a"

// olderVersion returns the flags of "terway-lab verify" that say from which version to upgrade. In CI a clone without one is a failure.
func olderVersion(t *testing.T, source string) []string {
	t.Helper()
	flags, err := olderFlags(source, beforeTags)
	switch {
	case err != nil && os.Getenv("CI") == "true":
		t.Fatal(err)
	case err != nil:
		t.Skip(err)
	}
	return flags
}

// olderFlags returns no flags if there is a tag before the last commit, which verify takes then, and else those for a commit. It is an error
// if the clone has neither, as a shallow one has.
func olderFlags(source, commit string) ([]string, error) {
	git := func(args ...string) error {
		return exec.Command("git", append([]string{"-c", "safe.directory=*", "-C", source}, args...)...).Run()
	}
	if git("describe", "--tags", "--abbrev=0", "HEAD^") == nil {
		return nil, nil
	}
	// The last commit itself would be an upgrade to the same version.
	if err := git("merge-base", "--is-ancestor", commit, "HEAD^"); err != nil {
		return nil, fmt.Errorf("%s has no tag before its last commit, and commit %s is not before it either (%w): git fetch --unshallow --tags gets both", source, commit, err)
	}
	return []string{"--from", commit}, nil
}

// The tag goes first; a clone without an older version is an error.
func TestOlderVersion(t *testing.T) {
	source, shallow := t.TempDir(), filepath.Join(t.TempDir(), "clone")
	git := func(args ...string) string {
		out, err := exec.Command("git", append([]string{"-c", "safe.directory=*", "-c", "user.name=a", "-c", "user.email=a@example.com", "-C", source}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("git %q: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	git("init", "-q")
	var commits []string
	for range 3 {
		git("commit", "-q", "--allow-empty", "-m", "x")
		commits = append(commits, git("rev-parse", "HEAD"))
	}
	git("clone", "-q", "--depth=1", "file://"+source, shallow)
	check := func(name, dir, commit string, want []string, wrong string) {
		t.Helper()
		flags, err := olderFlags(dir, commit)
		if !slices.Equal(flags, want) || (err == nil) != (wrong == "") || err != nil && !strings.Contains(err.Error(), wrong) {
			t.Errorf("%s: %q, %v, want %q, %q", name, flags, err, want, wrong)
		}
	}
	check("no tag", source, commits[0], []string{"--from", commits[0]}, "")
	check("shallow", shallow, commits[0], nil, "git fetch --unshallow --tags")
	check("the last commit", source, commits[2], nil, "not before it")
	check("no repository", t.TempDir(), commits[0], nil, "no tag before")
	git("tag", "v0.2.0")
	check("a tag of the last commit", source, commits[0], []string{"--from", commits[0]}, "")
	git("tag", "v0.1.0", commits[1])
	check("a tag", source, commits[0], nil, "")
}
