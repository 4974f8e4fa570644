package lab

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// The images of the lab's pods, by their usual names.
const (
	ImageTerway  = "terway.local/terway:dev"
	ImagePause   = "registry.k8s.io/pause:3.10.1"
	ImageAgnhost = "registry.k8s.io/e2e-test-images/agnhost:2.63.0"
	ImageCoreDNS = "registry.k8s.io/coredns/coredns:v1.14.7"
	// ImageWebserver has the server behind load balancers (internal/lab/webserver).
	ImageWebserver = "terway.local/webserver:dev"
)

// image is a container image of one layer.
type image struct {
	file string // name of the archive in the cache
	ref  string
	// also are other names that the image has on the nodes.
	also []string
	// files maps a path in the image to a file of this machine.
	files map[string]string
	// links maps a path in the image to a link target.
	links      map[string]string
	text       map[string]string
	entrypoint []string
	cmd        []string
}

// images writes the archives of all images whose contents have changed.
func (o *Options) images(ctx context.Context) error {
	list := []image{
		{file: "pause", ref: ImagePause, also: []string{"registry.k8s.io/pause:3.10.2"}, files: map[string]string{"/pause": o.cached("terway/pause")}, entrypoint: []string{"/pause"}},
		{file: "coredns", ref: ImageCoreDNS, files: map[string]string{"/coredns": o.Bin("coredns")}, entrypoint: []string{"/coredns"}},
		{file: "webserver", ref: ImageWebserver, files: map[string]string{"/webserver": o.cached("terway/webserver")}, entrypoint: []string{"/webserver"}},
	}
	makers := []func(context.Context) (image, error){o.agnhostImage, o.terwayImage}
	if o.Network == NetworkFlannel {
		makers = append(makers, o.flannelImage)
	}
	for _, make := range makers {
		img, err := make(ctx)
		if err != nil {
			return err
		}
		list = append(list, img)
	}
	for _, img := range list {
		if err := o.archive(img); err != nil {
			return fmt.Errorf("assemble image %s: %w", img.ref, err)
		}
	}
	return nil
}

// imageArchives returns the archives that a node loads, without those of other networks.
func (o *Options) imageArchives() ([]string, error) {
	archives, err := filepath.Glob(o.cached("images", "*.tar"))
	if o.Network != NetworkFlannel {
		archives = slices.DeleteFunc(archives, func(a string) bool { return filepath.Base(a) == "flannel.tar" })
	}
	if err == nil && len(archives) == 0 {
		err = fmt.Errorf("no image archive in %s", o.cached("images"))
	}
	return archives, err
}

// agnhostNames are the images that suites of others ask for (package conformance) beside the lab's own agnhost: an older
// agnhost; one with dig and getent; and one of which nothing is asked but to run.
var agnhostNames = []string{
	"registry.k8s.io/e2e-test-images/agnhost:2.45",
	"registry.k8s.io/e2e-test-images/glibc-dns-testing:2.0.0",
	"registry.k8s.io/e2e-test-images/nginx:1.15-4",
}

const passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"
const group = "root:x:0:\nnogroup:x:65534:\n"

// wgetrc has wget try once, as busybox's in the original image does. The static busybox of this machine resolves no names.
const wgetrc = "tries = 1\n"

// agnhostImage has agnhost and common small tools of this machine.
func (o *Options) agnhostImage(ctx context.Context) (image, error) {
	cert, key, err := o.serverCertificate()
	if err != nil {
		return image{}, err
	}
	img := image{
		file: "agnhost", ref: ImageAgnhost, also: agnhostNames, entrypoint: []string{"/agnhost"}, cmd: []string{"pause"},
		files: map[string]string{"/agnhost": o.Bin("agnhost"), "/localhost.crt": cert, "/localhost.key": key},
		links: map[string]string{},
		text:  map[string]string{"/etc/passwd": passwd, "/etc/group": group, "/etc/nsswitch.conf": "hosts: files dns\n", "/etc/wgetrc": wgetrc},
	}
	// The shell is dash: busybox's sh prefers its own applets to PATH.
	tools := map[string]string{
		"curl": "/usr/local/bin/curl", "ip": "/usr/local/bin/ip", "ss": "/usr/local/bin/ss", "dash": "/bin/sh", "bash": "/bin/bash",
		"dig": "/usr/local/bin/dig", "getent": "/usr/local/bin/getent", "nc.openbsd": "/usr/local/bin/nc", "wget": "/usr/local/bin/wget",
	}
	for name, to := range tools {
		if err := img.addProgram(ctx, name, to); err != nil {
			return image{}, err
		}
	}
	return img, img.addBusybox(ctx, "sh", "ash", "ip", "ss", "wget", "nc")
}

// serverCertificate returns the files of a certificate of localhost and its key, by which agnhost serves TLS. They are made
// once, so that the image stays the same.
func (o *Options) serverCertificate() (cert, key string, err error) {
	cert, key = o.cached("images", "localhost.crt"), o.cached("images", "localhost.key")
	if _, err := os.Stat(cert); err == nil {
		return cert, key, nil
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", fmt.Errorf("make a key of localhost: %w", err)
	}
	now := time.Now()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(50, 0, 0), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, private.Public(), private)
	if err != nil {
		return "", "", fmt.Errorf("make a certificate of localhost: %w", err)
	}
	b, err := keyPEM(private)
	if err != nil {
		return "", "", err
	}
	if err := writeFile(key, b, 0o644); err != nil {
		return "", "", err
	}
	return cert, key, writeFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}

// terwayImage has the product's programs and what its agent runs: nft, and a shell with tools
// for debugging.
func (o *Options) terwayImage(ctx context.Context) (image, error) {
	img := image{
		file: "terway", ref: ImageTerway, entrypoint: []string{"/usr/bin/terwayd"},
		files: map[string]string{},
		// The runtime passes namespaces by the old path.
		links: map[string]string{"/var/run": "../run"},
		text:  map[string]string{"/etc/passwd": passwd, "/etc/group": group},
	}
	for _, name := range []string{"terway", "terwayd", "terway-controller"} {
		img.files["/usr/bin/"+name] = o.cached("terway", name)
	}
	// With Flannel these are installed on the nodes.
	for _, name := range []string{"bridge", "host-local", "portmap"} {
		img.files["/usr/lib/cni/"+name] = o.cached("cni", name)
	}
	for name, to := range map[string]string{"nft": "/usr/sbin/nft", "ip": "/usr/sbin/ip", "conntrack": "/usr/sbin/conntrack"} {
		if err := img.addProgram(ctx, name, to); err != nil {
			return image{}, err
		}
	}
	return img, img.addBusybox(ctx, "ip", "wget")
}

// addProgram adds a program of this machine and its libraries to the image.
func (img *image) addProgram(ctx context.Context, name, to string) error {
	from, err := exec.LookPath(name)
	if err != nil {
		return fmt.Errorf("image %s needs %s from this machine: %w", img.ref, name, err)
	}
	img.files[to] = from
	out, err := exec.CommandContext(ctx, "ldd", from).Output()
	if err != nil {
		return fmt.Errorf("find the libraries of %s: %w", from, err)
	}
	for line := range strings.Lines(string(out)) {
		for _, word := range strings.Fields(line) {
			// The path of the loader is compiled into programs; other libraries are found by
			// name. All keep the path that they have on this machine.
			if strings.HasPrefix(word, "/") {
				img.files[word] = word
			}
		}
	}
	return nil
}

// addBusybox adds busybox and links to its applets to the image, except some.
func (img *image) addBusybox(ctx context.Context, except ...string) error {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return fmt.Errorf("image %s needs busybox from this machine: %w", img.ref, err)
	}
	out, err := exec.CommandContext(ctx, busybox, "--list").Output()
	if err != nil {
		return fmt.Errorf("list the applets of %s: %w", busybox, err)
	}
	img.files["/bin/busybox"] = busybox
	for _, applet := range strings.Fields(string(out)) {
		to := "/bin/" + applet
		if _, taken := img.files[to]; taken || slices.Contains(except, applet) || applet == "busybox" {
			continue
		}
		img.links[to] = "busybox"
	}
	return nil
}

// archive writes the image as an OCI archive, unless one with the same contents exists.
func (o *Options) archive(img image) error {
	to := o.cached("images", img.file+".tar")
	layer, err := img.layer()
	if err != nil {
		return err
	}
	h := sha256.New()
	h.Write(layer)
	fmt.Fprintf(h, "%q %q %q %q", img.ref, img.also, img.entrypoint, img.cmd)
	stamp := hex.EncodeToString(h.Sum(nil))
	stampFile := o.cached("images", img.file+".stamp")
	if old, err := os.ReadFile(stampFile); err == nil && string(old) == stamp {
		if _, err := os.Stat(to); err == nil {
			return nil
		}
	}
	built, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), static.NewLayer(layer, types.OCIUncompressedLayer))
	if err != nil {
		return err
	}
	config, err := built.ConfigFile()
	if err != nil {
		return err
	}
	config.Architecture, config.OS = runtime.GOARCH, "linux"
	config.Config = v1.Config{
		Entrypoint: img.entrypoint, Cmd: img.cmd, WorkingDir: "/",
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
	}
	if built, err = mutate.ConfigFile(built, config); err != nil {
		return err
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, name := range append([]string{img.ref}, img.also...) {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: built,
			Descriptor: v1.Descriptor{
				Platform:    &v1.Platform{Architecture: runtime.GOARCH, OS: "linux"},
				Annotations: map[string]string{"io.containerd.image.name": name},
			},
		})
	}
	if err := writeOCIArchive(index, to); err != nil {
		return err
	}
	return writeFile(stampFile, []byte(stamp), 0o644)
}

// layer returns the tar archive of the image's files: the same files give the same bytes.
func (img *image) layer() ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	names := slices.Collect(func(yield func(string) bool) {
		for _, m := range []map[string]string{img.files, img.links, img.text} {
			for name := range m {
				if !yield(name) {
					return
				}
			}
		}
	})
	// Directories that a runtime or a program expects.
	names = append(names, "/tmp/", "/etc/", "/proc/", "/sys/", "/dev/", "/run/", "/root/")
	slices.Sort(names)
	made := map[string]bool{"": true, ".": true}
	var mkdir func(dir string) error
	mkdir = func(dir string) error {
		if made[dir] {
			return nil
		}
		if parent := path.Dir(dir); parent != "." {
			if err := mkdir(parent); err != nil {
				return err
			}
		}
		made[dir] = true
		mode := int64(0o755)
		if dir == "tmp" {
			mode = 0o1777
		}
		return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: mode, ModTime: time.Unix(0, 0)})
	}
	for _, name := range names {
		rel := strings.TrimPrefix(name, "/")
		dir, isDir := strings.CutSuffix(rel, "/")
		if !isDir {
			dir = path.Dir(rel)
		}
		if err := mkdir(dir); err != nil {
			return nil, err
		}
		if isDir {
			continue
		}
		if err := img.add(w, name, rel); err != nil {
			return nil, fmt.Errorf("put %s into the image: %w", name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

func (img *image) add(w *tar.Writer, name, rel string) error {
	hdr := tar.Header{Typeflag: tar.TypeReg, Name: rel, Mode: 0o644, ModTime: time.Unix(0, 0)}
	var content []byte
	switch from, isFile := img.files[name]; {
	case isFile:
		var err error
		if content, err = os.ReadFile(from); err != nil {
			return err
		}
		hdr.Mode = 0o755
	case img.links[name] != "":
		hdr.Typeflag, hdr.Linkname, hdr.Mode = tar.TypeSymlink, img.links[name], 0o777
	default:
		content = []byte(img.text[name])
	}
	hdr.Size = int64(len(content))
	if err := w.WriteHeader(&hdr); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}

// writeOCIArchive packs an OCI image layout into one tar file.
func writeOCIArchive(index v1.ImageIndex, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(filepath.Dir(to), ".layout-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if _, err := layout.Write(dir, index); err != nil {
		return err
	}
	var archive bytes.Buffer // its layer is in memory too
	w := tar.NewWriter(&archive)
	if err := errors.Join(w.AddFS(os.DirFS(dir)), w.Close()); err != nil {
		return err
	}
	return writeFile(to, archive.Bytes(), 0o644)
}
