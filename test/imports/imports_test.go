// Package imports checks the rules of docs/design.md on which package may import which.
package imports

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "terway.dev/terway/"

// deps returns all packages that a package needs, including itself.
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
			"the product must not depend on the simulator",
			[]string{"cmd/terway", "cmd/terwayd", "cmd/terway-controller"},
			[]string{module + "internal/vpcsim", module + "internal/lab"},
		},
		{
			"terwayctl must not contain the lab or the simulator, which are in terway-lab",
			[]string{"cmd/terwayctl"},
			[]string{module + "internal/vpcsim", module + "internal/lab"},
		},
		{
			"pure packages use no cluster, no kernel and no cloud",
			[]string{"internal/ipam", "internal/agent/pool", "internal/catalog", "internal/controller/podroute/entries", "internal/connectivity"},
			[]string{"k8s.io/", "sigs.k8s.io/", "github.com/vishvananda/", "github.com/cilium/", "github.com/aliyun/", "net/http", "os/exec"},
		},
		{
			"the planner is pure; it uses sigs.k8s.io/yaml only to parse plan files",
			[]string{"internal/plan", "internal/decode"},
			[]string{
				"k8s.io/", "sigs.k8s.io/controller-runtime/", "sigs.k8s.io/json/", "sigs.k8s.io/structured-merge-diff/",
				"github.com/vishvananda/", "github.com/cilium/", "github.com/aliyun/", "net/http", "os/exec",
			},
		},
		{
			"the configuration is pure: other packages read it from the cluster",
			[]string{"internal/config"},
			[]string{"k8s.io/", "sigs.k8s.io/controller-runtime/", module + "api/", "net/http", "os/exec"},
		},
		{
			"a pod's request for an ENI is parsed without a cluster or a kernel",
			[]string{"internal/podeni"},
			[]string{"k8s.io/client-go/", "sigs.k8s.io/controller-runtime/", "github.com/vishvananda/", "github.com/cilium/", "github.com/aliyun/", "os/exec"},
		},
		{
			"what load balancer and backends a Service wants is decided without a cluster, a kernel or a cloud",
			[]string{"internal/loadbalancer"},
			[]string{"k8s.io/client-go/", "sigs.k8s.io/controller-runtime/", "github.com/vishvananda/", "github.com/cilium/", "github.com/aliyun/", "os/exec"},
		},
		{
			"claims are constants that the planner and the configuration use too",
			[]string{"internal/datapath/claims"},
			[]string{"k8s.io/", "github.com/", "golang.org/", "net/http", "os/exec"},
		},
		{
			"loading eBPF objects does not depend on how they are attached",
			[]string{"internal/datapath/bpfobj"},
			[]string{"github.com/vishvananda/"},
		},
		{
			"policy maps are written without knowledge of how programs are loaded and attached",
			[]string{"internal/datapath/policymap"},
			[]string{"k8s.io/client-go/", "sigs.k8s.io/controller-runtime/", "github.com/vishvananda/", module + "internal/datapath/bpfobj", module + "internal/policy/naive"},
		},
		{
			"the cloud's interface does not depend on an SDK",
			[]string{"internal/cloud"},
			[]string{"github.com/aliyun/", "github.com/alibabacloud-go/", "k8s.io/"},
		},
		{
			"provision creates networks through an interface, without SDK, cluster and simulator; from Kubernetes it uses only the clock",
			[]string{"internal/provision"},
			[]string{"k8s.io/api/", "k8s.io/apimachinery/", "k8s.io/client-go/", "sigs.k8s.io/controller-runtime/", "github.com/aliyun/", module + "internal/vpcsim", module + "internal/lab", module + "internal/cloud/alibaba"},
		},
		{
			"checks and comparison share only the instruments, which do not depend on them",
			[]string{"internal/lab/compare", "internal/lab/instruments"},
			[]string{module + "internal/lab/verify"},
		},
		{
			"the lab uses a cluster from outside: names that it shares with the controllers are in claims",
			[]string{"internal/lab", "internal/lab/verify", "internal/lab/verify/checks", "internal/lab/compare", "internal/lab/instruments"},
			[]string{module + "internal/controller"},
		},
		{
			"the checks, their framework and the instruments do not depend on the comparison",
			[]string{"internal/lab/verify", "internal/lab/verify/checks", "internal/lab/instruments"},
			[]string{module + "internal/lab/compare"},
		},
		{
			"the simulator's state uses no kernel and no product code",
			[]string{"internal/vpcsim/state"},
			[]string{"github.com/vishvananda/", "github.com/cilium/", module + "internal/cloud", module + "internal/controller", module + "internal/agent"},
		},
		{
			"programs on nodes do not use the cloud",
			[]string{"cmd/terwayd", "cmd/terway"},
			[]string{"github.com/aliyun/", "github.com/alibabacloud-go/", module + "internal/cloud"},
		},
		{
			"the writer of Flannel's CNI configuration uses no cluster and no kernel",
			[]string{"internal/agent/flannel"},
			[]string{"k8s.io/", "sigs.k8s.io/", "github.com/vishvananda/", "github.com/cilium/", "github.com/aliyun/", "os/exec"},
		},
		{
			"what policies mean is said of values and of objects, whoever read them",
			[]string{"internal/policy", "internal/policy/selector", "internal/policy/translate", "internal/policy/feed", "internal/policy/manifest", "internal/policy/lint", "internal/policy/migrate", "internal/policy/preview"},
			[]string{"k8s.io/client-go/", "sigs.k8s.io/controller-runtime/", "github.com/vishvananda/", "github.com/cilium/", "github.com/aliyun/", "os/exec"},
		},
		{
			"translating policy objects does not depend on how policies are enforced",
			[]string{"internal/policy/translate"},
			[]string{module + "internal/policy/compile", module + "internal/policy/naive", module + "internal/config"},
		},
		{
			"the policy compiler uses no cluster and no kernel",
			[]string{"internal/policy/compile"},
			[]string{"k8s.io/client-go/", "sigs.k8s.io/controller-runtime/", "github.com/vishvananda/", "github.com/cilium/", "os/exec"},
		},
		{
			"the node's side of the hub shares only the protocol with the hub",
			[]string{"internal/policy/node"},
			[]string{module + "internal/policy/hub", module + "internal/controller", "k8s.io/client-go/", "sigs.k8s.io/controller-runtime/", "github.com/vishvananda/", "github.com/cilium/"},
		},
		{
			"the hub gets the cluster's objects from its caller",
			[]string{"internal/policy/hub"},
			[]string{module + "internal/policy/node", "k8s.io/client-go/", "sigs.k8s.io/controller-runtime/", "github.com/vishvananda/", "github.com/cilium/"},
		},
		{
			"the protocol between hub and nodes does not depend on either",
			[]string{"internal/policy/wire"},
			[]string{module + "internal/policy/hub", module + "internal/policy/node", "k8s.io/client-go/", "sigs.k8s.io/controller-runtime/", "os/exec"},
		},
		{
			"the policy compiler shares only the model with the evaluator that tests it",
			[]string{"internal/policy/compile"},
			[]string{module + "internal/policy/naive", module + "internal/policy/policytest"},
		},
		{
			"the evaluator that tests the compiler shares only the model with it and with the generator",
			[]string{"internal/policy/naive"},
			[]string{module + "internal/policy/compile", module + "internal/policy/policytest", module + "internal/policy/translate"},
		},
		{
			"the policy preview works on tables, and does not depend on the evaluator that tests it",
			[]string{"internal/policy/preview"},
			[]string{module + "internal/policy/naive", module + "internal/policy/policytest", module + "internal/policy/translate"},
		},
		{
			"the generator of random policies does not depend on what it tests",
			[]string{"internal/policy/policytest"},
			[]string{module + "internal/policy/compile", module + "internal/policy/naive"},
		},
		{
			"renewing certificates uses no cluster, so that all servers can share it",
			[]string{"internal/controller/certs"},
			[]string{"k8s.io/client-go/", "sigs.k8s.io/controller-runtime/", module + "internal/controller/admit"},
		},
		{
			"limits in annotations are read in the same way by everybody; Kubernetes' quantities are all that this needs",
			[]string{"internal/bandwidth"},
			[]string{"k8s.io/api/", "k8s.io/client-go/", "sigs.k8s.io/controller-runtime/", "github.com/vishvananda/", "net/http", "os/exec"},
		},
		{
			"the inventory works on objects; its callers read them",
			[]string{"internal/inventory"},
			[]string{"k8s.io/client-go/", "sigs.k8s.io/controller-runtime/", module + "internal/cloud", module + "internal/lab", module + "internal/cli", "os/exec"},
		},
		{
			"what an installation needs is judged by facts; its callers ask the cluster and the cloud",
			[]string{"internal/preflight"},
			[]string{"k8s.io/client-go/", "sigs.k8s.io/controller-runtime/", "github.com/aliyun/", "helm.sh/", module + "internal/cli", "os/exec"},
		},
		{
			"Helm's library is not in the cluster",
			[]string{"cmd/terwayd", "cmd/terway-controller"},
			[]string{"helm.sh/"},
		},
		{
			"terwayctl needs no container engine",
			[]string{"cmd/terwayctl"},
			[]string{"github.com/docker/", "github.com/containerd/"},
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

// These packages import no other package of the project than those named here and the imports of
// these, so that all others may use them without an import cycle.
func TestBasicPackages(t *testing.T) {
	allowed := map[string]string{ // below internal
		"kernel":            "",
		"netlinkx":          "",
		"sysctl":            "kernel",
		"bandwidth":         "",
		"datapath":          "bandwidth",
		"datapath/claims":   "",
		"datapath/attr":     "",
		"datapath/linkkind": "datapath/claims",
		"datapath/nft":      "datapath datapath/claims netlinkx",
		"datapath/bpfobj":   "datapath",
		"datapath/tcfilter": "datapath/bpfobj datapath/claims netlinkx",
		"datapath/firewall": "datapath/attr datapath/nft kernel",
		"datapath/tracker":  "datapath/nft",
		"datapath/object":   "datapath/attr datapath/nft sysctl",
		"datapath/reaper":   "datapath/linkkind netlinkx",
		"datapath/routing":  "datapath datapath/linkkind netlinkx sysctl",
		"datapath/monitor":  "datapath/firewall datapath/routing",
		// Compiled policies are written by values, whatever programs read them.
		"policy/selector":    "",
		"policy":             "policy/selector",
		"policy/compile":     "policy",
		"datapath/policymap": "datapath policy/compile",
		// It depends on no kind of pod,
		"datapath/node": "datapath/firewall datapath/object datapath/reaper datapath/routing datapath/tcfilter datapath/tracker",
		// what kinds with a fast path share depends on none of them,
		"datapath/fastpath": "datapath/node datapath/tcfilter",
		// and a kind depends on no other, except the one that it is based on.
		"datapath/route":     "datapath/node",
		"datapath/exclusive": "datapath/node datapath/fastpath",
		"datapath/ebpf":      "datapath/node datapath/fastpath",
		"datapath/ipvlan":    "datapath/node datapath/fastpath",
		"datapath/netkit":    "datapath/ebpf",
		// Nor does a feature that is the same for all of them.
		"datapath/shaping": "datapath/node datapath/tcfilter",
		"datapath/kinds":   "datapath/route datapath/exclusive datapath/netkit datapath/ipvlan datapath/shaping",
	}
	var below func(pkg string) []string
	below = func(pkg string) []string {
		list := []string{pkg}
		for _, p := range strings.Fields(allowed[pkg]) {
			list = append(list, below(p)...)
		}
		return list
	}
	for pkg := range allowed {
		for _, d := range deps(t, "internal/"+pkg) {
			if own, ok := strings.CutPrefix(d, module+"internal/"); ok && !slices.Contains(below(pkg), own) {
				t.Errorf("%s imports %s; it may import %q of the project", pkg, own, below(pkg)[1:])
			}
		}
	}
}

// TestLayers compares the diagram in docs/design.md with the packages of the programs.
func TestLayers(t *testing.T) {
	doc, err := os.ReadFile("../../docs/design.md")
	if err != nil {
		t.Fatal(err)
	}
	layers, err := layersOf(string(doc))
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("go", "list", "-deps", "-f", `{{if not .Standard}}{{.ImportPath}} {{join .Imports " "}}{{end}}`,
		module+"cmd/...", module+"internal/lab/pause", module+"internal/policy/...").Output()
	if err != nil {
		t.Fatalf("go list -deps: %v", err)
	}
	imports := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		names := strings.Fields(line)
		if len(names) == 0 || !strings.HasPrefix(names[0], module) {
			continue
		}
		imports[strings.TrimPrefix(names[0], module)] = nil
		for _, n := range names[1:] {
			if to, ours := strings.CutPrefix(n, module); ours {
				from := strings.TrimPrefix(names[0], module)
				imports[from] = append(imports[from], to)
			}
		}
	}
	for _, problem := range wrong(layers, imports) {
		t.Error(problem)
	}
}

// The check finds these mistakes.
func TestWrong(t *testing.T) {
	doc := "before\n<!-- layers -->\n```\ncmd        programs\n ↓\nagent  lab   two\ncontroller    one more line\n ↓\nlab/deep  api\n```\n<!-- /layers -->\n"
	layers, err := layersOf(doc)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(layers) != "map[api:0 cmd:2 internal/agent:1 internal/controller:1 internal/lab:1 internal/lab/deep:0]" {
		t.Fatalf("layers %v", layers)
	}
	for _, c := range []struct {
		imports map[string][]string
		says    string
	}{
		{map[string][]string{"cmd/x": {"internal/agent", "api/v1"}, "internal/agent": {"internal/lab/deep/er"}, "internal/agent/in": {"internal/agent"},
			"internal/lab": {}, "internal/controller": {}, "internal/lab/deep/er": {}, "api/v1": {}}, ""},
		{map[string][]string{"internal/new": nil}, "internal/new is in no folder"},
		{map[string][]string{"internal/agent": {"cmd/x"}}, "internal/agent imports cmd/x"},
		{map[string][]string{"internal/agent": {"internal/controller"}}, "internal/agent imports internal/controller"},
		{map[string][]string{"internal/lab/deep": {"internal/lab"}}, "internal/lab/deep imports internal/lab"},
		{map[string][]string{}, "no package is in folder api"},
	} {
		got := strings.Join(wrong(layers, c.imports), "\n")
		if (c.says == "") != (got == "") || !strings.Contains(got, c.says) {
			t.Errorf("%v: %q, want %q", c.imports, got, c.says)
		}
	}
	for _, doc := range []string{"no block", "<!-- layers -->\n```\ncmd\ncmd\n```\n<!-- /layers -->"} {
		if layers, err := layersOf(doc); err == nil {
			t.Errorf("%q is accepted as a diagram: %v", doc, layers)
		}
	}
}

// layersOf returns the layers of the folders in the diagram of a document, with 0 at the bottom. A
// line has names of folders separated by two spaces, and a description after more spaces; arrows
// separate layers.
func layersOf(doc string) (map[string]int, error) {
	_, block, _ := strings.Cut(doc, "<!-- layers -->\n```\n")
	block, _, ok := strings.Cut(block, "```\n<!-- /layers -->")
	if !ok {
		return nil, fmt.Errorf("there is no diagram between <!-- layers --> and <!-- /layers -->")
	}
	layers := map[string]int{}
	layer := strings.Count(block, "↓")
	for line := range strings.Lines(block) {
		line = strings.TrimSpace(line)
		if line == "↓" {
			layer--
			continue
		}
		names, _, _ := strings.Cut(line, "   ")
		for name := range strings.SplitSeq(names, "  ") {
			if !slices.Contains([]string{"cmd", "api", "deploy"}, name) {
				name = "internal/" + name
			}
			if _, twice := layers[name]; twice {
				return nil, fmt.Errorf("the diagram has %s twice", name)
			}
			layers[name] = layer
		}
	}
	return layers, nil
}

// wrong returns the packages and imports that do not agree with the diagram.
func wrong(layers map[string]int, imports map[string][]string) (problems []string) {
	folder := func(pkg string) string {
		for name := pkg; name != "."; name = path.Dir(name) {
			if _, ok := layers[name]; ok {
				return name
			}
		}
		return ""
	}
	empty := maps.Clone(layers)
	for _, pkg := range slices.Sorted(maps.Keys(imports)) {
		from := folder(pkg)
		if from == "" {
			problems = append(problems, pkg+" is in no folder of the diagram in docs/design.md: add one to the layer above all that it imports")
			continue
		}
		delete(empty, from)
		for _, i := range imports[pkg] {
			if to := folder(i); to != "" && to != from && layers[to] >= layers[from] {
				problems = append(problems, fmt.Sprintf("%s imports %s: by the diagram in docs/design.md %s may import only lower layers, but %s is in layer %d and it is in layer %d", pkg, i, from, to, layers[to], layers[from]))
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(empty)) {
		problems = append(problems, "no package is in folder "+name+" of the diagram in docs/design.md: remove it")
	}
	return problems
}
