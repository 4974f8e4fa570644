package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// RemoveNamespace unmounts the network namespace that is mounted at path, and removes the file. What is not there is no error.
// It also removes one that is hidden: "ip netns add" mounts the folder of namespaces over itself.
func RemoveNamespace(path string) error {
	err := unmountAndRemove(path)
	if errors.Is(err, unix.EBUSY) {
		err = removeHidden(path)
	}
	if err != nil {
		return fmt.Errorf("remove network namespace %s: %w", path, err)
	}
	return nil
}

func unmountAndRemove(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// removeHidden removes a file on which something is mounted below another mount of its folder. No path leads to that mount. But
// the kernel drops all mounts of a file that is removed in another mount namespace: in that, the upper mounts can be taken away,
// and stay for all others.
func removeHidden(path string) error {
	return onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("keep mounts private: %w", err)
		}
		for {
			if err := unix.Unmount(filepath.Dir(path), unix.MNT_DETACH); err != nil {
				return fmt.Errorf("unmount the folder: %w", err)
			}
			if err := unmountAndRemove(path); !errors.Is(err, unix.EBUSY) {
				return err
			}
		}
	})
}

// onOwnThread runs f on a thread that ends afterwards, and with it the thread's namespaces.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The first thread does not end. While it waits here, the next goroutine is on another.
			done <- onOwnThread(f)
			runtime.UnlockOSThread()
			return
		}
		done <- f()
	}()
	return <-done
}
