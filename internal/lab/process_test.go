package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// testOptions returns the options of a lab in a directory of the test.
func testOptions(t *testing.T) *Options {
	t.Helper()
	o := &Options{Dir: filepath.Join(t.TempDir(), "lab"), Cache: t.TempDir()}
	if err := o.claimDir(); err != nil {
		t.Fatal(err)
	}
	return o
}

func startSleep(t *testing.T, o *Options) Process {
	t.Helper()
	p, err := o.start(command{name: "sleeper", args: []string{"sleep", "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.end(context.Background(), syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	})
	return p
}

func TestProcessIsRecordedAndEnds(t *testing.T) {
	o := testOptions(t)
	p := startSleep(t, o)
	recorded, err := o.processes()
	if err != nil || !slices.Contains(recorded, p) {
		t.Fatalf("recorded %v (%v), want %v among them", recorded, err, p)
	}
	if !p.Alive() {
		t.Fatal("the process is not alive after its start")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := p.end(ctx, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if p.Alive() {
		t.Error("the process is alive after its end")
	}
}

// A reused pid belongs to another process and must not be signalled.
func TestReusedPidIsLeftAlone(t *testing.T) {
	o := testOptions(t)
	p := startSleep(t, o)
	other := p
	other.Start--
	if err := other.end(t.Context(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if !p.Alive() {
		t.Error("a process with another start time was killed")
	}
}

// A lock that the caller of "terway-lab up" holds (flock(1)) must not be kept by the lab.
func TestInheritedDescriptorsEndHere(t *testing.T) {
	o := testOptions(t)
	lock := filepath.Join(t.TempDir(), "lock")
	fd, err := unix.Open(lock, unix.O_CREAT|unix.O_RDWR, 0o600) // without O_CLOEXEC, as from a shell
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	p := startSleep(t, o)
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.PID))
	if err != nil || len(fds) == 0 {
		t.Fatalf("descriptors of the process: %v, %v", fds, err)
	}
	for _, f := range fds {
		if to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", p.PID, f.Name())); to == lock || err != nil {
			t.Errorf("descriptor %s of the process is %s (%v)", f.Name(), to, err)
		}
	}
}

func TestStraysFindMarkedProcessesAlone(t *testing.T) {
	o := testOptions(t)
	p := startSleep(t, o)
	found, err := Strays()
	if err != nil {
		t.Fatal(err)
	}
	pids := map[int]bool{}
	for _, s := range found {
		pids[s.PID] = true
	}
	if !pids[p.PID] {
		t.Error("a process with the marker was not found")
	}
	if pids[os.Getpid()] || pids[os.Getppid()] {
		t.Error("this process or its parent was taken for the lab's")
	}
}

func TestFoldersOfOthersAreKept(t *testing.T) {
	o := &Options{Dir: t.TempDir()}
	file := filepath.Join(o.Dir, "precious")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := o.claimDir(); err == nil || !strings.Contains(err.Error(), "--dir") {
		t.Errorf("claiming a folder with files: error %v, want one that names --dir", err)
	}
	if found, err := o.removeDir(); found || err != nil {
		t.Errorf("removing a folder without the lab's mark: found %t, %v", found, err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}

// A lab that was killed between making its directory and marking it does not stop the next from
// being started, and is removed when it is taken down.
func TestUnmarkedFolderIsTheLabs(t *testing.T) {
	for name, files := range map[string][]string{
		"empty": nil, "mark not renamed": {".new"}, "mark not written": {".part"},
	} {
		t.Run(name, func(t *testing.T) {
			o := &Options{Dir: t.TempDir()}
			for _, f := range files {
				if err := os.WriteFile(o.path("."+ownerFile+f), nil, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if found, err := o.removeDir(); !found || err != nil {
				t.Errorf("found %t, %v", found, err)
			}
			if _, err := os.Stat(o.Dir); !os.IsNotExist(err) {
				t.Errorf("the folder is there: %v", err)
			}
			if err := o.claimDir(); err != nil {
				t.Error(err)
			}
		})
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if found, err := (&Options{Dir: file}).removeDir(); found || err == nil {
		t.Errorf("--dir is a file: found %t, %v", found, err)
	}
}

// The names above are those of package atomicfile's temporary files.
func TestUnmarkedFolderHasAtomicfilesNames(t *testing.T) {
	o := testOptions(t)
	if err := os.Mkdir(o.path("."+ownerFile+".new"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(o.path("."+ownerFile+".new", "x"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := writeFile(o.path(ownerFile), nil, 0o644); err == nil {
		t.Error("the mark was written by way of another name")
	}
}

func TestClaimedFolderGoesWhole(t *testing.T) {
	o := testOptions(t)
	if err := writeFile(o.path("a", "b"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if found, err := o.removeDir(); !found || err != nil {
		t.Errorf("removing the lab's folder: found %t, %v", found, err)
	}
	if _, err := os.Stat(o.Dir); !os.IsNotExist(err) {
		t.Errorf("the folder is still there: %v", err)
	}
}

// The user's PATH has this program, even if its file was deleted since it was started, the
// operator's tool, and clients of the cluster.
func TestUserPrograms(t *testing.T) {
	o := testOptions(t)
	if err := o.installPrograms(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"terwayctl": "terway/terwayctl", "kubectl": "bin/kubectl", "helm": "bin/helm"} {
		if to, err := os.Readlink(o.path("bin", name)); to != o.cached(want) {
			t.Errorf("%s: link to %q, %v, want %q of the cache", name, to, err, want)
		}
	}
	if made := o.targets()[len(o.targets())-1].made; !slices.Contains(made, "terway/terwayctl") || o.Terwayctl() != o.path("bin", "terwayctl") {
		t.Errorf("the build makes %q; %s", made, o.Terwayctl())
	}
	self, err := os.Stat("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	copied, err := os.Stat(o.self())
	if err != nil || copied.Size() != self.Size() || copied.Mode()&0o111 == 0 {
		t.Errorf("this program's copy: %v, %v", copied, err)
	}
}
