//go:build e2e

package api

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/lab"
	"terway.dev/terway/test/docs"
)

// The page says how all of Terway's objects go without the job that uninstalls it; its commands do that.
func TestRemovedByHand(t *testing.T) {
	pages, err := docs.Pages("../..")
	if err != nil {
		t.Fatal(err)
	}
	var commands []string
	for i := range pages {
		for _, b := range pages[i].Blocks {
			if len(b.Code) > 0 && pages[i].Path == "docs/uninstall.md" && strings.Contains(b.Code[0], "--no-hooks") {
				commands = b.Code[1:]
			}
		}
	}
	if len(commands) < 3 || slices.ContainsFunc(commands, func(c string) bool { return !strings.HasPrefix(c, "kubectl ") }) {
		t.Fatalf("docs/uninstall.md: after helm uninstall --no-hooks there are %q, want commands of kubectl", commands)
	}

	api, cfg := apiServer(t)
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	kube, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range documents(t, "../../deploy/chart/kinds/network.terway.dev_nodenetworks.yaml") {
		if err := kube.Create(t.Context(), kind); err != nil {
			t.Fatal(err)
		}
	}
	objects := []client.Object{
		&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: "terway-controller"}},
		&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: "other"}},
	}
	for _, name := range []string{"a", "b"} {
		objects = append(objects,
			&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{claims.AnnotationMaxPods: "9", "other": "1"}},
				Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: claims.TaintNotReady, Effect: corev1.TaintEffectNoSchedule}, {Key: "other", Effect: corev1.TaintEffectNoSchedule}}}},
			&v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: name, Finalizers: []string{claims.FinalizerENIs}}},
			&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: "terwayd-" + name, Labels: map[string]string{claims.LabelLease: "true"}}},
		)
	}
	for _, o := range objects {
		if err := lab.Poll(t.Context(), 50*time.Millisecond, func() (bool, error) { // the kind is served some time after it was made
			err := kube.Create(t.Context(), o)
			if meta.IsNoMatchError(err) || apierrors.IsNotFound(err) {
				return false, nil
			}
			return err == nil, err
		}); err != nil {
			t.Fatalf("%s: %v", o.GetName(), err)
		}
	}

	for _, c := range commands {
		sh := exec.CommandContext(t.Context(), "bash", "-ec", c)
		sh.Dir = t.TempDir()
		sh.Env = append(os.Environ(), "KUBECONFIG="+api.Kubeconfig, "PATH="+filepath.Dir(api.Kubectl)+":"+os.Getenv("PATH"))
		if out, err := sh.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", c, err, out)
		}
	}
	var nodes corev1.NodeList
	if err := kube.List(t.Context(), &nodes); err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes.Items {
		_, marked := n.Annotations[claims.AnnotationMaxPods]
		ours := slices.ContainsFunc(n.Spec.Taints, func(x corev1.Taint) bool { return x.Key == claims.TaintNotReady })
		theirs := slices.ContainsFunc(n.Spec.Taints, func(x corev1.Taint) bool { return x.Key == "other" }) && n.Annotations["other"] == "1"
		if marked || ours || !theirs {
			t.Errorf("node %s: taints %v, annotations %v; want only those of others", n.Name, n.Spec.Taints, n.Annotations)
		}
	}
	var leases coordinationv1.LeaseList
	if err := kube.List(t.Context(), &leases, client.InNamespace(metav1.NamespaceSystem)); err != nil {
		t.Fatal(err)
	}
	for _, l := range leases.Items {
		if strings.HasPrefix(l.Name, "terway") {
			t.Errorf("Lease %s is left", l.Name)
		}
	}
	if err := kube.List(t.Context(), &v1alpha1.NodeNetworkList{}); !meta.IsNoMatchError(err) && !apierrors.IsNotFound(err) {
		t.Errorf("the kind NodeNetwork is left: %v", err)
	}
}
