package install

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
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
