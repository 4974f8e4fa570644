package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Purposes of a lock: a command that starts or takes down the lab, or tries it, or a program that builds.
// The lock file has the purpose and the process.
const (
	processUp     = "terway-lab up"
	processDown   = "terway-lab down"
	processVerify = "terway-lab verify"
	processBuild  = "build"
)

// ErrRunning says that another program is starting the lab, taking it down, or running its checks, or that a lab runs.
var ErrRunning = errors.New("another program works on the lab")

// machineLock is held while a lab is started or taken down: a machine has one lab, whichever
// directory and cache it uses. It is not in the lab's directory, because it must outlive that.
const machineLock = "/run/terway-lab.lock"

// lifeLock is the lock that the lab started under a machine's lock holds for as long as it lives: "terway-lab up" takes it, and the
// simulated cloud inherits it. The kernel drops it with the last of the two, however they end.
func lifeLock(machine string) string { return machine + ".life" }

// lockUp takes the locks for "terway-lab up": the cache, in which it builds, the machine, and the life of the lab, which it returns: other
// processes keep that by inheriting it.
func (o *Options) lockUp(machine string) (life *os.File, unlock func(), err error) {
	freeCache, err := o.lockCache(processUp)
	if err != nil {
		return nil, nil, err
	}
	freeMachine, err := lockFile(machine, processUp, o.Dir)
	if err != nil {
		freeCache()
		return nil, nil, err
	}
	if life, err = openLock(lifeLock(machine), unix.LOCK_EX); err != nil {
		freeMachine()
		freeCache()
		return nil, nil, err
	}
	return life, func() { life.Close(); freeMachine(); freeCache() }, nil
}

// Free returns an error, which wraps ErrRunning, if a lab runs on this machine, is started or is taken down.
func Free() error { return free(machineLock) }

func free(machine string) error {
	for _, path := range []string{machine, lifeLock(machine)} {
		f, err := openLock(path, unix.LOCK_SH)
		if err != nil {
			return err
		}
		f.Close()
	}
	return nil
}

// LockVerify excludes other runs of the checks, each of which removes at its start what an earlier one has left.
func (s *State) LockVerify() (unlock func(), err error) {
	return lockFile(s.Options.path("verify.lock"), processVerify, "")
}

// lockCache excludes other builds in the cache.
func (o *Options) lockCache(what string) (unlock func(), err error) {
	if err := os.MkdirAll(o.Cache, 0o755); err != nil {
		return nil, fmt.Errorf("make the build cache: %w", err)
	}
	return lockFile(o.cached("lock"), what, "")
}

// holder is the content of a lock file: the process that holds the lock, and the lab's folder if it works on one.
type holder struct {
	Process
	Dir string `json:"dir,omitempty"`
}

// lockFile locks a file for this process, which it names in it.
func lockFile(path, what, dir string) (unlock func(), err error) {
	f, err := openLock(path, unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	start, err := startTime(os.Getpid())
	if err == nil {
		err = writeHolder(f, holder{Process{Name: what, PID: os.Getpid(), Start: start}, dir})
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("record this process in %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}

// openLock opens and locks a file. If another process has the lock, the error wraps ErrRunning and names that process and its lab.
func openLock(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err != nil {
		defer f.Close()
		who := "a process that has not said who it is"
		if h, err := readHolder(f); err == nil && h.Name != "" {
			who = fmt.Sprintf("%q (pid %d)", h.Name, h.PID)
			if h.Dir != "" {
				who += fmt.Sprintf(" of the lab in %s, which \"terway-lab down --dir %s\" takes down,", h.Dir, h.Dir)
			}
		}
		return nil, fmt.Errorf("%w: %s holds %s: %w", ErrRunning, who, path, err)
	}
	return f, nil
}

// writeHolder replaces the content of the lock file; an earlier holder may have been killed.
func writeHolder(f *os.File, h holder) error {
	b, err := json.Marshal(h)
	if err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = f.WriteAt(b, 0)
	return err
}

func readHolder(f *os.File) (holder, error) {
	b, err := io.ReadAll(io.NewSectionReader(f, 0, 4096))
	if err != nil {
		return holder{}, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	var h holder
	if err := json.Unmarshal(b, &h); err != nil {
		return holder{}, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	return h, nil
}

// waitCache is lockCache, but it waits.
func (o *Options) waitCache(ctx context.Context, what string) (unlock func(), err error) {
	err = Poll(ctx, time.Second, func() (bool, error) {
		unlock, err = o.lockCache(what)
		if errors.Is(err, unix.EWOULDBLOCK) {
			return false, nil
		}
		return err == nil, err
	})
	return unlock, err
}

// takeOver gets the machine's lock for taking the lab down. It ends a running "terway-lab up",
// and waits for another "terway-lab down". It does not end builds.
func takeOver(ctx context.Context, machine, dir string) (ended bool, unlock func(), err error) {
	err = Poll(ctx, 50*time.Millisecond, func() (bool, error) {
		var err error
		if unlock, err = lockFile(machine, processDown, dir); err == nil || !errors.Is(err, unix.EWOULDBLOCK) {
			return err == nil, err
		}
		f, err := os.Open(machine)
		if err != nil {
			return false, fmt.Errorf("look who holds the lock: %w", err)
		}
		defer f.Close()
		h, err := readHolder(f)
		if err != nil || !h.Alive() {
			return false, nil // the holder has not written yet, or has just ended
		}
		if h.Name == processUp {
			ended = true
			return false, h.endGently(ctx)
		}
		return false, nil
	})
	return ended, unlock, err
}

// endGently lets a process end its own children before it is killed.
func (p Process) endGently(ctx context.Context) error {
	grace, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if p.end(grace, syscall.SIGTERM) == nil {
		return nil
	}
	return p.end(ctx, syscall.SIGKILL)
}
