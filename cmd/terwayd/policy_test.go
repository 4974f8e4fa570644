package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
)

// Switched off, nothing is kept of policies; switched on, the agent must know where to look for the hub.
func TestPolicySwitch(t *testing.T) {
	dir := t.TempDir()
	kept := filepath.Join(dir, stateFile)
	if err := os.WriteFile(kept, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	switched := func(f flags) (*policies, error) {
		f.policyDir = dir
		return newPolicies(&rest.Config{Host: "127.0.0.1:1"}, f, func(string, string) {}, func() {}, slog.New(slog.DiscardHandler))
	}
	if p, err := switched(flags{policyHub: "terway-policy", namespace: "kube-system"}); err != nil || p == nil {
		t.Errorf("switched on: %v, %v", p, err)
	}
	if _, err := os.Stat(kept); err != nil {
		t.Errorf("switched on: %v", err)
	}
	if _, err := switched(flags{policyHub: "terway-policy"}); err == nil || !strings.Contains(err.Error(), "--namespace") {
		t.Errorf("without a namespace: %v", err)
	}
	for range 2 { // the second time there is nothing to remove
		if p, err := switched(flags{}); err != nil || p != nil {
			t.Errorf("switched off: %v, %v", p, err)
		}
		if _, err := os.Stat(kept); !os.IsNotExist(err) {
			t.Errorf("switched off, and what was kept is there (%v)", err)
		}
	}
}
