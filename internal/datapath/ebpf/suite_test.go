package ebpf

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/fastpath"
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
	Kind: claims.EBPF,
	New: func(o world.Options) (world.Subject, error) {
		return newSubject(o, 4096)
	},
	Cuts:  func(n *world.Node, p *world.Pod) []world.Cut { return append(world.RouteCuts(n, p), cuts(n, p)...) },
	Trace: trace,
	Known: fastpathtest.Known(filters),
}

// subject is a node with pods of this kind and of route.
type subject struct {
	*node.Node
	kind *Kind
}

func newSubject(o world.Options, connections int, features ...node.Feature) (*subject, error) {
	return subjectOf(New(connections), o, features...)
}

func subjectOf(k *Kind, o world.Options, features ...node.Feature) (*subject, error) {
	n, err := node.New(node.Options{NetNS: o.NetNS, Log: o.Log, Kinds: []node.Kind{k, node.Plain{KindName: claims.Route}}, Features: features})
	return &subject{n, k}, err
}

// A feature has its objects on pods of this kind.
func TestFeature(t *testing.T) {
	featuretest.Run(t, kit, func(o world.Options, f node.Feature) (world.Subject, error) { return newSubject(o, 4096, f) })
}

// own returns the node's kind as this package's type.
func own(n *world.Node) *Kind {
	return n.DP.(*subject).kind
}

// cuts are those of this kind's objects.
func cuts(n *world.Node, p *world.Pod) []world.Cut {
	dev := p.Wiring.HostIfName
	tc := func(words string) { n.Run("tc", strings.Fields(words)...) }
	pods := table(own(n).Loader.Objects)
	change := func(f func(*fastpathPod)) {
		e, _, err := pods.Get(p.V4)
		if err != nil {
			panic(err)
		}
		f(&e)
		if err := pods.Put(p.V4, e); err != nil {
			panic(err)
		}
	}
	return []world.Cut{
		{Name: "program for what the pod sends", Cut: func() { tc("filter del dev " + dev + " ingress pref 84") }, Check: fromPod + " is missing"},
		{Name: "program for what the pod gets", Cut: func() { tc("filter del dev " + dev + " egress pref 84") }, Check: ToPod + " is missing"},
		{Name: "qdisc of the pod", Cut: func() { tc("qdisc del dev " + dev + " clsact") }, Check: fromPod + " is missing"},
		{Name: "program for what the ENI gets", Cut: func() { tc("filter del dev eth1 ingress pref 84") }, Check: fromENI + " is missing"},
		{Name: "program for what the ENI sends", Cut: func() { tc("filter del dev eth1 egress pref 84") }, Check: toENI + " is missing"},
		{Name: "qdisc of the ENI", Cut: func() { tc("qdisc del dev eth1 clsact") }, Check: fromENI + " is missing"},
		{Name: "entry of the pod", Cut: func() {
			if err := pods.Delete(p.V6); err != nil {
				panic(err)
			}
		}, Check: "entry " + p.V6.String()},
		{Name: "entry of the pod's device", Cut: func() {
			if err := own(n).Loader.Objects.Maps[mapSenders].Delete(uint32(index(n, dev))); err != nil {
				panic(err)
			}
		}, Check: "entry of " + dev + " in map " + mapSenders},
		{Name: "address of the pod's device", Cut: func() {
			if err := own(n).Loader.Objects.Maps[mapSenders].Put(uint32(index(n, dev)), fastpathSender{}); err != nil {
				panic(err)
			}
		}, Check: "entry of " + dev + " in map " + mapSenders},
		{Name: "entry of the ENI", Cut: func() {
			if err := own(n).Loader.Objects.Maps[fastpath.MapENIs].Delete(uint32(index(n, "eth1"))); err != nil {
				panic(err)
			}
		}},
		{Name: "device in the entry", Cut: func() { change(func(e *fastpathPod) { e.Ifindex = 1 }) }, Check: "entry " + p.V4.String()},
		{Name: "ENI in the entry", Cut: func() { change(func(e *fastpathPod) { e.Eni = 1 }) }, Check: "entry " + p.V4.String()},
	}
}

// index returns the index of a device of the node.
func index(n *world.Node, device string) int {
	h, err := handle(n)
	if err != nil {
		panic(err)
	}
	defer h.Close()
	return must(h.LinkByName(device)).Attrs().Index
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

// trace lists which programs run on which device, and the map of pods.
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
		index, name := l.Attrs().Index, l.Attrs().Name
		if !slices.Contains(devices, index) {
			continue
		}
		lines = append(lines, "clsact on "+name)
		for _, parent := range []uint32{tcfilter.Ingress, tcfilter.Egress} {
			list, err := h.FilterList(l, parent)
			if err != nil {
				return "", err
			}
			for _, f := range list {
				lines = append(lines, fmt.Sprintf("filter %s %d %+v", name, f.Attrs().Priority, f.Type()))
			}
		}
	}
	s := &own(n).Loader
	s.Lock()
	defer s.Unlock()
	if s.Objects != nil {
		pods, err := table(s.Objects).List()
		if err != nil {
			return "", err
		}
		for a, e := range pods {
			lines = append(lines, fmt.Sprintf("pod %s %+v", a, e))
		}
		var device uint32
		var value fastpathSender
		for it := s.Objects.Maps[mapSenders].Iterate(); it.Next(&device, &value); {
			lines = append(lines, fmt.Sprintf("sender %d %+v", device, value))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n"), nil
}
