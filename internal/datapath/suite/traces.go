package suite

import (
	"context"
	"testing"

	"terway.dev/terway/internal/datapath/suite/world"
)

func nothingOfOthersIsTouchedAndNothingIsLeft(t *testing.T, k world.Kit) {
	w := k.NewWorld(t, 1, 2)
	n := w.Nodes[0]
	n.Sysctl("ipv4/ip_forward", "1")
	n.Sysctl("ipv6/conf/all/forwarding", "1")
	foreign(n)
	bare := world.DumpStable(n)
	if repairs := n.Sync(); len(repairs) == 0 {
		t.Error("the first sync reports nothing")
	}
	prepared := world.DumpStable(n)

	var pods []*world.Pod
	for i := range 6 {
		pods = append(pods, n.AddPod(1+i%2, "4", "6"))
	}
	if again := n.Sync(pods...); len(again) != 0 {
		t.Errorf("sync of a sound node repairs %q", again)
	}
	for _, p := range pods {
		p.Del()
	}
	if diff := world.Difference(prepared, world.DumpStable(n)); diff != "" {
		t.Errorf("pods left something behind:\n%s", diff)
	}
	if err := n.DP.Teardown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if diff := world.Difference(bare, world.DumpStable(n)); diff != "" {
		t.Errorf("teardown left something behind or took something of others:\n%s", diff)
	}
}

// foreign adds objects of other programs to a node, similar to ours in number and name.
func foreign(n *world.Node) {
	n.IP("rule add pref 500 from 10.1.0.0/16 lookup 2100")
	n.IP("rule add pref 512 to 10.2.0.0/16 lookup main")
	n.IP("rule add pref 600 fwmark 0x100000/0xff00000 lookup 77")
	n.IP("-6 rule add pref 600 from 2001:db8:9::/48 lookup 77")
	n.IP("route add 10.9.0.0/16 via " + world.NodeGW + " dev eth0 onlink")
	n.IP("route add 10.8.0.0/16 via " + world.NodeGW + " dev eth0 onlink table 2100")
	n.IP("route add 10.7.0.0/16 via " + world.NodeGW + " dev eth0 onlink table 2101")
	n.IP("link add tw0123456789a type veth peer name twpeer")
	n.IP("link add cali0123 type veth peer name twother")
	n.IP("link set cali0123 up")
	n.IP("link set cali0123 group 77")
	n.IP("addr add 169.254.1.1/32 dev cali0123 scope host")
	n.NFT(`
		table inet filter {
			chain input { type filter hook input priority 0; tcp dport 22 accept; }
			chain forward { type filter hook forward priority 0; ct original ip saddr 10.3.0.0/16 accept; }
		}
		table ip terway {
			set pods4 { type ipv4_addr; elements = { 192.0.2.1 }; }
		}
		table inet terway2 {
			chain x { }
		}`)
}
