package status

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
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
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cli/cluster"
	"terway.dev/terway/internal/inventory"
)

var update = flag.Bool("update", false, "write the golden files anew")

// fakeCluster returns a cluster with the objects of a file.
func fakeCluster(t *testing.T, file string) client.Reader {
	t.Helper()
	scheme, err := cluster.Scheme()
	if err != nil {
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
	o, err := (&cluster.Reader{Reader: fakeCluster(t, "cluster.yaml"), Host: "https://cluster", Terway: "kube-system"}).Objects(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	o.Now = o.Lease.Spec.RenewTime.Add(time.Minute) // clocks differ
	st := o.Status()
	var text bytes.Buffer
	if err := writeText(&text, st); err != nil {
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
	if err := st.Verdict(); err == nil || err.Error() != "7 of 10 nodes have problems" {
		t.Errorf("verdict %v", err)
	}
}

// Rows fit the width of a terminal.
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

// Errors of the API server are explained to the user.
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
		"no rights": {there(answer(403, forbidden)), `does not let this user read nodenetworks.network.terway.dev; --help says what is needed`},
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
		// The server is closed.
		if _, err := asked(t, &rest.Config{Host: s.URL}); err == nil || !strings.Contains(err.Error(), "cannot be reached") {
			t.Errorf("no cluster: %v", err)
		}
	}
}

func asked(t *testing.T, cfg *rest.Config) (*inventory.Objects, error) {
	cfg.Timeout = 10 * time.Second
	r, err := cluster.New(cfg, "kube-system")
	if err != nil {
		return nil, err
	}
	return r.Objects(context.WithoutCancel(t.Context()))
}

// A command that waits for a cluster that accepts connections and never answers ends when its context
// does, whatever --timeout is.
func TestInterrupt(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done() // until the client gives up
	}))
	defer s.Close()
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, []byte(`{"clusters":[{"name":"c","cluster":{"server":"`+s.URL+`"}}],"contexts":[{"name":"a","context":{"cluster":"c"}}],"current-context":"a"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := NewCommand()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs([]string{"--kubeconfig", kubeconfig, "--timeout", "0"})
	if err := cmd.ExecuteContext(ctx); !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "cannot be reached") {
		t.Errorf("%v, want that it was interrupted", err)
	}
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
