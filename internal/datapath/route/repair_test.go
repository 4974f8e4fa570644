package route

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"terway.dev/terway/internal/datapath"
)

// Each piece is taken away once: CheckPod names it, Sync puts it back and says
// so, and then the pod's packets flow again.
func TestEachPieceIsNoticedAndRepaired(t *testing.T) {
	w := newWorld(t, 2, 1)
	n := w.nodes[0]
	n.node.MasqueradeOutside = true
	n.sync()
	w.nodes[1].sync()
	p, far := n.addPod(1, "4", "6"), w.nodes[1].addPod(1, "4", "6")
	for _, x := range []*testPod{p, far} {
		serve(x.NS, at(x.ip, 80))
		serve(x.NS, at(x.ip6, 80))
	}
	dev, slot := p.wiring.HostIfName, n.dp.state().enis[n.mac(1).String()].slot
	table := fmt.Sprint(TableLocal + slot)
	element := fmt.Sprintf("element inet terway pods4 { %q . %s", dev, p.ip)
	for _, c := range []struct {
		name  string
		cut   func()
		check string // what CheckPod's error holds; "" if it cannot matter to a pod
	}{
		{"device on the node", func() { n.IP("link del " + dev) }, "device " + dev},
		{"device on the node is down", func() { n.IP("link set " + dev + " down") }, dev + " is down"},
		{"group", func() { n.IP("link set " + dev + " group 5") }, "group"},
		{"MAC on the node", func() { n.IP("link set " + dev + " address 02:00:00:00:00:01") }, "MAC"},
		{"MTU on the node", func() { n.IP("link set " + dev + " mtu 1400") }, "MTU"},
		{"route to the pod", func() { n.IP("route del " + p.ip.String() + " table 2100") }, "route to " + p.ip.String()},
		{"IPv6 route to the pod", func() { n.IP("-6 route del " + p.ip6.String() + " table 2100") }, "route to " + p.ip6.String()},
		{"neighbour on the node", func() { n.IP("neigh del " + p.ip.String() + " dev " + dev) }, "neighbour " + p.ip.String()},
		{"IPv6 neighbour on the node", func() { n.IP("neigh del " + p.ip6.String() + " dev " + dev) }, "neighbour " + p.ip6.String()},
		{"element", func() { n.NFT("delete " + element + " }") }, "element"},
		{"mark of the element", func() { n.NFT("delete " + element + " }\nadd " + element + " : 0x07700000 }") }, "has mark"},
		{"sysctl of the device", func() { n.Sysctl("ipv4/conf/"+dev+"/forwarding", "0") }, "forwarding"},
		{"device in the pod is down", func() { p.IP("link set eth0 down") }, "eth0 of the pod is down"},
		{"MAC in the pod", func() { p.IP("link set eth0 address 02:00:00:00:00:02") }, "MAC"},
		{"address in the pod", func() { p.IP("addr del " + p.ip.String() + "/32 dev eth0") }, "address " + p.ip.String()},
		{"IPv6 address in the pod", func() { p.IP("addr del " + p.ip6.String() + "/128 dev eth0") }, "address " + p.ip6.String()},
		{"route in the pod", func() { p.IP("route del default") }, "default route via 169.254.1.1"},
		{"IPv6 route in the pod", func() { p.IP("-6 route del default") }, "default route via fe80::1"},
		{"neighbour in the pod", func() { p.IP("neigh del 169.254.1.1 dev eth0") }, "neighbour 169.254.1.1"},
		{"IPv6 neighbour in the pod", func() { p.IP("neigh del fe80::1 dev eth0") }, "neighbour fe80::1"},
		{"rule to local pods", func() { n.IP("rule del pref 500") }, "rule 500"},
		{"IPv6 rule to local pods", func() { n.IP("-6 rule del pref 500") }, "rule 500"},
		{"rule against strays", func() { n.IP("rule del pref 550") }, "rule 550"},
		{"rule of the ENI", func() { n.IP("rule del pref 600 lookup " + table) }, "rule 600"},
		{"IPv6 rule of the ENI", func() { n.IP("-6 rule del pref 600 lookup " + table) }, "rule 600"},
		{"route of the ENI", func() { n.IP("route del default via " + podGW + " table " + table) }, "default via " + podGW},
		{"IPv6 route of the ENI", func() { n.IP("-6 route del default via " + podGW6 + " table " + table) }, "default via " + podGW6},
		{"stop behind the ENI", func() { n.IP("route del unreachable default table " + table) }, "unreachable default"},
		{"ENI is down", func() { n.IP("link set eth1 down") }, "eth1 is down"},
		{"address of the ENI", func() { n.IP("addr del 169.254.1.1/32 dev eth1") }, ""},
		{"sysctl of the ENI", func() { n.Sysctl("ipv4/conf/eth1/rp_filter", "1") }, ""},
		{"forwarding", func() { n.Sysctl("ipv4/ip_forward", "0") }, "forwarding"},
		{"nftables table", func() { n.NFT("delete table inet terway") }, "element"},
		{"nftables chain", func() { n.NFT("flush chain inet terway exit") }, "chain exit"},
		{"nftables rule added", func() { n.NFT("insert rule inet terway source drop") }, "chain source"},
		{"nftables set", func() { n.NFT("flush set inet terway inside4") }, "inside4"},
		{"nftables map", func() { n.NFT("flush map inet terway pods6") }, "element"},
		{"everything", func() {
			n.NFT("flush ruleset")
			n.IP("rule del pref 500")
			n.IP("link del " + dev)
			n.IP("link set eth1 down")
		}, "device"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx := context.Background()
			if err := n.dp.CheckPod(ctx, n.node, p.pod); err != nil {
				t.Fatalf("before: %v", err)
			}
			c.cut()
			err := n.dp.CheckPod(ctx, n.node, p.pod)
			if c.check != "" && (err == nil || !strings.Contains(err.Error(), c.check)) {
				t.Errorf("CheckPod: %v, want %q", err, c.check)
			}
			if repairs := n.sync(p); len(repairs) == 0 {
				t.Error("Sync reports nothing")
			}
			if err := n.dp.CheckPod(ctx, n.node, p.pod); err != nil {
				t.Errorf("after Sync: %v", err)
			}
			if repairs := n.sync(p); len(repairs) != 0 {
				t.Errorf("second Sync reports %q", repairs)
			}
			mustReach(t, p.NS, at(far.ip, 80), far.NS, p.ip)
			mustReach(t, far.NS, at(p.ip, 80), p.NS, far.ip)
			mustReach(t, n.NS, at(p.ip, 80), p.NS, n.ip)
			mustReach(t, far.NS, at(p.ip6, 80), p.NS, far.ip6)
			if t.Failed() {
				t.FailNow()
			}
		})
	}
	if got := w.strict(); got != 0 {
		t.Errorf("the VPC dropped %d packets with a source on the wrong ENI", got)
	}
}

// A pod that was wired before a restart must survive the loss of the table
// before the first Sync has told the new process of it.
func TestTableLostBetweenSyncs(t *testing.T) {
	w := newWorld(t, 2, 1)
	n := w.nodes[0]
	n.sync()
	w.nodes[1].sync()
	p, far := n.addPod(1), serving(w.nodes[1].addPod(1))
	n.NFT("delete table inet terway")
	q := n.addPod(1)
	mustReach(t, q.NS, at(far.ip, 80), far.NS, q.ip)
	mustReach(t, p.NS, at(far.ip, 80), far.NS, p.ip)
}

func TestSyncRemovesLeftovers(t *testing.T) {
	w := newWorld(t, 1, 1)
	n := w.nodes[0]
	n.sync()
	keep := n.addPod(1)
	before := dumpStable(n)
	n.addPod(1, "4", "6")
	vanished := n.addPod(1, "4", "6")
	vanished.Remove()
	n.NFT(`add element inet terway pods4 { "tw00000000000" . 192.168.40.77 : 0x00100000 }`)
	n.NFT(fmt.Sprintf(`add element inet terway pods4 { %q . 192.168.40.78 : 0x00100000 }`, keep.wiring.HostIfName))
	n.IP("route add 192.168.40.79 dev " + keep.wiring.HostIfName + " table 2100 proto 84")

	n.dp = n.newDatapath() // a restart: what is not in the journal is a leftover
	if repairs := n.sync(keep); len(repairs) == 0 {
		t.Error("Sync reports nothing")
	}
	if diff := difference(before, dumpStable(n)); diff != "" {
		t.Errorf("leftovers:\n%s", diff)
	}
	if repairs := n.sync(keep); len(repairs) != 0 {
		t.Errorf("second Sync reports %q", repairs)
	}
}

// Sync's list of pods is always a moment old.
func TestSyncWithAnOldList(t *testing.T) {
	w := newWorld(t, 1, 1)
	n := w.nodes[0]
	n.sync()
	p := n.addPod(1)
	check := func() error { return n.dp.CheckPod(context.Background(), n.node, p.pod) }

	n.sync() // the list was made before AddPod
	if err := check(); err != nil {
		t.Fatalf("a new pod was removed: %v", err)
	}
	n.sync(p)
	p.del()
	n.sync(p) // the list was made before DelPod
	n.settle()
	if err := check(); err == nil {
		t.Fatal("a deleted pod came back")
	}
	n.sync()
	p.add() // the same sandbox again
	if err := check(); err != nil {
		t.Fatal(err)
	}
	n.sync(p)
	n.sync() // it was in a list and is not any more: a leftover
	n.settle()
	if err := check(); err == nil {
		t.Fatal("a leftover stayed")
	}

	// Added and never listed: not new for ever.
	p.add()
	n.sync()
	n.sync()
	n.settle()
	if err := check(); err == nil {
		t.Fatal("a pod that no list has stayed")
	}
}

// The journal may hold a pod whose sandbox died: nothing to repair, no error.
func TestSyncOfDeadSandbox(t *testing.T) {
	w := newWorld(t, 1, 1)
	n := w.nodes[0]
	n.sync()
	p := n.addPod(1)
	n.sync(p)
	p.Remove()
	n.sync(p)
	p.pod.NetNS = ""
	n.sync(p)
	if _, err := n.trySync(&testPod{pod: datapath.Pod{Sandbox: "s", IfName: "eth0", Name: "odd"}}); err == nil || !strings.Contains(err.Error(), "odd") {
		t.Errorf("a pod without an address: %v", err)
	}
}
