package datapath

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestLacks(t *testing.T) {
	if err := Lacks("it", nil, unix.EINVAL); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		err   error
		lacks bool
	}{
		{unix.EINVAL, true},
		{errors.Join(fmt.Errorf("make it: %w", unix.EOPNOTSUPP), nil), true},
		{unix.ENOENT, false}, // no answer of a kernel without it
		{unix.EPERM, false},
		{unix.ENOMEM, false},
	} {
		err := Lacks("it", c.err, unix.EOPNOTSUPP, unix.EINVAL)
		var unsupported *UnsupportedError
		if got := errors.As(err, &unsupported); got != c.lacks || !errors.Is(err, c.err) || !strings.Contains(err.Error(), "it: ") {
			t.Errorf("%v: %v, want unsupported %v", c.err, err, c.lacks)
		}
	}
}
