package product

import (
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"terway.dev/terway/internal/oci"
	"terway.dev/terway/internal/version"
)

// Programs are the product's own in the image, in /usr/bin.
var Programs = []string{"terway", "terwayd", "terway-controller"}

// Plugins are upstream's CNI plugins in the image, in /usr/lib/cni; on a network with Flannel the agent installs them.
var Plugins = []string{"bridge", "host-local", "portmap"}

// PluginPath is where upstream's plugins are, in Go's words; PluginModule is the folder of the module that pins them.
const (
	PluginPath   = "github.com/containernetworking/plugins/plugins/"
	PluginModule = "internal/lab/modules/containerd"
)

// PluginPackages are the packages of Plugins, below PluginPath.
var PluginPackages = []string{"main/bridge", "ipam/host-local", "meta/portmap"}

// Flags of "go build" for all programs: other flags would make Go compile all dependencies again, and give other
// programs. With them goes Strip, for upstream's programs, or Stamped, for the product's.
var Flags = []string{"-trimpath", "-buildvcs=false"}

// Strip leaves out what only a debugger reads.
const Strip = "-ldflags=-s -w"

// Stamped is Strip for programs that report a version.
func Stamped(i version.Info) string { return Strip + " " + i.LinkerFlags() }

// Image returns the product's image for an architecture: its programs, found by file, on the layer of Debian's files
// (Debian.Base). Form is oci.Plain or oci.Compressed.
func Image(arch string, i version.Info, base []byte, file func(name string) string, form func([]byte) (v1.Layer, error)) (v1.Image, error) {
	tree := oci.Tree{}
	for _, list := range []struct {
		dir   string
		names []string
	}{{"/usr/bin/", Programs}, {"/usr/lib/cni/", Plugins}} {
		for _, name := range list.names {
			if err := tree.Program(list.dir+name, file(name)); err != nil {
				return nil, err
			}
		}
	}
	layer, err := tree.Layer()
	if err != nil {
		return nil, err
	}
	img, err := oci.Image(arch, Config(i), form, base, layer)
	if err != nil {
		return nil, fmt.Errorf("assemble the image for %s: %w", arch, err)
	}
	return img, nil
}

// Config is the image's configuration.
func Config(i version.Info) v1.Config {
	return v1.Config{
		Entrypoint: []string{"/usr/bin/terwayd"},
		Labels: map[string]string{
			"org.opencontainers.image.title":       "Terway",
			"org.opencontainers.image.description": "Pods with VPC addresses on Alibaba Cloud",
			"org.opencontainers.image.version":     i.Version,
			"org.opencontainers.image.revision":    i.Commit,
			"org.opencontainers.image.licenses":    "Apache-2.0",
		},
	}
}
