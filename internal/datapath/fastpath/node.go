package fastpath

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// mapNode has one entry, what the agent tells the programs while they run.
const mapNode = "tw_node_1"

// node is struct node of bpf/connection.h.
type node struct {
	// AskAgain is in ticks of the kernel (jiffies).
	AskAgain uint64
	Secret   uint64
}

func (o *Objects) node() (n node, err error) {
	if err := o.Maps[mapNode].Lookup(uint32(0), &n); err != nil {
		return n, fmt.Errorf("read map %s: %w", mapNode, err)
	}
	return n, nil
}

func (o *Objects) setNode(n node) error {
	if err := o.Maps[mapNode].Put(uint32(0), n); err != nil {
		return fmt.Errorf("write map %s: %w", mapNode, err)
	}
	return nil
}

// drawSecret fills the map if it is new. It then stays for as long as any program has it, so
// packets that are on their way while programs are replaced keep their tokens.
func (o *Objects) drawSecret() error {
	n, err := o.node()
	if err != nil || n.Secret != 0 {
		return err
	}
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return fmt.Errorf("draw a secret: %w", err)
	}
	n.Secret = binary.NativeEndian.Uint64(b[:]) | 1 // 0 is none
	return o.setNode(n)
}

// conntrackTimeouts are the sysctls below net/ that say for how long conntrack remembers
// what has no handshake.
var conntrackTimeouts = []string{
	"netfilter/nf_conntrack_udp_timeout", "netfilter/nf_conntrack_icmp_timeout", "netfilter/nf_conntrack_icmpv6_timeout",
}

// usualTimeout is what these are if nobody sets them.
const usualTimeout = 30 * time.Second

// FollowConntrack makes connections without a handshake ask again when two thirds of the
// least time are over for which the network namespace that it is called in remembers them: a
// connection that goes directly is always known to conntrack, which keeps translated ones
// apart from it.
func (o *Objects) FollowConntrack() error {
	least, err := leastTimeout("/proc/sys/net/")
	if err != nil {
		return err
	}
	tick, err := tick()
	if err != nil {
		return err
	}
	n, err := o.node()
	if err != nil {
		return err
	}
	want := uint64(least * 2 / 3 / tick)
	if n.AskAgain == want {
		return nil
	}
	n.AskAgain = want
	return o.setNode(n)
}

func leastTimeout(dir string) (time.Duration, error) {
	least := usualTimeout
	for _, name := range conntrackTimeouts {
		b, err := os.ReadFile(dir + name)
		if errors.Is(err, os.ErrNotExist) {
			continue // no conntrack yet, or none for the family
		}
		if err != nil {
			return 0, fmt.Errorf("read a timeout of conntrack: %w", err)
		}
		seconds, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil {
			return 0, fmt.Errorf("%s: %w", dir+name, err)
		}
		least = min(least, time.Duration(seconds)*time.Second)
	}
	return least, nil
}

// tick is how long one of the kernel's is: the resolution of its coarse clocks
// (clock_getres(2)).
func tick() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &t); err != nil {
		return 0, fmt.Errorf("ask for the length of a tick: %w", err)
	}
	if t.Nano() <= 0 {
		return 0, fmt.Errorf("a tick takes %d ns, want more than 0", t.Nano())
	}
	return time.Duration(t.Nano()), nil
}
