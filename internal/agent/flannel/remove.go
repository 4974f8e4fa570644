package flannel

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Files are the folders of a node in which this network has files.
type Files struct {
	// ConfDir and BinDir are where the runtime looks for configurations and plugins.
	ConfDir, BinDir string
	// PluginDir holds the plugins that were installed.
	PluginDir string
	// StateDir has a folder of host-local's for each network.
	StateDir string
}

// Remove removes the configuration, the plugins and the addresses that host-local has given out, and returns a line for each that
// stays because it is, or may be, somebody else's: a configuration that Conflist has not made, a plugin with other contents, and what
// another configuration uses too. Missing files are no error.
func (f Files) Remove() (left []string, err error) {
	// The configuration first: from now on the runtime starts no pod with it.
	path := filepath.Join(f.ConfDir, ConflistName)
	switch data, err := os.ReadFile(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("read the CNI configuration %s: %w", path, err)
	case !isOurs(data):
		left = append(left, path+" is not of this chart")
	default:
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove the CNI configuration: %w", err)
		}
	}
	others, err := f.others()
	if err != nil {
		return left, err
	}
	for _, name := range plugins {
		why, err := f.removePlugin(name, others)
		if err != nil {
			return left, err
		}
		left = append(left, why...)
	}
	for _, o := range others {
		if o.Name == networkName {
			return append(left, fmt.Sprintf("%s: %s uses it too", filepath.Join(f.StateDir, networkName), o.file)), nil
		}
	}
	return left, f.removeState()
}

// removePlugin returns why a plugin stays.
func (f Files) removePlugin(name string, others []configuration) (left []string, err error) {
	path := filepath.Join(f.BinDir, name)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read CNI plugin: %w", err)
	}
	ours, err := os.ReadFile(filepath.Join(f.PluginDir, name))
	if err != nil {
		return nil, fmt.Errorf("read CNI plugin: %w", err)
	}
	if !bytes.Equal(data, ours) {
		return []string{path + " is not the plugin of this chart"}, nil
	}
	for _, o := range others {
		if slices.Contains(o.uses, name) {
			return []string{fmt.Sprintf("%s: %s uses it too", path, o.file)}, nil
		}
	}
	if err := os.Remove(path); err != nil {
		return nil, fmt.Errorf("remove CNI plugin: %w", err)
	}
	return nil, nil
}

// removeState removes host-local's files: one for each address, the last address of each range, and its lock. A file of another
// name keeps the folder.
func (f Files) removeState() error {
	dir := filepath.Join(f.StateDir, networkName)
	list, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read host-local's addresses: %w", err)
	}
	for _, e := range list {
		_, notAddress := netip.ParseAddr(e.Name())
		if notAddress != nil && e.Name() != "lock" && !strings.HasPrefix(e.Name(), "last_reserved_ip.") {
			return fmt.Errorf("folder %s has %s, which is not a file of host-local: remove it", dir, e.Name())
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove host-local's addresses: %w", err)
	}
	return nil
}

// configuration is what matters here of a CNI configuration.
type configuration struct {
	file string
	Name string
	uses []string // plugins
}

// others returns the node's CNI configurations. One that nobody can read uses nothing.
func (f Files) others() (all []configuration, err error) {
	list, err := os.ReadDir(f.ConfDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the CNI configurations: %w", err)
	}
	for _, e := range list {
		if !slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(e.Name())) {
			continue
		}
		path := filepath.Join(f.ConfDir, e.Name())
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read the CNI configuration %s: %w", path, err)
		}
		var c conflist
		if json.Unmarshal(data, &c) != nil {
			continue
		}
		o := configuration{file: path, Name: c.Name}
		for _, p := range append(c.Plugins, c.plugin) {
			o.uses = append(o.uses, p.Type, p.IPAM.Type)
			if p.Type == "flannel" { // upstream's calls these
				o.uses = append(o.uses, "bridge", "host-local")
			}
		}
		all = append(all, o)
	}
	return all, nil
}

type plugin struct {
	Type, Bridge string
	IPAM         struct{ Type string }
}

// conflist is a CNI configuration: a list of plugins, or of a single one.
type conflist struct {
	Name    string
	Plugins []plugin
	plugin
}

// isOurs reports whether a CNI configuration is one of Conflist's. Upstream's has the same name and another plugin.
func isOurs(data []byte) bool {
	var c conflist
	return json.Unmarshal(data, &c) == nil && c.Name == networkName && len(c.Plugins) == 2 &&
		c.Plugins[0].Type == "bridge" && c.Plugins[0].Bridge == Bridge && c.Plugins[0].IPAM.Type == "host-local" && c.Plugins[1].Type == "portmap"
}
