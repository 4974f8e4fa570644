package status

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/api/v1alpha1"
)

var update = flag.Bool("update", false, "write the golden files anew")

// fakeCluster has the objects of a file.
func fakeCluster(t *testing.T, file string) client.Reader {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	build := fake.NewClientBuilder().WithScheme(scheme)
	for doc := range strings.SplitSeq(string(b), "\n---\n") {
		var kind struct{ Kind string }
		if err := yaml.Unmarshal([]byte(doc), &kind); err != nil {
			t.Fatal(err)
		}
		into := map[string]client.Object{"Node": &corev1.Node{}, "Pod": &corev1.Pod{}, "NodeNetwork": &v1alpha1.NodeNetwork{},
			"Deployment": &appsv1.Deployment{}, "Lease": &coordinationv1.Lease{}}[kind.Kind]
		if err := yaml.UnmarshalStrict([]byte(doc), into); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		build = build.WithObjects(into)
	}
	return build.Build()
}

func TestStatus(t *testing.T) {
	c := cluster{namespace: "kube-system", host: "https://cluster"}
	o, err := c.ask(t.Context(), fakeCluster(t, "cluster.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	o.now = o.lease.Spec.RenewTime.Add(time.Minute) // somebody's clock is wrong
	st := o.status()
	var text bytes.Buffer
	if err := st.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	asJSON, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	for file, got := range map[string][]byte{"status.txt": text.Bytes(), "status.json": append(asJSON, '\n')} {
		path := filepath.Join("testdata", file)
		if *update {
			if err := os.WriteFile(path, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: got\n%s\nwant\n%s", file, got, want)
		}
	}
	if err := st.verdict(); err == nil || err.Error() != "7 of 10 nodes have problems" {
		t.Errorf("verdict %v", err)
	}
}

// Nobody looks at a terminal with rows as long as a sentence.
func TestRowsFitATerminal(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("testdata", "status.txt"))
	if err != nil {
		t.Fatal(err)
	}
	table, _, _ := strings.Cut(string(b), "\n\n")
	for line := range strings.Lines(table) {
		if len(line) > 80 {
			t.Errorf("%d letters: %s", len(line), line)
		}
	}
}

func TestController(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	deployment := func(want, ready int32) *appsv1.Deployment {
		return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: controllerName, Namespace: "ns"},
			Spec: appsv1.DeploymentSpec{Replicas: &want}, Status: appsv1.DeploymentStatus{ReadyReplicas: ready}}
	}
	lease := func(holder string, age time.Duration) *coordinationv1.Lease {
		renewed, seconds := metav1.NewMicroTime(at.Add(-age)), int32(15)
		return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: controllerName, Namespace: "ns"},
			Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: &seconds, RenewTime: &renewed}}
	}
	for name, c := range map[string]struct {
		deployment *appsv1.Deployment
		lease      *coordinationv1.Lease
		// line is what the table's foot says, problem a part of the only problem.
		line, problem string
	}{
		"well":               {deployment(2, 2), lease("a", 2*time.Second), "2 of 2 replicas ready, a leads", ""},
		"taking over":        {deployment(2, 1), lease("", 2*time.Second), "1 of 2 replicas ready, none leads", ""},
		"scaled to 0":        {deployment(0, 0), lease("", time.Second), "0 of 0 replicas ready, none leads", "Deployment ns/terway-controller is scaled to 0"},
		"killed":             {deployment(2, 0), lease("a", time.Second), "0 of 2 replicas ready, none leads", "none of the 2 replicas"},
		"hangs":              {deployment(2, 2), lease("a", 2*time.Minute), "2 of 2 replicas ready, none leads", "Lease ns/terway-controller for 2m0s"},
		"another Deployment": {&appsv1.Deployment{}, lease("a", time.Second), "a leads", ""},
		"and that is gone":   {&appsv1.Deployment{}, lease("a", time.Hour), "none leads", "for 1h0m0s"},
		"never there":        {&appsv1.Deployment{}, &coordinationv1.Lease{}, "none leads", "neither a Deployment nor a Lease"},
	} {
		o := &objects{now: at, namespace: "ns", deployment: c.deployment, lease: c.lease}
		st := o.status()
		got := st.Controller
		if got.String() != c.line {
			t.Errorf("%s: %q, want %q", name, got, c.line)
		}
		switch {
		case c.problem == "" && (len(got.Problems) > 0 || st.verdict() != nil):
			t.Errorf("%s: problems %q, verdict %v, want none", name, got.Problems, st.verdict())
		case c.problem != "" && (len(got.Problems) != 1 || !strings.Contains(got.Problems[0], c.problem) || st.verdict() == nil):
			t.Errorf("%s: problems %q, verdict %v, want one with %q", name, got.Problems, st.verdict(), c.problem)
		}
	}
}

// A pod that waits is no problem while something is under way for it, or said of it.
func TestWaitingPods(t *testing.T) {
	const mine = "192.168.32.1"
	ready := v1alpha1.ENI{Phase: v1alpha1.ENIReady, Addresses: []v1alpha1.Address{{Address: mine}}}
	for name, c := range map[string]struct {
		change func(*v1alpha1.NodeNetwork)
		want   bool
	}{
		"nothing": {func(*v1alpha1.NodeNetwork) {}, true},
		"an ENI is coming": {func(n *v1alpha1.NodeNetwork) {
			n.Spec.ENIs = append(n.Spec.ENIs, v1alpha1.ENI{Phase: v1alpha1.ENIAttaching})
		}, false},
		"a new address": {func(n *v1alpha1.NodeNetwork) {
			n.Spec.ENIs[0].Addresses = append(n.Spec.ENIs[0].Addresses, v1alpha1.Address{Address: "192.168.32.2"})
		}, false},
		"one that goes": {func(n *v1alpha1.NodeNetwork) {
			n.Spec.ENIs[0].Addresses = append(n.Spec.ENIs[0].Addresses, v1alpha1.Address{Address: "192.168.32.2", Releasing: true})
		}, true},
		"one that cools": {func(n *v1alpha1.NodeNetwork) {
			n.Spec.ENIs[0].Addresses = append(n.Spec.ENIs[0].Addresses, v1alpha1.Address{Address: "192.168.32.2"})
			n.Status.Cooling = []string{"192.168.32.2"}
		}, true},
		"nobody waits": {func(n *v1alpha1.NodeNetwork) { n.Status.ENIDemand = 0 }, false},
		"the reason is told": {func(n *v1alpha1.NodeNetwork) {
			n.Spec.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionAddressesAvailable, Status: metav1.ConditionFalse, Reason: "VSwitchFull"}}
		}, false},
	} {
		nn := &v1alpha1.NodeNetwork{Spec: v1alpha1.NodeNetworkSpec{ENIs: []v1alpha1.ENI{*ready.DeepCopy()}},
			Status: v1alpha1.NodeNetworkStatus{ENIDemand: 2, Used: []v1alpha1.UsedAddress{{Address: mine}}}}
		c.change(nn)
		n := node("n", nn, nil)
		if got := strings.Contains(strings.Join(n.Problems, "\n"), "2 pods wait for an address or an ENI"); got != c.want {
			t.Errorf("%s: problems %q, want one about pods that wait: %t", name, n.Problems, c.want)
		}
	}
}

// Many pods that lost their address do not make a problem nobody reads.
func TestManyLostPods(t *testing.T) {
	nn := &v1alpha1.NodeNetwork{}
	for i := range 8 {
		nn.Status.Used = append(nn.Status.Used, v1alpha1.UsedAddress{Address: fmt.Sprintf("192.168.32.%d", i), Pod: fmt.Sprintf("a/p%d", i)})
	}
	n := node("n", nn, nil)
	if len(n.Lost) != 8 || !strings.HasSuffix(n.Problems[len(n.Problems)-1], "a/p4 (192.168.32.4) and 3 more") {
		t.Errorf("lost %v, problems %q", n.Lost, n.Problems)
	}
}

// What a cluster that cannot be asked answers is said in the user's words.
func TestErrors(t *testing.T) {
	answer := func(status int, body string) func(string) (int, string) {
		return func(string) (int, string) { return status, body }
	}
	forbidden := `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403,"message":"nodes is forbidden"}`
	groups := `{"kind":"APIGroupList","groups":[{"name":"network.terway.dev","versions":[{"groupVersion":"network.terway.dev/v1alpha1","version":"v1alpha1"}],"preferredVersion":{"groupVersion":"network.terway.dev/v1alpha1","version":"v1alpha1"}}]}`
	resources := `{"kind":"APIResourceList","groupVersion":"network.terway.dev/v1alpha1","resources":[{"name":"nodenetworks","kind":"NodeNetwork","verbs":["list"]}]}`
	there := func(list func(string) (int, string)) func(string) (int, string) {
		return func(path string) (int, string) {
			switch path {
			case "/api":
				return 200, `{"kind":"APIVersions","versions":["v1"]}`
			case "/api/v1":
				return 200, `{"kind":"APIResourceList","groupVersion":"v1","resources":[{"name":"nodes","kind":"Node","verbs":["list"]},{"name":"pods","namespaced":true,"kind":"Pod","verbs":["list"]}]}`
			case "/apis":
				return 200, groups
			case "/apis/network.terway.dev/v1alpha1":
				return 200, resources
			}
			return list(path)
		}
	}
	for name, c := range map[string]struct {
		serve func(string) (int, string)
		want  string
	}{
		"no CRD":    {answer(404, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}`), "Terway is not installed"},
		"no rights": {there(answer(403, forbidden)), `want a role with "list" on nodes, nodenetworks.network.terway.dev and pods in kube-system, and "get" on deployments.apps and leases`},
		"no nodes": {there(func(string) (int, string) {
			return 200, `{"kind":"List","apiVersion":"v1","items":[]}`
		}), "has no NodeNetworks"},
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			status, body := c.serve(r.URL.Path)
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}))
		if _, err := asked(t, &rest.Config{Host: s.URL}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		s.Close()
		// Nobody listens there any more.
		if _, err := asked(t, &rest.Config{Host: s.URL}); err == nil || !strings.Contains(err.Error(), "cannot be reached") {
			t.Errorf("no cluster: %v", err)
		}
	}
}

func asked(t *testing.T, cfg *rest.Config) (*objects, error) {
	c := cluster{namespace: "kube-system", timeout: 10 * time.Second}
	r, err := c.client(cfg)
	if err != nil {
		return nil, err
	}
	return c.ask(context.WithoutCancel(t.Context()), r)
}

func TestKubeconfig(t *testing.T) {
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	t.Setenv("HOME", t.TempDir())
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	good := filepath.Join(t.TempDir(), "good")
	if err := os.WriteFile(good, []byte(`{"apiVersion":"v1","kind":"Config","clusters":[{"name":"c","cluster":{"server":"http://127.0.0.1:1"}}],"contexts":[{"name":"a","context":{"cluster":"c"}}],"current-context":"a"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{
		"":                                      "no cluster is named: give --kubeconfig",
		"--kubeconfig /no/such":                 "--kubeconfig /no/such: ",
		"--kubeconfig " + good + " --context b": `context "b" does not exist`,
		"--kubeconfig " + good:                  "cluster at http://127.0.0.1:1 cannot be reached",
		"-o yaml":                               `--output "yaml": must be text or json`,
	} {
		cmd := NewCommand()
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		cmd.SetArgs(strings.Fields(args))
		cmd.SetOut(&bytes.Buffer{})
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", args, err, want)
		}
	}
}
