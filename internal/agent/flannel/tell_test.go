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

// cluster is one that answers what it is made to, and a clock.
type cluster struct {
	*flannel.Node
	now    time.Time
	answer error
	calls  []string
}

func newCluster(t *testing.T) *cluster {
	c := &cluster{Node: newNode(t), now: time.Unix(1e9, 0)}
	c.Now = func() time.Time { return c.now }
	c.Tell = func(_ context.Context, blocks []netip.Prefix) error {
		c.calls = append(c.calls, fmt.Sprint(blocks))
		return c.answer
	}
	return c
}

// looks has the node look for so many seconds, once in each, and returns what the cluster
// was told.
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

// outdated says whether flanneld is to be started anew.
func (c *cluster) outdated() bool {
	_, err := os.Stat(c.Outdated)
	return err == nil
}

func TestTheClusterIsTold(t *testing.T) {
	c := newCluster(t)
	if calls := c.looks(t, 5); len(calls) != 0 || !strings.Contains(c.Waits(), "flanneld has not written it yet") {
		t.Errorf("without a file: told %q, waits: %s", calls, c.Waits())
	}
	c.block(t, "172.20.1.1")
	if calls := c.looks(t, 60); !slices.Equal(calls, []string{"[172.20.1.0/24]"}) || c.Waits() != "" {
		t.Errorf("the first minute: told %q, waits: %s", calls, c.Waits())
	}
	if calls := c.looks(t, 60); len(calls) != 1 {
		t.Errorf("the second minute: told %q, want one more", calls)
	}
	c.block(t, "172.20.9.1")
	if calls := c.looks(t, 1); !slices.Equal(calls, []string{"[172.20.9.0/24]"}) {
		t.Errorf("another block: told %q", calls)
	}
}

func TestTheClusterIsAway(t *testing.T) {
	c := newCluster(t)
	c.answer = errors.New("the API server is away")
	c.block(t, "172.20.1.1")
	// 1, 2, 4, … seconds after one another, then one in a minute.
	if n := len(c.looks(t, 300)); n < 8 || n > 11 {
		t.Errorf("asked %d times in five minutes", n)
	}
	if !strings.Contains(c.Waits(), "the API server is away") || c.outdated() {
		t.Errorf("waits: %s, outdated %t", c.Waits(), c.outdated())
	}
	c.answer = nil
	if c.looks(t, 64); c.Waits() != "" {
		t.Errorf("after it came back: %s", c.Waits())
	}
	// What it knows it knows.
	c.answer = errors.New("the API server is away")
	if n := len(c.looks(t, 300)); c.Waits() != "" || c.outdated() || n < 8 {
		t.Errorf("waits: %s, outdated %t, asked %d times", c.Waits(), c.outdated(), n)
	}
	// Of another block it knows nothing.
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
	// It stays so while the cluster cannot be asked.
	c.answer = errors.New("the API server is away")
	if c.looks(t, 60); !c.outdated() || c.Waits() == "" {
		t.Errorf("outdated %t, waits: %s", c.outdated(), c.Waits())
	}
	// The new flanneld is not ended, whether the cluster answers or not.
	c.block(t, "172.20.9.1")
	if c.looks(t, 1); c.outdated() || c.Waits() == "" {
		t.Errorf("the new one's file: outdated %t, waits: %s", c.outdated(), c.Waits())
	}
	c.answer = nil
	if c.looks(t, 60); c.outdated() || c.Waits() != "" {
		t.Errorf("in the end: outdated %t, waits: %s", c.outdated(), c.Waits())
	}
	// The Node is made again once more, and has its old block after all.
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
