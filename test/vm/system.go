package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// systemPackages are what a node's image has beside Debian's essential packages: systemd with networkd and udev, the
// programs that configure network devices, and what tests call. netplan.io is how Debian's and Ubuntu's images
// configure networkd, isc-dhcp-client what ifupdown calls.
var systemPackages = []string{"systemd", "systemd-sysv", "udev", "dbus", "network-manager", "cloud-init", "netplan.io", "ifupdown", "isc-dhcp-client", "iproute2", "iputils-ping", "nftables", "kmod"}

// systemRelease is that of this machine's repositories, from which the packages come.
const systemRelease = "bookworm"

const (
	guestInit = "/sbin/init"
	guestUnit = "/etc/systemd/system/vm-job.service"
	// guestService is the argument of this program in guestUnit.
	guestService = "guest-service"
)

// unit runs the job. It is all that is started beside systemd, udev and dbus: the test starts the rest.
const unit = `[Unit]
Wants=dbus.socket systemd-udev-trigger.service
After=dbus.socket systemd-udev-trigger.service

[Service]
ExecStart=/init ` + guestService + `
KillMode=process
`

// systemArguments are the kernel's: names of devices as on Alibaba Cloud.
const systemArguments = "net.ifnames=0 systemd.unit=vm-job.service systemd.condition-needs-update=0 systemd.show_status=0 " +
	"systemd.firstboot=off SYSTEMD_DEFAULT_HOSTNAME=node-1"

// systemDevices are what the machine has more: the node's own network device, with a DHCP server in its network;
// QEMU's monitor (QMP) on the guest's fourth serial port, with which the guest plugs in others; and the name by which
// cloud-init knows an instance of Alibaba Cloud.
func systemDevices(monitor string) []string {
	return []string{
		"-netdev", "user,id=own,net=10.1.0.0/24,ipv6=off",
		"-device", "virtio-net-pci,netdev=own,mac=00:16:3e:00:00:01,romfile=",
		"-chardev", "socket,id=monitor,path=" + monitor + ",server=on,wait=off",
		"-mon", "chardev=monitor,mode=control",
		"-serial", "unix:" + monitor,
		"-smbios", "type=1,manufacturer=Alibaba Cloud,product=Alibaba Cloud ECS",
	}
}

// fetchSystem returns the archive of a Debian system in the cache, and makes it if there is none.
func fetchSystem(ctx context.Context, cache string) (file string, err error) {
	file = filepath.Join(cache, systemRelease+"-"+digest(systemPackages)+".cpio")
	unlock, err := lock(filepath.Join(cache, "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		return file, err
	}
	work, err := os.MkdirTemp(cache, "system-")
	if err != nil {
		return "", fmt.Errorf("make a folder to fetch into: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	fmt.Fprintln(os.Stderr, "vm: making a Debian system of", strings.Join(systemPackages, ", "))
	root := filepath.Join(work, "root")
	args := []string{"--variant=minbase", "--include=" + strings.Join(systemPackages, ",")}
	for _, dir := range []string{"doc", "man", "locale", "i18n"} {
		args = append(args, "--dpkgopt=path-exclude=/usr/share/"+dir+"/*")
	}
	mirrors, err := mirrors(ctx, work)
	if err != nil {
		return "", err
	}
	args = append(args, systemRelease, root)
	args = append(args, lines(mirrors, []string{systemRelease, systemRelease + "-security"})...)
	if _, err := command(ctx, work, "mmdebstrap", args...); err != nil {
		return "", err
	}
	a, err := createArchive(filepath.Join(work, "system.cpio"))
	if err != nil {
		return "", err
	}
	a.system(root)
	if err := a.close(); err != nil {
		return "", fmt.Errorf("pack the Debian system: %w", err)
	}
	return file, os.Rename(filepath.Join(work, "system.cpio"), file)
}

// system copies a whole root folder. Everything belongs to root there.
func (a *archive) system(root string) {
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch info.Mode().Type() {
		case fs.ModeDir:
			a.dir(name)
		case fs.ModeSymlink:
			to, err := os.Readlink(file)
			if err != nil {
				return err
			}
			a.dir(filepath.Dir(name))
			a.entry(name, 0o120777, len(to), strings.NewReader(to))
		case 0:
			a.copy(name, file, uint32(info.Mode().Perm()))
		}
		return nil
	})
	a.err = errors.Join(a.err, err)
}
