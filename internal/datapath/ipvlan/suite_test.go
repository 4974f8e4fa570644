//go:build vm

// The local kernel may lack ipvlan: `make test-vm` runs these on one that has it.

package ipvlan

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/fastpath/fastpathtest"
	"terway.dev/terway/internal/datapath/featuretest"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/suite"
	"terway.dev/terway/internal/datapath/suite/world"
	"terway.dev/terway/internal/datapath/tcfilter"
)

// The suite's table for this kind.
func TestSuite(t *testing.T) { suite.Run(t, kit) }

var kit = world.Kit{
	Kind:        claims.IPvlan,
	New:         func(o world.Options) (world.Subject, error) { return newSubject(o) },
	Cuts:        cuts,
	Trace:       trace,
	Known:       fastpathtest.Known(filters),
	GoesWithENI: true,
}

// subject is a node with pods of this kind and of route.
type subject struct {
	*node.Node
	kind *Kind
}

func newSubject(o world.Options, features ...node.Feature) (*subject, error) {
	k := New(4096, nil)
	n, err := node.New(node.Options{NetNS: o.NetNS, Log: o.Log, Kinds: []node.Kind{k, node.Plain{KindName: claims.Route}}, Features: features})
	return &subject{n, k}, err
}

// A feature has its objects on pods of this kind.
func TestFeature(t *testing.T) {
	featuretest.Run(t, kit, func(o world.Options, f node.Feature) (world.Subject, error) { return newSubject(o, f) })
}

// own returns the node's kind as this package's type.
func own(n *world.Node) *Kind { return n.DP.(*subject).kind }

// cuts are those of route, without what cannot be changed about an ipvlan device, and those of this
// kind's objects.
func cuts(n *world.Node, p *world.Pod) []world.Cut {
	list := slices.DeleteFunc(world.RouteCuts(n, p), func(c world.Cut) bool {
		return strings.HasPrefix(c.Name, "MAC ") || strings.HasPrefix(c.Name, "ARP ") // the ENI's
	})
	dev, receiver := p.Wiring.HostIfName, claims.ReceiverName(n.MAC(1))
	tc := func(words string) { n.Run("tc", strings.Fields(words)...) }
	table := table(own(n).Loader.Objects)
	change := func(f func(*slavesSlave)) {
		e, _, err := table.Get(p.V4)
		if err != nil {
			panic(err)
		}
		f(&e)
		if err := table.Put(p.V4, e); err != nil {
			panic(err)
		}
	}
	return append(list, []world.Cut{
		{Name: "the pod's device", Cut: func() { p.IP("link del eth0") }, Check: "eth0 of the pod"},
		{Name: "program at the pod's device", Cut: func() { p.Run("tc", strings.Fields("filter del dev eth0 egress pref 85")...) }, Check: fromSlave + " is missing"},
		{Name: "program for what the pod gets", Cut: func() { tc("filter del dev " + dev + " egress pref 85") }, Check: toSlave + " is missing"},
		{Name: "program for what the ENI gets", Cut: func() { tc("filter del dev eth1 ingress pref 85") }, Check: fromENI + " is missing"},
		{Name: "program for what the ENI sends", Cut: func() { tc("filter del dev eth1 egress pref 85") }, Check: toENI + " is missing"},
		{Name: "qdisc of the ENI", Cut: func() { tc("qdisc del dev eth1 clsact") }, Check: fromENI + " is missing"},
		{Name: "receiver", Cut: func() { n.IP("link del " + receiver) }, Check: receiver + " on the node is missing"},
		{Name: "receiver is down", Cut: func() { n.IP("link set " + receiver + " down") }, Check: receiver + " is down"},
		{Name: "address of the receiver", Cut: func() { n.IP("addr del 169.254.1.1/32 dev " + receiver) }},
		{Name: "rule of the receiver", Cut: func() { n.IP("rule del pref 550 iif " + receiver) }, Check: "rule 550"},
		{Name: "entry of the pod", Cut: func() {
			if err := table.Delete(p.V6); err != nil {
				panic(err)
			}
		}, Check: "entry " + p.V6.String()},
		{Name: "device in the entry", Cut: func() { change(func(e *slavesSlave) { e.Host = 1 }) }, Check: "entry " + p.V4.String()},
		{Name: "ENI in the entry", Cut: func() { change(func(e *slavesSlave) { e.Eni = 1 }) }, Check: "entry " + p.V4.String()},
	}...)
}

// handle returns a netlink socket in the node.
func handle(n *world.Node) (*netlink.Handle, error) {
	ns, err := netns.GetFromPath(n.Path)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	return netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
}

// trace lists which programs run on which device, and the map of slaves.
func trace(n *world.Node) (string, error) {
	h, err := handle(n)
	if err != nil {
		return "", err
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		return "", err
	}
	devices, err := tcfilter.Devices(h)
	if err != nil {
		return "", err
	}
	var lines []string
	for _, l := range links {
		if !slices.Contains(devices, l.Attrs().Index) {
			continue
		}
		for _, parent := range []uint32{tcfilter.Ingress, tcfilter.Egress} {
			list, err := h.FilterList(l, parent)
			if err != nil {
				return "", err
			}
			for _, f := range list {
				lines = append(lines, fmt.Sprintf("filter %s %d %s", l.Attrs().Name, f.Attrs().Priority, f.Type()))
			}
		}
	}
	s := &own(n).Loader
	s.Lock()
	defer s.Unlock()
	if s.Objects != nil {
		list, err := table(s.Objects).List()
		if err != nil {
			return "", err
		}
		for a, e := range list {
			lines = append(lines, fmt.Sprintf("slave %s %+v", a, e))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n"), nil
}
