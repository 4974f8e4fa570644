package kinds

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	bpf "github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/testutil"
)

// A kernel that lacks a feature never gets it; lack of memory or of a permission is not the
// kernel's, and must not determine the node's datapath until the agent restarts.
func TestProbe(t *testing.T) {
	verifier := func(cause error, log ...string) error {
		return fmt.Errorf("load the programs: %w", &bpf.VerifierError{Cause: cause, Log: log})
	}
	for name, c := range map[string]struct {
		err   error
		lacks bool
	}{
		"a feature that is named":               {&datapath.UnsupportedError{Feature: "netkit", Err: unix.EOPNOTSUPP}, true},
		"the same for what it needs":            {fmt.Errorf("it needs: %w", &datapath.UnsupportedError{Feature: "tc", Err: unix.EPERM}), true},
		"the library knows":                     {fmt.Errorf("map: %w", bpf.ErrNotSupported), true},
		"a filter that is not built in":         {errors.Join(fmt.Errorf("filter: %w", unix.ENOENT), nil), true},
		"no bpf at all":                         {fmt.Errorf("bpf: %w", unix.ENOSYS), true},
		"a helper that is unknown":              {verifier(unix.EINVAL, "unknown func bpf_redirect_peer#155"), true},
		"a verifier that does not follow":       {verifier(unix.EACCES, "R1 invalid mem access"), true},
		"a program that is too long":            {verifier(unix.E2BIG, "BPF program is too large"), true},
		"no memory":                             {fmt.Errorf("map: %w", unix.ENOMEM), false},
		"no memory in the verifier":             {verifier(unix.ENOMEM, "processed 10 insns"), false},
		"no permission":                         {fmt.Errorf("map: %w", unix.EPERM), false},
		"no right, said without a reason":       {verifier(unix.EACCES), false},
		"a namespace that cannot be made":       {fmt.Errorf("make a network namespace: %w", unix.ENOSPC), false},
		"something that nobody thought of here": {io.ErrUnexpectedEOF, false},
	} {
		lacking, err := probe(map[string]func() error{"good": func() error { return nil }, "asked": func() error { return c.err }})
		if c.lacks && (err != nil || len(lacking) != 1 || !errors.Is(lacking["asked"], c.err)) {
			t.Errorf("%s: lacking %v, error %v; want it to lack the datapath", name, lacking, err)
		}
		if !c.lacks && (!errors.Is(err, c.err) || !strings.Contains(err.Error(), "datapath asked") || len(lacking) != 0) {
			t.Errorf("%s: lacking %v, error %v; want the error", name, lacking, err)
		}
	}
}

// If this kernel lacks something, Probe says so, and the agent starts.
func TestProbeOfThisKernel(t *testing.T) {
	testutil.RequireRoot(t)
	lacking, err := Probe()
	if err != nil {
		t.Fatal(err)
	}
	if why := lacking[claims.Route]; why != nil {
		t.Errorf("route: %v", why)
	}
	t.Logf("lacking: %v", lacking)
}

// A node has every kind that its kernel supports, and serves pods of the others as far as it can.
func TestNew(t *testing.T) {
	why := errors.New("not here")
	for _, c := range []struct {
		lacking []string
		choices string
	}{
		{nil, "[netkit ebpf ipvlan route]"},
		{[]string{claims.Netkit}, "[ebpf ipvlan route]"},
		{[]string{claims.IPvlan}, "[netkit ebpf route]"},
		{[]string{claims.EBPF}, "[ipvlan route]"},
		{[]string{claims.Route}, "[route]"}, // to remove what was made before
	} {
		lacking := map[string]error{}
		for _, name := range c.lacking {
			lacking[name] = why
		}
		n, err := New(Options{Lacking: lacking})
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(n.Choices()); got != c.choices || len(n.Lacking()) != len(c.lacking) {
			t.Errorf("without %v new pods may be of %s, want %s", c.lacking, got, c.choices)
		}
		if err := n.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}
