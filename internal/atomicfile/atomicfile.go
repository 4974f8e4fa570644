// Package atomicfile writes files atomically: a file exists completely or not at all, also if
// the process is killed or the machine stops during the write.
//
// The content is written to an unnamed file (O_TMPFILE), which the kernel removes with the
// process. A new file then gets its name in one step. Replacing a file needs two steps, because
// link(2) does not replace a name: the content is linked as .NAME.new and renamed. If the
// process is killed between the two, this complete hidden file remains, and the next write
// removes it. It is not github.com/google/renameio because that leaves a file of another name for
// each process that is killed, does not sync the directory, and cannot create without replacing.
package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Write creates or replaces the file at path, and returns when it is on disk. Readers see the
// old content or the new one; of several writers the last one wins. The mode is set as given,
// regardless of the umask. The directory must exist.
func Write(path string, data []byte, mode fs.FileMode) error {
	return put(path, data, mode, func(f, dir *os.File, next string) error {
		if err := lock(dir); err != nil { // writers share the name of the next step
			return err
		}
		if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := link(f, next); err != nil {
			return err
		}
		if err := os.Rename(next, path); err != nil {
			return errors.Join(err, os.Remove(next))
		}
		return nil
	})
}

// Create creates the file at path and returns when it is on disk. If the name exists, the error
// is fs.ErrExist and nothing is changed.
func Create(path string, data []byte, mode fs.FileMode) error {
	return put(path, data, mode, func(f, _ *os.File, _ string) error { return link(f, path) })
}

// put writes the data to an unnamed file and calls publish to name it.
func put(path string, data []byte, mode fs.FileMode, publish func(f, dir *os.File, next string) error) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	f, err := open(dir, filepath.Base(path))
	if err != nil {
		return err
	}
	defer f.discard()
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(mode), f.Sync()); err != nil {
		return err
	}
	if err := publish(f.File, dir, filepath.Join(dir.Name(), "."+filepath.Base(path)+".new")); err != nil {
		return err
	}
	return dir.Sync() // the name is on disk after the directory is
}

// unnamed is a file that disappears with its descriptor. On file systems that do not support
// this, such as NFS, it is a file with a name that discard removes.
type unnamed struct {
	*os.File
	temporary string
}

func open(dir *os.File, base string) (unnamed, error) {
	fd, err := unix.Open(dir.Name(), unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	switch {
	case err == nil:
		return unnamed{File: os.NewFile(uintptr(fd), filepath.Join(dir.Name(), base))}, nil
	case errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EISDIR):
		return openNamed(dir, base)
	}
	return unnamed{}, &fs.PathError{Op: "open", Path: dir.Name(), Err: err}
}

// openNamed always uses the same name, so that a file left by a killed process is removed too.
func openNamed(dir *os.File, base string) (unnamed, error) {
	if err := lock(dir); err != nil {
		return unnamed{}, err
	}
	f, err := os.OpenFile(filepath.Join(dir.Name(), "."+base+".part"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return unnamed{}, err
	}
	return unnamed{File: f, temporary: f.Name()}, nil
}

// lock excludes other writers in the directory. The lock ends with the descriptor.
func lock(dir *os.File) error {
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return &fs.PathError{Op: "flock", Path: dir.Name(), Err: err}
	}
	return nil
}

func (u unnamed) discard() {
	u.Close()
	if u.temporary != "" {
		os.Remove(u.temporary)
	}
}

// link uses /proc, which needs no capability, unlike linkat with AT_EMPTY_PATH: open(2),
// O_TMPFILE.
func link(f *os.File, as string) error {
	err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.AT_FDCWD, as, unix.AT_SYMLINK_FOLLOW)
	if err != nil {
		return &os.LinkError{Op: "link", Old: "the new content", New: as, Err: err}
	}
	return nil
}
