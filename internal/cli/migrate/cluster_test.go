package migrate

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/internal/migrate"
)

// An API server that knows Calico's former API, with two GlobalNetworkPolicies, knows Cilium's group without its kinds,
// and does not let the user list PodNetworkings.
func apiServer(t *testing.T) client.Client {
	t.Helper()
	version := func(group, version string) metav1.APIGroup {
		v := metav1.GroupVersionForDiscovery{GroupVersion: group + "/" + version, Version: version}
		return metav1.APIGroup{Name: group, Versions: []metav1.GroupVersionForDiscovery{v}, PreferredVersion: v}
	}
	resource := func(name, kind string) metav1.APIResource {
		return metav1.APIResource{Name: name, Kind: kind, Verbs: metav1.Verbs{"list"}}
	}
	answers := map[string]any{
		"/api":                                   metav1.APIVersions{Versions: []string{"v1"}},
		"/apis":                                  metav1.APIGroupList{Groups: []metav1.APIGroup{version("crd.projectcalico.org", "v1"), version("cilium.io", "v2"), version("network.alibabacloud.com", "v1beta1")}},
		"/apis/crd.projectcalico.org":            version("crd.projectcalico.org", "v1"),
		"/apis/cilium.io":                        version("cilium.io", "v2"),
		"/apis/network.alibabacloud.com":         version("network.alibabacloud.com", "v1beta1"),
		"/apis/crd.projectcalico.org/v1":         metav1.APIResourceList{GroupVersion: "crd.projectcalico.org/v1", APIResources: []metav1.APIResource{resource("globalnetworkpolicies", "GlobalNetworkPolicy")}},
		"/apis/cilium.io/v2":                     metav1.APIResourceList{GroupVersion: "cilium.io/v2"},
		"/apis/network.alibabacloud.com/v1beta1": metav1.APIResourceList{GroupVersion: "network.alibabacloud.com/v1beta1", APIResources: []metav1.APIResource{resource("podnetworkings", "PodNetworking")}},
		"/apis/crd.projectcalico.org/v1/globalnetworkpolicies": metav1.PartialObjectMetadataList{
			TypeMeta: metav1.TypeMeta{APIVersion: "meta.k8s.io/v1", Kind: "PartialObjectMetadataList"},
			Items:    []metav1.PartialObjectMetadata{{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, {ObjectMeta: metav1.ObjectMeta{Name: "b"}}}},
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, ok := answers[r.URL.Path]
		w.Header().Set("Content-Type", "application/json")
		if !ok {
			code, reason := http.StatusNotFound, metav1.StatusReasonNotFound
			if strings.HasSuffix(r.URL.Path, "/podnetworkings") {
				code, reason = http.StatusForbidden, metav1.StatusReasonForbidden
			}
			w.WriteHeader(code)
			answer = metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Reason: reason, Code: int32(code)}
		}
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(s.Close)
	c, err := client.New(&rest.Config{Host: s.URL}, client.Options{Scheme: clientgoscheme.Scheme})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A resource that the cluster does not know has no objects; one that may not be read is an error.
func TestCount(t *testing.T) {
	c := apiServer(t)
	for _, r := range migrate.Resources {
		n, err := count(t.Context(), c, r)
		switch r.Name {
		case "globalnetworkpolicies.crd.projectcalico.org":
			if n != 2 || err != nil {
				t.Errorf("%s: %d, %v", r.Name, n, err)
			}
		case "podnetworkings.network.alibabacloud.com":
			if err == nil || !strings.Contains(explain("https://cluster", err).Error(), "docs/migrate.md") {
				t.Errorf("%s: %d, %v", r.Name, n, err)
			}
		default:
			if n != 0 || err != nil {
				t.Errorf("%s: %d, %v", r.Name, n, err)
			}
		}
	}
	if n, err := count(t.Context(), c, migrate.Resource{Name: "things.example.org", Version: "v1", Kind: "Thing"}); n != 0 || err != nil {
		t.Errorf("an unknown group: %d, %v", n, err)
	}
}
