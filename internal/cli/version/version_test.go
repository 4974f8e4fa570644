package version

import (
	"bytes"
	"encoding/json"
	"maps"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"terway.dev/terway/internal/version"
)

// run executes a program that only works in a cluster, but always tells its version.
func run(args ...string) (string, error) {
	root := &cobra.Command{Use: "tool", Args: cobra.NoArgs, SilenceErrors: true, SilenceUsage: true, Run: func(*cobra.Command, []string) { panic("the program ran") }}
	Add(root)
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetArgs(args)
	err := root.Execute()
	return out.String(), err
}

func TestVersion(t *testing.T) {
	want := "tool " + version.Get().String() + "\n"
	for _, args := range [][]string{{"--version"}, {"version"}} {
		if got, err := run(args...); err != nil || got != want {
			t.Errorf("%v printed %q (%v), want %q", args, got, err, want)
		}
	}
	got, err := run("version", "-o", "json")
	var i version.Info
	if err != nil || json.Unmarshal([]byte(got), &i) != nil || i != version.Get() {
		t.Errorf("version -o json printed %q (%v)", got, err)
	}
	if _, err := run("version", "-o", "xml"); err == nil || !strings.Contains(err.Error(), "want text, json or yaml") {
		t.Errorf("version -o xml: %v", err)
	}
}

func TestMetric(t *testing.T) {
	i := version.Get()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(Metric("terwayd"))
	families, err := r.Gather()
	if err != nil || len(families) != 1 || len(families[0].Metric) != 1 {
		t.Fatalf("%v, %v", families, err)
	}
	labels := map[string]string{}
	for _, l := range families[0].Metric[0].Label {
		labels[l.GetName()] = l.GetValue()
	}
	want := map[string]string{"program": "terwayd", "version": i.Version, "commit": i.Commit, "goversion": i.Go}
	if name, value := families[0].GetName(), families[0].Metric[0].Gauge.GetValue(); name != "terway_build_info" || value != 1 || !maps.Equal(labels, want) {
		t.Errorf("%s%v %v, want terway_build_info%v 1", name, labels, value, want)
	}
}
