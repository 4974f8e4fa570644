// Package kernel has helpers that several packages need: the kernel's version, running code in
// another network namespace, and a new namespace for tests of kernel features.
package kernel

import (
	"fmt"
	"regexp"

	"golang.org/x/sys/unix"
)

// Version returns the version of the running kernel, without the suffix of a distribution or
// host: 6.1.0 for 6.1.0-18-amd64.
func Version() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("ask for the kernel's release: %w", err)
	}
	return version(unix.ByteSliceToString(u.Release[:])), nil
}

var numbers = regexp.MustCompile(`^[0-9]+(\.[0-9]+)*`)

// version returns the number of a release; a release that does not start with a number is
// returned unchanged.
func version(release string) string {
	if v := numbers.FindString(release); v != "" {
		return v
	}
	return release
}
