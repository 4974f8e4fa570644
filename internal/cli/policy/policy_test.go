package policy_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"terway.dev/terway/internal/cli/policy"
)

const cluster = `
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata: {name: web, namespace: shop, labels: {app: web}}
  spec: {containers: []}
  status: {podIP: 10.0.0.1}
- apiVersion: v1
  kind: Pod
  metadata: {name: db, namespace: shop, labels: {app: db}}
  spec: {containers: []}
  status: {podIP: 10.0.0.2}
- apiVersion: v1
  kind: Pod
  metadata: {name: proxy, namespace: shop}
  spec: {containers: [], hostNetwork: true}
  status: {podIP: 192.168.0.1}
- apiVersion: apps/v1
  kind: Deployment
  metadata: {name: web, namespace: shop}
`

const policies = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 5432}]}]
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: log}
spec: {order: 1, types: [Egress], selector: app == 'web', egress: [{action: Log}, {action: Pass}]}
`

// run returns the output of "terwayctl policy ARGS", with these files in the folder DIR.
func run(t *testing.T, files map[string]string, args ...string) (string, error) {
	t.Helper()
	return runWith(t, "", files, args...)
}

// runWith is run with a standard input.
func runWith(t *testing.T, stdin string, files map[string]string, args ...string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	cmd := policy.NewCommand()
	cmd.SetArgs(append(args, "--offline", dir))
	cmd.SetIn(strings.NewReader(stdin))
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	err := cmd.ExecuteContext(t.Context())
	return strings.ReplaceAll(out.String(), dir, "DIR"), err
}

func TestTrace(t *testing.T) {
	files := map[string]string{"cluster.yaml": cluster, "policies.yml": policies, "notes.txt": "no: [YAML"}
	for _, c := range []struct{ from, to, port, want, problem string }{
		{"shop/web", "shop/db", "tcp/5432", `ignored: 1 Deployment, which policies do not use
shop/web (10.0.0.1) to shop/db (10.0.0.2)
egress at shop/web: logged by GlobalNetworkPolicy log, egress rule 0
egress at shop/web: allow: no policy selects the pod for it, or all pass it on
ingress at shop/db: allow: NetworkPolicy shop/db, ingress rule 0, in tier default
`, ""},
		{"198.51.100.7", "10.0.0.2", "5432", "egress at 198.51.100.7: no policy applies there\ningress at shop/db: deny: the end of tier default: policies of it select the pod, and no rule matches\n", "ingress at shop/db is denied"},
		{"shop/proxy", "shop/db", "tcp/5432", "egress at shop/proxy (host network): no policy applies there\n", "ingress at shop/db is denied"},
		{"shop/db", "shop/proxy", "icmp/8", "egress at shop/db: allow:", ""},
		{"shop/gone", "db", "tcp", "", "--port \"tcp\": want for example tcp/80, udp/53, icmp/8 or 47/0\n--from shop/gone: there is no such pod in the folder\n--to \"db\": want NAMESPACE/NAME of a pod, or an address"},
		{"2001:db8::1", "shop/db", "80", "", "2001:db8::1 and shop/db have no addresses of one family"},
	} {
		out, err := run(t, files, "trace", "--from", c.from, "--to", c.to, "--port", c.port)
		problem := ""
		if err != nil {
			problem = err.Error()
		}
		if !strings.Contains(out, c.want) || problem != c.problem {
			t.Errorf("%s to %s, %s:\n%s%q, want\n%s%q", c.from, c.to, c.port, out, problem, c.want, c.problem)
		}
	}
}

func TestLint(t *testing.T) {
	out, err := run(t, map[string]string{"a.yaml": cluster, "b.yaml": policies}, "lint")
	if err != nil || out != "ignored: 1 Deployment, which policies do not use\n" {
		t.Errorf("%s%v", out, err)
	}
	out, err = run(t, map[string]string{"b.json": `{"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": {"name": "x"}, "spec": {"selector": "a = 'b'"}}`}, "lint")
	if err == nil || err.Error() != "1 findings" || out != "there are no pods: checks that need pods are skipped\n"+
		`GlobalNetworkPolicy x: spec.selector: "a = 'b'": want selector "a = 'b'" has "= 'b'" at position 3: want ==, !=, in, not in, contains, starts with or ends with, after a label's name (refused) (not-as-written)`+"\n" {
		t.Errorf("%s%v", out, err)
	}
	out, err = run(t, map[string]string{"b.yaml": "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: x}\nspec: {podSelector: {}, ingres: []}\n"}, "lint")
	if err == nil || !strings.Contains(err.Error(), `b.yaml: document 1: strict decoding error: unknown field "spec.ingres"`) {
		t.Errorf("%s%v", out, err)
	}
	text := map[string]string{"p.yaml": "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: x}\nspec: {podSelector: {matchLabels: {app: wbe}}}\n", "a.yaml": cluster}
	if out, err = run(t, text, "lint", "-n", "shop"); err == nil || !strings.Contains(out, "NetworkPolicy shop/x: selects no pod (no-pods)") {
		t.Errorf("%s%v", out, err)
	}
	if out, err = run(t, nil, "lint"); err == nil || !strings.Contains(err.Error(), "there are no policies in ") {
		t.Errorf("%s%v", out, err)
	}
}

// TestProbes: whether health checks are let in is what the cluster's configuration says, unless
// the flag says it.
func TestProbes(t *testing.T) {
	configuration := func(namespace, more string) string {
		return `
apiVersion: v1
kind: ConfigMap
metadata: {name: eni-config, namespace: ` + namespace + `}
data:
  eni-config.yaml: |
    {cluster_id: c, region: cn-hangzhou, service_cidr: 172.21.0.0/20, vswitches: {cn-hangzhou-i: [vsw-1]}` + more + `}
`
	}
	off := configuration("kube-system", ", policy_allow_load_balancer_probes: false")
	const old = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: eni-config}\ndata: {eni_conf: '{}'}\n"
	const other = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: other}\ndata: {eni-config.yaml: '}'}\n"
	const let, kept = "ingress at shop/db: allow: Setting policy_allow_load_balancer_probes, ingress rule 0, in tier load-balancer-probes", "ingress at shop/db: deny: the end of tier default"
	for _, c := range []struct {
		config string
		args   []string
		want   string // of the output or of the error
	}{
		{"", nil, let},
		{other, nil, let},
		{old, nil, let},
		{configuration("kube-system", ""), nil, let},
		{off, nil, kept},
		{old + "---" + off, nil, kept},
		{off, []string{"--allow-load-balancer-probes"}, let},
		{"", []string{"--allow-load-balancer-probes=false"}, kept},
		{off + "---" + configuration("terway", ""), nil, "ConfigMap terway/eni-config: policy_allow_load_balancer_probes is true, and false in kube-system/eni-config: want the ConfigMap of one cluster, or --allow-load-balancer-probes"},
		{configuration("kube-system", ", colour: red"), nil, `ConfigMap kube-system/eni-config: "colour" is not a key`},
		{configuration("kube-system", ", colour: red"), []string{"--allow-load-balancer-probes=false"}, kept},
	} {
		out, err := run(t, map[string]string{"a.yaml": cluster, "b.yaml": policies, "c.yaml": c.config},
			append([]string{"trace", "--from", "100.64.0.1", "--to", "shop/db", "--port", "80"}, c.args...)...)
		if err != nil {
			out += err.Error()
		}
		if !strings.Contains(out, c.want) {
			t.Errorf("%s%v:\n%s\nwant %q", c.config, c.args, out, c.want)
		}
	}
}
