package bpfobj

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// A kernel whose verifier does not follow a program cannot run it; a missing permission says
// nothing about the kernel.
func TestRefusal(t *testing.T) {
	for _, c := range []struct {
		err   error
		lacks bool
	}{
		{&ebpf.VerifierError{Cause: unix.EACCES, Log: []string{"R1 invalid mem access"}}, true},
		{&ebpf.VerifierError{Cause: unix.E2BIG, Log: []string{"BPF program is too large"}}, true},
		{&ebpf.VerifierError{Cause: unix.ENOMEM, Log: []string{"processed 10 insns"}}, false},
		{&ebpf.VerifierError{Cause: unix.EACCES}, false},
		{unix.EACCES, false},
		{unix.EPERM, false},
	} {
		if err := refusal(c.err); errors.Is(err, ebpf.ErrNotSupported) != c.lacks || !errors.Is(err, c.err) {
			t.Errorf("%v: %v, want not supported %v", c.err, err, c.lacks)
		}
	}
}
