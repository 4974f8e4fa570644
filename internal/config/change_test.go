package config

import (
	"strings"
	"testing"
)

func parsed(t *testing.T, text string) *Config {
	t.Helper()
	c, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestChange(t *testing.T) {
	old := parsed(t, good)
	next := parsed(t, strings.Replace(good, "[vsw-1, vsw-2]", "[vsw-1, vsw-3]", 1)+"min_pool_size: 5\nsecurity_groups: [sg-1]")
	var got []string
	for _, d := range Diff(old, next) {
		got = append(got, d.String())
	}
	want := []string{
		`vswitches: {"cn-hangzhou-i":["vsw-1","vsw-2"]} → {"cn-hangzhou-i":["vsw-1","vsw-3"]}`,
		`security_groups: null → ["sg-1"]`,
		`min_pool_size: 3 → 5`,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%q, want %q", got, want)
	}
	if err := old.CanBecome(next); err != nil {
		t.Errorf("refused: %v", err)
	}
	// The error names each key that cannot change, and how to go back.
	err := old.CanBecome(parsed(t, strings.NewReplacer("c1", "c2", "cn-hangzhou\n", "cn-beijing\n").Replace(flannel)))
	for _, want := range []string{
		`cluster_id cannot change from "c1" to "c2"`, `Write "c1" again`, `region cannot change`, `network cannot change`, "pod_cidr cannot change from null",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

func TestStoreTells(t *testing.T) {
	a, b := parsed(t, good), parsed(t, good+"min_pool_size: 1")
	s := NewStore(a)
	var seen []*Config
	s.OnChange(func() { seen = append(seen, s.Get()) })
	if s.Get() != a {
		t.Error("not the first configuration")
	}
	s.Set(b)
	if len(seen) != 1 || seen[0] != b {
		t.Errorf("OnChange was called for %v", seen)
	}
}

// All three forms of a configuration are read as the same.
func TestForms(t *testing.T) {
	want := parsed(t, good)
	indented := strings.ReplaceAll(good, "\n", "\n  ")
	for form, text := range map[string]string{
		"alone":        good,
		"chart values": "image: {tag: x}\neniConfig:" + indented,
		"ConfigMap":    "kind: ConfigMap\ndata:\n  eni-config.yaml: |" + strings.ReplaceAll(indented, "\n", "\n  "),
	} {
		c, err := FromFile([]byte(text))
		if err != nil {
			t.Errorf("%s: %v\n%s", form, err, text)
			continue
		}
		if d := Diff(want, c); len(d) > 0 {
			t.Errorf("%s: %v", form, d)
		}
	}
	for text, want := range map[string]string{
		"data: {eni_conf: '{}'}":                    "terwayctl config convert",
		"data: {other: x}":                          "no key eni-config.yaml",
		"eniConfig: {region: a, region: b}":         "already set",
		"eniConfig: {cluster_id: c, regio: a}":      `did you mean "region"`,
		"cluster_id: c\nregion: r\nvswitches: {}\n": "vswitches is empty",
		"eniConfig: [":                              "not YAML",
		"eniConfig:":                                `cluster_id ""`,
		"eniConfig: 5":                              "eniConfig 5: want keys",
	} {
		if _, err := FromFile([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want one with %q", text, err, want)
		}
	}
}
