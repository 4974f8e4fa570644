package install

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/internal/helm"
	"terway.dev/terway/internal/inventory"
)

// Objects are what an installation does to the release's objects, "KIND NAME" or "KIND NAMESPACE/NAME".
type Objects struct {
	Create    []string `json:"create"`
	Change    []string `json:"change"`
	Delete    []string `json:"delete"`
	Unchanged int      `json:"unchanged"`
}

// compare compares the objects of the release, in YAML, before and after.
func compare(before, after string) (o Objects, err error) {
	old, err := parse(before)
	if err != nil {
		return o, fmt.Errorf("the release's objects: %w", err)
	}
	made, err := parse(after)
	if err != nil {
		return o, fmt.Errorf("the chart's objects: %w", err)
	}
	o = Objects{Create: []string{}, Change: []string{}, Delete: []string{}}
	for _, name := range slices.Sorted(maps.Keys(made)) {
		switch was, ok := old[name]; {
		case !ok:
			o.Create = append(o.Create, name)
		case !reflect.DeepEqual(was.Object, made[name].Object):
			o.Change = append(o.Change, name)
		default:
			o.Unchanged++
		}
	}
	for _, name := range slices.Sorted(maps.Keys(old)) {
		if _, ok := made[name]; !ok && old[name].GetAnnotations()["helm.sh/resource-policy"] != "keep" {
			o.Delete = append(o.Delete, name)
		}
	}
	return o, nil
}

// write prints the objects for people.
func (o *Objects) write(w io.Writer) {
	for _, of := range []struct {
		what  string
		names []string
	}{{"make", o.Create}, {"change", o.Change}, {"delete", o.Delete}} {
		for _, name := range of.names {
			fmt.Fprintf(w, "  %s %s\n", of.what, name)
		}
	}
}

// rejected asks the API server which objects it would not take, without a change: those of which somebody else has changed
// fields since, unless these are to be taken over, and those that it refuses. Objects that it has not answered about are notes. Left out are
// objects that the user may not apply, which the check of rights names, and those whose kind or namespace does not exist yet.
func rejected(ctx context.Context, c client.Client, namespace, manifest string, takeOver bool) (no, unknown []string, err error) {
	all, err := parse(manifest)
	if err != nil {
		return nil, nil, fmt.Errorf("the chart's objects: %w", err)
	}
	opts := []client.ApplyOption{client.FieldOwner(helm.Manager), client.DryRunAll}
	if takeOver {
		opts = append(opts, client.ForceOwnership)
	}
	no, unknown = []string{}, []string{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		o := all[name]
		gvk := o.GroupVersionKind()
		if m, err := c.RESTMapper().RESTMapping(gvk.GroupKind(), gvk.Version); err == nil && m.Scope.Name() == meta.RESTScopeNameNamespace && o.GetNamespace() == "" {
			o.SetNamespace(namespace)
		}
		err := c.Apply(ctx, client.ApplyConfigurationFromUnstructured(o), opts...)
		var status apierrors.APIStatus
		switch {
		case ctx.Err() != nil:
			return nil, nil, ctx.Err()
		case err == nil, meta.IsNoMatchError(err), apierrors.IsNotFound(err), apierrors.IsForbidden(err) && notAllowed.MatchString(err.Error()):
		case apierrors.IsConflict(err) && errors.As(err, &status) && status.Status().Details != nil && len(status.Status().Details.Causes) > 0:
			var fields []string
			for _, cause := range status.Status().Details.Causes {
				fields = append(fields, cause.Field+" ("+cause.Message+")")
			}
			no = append(no, fmt.Sprintf("%s: somebody else has changed %s: put the change into the values if it is to stay, and give --force-conflicts, which takes the fields over", name, strings.Join(fields, ", ")))
		case errors.As(err, &status) && status.Status().Code >= 400 && status.Status().Code < 500 && !apierrors.IsTooManyRequests(err) && !apierrors.IsTimeout(err):
			no = append(no, fmt.Sprintf("%s: the API server refuses it: %v", name, err))
		default:
			unknown = append(unknown, fmt.Sprintf("%s: whether the API server would take it is not known: %v", name, err))
		}
	}
	return no, unknown, nil
}

// notAllowed matches what an authorizer says, and not what admission says of an object, which is Forbidden too.
var notAllowed = regexp.MustCompile(`cannot (create|patch) resource "`)

// imageOf returns the image of Terway's pods, "" if there are no objects.
func imageOf(manifest string) (string, error) {
	all, err := parse(manifest)
	if err != nil {
		return "", fmt.Errorf("the chart's objects: %w", err)
	}
	for _, o := range all {
		if o.GetKind() != "Deployment" || o.GetName() != inventory.ControllerName {
			continue
		}
		containers, _, err := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "containers")
		if err != nil || len(containers) == 0 {
			return "", fmt.Errorf("the chart's Deployment %s has no containers (%v)", o.GetName(), err)
		}
		c, _ := containers[0].(map[string]any)
		image, _ := c["image"].(string)
		return image, nil
	}
	return "", nil
}

// parse reads objects by their names.
func parse(manifest string) (map[string]*unstructured.Unstructured, error) {
	all := map[string]*unstructured.Unstructured{}
	docs := utilyaml.NewYAMLReader(bufio.NewReader(strings.NewReader(manifest)))
	for {
		doc, err := docs.Read()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(doc, &o.Object); err != nil {
			return nil, err
		}
		if len(o.Object) == 0 {
			continue
		}
		name := o.GetName()
		if o.GetNamespace() != "" {
			name = o.GetNamespace() + "/" + name
		}
		all[o.GetKind()+" "+name] = o
	}
}
