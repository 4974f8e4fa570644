//go:build e2e

package api

import (
	"crypto/tls"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/scrape"
)

// Both programs may ask, with the chart's roles, who may scrape their metrics; a scraper may with the chart's ClusterRole,
// and without it may not.
func TestScrapersOfMetrics(t *testing.T) {
	_, admin := apiServer(t)
	kube, err := kubernetes.NewForConfig(admin)
	if err != nil {
		t.Fatal(err)
	}
	const namespace = metav1.NamespaceSystem
	token := func(account string) string {
		t.Helper()
		if _, err := kube.CoreV1().ServiceAccounts(namespace).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		r, err := kube.CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), account, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return r.Status.Token
	}
	bind := func(role, account string) {
		t.Helper()
		if _, err := kube.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: account}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: account}},
		}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	var roles []string
	for _, o := range rendered(t, map[string]any{
		"eniConfig":   map[string]any{"cluster_id": "c", "region": "cn-hangzhou", "service_cidr": "172.21.0.0/20", "vswitches": map[string]any{"cn-hangzhou-i": []any{"vsw-1"}}},
		"credentials": map[string]any{"existingSecret": "key"},
	}) {
		if o.GetKind() != "ClusterRole" {
			continue
		}
		b, err := o.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		if err := kube.RbacV1().RESTClient().Post().Resource("clusterroles").Body(b).SetHeader("Content-Type", "application/json").Do(t.Context()).Error(); err != nil {
			t.Fatalf("ClusterRole %s: %v", o.GetName(), err)
		}
		roles = append(roles, o.GetName())
	}
	prometheus, pod := token("prometheus"), token("pod")
	bind("terway-metrics", "prometheus")
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	for _, program := range []string{"terwayd", "terway-controller"} {
		own := &rest.Config{Host: admin.Host, TLSClientConfig: rest.TLSClientConfig{CAData: admin.CAData, CAFile: admin.CAFile}, BearerToken: token(program)}
		bind(program, program)
		guard, err := scrape.New(own, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		l, err := scrape.Listen("127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		page := &http.Server{Handler: guard.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "figures") }))}
		go func() { _ = page.Serve(l) }()
		t.Cleanup(func() { _ = page.Close() })
		get := func(token string) (status int, says string) {
			t.Helper()
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+l.Addr().String()+"/metrics", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Authorization", "Bearer "+token)
			resp, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			return resp.StatusCode, string(b)
		}
		var status int
		var says string
		// The API server sees new bindings some time later.
		if err := lab.Poll(t.Context(), 100*time.Millisecond, func() (bool, error) {
			status, says = get(prometheus)
			return status == http.StatusOK && says == "figures", nil
		}); err != nil {
			t.Fatalf("%s (roles %v): the scraper gets %d %q: %v", program, roles, status, says, err)
		}
		if status, says := get(pod); status != http.StatusForbidden || !strings.Contains(says, "system:serviceaccount:kube-system:pod may not get /metrics") {
			t.Errorf("%s: another service account gets %d %q", program, status, says)
		}
	}
}
