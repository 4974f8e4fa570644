package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"
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

// packageChart packs the chart for a release, as "helm package" does but with the same bytes each time: its version, the
// programs' version, and an image that is the release's by its digest.
func packageChart(dir, version, appVersion string, img image) ([]byte, error) {
	files := tarball{}
	if err := fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
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
			b, err = replace(b, map[string]string{`(?m)^version: .*$`: "version: " + version, `(?m)^appVersion: .*$`: `appVersion: "` + appVersion + `"`})
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
		files["terway/"+name] = member{0o644, b}
		return nil
	}); err != nil {
		return nil, err
	}
	return files.gz()
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
