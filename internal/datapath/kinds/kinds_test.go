package kinds

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/testutil"
)

// A kernel that lacks a feature never gets it; lack of memory or of a permission is not the
// kernel's, and must not determine the node's datapath until the agent restarts.
func TestProbe(t *testing.T) {
	for name, c := range map[string]struct {
		err   error
		lacks bool
	}{
		"a feature that is named":         {&datapath.UnsupportedError{Feature: "netkit", Err: unix.EOPNOTSUPP}, true},
		"the same for what it needs":      {errors.Join(fmt.Errorf("it needs: %w", &datapath.UnsupportedError{Feature: "tc", Err: unix.EPERM}), unix.EIO), true},
		"no permission":                   {fmt.Errorf("map: %w", unix.EPERM), false},
		"no namespace to try in":          {fmt.Errorf("open own network namespace: %w", unix.ENOENT), false},
		"a namespace that cannot be made": {fmt.Errorf("make a network namespace to try in: %w", unix.EINVAL), false},
		"a device that is gone":           {fmt.Errorf("find the netkit device for the test: %w", unix.ENOENT), false},
		"a call that is filtered":         {fmt.Errorf("return to own network namespace: %w", unix.ENOSYS), false},
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
		n, policy, err := New(Options{Lacking: lacking})
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(n.Choices()); got != c.choices || len(n.Lacking()) != len(c.lacking) {
			t.Errorf("without %v new pods may be of %s, want %s", c.lacking, got, c.choices)
		}
		if can := lacking[claims.EBPF] == nil && lacking[claims.Route] == nil; (policy != nil) != can {
			t.Errorf("without %v policies can be enforced: %v, want %v", c.lacking, policy != nil, can)
		}
		if err := n.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}
