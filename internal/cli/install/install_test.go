package install

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/internal/cli/chartvalues"
	"terway.dev/terway/internal/cli/cluster"
	"terway.dev/terway/internal/cli/install/installtest"
	"terway.dev/terway/internal/cli/vpc"
	"terway.dev/terway/internal/cloud/alibaba"
	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/helm"
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
	api, err := alibaba.New(alibaba.Config{Region: "cn-hangzhou", ECSEndpoint: s.Endpoint(), VPCEndpoint: s.Endpoint(), SLBEndpoint: s.Endpoint(), NLBEndpoint: s.Endpoint(), Credentials: alibaba.StaticCredentials(a.AccessKeyID, a.AccessKeySecret)})
	if err != nil {
		t.Fatal(err)
	}
	return look(t.Context(), api, controllers, f)
}

// Every call of the controller for its own network or for Flannel is tried and changes nothing; one that is refused is named, and the others are tried in spite of it.
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
	refuse := func(action string) {
		t.Helper()
		_, name, _ := strings.Cut(action, ":")
		if err := s.AddFaults(faults.Rule{Name: "ram", Action: name, Error: &faults.Error{Code: "Forbidden.RAM", Status: 403, Message: "no"}}); err != nil {
			t.Fatal(err)
		}
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
	if c := f.Cloud; len(c.Refused) > 0 || len(c.Balancers) > 0 || len(c.Instances) != 1 || len(c.VSwitches) != 1 || len(c.Groups) != 1 || c.Types["ecs.g6.large"].IPv4PerENI != 6 {
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
		refuse(action)
		f.Cloud = nil
		if err := asked(t, s, f, true); err != nil {
			t.Errorf("%s is refused: %v", action, err)
		} else if r := f.Cloud.Refused; len(r) != 1 || r[0].Action != action || !strings.Contains(r[0].Answer, "Forbidden.RAM") {
			t.Errorf("%s is refused: %+v", action, r)
		}
		s.RemoveFault("ram")
	}
	// Of load balancers it lists those of each product. What is refused there is told apart: most clusters need none.
	// One that fails for another reason is not said to be refused.
	balancers := func(network string) {
		t.Helper()
		for product, action := range map[string]string{"NLB": "nlb:ListLoadBalancers", "CLB": "slb:DescribeLoadBalancers"} {
			_, name, _ := strings.Cut(action, ":")
			for code, forbidden := range map[string]bool{"Forbidden.RAM": true, "OperationDenied": false} {
				if err := s.AddFaults(faults.Rule{Name: "ram", Action: name, Error: &faults.Error{Code: code, Status: 403, Message: "no"}}); err != nil {
					t.Fatal(err)
				}
				f.Cloud = nil
				if err := asked(t, s, f, true); err != nil || len(f.Cloud.Refused) > 0 {
					t.Errorf("%s: %s fails with %s: %v, %+v", network, action, code, err, f.Cloud)
				} else if b := f.Cloud.Balancers; len(b) != 1 || b[0].Product != product || b[0].Action != action || b[0].Forbidden != forbidden || !strings.Contains(b[0].Answer, code) {
					t.Errorf("%s: %s fails with %s: %+v", network, action, code, b)
				}
				s.RemoveFault("ram")
			}
		}
	}
	balancers("terway")
	// With Flannel it tries the calls for route entries, and none for ENIs.
	own := f.Config
	flannel := *own
	flannel.Network, flannel.SecurityGroups, flannel.VSwitches = claims.NetworkFlannel, nil, nil
	f.Config = &flannel
	if err := asked(t, s, f, true); err != nil || len(f.Cloud.Refused) > 0 {
		t.Errorf("Flannel: %v, %+v", err, f.Cloud)
	}
	balancers("flannel")
	if after := account(); before != after {
		t.Errorf("Flannel: the account was changed:\n%s\n%s", before, after)
	}
	for _, action := range allowed(t, "ram-policy.json") {
		if route := strings.Contains(action, "Route"); route || action == "ecs:CreateNetworkInterface" {
			refuse(action)
			if err := asked(t, s, f, true); err != nil || (len(f.Cloud.Refused) == 1 && f.Cloud.Refused[0].Action == action) != route {
				t.Errorf("Flannel: %s is refused: %v, %+v", action, err, f.Cloud)
			}
			s.RemoveFault("ram")
		}
	}
	f.Config = own
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
	refuse("ecs:DescribeInstances")
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

// What somebody else has changed is told before an upgrade, which would end there with half of the objects changed. Nothing is changed.
func TestRejected(t *testing.T) {
	const manifest = `apiVersion: v1
kind: ConfigMap
metadata: {name: eni-config, namespace: ns}
data: {eni-config.yaml: "a: 1", other: "1"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: same, namespace: ns}
data: {a: "1"}
`
	known, err := cluster.Scheme()
	if err != nil {
		t.Fatal(err)
	}
	asking := false
	var answer error
	c := fake.NewClientBuilder().WithScheme(known).WithReturnManagedFields().WithInterceptorFuncs(interceptor.Funcs{
		Apply: func(ctx context.Context, c client.WithWatch, o runtime.ApplyConfiguration, opts ...client.ApplyOption) error {
			if of := (&client.ApplyOptions{}).ApplyOptions(opts); asking && !slices.Equal(of.DryRun, []string{metav1.DryRunAll}) {
				t.Errorf("it changes objects: %+v", of)
			}
			if answer != nil {
				return answer
			}
			return c.Apply(ctx, o, opts...)
		},
	}).Build()
	all, err := parse(manifest)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range all {
		if err := c.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(o), client.FieldOwner(helm.Manager)); err != nil {
			t.Fatal(err)
		}
	}
	asking = true
	var unknown []string
	ask := func(takeOver bool) string {
		t.Helper()
		no, notes, err := rejected(t.Context(), c, "ns", manifest, takeOver)
		if err != nil {
			t.Fatal(err)
		}
		unknown = notes
		return strings.Join(no, "\n")
	}
	if got := ask(false); got != "" {
		t.Errorf("nothing was changed: %q", got)
	}
	m := &corev1.ConfigMap{}
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: "ns", Name: "eni-config"}, m); err != nil {
		t.Fatal(err)
	}
	m.Data["eni-config.yaml"] = "a: 2"
	if err := c.Update(t.Context(), m, client.FieldOwner("kubectl-edit")); err != nil {
		t.Fatal(err)
	}
	got := ask(false)
	for _, want := range []string{"ConfigMap ns/eni-config: somebody else has changed .data.eni-config.yaml (", "kubectl-edit", "--force-conflicts"} {
		if !strings.Contains(got, want) || strings.Contains(got, "same") {
			t.Errorf("%q, want %q", got, want)
		}
	}
	// Whatever the API server answers, it is told, but for what is no refusal of the object.
	maps := schema.GroupResource{Resource: "configmaps"}
	for _, c := range []struct {
		answer         error
		problems, note bool
	}{
		{apierrors.NewInvalid(schema.GroupKind{Kind: "ConfigMap"}, "same", nil), true, false},
		{apierrors.NewBadRequest("duplicate entries for key"), true, false},
		{apierrors.NewForbidden(maps, "same", errors.New("violates PodSecurity")), true, false},
		{apierrors.NewForbidden(maps, "same", errors.New(`User "u" cannot patch resource "configmaps" in API group ""`)), false, false},
		{apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, "ns"), false, false},
		{&meta.NoKindMatchError{}, false, false},
		{apierrors.NewInternalError(errors.New("failed calling webhook")), false, true},
		{errors.New("connection refused"), false, true},
	} {
		answer = c.answer
		if got := ask(false); (got != "") != c.problems || (len(unknown) > 0) != c.note || c.problems && !strings.Contains(got, "ConfigMap ns/same: the API server refuses it: ") {
			t.Errorf("%v: problems %q, notes %q", c.answer, got, unknown)
		}
	}
	answer = nil
	if got := ask(true); got != "" {
		t.Errorf("taking over: %q", got)
	}
}

// The image is that of the controller's pods.
func TestImageOf(t *testing.T) {
	const manifest = `kind: DaemonSet
metadata: {name: other, namespace: ns}
spec: {template: {spec: {containers: [{image: "a:1"}]}}}
---
kind: Deployment
metadata: {name: terway-controller, namespace: ns}
spec: {template: {spec: {containers: [{image: "r/terway:v1@sha256:1"}]}}}
`
	if got, err := imageOf(manifest); err != nil || got != "r/terway:v1@sha256:1" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := imageOf(""); err != nil || got != "" {
		t.Errorf("nothing: %q, %v", got, err)
	}
	if _, err := imageOf("kind: Deployment\nmetadata: {name: terway-controller}\n"); err == nil {
		t.Error("no containers: no error")
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

const plan = `version: 1
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

// With a plan's file eniConfig is what "terwayctl vpc apply -o values" prints for it, below that of the values.
func TestPlan(t *testing.T) {
	s := installtest.New(t)
	a := s.Account()
	for name, value := range map[string]string{
		"ECS_ENDPOINT": s.Endpoint(), "VPC_ENDPOINT": s.Endpoint(), "ALIBABA_CLOUD_REGION_ID": "",
		"ALIBABA_CLOUD_ACCESS_KEY_ID": a.AccessKeyID, "ALIBABA_CLOUD_ACCESS_KEY_SECRET": a.AccessKeySecret,
		"KUBECONFIG": filepath.Join(t.TempDir(), "none"), "KUBERNETES_SERVICE_HOST": "",
	} {
		t.Setenv(name, value)
	}
	file, over := filepath.Join(t.TempDir(), "plan.yaml"), filepath.Join(t.TempDir(), "values.yaml")
	for name, text := range map[string]string{file: plan, over: "eniConfig: {min_pool_size: 5}\ncredentials: {existingSecret: k}\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	read := func() (*values, error) {
		cmd := &cobra.Command{}
		cmd.SetContext(t.Context())
		cmd.SetErr(io.Discard)
		o := &options{values: []string{over}}
		o.cloud.Add(cmd.Flags())
		return o.read(cmd, []string{file})
	}
	if _, err := read(); err == nil || !strings.Contains(err.Error(), "shop") {
		t.Errorf("before its VPC is made: %v", err)
	}
	apply := vpc.NewCommand()
	var printed bytes.Buffer
	apply.SetOut(&printed)
	apply.SetErr(io.Discard)
	apply.SetArgs([]string{"apply", file, "-o", "values"})
	if err := apply.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	v, err := read()
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]any
	if err := yaml.Unmarshal(printed.Bytes(), &want); err != nil {
		t.Fatal(err)
	}
	chartvalues.Put(want, map[string]any{"eniConfig": map[string]any{"min_pool_size": 5.0}, "credentials": map[string]any{"existingSecret": "k"}})
	if !reflect.DeepEqual(v.all, want) {
		t.Errorf("%v, want %v", v.all, want)
	}
	if conf, check, err := checkOf(v.all); err != nil || conf == nil || conf.MinPoolSize != 5 || conf.Region != "cn-hangzhou" || len(conf.VSwitches["cn-hangzhou-i"]) != 1 {
		t.Errorf("%+v, %+v, %v", conf, check, err)
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
		if got != want || !strings.Contains(out.String(), "problem: max-pods: it is wrong\nnote: max-pods: but well\n") && want != "checks have failed: chart, nodes" || !strings.Contains(out.String(), "  make ConfigMap n/a\n") ||
			strings.HasSuffix(out.String(), "\nchecks that have failed, and were ignored: max-pods\n") == (want == "checks have failed: chart, nodes") {
			t.Errorf("%q, want %q, and\n%s", got, want, &out)
		}
	}
}
