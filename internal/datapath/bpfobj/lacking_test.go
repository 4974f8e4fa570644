package bpfobj

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	bpf "github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath"
)

func TestLacking(t *testing.T) {
	if err := Lacking(Needs, nil); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		err   error
		lacks bool
	}{
		{fmt.Errorf("load: %w", &bpf.VerifierError{Cause: unix.EINVAL, Log: []string{"unknown func bpf_redirect_peer#155"}}), true},
		{&bpf.VerifierError{Cause: unix.EACCES, Log: []string{"R1 invalid mem access"}}, true},
		{&bpf.VerifierError{Cause: unix.EACCES}, false},
		{unix.ENOSYS, true},
		{unix.EPERM, false},
		{unix.ENOMEM, false},
	} {
		err := Lacking(Needs, c.err)
		var unsupported *datapath.UnsupportedError
		if got := errors.As(err, &unsupported); got != c.lacks || !errors.Is(err, c.err) || !strings.Contains(err.Error(), "Linux 5.10") {
			t.Errorf("%v: %v, want unsupported %v", c.err, err, c.lacks)
		}
	}
}
