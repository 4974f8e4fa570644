package flannel_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"terway.dev/terway/internal/agent/flannel"
)

// cluster is a Node whose Publish returns a given error, with a clock.
type cluster struct {
	*flannel.Node
	now    time.Time
	answer error
	calls  []string
}

func newCluster(t *testing.T) *cluster {
	c := &cluster{Node: newNode(t), now: time.Unix(1e9, 0)}
	c.Now = func() time.Time { return c.now }
	c.Publish = func(_ context.Context, blocks []netip.Prefix) error {
		c.calls = append(c.calls, fmt.Sprint(blocks))
		return c.answer
	}
	return c
}

// looks checks once a second for so many seconds, and returns the published blocks.
func (c *cluster) looks(t *testing.T, seconds int) []string {
	c.calls = nil
	for range seconds {
		c.Look(t.Context())
		c.now = c.now.Add(time.Second)
	}
	return c.calls
}

func (c *cluster) block(t *testing.T, address string) {
	t.Helper()
	write(t, c.SubnetFile, strings.ReplaceAll(file, "172.20.1.1", address))
}

// outdated reports whether a restart of flanneld is requested.
func (c *cluster) outdated() bool {
	_, err := os.Stat(c.Outdated)
	return err == nil
}

func TestTheClusterIsTold(t *testing.T) {
	c := newCluster(t)
	if calls := c.looks(t, 5); len(calls) != 0 || !strings.Contains(c.Waits(), "flanneld has not written it yet") {
		t.Errorf("without a file: published %q, waits: %s", calls, c.Waits())
	}
	c.block(t, "172.20.1.1")
	if calls := c.looks(t, 60); !slices.Equal(calls, []string{"[172.20.1.0/24]"}) || c.Waits() != "" {
		t.Errorf("the first minute: published %q, waits: %s", calls, c.Waits())
	}
	if calls := c.looks(t, 60); len(calls) != 1 {
		t.Errorf("the second minute: published %q, want one more", calls)
	}
	c.block(t, "172.20.9.1")
	if calls := c.looks(t, 1); !slices.Equal(calls, []string{"[172.20.9.0/24]"}) {
		t.Errorf("another block: published %q", calls)
	}
}

func TestTheClusterIsAway(t *testing.T) {
	c := newCluster(t)
	c.answer = errors.New("the API server is unreachable")
	c.block(t, "172.20.1.1")
	// After 1, 2, 4, … seconds, then once a minute.
	if n := len(c.looks(t, 300)); n < 8 || n > 11 {
		t.Errorf("%d calls in five minutes", n)
	}
	if !strings.Contains(c.Waits(), "the API server is unreachable") || c.outdated() {
		t.Errorf("waits: %s, outdated %t", c.Waits(), c.outdated())
	}
	c.answer = nil
	if c.looks(t, 64); c.Waits() != "" {
		t.Errorf("after it came back: %s", c.Waits())
	}
	// Blocks that were published count as published.
	c.answer = errors.New("the API server is unreachable")
	if n := len(c.looks(t, 300)); c.Waits() != "" || c.outdated() || n < 8 {
		t.Errorf("waits: %s, outdated %t, %d calls", c.Waits(), c.outdated(), n)
	}
	// Another block is not published yet.
	c.block(t, "172.20.9.1")
	if c.looks(t, 1); c.Waits() == "" {
		t.Error("another block: does not wait")
	}
}

func TestFlanneldWithAnOldBlockIsStartedAnew(t *testing.T) {
	c := newCluster(t)
	c.block(t, "172.20.1.1")
	c.looks(t, 10)
	c.answer = fmt.Errorf("%w: it has another", flannel.ErrBlock)
	if c.looks(t, 60); !c.outdated() || !strings.Contains(c.Waits(), "it has another") {
		t.Fatalf("outdated %t, waits: %s", c.outdated(), c.Waits())
	}
	// It stays so while the API server is unreachable.
	c.answer = errors.New("the API server is unreachable")
	if c.looks(t, 60); !c.outdated() || c.Waits() == "" {
		t.Errorf("outdated %t, waits: %s", c.outdated(), c.Waits())
	}
	// The new flanneld is not restarted, whether the API server answers or not.
	c.block(t, "172.20.9.1")
	if c.looks(t, 1); c.outdated() || c.Waits() == "" {
		t.Errorf("the new one's file: outdated %t, waits: %s", c.outdated(), c.Waits())
	}
	c.answer = nil
	if c.looks(t, 60); c.outdated() || c.Waits() != "" {
		t.Errorf("in the end: outdated %t, waits: %s", c.outdated(), c.Waits())
	}
	// The Node is created again, with its old block.
	c.answer = flannel.ErrBlock
	c.looks(t, 60)
	c.answer = nil
	if was := c.outdated(); !was {
		t.Fatal("not outdated")
	}
	if c.looks(t, 64); c.outdated() || c.Waits() != "" {
		t.Errorf("the old block again: outdated %t, waits: %s", c.outdated(), c.Waits())
	}
}
