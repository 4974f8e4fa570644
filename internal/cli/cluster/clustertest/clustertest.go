// Package clustertest is an API server for tests of commands: it lists and gets the objects that it
// was given, and serves containers' logs. It must not change anything.
package clustertest

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"terway.dev/terway/internal/cli/cluster"
)

// resource is one that the server knows.
type resource struct {
	metav1.APIResource
	group schema.GroupVersion
}

func known(group, version, name, kind string, namespaced bool) resource {
	return resource{metav1.APIResource{Name: name, Kind: kind, Namespaced: namespaced, Verbs: metav1.Verbs{"get", "list"}}, schema.GroupVersion{Group: group, Version: version}}
}

var resources = []resource{
	known("", "v1", "nodes", "Node", false),
	known("", "v1", "pods", "Pod", true),
	known("", "v1", "events", "Event", true),
	known("", "v1", "configmaps", "ConfigMap", true),
	known("", "v1", "secrets", "Secret", true),
	known("apps", "v1", "deployments", "Deployment", true),
	known("apps", "v1", "daemonsets", "DaemonSet", true),
	known("coordination.k8s.io", "v1", "leases", "Lease", true),
	known("network.terway.dev", "v1alpha1", "nodenetworks", "NodeNetwork", false),
}

// Server is the API server.
type Server struct {
	// Kubeconfig is a file.
	Kubeconfig string

	t       *testing.T
	mu      sync.Mutex
	objects []client.Object
	logs    map[string]string
	refused map[string]bool
	asked   []string
}

// New starts a server with objects; it ends with the test.
func New(t *testing.T, objects ...client.Object) *Server {
	t.Helper()
	s := &Server{t: t, objects: objects, logs: map[string]string{}, refused: map[string]bool{}}
	api := httptest.NewServer(s)
	t.Cleanup(api.Close)
	s.Kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(s.Kubeconfig, []byte("{clusters: [{name: c, cluster: {server: '"+api.URL+"'}}], contexts: [{name: c, context: {cluster: c}}], current-context: c}"), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

// Change changes the objects.
func (s *Server) Change(f func(objects []client.Object) []client.Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects = f(s.objects)
}

// Log sets what "namespace/pod/container" has logged.
func (s *Server) Log(container, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logs[container] = text
}

// Refuse makes the server forbid a resource.
func (s *Server) Refuse(resource string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused[resource] = true
}

// Asked returns the paths that were asked for.
func (s *Server) Asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, r.URL.Path)
	if r.Method != http.MethodGet {
		s.t.Errorf("%s %s: a command that reads alone has changed something", r.Method, r.URL)
	}
	status, answer := s.answer(r)
	if text, ok := answer.(string); ok {
		_, _ = w.Write([]byte(text))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		s.t.Error(err)
	}
}

func failed(code int32, reason metav1.StatusReason, path string) (int, any) {
	return int(code), metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Reason: reason, Code: code, Message: path + ": " + string(reason)}
}

func (s *Server) answer(r *http.Request) (int, any) {
	path := strings.Trim(r.URL.Path, "/")
	for _, x := range resources {
		root := "apis/" + x.group.String()
		if x.group.Group == "" {
			root = "api/v1"
		}
		rest, ok := strings.CutPrefix(path, root)
		if !ok {
			continue
		}
		if rest == "" {
			list := metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: x.group.String()}
			for _, of := range resources {
				if of.group == x.group {
					list.APIResources = append(list.APIResources, of.APIResource)
				}
			}
			return http.StatusOK, list
		}
		parts, namespace := strings.Split(strings.Trim(rest, "/"), "/"), ""
		if parts[0] == "namespaces" && len(parts) > 2 {
			namespace, parts = parts[1], parts[2:]
		}
		if parts[0] != x.Name {
			continue
		}
		if s.refused[x.Name] {
			return failed(403, metav1.StatusReasonForbidden, path)
		}
		if len(parts) == 3 && parts[2] == "log" {
			q := r.URL.Query()
			name := namespace + "/" + parts[1] + "/" + q.Get("container")
			if q.Get("previous") == "true" {
				name += " previous"
			}
			if text, ok := s.logs[name]; ok {
				return http.StatusOK, text
			}
			return failed(404, metav1.StatusReasonNotFound, path)
		}
		return s.objectsOf(x, namespace, parts[1:], r.URL.Query().Get("labelSelector"))
	}
	switch path {
	case "api":
		return http.StatusOK, metav1.APIVersions{TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}, Versions: []string{"v1"}}
	case "apis":
		list, seen := metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}}, map[string]bool{"": true}
		for _, x := range resources {
			if v := (metav1.GroupVersionForDiscovery{GroupVersion: x.group.String(), Version: x.group.Version}); !seen[x.group.Group] {
				seen[x.group.Group] = true
				list.Groups = append(list.Groups, metav1.APIGroup{Name: x.group.Group, Versions: []metav1.GroupVersionForDiscovery{v}, PreferredVersion: v})
			}
		}
		return http.StatusOK, list
	}
	return failed(404, metav1.StatusReasonNotFound, path)
}

func (s *Server) objectsOf(x resource, namespace string, name []string, selector string) (int, any) {
	selected, err := labels.Parse(selector)
	if err != nil {
		s.t.Error(err)
	}
	scheme, err := cluster.Scheme()
	if err != nil {
		s.t.Error(err)
	}
	items := []client.Object{}
	for _, o := range s.objects {
		kind, err := apiutil.GVKForObject(o, scheme)
		if err != nil {
			s.t.Error(err)
		}
		if kind != x.group.WithKind(x.Kind) || namespace != "" && o.GetNamespace() != namespace || !selected.Matches(labels.Set(o.GetLabels())) {
			continue
		}
		o = o.DeepCopyObject().(client.Object)
		o.GetObjectKind().SetGroupVersionKind(kind)
		if len(name) > 0 && name[0] == o.GetName() {
			return http.StatusOK, o
		}
		items = append(items, o)
	}
	if len(name) > 0 {
		return failed(404, metav1.StatusReasonNotFound, x.Name+" "+name[0])
	}
	return http.StatusOK, map[string]any{"kind": x.Kind + "List", "apiVersion": x.group.String(), "metadata": map[string]any{}, "items": items}
}
