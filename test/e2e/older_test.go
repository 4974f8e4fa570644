//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// beforeTags is the commit from which the check upgrade upgrades as long as no version has a tag.
const beforeTags = "c61150152b6d7acf6d491b0016ed9e3d74f9447a"

// olderVersion returns the flags of "terway-lab verify" that say from which version to upgrade.
func olderVersion(t *testing.T, source string) []string {
	t.Helper()
	flags, err := olderFlags(source, beforeTags, os.Getenv("CI") == "true")
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(flags, "HEAD") {
		t.Logf("WARNING: %s is a shallow clone (in CI git fetch --unshallow was tried): upgrade and rollback are from this version's chart and image to the same under another name, and say nothing of an older one", source)
	}
	return flags
}

// olderFlags returns no flags if there is a tag before the last commit, which verify takes then, and else those for a commit. With
// fetch a shallow clone gets the commits that it lacks from its origin; one that stays shallow upgrades from HEAD. It is an error if
// a whole clone has neither.
func olderFlags(source, commit string, fetch bool) ([]string, error) {
	git := func(args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		out, err := exec.CommandContext(ctx, "git", append([]string{"-c", "safe.directory=*", "-C", source}, args...)...).CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	shallow := func() bool {
		answer, _ := git("rev-parse", "--is-shallow-repository")
		return answer == "true"
	}
	if shallow() && fetch {
		_, _ = git("fetch", "--quiet", "--unshallow", "--tags") // whether it brought anything is seen below
	}
	if shallow() {
		return []string{"--from", "HEAD"}, nil
	}
	if _, err := git("describe", "--tags", "--abbrev=0", "HEAD^"); err == nil {
		return nil, nil
	}
	// The last commit itself would be an upgrade to the same version.
	if out, err := git("merge-base", "--is-ancestor", commit, "HEAD^"); err != nil {
		return nil, fmt.Errorf("%s has no tag before its last commit, and commit %s is not before it either (%w: %s)", source, commit, err, out)
	}
	return []string{"--from", commit}, nil
}

// The tag goes first; a clone without an older version is an error, unless it is shallow and cannot get one.
func TestOlderVersion(t *testing.T) {
	source, shallow, alone := t.TempDir(), filepath.Join(t.TempDir(), "clone"), filepath.Join(t.TempDir(), "clone")
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
	for _, dir := range []string{shallow, alone} {
		git("clone", "-q", "--depth=1", "file://"+source, dir)
	}
	git("-C", alone, "remote", "remove", "origin")
	check := func(name, dir, commit string, fetch bool, want []string, wrong string) {
		t.Helper()
		flags, err := olderFlags(dir, commit, fetch)
		if !slices.Equal(flags, want) || (err == nil) != (wrong == "") || err != nil && !strings.Contains(err.Error(), wrong) {
			t.Errorf("%s: %q, %v, want %q, %q", name, flags, err, want, wrong)
		}
	}
	check("no tag", source, commits[0], true, []string{"--from", commits[0]}, "")
	check("shallow, and its origin is gone", alone, commits[0], true, []string{"--from", "HEAD"}, "")
	check("shallow, of a user", shallow, commits[0], false, []string{"--from", "HEAD"}, "")
	check("shallow", shallow, commits[0], true, []string{"--from", commits[0]}, "")
	check("the last commit", source, commits[2], true, nil, "not before it")
	check("no repository", t.TempDir(), commits[0], true, nil, "no tag before")
	git("tag", "v0.2.0")
	check("a tag of the last commit", source, commits[0], true, []string{"--from", commits[0]}, "")
	git("tag", "v0.1.0", commits[1])
	check("a tag", source, commits[0], true, nil, "")
}
