package netkit

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath/ebpf"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/suite/world"
	"terway.dev/terway/internal/testutil"
)

// subject is a node with pods of this kind, of ebpf and of route.
type subject struct {
	*node.Node
	programs *ebpf.Kind
}

// own has the programs of the node.
func own(n *world.Node) *ebpf.Kind { return n.DP.(*subject).programs }

// cuts are those of route, without the MACs and neighbours that a pair does not have, and those of
// this kind's objects.
func cuts(n *world.Node, p *world.Pod) []world.Cut {
	list := slices.DeleteFunc(world.RouteCuts(n, p), func(c world.Cut) bool {
		return strings.HasPrefix(c.Name, "MAC ") || strings.Contains(c.Name, "neighbour ")
	})
	tc := func(words string) { n.Run("tc", strings.Fields(words)...) }
	return append(list, []world.Cut{
		{Name: "program for what the pod sends", Cut: func() { take(n, p, attachPoints[0]) }, Check: ebpf.FromNetkit + " is missing"},
		{Name: "program for what the pod gets", Cut: func() { take(n, p, attachPoints[1]) }, Check: ebpf.ToPod + " is missing"},
		{Name: "policy", Cut: func() {
			if err := setPolicy(n.NS, p.Wiring.HostIfName, netlink.NETKIT_POLICY_FORWARD); err != nil {
				panic(err)
			}
		}, Check: "policy"},
		{Name: "program for what the ENI gets", Cut: func() { tc("filter del dev eth1 ingress pref 84") }, Check: "tw_from_eni is missing"},
		{Name: "program for what the ENI sends", Cut: func() { tc("filter del dev eth1 egress pref 84") }, Check: "tw_to_eni is missing"},
	}...)
}

// take removes the program from an attach point of a pod's pair.
func take(n *world.Node, p *world.Pod, from attachPoint) {
	err := n.Do(func() error {
		device, err := netlink.LinkByName(p.Wiring.HostIfName)
		if err != nil {
			return err
		}
		program, _, err := ours(device.Attrs().Index, from.attach)
		if err != nil {
			return err
		}
		if program == nil {
			return fmt.Errorf("%s of %s: no program", from.attach, p.Wiring.HostIfName)
		}
		defer program.Close()
		return link.RawDetachProgram(link.RawDetachProgramOptions{
			Target: device.Attrs().Index, Program: program, Attach: from.attach,
		})
	})
	if err != nil {
		panic(err)
	}
}

// setPolicy sets what a pair does with packets for which no program decides.
func setPolicy(ns *testutil.NS, name string, policy netlink.NetkitPolicy) error {
	return ns.Do(func() error {
		device, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		message := nl.NewIfInfomsg(unix.AF_UNSPEC)
		message.Index = int32(device.Attrs().Index)
		info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
		info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated(device.Type()))
		info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.IFLA_NETKIT_POLICY, nl.Uint32Attr(uint32(policy)))
		request := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
		request.AddData(message)
		request.AddData(info)
		_, err = request.Execute(unix.NETLINK_ROUTE, 0)
		return err
	})
}

// trace lists which programs run in which pair, and on which other devices.
func trace(n *world.Node) (string, error) {
	var lines []string
	err := n.Do(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			name, index := l.Attrs().Name, l.Attrs().Index
			if l.Type() == "netkit" {
				for _, p := range attachPoints {
					id, err := held(index, p)
					if err != nil {
						return err
					}
					lines = append(lines, fmt.Sprintf("netkit %s %s %v", name, p.program, id != 0))
				}
			}
			for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
				filters, err := netlink.FilterList(l, parent)
				if err != nil {
					continue // no such qdisc
				}
				for _, f := range filters {
					lines = append(lines, fmt.Sprintf("filter %s %d %s", name, f.Attrs().Priority, f.Type()))
				}
			}
		}
		return nil
	})
	slices.Sort(lines)
	return strings.Join(lines, "\n"), err
}
