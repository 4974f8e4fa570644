package flannel

import (
	"encoding/json"
	"fmt"
	"slices"
)

// ConflistName is the name that upstream's manifest gives the file.
const ConflistName = "10-flannel.conflist"

// plugins are the programs that the configuration names.
var plugins = []string{"bridge", "host-local", "portmap"}

// versions of the CNI specification that those plugins (v1.9) and runtimes share.
var versions = []string{"1.1.0", "1.0.0"}

// CheckVersion says whether the configuration can be written in a CNI version.
func CheckVersion(version string) error {
	if !slices.Contains(versions, version) {
		return fmt.Errorf("CNI version %q: want one of %v", version, versions)
	}
	return nil
}

// Conflist is the CNI configuration for a node: what flannel's own plugin would hand to
// bridge, written down, and portmap for hostPorts.
func Conflist(s *Subnet, version string) ([]byte, error) {
	if err := CheckVersion(version); err != nil {
		return nil, err
	}
	type route struct {
		Dst string `json:"dst"`
	}
	type block struct {
		Subnet  string `json:"subnet"`
		Gateway string `json:"gateway"`
	}
	var ranges [][]block
	var routes []route
	for _, r := range s.Ranges {
		ranges = append(ranges, []block{{Subnet: r.Block.String(), Gateway: r.Gateway.String()}})
		routes = append(routes, route{Dst: r.Network.String()})
	}
	return json.MarshalIndent(map[string]any{
		"cniVersion": version,
		// The names of upstream's manifest: host-local keeps its state under the first.
		"name": "cbr0",
		"plugins": []map[string]any{
			{
				"type": "bridge", "bridge": "cni0",
				"isDefaultGateway": true,
				// A node that registers again may have another block.
				"forceAddress": true,
				// A pod reaches itself through its Service.
				"hairpinMode": true,
				"mtu":         s.MTU,
				// Once is enough.
				"ipMasq": !s.Masquerade,
				"ipam":   map[string]any{"type": "host-local", "ranges": ranges, "routes": routes},
			},
			{"type": "portmap", "capabilities": map[string]bool{"portMappings": true}},
		},
	}, "", "  ")
}
