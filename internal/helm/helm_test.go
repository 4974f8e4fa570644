package helm

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart/common"
	status "helm.sh/helm/v4/pkg/release/common"
	release "helm.sh/helm/v4/pkg/release/v1"
	"helm.sh/helm/v4/pkg/storage"
	"helm.sh/helm/v4/pkg/storage/driver"
	"k8s.io/client-go/rest"

	"terway.dev/terway/deploy"
)

// The chart in the program is that of the folder, file by file, without what the folder's .helmignore leaves out.
func TestBuiltIn(t *testing.T) {
	mine, err := Load("")
	if err != nil {
		t.Fatal(err)
	}
	folder, err := Load("../../deploy/" + deploy.ChartDir)
	if err != nil {
		t.Fatal(err)
	}
	if mine.Metadata.Name != "terway" || mine.Metadata.Version != folder.Metadata.Version {
		t.Errorf("%+v, want %+v", mine.Metadata, folder.Metadata)
	}
	byName := func(a, b *common.File) int { return strings.Compare(a.Name, b.Name) }
	slices.SortFunc(mine.Raw, byName)
	slices.SortFunc(folder.Raw, byName)
	if !slices.EqualFunc(mine.Raw, folder.Raw, func(a, b *common.File) bool { return a.Name == b.Name && bytes.Equal(a.Data, b.Data) }) {
		t.Errorf("the program has %s\nthe folder %s", names(mine.Raw), names(folder.Raw))
	}
	if text := names(mine.Raw); strings.Contains(text, "ci/") || !strings.Contains(text, "templates/_helpers.tpl") {
		t.Errorf("%s", text)
	}
	if _, err := Load(t.TempDir()); err == nil || !strings.Contains(err.Error(), "Chart.yaml") {
		t.Errorf("an empty folder: %v", err)
	}
}

func names(files []*common.File) string {
	var all []string
	for _, f := range files {
		all = append(all, f.Name)
	}
	return strings.Join(all, " ")
}

// The image of the chart's own values, with a release's digest.
func TestImage(t *testing.T) {
	c, err := Load("")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := c.Image(), "terway.local/terway:"+c.Metadata.AppVersion; got != want {
		t.Errorf("the source's chart: %s, want %s", got, want)
	}
	of, _ := c.Values["image"].(map[string]any)
	of["repository"], of["tag"], of["digest"] = "r.example.com/team/terway", "v1.2.3", "sha256:1"
	if got, want := c.Image(), "r.example.com/team/terway:v1.2.3@sha256:1"; got != want {
		t.Errorf("a release's: %s, want %s", got, want)
	}
}

// What the cluster has is the last revision; a release that was uninstalled with its history kept is none.
func TestNow(t *testing.T) {
	for name, c := range map[string]struct {
		history []status.Status // of revisions 1, 2, …
		want    int
		status  string
	}{
		"none":        {nil, 0, ""},
		"one":         {[]status.Status{status.StatusDeployed}, 1, "deployed"},
		"upgraded":    {[]status.Status{status.StatusSuperseded, status.StatusDeployed}, 2, "deployed"},
		"failed":      {[]status.Status{status.StatusDeployed, status.StatusFailed}, 2, "failed"},
		"refused":     {[]status.Status{status.StatusSuperseded, status.StatusSuperseded, status.StatusUninstalling}, 3, "uninstalling"},
		"uninstalled": {[]status.Status{status.StatusSuperseded, status.StatusSuperseded, status.StatusUninstalled}, 0, ""},
	} {
		store := storage.Init(driver.NewMemory())
		for i, s := range c.history {
			if err := store.Create(&release.Release{Name: Release, Version: i + 1, Info: &release.Info{Status: s}}); err != nil {
				t.Fatal(err)
			}
		}
		now, err := (&Client{&action.Configuration{Releases: store}, "n"}).Now()
		if err != nil || now.Revision != c.want || now.Status != c.status {
			t.Errorf("%s: %+v %v, want revision %d, %q", name, now, err, c.want, c.status)
		}
	}
	h, err := New(&rest.Config{Host: "https://127.0.0.1:1"}, "n")
	if err != nil {
		t.Fatal(err)
	}
	if now, err := h.Now(); err == nil || !strings.Contains(err.Error(), "read the release terway in namespace n: ") {
		t.Errorf("no API server: %+v, %v", now, err)
	}
}
