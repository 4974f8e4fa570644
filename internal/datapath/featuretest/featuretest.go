// Package featuretest tests the interface of package node for features: Run uses a small example
// feature on the pods of one kind. Each kind's package calls it; the feature also serves as an
// example for real ones.
//
// Only tests import it.
package featuretest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/object"
	"terway.dev/terway/internal/datapath/routing"
	"terway.dev/terway/internal/datapath/suite/world"
	"terway.dev/terway/internal/netlinkx"
)

// feature puts, for each pod, an element with the name of its device into an nftables set, and a
// queueing discipline at each point where packets leave by a device.
type feature struct {
	netns string
	// points are those of the last pod.
	points []node.Point
}

var set = &nftables.Set{
	Table: &nftables.Table{Family: nftables.TableFamilyINet, Name: "feature"}, Name: "pods", KeyType: nftables.TypeIFName,
}

// do runs one transaction in the node.
func (f *feature) do(work func(*nftables.Conn) error) error {
	ns, err := netns.GetFromPath(f.netns)
	if err != nil {
		return err
	}
	defer ns.Close()
	c, err := nftables.New(nftables.WithNetNSFd(int(ns)))
	if err != nil {
		return err
	}
	return work(c)
}

// Name implements node.Feature.
func (f *feature) Name() string { return "trivial" }

// Sync implements node.Feature.
func (f *feature) Sync(*object.Site, datapath.Node, []netlink.Link, []routing.ENI) (repairs []string, err error) {
	err = f.do(func(c *nftables.Conn) error {
		if _, err := c.GetSetElements(set); err == nil {
			return nil
		}
		repairs = []string{"made set pods"}
		c.AddTable(set.Table)
		if err := c.AddSet(set, nil); err != nil {
			return err
		}
		return c.Flush()
	})
	return repairs, err
}

// Objects implements node.Feature.
func (f *feature) Objects(p *node.Pod, points []node.Point) []object.Object {
	f.points = points
	list := []object.Object{element{f, p.Host.Name}}
	for _, at := range points {
		if !at.Ingress {
			list = append(list, qdisc{at.Device})
		}
	}
	return list
}

// Teardown implements node.Feature.
func (f *feature) Teardown(*netlink.Handle) error {
	err := f.do(func(c *nftables.Conn) error {
		c.DelTable(set.Table)
		return c.Flush()
	})
	if netlinkx.Gone(err) {
		return nil
	}
	return err
}

// element is a pod's element in the set.
type element struct {
	f      *feature
	device string
}

func (o element) key() []nftables.SetElement {
	key := make([]byte, 16)
	copy(key, o.device)
	return []nftables.SetElement{{Key: key}}
}

// Name implements object.Object.
func (o element) Name() string { return "feature element of " + o.device }

// Have implements object.Object.
func (o element) Have(*object.Site) (problem string, err error) {
	err = o.f.do(func(c *nftables.Conn) error {
		list, err := c.GetSetElements(set)
		if !slices.ContainsFunc(list, func(e nftables.SetElement) bool { return slices.Equal(e.Key, o.key()[0].Key) }) {
			problem = o.Name() + " is missing"
		}
		return err
	})
	return problem, err
}

// Put implements object.Object.
func (o element) Put(*object.Site) error {
	return o.f.do(func(c *nftables.Conn) error {
		return errors.Join(c.SetAddElements(set, o.key()), c.Flush())
	})
}

// Del implements object.Object.
func (o element) Del(*object.Site) error {
	err := o.f.do(func(c *nftables.Conn) error {
		return errors.Join(c.SetDeleteElements(set, o.key()), c.Flush())
	})
	if netlinkx.Gone(err) {
		return nil
	}
	return err
}

// qdisc is on a device of the pod, and is deleted with it.
type qdisc struct{ on object.Device }

const kind = "pfifo"

// Name implements object.Object.
func (o qdisc) Name() string { return kind + " of " + o.on.String() }

func (o qdisc) at(s *object.Site) (*netlink.Handle, netlink.Link, error) {
	link, err := s.Link(o.on)
	switch {
	case err != nil || link == nil:
		return nil, nil, err
	case o.on.InPod:
		h, err := s.Pod.Handle()
		return h, link, err
	}
	return s.Node, link, nil
}

// Have implements object.Object.
func (o qdisc) Have(s *object.Site) (string, error) {
	h, link, err := o.at(s)
	if err != nil || link == nil {
		return "", err
	}
	list, err := h.QdiscList(link)
	if err != nil || slices.ContainsFunc(list, func(q netlink.Qdisc) bool { return q.Type() == kind }) {
		return "", err
	}
	return o.Name() + " is missing", nil
}

// Put implements object.Object.
func (o qdisc) Put(s *object.Site) error {
	h, link, err := o.at(s)
	if err != nil {
		return err
	}
	if link == nil {
		return errors.New("the device does not exist")
	}
	return h.QdiscReplace(&netlink.GenericQdisc{QdiscType: kind, QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: link.Attrs().Index, Parent: netlink.HANDLE_ROOT, Handle: netlink.MakeHandle(0x54, 0),
	}})
}

// Del implements object.Object.
func (qdisc) Del(*object.Site) error { return nil }

// Run tests the feature on pods of the kit's kind: it is added, found missing, repaired, and
// deleted with the pod. make returns a node like the kit's, with the feature.
func Run(t *testing.T, k world.Kit, make func(world.Options, node.Feature) (world.Subject, error)) {
	var f *feature
	k.New = func(o world.Options) (world.Subject, error) {
		f = &feature{netns: o.NetNS}
		return make(o, f)
	}
	w := k.NewWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	p := n.AddPod(1, "4", "6")
	elements := func() (devices []string) {
		t.Helper()
		if err := f.do(func(c *nftables.Conn) error {
			list, err := c.GetSetElements(set)
			for _, e := range list {
				devices = append(devices, strings.TrimRight(string(e.Key), "\x00"))
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return devices
	}
	has := func(d object.Device) bool {
		args := []string{"qdisc", "show", "dev", d.Name}
		if d.InPod {
			return strings.Contains(p.Run("tc", args...), kind)
		}
		return strings.Contains(n.Run("tc", args...), kind)
	}
	points := slices.Clone(f.points)
	if !slices.ContainsFunc(points, func(at node.Point) bool { return at.FromPod }) || !slices.ContainsFunc(points, func(at node.Point) bool { return !at.FromPod }) {
		t.Errorf("points %+v: want some in each direction", points)
	}
	type piece struct {
		name string
		cut  func()
	}
	pieces := []piece{{"feature element of " + p.Wiring.HostIfName, func() {
		n.NFT(fmt.Sprintf("delete element inet feature pods { %q }", p.Wiring.HostIfName))
	}}}
	for _, at := range points {
		if at.Removable && !at.Device.InPod {
			t.Errorf("%s: the pod cannot reach it", at.Device)
		}
		if at.Ingress {
			continue
		}
		if !has(at.Device) {
			t.Errorf("%s has no %s", at.Device, kind)
		}
		pieces = append(pieces, piece{qdisc{at.Device}.Name(), func() {
			args := []string{"qdisc", "del", "dev", at.Device.Name, "root"}
			if at.Device.InPod {
				p.Run("tc", args...)
			} else {
				n.Run("tc", args...)
			}
		}})
	}
	check := func() error { return n.DP.CheckPod(context.Background(), n.Desired, p.Spec) }
	if err := check(); err != nil {
		t.Fatal(err)
	}
	if repairs := n.Sync(p); len(repairs) != 0 {
		t.Errorf("Sync of a new pod repairs %q", repairs)
	}
	for _, c := range pieces {
		c.cut()
		if err := check(); err == nil || !strings.Contains(err.Error(), c.name+" is missing") {
			t.Errorf("CheckPod: %v, want that %s is missing", err, c.name)
		}
		if repairs := n.Sync(p); len(repairs) != 1 || !strings.Contains(repairs[0], c.name) {
			t.Errorf("Sync repairs %q, want %s", repairs, c.name)
		}
		if err := check(); err != nil {
			t.Errorf("after Sync: %v", err)
		}
	}
	far := world.Serving(n.AddPod(1, "4", "6"))
	world.MustReach(t, p.NS, world.At(far.V4, 80), far.NS, p.V4)

	p.Del()
	n.Settle()
	if got := elements(); !slices.Equal(got, []string{far.Wiring.HostIfName}) {
		t.Errorf("after DelPod of %s there are elements of %q, want of %s alone", p.Wiring.HostIfName, got, far.Wiring.HostIfName)
	}
	n.DP = n.NewDatapath() // a restart: what is not in the journal is a leftover
	n.Sync()
	n.Settle()
	if got := elements(); len(got) != 0 {
		t.Errorf("unknown pods kept elements: %q", got)
	}
	if err := n.DP.Teardown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if out := n.Run("nft", "list", "tables"); strings.Contains(out, "feature") {
		t.Errorf("after Teardown:\n%s", out)
	}
}
