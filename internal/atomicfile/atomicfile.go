// Package atomicfile writes files that are there whole or not at all, also when the
// process is killed or the machine stops in the middle.
//
// The content is written to a file without a name (O_TMPFILE), which the kernel removes
// with the process. A new file then gets its name in one step. A file that is replaced
// needs two, because a link never replaces a name: the content is linked as .NAME.new
// and renamed. A process killed between the two leaves that one hidden file, complete,
// and the next write takes it away.
package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Write makes the file at path, or replaces it, and returns when it is on disk. Readers
// see the old content or the new one; of several writers the last one wins. The mode is
// set as given, whatever the umask. The folder must be there.
func Write(path string, data []byte, mode fs.FileMode) error {
	return put(path, data, mode, func(f, dir *os.File, next string) error {
		if err := lock(dir); err != nil { // writers share the name next
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

// Create makes the file at path and returns when it is on disk. The error is
// fs.ErrExist if something has that name; it stays as it is.
func Create(path string, data []byte, mode fs.FileMode) error {
	return put(path, data, mode, func(f, _ *os.File, _ string) error { return link(f, path) })
}

// put writes the data to a file without a name and has publish give it one.
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
	return dir.Sync() // the name is on disk only when the folder is
}

// unnamed is a file that goes with its descriptor, or, where the file system cannot do
// that (NFS, for one), one with a name that discard takes away.
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

// openNamed always takes the same name, so that what a killed process left is taken away too.
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

// lock keeps other writers of the folder's files out; it goes with the descriptor.
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

// link needs no capability, as linkat with AT_EMPTY_PATH would: open(2), O_TMPFILE.
func link(f *os.File, as string) error {
	err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.AT_FDCWD, as, unix.AT_SYMLINK_FOLLOW)
	if err != nil {
		return &os.LinkError{Op: "link", Old: "the new content", New: as, Err: err}
	}
	return nil
}
