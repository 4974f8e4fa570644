package datapath

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// UnsupportedError says what a node's kernel lacks for a datapath.
type UnsupportedError struct {
	// Feature is what a kernel's builder would look for.
	Feature string
	Err     error
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("this kernel lacks %s: %v", e.Feature, e.Err)
}

func (e *UnsupportedError) Unwrap() error { return e.Err }

// Lacks makes an UnsupportedError of what a kernel answers when it does not know something, and
// tells it from a request that failed for another reason, such as a
// missing right.
func Lacks(feature string, err error) error {
	for _, unknown := range []error{unix.EOPNOTSUPP, unix.ENOENT, unix.EINVAL, unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT} {
		if errors.Is(err, unknown) {
			return &UnsupportedError{Feature: feature, Err: err}
		}
	}
	return fmt.Errorf("try %s: %w", feature, err)
}
