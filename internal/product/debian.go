// Package product makes Terway's image: its programs on a few files of Debian's packages. It owns the list of these
// packages, their exact versions and their files; nothing comes from the machine on which an image is made.
package product

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"terway.dev/terway/internal/oci"
)

// Architectures that the image is made for, as Go and Debian name them.
var Architectures = []string{"amd64", "arm64"}

// Suite is the release of Debian; its packages change only in a point release.
const Suite = "bookworm"

// DefaultMirror is where Debian's packages come from.
const DefaultMirror = "http://deb.debian.org"

// contents says which files of which packages are in the image. A test checks that the programs find all of their
// libraries and that no file is there for nothing.
var contents = map[string][]string{
	"nftables":                {"/usr/sbin/nft"},
	"libnftables1":            {"/usr/lib/*/libnftables.so.1*"},
	"libnftnl11":              {"/usr/lib/*/libnftnl.so.11*"},
	"libmnl0":                 {"/usr/lib/*/libmnl.so.0*"},
	"libjansson4":             {"/usr/lib/*/libjansson.so.4*"},
	"libgmp10":                {"/usr/lib/*/libgmp.so.10*"},
	"libedit2":                {"/usr/lib/*/libedit.so.2*"},
	"libtinfo6":               {"/lib/*/libtinfo.so.6*"},
	"libbsd0":                 {"/usr/lib/*/libbsd.so.0*"},
	"libmd0":                  {"/usr/lib/*/libmd.so.0*"},
	"libxtables12":            {"/usr/lib/*/libxtables.so.12*"},
	"conntrack":               {"/usr/sbin/conntrack"},
	"libnetfilter-conntrack3": {"/usr/lib/*/libnetfilter_conntrack.so.3*"},
	"libnfnetlink0":           {"/usr/lib/*/libnfnetlink.so.0*"},
	"iproute2":                {"/bin/ip", "/sbin/ip", "/sbin/tc", "/sbin/bridge", "/etc/iproute2/*"},
	"libbpf1":                 {"/usr/lib/*/libbpf.so.1*"},
	"libelf1":                 {"/usr/lib/*/libelf.so.1", "/usr/lib/*/libelf-*.so"},
	"zlib1g":                  {"/lib/*/libz.so.1*"},
	"libcap2":                 {"/lib/*/libcap.so.2*"},
	"libc6":                   {"/lib*/ld-linux-*.so.*", "/lib/*/ld-linux-*.so.*", "/lib/*/libc.so.6", "/lib/*/libm.so.6"},
	// The texts of the licenses to which the packages' copyright files refer, and /etc/os-release, by which a scanner of
	// images knows the distribution.
	"base-files": {"/usr/share/common-licenses/*", "/usr/lib/os-release", "/etc/os-release"},
}

// Package is a package of Debian at the version that the image has.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	// Path is that of the package's file on a mirror.
	Path   string `json:"path"`
	SHA256 string `json:"sha256"`
}

//go:embed debian
var pinned embed.FS

// Where the versions and the files are in the tree.
const (
	packagesFile = "debian/packages.json"
	filesFile    = "debian/files-%s.txt"
)

// Packages returns the pinned packages of an architecture.
func Packages(arch string) ([]Package, error) {
	b, err := pinned.ReadFile(packagesFile)
	if err != nil {
		return nil, err
	}
	all := map[string][]Package{}
	if err := json.Unmarshal(b, &all); err != nil {
		return nil, fmt.Errorf("%s: %w", packagesFile, err)
	}
	list, ok := all[arch]
	if !ok {
		return nil, fmt.Errorf("no packages for architecture %q: there are %s", arch, strings.Join(Architectures, " and "))
	}
	return list, nil
}

// Files returns the pinned list of the files of an architecture (Listing).
func Files(arch string) (string, error) {
	b, err := pinned.ReadFile(fmt.Sprintf(filesFile, arch))
	return string(b), err
}

// Debian says where packages come from and are kept.
type Debian struct {
	// Mirror is the URL of the folder that has a mirror's folders debian and debian-security; "" is DefaultMirror.
	Mirror string
	// Cache is a folder for downloaded packages and for what was made of them.
	Cache string
}

// Base returns the layer of Debian's files. It fails if they are not those that the tree lists.
func (d Debian) Base(ctx context.Context, arch string) ([]byte, error) {
	list, err := Packages(arch)
	if err != nil {
		return nil, err
	}
	want, err := Files(arch)
	if err != nil {
		return nil, err
	}
	// The list of files has all digests: the layer of the same list is the same. The word stands for the form of layers.
	sum := sha256.Sum256(fmt.Append(nil, "whole", list, want))
	cached := filepath.Join(d.Cache, "base-"+arch+"-"+hex.EncodeToString(sum[:8])+".tar")
	if b, err := os.ReadFile(cached); err == nil {
		return b, nil
	}
	tree, err := d.Tree(ctx, list)
	if err != nil {
		return nil, err
	}
	if got := Listing(tree); got != want {
		return nil, fmt.Errorf("files of Debian's packages for %s are not those of internal/product/"+filesFile+" (%s); after a change of packages, \"make image-packages\" writes the list", arch, arch, difference(want, got))
	}
	b, err := tree.Layer()
	if err != nil {
		return nil, err
	}
	return b, write(cached, b)
}

// Tree returns the files of packages that the image has.
func (d Debian) Tree(ctx context.Context, list []Package) (oci.Tree, error) {
	if err := d.fetch(ctx, list); err != nil {
		return nil, err
	}
	tree := oci.Tree{}
	for _, p := range list {
		if err := d.unpack(ctx, p, tree); err != nil {
			return nil, fmt.Errorf("package %s %s: %w", p.Name, p.Version, err)
		}
	}
	// What every image has.
	tree.Text("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")
	tree.Text("/etc/group", "root:x:0:\nnogroup:x:65534:\n")
	tree.Text("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")
	for _, dir := range []string{"/dev", "/proc", "/root", "/run", "/sys"} {
		tree.Dir(dir, 0o755)
	}
	tree.Dir("/tmp", 0o1777)
	// The runtime passes namespaces by the old path.
	tree.Link("/var/run", "../run")
	return tree, nil
}

// DefaultCache is a folder of this user for Debian.Cache.
func DefaultCache() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = os.TempDir()
	}
	return filepath.Join(dir, "terway-release")
}

func (d Debian) file(p Package) string { return filepath.Join(d.Cache, p.SHA256+".deb") }

// fetch downloads the packages that are not in the cache, with apt's own downloader.
func (d Debian) fetch(ctx context.Context, list []Package) error {
	if err := os.MkdirAll(d.Cache, 0o755); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(d.Cache, ".fetch-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	mirror := d.Mirror
	if mirror == "" {
		mirror = DefaultMirror
	}
	args := []string{"-o", "APT::Sandbox::User=root", "download-file"}
	var missing []Package
	for _, p := range list {
		if b, err := os.ReadFile(d.file(p)); err == nil && sum(b) == p.SHA256 {
			continue
		}
		missing = append(missing, p)
		args = append(args, mirror+"/"+p.Path, filepath.Join(dir, p.SHA256), "SHA256:"+p.SHA256)
	}
	if len(missing) == 0 {
		return nil
	}
	if out, err := exec.CommandContext(ctx, "/usr/lib/apt/apt-helper", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("download Debian's packages from %s: %w: %s\nIf the mirror has newer versions only, \"make image-packages\" pins them", mirror, err, bytes.TrimSpace(out))
	}
	for _, p := range missing {
		from := filepath.Join(dir, p.SHA256)
		b, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if got := sum(b); got != p.SHA256 {
			return fmt.Errorf("%s/%s has the digest %s, not %s", mirror, p.Path, got, p.SHA256)
		}
		if err := os.Rename(from, d.file(p)); err != nil {
			return err
		}
	}
	return nil
}

// unpack puts the files of a package that the image has into the tree.
func (d Debian) unpack(ctx context.Context, p Package, tree oci.Tree) error {
	patterns, ok := contents[p.Name]
	if !ok {
		return errors.New("no file of it is in the image: take it out of " + packagesFile)
	}
	patterns = append([]string{"/usr/share/doc/" + p.Name + "/copyright"}, patterns...)
	control, err := exec.CommandContext(ctx, "dpkg-deb", "--field", d.file(p)).Output()
	if err != nil {
		return fmt.Errorf("read what it says of itself: %w", err)
	}
	// Here scanners of images without dpkg look for packages.
	tree.Text("/var/lib/dpkg/status.d/"+p.Name, string(control))
	archive, err := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", d.file(p)).Output()
	if err != nil {
		return fmt.Errorf("unpack it: %w", err)
	}
	used := map[string]bool{}
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("unpack it: %w", err)
		}
		name := path.Clean("/" + h.Name)
		i := slices.IndexFunc(patterns, func(pattern string) bool { ok, _ := path.Match(pattern, name); return ok })
		if i < 0 || h.Typeflag == tar.TypeDir {
			continue
		}
		used[patterns[i]] = true
		switch h.Typeflag {
		case tar.TypeReg:
			b, err := io.ReadAll(r)
			if err != nil {
				return fmt.Errorf("unpack %s: %w", name, err)
			}
			tree[name] = oci.File{Mode: h.Mode & 0o777, Content: b}
		case tar.TypeSymlink:
			tree.Link(name, h.Linkname)
		default:
			return fmt.Errorf("%s is neither a file nor a symbolic link", name)
		}
	}
	for _, pattern := range patterns {
		// The loader has a path of its own on each architecture.
		if !used[pattern] && !strings.Contains(pattern, "/ld-linux-") {
			return fmt.Errorf("it has no file %s", pattern)
		}
	}
	return nil
}

// Listing describes a tree, one line for each file: its mode, its digest or where it links to, its path.
func Listing(tree oci.Tree) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(tree)) {
		f := tree[name]
		switch {
		case strings.HasSuffix(name, "/"):
			fmt.Fprintf(&b, "%04o %s\n", f.Mode, name)
		case f.Link != "":
			fmt.Fprintf(&b, "link %s -> %s\n", name, f.Link)
		default:
			fmt.Fprintf(&b, "%04o %s %s\n", f.Mode, name, sum(f.Content))
		}
	}
	return b.String()
}

// difference returns the first line of two texts that is not in both.
func difference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for _, line := range g {
		if !slices.Contains(w, line) {
			return "not listed: " + line
		}
	}
	for _, line := range w {
		if !slices.Contains(g, line) {
			return "missing: " + line
		}
	}
	return "another order"
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}
