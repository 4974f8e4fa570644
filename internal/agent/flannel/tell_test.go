package flannel_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"terway.dev/terway/internal/agent/flannel"
)

// told is a cluster that answers what it is made to.
type told struct {
	answer   error
	calls    []string
	restarts int
}

func (c *told) put(n *flannel.Node, now *time.Time) {
	n.Now = func() time.Time { return *now }
	n.Tell = func(_ context.Context, blocks []netip.Prefix) error {
		c.calls = append(c.calls, fmt.Sprint(blocks))
		return c.answer
	}
	n.Restart = func() error { c.restarts++; return nil }
}

func TestRunTellsTheCluster(t *testing.T) {
	n, now := newNode(t), time.Unix(1e9, 0)
	var c told
	c.put(n, &now)
	look := func(seconds int) []string {
		t.Helper()
		c.calls = nil
		for range seconds {
			n.Look(t.Context())
			now = now.Add(time.Second)
		}
		return c.calls
	}
	if calls := look(5); len(calls) != 0 || n.Ready() {
		t.Errorf("without a file: told %q, ready %t", calls, n.Ready())
	}
	write(t, n.SubnetFile, file)
	if calls := look(60); !slices.Equal(calls, []string{"[172.20.1.0/24]"}) || !n.Ready() {
		t.Errorf("the first minute: told %q, ready %t", calls, n.Ready())
	}
	if calls := look(60); len(calls) != 1 {
		t.Errorf("the second minute: told %q, want one more", calls)
	}
	write(t, n.SubnetFile, strings.ReplaceAll(file, "172.20.1.1", "172.20.9.1"))
	if calls := look(1); !slices.Equal(calls, []string{"[172.20.9.0/24]"}) {
		t.Errorf("another block: told %q", calls)
	}

	c.answer = errors.New("the API server is away")
	calls := look(300)
	if n.Ready() || c.restarts != 0 {
		t.Errorf("ready %t, flanneld was ended %d times while the cluster said nothing", n.Ready(), c.restarts)
	}
	// 1, 2, 4, … seconds after one another, then one in a minute.
	if len(calls) < 8 || len(calls) > 11 {
		t.Errorf("asked %d times in five minutes", len(calls))
	}
	c.answer = nil
	look(60)
	if !n.Ready() {
		t.Error("not ready after the API server came back")
	}
}

func TestRunEndsFlanneldWhoseBlockIsOld(t *testing.T) {
	n, now := newNode(t), time.Unix(1e9, 0)
	var c told
	c.put(n, &now)
	write(t, n.SubnetFile, file)
	look := func(seconds int) {
		for range seconds {
			n.Look(t.Context())
			now = now.Add(time.Second)
		}
	}
	look(10)
	c.answer = fmt.Errorf("%w: it has another", flannel.ErrBlock)
	look(60)
	if c.restarts != 1 || n.Ready() {
		t.Fatalf("in the first minute flanneld was ended %d times, want once; ready %t", c.restarts, n.Ready())
	}
	look(180)
	if c.restarts < 2 || c.restarts > 4 {
		t.Fatalf("in four minutes flanneld was ended %d times, want at most once in each", c.restarts)
	}
	// It took the new block.
	c.answer, c.calls = nil, nil
	write(t, n.SubnetFile, strings.ReplaceAll(file, "172.20.1.1", "172.20.9.1"))
	look(1)
	if !n.Ready() || !slices.Equal(c.calls, []string{"[172.20.9.0/24]"}) {
		t.Errorf("ready %t, told %q", n.Ready(), c.calls)
	}
}
