package kernel

import "testing"

func TestVersion(t *testing.T) {
	for release, want := range map[string]string{
		"6.18.44":                  "6.18.44",
		"6.18.44-hosting-v1":       "6.18.44",
		"6.1.0-18-amd64":           "6.1.0",
		"5.10.134-16.3.al8.x86_64": "5.10.134",
		"6.19-rc2":                 "6.19",
		"6.6.87.2-microsoft-WSL2":  "6.6.87.2",
		"next-20260101":            "next-20260101",
	} {
		if got := version(release); got != want {
			t.Errorf("%s: %s, want %s", release, got, want)
		}
	}
	if v, err := Version(); err != nil || v == "" || v != version(v) {
		t.Errorf("of this kernel: %q, %v", v, err)
	}
}
