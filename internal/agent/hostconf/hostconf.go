// Package hostconf keeps the node's network managers, NetworkManager and systemd-networkd, away
// from the devices of pods and ENIs by drop-in files, and reports when one of them manages an ENI
// anyway.
//
// Without the files a network manager configures an ENI that is plugged in: it requests an address
// by DHCP, adds a default route to the node's main table, and sets the device down when DHCP does
// not answer. When networkd starts it also removes routes and rules that it did not make.
//
// Files are written only where the program's folder exists. The programs are not reloaded: they
// read the files when they start or are asked to reload.
package hostconf

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Files below the host's root. Names begin with a low number, so they sort before files of a
// distribution or of cloud-init that match all devices (networkd uses the first file that matches).
const (
	nmDir     = "etc/NetworkManager"
	nmFile    = nmDir + "/conf.d/84-terway.conf"
	nmDevices = "run/NetworkManager/devices" // NetworkManager's state, one file for each device

	networkdDir   = "etc/systemd/network"
	networkdPods  = networkdDir + "/05-terway-pods.network"
	networkdENIs  = networkdDir + "/05-terway-enis.network"
	networkdConf  = "etc/systemd/networkd.conf.d/84-terway.conf"
	networkdLinks = "run/systemd/netif/links" // networkd's state, one file for each device
)

const written = "# Written by terwayd at its start and removed by `terwayd teardown`.\n"

// driver of an ENI's device on Alibaba Cloud.
const driver = "virtio_net"

// Device is a network device of the node.
type Device struct {
	Name string
	// AltNames are its alternative names (ip link, altname).
	AltNames []string
	MAC      net.HardwareAddr
}

// Host is the node as seen from the agent's container.
type Host struct {
	// Root is the folder that has the host's etc and run.
	Root string
	// Pods is the prefix of the names of pods' devices.
	Pods string
	// Write replaces a file in one step and creates its folder.
	Write func(path string, data []byte, mode fs.FileMode) error
}

// Install writes the drop-ins. Every device with the driver of ENIs counts as an ENI, except the
// primary one, which carries the node's own traffic. It returns the files that it wrote or changed.
func (h Host) Install(primary Device) (changed []string, err error) {
	files := h.files(primary)
	for _, path := range slices.Sorted(maps.Keys(files)) {
		content := files[path]
		at := filepath.Join(h.Root, path)
		if old, err := os.ReadFile(at); err == nil && bytes.Equal(old, []byte(content)) {
			continue
		}
		if err := h.Write(at, []byte(content), 0o644); err != nil {
			return changed, fmt.Errorf("write a network manager's drop-in for pods' devices: %w", err)
		}
		changed = append(changed, "/"+path)
	}
	return changed, nil
}

// Remove removes the drop-ins, and returns those that existed.
func (h Host) Remove() (removed []string, err error) {
	var errs []error
	for _, path := range []string{nmFile, networkdPods, networkdENIs, networkdConf} {
		switch err := os.Remove(filepath.Join(h.Root, path)); {
		case err == nil:
			removed = append(removed, "/"+path)
		case !errors.Is(err, fs.ErrNotExist):
			errs = append(errs, err)
		}
	}
	return removed, errors.Join(errs...)
}

// files have the primary device by its names and by its MAC, of which one is enough to leave it to the network manager:
// its names may change, and on an instance from an image that was made of this one its MAC is another. networkd's
// "Name=!" matches a device if any of its names is not listed. "Property" is unknown before systemd 243, which has no
// alternative names either.
func (h Host) files(primary Device) map[string]string {
	files := map[string]string{}
	if h.has(nmDir) {
		files[nmFile] = written + `# To let NetworkManager manage another device: in a file with a later name, put
#   [keyfile]
#   unmanaged-devices+=except:interface-name:NAME
[keyfile]
unmanaged-devices+=interface-name:` + h.Pods + `*;driver:` + driver + `;except:interface-name:=` + primary.Name + `;except:mac:` + primary.MAC.String() + "\n"
	}
	if h.has(networkdDir) {
		files[networkdPods] = written + "[Match]\nName=" + h.Pods + "*\n\n[Link]\nUnmanaged=yes\n"
		files[networkdENIs] = written + "# To let networkd manage another device: use a file with an earlier name.\n" +
			"[Match]\nDriver=" + driver + "\nName=!" + strings.Join(append([]string{primary.Name}, primary.AltNames...), " ") +
			"\nProperty=!ID_NET_NAME_MAC=enx" + hex.EncodeToString(primary.MAC) + "\n\n[Link]\nUnmanaged=yes\n"
		files[networkdConf] = written + "[Network]\nManageForeignRoutes=no\nManageForeignRoutingPolicyRules=no\n"
	}
	return files
}

func (h Host) has(dir string) bool {
	at, err := os.Stat(filepath.Join(h.Root, dir))
	return err == nil && at.IsDir()
}

// Managed reports whether a network manager manages an ENI's device (given by its name and its
// index in the kernel), and what to do.
func (h Host) Managed(name string, index int) (obstacles []string) {
	at := fmt.Sprint(index)
	if value(filepath.Join(h.Root, nmDevices, at), "managed") == "true" {
		obstacles = append(obstacles, fmt.Sprintf("NetworkManager manages %[1]s, which is an ENI for pods, and may give it addresses and routes: "+
			"on the node, nmcli general reload conf && nmcli device set %[1]s managed no; if it stays managed, see /%[2]s", name, nmFile))
	}
	switch state := value(filepath.Join(h.Root, networkdLinks, at), "ADMIN_STATE"); state {
	case "", "unmanaged", "pending", "initialized", "linger":
	default:
		obstacles = append(obstacles, fmt.Sprintf("systemd-networkd manages %[1]s (%[2]s), which is an ENI for pods, and may give it addresses and routes: "+
			"on the node, networkctl reload && networkctl reconfigure %[1]s; if it stays so, a file that sorts before /%[3]s matches it (networkctl status %[1]s)", name, state, networkdENIs))
	}
	return obstacles
}

// value returns the value of a key in a file of lines key=value, or "".
func value(path, key string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), key+"="); ok {
			return v
		}
	}
	return ""
}
