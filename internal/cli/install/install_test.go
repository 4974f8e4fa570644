package install

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/internal/cli/cluster"
	"terway.dev/terway/internal/cli/install/installtest"
	"terway.dev/terway/internal/cloud/alibaba"
	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/preflight"
	"terway.dev/terway/internal/vpcsim/faults"
)

// shop is a cluster of one node in the simulated cloud.
func shop(t *testing.T) (*installtest.Shop, *preflight.Facts) {
	t.Helper()
	s := installtest.New(t)
	conf, err := config.Parse([]byte(s.ENIConfig()))
	if err != nil {
		t.Fatal(err)
	}
	return s, &preflight.Facts{Config: conf, Nodes: []corev1.Node{*s.Node()}}
}

func asked(t *testing.T, s *installtest.Shop, f *preflight.Facts, controllers bool) error {
	t.Helper()
	a := s.Account()
	api, err := alibaba.New(alibaba.Config{Region: "cn-hangzhou", ECSEndpoint: s.Endpoint(), VPCEndpoint: s.Endpoint(), Credentials: alibaba.StaticCredentials(a.AccessKeyID, a.AccessKeySecret)})
	if err != nil {
		t.Fatal(err)
	}
	return look(t.Context(), api, controllers, f)
}

// Every call of the controller is tried and changes nothing; one that is refused is named, and the others are tried in spite of it.
func TestLook(t *testing.T) {
	s, f := shop(t)
	account := func() string {
		t.Helper()
		v := s.View()
		v.Revision = 0
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	before := account()
	if err := asked(t, s, f, true); err != nil {
		t.Fatal(err)
	}
	for _, c := range preflight.Judge(f, nil) {
		if len(c.Problems) > 0 {
			t.Errorf("%s: %q", c.Name, c.Problems)
		}
	}
	if c := f.Cloud; len(c.Refused) > 0 || len(c.Instances) != 1 || len(c.VSwitches) != 1 || len(c.Groups) != 1 {
		t.Errorf("%+v", c)
	}
	if after := account(); before != after {
		t.Errorf("the account was changed:\n%s\n%s", before, after)
	}
	// All that the controller needs for its own network, each refused.
	for _, action := range allowed(t, "ram-policy.json") {
		product, name, _ := strings.Cut(action, ":")
		if product == "slb" || product == "nlb" || strings.Contains(name, "Route") || strings.Contains(name, "SecurityGroup") && name != "DescribeSecurityGroups" {
			continue // for load balancers, for Flannel
		}
		if err := s.AddFaults(faults.Rule{Name: "ram", Action: name, Error: &faults.Error{Code: "Forbidden.RAM", Status: 403, Message: "no"}}); err != nil {
			t.Fatal(err)
		}
		f.Cloud = nil
		if err := asked(t, s, f, true); err != nil {
			t.Errorf("%s is refused: %v", action, err)
		} else if r := f.Cloud.Refused; len(r) != 1 || r[0].Action != action || !strings.Contains(r[0].Answer, "Forbidden.RAM") {
			t.Errorf("%s is refused: %+v", action, r)
		}
		s.RemoveFault("ram")
	}
	// The operator's own policy is enough for the operator's own credential, which tries nothing of the controller's.
	mine := allowed(t, "ram-policy-vpc.json")
	for _, action := range allowed(t, "ram-policy.json") {
		if product, name, _ := strings.Cut(action, ":"); (product == "ecs" || product == "vpc") && !slices.Contains(mine, action) {
			if err := s.AddFaults(faults.Rule{Name: name, Action: name, Error: &faults.Error{Code: "Forbidden.RAM", Status: 403}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := asked(t, s, f, false); err != nil || len(f.Cloud.Refused) > 0 || len(f.Cloud.Instances) != 1 || len(f.Cloud.VSwitches) != 1 || len(f.Cloud.Groups) != 1 {
		t.Errorf("with the operator's policy: %v, %+v", err, f.Cloud)
	}
	// With less nothing fails that is about the controller.
	if err := s.AddFaults(faults.Rule{Name: "ram", Action: "DescribeInstances", Error: &faults.Error{Code: "Forbidden.RAM", Status: 403}}); err != nil {
		t.Fatal(err)
	}
	if err := asked(t, s, f, false); err != nil || len(f.Cloud.Refused) != 1 {
		t.Errorf("with less than that: %v, %+v", err, f.Cloud)
	}
	for _, c := range preflight.Judge(f, nil) {
		if len(c.Problems) > 0 {
			t.Errorf("with less than that, %s: %q", c.Name, c.Problems)
		}
	}
	s.RemoveFault("ram")
	if err := s.AddFaults(faults.Rule{Name: "key", Action: "DescribeInstances", Error: &faults.Error{Code: "InvalidAccessKeyId.NotFound", Status: 404}}); err != nil {
		t.Fatal(err)
	}
	if err := asked(t, s, f, true); err == nil || !isAuth(err) {
		t.Errorf("a wrong key: %v", err)
	}
}

// allowed returns the actions that a policy of deploy allows.
func allowed(t *testing.T, file string) []string {
	t.Helper()
	var policy struct{ Statement []struct{ Action []string } }
	data, err := os.ReadFile("../../../deploy/" + file)
	if err != nil || json.Unmarshal(data, &policy) != nil || len(policy.Statement) != 1 {
		t.Fatalf("%s: %v", file, err)
	}
	return policy.Statement[0].Action
}

// The access key is that of the values or of the Secret that they name.
func TestCredential(t *testing.T) {
	known, err := cluster.Scheme()
	if err != nil {
		t.Fatal(err)
	}
	secret := func(name string, keys ...string) client.Object {
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: name}, Data: map[string][]byte{}}
		for _, k := range keys {
			s.Data[k] = []byte("the-" + k)
		}
		return s
	}
	c := fake.NewClientBuilder().WithScheme(known).WithObjects(secret("good", keyID, keySecret), secret("half", keyID)).Build()
	for text, want := range map[string]string{
		"{source: secret, existingSecret: good}":               "the-access-key-id",
		"{source: secret, accessKeyID: a, accessKeySecret: b}": "a",
		"{source: secret, existingSecret: half}":               "Secret kube-system/half has no key access-key-secret",
		"{source: secret, existingSecret: none}":               "kubectl -n kube-system create secret generic none",
		"{source: ecs-role}":                                   "",
		"{source: rrsa, roleARN: a, oidcProviderARN: b}":       "",
	} {
		v := &values{}
		if err := yaml.Unmarshal([]byte("credentials: "+text), v); err != nil {
			t.Fatal(err)
		}
		source, wrong, err := credential(t.Context(), c, "kube-system", v)
		if err != nil {
			t.Fatal(err)
		}
		got := wrong
		if source != nil {
			key, err := source.Get(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			got = key.AccessKeyID
		}
		if want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

// An upgrade changes what differs, and leaves the kinds that are to stay.
func TestCompare(t *testing.T) {
	const before = `---
# Source: terway/templates/a.yaml
kind: ConfigMap
metadata: {name: same, namespace: ns}
data: {a: "1"}
---
kind: ConfigMap
metadata: {name: other, namespace: ns}
data: {a: "1"}
---
kind: ClusterRole
metadata: {name: gone}
---
kind: CustomResourceDefinition
metadata: {name: kept, annotations: {helm.sh/resource-policy: keep}}
`
	after := strings.NewReplacer(`other, namespace: ns}
data: {a: "1"}`, `other, namespace: ns}
data: {a: "2"}`, "ClusterRole\nmetadata: {name: gone}", "ClusterRole\nmetadata: {name: new}", "CustomResourceDefinition\nmetadata: {name: kept", "CustomResourceDefinition\nmetadata: {name: made").Replace(before)
	o, err := compare(before, after)
	if err != nil || !slices.Equal(o.Create, []string{"ClusterRole new", "CustomResourceDefinition made"}) || !slices.Equal(o.Change, []string{"ConfigMap ns/other"}) || !slices.Equal(o.Delete, []string{"ClusterRole gone"}) || o.Unchanged != 1 {
		t.Errorf("%+v, %v", o, err)
	}
	if o, err := compare("", before); err != nil || len(o.Create) != 4 || len(o.Change)+len(o.Delete)+o.Unchanged != 0 {
		t.Errorf("the first: %+v, %v", o, err)
	}
	if _, err := compare("a: [", before); err == nil {
		t.Error("no YAML: no error")
	}
}

// Old pods are waited for, and those that are not available.
func TestRolledOut(t *testing.T) {
	two := int32(2)
	d := appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "d", Generation: 2}, Spec: appsv1.DeploymentSpec{Replicas: &two},
		Status: appsv1.DeploymentStatus{ObservedGeneration: 2, Replicas: 2, UpdatedReplicas: 2, AvailableReplicas: 2}}
	s := appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "s", Generation: 3},
		Status: appsv1.DaemonSetStatus{ObservedGeneration: 3, DesiredNumberScheduled: 3, UpdatedNumberScheduled: 3, NumberAvailable: 3}}
	for name, c := range map[string]struct {
		change func(*appsv1.Deployment, *appsv1.DaemonSet)
		want   string
	}{
		"all new":       {func(*appsv1.Deployment, *appsv1.DaemonSet) {}, ""},
		"not looked at": {func(_ *appsv1.Deployment, s *appsv1.DaemonSet) { s.Generation++ }, "has not looked"},
		"old ones":      {func(d *appsv1.Deployment, _ *appsv1.DaemonSet) { d.Status.Replicas++ }, "2 of 2 pods of Deployment d are new"},
		"not available": {func(d *appsv1.Deployment, _ *appsv1.DaemonSet) { d.Status.AvailableReplicas-- }, "1 are available"},
		"old agents":    {func(_ *appsv1.Deployment, s *appsv1.DaemonSet) { s.Status.UpdatedNumberScheduled-- }, "2 of 3 pods of DaemonSet s are new"},
		"dead agents":   {func(_ *appsv1.Deployment, s *appsv1.DaemonSet) { s.Status.NumberAvailable = 0 }, "0 are available"},
	} {
		d, s := d.DeepCopy(), s.DeepCopy()
		c.change(d, s)
		if got := rolledOut(d, s); c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// The values of a later file go before those of an earlier one; what is wrong with them is told before a cluster is asked.
func TestValues(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	first := file("first", "eniConfig: {cluster_id: c, region: cn-hangzhou, service_cidr: 172.21.0.0/20, vswitches: {cn-hangzhou-i: [vsw-1]}}\ncredentials: {existingSecret: k}\nfoo: 1\n")
	second := file("second", "eniConfig: {region: Hangzhou}\npolicy: {enabled: true}\n")
	t.Setenv("KUBECONFIG", filepath.Join(dir, "none"))
	run := func(args ...string) (string, error) {
		cmd := NewCommand()
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetErr(io.Discard)
		cmd.SetArgs(args)
		err := cmd.ExecuteContext(t.Context())
		return out.String(), err
	}
	out, err := run("--values", first, "--values", second)
	if err == nil || err.Error() != "checks have failed: values" || !strings.Contains(out, "region") || !strings.Contains(out, "problem: values: the values: additional properties 'foo' not allowed") {
		t.Errorf("%v\n%s", err, out)
	}
	good := file("good", "eniConfig: {cluster_id: c, region: cn-hangzhou, service_cidr: 172.21.0.0/20, vswitches: {cn-hangzhou-i: [vsw-1]}}\ncredentials: {existingSecret: k}\n")
	away := file("kubeconfig", "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]\ncontexts: [{name: c, context: {cluster: c}}]\ncurrent-context: c\n")
	if out, err := run("--values", good, "--kubeconfig", away); err == nil || !strings.HasPrefix(err.Error(), "the cluster at https://127.0.0.1:1: ") || out != "" {
		t.Errorf("no API server: %v\n%s", err, out)
	}
	for want, args := range map[string][]string{
		"want --values FILE, or a plan's file, or both":     nil,
		"--ignore colour: want some of rights, ":            {"--values", first, "--ignore", "colour"},
		"--wait=-1s: want a duration such as 5m, or 0":      {"--values", first, "--wait=-1s"},
		"--no-cloud: the ids of a plan's VPC are in the cl": {"plan.yaml", "--no-cloud"},
	} {
		if _, err := run(args...); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v, want %q", args, err, want)
		}
	}
}

// Checks that have failed are the error, unless they are to be ignored; those of the chart cannot be.
func TestVerdict(t *testing.T) {
	bad := func(name string, ignored bool) preflight.Check {
		return preflight.Check{Name: name, Problems: []string{"it is wrong"}, Notes: []string{"but well"}, Ignored: ignored}
	}
	for want, checks := range map[string][]preflight.Check{
		"": {{Name: checkValues}, bad(preflight.MaxPods, true)},
		"checks have failed: nodes; --ignore nodes installs in spite of that": {bad(preflight.MaxPods, true), bad(preflight.Nodes, false)},
		"checks have failed: chart, nodes":                                    {bad(checkChart, false), bad(preflight.Nodes, false)},
	} {
		r := &Result{Checks: checks, Objects: &Objects{Create: []string{"ConfigMap n/a"}}}
		got := ""
		if err := verdict(r); err != nil {
			got = err.Error()
		}
		var out bytes.Buffer
		if err := r.write(&out, true); err != nil {
			t.Fatal(err)
		}
		if got != want || !strings.Contains(out.String(), "problem: max-pods: it is wrong\nnote: max-pods: but well\n") && want != "checks have failed: chart, nodes" || !strings.Contains(out.String(), "  make ConfigMap n/a\n") {
			t.Errorf("%q, want %q, and\n%s", got, want, &out)
		}
	}
}
