package chart

import (
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	chart "helm.sh/helm/v4/pkg/chart/v2"
	"sigs.k8s.io/yaml"
)

// TestChartYAML: Chart.yaml has what "ct lint" and Artifact Hub look for. There is no home and there are no sources: the repository has no
// page on the web that it knows of.
func TestChartYAML(t *testing.T) {
	var c chart.Metadata
	read(t, dir+"Chart.yaml", func(b []byte, v any) error { return yaml.UnmarshalStrict(b, v) }, &c)
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	if c.Description == "" || c.KubeVersion == "" || len(c.Keywords) == 0 || len(c.Maintainers) == 0 || c.Home != "" || len(c.Sources) > 0 {
		t.Errorf("Chart.yaml: %+v", c)
	}
	license, err := os.ReadFile("../../LICENSE")
	if err != nil {
		t.Fatal(err)
	}
	if c.Annotations["artifacthub.io/license"] != "Apache-2.0" || !strings.Contains(string(license), "Apache License") {
		t.Errorf("license %q", c.Annotations["artifacthub.io/license"])
	}

	// The icon is in the chart: no host is needed to show it.
	svg, is := strings.CutPrefix(c.Icon, "data:image/svg+xml;base64,")
	b, err := base64.StdEncoding.DecodeString(svg)
	if err != nil || !is || xml.Unmarshal(b, &struct {
		XMLName xml.Name `xml:"svg"`
	}{}) != nil {
		t.Errorf("icon %.40s…: %v, want an SVG image as a data URI", c.Icon, err)
	}

	// The images are those that values.yaml names.
	type image struct{ Repository, Tag string }
	var values struct {
		Image   image
		Flannel struct{ Image image }
	}
	read(t, dir+"values.yaml", func(b []byte, v any) error { return yaml.Unmarshal(b, v) }, &values)
	var images []struct {
		Name, Image string
		Platforms   []string
	}
	if err := yaml.UnmarshalStrict([]byte(c.Annotations["artifacthub.io/images"]), &images); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, i := range images {
		got = append(got, i.Name+" "+i.Image)
	}
	want := []string{
		fmt.Sprintf("terway %s:%s", values.Image.Repository, c.AppVersion),
		fmt.Sprintf("flannel %s:%s", values.Flannel.Image.Repository, values.Flannel.Image.Tag),
	}
	if !slices.Equal(got, want) {
		t.Errorf("artifacthub.io/images: %q, want %q", got, want)
	}
}
