//go:build !amd64

package main

// counter is 0: the counter of an emulated x86 is not this processor's.
func counter() uint64 { return 0 }
