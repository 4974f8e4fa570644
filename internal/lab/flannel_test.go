package lab

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestBlockPods(t *testing.T) {
	// host-local allocates .2 to .62 of a /26 whose bridge has .1.
	for bits, want := range map[int]int{24: 253, 26: 61, 28: 13} {
		if got := blockPods(bits); got != want {
			t.Errorf("/%d: %d pods, want %d", bits, got, want)
		}
	}
}

func TestFlannelPlan(t *testing.T) {
	o := options("cn-hangzhou-i")
	o.Network = NetworkFlannel
	if err := o.Normalize(); err != nil {
		t.Fatal(err)
	}
	pods, err := o.maxPods()
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintln(o.Plan.Network, o.Plan.PodCIDR, o.Plan.NodeMask, pods, len(o.Plan.Zones[0].Pods), o.kubeProxyConfig(Machine{})["clusterCIDR"])
	if want := fmt.Sprintln(NetworkFlannel, "172.20.0.0/16", 26, 61, 0, "172.20.0.0/16"); got != want {
		t.Errorf("plan %s, want %s", got, want)
	}
}

func TestRouteTo(t *testing.T) {
	routes := []Route{{To: netip.MustParsePrefix("172.20.0.0/26"), Via: "i-1", Status: "Available"}}
	for _, c := range []struct{ block, instance, want string }{
		{"172.20.0.0/26", "i-1", "Available"},
		{"172.20.0.0/26", "i-2", "to i-1"},
		{"172.20.0.64/26", "i-1", "none"},
	} {
		if got := routeTo(routes, c.block, c.instance); got != c.want {
			t.Errorf("%s to %s: %q, want %q", c.block, c.instance, got, c.want)
		}
	}
}

// For Terway, parts that only Flannel needs are neither built nor loaded into nodes.
func TestFlannelOnlyWhereItIsAskedFor(t *testing.T) {
	for network, want := range map[string]bool{NetworkTerway: false, NetworkFlannel: true} {
		o := &Options{Network: network, Cache: t.TempDir()}
		built := slices.ContainsFunc(o.targets(), func(x target) bool { return strings.HasPrefix(x.name, "Flannel") })
		for _, a := range []string{"terway", "flannel"} {
			if err := writeFile(o.cached("images", a+".tar"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		archives, err := o.imageArchives()
		if err != nil {
			t.Fatal(err)
		}
		if loaded := slices.Contains(archives, o.cached("images", "flannel.tar")); built != want || loaded != want || len(archives) == 0 {
			t.Errorf("%s: built %t, loaded %t, want %t; archives %v", network, built, loaded, want, archives)
		}
	}
}
