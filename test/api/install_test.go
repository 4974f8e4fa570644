//go:build e2e

package api

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/cli"
	"helm.sh/helm/v4/pkg/release/common"
	release "helm.sh/helm/v4/pkg/release/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/internal/cli/chartvalues"
	"terway.dev/terway/internal/cli/install"
	"terway.dev/terway/internal/cli/install/installtest"
	"terway.dev/terway/internal/helm"
	"terway.dev/terway/internal/vpcsim/faults"
)

// TestInstall installs the chart on an API server, with a node and its account in the simulated cloud, and upgrades it. No pod runs there.
func TestInstall(t *testing.T) {
	api, cfg := apiServer(t)
	kube, err := client.New(cfg, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	shop := installtest.New(t)
	node := shop.Node()
	status := node.Status
	if err := kube.Create(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	node.Status = status
	if err := kube.Status().Update(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	account := shop.Account()
	for name, value := range map[string]string{
		"ECS_ENDPOINT": shop.Endpoint(), "VPC_ENDPOINT": shop.Endpoint(), "SLB_ENDPOINT": shop.Endpoint(), "NLB_ENDPOINT": shop.Endpoint(), "ALIBABA_CLOUD_ACCESS_KEY_ID": "", "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "", "KUBECONFIG": api.Kubeconfig, "HELM_DRIVER": "",
	} {
		t.Setenv(name, value)
	}
	values := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(values, []byte("eniConfig: "+shop.ENIConfig()+"\ncredentials: {existingSecret: key}\nimage: {repository: r.example.com/terway, tag: v1.2.3}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	more := filepath.Join(t.TempDir(), "more.yaml")
	if err := os.WriteFile(more, []byte("controller: {replicas: 1}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(ctx context.Context, said io.Writer, args ...string) (string, error) {
		cmd := install.NewCommand()
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetErr(said)
		cmd.SetArgs(append([]string{"--values", values}, args...))
		err := cmd.ExecuteContext(ctx)
		return out.String(), err
	}
	expect := func(what string, wantErr string, want []string, args ...string) {
		t.Helper()
		out, err := run(t.Context(), io.Discard, args...)
		if wantErr == "" && err != nil || wantErr != "" && (err == nil || !strings.Contains(err.Error(), wantErr)) {
			t.Fatalf("%s: %v, want %q\n%s", what, err, wantErr, out)
		}
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Fatalf("%s: want %q in\n%s", what, w, out)
			}
		}
	}
	controller := func() (*appsv1.Deployment, error) {
		d := &appsv1.Deployment{}
		return d, kube.Get(t.Context(), client.ObjectKey{Namespace: metav1.NamespaceSystem, Name: "terway-controller"}, d)
	}

	expect("no Secret", "checks have failed: credential; --ignore credential installs in spite of that", []string{"problem: credential: credentials.existingSecret: there is no Secret key in namespace kube-system"}, "--wait=0")
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: "key"},
		StringData: map[string]string{"access-key-id": account.AccessKeyID, "access-key-secret": account.AccessKeySecret}}
	if err := kube.Create(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	nowhere := filepath.Join(t.TempDir(), "nowhere.yaml")
	if err := os.WriteFile(nowhere, []byte("image: {repository: terway.local/terway}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	expect("an image of no registry", "checks have failed: image; ", []string{"problem: image: no registry has terway.local/terway:v1.2.3"}, "--values", nowhere, "--wait=0")
	refused := filepath.Join(t.TempDir(), "refused.yaml")
	if err := os.WriteFile(refused, []byte("controller: {resources: {requests: {cpu: 2}, limits: {cpu: 1}}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	expect("what the API server refuses", "checks have failed: chart", []string{"problem: chart: Deployment kube-system/terway-controller: the API server refuses it: ", "resources.requests"}, "--values", refused, "--wait=0")
	expect("a dry run", "", []string{"note: image: Terway's pods run r.example.com/terway:v1.2.3\n", "revision 1 of the release terway in namespace kube-system", "  make Deployment kube-system/terway-controller\n"}, "--dry-run")
	if _, err := controller(); client.IgnoreNotFound(err) != nil || err == nil {
		t.Fatalf("after what changes nothing the controller is there: %v", err)
	}
	expect("installing", "", []string{"revision 1 of the release terway in namespace kube-system, chart ", " makes "}, "--wait=0")
	first, err := controller()
	if err != nil {
		t.Fatal(err)
	}
	// Else "helm upgrade" would conflict with it.
	if m := first.ManagedFields; len(m) != 1 || m[0].Manager != "helm" {
		t.Errorf("the controller's fields are those of %+v, want helm's", m)
	}
	expect("a second time", "", []string{"revision 2", "makes 0 objects, changes 0, deletes 0"}, "--wait=0")
	if d, err := controller(); err != nil || d.Generation != first.Generation {
		t.Errorf("installing a second time has changed the controller: %v, generation %d, was %d", err, d.Generation, first.Generation)
	}
	expect("a change", "", []string{"would make 0 objects, changes 1, deletes 0", "  change Deployment kube-system/terway-controller\n"}, "--values", more, "--dry-run")
	expect("no pod runs", "the chart is installed, but Terway does not work yet: after 3s: the cluster has not looked at the new revision", []string{"revision 3", "changes 1"}, "--values", more, "--wait=3s")

	// Somebody edits the configuration.
	edited := &corev1.ConfigMap{}
	if err := kube.Get(t.Context(), client.ObjectKey{Namespace: metav1.NamespaceSystem, Name: "eni-config"}, edited); err != nil {
		t.Fatal(err)
	}
	for key := range edited.Data {
		edited.Data[key] += "# edited\n"
	}
	if err := kube.Update(t.Context(), edited, client.FieldOwner("kubectl-edit")); err != nil {
		t.Fatal(err)
	}
	expect("over an edit", "checks have failed: chart", []string{"problem: chart: ConfigMap kube-system/eni-config: somebody else has changed .data.eni-config.yaml (conflict with \"kubectl-edit\" using v1"}, "--values", more, "--wait=0")
	if d, err := controller(); err != nil || d.Generation != first.Generation+1 {
		t.Errorf("a check that fails has changed the controller: %v, generation %d, was %d", err, d.Generation, first.Generation)
	}
	// Without the check, as "helm upgrade" does it, the release has failed then.
	h, err := helm.New(cfg, metav1.NamespaceSystem)
	if err != nil {
		t.Fatal(err)
	}
	chart, err := helm.Load("")
	if err != nil {
		t.Fatal(err)
	}
	now, err := h.Now()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]any{}
	for _, file := range []string{values, more} {
		over := map[string]any{}
		if b, err := os.ReadFile(file); err != nil || yaml.Unmarshal(b, &over) != nil {
			t.Fatalf("%s: %v", file, err)
		}
		chartvalues.Put(all, over)
	}
	if _, err := h.Apply(t.Context(), now, chart, all, helm.Options{}); err == nil || !strings.Contains(err.Error(), "conflict occurred while applying object kube-system/eni-config") {
		t.Errorf("an upgrade over an edit: %v", err)
	}
	if now, err = h.Now(); err != nil || now.Revision != 4 || now.Status != string(common.StatusFailed) {
		t.Errorf("after it: %+v, %v", now, err)
	}
	expect("taking the edit over", "", []string{"revision 5"}, "--values", more, "--wait=0", "--force-conflicts")
	expect("afterwards", "", []string{"revision 6", "changes 0"}, "--values", more, "--wait=0")

	// An interrupt while it waits.
	ctx, cancel := context.WithCancel(t.Context())
	if out, err := run(ctx, interrupter(cancel), "--wait=1h"); !errors.Is(err, context.Canceled) {
		t.Errorf("an interrupt: %v\n%s", err, out)
	}
	expect("after an interrupt", "", []string{"revision 8"}, "--wait=0")

	become(t, api.Kubeconfig, common.StatusPendingUpgrade)
	expect("another command", "the release terway is pending-upgrade since ", nil, "--wait=0")
	expect("that was killed", "", []string{"revision 9"}, "--wait=0", "--take-over")

	become(t, api.Kubeconfig, common.StatusUninstalling)
	expect("an uninstallation that was refused", "the release terway is uninstalling since ", nil, "--wait=0", "--take-over")
	become(t, api.Kubeconfig, common.StatusDeployed)

	// With a role, which only the controller can use, one's own credential reads what it may, and none is needed.
	role := filepath.Join(t.TempDir(), "role.yaml")
	if err := os.WriteFile(role, []byte("credentials: {source: rrsa, existingSecret: null, roleARN: 'acs:ram::123456789:role/terway', oidcProviderARN: 'acs:ram::123456789:oidc-provider/shop'}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("ALIBABA_CLOUD_ACCESS_KEY_ID", "LTAIwrong")
	t.Setenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "wrong")
	expect("a role and a wrong key", "", []string{"skipped: only the controller can use its own credential, and yours is not accepted: "}, "--values", role, "--dry-run")
	t.Setenv("ALIBABA_CLOUD_ACCESS_KEY_ID", account.AccessKeyID)
	t.Setenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET", account.AccessKeySecret)
	if err := shop.AddFaults(faults.Rule{Name: "ram", Action: "DescribeInstances", Error: &faults.Error{Code: "Forbidden.RAM", Status: 403}}); err != nil {
		t.Fatal(err)
	}
	expect("a role and a key that may do less", "", []string{"note: permissions: only the controller can use its own credential: what it may do was not tried\nnote: permissions: your own credential may not call ecs:DescribeInstances ("}, "--values", role, "--dry-run")
	shop.RemoveFault("ram")

	// One who may only read.
	reader := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "reader"}, Rules: []rbacv1.PolicyRule{{Verbs: []string{"get", "list"}, APIGroups: []string{"*"}, Resources: []string{"*"}}}}
	bound := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "reader"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "reader"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "reader"}}}
	for _, o := range []client.Object{reader, bound} {
		if err := kube.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	conf, err := clientcmd.LoadFromFile(api.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	for _, user := range conf.AuthInfos {
		user.Impersonate = "reader"
	}
	weak := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*conf, weak); err != nil {
		t.Fatal(err)
	}
	expect("one who may only read", "checks have failed: rights", []string{"problem: rights: you may not create clusterroles.rbac.authorization.k8s.io: ", "you may not patch daemonsets.apps in kube-system: "}, "--wait=0", "--kubeconfig", weak)
	expect("nothing was changed", "", []string{"revision 10"}, "--dry-run")
}

// interrupter ends a context when the command says that it waits.
type interrupter context.CancelFunc

func (i interrupter) Write(b []byte) (int, error) {
	if bytes.HasPrefix(b, []byte("waiting: ")) {
		i()
	}
	return len(b), nil
}

// become gives the release a status, as Helm does that is killed while it upgrades or uninstalls.
func become(t *testing.T, kubeconfig string, status common.Status) {
	t.Helper()
	settings := cli.New()
	settings.KubeConfig = kubeconfig
	settings.SetNamespace(metav1.NamespaceSystem)
	conf := action.NewConfiguration()
	if err := conf.Init(settings.RESTClientGetter(), metav1.NamespaceSystem, ""); err != nil {
		t.Fatal(err)
	}
	last, err := conf.Releases.Last(helm.Release)
	if err != nil {
		t.Fatal(err)
	}
	r, ok := last.(*release.Release)
	if !ok {
		t.Fatalf("%T", last)
	}
	r.Info.Status = status
	if err := conf.Releases.Update(r); err != nil {
		t.Fatal(err)
	}
}
