package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/kernel"
)

// ownerFile marks a directory as a lab's; no other directory is ever deleted.
const ownerFile = ".terway-lab"

// Down removes everything of the lab in dir and of any lab that was killed: processes,
// namespaces, cgroups, mounts and the directory. The cache stays. It reports whether it found
// anything.
func Down(ctx context.Context, o *Options) (found bool, err error) {
	if err := o.folders(); err != nil {
		return false, err
	}
	ctx, cancel := timely(ctx)
	defer cancel()
	ended, unlock, err := takeOver(ctx, machineLock, o.Dir)
	if err != nil {
		return ended, err
	}
	defer unlock()
	found, err = o.down(ctx)
	return found || ended, err
}

// timely limits the time for taking the lab down.
func timely(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, 2*time.Minute, errors.New("taking the lab down took more than two minutes"))
}

// down is Down for a caller that holds the lock.
func (o *Options) down(ctx context.Context) (found bool, err error) {
	ctx, cancel := timely(ctx)
	defer cancel()
	hurried := hurryOrphans() // an error here only costs time
	found, err = o.remove(ctx)
	return found, errors.Join(err, hurried)
}

func (o *Options) remove(ctx context.Context) (found bool, err error) {
	ended, err := o.endProcesses(ctx)
	if err != nil {
		return ended, err
	}
	namespaces, err := labNamespaces()
	if err != nil {
		return ended, err
	}
	for _, ns := range namespaces {
		if err := kernel.RemoveNamespace(ns); err != nil {
			return true, err
		}
	}
	cgroups, err := labCgroups()
	if err != nil {
		return true, err
	}
	for _, cg := range cgroups {
		if err := removeCgroup(ctx, cg); err != nil {
			return true, err
		}
	}
	removed, err := o.removeDir()
	return ended || removed || len(namespaces)+len(cgroups) > 0, err
}

// endProcesses ends the nodes, then the control plane, and the simulated cloud last: it removes
// its devices by itself when it is asked to end.
func (o *Options) endProcesses(ctx context.Context) (found bool, err error) {
	recorded, err := o.processes()
	if err != nil {
		return found, err
	}
	var later []Process
	for _, p := range recorded {
		if p.Name == processVPCSim {
			later = append(later, p)
			continue
		}
		found = found || p.Alive()
		if err := p.end(ctx, syscall.SIGKILL); err != nil {
			return true, err
		}
	}
	for _, p := range later {
		found = found || p.Alive()
		grace, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := p.end(grace, syscall.SIGTERM)
		cancel()
		if err != nil {
			err = p.end(ctx, syscall.SIGKILL)
		}
		if err != nil {
			return true, err
		}
	}
	// Processes that those have started, or that were not recorded because the lab was killed.
	err = Poll(ctx, 20*time.Millisecond, func() (bool, error) {
		ps, err := Strays()
		if err != nil || len(ps) == 0 {
			return true, err
		}
		found = true
		for _, p := range ps {
			if err := p.end(ctx, syscall.SIGKILL); err != nil {
				return false, err
			}
		}
		return false, nil
	})
	return found, err
}

// claimDir makes the lab's directory; it refuses one with other files. If terway-lab is killed
// here, clearUnmarked removes what is left.
func (o *Options) claimDir() error {
	entries, err := os.ReadDir(o.Dir)
	if err == nil && len(entries) > 0 {
		return fmt.Errorf("--dir %s: the folder has files that are not a lab's; give another or empty it", o.Dir)
	}
	return writeFile(o.path(ownerFile), []byte("made by terway-lab up, removed by terway-lab down\n"), 0o644)
}

func (o *Options) removeDir() (found bool, err error) {
	if _, err := os.Stat(o.path(ownerFile)); errors.Is(err, os.ErrNotExist) {
		return o.clearUnmarked()
	} else if err != nil {
		return false, fmt.Errorf("look for the lab's folder: %w", err)
	}
	// Nothing may be mounted there in this mount namespace: deleting through a mount would
	// delete files that are not the lab's.
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return true, fmt.Errorf("list mounts: %w", err)
	}
	var at []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1]+"/", o.Dir+"/") {
			at = append(at, f[1])
		}
	}
	for i := len(at) - 1; i >= 0; i-- {
		if err := unix.Unmount(at[i], unix.MNT_DETACH); err != nil {
			return true, fmt.Errorf("unmount %s: %w", at[i], err)
		}
	}
	// The mark is deleted last, so that an interrupted removal can be continued.
	entries, err := os.ReadDir(o.Dir)
	if err != nil {
		return true, fmt.Errorf("list the lab's folder: %w", err)
	}
	for _, e := range entries {
		if e.Name() == ownerFile {
			continue
		}
		if err := os.RemoveAll(filepath.Join(o.Dir, e.Name())); err != nil {
			return true, fmt.Errorf("remove the lab's folder: %w", err)
		}
	}
	if err := os.RemoveAll(o.Dir); err != nil {
		return true, fmt.Errorf("remove the lab's folder: %w", err)
	}
	return true, nil
}

// clearUnmarked removes the directory of a lab that was killed before the directory was marked,
// or after the mark was removed: it is empty, or has only the temporary file with which package
// atomicfile writes the mark. A directory with anything else is not the lab's.
func (o *Options) clearUnmarked() (found bool, err error) {
	entries, err := os.ReadDir(o.Dir)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("list the lab's folder: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "."+ownerFile+".") {
			return false, nil
		}
	}
	for _, e := range entries {
		if err := os.Remove(o.path(e.Name())); err != nil {
			return false, fmt.Errorf("remove the lab's mark: %w", err)
		}
	}
	err = os.Remove(o.Dir)
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EBUSY) {
		return false, nil // another program's: a file was added meanwhile, or it is a mount point
	}
	if err != nil {
		return false, fmt.Errorf("remove the lab's folder: %w", err)
	}
	return true, nil
}
