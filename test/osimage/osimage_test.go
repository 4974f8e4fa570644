//go:build vm

// Package osimage tests Terway beside the programs that configure network devices on a node: systemd-networkd,
// NetworkManager, and cloud-init, which writes files for them; each is Debian's own and runs as on a node. Each test
// runs in a machine of its own, of "vm --debian" (test/vm), whose names and addresses they use.
package osimage

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/agent"
	"terway.dev/terway/internal/agent/hostconf"
	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/route"
)

// The machine's devices. The servers of DHCP are part of QEMU: they give out the first address, route everything by
// the gateway, and answer pings.
const (
	own        = "eth0"
	ownAddress = "10.1.0.15"
	ownGateway = "10.1.0.2"

	eni        = "eth1"
	eniMAC     = "00:16:3e:00:00:02"
	eniAddress = "10.1.1.15"
	eniGateway = "10.1.1.2"
	eniCIDR    = "10.1.1.0/24"

	podAddress = "10.1.1.50"
)

var ownMAC = net.HardwareAddr{0, 0x16, 0x3e, 0, 0, 1}

// primary is how the agent describes the node's own device.
func primary(t *testing.T) hostconf.Device {
	t.Helper()
	link, err := netlink.LinkByName(own)
	if err != nil {
		t.Fatal(err)
	}
	at := link.Attrs()
	if len(at.AltNames) == 0 || at.HardwareAddr.String() != ownMAC.String() {
		t.Fatalf("%s is not as on a node: alternative names %v, MAC %s", own, at.AltNames, at.HardwareAddr)
	}
	return hostconf.Device{Name: at.Name, AltNames: at.AltNames, MAC: at.HardwareAddr}
}

// patience is for what an emulated machine beside others does in seconds.
const patience = 2 * time.Minute

// manager is a program that configures network devices.
type manager struct {
	name string
	// unit is systemd's for the program, units are all that keep it running.
	unit  string
	units []string
	// setUp makes the configuration that images have.
	setUp func(t *testing.T)
	// state is what the program says of a device, done what it says of one that it has configured.
	state func(dev string) string
	done  string
	// removesRules says whether without Terway's files its start removes others' rules.
	removesRules bool
}

const unmanaged = "unmanaged"

// As Debian's cloud images configure networkd: by netplan.
const netplan = `network:
  version: 2
  ethernets:
    all-eth:
      match:
        name: eth*
      dhcp4: true
`

var networkd = manager{
	name: "systemd-networkd", unit: "systemd-networkd.service", units: []string{"systemd-networkd.socket", "systemd-networkd.service"}, done: "configured", removesRules: true,
	setUp: func(t *testing.T) {
		write(t, "/etc/netplan/90-default.yaml", netplan)
		run(t, "systemctl", "daemon-reload") // runs netplan's generator, as the start of a machine does
	},
	state: func(dev string) string {
		out, _ := exec.Command("networkctl", "list", "--no-legend", "--no-pager", dev).Output()
		if f := strings.Fields(string(out)); len(f) == 5 {
			return f[4]
		}
		return "unknown: " + string(out)
	},
}

var networkManager = manager{
	name: "NetworkManager", unit: "NetworkManager.service", units: []string{"NetworkManager.service"}, done: "connected",
	setUp: func(*testing.T) {}, // it configures every Ethernet device by itself
	state: func(dev string) string {
		out, _ := exec.Command("nmcli", "-g", "GENERAL.STATE", "device", "show", dev).Output()
		if _, state, ok := strings.Cut(strings.TrimSpace(string(out)), " ("); ok {
			return strings.TrimSuffix(state, ")")
		}
		return "unknown: " + string(out)
	},
}

func TestNetworkd(t *testing.T)       { test(t, networkd) }
func TestNetworkManager(t *testing.T) { test(t, networkManager) }

func test(t *testing.T, m manager) {
	host := hostconf.Host{Root: "/", Pods: claims.DevicePrefix, Write: agent.WriteFile}
	t.Cleanup(func() {
		if _, err := host.Remove(); err != nil {
			t.Error(err)
		}
	})
	m.setUp(t)
	m.start(t)

	// Without Terway's files the program takes the ENI.
	plugIn(t)
	until(t, m.name+" configures the ENI", func() bool { return works(t, eni, eniAddress, eniGateway) })
	says := host.Managed(eni, index(t))
	if len(says) != 1 || !strings.Contains(says[0], m.name+" manages "+eni) {
		t.Fatalf("it configured the ENI, and Terway says %q", says)
	}
	w := wire(t)
	if m.removesRules {
		run(t, "systemctl", "restart", m.unit)
		until(t, m.name+" removes Terway's rules", func() bool { return !strings.Contains(w.now(t), "lookup "+w.table) })
	}

	// With the files, and what Terway says is to be done, it lets go of it.
	if changed, err := host.Install(primary(t)); err != nil || len(changed) == 0 {
		t.Fatalf("wrote %v, %v", changed, err)
	}
	_, remedy, _ := strings.Cut(says[0], "on the node, ")
	remedy, _, _ = strings.Cut(remedy, ";")
	run(t, "sh", "-c", remedy)
	until(t, "after "+remedy+" "+m.name+" leaves the ENI alone", func() bool { return m.state(eni) == unmanaged })
	ownWorks(t, m)
	t.Logf("after %s:\n%s", remedy, w.now(t))
	until(t, "Terway says nothing any more", func() bool { return len(host.Managed(eni, index(t))) == 0 })
	w.unwire(t)
	plugOut(t)

	// The node keeps its network also if its own device has another name now, or another MAC: that of an instance from
	// an image that was made of this one.
	for _, was := range []hostconf.Device{
		{Name: "ens9", MAC: ownMAC},
		{Name: own, AltNames: primary(t).AltNames, MAC: net.HardwareAddr{0, 0x16, 0x3e, 0, 0, 9}},
	} {
		if _, err := host.Install(was); err != nil {
			t.Fatal(err)
		}
		run(t, "systemctl", "restart", m.unit)
		ownWorks(t, m)
	}
	if _, err := host.Install(primary(t)); err != nil {
		t.Fatal(err)
	}

	// The files are there before the ENI, and the program has read them: nothing changes any more.
	run(t, "systemctl", "restart", m.unit)
	ownWorks(t, m)
	plugIn(t)
	w = wire(t)
	before := w.now(t)
	t.Logf("Terway's state:\n%s", before)
	for _, step := range []struct {
		what string
		do   func()
	}{
		{"sees the new devices", func() {}},
		{"is restarted", func() { run(t, "systemctl", "restart", m.unit) }},
		{"reads its configuration again", func() {
			if m.unit == networkd.unit {
				run(t, "networkctl", "reload")
			} else {
				run(t, "nmcli", "general", "reload")
			}
		}},
		{"hears of all devices again from udev", func() {
			run(t, "udevadm", "control", "--reload")
			run(t, "udevadm", "trigger", "--action=add", "--subsystem-match=net", "--settle")
		}},
	} {
		step.do()
		for _, dev := range []string{eni, w.pod} {
			until(t, m.name+" leaves "+dev+" alone after it "+step.what, func() bool { return m.state(dev) == unmanaged })
		}
		ownWorks(t, m)
		if after := w.now(t); after != before {
			t.Errorf("%s %s: was\n%s\nis\n%s", m.name, step.what, before, after)
		}
		if says := host.Managed(eni, index(t)); len(says) != 0 {
			t.Errorf("%s %s, and Terway says %q", m.name, step.what, says)
		}
		w.reaches(t)
	}
	if repairs, err := w.node.Sync(context.Background(), w.want, w.list); err != nil || len(repairs) != 0 {
		t.Errorf("beside %s Terway repaired %v, %v", m.name, repairs, err)
	}
}

// start starts the program, for the rest of the test.
func (m manager) start(t *testing.T) {
	t.Helper()
	run(t, "systemctl", "start", m.unit)
	t.Cleanup(func() {
		run(t, append([]string{"systemctl", "stop"}, m.units...)...)
		run(t, "ip", "addr", "flush", "dev", own)
	})
	ownWorks(t, m)
}

// ownWorks waits until the node's own device has its address and default route.
func ownWorks(t *testing.T, m manager) {
	t.Helper()
	until(t, m.name+" configures "+own, func() bool { return works(t, own, ownAddress, ownGateway) && m.state(own) == m.done })
}

// works says whether a device has an address and a default route in table main.
func works(t *testing.T, dev, address, gateway string) bool {
	t.Helper()
	return strings.Contains(output(t, "ip", "-4", "addr", "show", "dev", dev), "inet "+address+"/") &&
		strings.Contains(output(t, "ip", "-4", "route", "show", "default", "dev", dev), "via "+gateway)
}

// wired is Terway's part of a node with an ENI and a pod.
type wired struct {
	node *node.Node
	want datapath.Node
	list []datapath.Pod
	// pod is the node's end of the pod's device, table the routing table of the ENI.
	pod, table string
	sandbox    *exec.Cmd
}

// plugIn plugs in the ENI, for the rest of the test at most.
func plugIn(t *testing.T) {
	t.Helper()
	qmp(t, "netdev_add", `{"type":"user","id":"eni","net":"`+eniCIDR+`","ipv6":false}`)
	qmp(t, "device_add", `{"driver":"virtio-net-pci","id":"eni1","netdev":"eni","mac":"`+eniMAC+`","romfile":""}`)
	until(t, "the ENI has a device", func() bool { _, err := net.InterfaceByName(eni); return err == nil })
	t.Cleanup(func() { plugOut(t) })
}

func plugOut(t *testing.T) {
	if _, err := net.InterfaceByName(eni); err != nil {
		return // already
	}
	qmp(t, "device_del", `{"id":"eni1"}`)
	until(t, "the ENI's device is gone", func() bool { _, err := net.InterfaceByName(eni); return err != nil })
	// QEMU ends the device a moment later.
	until(t, "the ENI is unplugged", func() bool { return qmpError("netdev_del", `{"id":"eni"}`) == nil })
}

func index(t *testing.T) int {
	t.Helper()
	link, err := net.InterfaceByName(eni)
	if err != nil {
		t.Fatal(err)
	}
	return link.Index
}

// wire does as the agent does with a new ENI and a pod on it.
func wire(t *testing.T) *wired {
	t.Helper()
	mac, err := net.ParseMAC(eniMAC)
	if err != nil {
		t.Fatal(err)
	}
	w := &wired{want: datapath.Node{
		Addresses: []netip.Addr{netip.MustParseAddr(ownAddress)},
		ENIs: []datapath.ENI{{
			ID: "eni-1", MAC: mac, Device: eni,
			CIDRs: []netip.Prefix{netip.MustParsePrefix(eniCIDR)}, Gateways: []netip.Addr{netip.MustParseAddr(eniGateway)},
		}},
		VPCCIDRs: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}, MasqueradeOutside: true, Kind: claims.Route,
	}}
	if w.node, err = node.New(node.Options{Kinds: []node.Kind{route.New()}, Log: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	w.sandbox = exec.Command("unshare", "--net", "sleep", "infinity")
	if err := w.sandbox.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.unwire(t) })
	ns := fmt.Sprintf("/proc/%d/ns/net", w.sandbox.Process.Pid)
	until(t, "the pod has its namespace", func() bool {
		theirs, _ := os.Readlink(ns)
		ours, err := os.Readlink("/proc/self/ns/net")
		return err == nil && theirs != "" && theirs != ours
	})
	pod := datapath.Pod{
		Sandbox: "sandbox", IfName: "eth0", NetNS: ns, Namespace: "default", Name: "pod",
		Addresses: []netip.Addr{netip.MustParseAddr(podAddress)}, ENI: eniMAC, Kind: claims.Route,
	}
	made, err := w.node.AddPod(context.Background(), w.want, pod)
	if err != nil {
		t.Fatal(err)
	}
	pod.State = datapath.Wired
	w.list, w.pod, w.table = []datapath.Pod{pod}, made.HostIfName, strconv.Itoa(claims.TableLocal+1)
	// In the VPC the pod's address is the ENI's: here the node answers for it.
	run(t, "ip", "neigh", "add", "proxy", podAddress, "dev", eni)
	if _, err := w.node.Sync(context.Background(), w.want, w.list); err != nil {
		t.Fatal(err)
	}
	return w
}

// reaches shows that a packet of the pod gets its answer through the ENI.
func (w *wired) reaches(t *testing.T) {
	t.Helper()
	run(t, "nsenter", "--net="+w.list[0].NetNS, "ping", "-c", "1", "-W", "20", eniGateway)
}

// unwire gives back all of wire; a second call does nothing.
func (w *wired) unwire(t *testing.T) {
	if w.sandbox == nil {
		return
	}
	if err := w.node.Teardown(context.Background()); err != nil {
		t.Error(err)
	}
	if err := w.node.Close(context.Background()); err != nil {
		t.Error(err)
	}
	if err := w.sandbox.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = w.sandbox.Wait() // killed
	w.sandbox = nil
}

// now is what programs could change: addresses and state of the ENI's and the pod's devices, all rules and routes, the
// nftables tables of Terway.
func (w *wired) now(t *testing.T) string {
	t.Helper()
	var all []string
	for _, dev := range []string{eni, w.pod} {
		all = append(all, output(t, "ip", "-4", "-o", "addr", "show", "dev", dev), output(t, "ip", "-o", "link", "show", "dev", dev))
	}
	all = append(all, output(t, "ip", "-4", "rule"), output(t, "ip", "-4", "route", "show", "table", "all"))
	lines := strings.Split(strings.Join(all, ""), "\n")
	return strings.Join(slices.DeleteFunc(lines, func(l string) bool { return strings.Contains(l, "dev "+own) || l == "" }), "\n")
}

func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for start := time.Now(); !is(); time.Sleep(200 * time.Millisecond) {
		if time.Since(start) > patience {
			t.Fatalf("not within %s: %s\n%s", patience, what, state())
		}
	}
}

// state is for those who read of a failure.
func state() string {
	out, _ := exec.Command("sh", "-c", "ip addr; ip rule; ip route; networkctl list --no-pager; nmcli device; journalctl -n 60 --no-pager").CombinedOutput()
	return string(out)
}

func output(t *testing.T, command ...string) string {
	t.Helper()
	out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s\n%s", strings.Join(command, " "), err, out, state())
	}
	return string(out)
}

func run(t *testing.T, command ...string) {
	t.Helper()
	start := time.Now()
	output(t, command...)
	t.Logf("%s: %s", strings.Join(command, " "), time.Since(start).Round(time.Millisecond))
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(path) })
}

// monitor is QEMU's: JSON, one object a line.
var monitor = sync.OnceValues(func() (*bufio.ReadWriter, error) {
	f, err := os.OpenFile("/dev/ttyS3", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	term, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return nil, err
	}
	term.Iflag, term.Oflag, term.Lflag = 0, 0, 0
	if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, term); err != nil {
		return nil, err
	}
	m := bufio.NewReadWriter(bufio.NewReader(f), bufio.NewWriter(f))
	return m, ask(m, "qmp_capabilities", "{}")
})

func qmp(t *testing.T, command, arguments string) {
	t.Helper()
	if err := qmpError(command, arguments); err != nil {
		t.Fatal(err)
	}
}

func qmpError(command, arguments string) error {
	m, err := monitor()
	if err != nil {
		return fmt.Errorf("open QEMU's monitor: %w", err)
	}
	return ask(m, command, arguments)
}

// asked numbers the commands.
var asked int

// ask passes over the greeting, events, and what QEMU says of the greeting itself, which the terminal sent back to it
// before it was set up. After such an error it asks again: the command may have been part of what QEMU did not understand.
func ask(m *bufio.ReadWriter, command, arguments string) error {
	asked++
	say := func() error {
		fmt.Fprintf(m, `{"execute":%q,"arguments":%s,"id":%d}`+"\n", command, arguments, asked)
		return m.Flush()
	}
	if err := say(); err != nil {
		return err
	}
	for {
		line, err := m.ReadString('\n')
		if err != nil {
			return err
		}
		var answer struct {
			ID    int
			Error *struct{ Desc string }
		}
		switch json.Unmarshal([]byte(line), &answer); {
		case answer.ID == asked && answer.Error == nil:
			return nil
		case answer.ID == asked:
			return fmt.Errorf("%s %s: %s", command, arguments, answer.Error.Desc)
		case answer.ID == 0 && answer.Error != nil:
			if err := say(); err != nil {
				return err
			}
		}
	}
}
