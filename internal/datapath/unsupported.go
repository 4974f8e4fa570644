package datapath

import (
	"errors"
	"fmt"
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

// Lacks returns an UnsupportedError if the error of a request is one of the answers of kernels
// without the feature, and otherwise the error with context: the request may have failed for another
// reason, such as a missing permission or a lack of memory, which says nothing about the kernel.
func Lacks(feature string, err error, answers ...error) error {
	if err == nil {
		return nil
	}
	for _, answer := range answers {
		if errors.Is(err, answer) {
			return &UnsupportedError{Feature: feature, Err: err}
		}
	}
	return fmt.Errorf("try %s: %w", feature, err)
}
