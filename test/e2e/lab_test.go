//go:build e2e

// Package e2e tests everything together: it builds a lab from scratch with the commands of the
// README, runs every check of "terway-lab verify" as a test, and compares the machine before
// and after.
//
// It runs with the build tag e2e ("make test" sets it), as root, and takes minutes.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"terway.dev/terway/internal/inventory"
	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/compare"
	"terway.dev/terway/internal/lab/conformance"
	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/verify"
	"terway.dev/terway/internal/lab/verify/checks"
	"terway.dev/terway/internal/testutil"
)

// programs are terway-lab and the operator's terwayctl, built for the tests.
type programs struct {
	dir, source string
}

// built are the programs of all tests, which TestMain removes.
var built programs

func build(t *testing.T) *programs {
	t.Helper()
	if built.source != "" {
		return &built
	}
	source, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if built.dir, err = os.MkdirTemp("", "terway-e2e-"); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-o", built.dir+"/", "./cmd/terway-lab", "./cmd/terwayctl")
	cmd.Dir = source
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build terway-lab and terwayctl: %v\n%s", err, out)
	}
	built.source = source
	return &built
}

func (c *programs) path(name string) string { return filepath.Join(c.dir, name) }

// lab returns a command of terway-lab.
func (c *programs) lab(args ...string) *exec.Cmd {
	cmd := exec.Command(c.path("terway-lab"), args...)
	cmd.Dir = c.source
	return cmd
}

// run runs a command of terway-lab, with its output in the test's log.
func (c *programs) run(t *testing.T, args ...string) {
	t.Helper()
	cmd := c.lab(args...)
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	if err := cmd.Run(); err != nil {
		t.Fatalf("terway-lab %s: %v", strings.Join(args, " "), err)
	}
}

// clear removes what a killed lab left. While a lab runs, also one of an earlier run, the test fails: whose it is it cannot know.
func (c *programs) clear(t *testing.T) {
	t.Helper()
	if err := lab.Free(); err != nil {
		t.Fatal(err)
	}
	c.run(t, "down")
}

func TestLab(t *testing.T) {
	testutil.RequireRoot(t)
	c := build(t)
	c.clear(t)
	before := look(t)
	t.Cleanup(func() {
		if t.Failed() {
			logs(t)
		}
		c.run(t, "down")
	})

	if !t.Run("up", func(t *testing.T) {
		c.run(t, "up", "--verify", "--policy", "--instance-type", lab.ExclusiveInstanceType)
	}) {
		t.FailNow()
	}
	t.Run("kubectl", func(t *testing.T) { kubectl(t, c) })
	t.Run("commands of the pages", func(t *testing.T) { pages(t, c) })
	t.Run("connectivity", func(t *testing.T) {
		// Commands of the pages have restarted pods, and it leaves out nodes that are not ready.
		if out, err := exec.Command("bash", "-euc", `eval $("$0"/terway-lab env); kubectl wait --for=condition=Ready --timeout=2m nodes --all; "$0"/terwayctl status --wait`, c.dir).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		connectivity(t, c)
	})
	t.Run("status", func(t *testing.T) { status(t, c) })
	t.Run("no leaks", func(t *testing.T) { noLeaks(t, c) })
	t.Run("shell", func(t *testing.T) {
		out, err := c.lab("shell", "node1", "hostname").CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != "node1" {
			t.Fatalf("terway-lab shell node1 hostname: %v\n%s", err, out)
		}
	})
	t.Run("nodes", func(t *testing.T) { runs(t, c, "ebpf", "auto takes the fastest") })
	// All kernels that run this test support these: a missing one is a failure.
	t.Run("verify", func(t *testing.T) { verifyAll(t, c, "route", "ebpf", instruments.Exclusive) })
	t.Run("back", func(t *testing.T) { runs(t, c, "ebpf", "auto takes the fastest") })
	// These do not depend on the datapath: one run is enough.
	all, _ := checks.All().For(&lab.Options{Network: lab.NetworkTerway, Policy: true})
	all = slices.DeleteFunc(all, func(check verify.Check) bool { return !check.Trouble || check.Slow })
	t.Run("trouble", func(t *testing.T) { verifySome(t, c, all) })
	// These mostly wait: they run beside each other.
	t.Run("waiting", func(t *testing.T) {
		t.Run("compare", func(t *testing.T) {
			t.Parallel()
			measured(t)
		})
		t.Run("conformance", func(t *testing.T) {
			t.Parallel()
			selections(t, c)
		})
	})
	// Last, because they replace what all others test.
	t.Run("versions", func(t *testing.T) {
		verifySome(t, c, named(t, "rollback", "uninstall"), olderVersion(t, c.source)...) // rollback begins with all of upgrade
	})
	t.Run("commands of the pages at last", func(t *testing.T) { lastPages(t, c) })
	t.Run("forced uninstall", func(t *testing.T) { forced(t, c) })
	t.Run("down", func(t *testing.T) {
		c.run(t, "down")
		before.sameAs(t)
	})
	t.Run("killed", func(t *testing.T) {
		interrupted(t, c, before, func(up *exec.Cmd) {
			if err := up.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := up.Wait(); err == nil {
				t.Fatal("terway-lab up ended well although it was killed")
			}
			// Not even the records of processes exist any more.
			if err := os.RemoveAll(filepath.Join(lab.DefaultDir, "procs")); err != nil {
				t.Fatal(err)
			}
			c.run(t, "down")
		})
	})
	t.Run("down beside up", func(t *testing.T) {
		interrupted(t, c, before, func(up *exec.Cmd) {
			c.run(t, "down")
			if err := up.Wait(); err == nil {
				t.Fatal("terway-lab up ended well although the lab was taken down")
			}
		})
	})
}

// status parses the JSON of "terway-lab status".
func status(t *testing.T, c *programs) lab.Status {
	t.Helper()
	out, err := c.lab("status", "-o", "json").Output()
	var st lab.Status
	if err != nil || json.Unmarshal(out, &st) != nil || !st.Ready || len(st.Nodes) != 2 {
		t.Fatalf("terway-lab status: %v\n%s", err, out)
	}
	return st
}

// noLeaks expects that cloud, NodeNetworks and pods say the same after pods have come and gone.
func noLeaks(t *testing.T, c *programs) {
	eventually(t, "cloud, NodeNetworks and pods say the same", func() error {
		out, err := exec.Command("bash", "-euc", `eval $("$0"/terway-lab env); "$0"/terwayctl pods --check`, c.dir).CombinedOutput()
		if err != nil {
			return fmt.Errorf("terwayctl pods --check: %w\n%s", err, out)
		}
		return nil
	})
}

// verifyAll runs the usual checks on one datapath after the other, to which the nodes are switched, and reports each as a test.
func verifyAll(t *testing.T, c *programs, datapaths ...string) {
	list := strings.Join(datapaths, ",")
	cmd := c.lab("verify", "--datapath", list, "--traffic", "15s", "-o", "json")
	cmd.Stderr = t.Output()
	out, err := cmd.Output()
	var answer struct {
		Checks    []verify.Result
		Datapaths []verify.Group
	}
	if json.Unmarshal(out, &answer) != nil {
		t.Fatalf("terway-lab verify --datapath %s: %v: not JSON:\n%s", list, err, out)
	}
	if len(answer.Datapaths) != len(datapaths) {
		t.Fatalf("terway-lab verify --datapath %s: %v: it has run on %+v", list, err, answer.Datapaths)
	}
	all, _ := checks.All().For(&lab.Options{Network: lab.NetworkTerway, Policy: true})
	ran := map[string][]string{} // the datapaths on which a check has tested something
	for i, datapath := range datapaths {
		g := answer.Datapaths[i]
		if g.Lacking != "" || g.Error != "" {
			failed(t, fmt.Sprintf("no check has run on %s: %s%s", datapath, g.Lacking, g.Error))
		}
		for _, n := range g.Nodes {
			if n.Datapath != datapath {
				t.Errorf("%s runs %s: %s", n.Node, n.Datapath, n.Why)
			}
		}
		here, before := map[string]bool{}, maps.Clone(ran)
		for _, r := range answer.Checks {
			if r.Datapath != datapath {
				continue
			}
			here[r.Name] = true
			if r.Untested == "" {
				ran[r.Name] = append(ran[r.Name], datapath)
			}
			t.Run(datapath+"/"+r.Name, func(t *testing.T) {
				t.Log(r.Measured)
				if !r.OK {
					failed(t, fmt.Sprintf("on %s: %s", r.Datapath, r.Error))
				}
			})
		}
		for _, check := range all {
			if due := check.Due(datapath, before[check.Name]); here[check.Name] != due && !check.Trouble {
				t.Errorf("%s on %s: has run %t, want %t", check.Name, datapath, here[check.Name], due)
			}
		}
	}
	for _, check := range all {
		if !check.Trouble && len(ran[check.Name]) == 0 {
			t.Errorf("%s has tested nothing on any datapath", check.Name)
		}
	}
	if err != nil {
		t.Errorf("terway-lab verify --datapath %s: %v", list, err)
	}
}

// runs compares the JSON of "terwayctl status" with the expected datapath and reason.
func runs(t *testing.T, c *programs, datapath, why string) {
	t.Helper()
	kubeconfig, err := c.lab("kubeconfig").Output()
	if err != nil {
		t.Fatalf("terway-lab kubeconfig: %v", err)
	}
	out, err := exec.Command(c.path("terwayctl"), "status", "--kubeconfig", strings.TrimSpace(string(kubeconfig)), "-o", "json").Output()
	var st inventory.Status
	if err != nil || json.Unmarshal(out, &st) != nil || len(st.Nodes) != 2 {
		t.Fatalf("terwayctl status: %v\n%s", err, out)
	}
	for _, n := range st.Nodes {
		if n.Mode != "shared" || n.Datapath != datapath || !n.AgentReady || !strings.Contains(n.Why, why) || n.ENIs.Used < 2 || n.ENIs.Total != 6 || n.Addresses.Total < 3 {
			t.Errorf("node %+v, want %s because %s", n, datapath, why)
		}
	}
}

// named returns the checks of these names.
func named(t *testing.T, names ...string) (list []verify.Check) {
	t.Helper()
	for _, name := range names {
		i := slices.IndexFunc(checks.All().Checks, func(c verify.Check) bool { return c.Name == name })
		if i < 0 {
			t.Fatalf("there is no check %s", name)
		}
		list = append(list, checks.All().Checks[i])
	}
	return list
}

// verifySome runs some checks in one run like a user, parses its JSON, and makes each check a test of
// its own.
func verifySome(t *testing.T, c *programs, list []verify.Check, flags ...string) {
	names := make([]string, len(list))
	for i, check := range list {
		names[i] = check.Name
	}
	cmd := c.lab(append([]string{"verify", "--only", strings.Join(names, ","), "--traffic", "15s", "-o", "json"}, flags...)...)
	cmd.Stderr = t.Output()
	out, err := cmd.Output()
	var answer struct{ Checks []verify.Result }
	if json.Unmarshal(out, &answer) != nil || len(answer.Checks) != len(names) {
		t.Fatalf("terway-lab verify --only %s: %v: not one result for each:\n%s", strings.Join(names, ","), err, out)
	}
	ok := true
	for i, r := range answer.Checks {
		ok = ok && r.OK
		t.Run(names[i], func(t *testing.T) {
			t.Log(r.Measured)
			if !r.OK || r.Name != names[i] {
				failed(t, fmt.Sprintf("%s: %s", r.Name, r.Error))
			}
		})
	}
	if ok != (err == nil) {
		t.Errorf("all are ok: %t, and the exit status says %v", ok, err)
	}
}

// measured runs a short "terway-lab compare" on the running lab. It checks only what does not
// depend on speed.
func measured(t *testing.T) {
	s, err := lab.LoadState(lab.DefaultDir)
	if err != nil {
		t.Fatal(err)
	}
	const pods = 6
	n, err := compare.Measure(t.Context(), s, compare.Options{Rounds: 1, Turn: 50 * time.Millisecond, Upgrades: 1, Pods: pods}, lab.NewProgress(t.Output(), time.Now))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s", (&compare.Report{Networks: []compare.Network{*n}}).Table())
	if len(n.Paths) != 2 || n.Policy.Tried == 0 || len(n.Limits) != 2 {
		t.Errorf("not everything was measured: %+v", n)
	}
	if lb := n.LoadBalancer; lb.Sent == 0 || lb.Direct != (s.Options.Network == lab.NetworkTerway) {
		t.Errorf("load balancer: %+v, want requests, directly to pods but with Flannel", lb)
	}
	a := n.Addresses
	if s.Options.Network == lab.NetworkFlannel {
		if n.Seen.As != n.Seen.Node {
			t.Errorf("an instance sees %s, not the node's %s", n.Seen.As, n.Seen.Node)
		}
		if nodes := len(s.Machines); a.Pods < pods || a.OnENIs != 0 || a.InBlocks < a.Pods || len(a.Blocks) != nodes || a.Routes != nodes {
			t.Errorf("addresses %+v", a)
		}
		return
	}
	if !n.Policy.Enforced {
		t.Errorf("a NetworkPolicy that denies all: %+v", n.Policy)
	}
	// The pod's address is an address of the VPC, outside the cluster too.
	if n.Seen.As != n.Seen.Pod {
		t.Errorf("an instance sees %s, not the pod's %s", n.Seen.As, n.Seen.Pod)
	}
	if a.Pods < pods || a.OnENIs < a.Pods || a.InBlocks != 0 || a.Routes != 0 {
		t.Errorf("addresses %+v", a)
	}
}

// selections runs some specs of other projects' suites of network policies, and reports each as a test. The suites run side by
// side: they wait most of the time.
func selections(t *testing.T, c *programs) {
	for suite, count := range map[string]int{"netpol": 12, "cluster-network-policy": 10} {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			cmd := c.lab("conformance", "--running", "--selection", "--suites", suite, "-o", "json")
			cmd.Stderr = t.Output()
			out, err := cmd.Output()
			var outcomes []conformance.Outcome
			if json.Unmarshal(out, &outcomes) != nil || len(outcomes) != 1 {
				t.Fatalf("terway-lab conformance --running --selection --suites %s: %v: not the outcome of one suite:\n%s", suite, err, out)
			}
			o := &outcomes[0]
			for _, s := range o.Specs {
				t.Run(s.Name, func(t *testing.T) {
					if s.State != conformance.Passed {
						t.Errorf("%s: %s", s.State, s.Why)
					}
				})
			}
			if err != nil || len(o.Specs) != count {
				t.Errorf("terway-lab conformance --running --selection --suites %s: %d specs instead of %d, %q: %v", suite, len(o.Specs), count, o.NotRun, err)
			}
		})
	}
}

// kubectl runs the first commands of a user.
func kubectl(t *testing.T, c *programs) {
	out, err := c.lab("kubeconfig").Output()
	if err != nil {
		t.Fatalf("terway-lab kubeconfig: %v", err)
	}
	s, err := lab.LoadState(lab.DefaultDir)
	if err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(s.Options.Bin("kubectl"), args...)
		cmd.Env = append(os.Environ(), "KUBECONFIG="+strings.TrimSpace(string(out)))
		var b bytes.Buffer
		cmd.Stdout, cmd.Stderr = &b, &b
		if err := cmd.Run(); err != nil {
			t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, b.Bytes())
		}
		return b.String()
	}
	run("run", "hello", "--image="+lab.ImageAgnhost, "--", "netexec")
	defer run("delete", "pod", "hello", "--now")
	run("wait", "--for=condition=Ready", "pod/hello", "--timeout=60s")
	if got := run("exec", "hello", "--", "curl", "-s", "localhost:8080/hostname"); !strings.Contains(got, "hello") {
		t.Errorf("kubectl exec: the pod says its name is %q", got)
	}
	if got := run("logs", "hello"); !strings.Contains(got, "GET /hostname") {
		t.Errorf("kubectl logs does not show the request:\n%s", got)
	}
}

// interrupted ends a running "terway-lab up", like a crash or another operator, and checks that
// nothing is left.
func interrupted(t *testing.T, c *programs, before machine, end func(up *exec.Cmd)) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := c.lab("up")
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop := context.AfterFunc(ctx, func() { cmd.Process.Kill() })
	defer stop()
	var seen strings.Builder
	buf := make([]byte, 4096)
	for !strings.Contains(seen.String(), "nodes registered") {
		n, err := out.Read(buf)
		seen.Write(buf[:n])
		if err != nil {
			t.Fatalf("terway-lab up ended by itself: %v\n%s", err, seen.String())
		}
	}
	end(cmd)
	before.sameAs(t)
}

// logs prints the ends of the logs of a lab that failed.
func logs(t *testing.T) {
	for _, pattern := range []string{"log/*.log", "nodes/*/log/*.log", "nodes/*/log/pods/*terway*/*/*.log", "nodes/*/log/pods/*flannel*/*/*.log"} {
		files, err := filepath.Glob(filepath.Join(lab.DefaultDir, pattern))
		if err != nil {
			t.Log(err)
		}
		for _, f := range files {
			out, err := exec.Command("tail", "-n", "25", f).CombinedOutput()
			t.Logf("end of %s (%v):\n%s", strings.TrimPrefix(f, lab.DefaultDir+"/"), err, out)
		}
	}
}
