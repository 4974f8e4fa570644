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

// mapNode has one entry: settings that programs with a fast path read while they run.
const mapNode = tablesMapTwNode1

func (o *Objects) node() (n tablesNode, err error) {
	if err := o.Maps[mapNode].Lookup(uint32(0), &n); err != nil {
		return n, fmt.Errorf("read map %s: %w", mapNode, err)
	}
	return n, nil
}

func (o *Objects) setNode(n tablesNode) error {
	if err := o.Maps[mapNode].Put(uint32(0), n); err != nil {
		return fmt.Errorf("write map %s: %w", mapNode, err)
	}
	return nil
}

// drawSecret writes the secret if the map is new. The secret stays while any program has the map,
// so the tokens of packets in flight stay valid while programs are replaced.
func (o *Objects) drawSecret() error {
	if !o.Direct() {
		return nil
	}
	n, err := o.node()
	if err != nil || n.Secret != 0 {
		return err
	}
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return fmt.Errorf("draw a secret: %w", err)
	}
	n.Secret = binary.NativeEndian.Uint64(b[:]) | 1 // 0 means none
	return o.setNode(n)
}

// conntrackTimeouts are the sysctls below net/ for the lifetime of conntrack entries without a
// handshake.
var conntrackTimeouts = []string{
	"netfilter/nf_conntrack_udp_timeout", "netfilter/nf_conntrack_icmp_timeout", "netfilter/nf_conntrack_icmpv6_timeout",
}

// usualTimeout is the kernel's default of all three.
const usualTimeout = 30 * time.Second

// FollowConntrack makes connections without a handshake take the slow path again after two thirds
// of the shortest conntrack timeout of the network namespace that it is called in. So conntrack
// knows each connection on the fast path, and gives no translated connection the same 5-tuple. After
// that time policies forget them too.
func (o *Objects) FollowConntrack() error {
	least, err := leastTimeout("/proc/sys/net/")
	if err != nil {
		return err
	}
	tick, err := tick()
	if err != nil {
		return err
	}
	want := uint64(least * 2 / 3 / tick)
	if own := o.Maps[MapOwn]; own != nil {
		if err := own.Put(silence, uint32(want)); err != nil {
			return fmt.Errorf("write map %s: %w", MapOwn, err)
		}
	}
	if !o.Direct() {
		return nil
	}
	n, err := o.node()
	if err != nil {
		return err
	}
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

// tick is the length of a kernel tick: the resolution of the coarse clocks (clock_getres(2)).
func tick() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &t); err != nil {
		return 0, fmt.Errorf("read the length of a tick: %w", err)
	}
	if t.Nano() <= 0 {
		return 0, fmt.Errorf("a tick takes %d ns, want more than 0", t.Nano())
	}
	return time.Duration(t.Nano()), nil
}
