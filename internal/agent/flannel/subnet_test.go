package flannel

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// file is what flanneld v0.26.7 writes.
const file = `FLANNEL_NETWORK=172.20.0.0/16
FLANNEL_SUBNET=172.20.1.1/24
FLANNEL_MTU=1500
FLANNEL_IPMASQ=true
`

func TestParse(t *testing.T) {
	got, err := Parse([]byte(file))
	if err != nil {
		t.Fatal(err)
	}
	want := &Subnet{
		Ranges: []Range{{
			Network: netip.MustParsePrefix("172.20.0.0/16"), Block: netip.MustParsePrefix("172.20.1.0/24"),
			Gateway: netip.MustParseAddr("172.20.1.1"),
		}},
		MTU: 1500, Masquerade: true,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestParseBothFamilies(t *testing.T) {
	got, err := Parse([]byte(file + "FLANNEL_IPV6_NETWORK=fd00:20::/56\nFLANNEL_IPV6_SUBNET=fd00:20:0:1::1/64\n# what a later version adds\nFLANNEL_NEW=1\n"))
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Ranges) != 2 || got.Ranges[0].Gateway != netip.MustParseAddr("172.20.1.1") || got.Ranges[1].Block != netip.MustParsePrefix("fd00:20:0:1::/64") {
		t.Errorf("ranges %+v", got.Ranges)
	}
}

func TestParseNamesEveryProblem(t *testing.T) {
	with := func(key, value string) string {
		var b strings.Builder
		for line := range strings.Lines(file) {
			if strings.HasPrefix(line, key+"=") {
				line = key + "=" + value + "\n"
			}
			b.WriteString(line)
		}
		return b.String()
	}
	for _, c := range []struct {
		name, file string
		want       []string
	}{
		{"empty", "", []string{"FLANNEL_NETWORK and FLANNEL_SUBNET are missing", `FLANNEL_MTU ""`, `FLANNEL_IPMASQ ""`}},
		{"half a file", "FLANNEL_NETWORK=172.20.0.0/16\n", []string{`FLANNEL_SUBNET ""`, `FLANNEL_MTU ""`}},
		{"all wrong", "FLANNEL_NETWORK=x\nFLANNEL_SUBNET=y\nFLANNEL_MTU=z\nFLANNEL_IPMASQ=w\nq\n",
			[]string{`FLANNEL_NETWORK "x"`, `FLANNEL_MTU "z"`, `FLANNEL_IPMASQ "w"`, `line "q"`}},
		{"network with host bits", with("FLANNEL_NETWORK", "172.20.1.0/16"), []string{`FLANNEL_NETWORK "172.20.1.0/16"`}},
		{"network of the other family", with("FLANNEL_NETWORK", "fd00::/56"), []string{`FLANNEL_NETWORK "fd00::/56"`}},
		{"block without its first address", with("FLANNEL_SUBNET", "172.20.1.0/24"), []string{`FLANNEL_SUBNET "172.20.1.0/24"`, "172.20.1.1/24"}},
		{"block outside", with("FLANNEL_SUBNET", "172.21.1.1/24"), []string{"want a block of FLANNEL_NETWORK, 172.20.0.0/16"}},
		{"block larger than the network", with("FLANNEL_SUBNET", "172.16.0.1/12"), []string{"want a block of"}},
		{"block without room", with("FLANNEL_SUBNET", "172.20.1.1/31"), []string{"no address for a pod"}},
		{"MTU too small", with("FLANNEL_MTU", "68"), []string{`FLANNEL_MTU "68": want 576 to 65535`}},
		{"MTU too small for IPv6", with("FLANNEL_MTU", "1000") + "FLANNEL_IPV6_NETWORK=fd00::/56\nFLANNEL_IPV6_SUBNET=fd00::1/64\n", []string{"want 1280 to 65535"}},
		{"twice", file + file, []string{"FLANNEL_MTU occurs twice"}},
		{"newline in a value", with("FLANNEL_IPMASQ", "true\"}"), []string{"FLANNEL_IPMASQ"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse([]byte(c.file))
			if err == nil {
				t.Fatal("no error")
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("the error does not have %q:\n%v", w, err)
				}
			}
		})
	}
}

// Every block of every network that flanneld can have is read as it was written.
func TestParseReadsWhatFlanneldWrites(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		networkBits := rapid.IntRange(8, 28).Draw(t, "network bits")
		bits := rapid.IntRange(networkBits, 30).Draw(t, "block bits")
		a := rapid.Uint32().Draw(t, "address")
		addr := netip.AddrFrom4([4]byte{byte(a >> 24), byte(a >> 16), byte(a >> 8), byte(a)})
		network, block := netip.PrefixFrom(addr, networkBits).Masked(), netip.PrefixFrom(addr, bits).Masked()
		first := netip.PrefixFrom(block.Addr().Next(), bits)
		got, err := Parse([]byte("FLANNEL_NETWORK=" + network.String() + "\nFLANNEL_SUBNET=" + first.String() + "\nFLANNEL_MTU=1500\nFLANNEL_IPMASQ=false\n"))
		if err != nil {
			t.Fatal(err)
		}
		if r := got.Ranges[0]; r.Network != network || r.Block != block || r.Gateway != first.Addr() || got.Masquerade {
			t.Fatalf("got %+v", got)
		}
	})
}
