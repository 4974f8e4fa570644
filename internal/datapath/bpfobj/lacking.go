package bpfobj

import (
	"errors"
	"fmt"

	bpf "github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath"
)

// Needs is what a kernel lacks that does not load the programs.
const Needs = "eBPF programs for tc with redirect_neigh and redirect_peer (Linux 5.10)"

// Lacking makes an error of a request that failed a datapath.UnsupportedError if it says
// that the kernel has not got the feature. A missing right, or memory that is short, says
// nothing of the kernel. Of a program that its verifier does not follow the kernel says
// EACCES or E2BIG, with a reason.
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
