package lab

import (
	"io"
	"os"
	"strings"
	"testing"

	"terway.dev/terway/internal/testutil"
)

// What cannot be run is refused before a lab is started or taken down.
func TestConformanceRefuses(t *testing.T) {
	testutil.RequireRoot(t)
	for args, want := range map[string]string{
		"--suites netpool":                        `--suites "netpool": no such suite; there are netpol, cluster-network-policy, sig-network, loadbalancer-clb, loadbalancer-nlb`,
		"--datapath eBPF":                         `--datapath "eBPF": must be `,
		"--datapath route,route":                  "route is named twice",
		"--datapath all":                          "--datapath all: name the kinds",
		"--running --datapath route":              "--datapath with --running",
		"--keep --selection":                      "--keep with --selection",
		"--selection --suites sig-network":        "none of these suites has a selection",
		"--procs 0":                               "--procs 0: must be 1 to 16",
		"--nodes 1":                               "--nodes 1: must be 2 or more",
		"-o xml":                                  "want text, json or yaml",
		"--running --dir /nonexistent/terway-lab": "/nonexistent/terway-lab",
	} {
		dir := t.TempDir()
		cmd := conformanceCommand(&dir)
		cmd.Flags().StringVar(&dir, "dir", dir, "")
		// Without a source tree what is not refused ends before it takes down a lab.
		cmd.SetArgs(append(strings.Fields(args), "--logs", t.TempDir(), "--source", "/nonexistent"))
		cmd.SetOut(io.Discard)
		cmd.SetErr(io.Discard)
		cmd.SilenceUsage = true
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
		if left, err := os.ReadDir(dir); err == nil && len(left) > 0 {
			t.Errorf("%s: a lab was started in %s", args, dir)
		}
	}
}
