// Package sysctl reads and writes sysctls of network namespaces and their devices, the files
// below /proc/sys/net. procSys is their directory: "/proc/sys" except in tests.
//
// It decides nothing: callers know the right values.
package sysctl

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/kernel"
)

// Setting is a file below /proc/sys/net and the value it should have.
type Setting struct {
	Path  string
	Value string
}

// Set is Write in a namespace.
func Set(procSys string, ns netns.NsHandle, list []Setting) (changed []string, err error) {
	err = kernel.InNS(ns, func() error {
		var err error
		changed, err = Write(procSys, list)
		return err
	})
	return changed, err
}

// Write writes the values that differ, and returns those that it wrote. A missing file (a
// kernel without IPv6) is ignored; a failure does not stop the others from being written.
func Write(procSys string, list []Setting) ([]string, error) {
	var changed []string
	var errs []error
	for _, s := range list {
		was, err := s.set(procSys)
		switch {
		case errors.Is(err, os.ErrNotExist):
		case err != nil:
			errs = append(errs, fmt.Errorf("set sysctl net/%s to %s: %w", s.Path, s.Value, err))
		case was != s.Value:
			changed = append(changed, fmt.Sprintf("set sysctl net/%s from %s to %s", s.Path, was, s.Value))
		}
	}
	return changed, errors.Join(errs...)
}

// set writes the value if it differs. It is called several times for each pod, so it makes few
// system calls.
func (s Setting) set(procSys string) (was string, err error) {
	path := filepath.Join(procSys, "net", s.Path)
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EROFS) {
		// A value that is already right is not written.
		old, readErr := os.ReadFile(path)
		if was = strings.TrimSpace(string(old)); readErr != nil || was == s.Value {
			return was, readErr
		}
	}
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	old := make([]byte, 64) // every sysctl here is a small number
	n, err := unix.Read(fd, old)
	if err != nil {
		return "", err
	}
	if was = strings.TrimSpace(string(old[:n])); was == s.Value {
		return was, nil
	}
	_, err = unix.Pwrite(fd, []byte(s.Value), 0)
	return was, err
}

// Differs reports whether a sysctl exists with another value.
func Differs(procSys string, ns netns.NsHandle, s Setting) (bool, error) {
	differs := false
	err := kernel.InNS(ns, func() error {
		old, err := os.ReadFile(filepath.Join(procSys, "net", s.Path))
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read sysctl net/%s: %w", s.Path, err)
		}
		differs = strings.TrimSpace(string(old)) != s.Value
		return nil
	})
	return differs, err
}
