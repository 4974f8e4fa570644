package datapath

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// UnsupportedError names what a node's kernel lacks for a datapath.
type UnsupportedError struct {
	// Feature is the name of the feature or configuration option.
	Feature string
	Err     error
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("this kernel lacks %s: %v", e.Feature, e.Err)
}

func (e *UnsupportedError) Unwrap() error { return e.Err }

// Lacks returns an UnsupportedError if err is what a kernel answers when it does not know a
// request, and otherwise err with context: the request may have failed for another reason, such as
// a missing permission.
func Lacks(feature string, err error) error {
	for _, unknown := range []error{unix.EOPNOTSUPP, unix.ENOENT, unix.EINVAL, unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT} {
		if errors.Is(err, unknown) {
			return &UnsupportedError{Feature: feature, Err: err}
		}
	}
	return fmt.Errorf("try %s: %w", feature, err)
}
