package uninstall

import (
	"context"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
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

// chartRules returns the rules of the chart's job for a network, in the cluster and in Terway's namespace: those that it has when it is forced.
func chartRules(t *testing.T, network string) (cluster, own []rbacv1.PolicyRule) {
	t.Helper()
	var values map[string]any
	if err := yaml.Unmarshal([]byte("{eniConfig: {cluster_id: c1, region: cn-hangzhou, service_cidr: 172.21.0.0/20, "+network+"}, credentials: {existingSecret: key}, uninstall: {force: true}}"), &values); err != nil {
		t.Fatal(err)
	}
	chart, err := loader.Load("../../../deploy/chart")
	if err != nil {
		t.Fatal(err)
	}
	can := common.DefaultCapabilities.Copy()
	can.APIVersions = append(slices.Clone(can.APIVersions), "batch/v1/Job") // there is a cluster
	all, err := util.ToRenderValues(chart, values, common.ReleaseOptions{Name: "terway", Namespace: ns}, can)
	if err != nil {
		t.Fatal(err)
	}
	files, err := engine.Render(chart, all)
	if err != nil {
		t.Fatal(err)
	}
	for _, doc := range strings.Split(files["terway/templates/uninstall.yaml"], "\n---\n") {
		var role rbacv1.ClusterRole
		if err := yaml.Unmarshal([]byte(doc), &role); err != nil {
			t.Fatalf("%v\n%s", err, doc)
		}
		switch role.Kind {
		case "ClusterRole":
			cluster = role.Rules
		case "Role":
			own = role.Rules
		}
	}
	if len(cluster) == 0 || len(own) == 0 {
		t.Fatal("the chart has no rules")
	}
	return cluster, own
}

// held lets the program do what rules allow; all else is an error of the test. It returns what the program has done.
func held(r *rig, cluster, own []rbacv1.PolicyRule) map[string]bool {
	used := map[string]bool{}
	may := func(verb string, o any, namespace, name string) {
		r.Helper()
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
		rules, where := cluster, ""
		if namespace == ns {
			rules, where = slices.Concat(cluster, own), " in Terway's namespace"
		}
		ok := slices.ContainsFunc(rules, func(rule rbacv1.PolicyRule) bool {
			return slices.Contains(rule.APIGroups, group) && slices.Contains(rule.Resources, plural.Resource) && slices.Contains(rule.Verbs, verb) &&
				(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, name))
		})
		if !ok {
			r.Errorf("it may not %s %s.%s %s/%s", verb, plural.Resource, group, namespace, name)
		}
		used[verb+" "+plural.Resource+where] = true
	}
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
	return used
}

// With each network the chart's job may do all that the program does there.
func TestRights(t *testing.T) {
	for name, c := range map[string]struct {
		network string // in the values
		run     func(*testing.T) (*rig, func() error)
		does    []string
	}{
		"terway": {"vswitches: {cn-hangzhou-i: [vsw-1]}", func(t *testing.T) (*rig, func() error) {
			r := newRig(t)
			return r, func() error { return Run(t.Context(), r.o) }
		}, []string{"patch nodenetworks", "delete nodenetworks"}},
		"flannel": {"network: flannel, pod_cidr: 172.20.0.0/16", func(t *testing.T) (*rig, func() error) {
			r, f, _ := flannelRig(t, 2)
			return r, func() error { return RunFlannel(t.Context(), r.o, f) }
		}, []string{"list pods"}},
	} {
		t.Run(name, func(t *testing.T) {
			r, run := c.run(t)
			r.o.Kinds, r.o.Force = true, true
			r.create(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "u", Finalizers: []string{loadbalancer.Finalizer}, Annotations: map[string]string{loadbalancer.AnnotationUses: "CLB"}}})
			cluster, own := chartRules(t, c.network)
			used := held(r, cluster, own)
			r.Must(run())
			for _, what := range append(c.does, "patch nodes", "patch services", "delete customresourcedefinitions", "patch daemonsets in Terway's namespace", "patch deployments in Terway's namespace",
				"list pods in Terway's namespace", "create jobs in Terway's namespace", "delete jobs in Terway's namespace", "deletecollection leases in Terway's namespace") {
				if !used[what] {
					t.Errorf("it did not %s: this test sees nothing", what)
				}
			}
		})
	}
}
