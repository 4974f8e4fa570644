package version

import (
	"runtime/debug"
	"testing"
)

func TestWhatTheLinkerSaysComesFirst(t *testing.T) {
	built := func(version string, settings ...debug.BuildSetting) *debug.BuildInfo {
		return &debug.BuildInfo{Main: debug.Module{Version: version}, Settings: settings}
	}
	revision := debug.BuildSetting{Key: "vcs.revision", Value: "abc"}
	for _, c := range []struct {
		name  string
		set   Info
		built *debug.BuildInfo
		want  Info
	}{
		{"set by the linker", Info{Version: "v1.2.3", Commit: "123"}, built("v0.9.0", revision), Info{Version: "v1.2.3", Commit: "123"}},
		{"go install of a release", Info{}, built("v0.9.0"), Info{Version: "v0.9.0"}},
		{"a clean checkout", Info{}, built("v0.0.0-20260101000000-abc", revision), Info{Commit: "abc"}},
		{"a changed checkout of a release", Info{}, built("v0.9.0+dirty", revision, debug.BuildSetting{Key: "vcs.modified", Value: "true"}), Info{Commit: "abc-dirty"}},
		{"without version control", Info{}, built("(devel)"), Info{}},
	} {
		if c.set.complete(c.built); c.set != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, c.set, c.want)
		}
	}
}

func TestAProgramAlwaysHasAVersion(t *testing.T) {
	if i := Get(); i.Version == "" || i.Go == "" || i.Platform == "" {
		t.Errorf("%+v has empty fields", i)
	}
}
