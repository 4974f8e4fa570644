//go:build bench

package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"terway.dev/terway/internal/testutil"
)

// buildPrograms builds what a container runtime would execute: containernetworking's plugins
// (the lab's module pins their version; the flags are the lab's, so that Go's build cache is
// used) and programs of ours.
func buildPrograms(t testing.TB, packages ...string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	const theirs = "github.com/containernetworking/plugins/plugins/"
	flags := []string{"-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", dir + "/"}
	for _, args := range [][]string{
		append(append([]string{"build", "-C", "../../internal/lab/modules/containerd"}, flags...), theirs+"main/ptp", theirs+"main/bridge", theirs+"ipam/host-local"),
		append(append([]string{"build", "-C", "../.."}, flags...), packages...),
	} {
		if strings.HasSuffix(args[len(args)-1], "/") {
			continue // none of our variables
		}
		cmd := exec.Command("go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	return dir
}

// pluginVersion returns the version of containernetworking/plugins in the lab's module.
func pluginVersion(t testing.TB) string {
	t.Helper()
	cmd := exec.Command("go", "list", "-m", "-f", "{{.Version}}", "github.com/containernetworking/plugins")
	cmd.Dir = "../../internal/lab/modules/containerd"
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("version of containernetworking/plugins: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// plugin calls a CNI plugin like a container runtime.
type plugin struct {
	dir, name string
	// config is the network's configuration.
	config string
	// args are CNI_ARGS.
	args string
}

// reference configures ptp or bridge with host-local and without masquerade, so that pods have
// their own addresses in the VPC too.
func reference(t testing.TB, dir, name string, pods netip.Prefix) plugin {
	t.Helper()
	more := ""
	if name == "bridge" {
		more = `,"bridge":"cni0","isGateway":true,"hairpinMode":true`
	}
	return plugin{dir: dir, name: name, config: fmt.Sprintf(
		`{"cniVersion":"1.0.0","name":"bench-%s","type":%q,"mtu":%d,"ipMasq":false%s,"ipam":{"type":"host-local","dataDir":%q,"subnet":%q,"routes":[{"dst":"0.0.0.0/0"}]}}`,
		name, name, mtu, more, t.TempDir(), pods)}
}

// call executes the plugin once, in the thread's namespace, and returns the address of the
// result.
func (p plugin) call(verb, id, netns string) (netip.Addr, error) {
	out, err := p.execute(verb, id, netns)
	if err != nil || verb != "ADD" {
		return netip.Addr{}, err
	}
	var res struct{ IPs []struct{ Address string } }
	if err := json.Unmarshal(out, &res); err != nil || len(res.IPs) != 1 {
		return netip.Addr{}, fmt.Errorf("%s ADD of %s: result %s (%v), want one with one address", p.name, id, out, err)
	}
	prefix, err := netip.ParsePrefix(res.IPs[0].Address)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%s ADD of %s: %w", p.name, id, err)
	}
	return prefix.Addr(), nil
}

func (p plugin) execute(verb, id, netns string) ([]byte, error) {
	cmd := exec.Command(p.dir + "/" + p.name)
	cmd.Env = []string{
		"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + id, "CNI_NETNS=" + netns, "CNI_IFNAME=eth0",
		"CNI_PATH=" + p.dir, "CNI_ARGS=" + p.args, "PATH=" + os.Getenv("PATH"),
	}
	cmd.Stdin = strings.NewReader(p.config)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s %s of %s: %w: %s%s", p.name, verb, id, err, out.String(), errOut.String())
	}
	return out.Bytes(), nil
}

// plug wires pods on the node with a reference plugin.
func (n *node) plug(dir, name string, pods int) (list []*testutil.NS, addresses []netip.Addr) {
	n.t.Helper()
	p := reference(n.t, dir, name, n.routed())
	for i := range pods {
		ns := testutil.NewNS(n.t, fmt.Sprintf("%s%d-pod%d", name, n.number, i+1))
		list = append(list, ns)
		if err := n.Do(func() error {
			a, err := p.call("ADD", ns.Name, ns.Path)
			addresses = append(addresses, a)
			return err
		}); err != nil {
			n.t.Fatal(err)
		}
	}
	return list, addresses
}
