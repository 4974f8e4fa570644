package main

import (
	"bytes"
	"strings"
	"testing"
)

// TestMoved: who types what the lab and the simulator were called before reads what to type.
func TestMoved(t *testing.T) {
	for typed, want := range map[string]string{
		"lab":                                 `"terway-lab"`,
		"lab --help":                          `"terway-lab --help"`,
		"lab verify --only dns -o json":       `"terway-lab verify --only dns -o json"`,
		"vpcsim serve --no-fabric --strict=0": `"terway-lab vpcsim serve --no-fabric --strict=0"`,
	} {
		root := newCommand()
		root.SetArgs(strings.Fields(typed))
		if err := root.Execute(); err == nil || !strings.Contains(err.Error(), "run "+want) {
			t.Errorf("terwayctl %s: %v, want %s in it", typed, err, want)
		}
	}
	var help bytes.Buffer
	root := newCommand()
	root.SetArgs([]string{"--help"})
	root.SetOut(&help)
	if err := root.Execute(); err != nil || strings.Contains(help.String(), "vpcsim") || !strings.Contains(help.String(), "instance-types") {
		t.Errorf("%v; the help has:\n%s", err, help.String())
	}
}
