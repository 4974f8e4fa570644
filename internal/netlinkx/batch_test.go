package netlinkx

import (
	"errors"
	"strings"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/testutil"
)

// Each request has its own answer, in whatever order and number the kernel gives them, and
// those behind one that fails are carried out.
func TestBatch(t *testing.T) {
	testutil.RequireRoot(t)
	n := testutil.NewNS(t, "batch")
	ns, err := netns.GetFromPath(n.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	b, err := NewBatch(ns)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	up := func(index int32) *nl.NetlinkRequest {
		info := nl.NewIfInfomsg(unix.AF_UNSPEC)
		info.Index, info.Flags, info.Change = index, unix.IFF_UP, unix.IFF_UP
		r := nl.NewNetlinkRequest(unix.RTM_SETLINK, 0)
		r.AddData(info)
		return r
	}
	for range 3 {
		n.IP("link set lo down")
		answers, err := b.Do([]*nl.NetlinkRequest{up(9999), up(1), up(9998)})
		if err != nil {
			t.Fatal(err)
		}
		if len(answers) != 3 || !errors.Is(answers[0], unix.ENODEV) || answers[1] != nil || !errors.Is(answers[2], unix.ENODEV) || !Gone(answers[0]) {
			t.Errorf("answers %v, want that the first and the last device are not there", answers)
		}
		if out := n.IP("link show lo"); !strings.Contains(out, "UP") {
			t.Errorf("lo is not up: %s", out)
		}
	}
	var many []*nl.NetlinkRequest
	for range 100 {
		many = append(many, up(1))
	}
	if answers, err := b.Do(many); err != nil || errors.Join(answers...) != nil || len(answers) != 100 {
		t.Errorf("100 requests: %v, %v", answers, err)
	}
}
