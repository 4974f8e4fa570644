// Package version says of which release a program is. It owns the names under which the linker sets it, and imports
// nothing that would make the CNI plugin larger.
package version

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
)

// Set by the linker: -X terway.dev/terway/internal/version.version=v1.2.3.
var version, commit string

// Unreleased is the version of a program that nobody gave one.
const Unreleased = "dev"

// Info says how a program was built.
type Info struct {
	// Version is the release, for example v1.2.3, or Unreleased.
	Version string `json:"version"`
	// Commit is the hash of the source's commit, with "-dirty" if the source differed from it; "" if unknown.
	Commit string `json:"commit"`
	// Go is the version of the compiler, for example go1.26.6.
	Go string `json:"go"`
	// Platform is the operating system and the architecture, for example linux/arm64.
	Platform string `json:"platform"`
}

// Get returns how this program was built. What the linker was not told comes from the build information that Go puts
// into a program.
func Get() Info {
	i := Info{Version: version, Commit: commit, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if b, ok := debug.ReadBuildInfo(); ok {
		i.complete(b)
	}
	if i.Version == "" {
		i.Version = Unreleased
	}
	return i
}

func (i *Info) complete(b *debug.BuildInfo) {
	// "go install …@v1.2.3" knows the release; in a checkout Go invents a version that is no release.
	if i.Version == "" && strings.HasPrefix(b.Main.Version, "v") && !strings.HasPrefix(b.Main.Version, "v0.0.0-") && !strings.Contains(b.Main.Version, "+dirty") {
		i.Version = b.Main.Version
	}
	if i.Commit != "" {
		return
	}
	dirty := false
	for _, s := range b.Settings {
		switch s.Key {
		case "vcs.revision":
			i.Commit = s.Value
		case "vcs.modified":
			dirty = s.Value == "true"
		}
	}
	if i.Commit != "" && dirty {
		i.Commit += "-dirty"
	}
}

// LinkerFlags are for "go build -ldflags": the program gets this version and commit.
func (i Info) LinkerFlags() string {
	const at = "terway.dev/terway/internal/version."
	return fmt.Sprintf("-X %sversion=%s -X %scommit=%s", at, i.Version, at, i.Commit)
}

// String is one line for people.
func (i Info) String() string {
	s := i.Version
	if i.Commit != "" {
		s += " (" + i.Commit + ")"
	}
	return s + ", " + i.Go + " " + i.Platform
}
