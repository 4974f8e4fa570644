package flannel

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containernetworking/cni/libcni"
)

func TestConflistGolden(t *testing.T) {
	s, err := Parse([]byte(file))
	if err != nil {
		t.Fatal(err)
	}
	got, err := Conflist(s, "1.1.0")
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", ConflistName)
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("got:\n%s\nwant (UPDATE=1 rewrites it):\n%s", got, want)
	}
}

// The runtime's own library parses the configuration.
func TestRuntimeReadsConflist(t *testing.T) {
	s, err := Parse([]byte(file))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range versions {
		b, err := Conflist(s, v)
		if err != nil {
			t.Fatal(err)
		}
		list, err := libcni.ConfListFromBytes(b)
		if err != nil {
			t.Fatal(err)
		}
		if list.Name != "cbr0" || list.CNIVersion != v || len(list.Plugins) != 2 {
			t.Errorf("%s: %+v", v, list)
		}
		bridge, portmap := list.Plugins[0].Network, list.Plugins[1].Network
		if bridge.Type != "bridge" || bridge.IPAM.Type != "host-local" || portmap.Type != "portmap" || !portmap.Capabilities["portMappings"] {
			t.Errorf("%s: bridge %+v, portmap %+v", v, bridge, portmap)
		}
	}
	if _, err := Conflist(s, "0.3.1"); err == nil {
		t.Error("CNI version 0.3.1 was accepted")
	}
}

// Every file that Parse accepts results in a configuration that the runtime reads and that contains
// no more than the file's values.
func FuzzParse(f *testing.F) {
	f.Add([]byte(file))
	f.Add([]byte("FLANNEL_IPV6_NETWORK=fd00:20::/56\nFLANNEL_IPV6_SUBNET=fd00:20:0:1::1/64\nFLANNEL_MTU=1280\nFLANNEL_IPMASQ=false\n"))
	f.Add([]byte("FLANNEL_NETWORK=\"}\nFLANNEL_SUBNET=172.20.1.1/24\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Parse(data)
		if err != nil {
			return
		}
		for _, r := range s.Ranges {
			if !r.Block.Contains(r.Gateway) || !r.Network.Contains(r.Gateway) || r.Block != r.Block.Masked() || r.Block.Bits() < r.Network.Bits() {
				t.Fatalf("%+v", r)
			}
		}
		if len(s.Ranges) == 0 || s.MTU < minMTU4 || s.MTU > maxMTU {
			t.Fatalf("%+v", s)
		}
		b, err := Conflist(s, "1.1.0")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := libcni.ConfListFromBytes(b); err != nil {
			t.Fatalf("%v:\n%s", err, b)
		}
	})
}
