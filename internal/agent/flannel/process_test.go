package flannel_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"terway.dev/terway/internal/agent/flannel"
)

func TestEndFindsByName(t *testing.T) {
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	// Known to this test only, and no longer than a name in /proc may be.
	name := "fl" + filepath.Base(t.TempDir()) + fmt.Sprint(os.Getpid())
	program := filepath.Join(t.TempDir(), name)
	if err := os.Symlink(sleep, program); err != nil {
		t.Fatal(err)
	}
	if err := flannel.End("/proc", name); err == nil || !strings.Contains(err.Error(), name) {
		t.Errorf("nobody of that name: %v", err)
	}
	cmd := exec.Command(program, "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := flannel.End("/proc", name); err != nil {
		_ = cmd.Process.Kill()
		t.Error(err)
	}
	_ = cmd.Wait()
	if s := cmd.ProcessState.Sys().(syscall.WaitStatus); s.Signal() != syscall.SIGTERM {
		t.Errorf("ended by %v", cmd.ProcessState)
	}
}
