package node

import (
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"testing"

	"k8s.io/utils/clock"
	"pgregory.net/rapid"

	"terway.dev/terway/internal/policy/wire"
)

type nobody struct{}

func (nobody) Apply(*wire.Part, *wire.Keys) error { return nil }

// Resources are put and removed in updates, over several streams, and put again. At Settled the
// node has those whose last change was a put; before, Hello lists them.
func TestUpdatesInAnyOrder(t *testing.T) {
	folder := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		c := New(Config{Path: filepath.Join(folder, "state"), Consumer: nobody{}, Log: slog.New(slog.DiscardHandler), Clock: clock.RealClock{}})
		want := map[wire.Name]*wire.Resource{}
		for i := range rapid.IntRange(1, 30).Draw(t, "steps") {
			r := &wire.Resource{Kind: 99, Body: fmt.Append(nil, rapid.IntRange(0, 3).Draw(t, "resource"))}
			n := r.Name()
			switch rapid.IntRange(0, 4).Draw(t, "step") {
			case 0:
				var digest wire.Digest
				for n := range want {
					digest.Add(n)
				}
				if _, err := c.settle(&stream{}, &wire.Settled{Revision: uint64(i), Digest: digest[:]}); err != nil {
					t.Fatal(err)
				}
				if !maps.EqualFunc(c.part.Resources(), want, func(a, b *wire.Resource) bool { return a.Name() == b.Name() }) {
					t.Fatalf("the node has %v, want %v", c.part.Resources(), want)
				}
			case 1, 2:
				if err := c.update(&wire.Update{Remove: [][]byte{n[:]}}); err != nil {
					t.Fatal(err)
				}
				delete(want, n)
			default:
				if err := c.update(&wire.Update{Put: []*wire.Resource{r}}); err != nil {
					t.Fatal(err)
				}
				want[n] = r
			}
			says := map[wire.Name]bool{}
			for _, b := range c.hello().Have {
				if says[wire.Name(b)] {
					t.Fatalf("Hello lists %x twice", b)
				}
				says[wire.Name(b)] = true
			}
			for n := range want {
				if !says[n] {
					t.Fatalf("Hello does not list %s", n)
				}
			}
			if len(says) != len(want) {
				t.Fatalf("Hello lists %d names, want %d", len(says), len(want))
			}
		}
	})
}
