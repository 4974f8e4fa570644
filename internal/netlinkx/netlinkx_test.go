package netlinkx

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/testutil"
)

func TestListTakesOnlyAWholeDump(t *testing.T) {
	calls := 0
	list, err := List(t.Context(), "things", func() ([]int, error) {
		if calls++; calls < 5 {
			return []int{calls}, netlink.ErrDumpInterrupted // an incomplete list
		}
		return []int{1, 2, 3}, nil
	})
	if err != nil || !slices.Equal(list, []int{1, 2, 3}) {
		t.Errorf("got %v, %v; want the list of the last dump", list, err)
	}
}

func TestListGivesUp(t *testing.T) {
	over, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the node is full")
	cancel(why)
	for name, c := range map[string]struct {
		ctx   context.Context
		dump  error
		want  error
		calls int
	}{
		"another error":       {t.Context(), unix.EPERM, unix.EPERM, 1},
		"the context is over": {over, netlink.ErrDumpInterrupted, why, 1},
		"no dump is complete": {t.Context(), netlink.ErrDumpInterrupted, netlink.ErrDumpInterrupted, tries},
	} {
		calls := 0
		list, err := List(c.ctx, "things", func() ([]int, error) { calls++; return []int{1}, c.dump })
		if list != nil || !errors.Is(err, c.want) || !strings.Contains(err.Error(), "list things") || calls != c.calls {
			t.Errorf("%s: %v, %v after %d dumps; want no list, %v and %d", name, list, err, calls, c.want, c.calls)
		}
	}
}

func TestGone(t *testing.T) {
	for _, err := range []error{
		netlink.LinkNotFoundError{}, unix.ESRCH, unix.ENOENT, unix.ENODEV, unix.EADDRNOTAVAIL, os.ErrNotExist,
	} {
		if !Gone(fmt.Errorf("remove it: %w", err)) {
			t.Errorf("%v does not count as gone", err)
		}
	}
	for _, err := range []error{nil, unix.EINVAL, unix.EPERM, unix.EBUSY, unix.ENOMEM, netlink.ErrDumpInterrupted} {
		if Gone(err) {
			t.Errorf("%v counts as gone", err)
		}
	}
}

func TestEnterWhatIsNoNamespace(t *testing.T) {
	testutil.RequireRoot(t)
	left := filepath.Join(t.TempDir(), "left")
	if err := os.WriteFile(left, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{left, left + "-not", ""} {
		if n, err := Enter(path); err == nil || !Gone(err) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, %v; want an error that says it is gone", path, n, err)
		}
	}
}

func TestEnter(t *testing.T) {
	testutil.RequireRoot(t)
	n, err := Enter("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	h, err := n.Handle()
	if err != nil {
		t.Fatal(err)
	}
	if links, err := List(t.Context(), "devices", h.LinkList); err != nil || len(links) == 0 {
		t.Errorf("devices %v, %v; want lo at least", links, err)
	}
	if again, err := n.Handle(); err != nil || again != h {
		t.Errorf("a second call returns another socket, %v", err)
	}
	if own, err := n.Is(netns.None()); err != nil || !own {
		t.Errorf("it is the caller's own: %v, %v", own, err)
	}
	other, err := netns.GetFromPath("/proc/thread-self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if same, err := n.Is(other); err != nil || same {
		t.Errorf("it is another one: %v, %v", same, err)
	}
}
