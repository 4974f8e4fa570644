// Package kernel is what several packages need of the kernel: its version for reports, a
// thread in another network namespace, and a new one to try things in.
package kernel

import (
	"fmt"
	"regexp"

	"golang.org/x/sys/unix"
)

// Version is the running kernel's, without what a distribution or a host adds to the
// release: 6.1.0 of 6.1.0-18-amd64.
func Version() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("ask for the kernel's release: %w", err)
	}
	return version(unix.ByteSliceToString(u.Release[:])), nil
}

var numbers = regexp.MustCompile(`^[0-9]+(\.[0-9]+)*`)

// version is a release's number; a release that does not begin with one is kept.
func version(release string) string {
	if v := numbers.FindString(release); v != "" {
		return v
	}
	return release
}
