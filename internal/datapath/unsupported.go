package datapath

import "fmt"

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
