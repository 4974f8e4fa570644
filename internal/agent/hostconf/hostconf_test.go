package hostconf

import (
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"terway.dev/terway/internal/datapath/claims"
)

func newHost(t *testing.T, dirs ...string) Host {
	h := Host{Root: t.TempDir(), Pods: claims.DevicePrefix, Write: func(path string, data []byte, mode fs.FileMode) error {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		return os.WriteFile(path, data, mode)
	}}
	for _, d := range dirs {
		if err := os.MkdirAll(filepath.Join(h.Root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

func (h Host) list(t *testing.T) (files []string) {
	t.Helper()
	err := filepath.WalkDir(h.Root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, strings.TrimPrefix(path, h.Root+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

var primary = Device{Name: "eth0", AltNames: []string{"enp0s5", "ens5"}, MAC: net.HardwareAddr{0, 0x16, 0x3e, 0, 0, 1}}

func TestInstallOnlyWhereTheProgramIs(t *testing.T) {
	for _, c := range []struct {
		dirs, want []string
	}{
		{nil, nil},
		{[]string{nmDir}, []string{nmFile}},
		{[]string{networkdDir}, []string{networkdENIs, networkdPods, networkdConf}},
	} {
		h := newHost(t, c.dirs...)
		changed, err := h.Install(primary)
		if err != nil || len(changed) != len(c.want) {
			t.Errorf("on a host with %v: wrote %v, %v", c.dirs, changed, err)
		}
		if got := h.list(t); !slices.Equal(got, c.want) {
			t.Errorf("on a host with %v there are %v, want %v", c.dirs, got, c.want)
		}
		if changed, err := h.Install(primary); err != nil || len(changed) != 0 {
			t.Errorf("again: wrote %v, %v", changed, err)
		}
		if removed, err := h.Remove(); err != nil || len(removed) != len(c.want) {
			t.Errorf("removed %v, %v; want %v", removed, err, c.want)
		}
		if left := h.list(t); len(left) != 0 {
			t.Errorf("after Remove there are %v", left)
		}
		if removed, err := h.Remove(); err != nil || len(removed) != 0 {
			t.Errorf("nothing to remove: %v, %v", removed, err)
		}
	}
}

// The network managers keep the node's own device.
func TestThePrimaryDeviceIsLeftAlone(t *testing.T) {
	h := newHost(t, nmDir, networkdDir)
	if _, err := h.Install(primary); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ file, line string }{
		{nmFile, "unmanaged-devices+=interface-name:tw*;driver:virtio_net;except:interface-name:=eth0;except:mac:00:16:3e:00:00:01"},
		{networkdENIs, "Name=!eth0 enp0s5 ens5"},
		{networkdENIs, "Property=!ID_NET_NAME_MAC=enx00163e000001"},
		{networkdPods, "Name=tw*"},
		{networkdConf, "ManageForeignRoutingPolicyRules=no"},
	} {
		b, err := os.ReadFile(filepath.Join(h.Root, c.file))
		if err != nil || !slices.Contains(strings.Split(string(b), "\n"), c.line) {
			t.Errorf("%s (%v) has no line %q:\n%s", c.file, err, c.line, b)
		}
	}
}

func TestManaged(t *testing.T) {
	h := newHost(t, nmDevices, networkdLinks)
	write := func(path, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(h.Root, path), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ nm, networkd, says string }{
		{"", "", ""},
		{"[device]\nmanaged=false\n", "ADMIN_STATE=unmanaged\n", ""},
		{"[device]\nmanaged=true\nnm-owned=true\n", "ADMIN_STATE=unmanaged\n", "nmcli device set eth1 managed no"},
		{"[device]\nmanaged=false\n", "# private\nADMIN_STATE=configuring\nOPER_STATE=routable\n", "networkctl reconfigure eth1"},
	} {
		write(nmDevices+"/5", c.nm)
		write(networkdLinks+"/5", c.networkd)
		got := h.Managed("eth1", 5)
		if (c.says == "") != (len(got) == 0) || !strings.Contains(strings.Join(got, " "), c.says) {
			t.Errorf("NetworkManager %q, networkd %q: %q, want %q", c.nm, c.networkd, got, c.says)
		}
		if other := h.Managed("eth2", 6); len(other) != 0 {
			t.Errorf("an unknown device: %q", other)
		}
	}
}
