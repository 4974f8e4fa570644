package world

import (
	"fmt"
	"strings"
)

// Cut removes one object.
type Cut struct {
	Name string
	Cut  func()
	// Check is part of CheckPod's error then; empty if a pod does not depend on the object.
	Check string
}

// RouteCuts are the objects of the datapath route, on which others build: one pod's, its ENI's
// (eth1) and the node's.
func RouteCuts(n *Node, p *Pod) []Cut {
	dev, table := p.Wiring.HostIfName, n.Table(1)
	element := fmt.Sprintf("element inet terway pods4 { %q . %s", dev, p.V4)
	return []Cut{
		{"device on the node", func() { n.IP("link del " + dev) }, "device " + dev},
		{"device on the node is down", func() { n.IP("link set " + dev + " down") }, dev + " is down"},
		{"group", func() { n.IP("link set " + dev + " group 5") }, "group"},
		{"MAC on the node", func() { n.IP("link set " + dev + " address 02:00:00:00:00:01") }, "MAC"},
		{"ARP on the node", func() { n.IP("link set " + dev + " arp on") }, "ARP"},
		{"MTU on the node", func() { n.IP("link set " + dev + " mtu 1400") }, "MTU"},
		{"route to the pod", func() { n.IP("route del " + p.V4.String() + " table 2100") }, "route to " + p.V4.String()},
		{"IPv6 route to the pod", func() { n.IP("-6 route del " + p.V6.String() + " table 2100") }, "route to " + p.V6.String()},
		{"neighbour on the node", func() { n.IP("neigh del " + p.V4.String() + " dev " + dev) }, "neighbour " + p.V4.String()},
		{"IPv6 neighbour on the node", func() { n.IP("neigh del " + p.V6.String() + " dev " + dev) }, "neighbour " + p.V6.String()},
		{"element", func() { n.NFT("delete " + element + " }") }, "element"},
		{"mark of the element", func() { n.NFT("delete " + element + " }\nadd " + element + " : 0x07700000 }") }, "has mark"},
		{"sysctl of the device", func() { n.Sysctl("ipv4/conf/"+dev+"/forwarding", "0") }, "forwarding"},
		{"device in the pod is down", func() { p.IP("link set eth0 down") }, "eth0 of the pod is down"},
		{"MAC in the pod", func() { p.IP("link set eth0 address 02:00:00:00:00:02") }, "MAC"},
		{"address in the pod", func() { p.IP("addr del " + p.V4.String() + "/32 dev eth0") }, "address " + p.V4.String()},
		{"IPv6 address in the pod", func() { p.IP("addr del " + p.V6.String() + "/128 dev eth0") }, "address " + p.V6.String()},
		{"route in the pod", func() { p.IP("route del default") }, "default route via 169.254.1.1"},
		{"IPv6 route in the pod", func() { p.IP("-6 route del default") }, "default route via fe80::1"},
		{"neighbour in the pod", func() { p.IP("neigh del 169.254.1.1 dev eth0") }, "neighbour 169.254.1.1"},
		{"IPv6 neighbour in the pod", func() { p.IP("neigh del fe80::1 dev eth0") }, "neighbour fe80::1"},
		{"rule to local pods", func() { n.IP("rule del pref 500") }, "rule 500"},
		{"IPv6 rule to local pods", func() { n.IP("-6 rule del pref 500") }, "rule 500"},
		{"rule against strays", func() { n.IP("rule del pref 550") }, "rule 550"},
		{"rule of the ENI", func() { n.IP("rule del pref 600 lookup " + table) }, "rule 600"},
		{"IPv6 rule of the ENI", func() { n.IP("-6 rule del pref 600 lookup " + table) }, "rule 600"},
		{"route of the ENI", func() { n.IP("route del default via " + PodGW + " table " + table) }, "default via " + PodGW},
		{"IPv6 route of the ENI", func() { n.IP("-6 route del default via " + PodGW6 + " table " + table) }, "default via " + PodGW6},
		{"stop behind the ENI", func() { n.IP("route del unreachable default table " + table) }, "unreachable default"},
		{"ENI is down", func() { n.IP("link set eth1 down") }, "eth1 is down"},
		{"address of the ENI", func() { n.IP("addr del 169.254.1.1/32 dev eth1") }, ""},
		{"sysctl of the ENI", func() { n.Sysctl("ipv4/conf/eth1/rp_filter", "1") }, ""},
		{"forwarding", func() { n.Sysctl("ipv4/ip_forward", "0") }, "forwarding"},
		{"nftables table", func() { n.NFT("delete table inet terway") }, "element"},
		{"nftables NAT table", func() { n.NFT("delete table ip terway-nat") }, "table ip terway-nat is missing"},
		{"nftables NAT chain", func() { n.NFT("flush chain ip6 terway-nat as-node") }, "chain as-node"},
		{"nftables chain", func() { n.NFT("flush chain inet terway exit") }, "chain exit"},
		{"nftables priority", func() {
			n.NFT("flush chain inet terway source\ndelete chain inet terway source\nadd chain inet terway source { type filter hook prerouting priority -300; }")
		}, "priority"},
		{"nftables rule added", func() { n.NFT("insert rule inet terway source drop") }, "chain source"},
		{"nftables rule added that the agent cannot read", func() { n.NFT("insert rule inet terway exit ct original ip saddr 10.3.0.0/16 drop") }, "chain exit"},
		{"nftables set", func() { n.NFT("flush set inet terway inside4") }, "inside4"},
		{"nftables map", func() { n.NFT("flush map inet terway pods6") }, "element"},
		{"everything", func() {
			n.NFT("flush ruleset")
			n.IP("rule del pref 500")
			n.IP("link del " + dev)
			n.IP("link set eth1 down")
		}, "device"},
	}
}

// Table returns the routing table of eth<e> in datapaths that have one for each ENI.
func (n *Node) Table(e int) string {
	n.w.t.Helper()
	for _, line := range strings.Split(n.IP("route show table all default"), "\n") {
		words := strings.Fields(line)
		for i, w := range words {
			if w == "table" && i+1 < len(words) && strings.Contains(line, fmt.Sprintf(" dev eth%d ", e)) {
				return words[i+1]
			}
		}
	}
	n.w.t.Fatalf("eth%d of %s has no routing table", e, n.Name)
	return ""
}
