package flannel

import (
	"encoding/json"
	"fmt"
	"slices"
)

// ConflistName is the file name in upstream's manifest.
const ConflistName = "10-flannel.conflist"

// Bridge is the device that connects a node's pods, networkName the network's name: those of upstream's manifest. host-local stores its
// state under the latter.
const (
	Bridge      = "cni0"
	networkName = "cbr0"
)

// plugins are the programs named in the configuration.
var plugins = []string{"bridge", "host-local", "portmap"}

// versions are the CNI versions that these plugins (v1.9) and the runtimes share.
var versions = []string{"1.1.0", "1.0.0"}

// CheckVersion returns an error if the configuration cannot be written in a CNI version.
func CheckVersion(version string) error {
	if !slices.Contains(versions, version) {
		return fmt.Errorf("CNI version %q: want one of %v", version, versions)
	}
	return nil
}

// Conflist returns a node's CNI configuration: the configuration that flannel's own plugin would
// pass to bridge, and portmap for hostPorts.
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
		"name":       networkName,
		"plugins": []map[string]any{
			{
				"type": "bridge", "bridge": Bridge,
				"isDefaultGateway": true,
				// A node that registers again may get another block.
				"forceAddress": true,
				// A pod can reach itself through its Service.
				"hairpinMode": true,
				"mtu":         s.MTU,
				// Masquerade in one place only.
				"ipMasq": !s.Masquerade,
				"ipam":   map[string]any{"type": "host-local", "ranges": ranges, "routes": routes},
			},
			{"type": "portmap", "capabilities": map[string]bool{"portMappings": true}},
		},
	}, "", "  ")
}
