//go:build vm

package osimage

import (
	"encoding/base64"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"terway.dev/terway/internal/agent"
	"terway.dev/terway/internal/agent/hostconf"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/vpcsim/metadata"
	ecs "terway.dev/terway/internal/vpcsim/state"
)

// renderer is a way in which cloud-init configures devices.
type renderer struct {
	// name is cloud-init's.
	name string
	// file is what it writes about the ENI.
	file string
	// manager reads the file.
	manager manager
	// restart says that cloud-init does not have the manager read the file after a hotplug.
	restart bool
	// setting is one of cloud-init's that keeps it from ENIs, where Terway has no files for the manager.
	setting string
}

// ifupdown configures what its files name.
var ifupdown = manager{
	name: "ifupdown", unit: "networking.service", done: "configured",
	state: func(dev string) string {
		if exec.Command("ifquery", "--state", dev).Run() == nil {
			return "configured"
		}
		return unmanaged
	},
}

func TestCloudInitNetplan(t *testing.T) {
	cloudInit(t, renderer{name: "netplan", file: "/etc/netplan/50-cloud-init.yaml", manager: networkd})
}

func TestCloudInitNetworkd(t *testing.T) {
	cloudInit(t, renderer{name: "networkd", file: "/etc/systemd/network/10-cloud-init-" + eni + ".network", manager: networkd, restart: true})
}

func TestCloudInitNetworkManager(t *testing.T) {
	cloudInit(t, renderer{name: "network-manager", file: "/etc/NetworkManager/system-connections/cloud-init-" + eni + ".nmconnection", manager: networkManager})
}

func TestCloudInitIfupdown(t *testing.T) {
	cloudInit(t, renderer{name: "eni", file: "/etc/network/interfaces.d/50-cloud-init", manager: ifupdown,
		setting: "datasource: {AliYun: {apply_full_imds_network_config: false}}\n"})
}

const (
	// cloudLog is cloud-init's, hotplugRules what it has udev do if it configures devices that are plugged in.
	cloudLog     = "/var/log/cloud-init.log"
	hotplugRules = "/etc/udev/rules.d/10-cloud-init-hook-hotplug.rules"

	// userData turns that on; it is not the default.
	userData = "#cloud-config\nupdates: {network: {when: [boot, hotplug]}}\n"

	// cloudConfig is cloud-init's own, for one renderer. What it does beside the network is off.
	cloudConfig = `system_info: {network: {renderers: [RENDERER], activators: [RENDERER]}}
cloud_init_modules: []
cloud_final_modules: [install-hotplug]
`
)

// cloudInit tests cloud-init as on an instance of Alibaba Cloud: it reads from the metadata service which ENIs the
// instance has, and configures all of them when the instance is new, and, if told to, each one that is plugged in.
func cloudInit(t *testing.T, r renderer) {
	m := r.manager
	host := hostconf.Host{Root: "/", Pods: claims.DevicePrefix, Write: agent.WriteFile}
	install := func() {
		t.Helper()
		if changed, err := host.Install(primary(t)); err != nil || len(changed) == 0 {
			t.Fatalf("wrote %v, %v", changed, err)
		}
	}
	write(t, "/etc/cloud/cloud.cfg.d/99-test.cfg", strings.ReplaceAll(cloudConfig, "RENDERER", r.name))
	hotplug := serveMetadata(t)
	run(t, "systemctl", "start", "cloud-init-hotplugd.socket")

	// By default it does nothing about an ENI that is plugged in.
	r.boot(t)
	if r.setting != "" {
		install()
	}
	plugIn(t)
	run(t, "udevadm", "settle")
	if _, err := os.Stat(hotplugRules); err == nil || r.wrote(t) {
		t.Errorf("without hotplug cloud-init cares for a new device: %s: %v, %s mentions %s: %t", hotplugRules, err, r.file, eni, r.wrote(t))
	}

	// Without Terway's files, or if they are for other managers, an ENI that is there when the instance is new gets its
	// address, and so does one that is plugged in.
	hotplug.Store(true)
	run(t, "cloud-init", "clean", "--logs")
	r.boot(t)
	r.takes(t, "of a new instance")
	if _, err := os.Stat(hotplugRules); err != nil {
		t.Fatalf("cloud-init does not look for new devices: %v\n%s", err, tail())
	}
	plugOut(t)
	handled(t, "remove", eni)
	r.forget(t)
	plugIn(t)
	handled(t, "add", eni)
	if r.restart {
		run(t, "systemctl", "restart", m.unit)
	}
	r.takes(t, "that is plugged in")
	plugOut(t)
	handled(t, "remove", eni)
	r.forget(t)

	// With them cloud-init writes the same, and nothing comes of it. With the setting, which cloud-init reads when the
	// machine starts, it writes nothing.
	if r.setting != "" {
		write(t, "/etc/cloud/cloud.cfg.d/99-test-setting.cfg", r.setting)
		r.boot(t)
	} else {
		install()
		run(t, "systemctl", "restart", m.unit)
		ownWorks(t, m)
	}
	plugIn(t)
	w := wire(t)
	before := w.now(t)
	t.Logf("Terway's state:\n%s", before)
	for _, step := range []struct {
		what   string
		writes bool
		do     func()
	}{
		{"sees the new devices", true, func() {
			handled(t, "add", eni)
			handled(t, "add", w.pod)
		}},
		{"runs when the machine starts again", false, func() { r.boot(t) }},
		{"runs when the instance is new", true, func() {
			r.remove(t)
			run(t, "cloud-init", "clean", "--logs")
			r.boot(t)
		}},
	} {
		step.do()
		switch wrote := r.wrote(t); {
		case wrote && r.setting != "":
			t.Errorf("cloud-init %s and mentions %s in %s in spite of its setting\n%s", step.what, eni, r.file, tail())
		case !wrote && r.setting == "" && step.writes:
			t.Errorf("cloud-init %s and does not mention %s in %s\n%s", step.what, eni, r.file, tail())
		}
		for _, dev := range []string{eni, w.pod} {
			until(t, m.name+" leaves "+dev+" alone after cloud-init "+step.what, func() bool { return m.state(dev) == unmanaged })
		}
		ownWorks(t, m)
		if after := w.now(t); after != before {
			t.Errorf("cloud-init %s: was\n%s\nis\n%s", step.what, before, after)
		}
		if says := host.Managed(eni, index(t)); len(says) != 0 {
			t.Errorf("cloud-init %s, and Terway says %q", step.what, says)
		}
		w.reaches(t)
	}
	w.unwire(t)
	handled(t, "remove", w.pod)
	ownWorks(t, m)
}

// boot runs cloud-init's stages, and the manager between them, as the start of a machine does.
func (r renderer) boot(t *testing.T) {
	t.Helper()
	for _, name := range []string{"sem", ".instance-id"} {
		if err := os.RemoveAll("/run/cloud-init/" + name); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "cloud-init", "init", "--local")
	run(t, "systemctl", "restart", r.manager.unit)
	ownWorks(t, r.manager)
	run(t, "cloud-init", "init")
	run(t, "cloud-init", "modules", "--mode=final")
	ownWorks(t, r.manager)
}

// wrote says whether cloud-init wrote configuration for the ENI.
func (r renderer) wrote(t *testing.T) bool {
	t.Helper()
	text, err := os.ReadFile(r.file)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return strings.Contains(string(text), eni)
}

// forget removes what cloud-init wrote for the ENI alone, which it leaves when the ENI is unplugged, and its log.
func (r renderer) forget(t *testing.T) {
	t.Helper()
	if strings.Contains(r.file, eni) {
		r.remove(t)
	}
	if r.wrote(t) {
		t.Fatalf("%s still mentions %s, which is gone\n%s", r.file, eni, tail())
	}
	if err := os.Truncate(cloudLog, 0); err != nil {
		t.Fatal(err)
	}
}

// remove removes the file, if it is there.
func (r renderer) remove(t *testing.T) {
	t.Helper()
	if err := os.RemoveAll(r.file); err != nil {
		t.Fatal(err)
	}
}

// takes waits until the ENI has its address, by what cloud-init wrote.
func (r renderer) takes(t *testing.T, which string) {
	t.Helper()
	text, err := os.ReadFile(r.file)
	t.Logf("about an ENI %s cloud-init wrote %s (%v):\n%s", which, r.file, err, text)
	if !r.wrote(t) {
		t.Fatalf("cloud-init does not mention an ENI %s in %s\n%s", which, r.file, tail())
	}
	until(t, r.manager.name+" configures an ENI "+which, func() bool { return works(t, eni, eniAddress, eniGateway) })
}

// handled waits until cloud-init has done what it does about a device that came or went, by the log since forget.
func handled(t *testing.T, action, dev string) {
	t.Helper()
	called := regexp.MustCompile(`hotplug-hook called .* udevaction: ` + action + `, devpath: \S*/` + dev + `}`)
	ended := regexp.MustCompile(`Exiting hotplug handler|Received fatal exception handling hotplug`)
	var end []byte
	until(t, "cloud-init handles "+action+" of "+dev, func() bool {
		text, _ := os.ReadFile(cloudLog)
		at := called.FindIndex(text)
		if at != nil {
			end = ended.Find(text[at[1]:])
		}
		return end != nil
	})
	t.Logf("cloud-init about %s of %s: %s", action, dev, end)
}

// tail is for those who read of a failure.
func tail() string {
	out, _ := exec.Command("tail", "-n", "80", cloudLog).CombinedOutput()
	return string(out)
}

// serveMetadata answers as the metadata service of an instance with the ENIs that are plugged in. Its user data turns
// hotplug on when the result is true.
func serveMetadata(t *testing.T) (hotplug *atomic.Bool) {
	t.Helper()
	hotplug = new(atomic.Bool)
	vpc := ecs.VPC{VpcId: "vpc-1", CidrBlock: netip.MustParsePrefix("10.1.0.0/16")}
	switches := map[string]ecs.VSwitch{
		"vsw-1": {VSwitchId: "vsw-1", VpcId: "vpc-1", CidrBlock: netip.MustParsePrefix("10.1.0.0/24")},
		"vsw-2": {VSwitchId: "vsw-2", VpcId: "vpc-1", CidrBlock: netip.MustParsePrefix(eniCIDR)},
	}
	card := func(id string, slot int, mac, vsw string, addresses ...netip.Addr) ecs.NetworkInterface {
		return ecs.NetworkInterface{
			NetworkInterfaceId: id, Slot: slot, MacAddress: mac, VpcId: "vpc-1", VSwitchId: vsw,
			PrimaryIpAddress: addresses[0], PrivateIpAddresses: addresses,
		}
	}
	first := netip.MustParseAddr(ownAddress)
	handler := metadata.New(metadata.Options{
		InstanceID: "i-1", Now: time.Now, Log: slog.New(slog.DiscardHandler),
		Lookup: func(string) (*metadata.Instance, error) {
			i := ecs.Instance{InstanceId: "i-1", HostName: "node-1", VpcId: "vpc-1", VSwitchId: "vsw-1", PrimaryIpAddress: first}
			i.NetworkInterfaces = []ecs.NetworkInterface{card("eni-0", 0, ownMAC.String(), "vsw-1", first)}
			if _, err := net.InterfaceByName(eni); err == nil {
				i.NetworkInterfaces = append(i.NetworkInterfaces,
					card("eni-1", 1, eniMAC, "vsw-2", netip.MustParseAddr(eniAddress), netip.MustParseAddr(podAddress)))
			}
			if hotplug.Load() {
				i.UserData = base64.StdEncoding.EncodeToString([]byte(userData))
			}
			return &metadata.Instance{Instance: i, VPC: vpc, VSwitches: switches}, nil
		},
	})
	run(t, "ip", "addr", "add", metadata.Address+"/32", "dev", "lo")
	l, err := net.Listen("tcp", metadata.Address+":80")
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.Server{Listener: l, Config: &http.Server{Handler: handler}}
	server.Start()
	t.Cleanup(server.Close)
	return hotplug
}
