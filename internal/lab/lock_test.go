package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A "terway-lab up" for tests: it takes the lock, starts a child that it ends when it is asked
// to end, and makes files in the lab's directory until then.
const upEnv = "TERWAY_TEST_LAB_UP"

func TestMain(m *testing.M) {
	dir, ok := os.LookupEnv(upEnv)
	if !ok {
		os.Exit(m.Run())
	}
	o := &Options{Dir: filepath.Join(dir, "lab"), Cache: filepath.Join(dir, "cache")}
	var life *os.File
	var unlock func()
	var err error
	switch as := os.Getenv(upEnv + "_AS"); as {
	case processUp:
		life, unlock, err = o.lockUp(testLock(dir))
	case processDown:
		_, unlock, err = takeOver(context.Background(), testLock(dir), o.Dir)
	default:
		unlock, err = o.lockCache(as)
	}
	if err != nil {
		panic(err)
	}
	defer unlock()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if os.Getenv(upEnv+"_DEAF") != "" {
		ctx = context.Background()
	}
	if err := o.claimDir(); err != nil {
		panic(err)
	}
	if os.Getenv(upEnv+"_WHOLE") != "" {
		// The lab stands: one of its processes keeps its life lock.
		p, err := o.start(command{name: "sleeper", args: []string{"sleep", "1000"}, files: []*os.File{life}})
		if err == nil {
			err = writeHolder(life, holder{p, o.Dir})
		}
		if err == nil {
			_, err = fmt.Println("up")
		}
		if err != nil {
			panic(err)
		}
		return
	}
	child := exec.CommandContext(ctx, "sleep", "1000")
	if err := child.Start(); err != nil {
		panic(err)
	}
	for i := 0; ctx.Err() == nil; i++ {
		if err := writeFile(o.path("procs", "some.json"), []byte(`{}`), 0o644); err != nil {
			panic(err)
		}
		if i == 0 {
			if _, err := os.Stdout.WriteString("up\n"); err != nil {
				panic(err)
			}
		}
		time.Sleep(time.Millisecond)
	}
	child.Wait() // it was killed
}

// testLock returns a test's machine lock.
func testLock(dir string) string { return filepath.Join(dir, "machine") }

// startUp starts a process that holds the lock of o, as terway-lab up, terway-lab down or
// build, and returns the path of the machine's lock.
func startUp(t *testing.T, as string, more ...string) (o *Options, machine string, cmd *exec.Cmd) {
	t.Helper()
	dir := t.TempDir()
	cmd = exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), upEnv+"="+dir, upEnv+"_AS="+as), more...)
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			cmd.Process.Kill() // it may have ended
			cmd.Wait()         // it was killed
		}
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "up\n" {
		t.Fatalf("the process printed %q (%v)", line, err)
	}
	go io.Copy(io.Discard, out) // it prints nothing more
	return &Options{Dir: filepath.Join(dir, "lab"), Cache: filepath.Join(dir, "cache")}, testLock(dir), cmd
}

// takeOverSoon is takeOver with a time limit.
func takeOverSoon(t *testing.T, machine string) (bool, func(), error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return takeOver(ctx, machine, "")
}

// TestDownEndsUp: a running "terway-lab up" ends, with its child, and cannot make the directory
// again afterwards; one that ignores the signal is killed.
func TestDownEndsUp(t *testing.T) {
	for name, more := range map[string][]string{"hears": nil, "deaf": {upEnv + "_DEAF=1"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, machine, up := startUp(t, processUp, more...)
			done := make(chan error, 1)
			go func() { done <- up.Wait() }()
			ended, unlock, err := takeOverSoon(t, machine)
			if err != nil || !ended {
				t.Fatalf("ended %t, %v", ended, err)
			}
			defer unlock()
			err = <-done
			killed := up.ProcessState.Sys().(syscall.WaitStatus).Signaled()
			if killed != (name == "deaf") {
				t.Errorf("it ended with %v", err)
			}
			if found, err := o.removeDir(); !found || err != nil {
				t.Errorf("removing the folder: %t, %v", found, err)
			}
			if _, err := os.Stat(o.Dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the folder is there: %v", err)
			}
			// No lab can be started while one is taken down.
			if _, _, err := o.lockUp(machine); !errors.Is(err, ErrRunning) || !errors.Is(err, unix.EWOULDBLOCK) || !strings.Contains(err.Error(), processDown) {
				t.Errorf("a second lock: %v", err)
			}
		})
	}
}

// TestOneLabOnTheMachine: two labs, even with their own directories and caches, would end each
// other's processes. The second is refused, and holds no lock afterwards.
func TestOneLabOnTheMachine(t *testing.T) {
	first, machine, up := startUp(t, processUp)
	other := &Options{Dir: filepath.Join(t.TempDir(), "lab"), Cache: t.TempDir()}
	refused(t, other, machine, processUp, fmt.Sprint(up.Process.Pid), first.Dir)
	unlock, err := other.lockCache(processBuild)
	if err != nil {
		t.Fatalf("the refused one still holds its cache: %v", err)
	}
	unlock()
}

// TestNoLabBesideARunningOne: "terway-lab up" has ended and its lab runs: another lab, or the same again, is refused, "terway-lab down"
// is not. The lock goes with the process that keeps it, also when that is killed.
func TestNoLabBesideARunningOne(t *testing.T) {
	o, machine, up := startUp(t, processUp, upEnv+"_WHOLE=1")
	if err := up.Wait(); err != nil {
		t.Fatal(err)
	}
	p, err := o.process("sleeper")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.end(context.Background(), syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	})
	other := &Options{Dir: filepath.Join(t.TempDir(), "lab"), Cache: t.TempDir()}
	for _, next := range []*Options{other, o} {
		refused(t, next, machine, "sleeper", fmt.Sprint(p.PID), o.Dir)
	}
	ended, unlock, err := takeOverSoon(t, machine)
	if ended || err != nil {
		t.Fatalf("terway-lab down: ended %t, %v", ended, err)
	}
	unlock()
	if err := p.end(t.Context(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := free(machine); err != nil {
		t.Errorf("after the lab's end: %v", err)
	}
	_, unlock, err = other.lockUp(machine)
	if err != nil {
		t.Fatalf("after the lab's end: %v", err)
	}
	unlock()
}

// refused expects that a lab cannot be started, and an error that says these things.
func refused(t *testing.T, o *Options, machine string, says ...string) {
	t.Helper()
	_, _, err := o.lockUp(machine)
	for _, err := range []error{err, free(machine)} {
		if !errors.Is(err, ErrRunning) {
			t.Errorf("a lab in %s: %v, want ErrRunning", o.Dir, err)
			continue
		}
		for _, s := range says {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("a lab in %s: %v, want an error that names %s", o.Dir, err, s)
			}
		}
	}
}

// TestOneVerify: two runs of the checks at once would remove each other's namespaces.
func TestOneVerify(t *testing.T) {
	s := &State{Options: Options{Dir: t.TempDir()}}
	unlock, err := s.LockVerify()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.LockVerify(); !errors.Is(err, ErrRunning) || !strings.Contains(err.Error(), processVerify) {
		t.Errorf("a second run: %v, want an error that names the first", err)
	}
	unlock()
	if unlock, err = s.LockVerify(); err != nil {
		t.Fatalf("after the first one: %v", err)
	}
	unlock()
}

// TestDownWaitsForDown: two processes take the lab down one after the other.
func TestDownWaitsForDown(t *testing.T) {
	_, machine, other := startUp(t, processDown)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if ended, _, err := takeOver(ctx, machine, ""); ended || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("beside another: ended %t, %v", ended, err)
	}
	if err := other.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := other.Wait(); err != nil {
		t.Fatal(err)
	}
	ended, unlock, err := takeOverSoon(t, machine)
	if ended || err != nil {
		t.Fatalf("afterwards: ended %t, %v", ended, err)
	}
	unlock()
}

// TestDownLeavesBuildAlone: a build for a test is not ended.
func TestDownLeavesBuildAlone(t *testing.T) {
	_, machine, other := startUp(t, processBuild)
	ended, unlock, err := takeOverSoon(t, machine)
	if ended || err != nil {
		t.Fatalf("ended %t, %v", ended, err)
	}
	unlock()
	if other.ProcessState != nil || other.Process.Signal(syscall.Signal(0)) != nil {
		t.Error("the builder was ended")
	}
}
