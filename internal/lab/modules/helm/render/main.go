// Render renders a chart with Helm's library: it reads values as JSON, one set a line,
// and answers each with a line of JSON, {"files": {template: text}} or {"error": text}.
// No cluster is asked: lookup finds nothing.
//
//	render CHART-FOLDER
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "want the chart's folder")
		os.Exit(2)
	}
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var values map[string]any
		err := in.Decode(&values)
		if errors.Is(err, io.EOF) {
			return
		}
		var answer struct {
			Files map[string]string `json:"files,omitempty"`
			Error string            `json:"error,omitempty"`
		}
		if err == nil {
			answer.Files, err = render(os.Args[1], values)
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

func render(dir string, values map[string]any) (map[string]string, error) {
	chart, err := loader.LoadDir(dir)
	if err != nil {
		return nil, err
	}
	all, err := util.ToRenderValues(chart, values, common.ReleaseOptions{Name: "terway", Namespace: "kube-system", Revision: 1, IsInstall: true}, common.DefaultCapabilities)
	if err != nil {
		return nil, err
	}
	return engine.Render(chart, all)
}
