// Package imports keeps the rules of docs/design.md on who may know whom.
package imports

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "terway.dev/terway/"

// deps are all packages that a package needs, itself included.
func deps(t *testing.T, pkg string) []string {
	t.Helper()
	out, err := exec.Command("go", "list", "-deps", module+pkg).Output()
	if err != nil {
		t.Fatalf("go list -deps %s: %v", pkg, err)
	}
	return strings.Fields(string(out))
}

func TestRules(t *testing.T) {
	for _, r := range []struct {
		why  string
		pkgs []string
		no   []string // prefixes
	}{
		{
			"the product must not know that it talks to a simulator",
			[]string{"cmd/terway", "cmd/terwayd", "cmd/terway-controller"},
			[]string{module + "internal/vpcsim", module + "internal/lab"},
		},
		{
			"the operator's tool carries neither the lab nor the simulator: terway-lab does",
			[]string{"cmd/terwayctl"},
			[]string{module + "internal/vpcsim", module + "internal/lab"},
		},
		{
			"pure packages know no cluster, no kernel and no cloud",
			[]string{"internal/ipam", "internal/agent/pool", "internal/catalog", "internal/controller/podroute/entries"},
			[]string{"k8s.io/", "sigs.k8s.io/", "github.com/vishvananda/", "github.com/cilium/", "github.com/aliyun/", "net/http", "os/exec"},
		},
		{
			"the planner is pure, but for sigs.k8s.io/yaml, which plan files are read with",
			[]string{"internal/plan", "internal/decode"},
			[]string{
				"k8s.io/", "sigs.k8s.io/controller-runtime/", "sigs.k8s.io/json/", "sigs.k8s.io/structured-merge-diff/",
				"github.com/vishvananda/", "github.com/cilium/", "github.com/aliyun/", "net/http", "os/exec",
			},
		},
		{
			"the configuration is pure: who reads it, and when, is others' business",
			[]string{"internal/config"},
			[]string{"k8s.io/", "sigs.k8s.io/controller-runtime/", module + "api/", "net/http", "os/exec"},
		},
		{
			"what a pod says of an ENI is read without asking a cluster or a kernel",
			[]string{"internal/podeni"},
			[]string{"k8s.io/client-go/", "sigs.k8s.io/controller-runtime/", "github.com/vishvananda/", "github.com/cilium/", "github.com/aliyun/", "os/exec"},
		},
		{
			"what the datapaths claim is values, which the planner and the configuration use too",
			[]string{"internal/datapath/claims"},
			[]string{"k8s.io/", "github.com/", "golang.org/", "net/http", "os/exec"},
		},
		{
			"the cloud's interface knows no SDK",
			[]string{"internal/cloud"},
			[]string{"github.com/aliyun/", "github.com/alibabacloud-go/", "k8s.io/"},
		},
		{
			"networks are made through an interface: no SDK, no cluster and no simulator; of Kubernetes the clock alone",
			[]string{"internal/provision"},
			[]string{"k8s.io/api/", "k8s.io/apimachinery/", "k8s.io/client-go/", "sigs.k8s.io/controller-runtime/", "github.com/aliyun/", module + "internal/vpcsim", module + "internal/lab", module + "internal/cloud/alibaba"},
		},
		{
			"checks and comparison share the instruments and nothing else, and instruments judge nothing",
			[]string{"internal/lab/compare", "internal/lab/instruments"},
			[]string{module + "internal/lab/verify"},
		},
		{
			"the framework of the checks knows none of them, and neither knows the comparison",
			[]string{"internal/lab/verify", "internal/lab/verify/checks", "internal/lab/instruments"},
			[]string{module + "internal/lab/compare"},
		},
		{
			"the simulator's state knows no kernel and no product",
			[]string{"internal/vpcsim/state"},
			[]string{"github.com/vishvananda/", "github.com/cilium/", module + "internal/cloud", module + "internal/controller", module + "internal/agent"},
		},
		{
			"nodes carry no cloud credential and call no cloud",
			[]string{"cmd/terwayd", "cmd/terway"},
			[]string{"github.com/aliyun/", "github.com/alibabacloud-go/", module + "internal/cloud"},
		},
		{
			"what writes Flannel's CNI configuration knows no cluster and no kernel",
			[]string{"internal/agent/flannel"},
			[]string{"k8s.io/", "sigs.k8s.io/", "github.com/vishvananda/", "github.com/cilium/", "github.com/aliyun/", "os/exec"},
		},
		{
			"certificates are renewed without asking a cluster: every server of ours can share it",
			[]string{"internal/controller/certs"},
			[]string{"k8s.io/client-go/", "sigs.k8s.io/controller-runtime/", module + "internal/controller/admit"},
		},
		{
			"the inventory is made of objects, whoever read them",
			[]string{"internal/inventory"},
			[]string{"k8s.io/client-go/", "sigs.k8s.io/controller-runtime/", module + "internal/cloud", module + "internal/lab", module + "internal/cli", "os/exec"},
		},
		{
			"the CNI plugin is small",
			[]string{"cmd/terway"},
			[]string{"k8s.io/", "sigs.k8s.io/", "github.com/vishvananda/netlink", "go.etcd.io/", "google.golang.org/", "github.com/containernetworking/", "net", "regexp", module + "api/"},
		},
	} {
		for _, pkg := range r.pkgs {
			for _, d := range deps(t, pkg) {
				for _, no := range r.no {
					if d == strings.TrimSuffix(no, "/") || strings.HasPrefix(d, no) && strings.HasSuffix(no, "/") || strings.HasPrefix(d, no+"/") {
						t.Errorf("%s imports %s: %s", pkg, d, r.why)
					}
				}
			}
		}
	}
}

// Rooms on the ground know no other room of the project but those named here: all that stand
// on them may use them, and no circle can come of it.
func TestGround(t *testing.T) {
	for pkg, below := range map[string][]string{
		"internal/datapath/claims":   nil,
		"internal/datapath/linkkind": {"internal/datapath/claims"},
		"internal/netlinkx":          nil,
		"internal/sysctl":            {"internal/kernel"},
		"internal/datapath/attr":     nil,
		"internal/datapath":          nil,
		"internal/datapath/nft":      {"internal/datapath", "internal/datapath/claims", "internal/netlinkx"},
		"internal/datapath/tcprog":   {"internal/datapath", "internal/datapath/claims", "internal/netlinkx"},
		"internal/datapath/firewall": {
			"internal/datapath", "internal/datapath/attr", "internal/datapath/claims", "internal/datapath/nft",
			"internal/kernel", "internal/netlinkx",
		},
		"internal/datapath/routing": {
			"internal/datapath", "internal/datapath/claims", "internal/datapath/linkkind",
			"internal/kernel", "internal/netlinkx", "internal/sysctl",
		},
	} {
		for _, d := range deps(t, pkg) {
			if own, ok := strings.CutPrefix(d, module); ok && own != pkg && !slices.Contains(below, own) {
				t.Errorf("%s imports %s; it may import %q of the project", pkg, own, below)
			}
		}
	}
}
