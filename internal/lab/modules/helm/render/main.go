// Render renders a chart with Helm's library: it reads lines of JSON, {"values": …, "objects":
// [{…}, …]}, and answers each with a line, {"files": {template: text}} or {"error": text}. It
// uses no cluster: lookup finds these objects. The cluster has the kind Job, and with "offline": true none
// is known, as for "helm template". With "lint": true it answers as "helm lint --strict" does: with no files, or an
// error that has every problem.
//
//	render CHART
//
// The chart is a folder or an archive.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/fake"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "want the chart's folder or archive")
		os.Exit(2)
	}
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var ask question
		err := in.Decode(&ask)
		if errors.Is(err, io.EOF) {
			return
		}
		var answer struct {
			Files map[string]string `json:"files,omitempty"`
			Error string            `json:"error,omitempty"`
		}
		switch {
		case err != nil:
		case ask.Lint:
			err = problems(os.Args[1], ask.Values)
		default:
			answer.Files, err = render(os.Args[1], ask)
		}
		if err != nil {
			answer.Error = err.Error()
		}
		if err := out.Encode(answer); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

type question struct {
	Values  map[string]any   `json:"values"`
	Objects []map[string]any `json:"objects"`
	Offline bool             `json:"offline"`
	Lint    bool             `json:"lint"`
}

func problems(dir string, values map[string]any) error {
	var errs []error
	for _, m := range lint.RunAll(dir, values, "kube-system").Messages {
		if m.Severity >= support.WarningSev {
			errs = append(errs, m)
		}
	}
	return errors.Join(errs...)
}

func render(dir string, ask question) (map[string]string, error) {
	chart, err := loader.Load(dir)
	if err != nil {
		return nil, err
	}
	can := common.DefaultCapabilities.Copy()
	if !ask.Offline {
		can.APIVersions = append(can.APIVersions, "batch/v1/Job")
	}
	all, err := util.ToRenderValues(chart, ask.Values, common.ReleaseOptions{Name: "terway", Namespace: "kube-system", Revision: 1, IsInstall: true}, can)
	if err != nil {
		return nil, err
	}
	var objects []runtime.Object
	for _, o := range ask.Objects {
		objects = append(objects, &unstructured.Unstructured{Object: o})
	}
	return engine.RenderWithClientProvider(chart, all, cluster{fake.NewSimpleDynamicClient(runtime.NewScheme(), objects...)})
}

// cluster serves lookup.
type cluster struct{ client dynamic.Interface }

func (c cluster) GetClientFor(apiVersion, kind string) (dynamic.NamespaceableResourceInterface, bool, error) {
	resource, _ := meta.UnsafeGuessKindToResource(schema.FromAPIVersionAndKind(apiVersion, kind))
	return c.client.Resource(resource), !slices.Contains([]string{"APIService", "CustomResourceDefinition"}, kind), nil
}
