package migrate

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"terway.dev/terway/internal/cli/cluster"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/migrate"
)

// errorOf returns the error of a client whose API server answers like this; nil: it has ended.
func errorOf(t *testing.T, answer http.HandlerFunc) error {
	t.Helper()
	server := httptest.NewServer(answer)
	if answer == nil {
		server.Close()
	}
	defer server.Close()
	known, err := cluster.Scheme()
	if err != nil {
		t.Fatal(err)
	}
	mapper := meta.NewDefaultRESTMapper(nil) // it does not ask the server
	mapper.Add(corev1.SchemeGroupVersion.WithKind("Node"), meta.RESTScopeRoot)
	c, err := client.New(&rest.Config{Host: server.URL, Timeout: 100 * time.Millisecond}, client.Options{Scheme: known, Mapper: mapper})
	if err != nil {
		t.Fatal(err)
	}
	err = c.Get(t.Context(), client.ObjectKey{Name: "a"}, &corev1.Node{})
	if err == nil {
		t.Fatal("the call has succeeded")
	}
	return fmt.Errorf("read node a: %w", err)
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// passing are errors of an API server that is overloaded, starts again or cannot be reached.
func passing(t *testing.T) map[string]error {
	return map[string]error{
		"refused": errorOf(t, nil), "429": errorOf(t, status(429)), "500": errorOf(t, status(500)), "503": errorOf(t, status(503)), "504": errorOf(t, status(504)),
		"timeout": errorOf(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }),
		"ended":   errorOf(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }),
	}
}

func TestPasses(t *testing.T) {
	for name, err := range passing(t) {
		if !passes(err) {
			t.Errorf("%s: %v is final", name, err)
		}
	}
	for _, code := range []int{400, 401, 403, 404, 409, 422} {
		if err := errorOf(t, status(code)); passes(err) {
			t.Errorf("%d: %v is repeated", code, err)
		}
	}
}

// shaky is a client of which some calls fail: fail says which.
func (w *world) shaky(fail func(what string) error) client.Client {
	return interceptor.NewClient(w.Client.(client.WithWatch), interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			if err := fail(fmt.Sprintf("get %T", o)); err != nil {
				return err
			}
			return c.Get(ctx, key, o, opts...)
		},
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			if err := fail(fmt.Sprintf("list %T", list)); err != nil {
				return err
			}
			return c.List(ctx, list, opts...)
		},
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			if err := fail(fmt.Sprintf("create %T", o)); err != nil {
				return err
			}
			return c.Create(ctx, o, opts...)
		},
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			if err := fail(fmt.Sprintf("delete %T", o)); err != nil {
				return err
			}
			return c.Delete(ctx, o, opts...)
		},
		Update: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
			if err := fail(fmt.Sprintf("update %T", o)); err != nil {
				return err
			}
			return c.Update(ctx, o, opts...)
		},
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
			if err := fail(fmt.Sprintf("patch %T", o)); err != nil {
				return err
			}
			return c.Patch(ctx, o, p, opts...)
		},
		SubResourceCreate: func(ctx context.Context, c client.Client, sub string, o, subObject client.Object, opts ...client.SubResourceCreateOption) error {
			if err := fail("create " + sub); err != nil {
				return err
			}
			return c.SubResource(sub).Create(ctx, o, subObject, opts...)
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
			if err := fail("patch " + sub); err != nil {
				return err
			}
			return c.SubResource(sub).Patch(ctx, o, p, opts...)
		},
	})
}

// An API server that fails in between holds nothing up; what it said is told.
func TestMigrateRepeats(t *testing.T) {
	failures := slices.Collect(maps.Values(passing(t)))
	w := newWorld(t)
	failed := map[string]int{}
	chance := rand.New(rand.NewPCG(1, 2))
	w.through = w.shaky(func(what string) error {
		if failed[what] > 0 && chance.IntN(5) > 0 {
			return nil
		}
		failed[what]++
		return failures[chance.IntN(len(failures))]
	})
	if _, err := w.migrate(migrate.Ask{}, often); err == nil || !strings.Contains(err.Error(), "terwayctl install") {
		t.Fatalf("not installed: %v", err)
	}
	w.install()
	w.tick()
	for _, ask := range []migrate.Ask{{}, {Nodes: []string{"a"}, Back: true}} {
		said, err := w.migrate(ask, 10*often)
		if err != nil {
			t.Fatalf("%+v: %v\n%s", ask, err, said)
		}
		if !strings.Contains(said, "read node a: ") || !strings.Contains(said, "; this is repeated") {
			t.Errorf("it does not tell what failed:\n%s", said)
		}
		for _, node := range []string{"a", "b"} {
			old := ask.Back && node == "a"
			if n := w.node(node); n.Spec.Unschedulable || len(n.Spec.Taints) > 0 || n.Annotations[migrate.AnnotationMigrating] != "" || (n.Labels[claims.LabelIgnore] != "") != old {
				t.Errorf("%+v: %+v %+v", ask, n.ObjectMeta, n.Spec)
			}
		}
	}
	for _, what := range []string{"get *v1.Node", "list *v1.PodList", "create *v1.Pod", "delete *v1.Pod", "update *v1.DaemonSet", "patch *v1.Node", "create eviction", "patch status"} {
		if failed[what] == 0 {
			t.Errorf("%s has not failed: this test sees nothing", what)
		}
	}
}

// What is awaited does not begin anew: a node's command runs once.
func TestMigrateWaitsOn(t *testing.T) {
	w := newWorld(t)
	if _, err := w.migrate(migrate.Ask{}, often); err == nil {
		t.Fatal("not installed")
	}
	w.install()
	w.tick()
	refused, left := errorOf(t, nil), 3
	w.through = w.shaky(func(what string) error {
		if what != "get *v1.Pod" || left == 0 {
			return nil
		}
		left--
		return refused
	})
	said, err := w.migrate(migrate.Ask{Nodes: []string{"a"}}, often)
	if err != nil || left > 0 || len(w.did) != 1 {
		t.Errorf("%v; %d calls did not fail; commands %q; it said\n%s", err, left, w.did, said)
	}
	if n := strings.Count(said, "; this is repeated"); n != 1 {
		t.Errorf("the same error is told %d times:\n%s", n, said)
	}
}

// An API server that does not come back ends it when the step's time is over, with what it said; a refusal at once.
func TestMigrateEnds(t *testing.T) {
	refused, forbidden := errorOf(t, nil), errorOf(t, status(http.StatusForbidden))
	for name, c := range map[string]struct {
		failure error
		slept   bool
	}{"does not come back": {refused, true}, "forbids": {forbidden, false}} {
		for _, what := range []string{"patch *v1.Node", "create *v1.Pod"} { // of a step, and of what a step waits for
			w := newWorld(t)
			if _, err := w.migrate(migrate.Ask{}, often); err == nil {
				t.Fatal("not installed")
			}
			w.install()
			w.tick()
			failing := false
			w.through = w.shaky(func(call string) error {
				if failing = failing || call == what; failing {
					return c.failure
				}
				return nil
			})
			w.step = 100 * time.Millisecond
			said, err := w.migrate(migrate.Ask{Nodes: []string{"a"}}, 1<<30)
			if err == nil || !strings.Contains(err.Error(), c.failure.Error()) || !strings.Contains(err.Error(), "node a, step ") {
				t.Errorf("%s, %s: error %v, want %v and the step", name, what, err, c.failure)
			}
			if strings.Contains(said, "; this is repeated") != c.slept {
				t.Errorf("%s, %s: said\n%s", name, what, said)
			}
			if apierrors.IsForbidden(c.failure) == c.slept {
				t.Fatalf("%v", c.failure)
			}
		}
	}
}
