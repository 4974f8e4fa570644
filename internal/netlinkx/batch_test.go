package netlinkx

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/testutil"
)

// Each request has its own answer, also if the kernel sends only errors, and requests after a
// refused one are executed.
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
	gone := func(err error) bool { return errors.Is(err, unix.ENODEV) && Gone(err) }
	good := func(err error) bool { return err == nil }
	for _, c := range []struct {
		indexes []int32
		want    []func(error) bool
	}{
		{[]int32{9999, 1, 9998}, []func(error) bool{gone, good, gone}},
		{[]int32{9999, 9998, 1}, []func(error) bool{gone, gone, good}},
		{[]int32{1, 9999}, []func(error) bool{good, gone}},
		{[]int32{9999}, []func(error) bool{gone}},
		{[]int32{1}, []func(error) bool{good}},
		{nil, nil},
	} {
		n.IP("link set lo down")
		var requests []*nl.NetlinkRequest
		for _, index := range c.indexes {
			requests = append(requests, up(index))
		}
		answers, err := b.Do(requests)
		if err != nil || len(answers) != len(c.want) {
			t.Fatalf("%v: %v, %v", c.indexes, answers, err)
		}
		for i, as := range c.want {
			if !as(answers[i]) {
				t.Errorf("%v: answers %v", c.indexes, answers)
			}
		}
		if out := n.IP("link show lo"); slices.Contains(c.indexes, 1) && !strings.Contains(out, "UP") {
			t.Errorf("%v: lo is not up: %s", c.indexes, out)
		}
	}
	var many []*nl.NetlinkRequest
	for range 100 {
		many = append(many, up(1))
	}
	if answers, err := b.Do(many); err != nil || errors.Join(answers...) != nil || len(answers) != 100 {
		t.Errorf("100 requests: %v, %v", answers, err)
	}

	// A query is answered, also after a refused request; an error has the kernel's text.
	r := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	info := nl.NewIfInfomsg(unix.AF_UNSPEC)
	info.Index = 1
	r.AddData(info)
	data, err := b.Ask(r)
	if err != nil || nl.DeserializeIfInfomsg(data).Index != 1 {
		t.Errorf("lo: %v, %v", data, err)
	}
	info.Index = 9999
	if _, err := b.Ask(r); !gone(err) {
		t.Errorf("a device that is not there: %v", err)
	}
	mtu := nl.NewNetlinkRequest(unix.RTM_SETLINK, 0)
	n.IP("link add v type veth peer name w")
	named := nl.NewIfInfomsg(unix.AF_UNSPEC)
	mtu.AddData(named)
	mtu.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated("v")))
	mtu.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(1<<20)))
	answers, err := b.Do([]*nl.NetlinkRequest{mtu})
	if err != nil || !errors.Is(answers[0], unix.EINVAL) || !strings.Contains(answers[0].Error(), "mtu greater than device maximum") {
		t.Errorf("an MTU that is too large: %v, %v", answers, err)
	}
}
