package oci

import (
	"archive/tar"
	"bytes"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// sample is a new tree of the same files each time.
func sample() Tree {
	t := Tree{}
	t.Text("/etc/passwd", "root")
	t.Text("/usr/share/a", "a")
	t.Link("/bin/x", "../usr/bin/x")
	t["/usr/bin/x"] = File{Mode: 0o755, Content: bytes.Repeat([]byte("program"), 1000)}
	t.Dir("/tmp", 0o1777)
	return t
}

// whole says whether a tar archive has its end: two blocks of zeros behind the last file, which fills a block.
func whole(b []byte) bool {
	return len(b)%512 == 0 && bytes.HasSuffix(b, make([]byte, 1024))
}

func TestLayerHasEveryFileOnceBehindItsFolder(t *testing.T) {
	b, err := sample().Layer()
	if err != nil {
		t.Fatal(err)
	}
	if !whole(b) {
		t.Error("the layer has no end")
	}
	seen := map[string]*tar.Header{}
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if seen[h.Name] != nil {
			t.Errorf("%s is in the layer twice", h.Name)
		}
		if dir := strings.TrimSuffix(h.Name, "/"); strings.Contains(dir, "/") && seen[dir[:strings.LastIndex(dir, "/")+1]] == nil {
			t.Errorf("%s comes before its folder", h.Name)
		}
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.ModTime.Unix() != 0 {
			t.Errorf("%s has traces of its origin: %+v", h.Name, h)
		}
		seen[h.Name] = h
	}
	want := map[string]int64{"bin/": 0o755, "bin/x": 0o777, "etc/": 0o755, "etc/passwd": 0o644, "tmp/": 0o1777, "usr/": 0o755, "usr/bin/": 0o755, "usr/bin/x": 0o755, "usr/share/": 0o755, "usr/share/a": 0o644}
	if got := slices.Sorted(maps.Keys(seen)); !slices.Equal(got, slices.Sorted(maps.Keys(want))) {
		t.Errorf("the layer has %v", got)
	}
	for name, mode := range want {
		if h := seen[name]; h == nil || h.Mode != mode {
			t.Errorf("%s: %+v, want mode %o", name, h, mode)
		}
	}
	if seen["bin/x"].Linkname != "../usr/bin/x" || seen["usr/bin/x"].Size != 7000 {
		t.Errorf("link %+v, program %+v", seen["bin/x"], seen["usr/bin/x"])
	}
}

func TestLayerRefusesWhatIsNoPath(t *testing.T) {
	for _, name := range []string{"relative", "/a/../b", "/a//", ""} {
		if _, err := (Tree{name: {}}).Layer(); err == nil {
			t.Errorf("%q is taken as a path", name)
		}
	}
}

func build(t *testing.T, form func([]byte) (v1.Layer, error)) v1.Image {
	t.Helper()
	layer, err := sample().Layer()
	if err != nil {
		t.Fatal(err)
	}
	img, err := Image("arm64", v1.Config{Entrypoint: []string{"/usr/bin/x"}}, form, layer)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// What runs is known by the image's id: compressed or not, it is the same.
func TestTheIDDoesNotDependOnCompression(t *testing.T) {
	plain, err := build(t, Plain).ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	compressed, err := build(t, Compressed).ConfigName()
	if err != nil || plain != compressed {
		t.Errorf("id %s with plain layers, %s with compressed ones (%v)", plain, compressed, err)
	}
}

func TestTheSameFilesGiveTheSameArchive(t *testing.T) {
	archive := func() []byte {
		index, err := Index(build(t, Compressed))
		if err != nil {
			t.Fatal(err)
		}
		b, err := Archive(index, nil, "example.org/x:1")
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	a := archive()
	if !bytes.Equal(a, archive()) {
		t.Error("two archives of the same files differ")
	}
	if !whole(a) {
		t.Error("the archive has no end: tar refuses it")
	}
}
