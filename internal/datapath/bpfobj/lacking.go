package bpfobj

import (
	"errors"
	"fmt"

	bpf "github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath"
)

// Needs is the feature that a kernel lacks if it refuses the programs.
const Needs = "eBPF programs for tc with redirect_neigh and redirect_peer (Linux 5.10)"

// Lacking returns a datapath.UnsupportedError if the error of a request means that the kernel lacks
// the feature, and another error if it does not: a missing right or a lack of memory says nothing
// about the kernel. A program that the verifier refuses gives EACCES or E2BIG, with a log.
func Lacking(feature string, err error) error {
	if err == nil {
		return nil
	}
	var refused *bpf.VerifierError
	verifier := errors.As(err, &refused) && len(refused.Log) > 0 && (errors.Is(err, unix.EACCES) || errors.Is(err, unix.E2BIG))
	lacks := verifier || errors.Is(err, bpf.ErrNotSupported)
	for _, unknown := range []error{unix.EOPNOTSUPP, unix.ENOSYS, unix.ENOENT, unix.EINVAL} {
		lacks = lacks || errors.Is(err, unknown)
	}
	if lacks {
		return &datapath.UnsupportedError{Feature: feature, Err: err}
	}
	return fmt.Errorf("try %s: %w", feature, err)
}
