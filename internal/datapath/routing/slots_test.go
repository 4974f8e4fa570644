package routing

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
)

// Whatever ENIs come and go, and whenever the process restarts: no two share a slot, and one that
// stays keeps its own.
func TestSlotsAreUniqueAndStable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const kinds = 12
		var state map[string]ENI
		held := map[string]int{}
		for step := range rapid.IntRange(1, 8).Draw(t, "steps") {
			order := rapid.Permutation(seq(kinds)).Draw(t, "order")
			attached := order[:rapid.IntRange(0, kinds).Draw(t, "attached")]
			var node datapath.Node
			var links []netlink.Link
			var routes []netlink.Route
			for _, i := range attached {
				eni := datapath.ENI{ID: fmt.Sprint(i), MAC: net.HardwareAddr{2, 0, 0, 0, 0, byte(i)}}
				node.ENIs = append(node.ENIs, eni)
				links = append(links, &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: 10 + i, Name: fmt.Sprintf("eth%d", i), HardwareAddr: eni.MAC}})
				if slot := held[Key(eni.MAC)]; slot != 0 {
					routes = append(routes, netlink.Route{Table: claims.TableLocal + slot, LinkIndex: 10 + i, Type: unix.RTN_UNICAST})
				}
			}
			if rapid.Bool().Draw(t, "restart") {
				state = nil
			}
			enis, err := assignSlots(node, links, routes, state)
			if err != nil {
				t.Fatal(err)
			}
			next, used := map[string]int{}, map[int]string{}
			for mac, s := range enis {
				if s.Slot < 1 || s.Slot > kinds {
					t.Fatalf("step %d: %s has slot %d of %d ENIs", step, mac, s.Slot, kinds)
				}
				if other, dup := used[s.Slot]; dup {
					t.Fatalf("step %d: %s and %s share slot %d", step, mac, other, s.Slot)
				}
				if was := held[mac]; was != 0 && was != s.Slot {
					t.Fatalf("step %d: %s moved from slot %d to %d", step, mac, was, s.Slot)
				}
				used[s.Slot], next[mac] = mac, s.Slot
			}
			if len(enis) != len(attached) {
				t.Fatalf("step %d: %d of %d ENIs have a slot", step, len(enis), len(attached))
			}
			held, state = next, enis
		}
	})
}

func seq(n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = i
	}
	return list
}

// A stacked device shares the ENI's MAC; the ENI is still found, by name or kind.
func TestFindDevice(t *testing.T) {
	mac := net.HardwareAddr{0, 0x16, 0x3e, 0, 0, 1}
	link := func(kind, name string) netlink.Link {
		return &netlink.GenericLink{LinkType: kind, LinkAttrs: netlink.LinkAttrs{Name: name, HardwareAddr: mac}}
	}
	links := []netlink.Link{link("macvlan", "mv0"), link("", "ens6"), link("veth", "eth1")}
	for _, c := range []struct{ device, want string }{{"eth1", "eth1"}, {"", "ens6"}, {"gone", "ens6"}} {
		got, err := findDevice(links, datapath.ENI{ID: "eni-1", MAC: mac, Device: c.device})
		if err != nil || got.Attrs().Name != c.want {
			t.Errorf("device %q: got %v, %v, want %s", c.device, got, err, c.want)
		}
	}
	if _, err := findDevice(links, datapath.ENI{ID: "eni-2", MAC: net.HardwareAddr{1, 2, 3, 4, 5, 6}}); err == nil || !strings.Contains(err.Error(), "eni-2") {
		t.Errorf("missing device: %v", err)
	}
}
