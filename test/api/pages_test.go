//go:build e2e

package api

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "terway.dev/terway/api/calico/v3"
	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cli/policy"
	"terway.dev/terway/internal/cli/program"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/policy/migrate"
	"terway.dev/terway/test/docs"
)

// TestMain makes the test's program, by another name, the terwayctl of the pages.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "terwayctl" {
		root := &cobra.Command{Use: "terwayctl"}
		root.AddCommand(policy.NewCommand())
		program.Program{Root: root}.Main()
	}
	os.Exit(m.Run())
}

// reader is somebody who follows the pages.
type reader struct {
	dir, kubeconfig string
	// blocks are those with the mark "api", by page and line, until they are run.
	blocks map[string][]string
}

// newReader makes a folder with the programs and the repository's deploy.
func newReader(t *testing.T, server *lab.APIServer) *reader {
	t.Helper()
	r := &reader{dir: t.TempDir(), kubeconfig: server.Kubeconfig, blocks: map[string][]string{}}
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	helm, err := lab.BuildHelm(t.Context(), lab.NewProgress(os.Stdout, time.Now))
	if err != nil {
		t.Fatal(err)
	}
	deploy, err := filepath.Abs("../../deploy")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(r.dir, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, is := range map[string]string{"bin/helm": helm, "bin/terwayctl": own, "bin/kubectl": server.Kubectl, "deploy": deploy} {
		if err := os.Symlink(is, filepath.Join(r.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	all, err := docs.Pages("../..")
	if err != nil {
		t.Fatal(err)
	}
	for i := range all {
		if p := &all[i]; !p.Translated() { // compared with the English page
			for n, block := range p.Select("api") {
				r.blocks[fmt.Sprintf("%s %d", p.Path, n+1)] = block
			}
		}
	}
	return r
}

// run runs a block, which is a page's path and the block's number among those of the page.
func (r *reader) run(t *testing.T, block string) string {
	t.Helper()
	script, known := r.blocks[block]
	if !known {
		t.Fatalf("there is no block %s for an API server", block)
	}
	maps.DeleteFunc(r.blocks, func(_ string, same []string) bool { return slices.Equal(script, same) })
	cmd := docs.Bash("", script)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "HOME="+r.dir, "KUBECONFIG="+r.kubeconfig, "PATH="+filepath.Join(r.dir, "bin")+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if err != nil || len(out) == 0 {
		t.Fatalf("%s: %v\n%s", block, err, out)
	}
	return string(out)
}

// TestPages runs the pages' commands that need an API server alone: Helm installs the chart, and takes it away without the job.
func TestPages(t *testing.T) {
	server, cfg := apiServer(t)
	scheme := clientgoscheme.Scheme
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	kube, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	r := newReader(t, server)
	values := "eniConfig: {cluster_id: c, region: cn-hangzhou, service_cidr: 172.21.0.0/20, vswitches: {cn-hangzhou-i: [vsw-1]}}\ncredentials: {existingSecret: key}\nimage: {repository: r.example.com/terway, tag: v1.2.3}\n"
	if err := os.WriteFile(filepath.Join(r.dir, "my-values.yaml"), []byte(values), 0o600); err != nil {
		t.Fatal(err)
	}
	system := metav1.ObjectMeta{Namespace: metav1.NamespaceSystem}
	named := func(o metav1.ObjectMeta, name string) metav1.ObjectMeta { o.Name = name; return o }

	r.run(t, "docs/install.md 1")
	r.run(t, "docs/configuration.md 1")
	// What Terway leaves when its pods are gone, and its job's rights after Helm was killed.
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1", Annotations: map[string]string{claims.AnnotationMaxPods: "9"}},
		Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: claims.TaintNotReady, Effect: corev1.TaintEffectNoSchedule}}}}
	network := &v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: "node1", Finalizers: []string{"network.terway.dev/enis"}}}
	lease := &coordinationv1.Lease{ObjectMeta: named(system, "terwayd-node1")}
	lease.Labels = map[string]string{claims.LabelLease: "node1"}
	const job = "terway-uninstall"
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: job}
	gone := []client.Object{network, lease, &coordinationv1.Lease{ObjectMeta: named(system, "terway-controller")},
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: job}}, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: job}, RoleRef: ref},
		&rbacv1.Role{ObjectMeta: named(system, job)}, &rbacv1.RoleBinding{ObjectMeta: named(system, job), RoleRef: ref}}
	for _, o := range append([]client.Object{node}, gone...) {
		if err := kube.Create(t.Context(), o); err != nil {
			t.Fatalf("%T %s: %v", o, o.GetName(), err)
		}
	}
	batch := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "batch/v1", "kind": "Job", "metadata": map[string]any{"namespace": metav1.NamespaceSystem, "name": job},
		"spec": map[string]any{"template": map[string]any{"spec": map[string]any{"restartPolicy": "Never", "containers": []any{map[string]any{"name": "main", "image": "none"}}}}}}}
	if err := kube.Create(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	agents := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": map[string]any{"namespace": metav1.NamespaceSystem, "name": "terwayd"}}}
	selector := func() map[string]string {
		t.Helper()
		if err := kube.Get(t.Context(), client.ObjectKeyFromObject(agents), agents); err != nil {
			t.Fatal(err)
		}
		s, _, _ := unstructured.NestedStringMap(agents.Object, "spec", "template", "spec", "nodeSelector")
		return s
	}
	before := selector()
	if err := kube.Patch(t.Context(), agents, client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"template":{"spec":{"nodeSelector":{"network.terway.dev/uninstalling":"true"}}}}}`))); err != nil {
		t.Fatal(err)
	}

	r.run(t, "docs/uninstall.md 3")
	if after := selector(); !maps.Equal(before, after) {
		t.Errorf("the agents' nodeSelector is %v, was %v", after, before)
	}
	r.run(t, "docs/uninstall.md 1")
	r.run(t, "docs/uninstall.md 2")
	for _, o := range append(gone, agents) {
		if err := kube.Get(t.Context(), client.ObjectKeyFromObject(o), o); err == nil {
			t.Errorf("%T %s is still there", o, o.GetName())
		}
	}
	if err := kube.Get(t.Context(), client.ObjectKeyFromObject(node), node); err != nil || len(node.Annotations) > 0 || slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == claims.TaintNotReady }) {
		t.Errorf("the Node has %v and %v: %v", node.Annotations, node.Spec.Taints, err)
	}
	if saved, err := os.ReadFile(filepath.Join(r.dir, "nodenetworks.yaml")); err != nil || !strings.Contains(string(saved), "name: node1") {
		t.Errorf("the NodeNetworks were not saved: %v\n%s", err, saved)
	}

	r.migrates(t, kube)
	for block := range r.blocks {
		t.Errorf("no test runs %s", block)
	}
}

// migrates runs the commands that take policies over from the existing Terway: from a folder, then from the cluster, where they are deleted.
func (r *reader) migrates(t *testing.T, kube client.Client) {
	t.Helper()
	crds := []client.Object{}
	for _, file := range []string{"networkpolicies", "globalnetworkpolicies", "globalnetworksets", "networksets", "tiers", "hostendpoints", "stagednetworkpolicies", "stagedglobalnetworkpolicies", "stagedkubernetesnetworkpolicies"} {
		for _, o := range documents(t, "../../deploy/chart/policy/projectcalico.org_"+file+".yaml") {
			crds = append(crds, o)
		}
	}
	for kind, plural := range map[string]string{"NetworkPolicy": "networkpolicies", "GlobalNetworkPolicy": "globalnetworkpolicies", "GlobalNetworkSet": "globalnetworksets"} {
		crds = append(crds, oldCRD(kind, plural, migrate.Namespaced(kind)))
	}
	for _, crd := range crds {
		if err := kube.Create(t.Context(), crd); err != nil {
			t.Fatal(err)
		}
	}
	old := &unstructured.Unstructured{Object: map[string]any{"apiVersion": migrate.OldAPI, "kind": "NetworkPolicy",
		"metadata": map[string]any{"namespace": "default", "name": "default.web"}, "spec": map[string]any{"selector": "all()", "types": []any{"Ingress"}}}}
	// A kind is served a moment after its definition is stored.
	if err := lab.Poll(t.Context(), 50*time.Millisecond, func() (bool, error) {
		return kube.Create(t.Context(), old.DeepCopy()) == nil, client.IgnoreNotFound(kube.List(t.Context(), served()))
	}); err != nil {
		t.Fatal(err)
	}
	r.run(t, "docs/policy.md 2")
	now := served()
	if err := kube.List(t.Context(), now); err != nil || len(now.Items) != 1 || now.Items[0].GetName() != "web" {
		t.Errorf("after \"kubectl create\" there is %+v: %v", now.Items, err)
	}
	r.run(t, "docs/policy.md 1")
	if err := kube.Get(t.Context(), client.ObjectKeyFromObject(old), old); client.IgnoreNotFound(err) != nil || err == nil {
		t.Errorf("the old policy is still there: %v", err)
	}
}

// served is an empty list of the present API's policies.
func served() *unstructured.UnstructuredList {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(v3.GroupVersion.WithKind("NetworkPolicyList"))
	return list
}
