package vpc

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/catalog/catalogtest"
	"terway.dev/terway/internal/plan"
	"terway.dev/terway/internal/provision"
	"terway.dev/terway/internal/vpcsim"
	"terway.dev/terway/internal/vpcsim/faults"
)

const shop = `version: 1
name: shop
region: cn-hangzhou
network: terway
mode: shared
securityGroup: normal
serviceCIDR: 172.21.0.0/20
vpc: {cidr: 192.168.0.0/16}
nodes: {count: 2, max: 4, instanceTypes: [ecs.g6.2xlarge]}
zones:
- id: cn-hangzhou-i
  node: {name: shop-node, cidr: 192.168.0.0/19}
  pods: [{name: shop-pod, cidr: 192.168.32.0/19}]
`

// operator runs the command in a folder with a plan, with a simulated cloud.
type operator struct {
	*testing.T
	cloud *vpcsim.Server
	plan  string
}

func newOperator(t *testing.T) *operator {
	t.Helper()
	s, err := vpcsim.New(vpcsim.Options{Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	a := s.Account()
	for name, value := range map[string]string{
		"ECS_ENDPOINT": s.Endpoint(), "VPC_ENDPOINT": s.Endpoint(), "ALIBABA_CLOUD_REGION_ID": "",
		"ALIBABA_CLOUD_ACCESS_KEY_ID": a.AccessKeyID, "ALIBABA_CLOUD_ACCESS_KEY_SECRET": a.AccessKeySecret,
	} {
		t.Setenv(name, value)
	}
	o := &operator{t, s, filepath.Join(t.TempDir(), "plan.yaml")}
	o.write(shop)
	return o
}

func (o *operator) write(text string) {
	o.Helper()
	if err := os.WriteFile(o.plan, []byte(text), 0o644); err != nil {
		o.Fatal(err)
	}
}

// run runs the command, with PLAN replaced by the plan's file; said is the standard error.
func (o *operator) run(command string) (out, said string, err error) {
	o.Helper()
	cmd := NewCommand()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	o.Setenv("KUBECONFIG", filepath.Join(o.TempDir(), "none"))
	o.Setenv("KUBERNETES_SERVICE_HOST", "")
	var stdout, stderr bytes.Buffer
	cmd.SetOut(&stdout)
	cmd.SetErr(&stderr)
	cmd.SetContext(o.Context())
	cmd.SetArgs(strings.Fields(strings.NewReplacer("PLAN", o.plan, "BAD", o.plan+".bad").Replace(command)))
	err = cmd.Execute()
	return stdout.String(), stderr.String(), err
}

// does expects the command to succeed with these texts in its output, which it returns.
func (o *operator) does(command string, want ...string) (out string) {
	o.Helper()
	out, _ = o.says(command, want...)
	return out
}

// says is does that returns the standard error too.
func (o *operator) says(command string, want ...string) (out, said string) {
	o.Helper()
	out, said, err := o.run(command)
	if err != nil {
		o.Fatalf("%s: %v", command, err)
	}
	for _, w := range want {
		if !strings.Contains(out, w) {
			o.Errorf("%s: %q is not in\n%s", command, w, out)
		}
	}
	return out, said
}

// fails expects the command to fail with this text in its error.
func (o *operator) fails(command, want string) {
	o.Helper()
	if out, _, err := o.run(command); err == nil || !strings.Contains(err.Error(), want) {
		o.Errorf("%s: %v, want an error with %q\n%s", command, err, want, out)
	}
}

// TestLife: a VPC from creation to deletion.
func TestLife(t *testing.T) {
	o := newOperator(t)
	o.fails("show PLAN", "no VPC of cn-hangzhou carries the tag terway.dev/plan=shop")
	o.fails("grow PLAN --zone cn-hangzhou-i --to 2 --no-cluster", "has no VPC yet")
	o.does("apply PLAN --dry-run", "would create VPC shop (192.168.0.0/16)\nwould create vSwitch shop-node", "would create security group shop (normal)")
	if _, said := o.says("apply PLAN", "4 changes were made", "shop-pod", "eniConfig:\n  cluster_id: shop\n"); !strings.Contains(said, "create VPC shop") || strings.Contains(said, "warning") {
		t.Errorf("apply says\n%s", said)
	}
	o.does("apply PLAN", "nothing to do")
	o.does("apply PLAN --dry-run", "nothing to do")
	o.does("show shop --region cn-hangzhou", "shop-node", "192.168.64.0/18, 192.168.128.0/17")

	const grow = "grow PLAN --zone cn-hangzhou-i --to 2 --bits 24 --no-cluster"
	o.does(grow+" --dry-run", "would put vSwitch shop-pod-2 (192.168.64.0/24, cn-hangzhou-i, for pods) into the plan's file\nwould create vSwitch shop-pod-2")
	o.does("show PLAN", "ranges of the VPC that no vSwitch has: 192.168.64.0/18")
	o.does(grow, "shop-pod-2, 192.168.64.0/24) has 252 addresses",
		"no cluster was told: run the command again without --no-cluster, which creates no other", "helm upgrade", "vswitches:\n    cn-hangzhou-i:\n    - vsw-")
	o.does(grow, "nothing to do: cn-hangzhou-i has the Pod vSwitches already")
	o.does(grow+" --dry-run", "nothing to do")
	out, _, err := o.run("apply PLAN -o json")
	var applied struct {
		Done      []string
		ENIConfig struct{ VSwitches map[string][]string }
	}
	if jsonErr := json.Unmarshal([]byte(out), &applied); err != nil || jsonErr != nil || len(applied.Done) > 0 || len(applied.ENIConfig.VSwitches["cn-hangzhou-i"]) != 2 {
		t.Errorf("apply -o json: %v, %v\n%s", err, jsonErr, out)
	}

	o.fails("delete PLAN", "give --yes")
	out, _, err = o.run("delete PLAN -o json")
	type preview struct{ WouldDelete []provision.Step }
	var refused, dry, inYAML preview
	if jsonErr := json.Unmarshal([]byte(out), &refused); err == nil || jsonErr != nil || len(refused.WouldDelete) != 5 {
		t.Errorf("delete -o json without --yes: %v, %v\n%s", err, jsonErr, out)
	}
	if v := refused.WouldDelete[0]; v.Kind != "vSwitch" || !strings.HasPrefix(v.ID, "vsw-") || v.Name != "shop-node" || v.CIDR != "192.168.0.0/19" {
		t.Errorf("delete -o json: the first is %+v, want the vSwitch shop-node", v)
	}
	if err := json.Unmarshal([]byte(o.does("delete PLAN -o json --dry-run")), &dry); err != nil || !reflect.DeepEqual(dry, refused) {
		t.Errorf("delete --dry-run: %+v, %v; want %+v", dry, err, refused)
	}
	if err := yaml.Unmarshal([]byte(o.does("delete PLAN -o yaml --dry-run")), &inYAML); err != nil || !reflect.DeepEqual(inYAML, refused) {
		t.Errorf("delete -o yaml --dry-run: %+v, %v; want %+v", inYAML, err, refused)
	}
	o.does("delete PLAN --dry-run", "would delete vSwitch vsw-", "would delete VPC vpc-")
	o.does("show PLAN", "shop-pod-2")
	o.write("version: 1\nregion: cn-hangzhou")
	o.fails("delete PLAN --yes", "name is empty")
	o.write(shop)
	o.does("delete PLAN --yes", "deleted vSwitch vsw-", "deleted VPC vpc-")
	o.does("delete PLAN --yes", `nothing to delete: no VPC of cn-hangzhou is plan "shop"'s`)
}

// TestSlowCloud: the user sees why retries take long.
func TestSlowCloud(t *testing.T) {
	o := newOperator(t)
	o.does("apply PLAN")
	if err := o.cloud.AddFaults(faults.Rule{Action: "DescribeVpcs", Count: 5, Error: &faults.Error{Code: "Throttling"}}); err != nil {
		t.Fatal(err)
	}
	if _, said := o.says("show PLAN", "shop-pod"); !strings.Contains(said, "to repeat DescribeVpcs: Throttling: ") {
		t.Errorf("show says %q", said)
	}
}

// when calls f when a line with a text is written.
type when struct {
	text string
	f    func()
}

func (w when) Write(b []byte) (int, error) {
	if strings.Contains(string(b), w.text) {
		w.f()
	}
	return len(b), nil
}

// TestInterrupt: an interrupt during a pause between two attempts is said to be one, not that the
// cloud cannot be reached.
func TestInterrupt(t *testing.T) {
	o := newOperator(t)
	if err := o.cloud.AddFaults(faults.Rule{Action: "DescribeVpcs", Error: &faults.Error{Code: "ServiceUnavailable"}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd := NewCommand()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetErr(when{"to repeat DescribeVpcs", cancel})
	cmd.SetArgs([]string{"apply", o.plan})
	err := cmd.ExecuteContext(ctx)
	if ctx.Err() == nil || err == nil || !strings.HasSuffix(err.Error(), "\nrun the command again to continue") || strings.Contains(err.Error(), "reache") {
		t.Errorf("%v, want that it was interrupted", err)
	}
}

// TestTimeout: an endpoint that accepts connections and never answers is given up after --timeout,
// and not asked again.
func TestTimeout(t *testing.T) {
	newOperator(t) // sets a credential
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan net.Conn, 100)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				close(asked)
				return
			}
			asked <- c
		}
	}()
	cmd := NewCommand()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetErr(io.Discard)
	cmd.SetArgs([]string{"show", "shop", "--region", "cn-hangzhou", "--endpoint", "http://" + l.Addr().String(), "--timeout", "300ms"})
	if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), "no answer") || !strings.Contains(err.Error(), "(--timeout)") {
		t.Errorf("%v, want that there was no answer, and --timeout", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	n := 0
	for c := range asked {
		n++
		_ = c.Close() // it is the test's
	}
	if n > 1 {
		t.Errorf("the endpoint was asked %d times", n)
	}
}

// TestWrongUse: errors are reported before anything is created.
func TestWrongUse(t *testing.T) {
	o := newOperator(t)
	// Syntax errors do not hide errors of the network.
	if err := os.WriteFile(o.plan+".bad", []byte(strings.NewReplacer("region", "regio", "Group: normal", "Group: fancy").Replace(shop)), 0o644); err != nil {
		t.Fatal(err)
	}
	for command, want := range map[string]string{
		"apply PLAN -o xml":                                         `want text, json, yaml or values`,
		"apply PLAN --dry-run -o values":                            "no values before",
		"apply PLAN.old":                                            "no such file",
		"apply PLAN --region cn-beijing":                            "the plan says region cn-hangzhou",
		"apply PLAN --endpoint-network x":                           `"x" is neither public nor vpc`,
		"show":                                                      "give either",
		"apply BAD":                                                 "securityGroup \"fancy\": want normal or enterprise",
		"grow BAD --zone z --to 2":                                  "regio is not a key: want region",
		"show shop":                                                 "no region",
		"show PLAN.yml":                                             "there is no file",
		"delete ./shop --yes":                                       "there is no file ./shop",
		"delete plan.yml --yes --region r":                          "there is no file plan.yml",
		"grow PLAN":                                                 `"zone" not set`,
		"grow PLAN --zone z --to 2 --bits 0":                        "--bits 0: want 16 to 29",
		"grow PLAN --zone z":                                        "want --to N, how many Pod vSwitches z is to have, or --cidr",
		"grow PLAN --zone z --to 2 --cidr 10.0.0.0/24":              "want --to N",
		"grow PLAN --zone z --to 0":                                 "--to 0: want 1 or more",
		"grow PLAN --zone z --to 2 --dry-run -o values":             "no values before",
		"grow PLAN --zone z --cidr x":                               `--cidr "x": want a range`,
		"grow PLAN --zone z --cidr 10.0.0.0/24 --no-cluster":        "has no VPC yet",
		"grow PLAN --zone z --cidr 10.0.0.0/24 --bits 24":           "give one of them",
		"grow PLAN --zone z --to 2 --kubeconfig /none":              "--kubeconfig /none",
		"grow PLAN --zone z --to 2 --kubeconfig /none --no-cluster": "leave one of them out",
		"grow PLAN --zone z --to 2":                                 "no cluster is named: give --kubeconfig, or set KUBECONFIG; --no-cluster changes",
		"delete PLAN --yes --dry-run":                               "give one of them",
	} {
		o.fails(command, want)
	}
	o.does("delete PLAN --yes", "nothing to delete")
}

// TestCatalogue: a plan for a type that only a refreshed table has.
func TestCatalogue(t *testing.T) {
	o := newOperator(t)
	var all []catalog.Type
	for _, typ := range catalog.Default().All() {
		if typ.Name == "ecs.g6.2xlarge" {
			typ.IPv4PerENI = catalog.Of(12)
		}
		all = append(all, typ)
	}
	table := catalogtest.Table(t, all...)
	o.write(strings.Replace(shop, "max: 4,", "max: 4, podsPerNode: 36,", 1))
	o.fails("apply PLAN", "nodes.podsPerNode 36: want at most 30")
	o.fails("apply PLAN --catalogue "+table+".none", "--catalogue")
	o.does("apply PLAN --catalogue "+table, "shop-pod")
	o.does("grow PLAN --zone cn-hangzhou-i --to 2 --no-cluster --catalogue "+table, "192.168.64.0/19")
}

// TestFlannel: applying a plan with Flannel prints the flags for Kubernetes.
func TestFlannel(t *testing.T) {
	o := newOperator(t)
	before, _, _ := strings.Cut(strings.Replace(shop, "network: terway\nmode: shared", "network: flannel\npodCIDR: 172.20.0.0/16\nnodeMask: 26", 1), "  pods:")
	o.write(before)
	o.does("apply PLAN", "network: flannel\n  pod_cidr: 172.20.0.0/16", "--cluster-cidr=172.20.0.0/16 --node-cidr-mask-size=26\n")
}

// cluster is an API server with only the ConfigMap eni-config.
type cluster struct {
	kubeconfig string

	mu     sync.Mutex
	config string // the content of the ConfigMap
	writes int
}

func newCluster(t *testing.T, config string) *cluster {
	c := &cluster{config: config}
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		defer c.mu.Unlock()
		const path = "/api/v1/namespaces/kube-system/configmaps/eni-config"
		switch {
		case r.Method == http.MethodGet && r.URL.Path == path:
		case r.Method == http.MethodPut && r.URL.Path == path:
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			obj, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, nil)
			m, ok := obj.(*corev1.ConfigMap)
			if err != nil || !ok {
				t.Errorf("%v: %s", err, body)
				return
			}
			c.config, c.writes = m.Data["eni-config.yaml"], c.writes+1
		default:
			t.Errorf("%s %s", r.Method, r.URL)
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(corev1.ConfigMap{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: metav1.ObjectMeta{Name: "eni-config", Namespace: "kube-system"},
			Data: map[string]string{"eni-config.yaml": c.config},
		})
	}))
	t.Cleanup(api.Close)
	c.kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(c.kubeconfig, []byte("{clusters: [{name: c, cluster: {server: '"+api.URL+"'}}], contexts: [{name: c, context: {cluster: c}}], current-context: c}"), 0o600); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestAnotherCluster: no vSwitch is created if the kubeconfig is for another cluster.
func TestAnotherCluster(t *testing.T) {
	o := newOperator(t)
	o.does("apply PLAN")
	c := newCluster(t, "{cluster_id: other, region: cn-hangzhou, service_cidr: 172.21.0.0/20, vswitches: {cn-hangzhou-i: [vsw-other]}}")
	o.fails("grow PLAN --zone cn-hangzhou-i --to 2 --kubeconfig "+c.kubeconfig, "cluster other has no vSwitch of the plan's VPC, but [vsw-other]")
	o.does("apply PLAN", "nothing to do")
	if text, err := os.ReadFile(o.plan); err != nil || string(text) != shop {
		t.Errorf("the plan has changed: %v\n%s", err, text)
	}
	if c.writes > 0 {
		t.Error("the cluster was changed")
	}
}

// TestGrowLater: the same command, with a cluster, adds an existing vSwitch to the cluster and
// creates no other; repeated, it changes nothing.
func TestGrowLater(t *testing.T) {
	o := newOperator(t)
	values, _, err := o.run("apply PLAN -o values")
	if err != nil {
		t.Fatal(err)
	}
	var chart struct{ ENIConfig map[string]any }
	if err := yaml.Unmarshal([]byte(values), &chart); err != nil {
		t.Fatal(err)
	}
	text, err := yaml.Marshal(chart.ENIConfig)
	if err != nil {
		t.Fatal(err)
	}
	c := newCluster(t, string(text))
	type grown struct {
		VSwitches []struct{ ID string }
		Done      []provision.Step
		Adopted   bool
	}
	grow := func(flags string) (g grown) {
		t.Helper()
		if err := json.Unmarshal([]byte(o.does("grow PLAN --zone cn-hangzhou-i -o json "+flags)), &g); err != nil {
			t.Fatal(err)
		}
		return g
	}
	with := " --kubeconfig " + c.kubeconfig
	alone, later := grow("--to 2 --bits 24 --no-cluster"), grow("--to 2 --bits 24"+with)
	if alone.Adopted || len(alone.Done) != 2 || !later.Adopted || len(later.Done) != 1 || len(later.VSwitches) != 2 || later.VSwitches[1] != alone.VSwitches[1] {
		t.Errorf("without the cluster %+v, with it %+v: want the same vSwitch, which only the cluster gets", alone, later)
	}
	if c.writes != 1 || !strings.Contains(c.config, alone.VSwitches[1].ID) {
		t.Errorf("written %d times, the cluster has\n%s", c.writes, c.config)
	}
	if again := grow("--to 2 --bits 24" + with); len(again.Done) > 0 || !reflect.DeepEqual(again.VSwitches, later.VSwitches) || c.writes != 1 {
		t.Errorf("again: %+v, the cluster was written %d times: want no change", again, c.writes)
	}
	o.does("grow PLAN --zone cn-hangzhou-i --to 3 --dry-run"+with, "would create vSwitch shop-pod-3 (192.168.96.0/19", "would let the cluster use vSwitch shop-pod-3")
	if n := strings.Count(c.config, "vsw-"); n != 2 {
		t.Errorf("after a dry run the cluster has %d vSwitches, want 2", n)
	}
	o.does("grow PLAN --zone cn-hangzhou-i --to 3"+with, "/19) has 8188 addresses", "the cluster uses them")
	if n := strings.Count(c.config, "vsw-"); n != 3 {
		t.Errorf("the cluster has %d vSwitches, want a third one:\n%s", n, c.config)
	}
	// As kubectl does, it takes the cluster of $KUBECONFIG; the context is that of --context.
	o.fails("grow PLAN --zone cn-hangzhou-i --to 3 --context other"+with, `context "other" does not exist`)
}

// TestDoubts: a plan that this version of Terway does not support gets its VPC, and a warning.
func TestDoubts(t *testing.T) {
	o := newOperator(t)
	o.write(strings.Replace(shop, "mode: shared", "mode: exclusive", 1))
	o.does("apply PLAN -o values", "mode: exclusive")
	o.write(strings.Replace(shop, "mode: shared", "mode: shared\nprefixes: true", 1))
	if _, said := o.says("apply PLAN -o values"); !strings.Contains(said, "warning: the plan counts on prefixes") {
		t.Errorf("apply says\n%s", said)
	}
	var said bytes.Buffer
	if err := doubts(&said, &plan.Plan{}, provision.ENIConfig{ClusterID: "c", Region: "r", ServiceCIDR: "172.21.0.0/20", Mode: "x",
		VSwitches: map[string][]string{"z": {"vsw-1"}}}); err != nil || !strings.Contains(said.String(), "refuses these values:\nmode \"x\": want") {
		t.Errorf("%v, %s", err, said.String())
	}
}
