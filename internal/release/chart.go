package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"terway.dev/terway/internal/product"
)

// member is a file of a tarball.
type member struct {
	mode    int64
	content []byte
}

// tarball has files by path. The same files give the same bytes.
type tarball map[string]member

func (t tarball) gz() ([]byte, error) {
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	w := tar.NewWriter(z)
	for _, name := range slices.Sorted(maps.Keys(t)) {
		f := t[name]
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: f.mode, Size: int64(len(f.content)), ModTime: time.Unix(0, 0)}); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// chartDir is the chart's folder in the source tree, which terwayctl embeds.
const chartDir = "deploy/chart"

// chart has the chart's files by their path in its folder.
type chart map[string][]byte

// stampedChart returns the chart for a release: its version, the programs' version, and an image that is the release's by its digest.
func stampedChart(dir, version, appVersion string, img image) (chart, error) {
	files := chart{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name == "ci" { // values for linting
				return fs.SkipDir
			}
			return nil
		}
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		switch name {
		case "Chart.yaml":
			b, err = replace(b, map[string]string{`(?m)^version: .*$`: "version: " + version, `(?m)^appVersion: .*$`: `appVersion: "` + appVersion + `"`,
				`(?m)^(    - name: terway\n      image:).*$`: "$1 " + img.repository + ":" + appVersion + "@" + img.digest.String()})
		case "values.yaml":
			changes := map[string]string{`(?m)^(image:\n(?:  .*\n)*?  tag:).*$`: "$1 " + appVersion, `(?m)^(image:\n(?:  .*\n)*?  digest:).*$`: `$1 ` + img.digest.String()}
			if img.repository != repository {
				changes[`(?m)^(image:\n(?:  .*\n)*?  repository:).*$`] = "$1 " + img.repository
			}
			b, err = replace(b, changes)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", filepath.Join(dir, name), err)
		}
		files[name] = b
		return nil
	})
	return files, err
}

// pack packs the chart as "helm package" does, but with the same bytes each time.
func (c chart) pack() ([]byte, error) {
	files := tarball{}
	for name, b := range c {
		files["terway/"+name] = member{0o644, b}
	}
	return files.gz()
}

// terwayctl compiles the operator's program for an architecture, with this chart in it. It runs in the source tree.
func (o *options) terwayctl(ctx context.Context, arch string, c chart) (err error) {
	dir, err := os.MkdirTemp("", "terway-chart-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	source, err := filepath.Abs(chartDir)
	if err != nil {
		return err
	}
	var overlay struct{ Replace map[string]string }
	overlay.Replace = map[string]string{}
	for name, b := range c {
		to := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(to, b, 0o644); err != nil {
			return err
		}
		overlay.Replace[filepath.Join(source, name)] = to
	}
	list, err := json.Marshal(overlay)
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, list, 0o644); err != nil {
		return err
	}
	return o.compile(ctx, arch, ".", []string{"./cmd/terwayctl"}, product.Stamped(o.version), "-overlay="+file)
}

// replace changes each pattern's one match.
func replace(b []byte, changes map[string]string) ([]byte, error) {
	for _, pattern := range slices.Sorted(maps.Keys(changes)) {
		re := regexp.MustCompile(pattern)
		if n := len(re.FindAll(b, -1)); n != 1 {
			return nil, fmt.Errorf("%d lines match %s, not one", n, pattern)
		}
		b = re.ReplaceAll(b, []byte(changes[pattern]))
	}
	return b, nil
}
