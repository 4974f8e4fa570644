//go:build e2e

package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/internal/product"
)

// world is a folder for results and a registry.
type world struct {
	*testing.T
	out, registry string
}

// must executes the command; out is a folder of its results.
func (w *world) must(out string, args ...string) {
	w.Helper()
	if err := run(w.T, append(args, "--out", filepath.Join(w.out, out))...); err != nil {
		w.Fatal(err)
	}
}

func (w *world) read(elem ...string) []byte {
	w.Helper()
	b, err := os.ReadFile(filepath.Join(append([]string{w.out}, elem...)...))
	if err != nil {
		w.Fatal(err)
	}
	return b
}

// A release has everything, its parts fit together, and making it twice gives the same bytes.
func TestRelease(t *testing.T) {
	t.Chdir("../..")
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	w := &world{t, t.TempDir(), strings.TrimPrefix(server.URL, "http://") + "/team"}
	args := []string{"release", "--version=v1.2.3", "--commit=" + commit, "--registry=" + w.registry}
	w.must("a", args...)
	w.must("b", args...)

	names := []string{"SHA256SUMS", "terway-1.2.3.tgz", "terway-image-v1.2.3.tar", "terway-v1.2.3-linux-amd64.tar.gz", "terway-v1.2.3-linux-arm64.tar.gz", "terway-v1.2.3.cdx.json"}
	entries, err := os.ReadDir(filepath.Join(w.out, "a"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		if !e.IsDir() {
			got = append(got, e.Name())
		}
	}
	if !slices.Equal(got, names) {
		t.Errorf("the release has %v, want %v", got, names)
	}
	for _, n := range names {
		if !bytes.Equal(w.read("a", n), w.read("b", n)) {
			t.Errorf("%s is another the second time", n)
		}
	}

	check := exec.Command("sha256sum", "--check", "--strict", "SHA256SUMS")
	check.Dir = filepath.Join(w.out, "a")
	if out, err := check.CombinedOutput(); err != nil || strings.Count(string(out), ": OK\n") != len(names)-1 {
		t.Errorf("sha256sum --check: %v\n%s", err, out)
	}

	index := w.pulled("v1.2.3")
	digest, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	w.archive(digest)
	w.platforms(index)
	w.chart(digest)
	w.contents(digest)
	w.programs()
}

// pulled returns the image from the registry.
func (w *world) pulled(tag string) v1.ImageIndex {
	w.Helper()
	ref, err := name.ParseReference(w.registry + "/terway:" + tag)
	if err != nil {
		w.Fatal(err)
	}
	index, err := remote.Index(ref)
	if err != nil {
		w.Fatal(err)
	}
	return index
}

// The archive has the image that was pushed, by its name.
func (w *world) archive(digest v1.Hash) {
	dir := w.TempDir()
	untar(w.T, bytes.NewReader(w.read("a", "terway-image-v1.2.3.tar")), dir)
	top, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		w.Fatal(err)
	}
	m, err := top.IndexManifest()
	if err != nil {
		w.Fatal(err)
	}
	if len(m.Manifests) != 1 || m.Manifests[0].Digest != digest || m.Manifests[0].Annotations["io.containerd.image.name"] != w.registry+"/terway:v1.2.3" {
		w.Errorf("the archive has %+v, the registry %s", m.Manifests, digest)
	}
}

// The image has, for each architecture, programs of that architecture and the files of the product's list, and nothing else.
func (w *world) platforms(index v1.ImageIndex) {
	m, err := index.IndexManifest()
	if err != nil {
		w.Fatal(err)
	}
	var seen []string
	for _, d := range m.Manifests {
		arch := d.Platform.Architecture
		seen = append(seen, d.Platform.String())
		img, err := index.Image(d.Digest)
		if err != nil {
			w.Fatal(err)
		}
		layers, err := img.Layers()
		if err != nil || len(layers) != 2 {
			w.Fatalf("%d layers, %v", len(layers), err)
		}
		dir := w.TempDir()
		for _, l := range layers {
			r, err := l.Uncompressed()
			if err != nil {
				w.Fatal(err)
			}
			untar(w.T, r, dir)
		}
		want, err := product.Files(arch)
		if err != nil {
			w.Fatal(err)
		}
		for _, n := range append(in("/usr/bin/", product.Programs), in("/usr/lib/cni/", product.Plugins)...) {
			want += "0755 " + n + "\n"
		}
		var expected []string
		for line := range strings.Lines(want) {
			if name := strings.Fields(line)[1]; !strings.HasSuffix(name, "/") {
				expected = append(expected, name)
			}
		}
		slices.Sort(expected)
		var files []string
		if err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				files = append(files, strings.TrimPrefix(file, dir))
			}
			return err
		}); err != nil {
			w.Fatal(err)
		}
		slices.Sort(files)
		if !slices.Equal(files, expected) {
			w.Errorf("%s: the image has %v, the list %v", arch, files, expected)
		}
		for _, n := range product.Programs {
			file := filepath.Join(dir, "usr/bin", n)
			out, err := exec.Command("go", "version", "-m", file).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "GOARCH="+arch) {
				w.Errorf("%s is not for %s: %v\n%s", n, arch, err, out)
			}
		}
		w.answers(arch, dir, files)
	}
	if !slices.Equal(seen, []string{"linux/amd64", "linux/arm64"}) {
		w.Errorf("platforms %v", seen)
	}
}

// in puts a folder before names.
func in(dir string, names []string) (out []string) {
	for _, n := range names {
		out = append(out, dir+n)
	}
	return out
}

// The chart runs exactly the image that was pushed.
func (w *world) chart(digest v1.Hash) {
	dir := w.TempDir()
	z, err := gzip.NewReader(bytes.NewReader(w.read("a", "terway-1.2.3.tgz")))
	if err != nil {
		w.Fatal(err)
	}
	untar(w.T, z, dir)
	var chart struct {
		Name, Version, AppVersion string
		Annotations               map[string]string
	}
	var values struct {
		Image struct{ Repository, Tag, Digest string }
	}
	for file, v := range map[string]any{"Chart.yaml": &chart, "values.yaml": &values} {
		b, err := os.ReadFile(filepath.Join(dir, "terway", file))
		if err != nil {
			w.Fatal(err)
		}
		if err := yaml.Unmarshal(b, v); err != nil {
			w.Fatal(err)
		}
	}
	if chart.Name != "terway" || chart.Version != "1.2.3" || chart.AppVersion != "v1.2.3" {
		w.Errorf("chart %+v", chart)
	}
	if images := chart.Annotations["artifacthub.io/images"]; !strings.Contains(images, "image: "+w.registry+"/terway:v1.2.3@"+digest.String()+"\n") {
		w.Errorf("the chart's list of images does not have the release's:\n%s", images)
	}
	if i := values.Image; i.Repository != w.registry+"/terway" || i.Tag != "v1.2.3" || i.Digest != digest.String() {
		w.Errorf("the chart's image is %+v, not %s", i, digest)
	}
	w.rendered(w.registry + "/terway:v1.2.3@" + digest.String())
	// Everything else is the source's.
	if err := filepath.WalkDir("deploy/chart", func(file string, d fs.DirEntry, err error) error {
		rel := strings.TrimPrefix(file, "deploy/chart/")
		if err != nil || d.IsDir() || rel == "Chart.yaml" || rel == "values.yaml" || strings.HasPrefix(rel, "ci/") {
			return err
		}
		want, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if got, err := os.ReadFile(filepath.Join(dir, "terway", rel)); err != nil || !bytes.Equal(got, want) {
			w.Errorf("%s is not the source's (%v)", rel, err)
		}
		return nil
	}); err != nil {
		w.Fatal(err)
	}
}

// rendered renders the packed chart with Helm: all pods of the product run the image.
func (w *world) rendered(image string) {
	bin := filepath.Join(w.TempDir(), "render")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", bin, "./render")
	build.Dir = "internal/lab/modules/helm"
	if out, err := build.CombinedOutput(); err != nil {
		w.Fatalf("%v\n%s", err, out)
	}
	b, err := os.ReadFile("deploy/chart/ci/secret-values.yaml")
	if err != nil {
		w.Fatal(err)
	}
	values := map[string]any{}
	if err := yaml.Unmarshal(b, &values); err != nil {
		w.Fatal(err)
	}
	delete(values, "image")
	question, err := json.Marshal(map[string]any{"values": values})
	if err != nil {
		w.Fatal(err)
	}
	render := exec.Command(bin, filepath.Join(w.out, "a", "terway-1.2.3.tgz"))
	render.Stdin = bytes.NewReader(question)
	out, err := render.Output()
	var answer struct {
		Files map[string]string
		Error string
	}
	if err != nil || json.Unmarshal(out, &answer) != nil || answer.Error != "" {
		w.Fatalf("render the packed chart: %v, %s", err, answer.Error)
	}
	for _, template := range []string{"terway/templates/agent.yaml", "terway/templates/controller.yaml"} {
		images := 0
		for line := range strings.Lines(answer.Files[template]) {
			if got, ok := strings.CutPrefix(strings.TrimSpace(line), "image: "); ok {
				images++
				if strings.Trim(got, `"`) != image {
					w.Errorf("%s runs %s, not %s", template, got, image)
				}
			}
		}
		if images == 0 {
			w.Errorf("%s runs no image", template)
		}
	}
}

// The list of contents has each package of Debian, each program, and each module that "go version -m" finds in it.
func (w *world) contents(digest v1.Hash) {
	doc := cdx.NewBOM()
	if err := cdx.NewBOMDecoder(bytes.NewReader(w.read("a", "terway-v1.2.3.cdx.json")), cdx.BOMFileFormatJSON).Decode(doc); err != nil {
		w.Fatal(err)
	}
	known := map[string]cdx.Component{"terway": *doc.Metadata.Component}
	for _, c := range *doc.Components {
		if _, twice := known[c.BOMRef]; twice {
			w.Errorf("%s is in the list twice", c.BOMRef)
		}
		known[c.BOMRef] = c
	}
	needs := map[string][]string{}
	for _, d := range *doc.Dependencies {
		needs[d.Ref] = *d.Dependencies
		for _, on := range append(*d.Dependencies, d.Ref) {
			if _, ok := known[on]; !ok {
				w.Errorf("%s needs %s, which is not listed", d.Ref, on)
			}
		}
	}
	for _, arch := range product.Architectures {
		image := "image-linux-" + arch
		if !strings.Contains(known[image].PackageURL, digest.Hex) || !slices.Contains(needs["terway"], image) {
			w.Errorf("image %+v", known[image])
		}
		packages, err := product.Packages(arch)
		if err != nil {
			w.Fatal(err)
		}
		for _, p := range packages {
			if !slices.ContainsFunc(needs[image], func(ref string) bool {
				c := known[ref]
				return c.Name == p.Name && c.Version == p.Version && (*c.Hashes)[0].Value == p.SHA256
			}) {
				w.Errorf("%s lacks package %+v", image, p)
			}
		}
		for _, n := range slices.Concat(product.Programs, product.Plugins, []string{"terwayctl"}) {
			ref := n + "-linux-" + arch
			file := filepath.Join(w.out, "a", "linux-"+arch, n)
			if sum, err := digestOf(file); err != nil || known[ref].Hashes == nil || (*known[ref].Hashes)[0].Value != sum {
				w.Errorf("%s: %+v, want the digest %s (%v)", ref, known[ref], sum, err)
			}
			if slices.Contains(needs[image], ref) == (n == "terwayctl") {
				w.Errorf("%s: is it in the image? %v", ref, needs[image])
			}
			out, err := exec.Command("go", "version", "-m", file).Output()
			if err != nil {
				w.Fatal(err)
			}
			deps := 0
			for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
				f := strings.Fields(lines.Text())
				if len(f) >= 3 && (f[0] == "dep" || f[0] == "mod" && f[1] != "terway.dev/terway") {
					deps++
					if !slices.ContainsFunc(needs[ref], func(on string) bool { return known[on].Name == f[1] && known[on].Version == f[2] }) {
						w.Errorf("%s lacks module %v", ref, f[1:])
					}
				}
			}
			if n != "terway" && deps == 0 || len(needs[ref]) != deps+1 { // Go's own library
				w.Errorf("%s has %d modules, listed are %d", ref, deps, len(needs[ref]))
			}
		}
	}
}

// digestOf is what sha256sum says.
func digestOf(file string) (string, error) {
	out, err := exec.Command("sha256sum", file).Output()
	if err != nil {
		return "", err
	}
	return strings.Fields(string(out))[0], nil
}

// The archives of programs have those of the release, executable.
func (w *world) programs() {
	for _, arch := range product.Architectures {
		base := "terway-v1.2.3-linux-" + arch
		dir := w.TempDir()
		z, err := gzip.NewReader(bytes.NewReader(w.read("a", base+".tar.gz")))
		if err != nil {
			w.Fatal(err)
		}
		untar(w.T, z, dir)
		for _, n := range append([]string{"terwayctl"}, product.Programs...) {
			file := filepath.Join(dir, base, n)
			b, err := os.ReadFile(file)
			if err != nil || !bytes.Equal(b, w.read("a", "linux-"+arch, n)) {
				w.Errorf("%s for %s is another (%v)", n, arch, err)
			}
			if s, err := os.Stat(file); err != nil || s.Mode().Perm() != 0o755 {
				w.Errorf("%s: %v, %v", file, s, err)
			}
		}
		w.inside(filepath.Join(dir, base, "terwayctl"))
		if w.mayRun() {
			w.version(arch, filepath.Join(dir, base), "/terwayctl")
		}
	}
}

// inside looks into terwayctl: it has the packed chart, file by file, and not the source's, whose image nobody can pull.
func (w *world) inside(terwayctl string) {
	program, err := os.ReadFile(terwayctl)
	if err != nil {
		w.Fatal(err)
	}
	dir := w.TempDir()
	z, err := gzip.NewReader(bytes.NewReader(w.read("a", "terway-1.2.3.tgz")))
	if err != nil {
		w.Fatal(err)
	}
	untar(w.T, z, dir)
	seen := 0
	if err := filepath.WalkDir(filepath.Join(dir, "terway"), func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		seen++
		if b, err := os.ReadFile(file); err != nil || !bytes.Contains(program, b) {
			w.Errorf("%s lacks %s of the packed chart (%v)", terwayctl, strings.TrimPrefix(file, dir), err)
		}
		return nil
	}); err != nil || seen < 10 {
		w.Errorf("the packed chart has %d files (%v)", seen, err)
	}
	for _, name := range []string{"Chart.yaml", "values.yaml"} {
		b, err := os.ReadFile(filepath.Join("deploy/chart", name))
		if err != nil {
			w.Fatal(err)
		}
		if bytes.Contains(program, b) {
			w.Errorf("%s has the source's %s, which names no image of a release", terwayctl, name)
		}
	}
}

// untar unpacks an archive whose names stay inside.
func untar(t *testing.T, r io.Reader, dir string) {
	t.Helper()
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(path.Clean(h.Name), "..") {
			t.Fatalf("%s leaves the folder", h.Name)
		}
		to := filepath.Join(dir, h.Name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(to, 0o755)
		case tar.TypeSymlink:
			err = os.Symlink(h.Linkname, to)
		default:
			var b []byte
			if b, err = io.ReadAll(tr); err == nil {
				err = os.WriteFile(to, b, os.FileMode(h.Mode))
			}
		}
		if err != nil {
			t.Fatal(fmt.Errorf("%s: %w", h.Name, err))
		}
	}
}
