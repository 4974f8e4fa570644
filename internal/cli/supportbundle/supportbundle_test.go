package supportbundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cli/cluster/clustertest"
)

// The secrets that objects has in all places where one might be.
const (
	hush = "hush-Zz9"
	key  = "LTAI5tHushHushHush"
	jwt  = "eyJhbGciOiJIUzI1NiJ9.eyJodXNoIjoiaHVzaCJ9.aHVzaGh1c2g"
)

var leaked = regexp.MustCompile(`hush-Zz9|LTAI5tHush|eyJhbGci|HUSHPEM`)

// objects are a cluster's with secrets in all places.
func objects() []client.Object {
	meta := func(name, app string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: "kube-system", Name: name, Labels: map[string]string{"app": app}, Annotations: map[string]string{
			"kubectl.kubernetes.io/last-applied-configuration": `{"env":[{"name":"A","value":"` + hush + `"}]}`, "example.com/api-token": hush, "example.com/team": "network",
		}, ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "helm " + hush}}}
	}
	spec := func(container, node string) corev1.PodSpec {
		headers := []corev1.HTTPHeader{{Name: "X-Door", Value: hush}}
		probe := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", HTTPHeaders: headers}}}
		hook := func(command ...string) *corev1.LifecycleHandler {
			return &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: command}}
		}
		// As an admission webhook adds it.
		sidecar := corev1.Container{Name: "sidecar", Command: []string{"sh", "-c", "run \\\n  --token \\\n  " + hush + " --password 'it'\"'\"'s " + hush + "'; API_KEY=" + hush + " mysql -p" + hush},
			Lifecycle: &corev1.Lifecycle{PostStart: hook("call", "--auth-token", hush, "--retries=3", "--db-pass="+hush, "--passphrase", hush, "-u", "me:"+hush, "--pwd", hush), PreStop: &corev1.LifecycleHandler{HTTPGet: &corev1.HTTPGetAction{HTTPHeaders: headers}}}}
		return corev1.PodSpec{NodeName: node, InitContainers: []corev1.Container{sidecar}, Containers: []corev1.Container{sidecar, {Name: container, Image: "terway:v1", LivenessProbe: probe,
			Args: []string{"--access-key-secret", hush, "--region", "cn-hangzhou", "--api-token=" + hush},
			Env:  []corev1.EnvVar{{Name: "PLAIN", Value: hush}, {Name: "GOMAXPROCS", Value: "2"}, {Name: "NODE_NAME", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "spec.nodeName"}}}},
		}}}
	}
	pod := func(name, app, container, node string, restarts int32) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: meta(name, app), Spec: spec(container, node)}
		p.Status.Phase = corev1.PodRunning
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: container, RestartCount: restarts}}
		return p
	}
	template := func(container string) corev1.PodTemplateSpec {
		return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"example.com/api-token": hush, "example.com/team": "network",
			"example.com/settings": `{"password":"` + hush + `"}`}}, Spec: spec(container, "")}
	}
	node := func(name string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{"example.com/join-token": hush}}}
	}
	nn := func(name, ready string) *v1alpha1.NodeNetwork {
		n := &v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: name}}
		n.Spec.ENIs = []v1alpha1.ENI{{Token: "client-token-1", ID: "eni-" + name, Phase: v1alpha1.ENIReady}}
		n.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionStatus(ready), Reason: "R", Message: "the cloud says: AccessKeySecret=" + hush}}
		return n
	}
	return []client.Object{
		node("n1"), node("n2"), node("n3"), nn("n1", "True"), nn("n2", "True"), nn("n3", "False"),
		pod("terway-controller-1", "terway-controller", "controller", "n1", 1),
		pod("terwayd-1", "terwayd", "terwayd", "n1", 0), pod("terwayd-2", "terwayd", "terwayd", "n2", 0), pod("terwayd-3", "terwayd", "terwayd", "n3", 0),
		pod("other", "other", "other", "n1", 0),
		&appsv1.Deployment{ObjectMeta: meta("terway-controller", ""), Spec: appsv1.DeploymentSpec{Template: template("controller")}},
		&appsv1.DaemonSet{ObjectMeta: meta("terwayd", ""), Spec: appsv1.DaemonSetSpec{Template: template("terwayd")}},
		&corev1.ConfigMap{ObjectMeta: meta("eni-config", ""), Data: map[string]string{
			"eni-config.yaml": "cluster_id: c1\ncredentials:\n  secret: " + hush + "\n", "eni_conf": `{"access_key":"` + key + `","access_secret":"` + hush + `"}`,
		}, BinaryData: map[string][]byte{"b": []byte(hush)}},
		&corev1.Secret{ObjectMeta: meta("terway-credentials", ""), StringData: map[string]string{"access-key-secret": hush}},
		&corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "e1"}, InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "shop", Name: "web"},
			Reason: "FailedCreatePodSandBox", Message: "no address yet; Authorization: Bearer " + hush + "AbCdEf"},
		&corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "e2"}, InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "shop", Name: "web"}, Reason: "Pulled"},
	}
}

func newServer(t *testing.T) *clustertest.Server {
	s := clustertest.New(t, objects()...)
	for _, pod := range []string{"terway-controller-1/controller", "terway-controller-1/controller previous", "terwayd-1/terwayd", "terwayd-2/terwayd", "terwayd-3/terwayd"} {
		s.Log("kube-system/"+pod, fmt.Sprintf("log of %s\nusing key %s\nAccessKeySecret: %s\ntoken %s\n-----BEGIN EC PRIVATE KEY-----\nHUSHPEM\n-----END EC PRIVATE KEY-----\nlast line\n", pod, key, hush, jwt))
	}
	return s
}

func run(t *testing.T, s *clustertest.Server, args ...string) (string, error) {
	t.Helper()
	cmd := NewCommand()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetArgs(append(args, "--kubeconfig", s.Kubeconfig))
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

// open returns the files of a bundle.
func open(t *testing.T, path string) map[string]string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[strings.TrimPrefix(h.Name, "terway-support/")] = string(b)
	}
}

// No secret is in any file, also where it is part of text; what a report needs is.
func TestNoSecrets(t *testing.T) {
	s := newServer(t)
	file := filepath.Join(t.TempDir(), "bundle.tar.gz")
	if out, err := run(t, s, "--file", file); err != nil || !strings.Contains(out, file+" has these") {
		t.Fatalf("%v\n%s", err, out)
	}
	files := open(t, file)
	for name, text := range files {
		if at := leaked.FindStringIndex(text); at != nil {
			t.Errorf("%s has a secret: …%s…", name, text[max(0, at[0]-60):min(len(text), at[1]+20)])
		}
		if filepath.Ext(name) == ".yaml" {
			for doc := range strings.SplitSeq(text, "---\n") {
				var v any
				if err := yaml.Unmarshal([]byte(doc), &v); err != nil {
					t.Errorf("%s: %v in\n%s", name, err, doc)
				}
			}
		}
		if filepath.Ext(name) == ".json" && !json.Valid([]byte(text)) {
			t.Errorf("%s is no JSON:\n%s", name, text)
		}
	}
	for name, want := range map[string][]string{
		"about.json":                    {"terwayctl", "http://127.0.0.1"},
		"status.json":                   {`"node": "n3"`, "it wires no pods"},
		"pods.json":                     {`"findings": []`},
		"nodes.yaml":                    {"name: n1", "example.com/join-token: REMOVED"},
		"nodenetworks.yaml":             {"token: client-token-1", "id: eni-n1", "AccessKeySecret=REMOVED"},
		"pods.yaml":                     {"name: terwayd-1", "value: REMOVED", `value: "2"`, "fieldPath: spec.nodeName", "- --region\n    - cn-hangzhou", "- --api-token=REMOVED", "example.com/team: network"},
		"deployments.yaml":              {"kind: Deployment", "image: terway:v1", "- --access-key-secret\n        - REMOVED"},
		"daemonsets.yaml":               {"kind: DaemonSet", "example.com/api-token: REMOVED", "example.com/team: network", "name: X-Door", "path: /healthz", "- -c\n        - REMOVED", "--retries=3"},
		"leases.yaml":                   {""},
		"eni-config.yaml":               {"cluster_id: c1", "credentials: REMOVED", "access_secret: REMOVED"},
		"events.yaml":                   {"FailedCreatePodSandBox", "no address yet; Authorization: REMOVED"},
		"logs/n3/terwayd-3/terwayd.log": {"log of terwayd-3", "using key REMOVED", "last line"},
		"logs/n1/terway-controller-1/controller.log":          {"last line"},
		"logs/n1/terway-controller-1/controller.previous.log": {"controller previous"},
	} {
		for _, text := range want {
			if got, ok := files[name]; !ok || !strings.Contains(got, text) {
				t.Errorf("%s (of %q) has not %q:\n%s", name, slices.Sorted(maps.Keys(files)), text, got)
			}
		}
	}
	if strings.Contains(files["pods.yaml"], "name: other") || strings.Contains(files["events.yaml"], "Pulled") {
		t.Error("it has what is not Terway's")
	}
	if asked := strings.Join(s.Asked(), " "); strings.Contains(asked, "secrets") {
		t.Errorf("it has asked for Secrets: %s", asked)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v: want a file that others cannot read", info.Mode(), err)
	}
	if _, err := run(t, s, "--file", file); err == nil || !strings.Contains(err.Error(), "exists: want another --file") {
		t.Errorf("a second time: %v", err)
	}
}

// Logs are of the controller and of agents of nodes with problems first.
func TestWhichLogs(t *testing.T) {
	s := newServer(t)
	for args, want := range map[string]string{
		"--agents 1":             "n1/terway-controller-1/controller n1/terway-controller-1/controller.previous n3/terwayd-3/terwayd",
		"--agents 0":             "n1/terway-controller-1/controller n1/terway-controller-1/controller.previous",
		"--node n2,n1":           "n1/terway-controller-1/controller n1/terway-controller-1/controller.previous n1/terwayd-1/terwayd n2/terwayd-2/terwayd",
		"--node n2 --since 1h":   "n1/terway-controller-1/controller n1/terway-controller-1/controller.previous n2/terwayd-2/terwayd",
		"--agents 9 --since 20m": "n1/terway-controller-1/controller n1/terway-controller-1/controller.previous n1/terwayd-1/terwayd n2/terwayd-2/terwayd n3/terwayd-3/terwayd",
	} {
		file := filepath.Join(t.TempDir(), "bundle.tar.gz")
		if _, err := run(t, s, append(strings.Fields(args), "--file", file)...); err != nil {
			t.Fatal(err)
		}
		var got []string
		for name := range open(t, file) {
			if log, ok := strings.CutPrefix(name, "logs/"); ok {
				got = append(got, strings.TrimSuffix(log, ".log"))
			}
		}
		slices.Sort(got)
		if text := strings.Join(got, " "); text != want {
			t.Errorf("%s: %s\nwant %s", args, text, want)
		}
	}
}

// What cannot be read is left out and named; the rest is written.
func TestLacks(t *testing.T) {
	s := newServer(t)
	s.Refuse("events")
	file := filepath.Join(t.TempDir(), "bundle.tar.gz")
	out, err := run(t, s, "--file", file, "--node", "n9", "-o", "json")
	var w written
	if jsonErr := json.Unmarshal([]byte(out), &w); err == nil || !strings.Contains(err.Error(), "lacks 2 things") || jsonErr != nil || len(w.Lacks) != 2 {
		t.Fatalf("%v, %v\n%s", err, jsonErr, out)
	}
	files := open(t, file)
	if text := files["lacks.txt"]; !strings.Contains(text, "events.yaml: ") || !strings.Contains(text, "Forbidden") || !strings.Contains(text, "logs of node n9: no agent has a pod there") || files["nodes.yaml"] == "" {
		t.Errorf("lacks.txt:\n%s", text)
	}
	for args, want := range map[string]string{"--since 1ms": "--since 1ms: want 1s or more", "--agents -1": "want 0 or more", "--node n1 --agents 3": "give one of them"} {
		if _, err := run(t, s, strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", args, err, want)
		}
	}
}

// An interrupt leaves no file.
func TestInterrupt(t *testing.T) {
	s := newServer(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	file := filepath.Join(t.TempDir(), "bundle.tar.gz")
	cmd := NewCommand()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs([]string{"--file", file, "--kubeconfig", s.Kubeconfig})
	if err := cmd.ExecuteContext(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want that it was interrupted", err)
	}
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file: %v, want none", err)
	}
}
