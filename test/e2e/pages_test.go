//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/internal/lab"
	"terway.dev/terway/test/docs"
)

// pages runs the commands of all pages' blocks "sh lab" and "sh node", one shell for each page and mark, and those of "How to look inside" in
// troubleshooting.md, each in a shell with the lab's environment; input is empty.
func pages(t *testing.T, c *programs) {
	r := newReader(t, c)
	names := r.shop(t)
	scripts, commands := map[string]int{}, 0
	command := regexp.MustCompile("`((?:kubectl|terwayctl|curl|terway-lab) [^`]*)`")
	for i := range r.pages {
		p := &r.pages[i]
		for _, mark := range []string{"lab", "node"} {
			if script := p.Script(mark); script != nil {
				scripts[mark]++
				r.follow(t, p, mark, names[mark+" "+p.Path])
			}
			delete(names, mark+" "+p.Path)
		}
		if p.Path == "docs/bandwidth.md" {
			r.unlimited(t) // with a limit each "terwayctl status --pods" takes ten seconds
		}
		if p.Path != "docs/troubleshooting.md" {
			continue
		}
		for _, line := range p.Section("How to look inside") {
			if strings.HasPrefix(line, "|") {
				for _, m := range command.FindAllStringSubmatch(line, -1) {
					commands++
					if out, err := r.shell(m[1:]); err != nil || out == "" && !strings.HasPrefix(m[1], "terway-lab shell node1") {
						t.Errorf("%s: %s: %v\n%s", p.Path, m[1], err, end(out))
					}
				}
			}
		}
	}
	if scripts["lab"] < 10 || scripts["node"] < 3 || commands < 8 || len(names) > 0 {
		t.Errorf("%v pages with commands for the lab and %d commands to look inside were found; no page has commands for %v", scripts, commands, names)
	}
}

// lastPages runs uninstall.md's commands while the cluster's DNS has an address: helm uninstall is refused, the job's log says why, and a rollback
// keeps Terway. The check "uninstall" runs helm uninstall without pods.
func lastPages(t *testing.T, c *programs) {
	r := newReader(t, c)
	p := r.page(t, "docs/uninstall.md")
	blocks := p.Select("last")
	if len(blocks) != 3 {
		t.Fatalf("%d blocks, want helm uninstall, the job's log, helm rollback", len(blocks))
	}
	must := func(script []string) string {
		t.Helper()
		out, err := r.shell(script)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return out
	}
	if out, err := r.shell(blocks[0]); err == nil || !strings.Contains(out, "coredns") {
		t.Fatalf("while CoreDNS has an address: %v, want a refusal that names it\n%s", err, out)
	}
	if out := must(blocks[1]); !strings.Contains(out, "coredns") || !strings.Contains(out, "Name: ") {
		t.Errorf("want what the job said, and its pod:\n%s", out)
	}
	back, err := docs.Fill(blocks[2], map[string]string{"REVISION": r.revision(t)})
	if err != nil {
		t.Fatal(err)
	}
	must(back)
}

// reader is somebody who follows the pages in the lab.
type reader struct {
	*running
	pages []docs.Page
	dir   string
}

// newReader makes a folder as the pages expect it: the repository's deploy, and the values of the lab's release.
func newReader(t *testing.T, c *programs) *reader {
	t.Helper()
	all, err := docs.Pages(c.source)
	if err != nil {
		t.Fatal(err)
	}
	r := &reader{running: attach(t, c), dir: t.TempDir()}
	for _, p := range all {
		if !p.Translated() { // compared with the English page
			r.pages = append(r.pages, p)
		}
	}
	values := filepath.Join(r.state.Options.Dir, "values.yaml")
	if err := os.Mkdir(filepath.Join(r.dir, ".kube"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, is := range map[string]string{"bin": c.dir, "deploy": filepath.Join(c.source, "deploy"), "my-values.yaml": values, "values.yaml": values, ".kube/config": r.state.Options.Kubeconfig()} {
		if err := os.Symlink(is, filepath.Join(r.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func (r *reader) page(t *testing.T, path string) *docs.Page {
	t.Helper()
	for i := range r.pages {
		if r.pages[i].Path == path {
			return &r.pages[i]
		}
	}
	t.Fatalf("there is no page %s", path)
	return nil
}

// shell runs commands in the folder, with the lab's environment.
func (r *reader) shell(script []string) (string, error) {
	cmd := docs.Bash("eval $(bin/terway-lab env);", script)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "HOME="+r.dir)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// follow runs a page's commands with a mark. They print something, and the tables that the page shows.
func (r *reader) follow(t *testing.T, p *docs.Page, mark string, names map[string]string) {
	t.Helper()
	script, err := docs.Fill(p.Script(mark), names)
	if err != nil {
		t.Errorf("%s: %v", p.Path, err)
		return
	}
	var out string
	if mark == "node" {
		var b []byte
		b, err = r.c.lab(append([]string{"shell", r.state.Machines[0].Name}, docs.Bash("", script).Args...)...).CombinedOutput()
		out = string(b)
	} else {
		out, err = r.shell(script)
	}
	if err != nil || out == "" {
		t.Errorf("%s: %v\n%s", p.Path, err, end(out))
		return
	}
	seen := map[string]bool{}
	for line := range strings.Lines(out) {
		seen[strings.Join(strings.Fields(line), " ")] = true
	}
	for _, header := range p.Tables(mark) {
		if !seen[header] {
			t.Errorf("%s shows a table %q, and the commands print\n%s", p.Path, header, end(out))
		}
	}
	t.Logf("%s %s: %d bytes", mark, p.Path, len(out))
}

// end returns the last 4 KiB of what commands have printed: a map of a node has megabytes.
func end(out string) string {
	if n := len(out) - 4096; n > 0 {
		return fmt.Sprintf("(%d bytes before)%s", n, out[n:])
	}
	return out
}

// revision returns the release's last revision.
func (r *reader) revision(t *testing.T) string {
	t.Helper()
	out, err := r.shell([]string{"helm -n kube-system history terway -o json"})
	var history []struct{ Revision int }
	if err != nil || json.Unmarshal([]byte(out), &history) != nil || len(history) == 0 {
		t.Fatalf("helm history: %v\n%s", err, out)
	}
	return fmt.Sprint(history[len(history)-1].Revision)
}

// shopManifest has the pods that the pages call shop/web and shop/db, one on each node.
const shopManifest = `
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, annotations: {kubernetes.io/ingress-bandwidth: 10M, kubernetes.io/egress-bandwidth: 5M}, labels: {app: web}}
spec:
  nodeName: NODE1
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: IMAGE, imagePullPolicy: IfNotPresent, args: [netexec, --http-port=8080]}]
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
spec:
  nodeName: NODE2
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: IMAGE, imagePullPolicy: IfNotPresent, args: [netexec, --http-port=5432]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: 5432}]
`

// unlimited takes the limits of shop/web away.
func (r *reader) unlimited(t *testing.T) {
	t.Helper()
	if out, err := r.shell([]string{"kubectl annotate pod -n shop web kubernetes.io/ingress-bandwidth- kubernetes.io/egress-bandwidth-"}); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// shop makes the objects that pages name, lets a policy deny a connection, and returns what the pages' names are in the lab, by mark and page.
func (r *reader) shop(t *testing.T) map[string]map[string]string {
	t.Helper()
	node1, node2 := r.state.Machines[0].Name, r.state.Machines[1].Name
	kubectl := func(stdin string, args ...string) (string, error) {
		return r.run(t, stdin, r.state.Options.Bin("kubectl"), args...)
	}
	must := func(stdin string, args ...string) string {
		t.Helper()
		out, err := kubectl(stdin, args...)
		if err != nil {
			t.Fatalf("kubectl %q: %v\n%s", args, err, out)
		}
		return out
	}
	t.Cleanup(func() {
		must("", "delete", "namespace", "shop")
		must("", "-n", metav1.NamespaceSystem, "rollout", "status", "daemonset/terwayd", "--timeout=1m")
	})
	must(strings.NewReplacer("NODE1", node1, "NODE2", node2, "IMAGE", lab.ImageAgnhost).Replace(shopManifest), "apply", "-f", "-")
	must("", "-n", "shop", "wait", "pods", "--all", "--for=condition=Ready", "--timeout=60s")
	address := func(pod string) string {
		t.Helper()
		return must("", "-n", "shop", "get", "pod", pod, "-o", "jsonpath={.status.podIP}")
	}
	connect := func(port string) error {
		out, err := kubectl("", "-n", "shop", "exec", "web", "--", "/agnhost", "connect", address("db")+":"+port, "--timeout=1s")
		if err != nil {
			err = fmt.Errorf("shop/web to shop/db, port %s: %w: %s", port, err, out)
		}
		return err
	}
	eventually(t, "shop/web reaches shop/db", func() error { return connect("5432") })
	eventually(t, "the agents' log has what was denied", func() error {
		if err := connect("22"); err == nil {
			t.Fatal("the policy denies nothing")
		}
		out := must("", "-n", metav1.NamespaceSystem, "logs", "-l", "app=terwayd", "--tail=-1")
		if !strings.Contains(out, `"kind":"flow"`) {
			return fmt.Errorf("no flow is in\n%s", out)
		}
		return nil
	})

	onNode := func(script string, args ...string) []string {
		t.Helper()
		out, err := r.c.lab(append([]string{"shell", node1, "bash", "-euo", "pipefail", "-c", script, "bash"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return strings.Fields(string(out))
	}
	web := address("web")
	device := onNode(`ip -o route get "$1" | sed 's/.* dev \(tw[^ ]*\) .*/\1/'`, web)
	pod := onNode(`for n in $(ip netns list | cut -d" " -f1); do if ip netns exec $n ip -o -4 address | grep -q " $1/"; then echo $n $(ip netns pids $n | head -n1); fi; done`, web)
	if len(device) != 1 || len(pod) != 2 {
		t.Fatalf("device %q, namespace and process %q of shop/web", device, pod)
	}
	outside := map[string]string{"www.aliyun.com:443": r.state.Master.Address.String() + ":6443"}
	return map[string]map[string]string{
		"lab docs/bandwidth.md":              {"NAME": "-n shop db", "NODE": node1},
		"node docs/bandwidth.md":             {"tw1a2b3c4d5e6": device[0], "PID": pod[1]},
		"lab docs/configuration.md":          {"POD": "daemonset/terwayd", "CONTAINER": "terwayd"},
		"node docs/datapaths.md":             {"tw1a2b3c4d5e6": device[0], "POD": pod[0]},
		"lab docs/install.md":                outside,
		"lab docs/neighbours-on-the-node.md": {"NODE": node1},
		"lab docs/policy.md": {
			"--pod shop/web -f": "--pod shop/web",            // it would go on until somebody ends it
			"before -f -":       "before -f - || [ $? = 2 ]", // something is cut
		},
		"lab docs/terwayctl.md": outside,
		"lab docs/upgrade.md":   {"REVISION": r.revision(t), "NODE": node1},
	}
}
