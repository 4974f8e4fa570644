package uninstall

import (
	"context"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/internal/controller/loadbalancer"
)

// chartRules are the rules of the chart's job, with all that its values may add: in the cluster and in Terway's namespace.
func chartRules(t *testing.T) (cluster, own []rbacv1.PolicyRule) {
	b, err := os.ReadFile("../../../deploy/chart/templates/uninstall.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile(`(?s)\{\{.*?\}\}`).ReplaceAllString(string(b), "")
	for _, doc := range strings.Split(text, "\n---\n") {
		if !regexp.MustCompile(`(?m)^kind: (Cluster)?Role$`).MatchString(doc) {
			continue
		}
		var role rbacv1.ClusterRole
		if err := yaml.Unmarshal([]byte(doc), &role); err != nil {
			t.Fatalf("%v\n%s", err, doc)
		}
		if role.Kind == "Role" {
			own = role.Rules
		} else {
			cluster = role.Rules
		}
	}
	if len(cluster) == 0 || len(own) == 0 {
		t.Fatal("the chart has no rules")
	}
	return cluster, own
}

// The chart's job may do all that the program does.
func TestRights(t *testing.T) {
	r := newRig(t)
	cluster, own := chartRules(t)
	used := map[string]bool{}
	may := func(verb string, o any, namespace, name string) {
		t.Helper()
		var group, kind string
		switch o := o.(type) {
		case *unstructured.Unstructured:
			group, kind = o.GroupVersionKind().Group, o.GetKind()
		case client.Object:
			gvk, err := apiutil.GVKForObject(o, r.kube.Scheme())
			r.Must(err)
			group, kind = gvk.Group, gvk.Kind
		case client.ObjectList:
			gvk, err := apiutil.GVKForObject(o, r.kube.Scheme())
			r.Must(err)
			group, kind = gvk.Group, strings.TrimSuffix(gvk.Kind, "List")
		}
		plural, _ := meta.UnsafeGuessKindToResource(corev1.SchemeGroupVersion.WithKind(kind))
		rules := cluster
		if namespace == ns {
			rules = slices.Concat(cluster, own)
		}
		ok := slices.ContainsFunc(rules, func(rule rbacv1.PolicyRule) bool {
			return slices.Contains(rule.APIGroups, group) && slices.Contains(rule.Resources, plural.Resource) && slices.Contains(rule.Verbs, verb) &&
				(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, name))
		})
		if !ok {
			t.Errorf("it may not %s %s.%s %s/%s", verb, plural.Resource, group, namespace, name)
		}
		used[verb+" "+plural.Resource] = true
	}
	r.o.Kinds, r.o.Force = true, true
	r.create(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "u", Finalizers: []string{loadbalancer.Finalizer}, Annotations: map[string]string{loadbalancer.AnnotationUses: "CLB"}}})
	r.o.Client = interceptor.NewClient(r.kube, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			may("get", o, key.Namespace, key.Name)
			return c.Get(ctx, key, o, opts...)
		},
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			may("list", list, (&client.ListOptions{}).ApplyOptions(opts).Namespace, "")
			return c.List(ctx, list, opts...)
		},
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			may("create", o, o.GetNamespace(), "")
			return c.Create(ctx, o, opts...)
		},
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			may("delete", o, o.GetNamespace(), o.GetName())
			if _, kind := o.(*unstructured.Unstructured); kind {
				return nil // this API server does not know it
			}
			return c.Delete(ctx, o, opts...)
		},
		DeleteAllOf: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteAllOfOption) error {
			may("deletecollection", o, (&client.DeleteAllOfOptions{}).ApplyOptions(opts).Namespace, "")
			return c.DeleteAllOf(ctx, o, opts...)
		},
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
			may("patch", o, o.GetNamespace(), o.GetName())
			return c.Patch(ctx, o, p, opts...)
		},
		Update: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
			may("update", o, o.GetNamespace(), o.GetName())
			return c.Update(ctx, o, opts...)
		},
	})
	r.Must(Run(t.Context(), r.o))
	r.create(flannelSet())
	r.Must(RunFlannel(t.Context(), r.o, Flannel{PodCIDR: netip.MustParsePrefix("172.20.0.0/16")}))
	for _, what := range []string{"patch nodes", "delete nodenetworks", "patch nodenetworks", "patch services", "delete customresourcedefinitions", "create jobs", "delete jobs", "deletecollection leases", "patch deployments", "patch daemonsets", "list pods"} {
		if !used[what] {
			t.Errorf("it did not %s: this test sees nothing", what)
		}
	}
}
