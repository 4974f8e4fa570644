package conformance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/testutil"
)

// report is the shape of ginkgo's: specs out of focus are there too, and what is around specs.
const report = `[{"SuiteDescription": "Kubernetes e2e suite", "SpecReports": [
 {"LeafNodeType": "SynchronizedBeforeSuite", "State": "passed"},
 {"ContainerHierarchyTexts": ["[sig-network] Netpol", "NetworkPolicy between server and client"], "LeafNodeType": "It",
  "LeafNodeText": "should support a 'default-deny-ingress' policy [Feature:NetworkPolicy]", "State": "passed", "RunTime": 1500000000},
 {"ContainerHierarchyTexts": ["[sig-network] Netpol [Feature:SCTPConnectivity] [LinuxOnly]", "NetworkPolicy between server and client using SCTP"], "LeafNodeType": "It",
  "LeafNodeText": "should enforce policy based on Ports [Feature:NetworkPolicy]", "State": "failed", "Failure": {"Message": "Had 2 wrong results\nin a matrix"}},
 {"ContainerHierarchyTexts": ["[sig-network] Netpol API"], "LeafNodeType": "It", "LeafNodeText": "should skip itself", "State": "skipped", "Failure": {"Message": "no cloud"}},
 {"ContainerHierarchyTexts": ["[sig-storage] Volumes"], "LeafNodeType": "It", "LeafNodeText": "is out of focus", "State": "skipped"},
 {"ContainerHierarchyTexts": ["[sig-network] Netpol API"], "LeafNodeType": "It", "LeafNodeText": "hangs", "State": "timedout", "Failure": {"Message": "too long"}}
]}]`

func TestReadGinkgo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.json")
	put := func(s string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put(report)
	specs, err := readGinkgo(path)
	if err != nil {
		t.Fatal(err)
	}
	want := []Spec{
		{Name: "Netpol API hangs", State: Failed, Why: "too long"},
		{Name: "Netpol API should skip itself", State: Skipped, Why: "no cloud"},
		{Name: "Netpol NetworkPolicy between server and client should support a 'default-deny-ingress' policy", State: Passed, Seconds: 1.5},
		{Name: "Netpol [Feature:SCTPConnectivity] [LinuxOnly] NetworkPolicy between server and client using SCTP should enforce policy based on Ports", State: Failed, Why: "Had 2 wrong results"},
	}
	if len(specs) != len(want) {
		t.Fatalf("%+v", specs)
	}
	for i := range want {
		if specs[i] != want[i] {
			t.Errorf("%+v, want %+v", specs[i], want[i])
		}
	}
	// What fails before the specs is the suite's failure.
	put(strings.Replace(report, `"SynchronizedBeforeSuite", "State": "passed"`, `"SynchronizedBeforeSuite", "State": "failed", "Failure": {"Message": "no nodes"}`, 1))
	if _, err := readGinkgo(path); err == nil || !strings.Contains(err.Error(), "no nodes") {
		t.Errorf("after a failure before the specs: %v", err)
	}
	put("[")
	if _, err := readGinkgo(path); err == nil {
		t.Error("a report that ends early is read")
	}
}

const goTest = `=== RUN   TestConformanceProfiles
=== RUN   TestConformanceProfiles/CNPAdminTierIngressTCP
    kubernetes.go:1: --- FAIL: not a result
--- FAIL: TestConformanceProfiles (30.00s)
    --- PASS: TestConformanceProfiles/CNPAdminTierIngressTCP (12.25s)
        --- PASS: TestConformanceProfiles/CNPAdminTierIngressTCP/Should_support_it (1.00s)
    --- FAIL: TestConformanceProfiles/CNPAdminTierEgressTCP (3.00s)
        --- FAIL: TestConformanceProfiles/CNPAdminTierEgressTCP/Should_deny (1.00s)
        --- PASS: TestConformanceProfiles/CNPAdminTierEgressTCP/Should_allow (1.00s)
        --- FAIL: TestConformanceProfiles/CNPAdminTierEgressTCP/Should_pass (1.00s)
    --- SKIP: TestConformanceProfiles/CNPAdminTierEgressUDP (0.00s)
FAIL
`

func TestReadGoTest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "output.log")
	if err := os.WriteFile(path, []byte(goTest), 0o644); err != nil {
		t.Fatal(err)
	}
	specs, err := readGoTest(path, "TestConformanceProfiles")
	if err != nil {
		t.Fatal(err)
	}
	want := []Spec{
		{Name: "CNPAdminTierEgressTCP", State: Failed, Why: "Should deny; Should pass", Seconds: 3},
		{Name: "CNPAdminTierEgressUDP", State: Skipped},
		{Name: "CNPAdminTierIngressTCP", State: Passed, Seconds: 12.25},
	}
	if len(specs) != len(want) {
		t.Fatalf("%+v", specs)
	}
	for i := range want {
		if specs[i] != want[i] {
			t.Errorf("%+v, want %+v", specs[i], want[i])
		}
	}
}

// A suite's program runs in another network namespace with a resolv.conf of its own, which nobody else sees.
func TestExecuteElsewhere(t *testing.T) {
	ns, dir := testutil.NewNS(t, "outside"), t.TempDir()
	r := run{lab: &lab.State{}, dir: dir, netns: ns.Path, resolvConf: filepath.Join(dir, "resolv.conf")}
	if err := os.WriteFile(r.resolvConf, []byte("nameserver 192.0.2.53\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	was, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.execute(t.Context(), "sh", "-c", `readlink /proc/self/ns/net && cat /etc/resolv.conf && exit "$0"`, "3"); err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("a program that exits with 3: %v", err)
	}
	got, err := os.ReadFile(r.output())
	if err != nil {
		t.Fatal(err)
	}
	var stat unix.Stat_t
	if err := unix.Stat(ns.Path, &stat); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("net:[%d]\nnameserver 192.0.2.53\n", stat.Ino); string(got) != want {
		t.Errorf("it saw %q, want %q", got, want)
	}
	if now, err := os.ReadFile("/etc/resolv.conf"); err != nil || !bytes.Equal(now, was) {
		t.Errorf("this machine's resolv.conf is %q now, and was %q: %v", now, was, err)
	}
}

// A suite that ran other specs than it has, or than were asked for, has not run.
func TestAllSpecsMustRun(t *testing.T) {
	s := Suite{Count: 2}
	a, b, skipped := Spec{Name: "a", State: Passed}, Spec{Name: "b", State: Passed}, Spec{Name: "c", State: Skipped}
	for _, c := range []struct {
		specs []Spec
		only  []string
		ok    bool
	}{
		{[]Spec{a, b}, nil, true},
		{[]Spec{a}, nil, false},
		{nil, nil, false},
		{[]Spec{a}, []string{"a"}, true},
		{[]Spec{a, b}, []string{"a"}, false},
		{[]Spec{b}, []string{"a"}, false},
		// What a suite skips has not run.
		{[]Spec{a, skipped}, nil, true},
		{[]Spec{skipped, skipped}, nil, false},
		{[]Spec{skipped}, []string{"c"}, false},
		{nil, []string{"a"}, false},
	} {
		if err := s.check(c.specs, c.only); (err == nil) != c.ok {
			t.Errorf("%v of %v: %v", c.specs, c.only, err)
		}
	}
}

// A run in which no spec ran is no success.
func TestSomeSpecMustRun(t *testing.T) {
	off := Outcome{Suite: "netpol", Kind: "ebpf", NotRun: "policies are off"}
	failed := Outcome{Suite: "netpol", Kind: "route", Specs: []Spec{{State: Failed}}}
	if err := CheckRan([]Outcome{off, failed}); err != nil {
		t.Errorf("after a run: %v", err)
	}
	if err := CheckRan([]Outcome{off}); err == nil || !strings.Contains(err.Error(), "netpol on ebpf: policies are off") {
		t.Errorf("of suites that did not run: %v", err)
	}
	if CheckRan(nil) == nil || CheckRan([]Outcome{{Specs: []Spec{{State: Skipped}}}}) == nil {
		t.Error("nothing has run, and it is no error")
	}
}

// A spec may fail only if it is known to, and then it must.
func TestUnexpected(t *testing.T) {
	known := slices.Sorted(maps.Keys(notOnNLB))[0]
	for _, c := range []struct {
		suite, spec string
		state       State
		want        string
	}{
		{"loadbalancer-nlb", known, Failed, ""},
		{"loadbalancer-nlb", known, Skipped, ""},
		{"loadbalancer-nlb", known, Passed, "loadbalancer-nlb on ebpf: passed, and is known not to"},
		{"loadbalancer-clb", known, Passed, ""},
		{"loadbalancer-clb", known, Failed, "loadbalancer-clb on ebpf: failed: " + known},
		{"loadbalancer-clb", known, Skipped, "loadbalancer-clb on ebpf: skipped: " + known},
		{"sig-network", "DNS", Failed, "sig-network on ebpf: failed: DNS"},
	} {
		err := Unexpected([]Outcome{{Suite: c.suite, Kind: "ebpf", Specs: []Spec{{Name: c.spec, State: c.state}}}})
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s in %s: %v, want %q", c.spec, c.state, c.suite, err, c.want)
		}
	}
}

// What is in the tree is what is known of the suites.
func TestResultsAreKnown(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("../../..", results))
	if err != nil {
		t.Fatal(err)
	}
	var all []Outcome
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	if err := Unexpected(all); err != nil {
		t.Error(err)
	}
	for _, s := range Suites() {
		if !slices.ContainsFunc(all, func(o Outcome) bool { return o.Suite == s.Name && o.Count(Passed) > 0 }) {
			t.Errorf("no result of %s", s.Name)
		}
	}
}

// Every name of a selection is there once.
func TestSelections(t *testing.T) {
	for name, want := range map[string]int{"netpol": 12, "cluster-network-policy": 10, "sig-network": 0} {
		suites, err := PickSuites([]string{name})
		if err != nil {
			t.Fatal(err)
		}
		got := slices.Clone(suites[0].selection)
		slices.Sort(got)
		if got = slices.Compact(got); len(got) != want {
			t.Errorf("%s: a selection of %d specs, want %d", name, len(got), want)
		}
	}
}

func TestPickSuites(t *testing.T) {
	if all, err := PickSuites(nil); err != nil || len(all) != 5 {
		t.Errorf("%d, %v", len(all), err)
	}
	if one, err := PickSuites([]string{"sig-network"}); err != nil || len(one) != 1 || one[0].Name != "sig-network" {
		t.Errorf("%v, %v", one, err)
	}
	for _, names := range [][]string{{"netpool"}, {"netpol", "netpol"}} {
		if _, err := PickSuites(names); err == nil || !strings.Contains(err.Error(), "--suites") {
			t.Errorf("%v: %v", names, err)
		}
	}
}

// What is kept of a suite and kind takes the place of what was; the rest stays.
func TestKeep(t *testing.T) {
	source := t.TempDir()
	keep := func(outcomes ...Outcome) string {
		t.Helper()
		if err := Keep(source, outcomes); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(source, document))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	spec := func(s State, why string) []Spec {
		return []Spec{{Name: "it | works", State: s, Why: why}, {Name: "CNPAdminTierIngressTCP", State: Passed}}
	}
	keep(Outcome{Suite: "cluster-network-policy", Kind: "ebpf", Date: "1", Specs: spec(Failed, "so it is"), report: []byte("failure")},
		Outcome{Suite: "cluster-network-policy", Kind: "exclusive", Date: "1", NotRun: "not yet"})
	doc := keep(Outcome{Suite: "cluster-network-policy", Kind: "route", Date: "2", Kernel: "6.1", Specs: spec(Skipped, "no reason")})
	for _, line := range []string{
		"| route | 1 | 0 | 1 | 2 | 6.1 |\n| ebpf | 1 | 1 | 0 | 1 |  |\n| exclusive | not run: not yet | | | 1 |  |\n",
		"| spec | route | ebpf | why |\n",
		"| it \\| works | – | ✘ | no reason; so it is |\n",
		"| ● CNPAdminTierIngressTCP | ✔ | ✔ |  |\n",
		"## netpol\n\nIt has not run yet.\n",
	} {
		if !strings.Contains(doc, line) {
			t.Errorf("%q is missing in\n%s", line, doc)
		}
	}
	doc = keep(Outcome{Suite: "cluster-network-policy", Kind: "ebpf", Date: "3", Specs: spec(Passed, "")})
	if !strings.Contains(doc, "| it \\| works | – | ✔ | no reason |\n") || !strings.Contains(doc, "| route | 1 | 0 | 1 | 2 | 6.1 |") {
		t.Errorf("after a second run:\n%s", doc)
	}
	if b, err := os.ReadFile(filepath.Join(source, folder, "reports", "cluster-network-policy-ebpf.yaml")); err != nil || string(b) != "failure" {
		t.Errorf("the report: %q, %v", b, err)
	}
}

// The document in the tree is what the results in it make.
func TestDocument(t *testing.T) {
	t.Chdir("../../..")
	was, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := os.ReadFile(results)
	if err != nil {
		t.Fatal(err)
	}
	source := t.TempDir()
	if err := write(filepath.Join(source, results), kept); err != nil {
		t.Fatal(err)
	}
	if err := Keep(source, nil); err != nil {
		t.Fatal(err)
	}
	now, err := os.ReadFile(filepath.Join(source, document))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(was, now) {
		t.Errorf("%s is not what %s makes: a run of make test-conformance DOC=1 writes both", document, results)
	}
}

// The versions that the document names are those that are built.
func TestVersions(t *testing.T) {
	for module, want := range map[string]string{"kubernetes": "k8s.io/kubernetes " + lab.KubernetesVersion, "policyapi": "sigs.k8s.io/network-policy-api " + policyAPIVersion} {
		b, err := os.ReadFile(filepath.Join("../../..", folder, "suites", module, "go.mod"))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(b), want+"\n") {
			t.Errorf("go.mod of suite %s has no %q", module, want)
		}
	}
}
