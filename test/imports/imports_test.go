// Package imports keeps the rules of docs/design.md on who may know whom.
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
			"eBPF objects are loaded alike whoever holds them, tc or netkit",
			[]string{"internal/datapath/bpfobj"},
			[]string{"github.com/vishvananda/"},
		},
		{
			"what policies decide is written into maps, whoever loads and attaches the programs",
			[]string{"internal/datapath/policymap"},
			[]string{"k8s.io/client-go/", "sigs.k8s.io/controller-runtime/", "github.com/vishvananda/", module + "internal/datapath/bpfobj", module + "internal/policy/naive"},
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
			"the lab looks at a cluster from outside: what it calls as the controllers do is in claims",
			[]string{"internal/lab", "internal/lab/verify", "internal/lab/verify/checks", "internal/lab/compare", "internal/lab/instruments"},
			[]string{module + "internal/controller"},
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
			"what policies mean is said of values and of objects, whoever read them",
			[]string{"internal/policy", "internal/policy/selector", "internal/policy/translate", "internal/policy/manifest", "internal/policy/lint", "internal/policy/migrate", "internal/policy/preview"},
			[]string{"k8s.io/client-go/", "sigs.k8s.io/controller-runtime/", "github.com/vishvananda/", "github.com/cilium/", "github.com/aliyun/", "os/exec"},
		},
		{
			"what objects mean does not depend on who judges by it",
			[]string{"internal/policy/translate"},
			[]string{module + "internal/policy/compile", module + "internal/policy/naive", module + "internal/config"},
		},
		{
			"policies are compiled without asking a cluster or a kernel",
			[]string{"internal/policy/compile"},
			[]string{"k8s.io/client-go/", "sigs.k8s.io/controller-runtime/", "github.com/vishvananda/", "github.com/cilium/", "os/exec"},
		},
		{
			"hub and nodes meet in what they say: neither knows the other",
			[]string{"internal/policy/node"},
			[]string{module + "internal/policy/hub", module + "internal/controller", "k8s.io/client-go/", "sigs.k8s.io/controller-runtime/", "github.com/vishvananda/", "github.com/cilium/"},
		},
		{
			"the hub is told of a cluster, and reads none",
			[]string{"internal/policy/hub"},
			[]string{module + "internal/policy/node", "k8s.io/client-go/", "sigs.k8s.io/controller-runtime/", "github.com/vishvananda/", "github.com/cilium/"},
		},
		{
			"what hub and nodes say is values",
			[]string{"internal/policy/wire"},
			[]string{module + "internal/policy/hub", module + "internal/policy/node", "k8s.io/client-go/", "sigs.k8s.io/controller-runtime/", "os/exec"},
		},
		{
			"the tables share nothing but the model with what they are held against",
			[]string{"internal/policy/compile"},
			[]string{module + "internal/policy/naive", module + "internal/policy/policytest"},
		},
		{
			"what tables are held against shares nothing but the model with them, or with chance",
			[]string{"internal/policy/naive"},
			[]string{module + "internal/policy/compile", module + "internal/policy/policytest", module + "internal/policy/translate"},
		},
		{
			"a preview is of tables and of no object: what it is held against is not what makes it",
			[]string{"internal/policy/preview"},
			[]string{module + "internal/policy/naive", module + "internal/policy/policytest", module + "internal/policy/translate"},
		},
		{
			"chance knows no engine",
			[]string{"internal/policy/policytest"},
			[]string{module + "internal/policy/compile", module + "internal/policy/naive"},
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

// Rooms on the ground know no other room of the project but those named here and what these may
// know: all that stand on them may use them, and no circle can come of it.
func TestGround(t *testing.T) {
	ground := map[string]string{ // below internal
		"kernel":            "",
		"netlinkx":          "",
		"sysctl":            "kernel",
		"datapath":          "",
		"datapath/claims":   "",
		"datapath/attr":     "",
		"datapath/linkkind": "datapath/claims",
		"datapath/nft":      "datapath datapath/claims netlinkx",
		"datapath/bpfobj":   "datapath",
		"datapath/tcfilter": "datapath/bpfobj datapath/claims netlinkx",
		"datapath/fastpath": "datapath/routing datapath/tcfilter",
		"datapath/firewall": "datapath/attr datapath/nft kernel",
		"datapath/tracker":  "datapath/nft",
		"datapath/object":   "datapath/attr datapath/nft sysctl",
		"datapath/reaper":   "datapath/linkkind netlinkx",
		"datapath/routing":  "datapath datapath/linkkind netlinkx sysctl",
		"datapath/monitor":  "datapath/firewall datapath/routing",
		// It knows no kind of pod,
		"datapath/node": "datapath/firewall datapath/object datapath/reaper datapath/routing datapath/tracker",
		// and a kind knows no other, but for the one that it builds on.
		"datapath/route":     "datapath/node",
		"datapath/exclusive": "datapath/node",
		"datapath/ebpf":      "datapath/node datapath/fastpath",
		"datapath/ipvlan":    "datapath/node datapath/fastpath",
		"datapath/netkit":    "datapath/ebpf",
		"datapath/kinds":     "datapath/route datapath/exclusive datapath/netkit datapath/ipvlan",
	}
	var below func(pkg string) []string
	below = func(pkg string) []string {
		list := []string{pkg}
		for _, p := range strings.Fields(ground[pkg]) {
			list = append(list, below(p)...)
		}
		return list
	}
	for pkg := range ground {
		for _, d := range deps(t, "internal/"+pkg) {
			if own, ok := strings.CutPrefix(d, module+"internal/"); ok && !slices.Contains(below(pkg), own) {
				t.Errorf("%s imports %s; it may import %q of the project", pkg, own, below(pkg)[1:])
			}
		}
	}
}

// TestRooms holds the diagram in docs/design.md against the packages that the programs are made of.
func TestRooms(t *testing.T) {
	doc, err := os.ReadFile("../../docs/design.md")
	if err != nil {
		t.Fatal(err)
	}
	floors, err := roomsOf(string(doc))
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
	for _, problem := range wrong(floors, imports) {
		t.Error(problem)
	}
}

// The check sees what it is for.
func TestWrong(t *testing.T) {
	doc := "before\n<!-- rooms -->\n```\ncmd        programs\n ↓\nagent  lab   two\ncontroller    one more line\n ↓\nlab/deep  api\n```\n<!-- /rooms -->\n"
	floors, err := roomsOf(doc)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(floors) != "map[api:0 cmd:2 internal/agent:1 internal/controller:1 internal/lab:1 internal/lab/deep:0]" {
		t.Fatalf("rooms %v", floors)
	}
	for _, c := range []struct {
		imports map[string][]string
		says    string
	}{
		{map[string][]string{"cmd/x": {"internal/agent", "api/v1"}, "internal/agent": {"internal/lab/deep/er"}, "internal/agent/in": {"internal/agent"},
			"internal/lab": {}, "internal/controller": {}, "internal/lab/deep/er": {}, "api/v1": {}}, ""},
		{map[string][]string{"internal/new": nil}, "internal/new is in no room"},
		{map[string][]string{"internal/agent": {"cmd/x"}}, "internal/agent imports cmd/x"},
		{map[string][]string{"internal/agent": {"internal/controller"}}, "internal/agent imports internal/controller"},
		{map[string][]string{"internal/lab/deep": {"internal/lab"}}, "internal/lab/deep imports internal/lab"},
		{map[string][]string{}, "no package is in room api"},
	} {
		got := strings.Join(wrong(floors, c.imports), "\n")
		if (c.says == "") != (got == "") || !strings.Contains(got, c.says) {
			t.Errorf("%v: %q, want %q", c.imports, got, c.says)
		}
	}
	for _, doc := range []string{"no block", "<!-- rooms -->\n```\ncmd\ncmd\n```\n<!-- /rooms -->"} {
		if floors, err := roomsOf(doc); err == nil {
			t.Errorf("%q is taken for a diagram: %v", doc, floors)
		}
	}
}

// roomsOf are the floors of the rooms in the diagram of a document, from 0 at the ground. A line of rooms is
// names with two spaces between, and what they are after more; an arrow stands between floors.
func roomsOf(doc string) (map[string]int, error) {
	_, block, _ := strings.Cut(doc, "<!-- rooms -->\n```\n")
	block, _, ok := strings.Cut(block, "```\n<!-- /rooms -->")
	if !ok {
		return nil, fmt.Errorf("there is no diagram between <!-- rooms --> and <!-- /rooms -->")
	}
	floors := map[string]int{}
	floor := strings.Count(block, "↓")
	for line := range strings.Lines(block) {
		line = strings.TrimSpace(line)
		if line == "↓" {
			floor--
			continue
		}
		names, _, _ := strings.Cut(line, "   ")
		for name := range strings.SplitSeq(names, "  ") {
			if name != "cmd" && name != "api" {
				name = "internal/" + name
			}
			if _, twice := floors[name]; twice {
				return nil, fmt.Errorf("the diagram has %s twice", name)
			}
			floors[name] = floor
		}
	}
	return floors, nil
}

// wrong says where packages and what they import are not as the diagram has it.
func wrong(floors map[string]int, imports map[string][]string) (problems []string) {
	room := func(pkg string) string {
		for name := pkg; name != "."; name = path.Dir(name) {
			if _, ok := floors[name]; ok {
				return name
			}
		}
		return ""
	}
	empty := maps.Clone(floors)
	for _, pkg := range slices.Sorted(maps.Keys(imports)) {
		from := room(pkg)
		if from == "" {
			problems = append(problems, pkg+" is in no room of the diagram in docs/design.md: put one on the floor above all that it imports")
			continue
		}
		delete(empty, from)
		for _, i := range imports[pkg] {
			if to := room(i); to != "" && to != from && floors[to] >= floors[from] {
				problems = append(problems, fmt.Sprintf("%s imports %s: by the diagram in docs/design.md room %s may know lower floors only, and %s is on floor %d as against %d", pkg, i, from, to, floors[to], floors[from]))
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(empty)) {
		problems = append(problems, "no package is in room "+name+" of the diagram in docs/design.md: take it out")
	}
	return problems
}
