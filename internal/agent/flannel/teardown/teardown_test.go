package teardown

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netns"

	"terway.dev/terway/internal/testutil"
)

func kernelOf(t *testing.T, ns *testutil.NS) Kernel {
	t.Helper()
	handle, err := netns.GetFromPath(ns.Path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { handle.Close() })
	return Kernel{NS: handle, PodCIDR: netip.MustParsePrefix("172.20.0.0/16")}
}

// The bridge, its pods' devices and the tables go; other devices and tables stay.
func TestRemove(t *testing.T) {
	testutil.RequireRoot(t)
	ns := testutil.NewNS(t, "flannel")
	ns.IPs("link add cni0 type bridge", "address add 172.20.1.1/24 dev cni0", "link add veth1 type veth peer name pod1", "link set veth1 master cni0",
		"link add br1 type bridge", "link add veth2 type veth peer name pod2", "link set veth2 master br1")
	ns.NFT(`table ip flannel-ipv4 { chain postrtg { type nat hook postrouting priority srcnat; masquerade; }; }
		table ip6 flannel-ipv6 { }
		table inet flannel-ipv4 { }
		table ip cni_hostport { chain hostports { }; chain hostip_hostports { }; }
		table ip6 cni_hostport { chain hostports { tcp dport 80 accept comment "pod of another network"; }; }
		table ip other { }`)
	k := kernelOf(t, ns)
	if n, err := k.Pods(); n != 1 || err != nil {
		t.Errorf("%d pods, %v; want 1", n, err)
	}
	for range 2 { // the second time there is nothing
		left, err := k.Remove()
		if err != nil || len(left) > 0 {
			t.Fatalf("left %q, %v", left, err)
		}
		devices := ns.IP("-o link")
		for name, want := range map[string]bool{"cni0": false, "veth1": false, "br1": true, "veth2": true} {
			if strings.Contains(devices, ": "+name) != want {
				t.Errorf("device %s: want it %t:\n%s", name, want, devices)
			}
		}
		tables := ns.Run("nft", "list", "tables")
		for name, want := range map[string]bool{"ip flannel-ipv4": false, "ip6 flannel-ipv6": false, "ip cni_hostport": false, "inet flannel-ipv4": true, "ip6 cni_hostport": true, "ip other": true} {
			if strings.Contains(tables, "table "+name+"\n") != want {
				t.Errorf("table %s: want it %t:\n%s", name, want, tables)
			}
		}
		if n, err := k.Pods(); n != 0 || err != nil {
			t.Errorf("%d pods, %v", n, err)
		}
	}
}

// Other networks use a bridge of the same name: that of upstream's plugin by default.
func TestRemoveKeepsAnothersBridge(t *testing.T) {
	testutil.RequireRoot(t)
	ns := testutil.NewNS(t, "flannel")
	ns.IPs("link add cni0 type bridge", "address add 10.22.0.1/16 dev cni0", "link add veth1 type veth peer name pod1", "link set veth1 master cni0")
	k := kernelOf(t, ns)
	if n, err := k.Pods(); n != 0 || err != nil {
		t.Errorf("%d pods, %v; want none of ours", n, err)
	}
	left, err := k.Remove()
	if err != nil || len(left) != 1 || !strings.Contains(left[0], "cni0") {
		t.Errorf("left %q, %v; want that it is not ours", left, err)
	}
	if devices := ns.IP("-o link"); !strings.Contains(devices, ": cni0") || !strings.Contains(devices, ": veth1") {
		t.Errorf("devices:\n%s", devices)
	}
}
