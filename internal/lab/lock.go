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

// ErrRunning says that another program is starting the lab, taking it down, or running its checks.
var ErrRunning = errors.New("another program works on the lab")

// machineLock is held while a lab is started or taken down: a machine has one lab, whichever
// directory and cache it uses. It is not in the lab's directory, because it must outlive that.
const machineLock = "/run/terway-lab.lock"

// lockUp takes the locks for "terway-lab up": the cache, in which it builds, and the machine.
func (o *Options) lockUp(machine string) (unlock func(), err error) {
	freeCache, err := o.lockCache(processUp)
	if err != nil {
		return nil, err
	}
	freeMachine, err := lockFile(machine, processUp)
	if err != nil {
		freeCache()
		return nil, err
	}
	return func() { freeMachine(); freeCache() }, nil
}

// LockVerify excludes other runs of the checks, each of which removes at its start what an earlier one has left.
func (s *State) LockVerify() (unlock func(), err error) {
	return lockFile(s.Options.path("verify.lock"), processVerify)
}

// lockCache excludes other builds in the cache.
func (o *Options) lockCache(what string) (unlock func(), err error) {
	if err := os.MkdirAll(o.Cache, 0o755); err != nil {
		return nil, fmt.Errorf("make the build cache: %w", err)
	}
	return lockFile(o.cached("lock"), what)
}

func lockFile(path, what string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		who := "a process that has not said who it is"
		if h, err := readHolder(f); err == nil && h.Name != "" {
			who = fmt.Sprintf("%q (pid %d)", h.Name, h.PID)
		}
		return nil, fmt.Errorf("%w: %s holds %s: %w", ErrRunning, who, f.Name(), err)
	}
	if err := writeHolder(f, what); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// writeHolder replaces the content of the lock file; an earlier holder may have been killed.
func writeHolder(f *os.File, what string) error {
	start, err := startTime(os.Getpid())
	if err != nil {
		return fmt.Errorf("record this process in %s: %w", f.Name(), err)
	}
	b, err := json.Marshal(Process{Name: what, PID: os.Getpid(), Start: start})
	if err != nil {
		return fmt.Errorf("record this process in %s: %w", f.Name(), err)
	}
	if err := f.Truncate(0); err != nil {
		return fmt.Errorf("record this process: %w", err)
	}
	if _, err := f.WriteAt(b, 0); err != nil {
		return fmt.Errorf("record this process: %w", err)
	}
	return nil
}

func readHolder(f *os.File) (Process, error) {
	b, err := io.ReadAll(io.NewSectionReader(f, 0, 4096))
	if err != nil {
		return Process{}, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	var p Process
	if err := json.Unmarshal(b, &p); err != nil {
		return Process{}, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	return p, nil
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
func takeOver(ctx context.Context, machine string) (ended bool, unlock func(), err error) {
	err = Poll(ctx, 50*time.Millisecond, func() (bool, error) {
		var err error
		if unlock, err = lockFile(machine, processDown); err == nil || !errors.Is(err, unix.EWOULDBLOCK) {
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
