package compare

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/testutil"
)

// wire makes two namespaces with a veth pair between them.
func wire(t *testing.T) (p instruments.Pair, from, to *testutil.NS) {
	from, to = testutil.NewNS(t, "from"), testutil.NewNS(t, "to")
	from.IP("link add eth0 type veth peer name eth0 netns " + to.Path)
	from.IP("addr add 10.7.0.1/24 dev eth0")
	to.IP("addr add 10.7.0.2/24 dev eth0")
	from.IP("link set eth0 up")
	to.IP("link set eth0 up")
	from.Run("ping", "-c", "1", "-w", "30", "10.7.0.2") // the link needs a moment
	return instruments.Pair{From: instruments.End{NetNS: from.Path, Addr: netip.MustParseAddr("10.7.0.1")}, To: instruments.End{NetNS: to.Path, Addr: netip.MustParseAddr("10.7.0.2")}}, from, to
}

// The test checks no speed: only that there are results, and that the packets crossed the link.
func TestSpeedIsMeasuredOnTheWire(t *testing.T) {
	p, _, _ := wire(t)
	before, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil {
		t.Fatal(err)
	}
	path, err := measurePath(context.Background(), Options{Rounds: 2, Turn: 30 * time.Millisecond}, "x", p, instruments.Pair{From: p.To, To: p.From})
	if err != nil {
		t.Fatal(err)
	}
	if nice, err := unix.Getpriority(unix.PRIO_PROCESS, 0); err != nil || nice != before {
		t.Errorf("the priority is %d afterwards, was %d (%v)", 20-nice, 20-before, err)
	}
	if len(path.Rounds) != 2 {
		t.Fatalf("%d rounds, want 2", len(path.Rounds))
	}
	for _, r := range path.Rounds {
		for _, s := range []Speed{r.Pods, r.Nodes} {
			if s.BitsPerSecond <= 0 || s.P50 <= 0 || s.P99 < s.P50 || s.Connect <= 0 {
				t.Errorf("%+v", s)
			}
		}
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errors.New("interrupted"))
	if _, err := measurePath(ctx, Options{Rounds: 2, Turn: time.Minute}, "x", p, p); err == nil || err.Error() != "interrupted" {
		t.Errorf("an interrupted measurement: %v", err)
	}
}

func TestAPathThatIsCutDoesNotPass(t *testing.T) {
	p, from, to := wire(t)
	for _, tt := range []struct {
		name string
		do   func()
		want bool
	}{
		{"open", func() {}, true},
		{"dropped", func() {
			to.Run("nft", "add table inet t")
			to.Run("nft", "add chain inet t in { type filter hook input priority 0; policy drop; }")
		}, false},
		{"open again", func() { to.Run("nft", "delete table inet t") }, true},
		{"refused", func() {
			to.Run("nft", "add table inet t")
			to.Run("nft", "add chain inet t in { type filter hook input priority 0; }")
			to.Run("nft", "add rule inet t in meta l4proto tcp reject with tcp reset")
		}, false},
		// The connection opens, but no data arrives: this does not count as passing.
		{"no data", func() {
			to.Run("nft", "delete table inet t")
			from.Run("nft", "add table inet t")
			from.Run("nft", "add chain inet t in { type filter hook input priority 0; }")
			from.Run("nft", "add rule inet t in tcp flags & (syn|psh) == psh drop")
		}, false},
	} {
		tt.do()
		if got, err := p.Passes(context.Background()); err != nil || got != tt.want {
			t.Errorf("%s: passes %v, %v; want %v", tt.name, got, err, tt.want)
		}
	}
}

func TestWatchPolicy(t *testing.T) {
	script := func(results string) func() (bool, error) {
		i := -1
		return func() (bool, error) {
			i++
			switch results[min(i, len(results)-1)] {
			case 'x':
				return false, nil
			case '!':
				return false, errors.New("broken")
			}
			return true, nil
		}
	}
	for _, tt := range []struct {
		name, results string
		want          Policy
		wrong         bool
	}{
		{"never", "o", Policy{Tried: 6, Passed: 6, Seconds: 10}, false},
		{"at once", "x", Policy{Enforced: true, Tried: 3}, false},
		{"after a while", "oox", Policy{Enforced: true, Tried: 5, Passed: 2, Seconds: 2}, false},
		{"one that was lost is no policy", "oxxoo", Policy{Tried: 6, Passed: 4, Seconds: 10}, false},
		// Failures at the end are watched until there are three, or one passes again.
		{"at the last moment", "ooooox", Policy{Enforced: true, Tried: 8, Passed: 5, Seconds: 8}, false},
		{"broken", "o!", Policy{}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			clock := time.Unix(0, 0)
			first := true
			passes := script(tt.results)
			got, err := watchPolicy(context.Background(), func() (bool, error) {
				if !first {
					clock = clock.Add(2 * time.Second)
				}
				first = false
				return passes()
			}, func() time.Time { return clock }, 10*time.Second, 0)
			if (err != nil) != tt.wrong || !tt.wrong && got != tt.want {
				t.Errorf("%+v, %v; want %+v", got, err, tt.want)
			}
		})
	}
}

func TestOptions(t *testing.T) {
	if err := (&Options{Rounds: 9, Turn: time.Second, Upgrades: 3, Pods: 30, Datapaths: []string{Auto}}).Check(); err != nil {
		t.Error(err)
	}
	err := (&Options{Rounds: -1, Turn: time.Hour, Pods: 1, Datapaths: []string{Auto}}).Check()
	if err == nil {
		t.Fatal("no error")
	}
	if want := "--rounds -1: want 1 to 1000\n--turn 1h0m0s: want 10ms to 1m\n--upgrades 0: want 1 to 1000\n--pods 1: want 2 or more"; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
}
