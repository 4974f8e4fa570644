package reaper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/netlinkx"
	"terway.dev/terway/internal/testutil"
)

// All retired devices are deleted and nothing else, whoever else uses the group, after one list of
// the node's devices; and functions passed to Later run.
func TestReaper(t *testing.T) {
	testutil.RequireRoot(t)
	for _, foreign := range []bool{false, true} {
		t.Run(fmt.Sprintf("a device of others in the group: %v", foreign), func(t *testing.T) {
			node := testutil.NewNS(t, "node")
			ns, err := netlinkx.Enter(node.Path)
			if err != nil {
				t.Fatal(err)
			}
			defer ns.Close()
			h, err := ns.Handle()
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for i := range 4 {
				name := claims.HostIfName(fmt.Sprint(i), "eth0")
				node.IP(fmt.Sprintf("link add %s group %d type veth peer name p%d", name, claims.GroupPod, i))
				names = append(names, name)
			}
			if foreign {
				node.IP(fmt.Sprintf("link add other group %d type veth peer name another", claims.GroupDying))
			}
			var lock sync.Mutex
			r := New(ns.NS, &lock, slog.New(slog.DiscardHandler))
			lists := 0
			r.list = func(h *netlink.Handle) ([]netlink.Link, error) { lists++; return h.LinkList() }
			if err := r.Wait(t.Context()); err != nil { // nothing to do
				t.Fatal(err)
			}
			lock.Lock() // nothing is deleted meanwhile
			for _, name := range names[1:] {
				link, err := h.LinkByName(name)
				if err != nil {
					t.Fatal(err)
				}
				if err := r.Retire(h, link); err != nil {
					t.Fatal(err)
				}
			}
			done := 0
			r.Later(func() error { done++; return nil })
			over, cancel := context.WithCancelCause(t.Context())
			why := errors.New("it takes too long")
			cancel(why)
			if err := r.Wait(over); !errors.Is(err, why) {
				t.Errorf("while devices are there: %v", err)
			}
			lock.Unlock()
			if err := r.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			out := node.IP("-o link show")
			for i, name := range names {
				if there := strings.Contains(out, name); there != (i == 0) {
					t.Errorf("device %d is there: %v\n%s", i, there, out)
				}
			}
			if strings.Contains(out, "another") != foreign {
				t.Errorf("the device of others:\n%s", out)
			}
			if lists != 1 {
				t.Errorf("the devices were listed %d times, want once", lists)
			}
			if done != 1 {
				t.Errorf("what is to be done beside was done %d times", done)
			}
		})
	}
}
