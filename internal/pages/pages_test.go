package pages

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// server returns one page after the other like an API server: it decodes JSON into the list.
type server struct {
	client.Reader
	pages map[string]string // by continue token
	asked []string
}

var errGone = errors.New("gone")

func (s *server) List(_ context.Context, list client.ObjectList, opts ...client.ListOption) error {
	var o client.ListOptions
	o.ApplyOptions(opts)
	s.asked = append(s.asked, o.Continue)
	page, ok := s.pages[o.Continue]
	if !ok || o.Limit != size || o.Namespace != "ns" || len(s.asked) > len(s.pages) {
		return errGone
	}
	return json.Unmarshal([]byte(page), list)
}

func TestPages(t *testing.T) {
	s := &server{pages: map[string]string{
		"":  `{"metadata": {"continue": "b"}, "items": [{"metadata": {"name": "n1", "labels": {"a": "1"}}, "spec": {"podCIDR": "10.0.1.0/24"}}]}`,
		"b": `{"metadata": {"continue": "c"}, "items": [{"metadata": {"name": "n2", "labels": {"b": "2"}}, "spec": {}}]}`,
		"c": `{"metadata": {}, "items": []}`,
	}}
	var all []corev1.Node
	for page, err := range Of(t.Context(), s, &corev1.NodeList{}, client.InNamespace("ns")) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, page.Items...)
	}
	if !slices.Equal(s.asked, []string{"", "b", "c"}) || len(all) != 2 {
		t.Fatalf("requested %q, got %d objects", s.asked, len(all))
	}
	if a, b := all[0], all[1]; a.Name != "n1" || len(a.Labels) != 1 || b.Name != "n2" || len(b.Labels) != 1 || b.Spec.PodCIDR != "" {
		t.Errorf("objects of two pages are mixed: %+v, %+v", a, b)
	}

	s.asked = nil
	for range Of(t.Context(), s, &corev1.NodeList{}, client.InNamespace("ns")) {
		break
	}
	if len(s.asked) != 1 {
		t.Errorf("requested %q, though the first page was enough", s.asked)
	}

	delete(s.pages, "b")
	var errs []error
	for _, err := range Of(t.Context(), s, &corev1.NodeList{}, client.InNamespace("ns")) {
		errs = append(errs, err)
	}
	if len(errs) != 2 || errs[0] != nil || errs[1] != errGone {
		t.Errorf("errors %v, want that of the second page, as the last", errs)
	}
}
