package main

import (
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	"terway.dev/terway/internal/agent/hostconf"
)

// Turned off, the agent takes back what it wrote when it was on, and nothing else.
func TestDropInsTurnedOff(t *testing.T) {
	root := t.TempDir()
	theirs := filepath.Join(root, "etc/NetworkManager/conf.d/10-mine.conf")
	for _, dir := range []string{filepath.Dir(theirs), filepath.Join(root, "etc/systemd/network")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(theirs, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	written, err := hostOf(root).Install(hostconf.Device{Name: "eth0", MAC: net.HardwareAddr{0, 0x16, 0x3e, 0, 0, 1}})
	if err != nil || len(written) != 4 {
		t.Fatalf("wrote %v, %v", written, err)
	}
	for range 2 { // nothing is left to remove the second time
		if says := neighbours(root, false, slog.New(slog.DiscardHandler)); says == nil {
			t.Error("turned off, nobody says that a manager has an ENI")
		}
		for _, path := range written {
			if _, err := os.Stat(filepath.Join(root, path)); !os.IsNotExist(err) {
				t.Errorf("%s is left (%v)", path, err)
			}
		}
	}
	if _, err := os.Stat(theirs); err != nil {
		t.Error(err)
	}
}
