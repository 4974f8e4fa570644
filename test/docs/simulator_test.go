package docs

import (
	"bufio"
	"encoding/json"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSimulatorCommands runs the blocks "sh simulator" of each page in one shell and an empty folder, with the files of
// testdata/PAGE in it, and a simulated cloud.
func TestSimulatorCommands(t *testing.T) {
	ran := 0
	for _, p := range pages(t) {
		script := p.Script("simulator")
		if script == nil || p.Translated() { // compared with the English page
			continue
		}
		ran++
		t.Run(p.Path, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			fixtures(t, "testdata/"+strings.TrimSuffix(path.Base(p.Path), ".md"), dir)
			for _, shared := range []string{"deploy", "docs"} {
				from, err := filepath.Abs(filepath.Join(root, shared))
				if err == nil {
					err = os.Symlink(from, filepath.Join(dir, shared))
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			env := cloud(t)
			if out, err := shell(dir, env, script); err != nil {
				t.Errorf("%v\n%s", err, out)
			} else if len(out) == 0 {
				t.Error("the commands print nothing")
			}
		})
	}
	if ran < 5 {
		t.Errorf("only %d pages have commands for the simulator", ran)
	}
}

// shell runs a script whose first line is empty and returns its output. What the script leaves in the background is ended.
func shell(dir string, env, script []string) (string, error) {
	c := Bash("", script)
	c.Dir = dir
	c.Env = append([]string{"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + dir}, env...)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := os.CreateTemp(dir, ".output")
	if err != nil {
		return "", err
	}
	defer out.Close()
	c.Stdout, c.Stderr = out, out
	err = c.Run()
	// An error means that nothing is left.
	_ = unix.Kill(-c.Process.Pid, unix.SIGKILL)
	for left := error(nil); left == nil || left == unix.EINTR; {
		_, left = unix.Wait4(-c.Process.Pid, nil, 0, nil)
	}
	text, readErr := os.ReadFile(out.Name())
	if err == nil {
		err = readErr
	}
	return string(text), err
}

// TestShellSaysWhere: a failed command is an error with its line, in a pipe too, and what runs on in the background is ended.
func TestShellSaysWhere(t *testing.T) {
	dir := t.TempDir()
	out, err := shell(dir, nil, []string{"", "", "false | cat"})
	if err == nil || !strings.Contains(out, "line 3: ") {
		t.Errorf("%v, %q", err, out)
	}
	if out, err = shell(dir, nil, []string{"", "sleep 1000 &", "echo $!"}); err != nil {
		t.Fatalf("%v, %q", err, out)
	}
	if _, err := os.Stat("/proc/" + strings.TrimSpace(out)); err == nil {
		t.Error("the process in the background still runs")
	}
}

// cloud runs a simulated cloud until the test ends, and returns the environment of its users.
func cloud(t *testing.T) []string {
	t.Helper()
	c := exec.Command(filepath.Join(bin, "terway-lab"), "vpcsim", "serve", "--listen", "127.0.0.1:0", "--no-fabric", "--timing", "zero", "-o", "json")
	c.Stderr = io.Discard
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	})
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var started struct{ Endpoint, AccessKeyID, AccessKeySecret string }
	if err := json.Unmarshal(line, &started); err != nil || started.Endpoint == "" || started.AccessKeyID == "" {
		t.Fatalf("%v: %s", err, line)
	}
	return []string{
		"ECS_ENDPOINT=" + started.Endpoint, "VPC_ENDPOINT=" + started.Endpoint,
		"ALIBABA_CLOUD_ACCESS_KEY_ID=" + started.AccessKeyID, "ALIBABA_CLOUD_ACCESS_KEY_SECRET=" + started.AccessKeySecret,
	}
}

// fixtures copies a folder, if it exists, into another.
func fixtures(t *testing.T, from, to string) {
	t.Helper()
	if _, err := os.Stat(from); err != nil {
		return
	}
	if err := os.CopyFS(to, os.DirFS(from).(fs.ReadDirFS)); err != nil {
		t.Fatal(err)
	}
}
