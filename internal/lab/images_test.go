package lab

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/layout"

	"terway.dev/terway/internal/oci"
)

func TestArchiveIsAnOCIImageOfItsNames(t *testing.T) {
	o := testOptions(t)
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("binary"), 0o755); err != nil {
		t.Fatal(err)
	}
	img, err := one("x", "example.org/x:1", "/usr/bin/x", program, "example.org/y:2")
	if err != nil {
		t.Fatal(err)
	}
	img.tree.Link("/bin/x", "../usr/bin/x")
	img.users()
	if err := o.assemble(img); err != nil {
		t.Fatal(err)
	}
	dir := untar(t, o.cached("images", "x.tar"))
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil || len(manifest.Manifests) != 2 || manifest.Manifests[0].Digest != manifest.Manifests[1].Digest {
		t.Fatalf("index %+v (%v), want one image twice", manifest, err)
	}
	for i, name := range []string{img.ref, img.also[0]} {
		if got := manifest.Manifests[i].Annotations["io.containerd.image.name"]; got != name {
			t.Errorf("name %d is %q, want %s", i, got, name)
		}
	}
	built, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	config, err := built.ConfigFile()
	if err != nil || len(config.RootFS.DiffIDs) != 1 || config.Config.Entrypoint[0] != "/usr/bin/x" {
		t.Fatalf("config %+v, %v", config, err)
	}
	layers, err := built.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v", len(layers), err)
	}
	r, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	seen := map[string]tar.Header{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := seen[h.Name]; twice {
			t.Errorf("%s is in the layer twice", h.Name)
		}
		seen[h.Name] = *h
	}
	for name, mode := range map[string]int64{"usr/bin/x": 0o755, "etc/passwd": 0o644, "tmp/": 0o1777, "usr/bin/": 0o755} {
		if seen[name].Mode != mode {
			t.Errorf("%s: mode %o, want %o", name, seen[name].Mode, mode)
		}
	}
	if seen["bin/x"].Linkname != "../usr/bin/x" {
		t.Errorf("bin/x points to %q", seen["bin/x"].Linkname)
	}
}

func TestArchiveIsMadeAnewOnlyWhenItsContentsChange(t *testing.T) {
	o := testOptions(t)
	img := image{file: "x", ref: "example.org/x:1", tree: oci.Tree{"/a": {Content: []byte("1")}}}
	made := func() []byte {
		t.Helper()
		if err := o.assemble(img); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(o.cached("images", "x.tar"))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	first := made()
	// A second write would overwrite this mark.
	if err := os.WriteFile(o.cached("images", "x.tar"), []byte("mark"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := made(); string(got) != "mark" {
		t.Error("the archive was written again although nothing changed")
	}
	img.tree.Text("/a", "2")
	if got := made(); bytes.Equal(got, first) || string(got) == "mark" {
		t.Error("the archive was not written although its contents changed")
	}
}

func untar(t *testing.T, path string) string {
	t.Helper()
	dir := t.TempDir()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeDir {
			continue
		}
		b, err := io.ReadAll(tr)
		if err == nil {
			err = writeFile(filepath.Join(dir, h.Name), b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
