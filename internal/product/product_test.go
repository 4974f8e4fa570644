package product

import (
	"bytes"
	"context"
	"debug/elf"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"terway.dev/terway/internal/oci"
	"terway.dev/terway/internal/version"
)

// tree returns the pinned files of an architecture. Packages are downloaded once.
func tree(t *testing.T, arch string) oci.Tree {
	t.Helper()
	files, err := unpacked[arch]()
	if err != nil {
		t.Fatal(err)
	}
	return files
}

var unpacked = map[string]func() (oci.Tree, error){"amd64": sync.OnceValues(unpack("amd64")), "arm64": sync.OnceValues(unpack("arm64"))}

func unpack(arch string) func() (oci.Tree, error) {
	return func() (oci.Tree, error) {
		list, err := Packages(arch)
		if err != nil {
			return nil, err
		}
		return Debian{Cache: DefaultCache()}.Tree(context.Background(), list)
	}
}

// What is in the image is what the tree of the source lists, to the byte.
func TestTheImageHasTheListedFiles(t *testing.T) {
	for _, arch := range Architectures {
		want, err := Files(arch)
		if err != nil {
			t.Fatal(err)
		}
		if got := Listing(tree(t, arch)); got != want {
			t.Errorf("%s: %s", arch, difference(want, got))
		}
	}
	if got := difference("a\nb\n", "a\nc\n"); got != "not listed: c" {
		t.Errorf("difference says %q", got)
	}
}

// A file that nobody listed, and one that changed, are refused.
func TestBaseRefusesOtherFiles(t *testing.T) {
	d := Debian{Cache: t.TempDir()}
	list, err := Packages("amd64")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list {
		b, err := os.ReadFile(Debian{Cache: DefaultCache()}.file(p))
		if err == nil {
			err = os.WriteFile(d.file(p), b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.Base(t.Context(), "amd64"); err != nil {
		t.Fatal(err)
	}
	contents["nftables"] = append(contents["nftables"], "/etc/nftables.conf")
	defer func() { contents["nftables"] = contents["nftables"][:1] }()
	for _, f := range must(filepath.Glob(filepath.Join(d.Cache, "base-*"))) {
		os.Remove(f)
	}
	if _, err := d.Base(t.Context(), "amd64"); err == nil || !strings.Contains(err.Error(), "not listed: 0755 /etc/nftables.conf") {
		t.Errorf("with a file more: %v", err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A damaged or another package is downloaded again, and refused if its digest is another.
func TestAPackageOfAnotherDigestIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "pool"), 0o755); err != nil {
		t.Fatal(err)
	}
	p := Package{Name: "nftables", Version: "1", Path: "pool/x.deb", SHA256: sum([]byte("right"))}
	d := Debian{Mirror: "file://" + dir, Cache: t.TempDir()}
	put := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put(filepath.Join(dir, p.Path), "wrong")
	if err := d.fetch(t.Context(), []Package{p}); err == nil {
		t.Error("a package with another digest was taken")
	}
	put(filepath.Join(dir, p.Path), "right")
	put(d.file(p), "damaged")
	if err := d.fetch(t.Context(), []Package{p}); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(d.file(p)); err != nil || string(b) != "right" {
		t.Errorf("the cache has %q (%v)", b, err)
	}
	if err := (Debian{Mirror: "file:///nowhere", Cache: t.TempDir()}).fetch(t.Context(), []Package{p}); err == nil || !strings.Contains(err.Error(), "make image-packages") {
		t.Errorf("a package that the mirror does not have: %v", err)
	}
}

// Every program finds its loader and libraries, no library is there for nothing, and no link leads nowhere.
func TestProgramsFindTheirLibraries(t *testing.T) {
	machines := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
	for _, arch := range Architectures {
		files := tree(t, arch)
		exists := func(name string) bool {
			for range 5 {
				f, ok := files[name]
				if !ok || f.Link == "" {
					return ok
				}
				if name = path.Join(path.Dir(name), f.Link); path.IsAbs(f.Link) {
					name = f.Link
				}
			}
			return false
		}
		triplet := map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}[arch]
		needed, libraries, programs := map[string]bool{}, map[string]bool{}, 0
		for name, f := range files {
			if f.Link != "" && name != "/var/run" && !exists(name) {
				t.Errorf("%s: %s points to %s, which is not there", arch, name, f.Link)
			}
			if !bytes.HasPrefix(f.Content, []byte("\x7fELF")) {
				continue
			}
			e, err := elf.NewFile(bytes.NewReader(f.Content))
			if err != nil {
				t.Fatalf("%s: %s: %v", arch, name, err)
			}
			if e.Machine != machines[arch] {
				t.Errorf("%s: %s is for %v", arch, name, e.Machine)
			}
			if strings.Contains(name, ".so") {
				soname, err := e.DynString(elf.DT_SONAME)
				if err != nil || len(soname) != 1 {
					t.Fatalf("%s: %s: SONAME %v, %v", arch, name, soname, err)
				}
				libraries[soname[0]] = true
			} else {
				programs++
			}
			for _, p := range e.Progs {
				if p.Type != elf.PT_INTERP {
					continue
				}
				b := make([]byte, p.Filesz)
				if _, err := p.ReadAt(b, 0); err != nil {
					t.Fatal(err)
				}
				loader := strings.TrimRight(string(b), "\x00")
				if !exists(loader) {
					t.Errorf("%s: %s wants the loader %s, which is not there", arch, name, loader)
				}
				needed[path.Base(loader)] = true
			}
			want, err := e.ImportedLibraries()
			if err != nil {
				t.Fatal(err)
			}
			for _, lib := range want {
				needed[lib] = true
				if !exists("/lib/"+triplet+"/"+lib) && !exists("/usr/lib/"+triplet+"/"+lib) {
					t.Errorf("%s: %s needs %s, which is not there", arch, name, lib)
				}
			}
		}
		if programs != 5 { // nft, conntrack, ip, tc, bridge
			t.Errorf("%s: %d programs", arch, programs)
		}
		for lib := range libraries {
			if !needed[lib] {
				t.Errorf("%s: nobody needs %s", arch, lib)
			}
		}
	}
}

// Both architectures have the same packages at the same versions, but for rebuilds of one architecture (+bN).
func TestArchitecturesHaveTheSameVersions(t *testing.T) {
	versions := func(arch string) map[string]string {
		out := map[string]string{}
		for _, p := range must(Packages(arch)) {
			v, _, _ := strings.Cut(p.Version, "+b")
			out[p.Name] = v
		}
		return out
	}
	if a, b := versions("amd64"), versions("arm64"); !maps.Equal(a, b) {
		t.Errorf("amd64 %v\narm64 %v", a, b)
	}
	if got, want := slices.Sorted(maps.Keys(versions("amd64"))), slices.Sorted(maps.Keys(contents)); !slices.Equal(got, want) {
		t.Errorf("packages %v, wanted are those of %v", got, want)
	}
	if _, err := Packages("riscv64"); err == nil || !strings.Contains(err.Error(), "amd64 and arm64") {
		t.Errorf("packages of riscv64: %v", err)
	}
}

func TestTwoBuildsGiveTheSameImage(t *testing.T) {
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("program"), 0o755); err != nil {
		t.Fatal(err)
	}
	i := version.Info{Version: "v1.2.3", Commit: "abc"}
	build := func(arch string) string {
		files, err := unpack(arch)() // anew
		if err != nil {
			t.Fatal(err)
		}
		layer, err := files.Layer()
		if err != nil {
			t.Fatal(err)
		}
		img, err := Image(arch, i, layer, func(string) string { return program }, oci.Compressed)
		if err != nil {
			t.Fatal(err)
		}
		c, err := img.ConfigFile()
		if err != nil || c.Architecture != arch || c.Config.Labels["org.opencontainers.image.version"] != "v1.2.3" || len(c.RootFS.DiffIDs) != 2 {
			t.Fatalf("%+v, %v", c, err)
		}
		d, err := img.Digest()
		if err != nil {
			t.Fatal(err)
		}
		return d.String()
	}
	seen := map[string]bool{}
	for _, arch := range Architectures {
		d := build(arch)
		if again := build(arch); d != again {
			t.Errorf("%s: %s, and %s the second time", arch, d, again)
		}
		seen[d] = true
	}
	if len(seen) != 2 {
		t.Errorf("digests %v", seen)
	}
	if _, err := Image("amd64", i, nil, func(string) string { return "/nowhere" }, oci.Plain); err == nil || !strings.Contains(err.Error(), "/usr/bin/terway") {
		t.Errorf("without programs: %v", err)
	}
}

// What apt says of a package is read with its digest, or not at all.
func TestURIs(t *testing.T) {
	m := uri.FindStringSubmatch("'http://deb.debian.org/debian/pool/main/c/conntrack-tools/conntrack_1.4.7-1%2bb2_arm64.deb' conntrack_1%3a1.4.7-1+b2_arm64.deb 33472 SHA256:d30eeb6be5c4b2ce1f6d4728d1ac4db0006746eaa40ca0788ea4869580d2d4b3")
	if m == nil || m[2] != "conntrack" || m[3] != "1%3a1.4.7-1+b2" || !strings.HasPrefix(m[4], "d30e") {
		t.Errorf("%q", m)
	}
	if m := uri.FindStringSubmatch("'http://x/y.deb' y_1_all.deb 1 MD5Sum:00"); m != nil {
		t.Errorf("a package without a digest: %q", m)
	}
}
