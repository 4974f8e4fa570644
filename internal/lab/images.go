package lab

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"terway.dev/terway/internal/oci"
	"terway.dev/terway/internal/product"
	"terway.dev/terway/internal/version"
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

// image is a container image of the lab: a tree of files on this machine's architecture.
type image struct {
	file string // name of the archive in the cache
	ref  string
	// also are other names that the image has on the nodes.
	also       []string
	tree       oci.Tree
	entrypoint []string
	cmd        []string
}

// one is an image with a single program.
func one(file, ref, program, from string, also ...string) (image, error) {
	img := image{file: file, ref: ref, also: also, tree: oci.Tree{}, entrypoint: []string{program}}
	return img, img.tree.Program(program, from)
}

// images writes the archives of all images whose contents have changed.
func (o *Options) images(ctx context.Context) error {
	makers := []func(context.Context) (image, error){
		func(context.Context) (image, error) {
			return one("pause", ImagePause, "/pause", o.cached("terway/pause"), "registry.k8s.io/pause:3.10.2")
		},
		func(context.Context) (image, error) {
			return one("coredns", ImageCoreDNS, "/coredns", o.Bin("coredns"))
		},
		func(context.Context) (image, error) {
			return one("webserver", ImageWebserver, "/webserver", o.cached("terway/webserver"))
		},
		o.agnhostImage,
	}
	if o.Network == NetworkFlannel {
		makers = append(makers, o.flannelImage)
	}
	for _, make := range makers {
		img, err := make(ctx)
		if err != nil {
			return err
		}
		if err := o.assemble(img); err != nil {
			return fmt.Errorf("assemble image %s: %w", img.ref, err)
		}
	}
	return o.terwayImage(ctx)
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

// wgetrc has wget try once, as busybox's in the original image does. The static busybox of this machine resolves no names.
const wgetrc = "tries = 1\n"

// agnhostImage has agnhost and common small tools of this machine.
func (o *Options) agnhostImage(ctx context.Context) (image, error) {
	cert, key, err := o.serverCertificate()
	if err != nil {
		return image{}, err
	}
	img := image{file: "agnhost", ref: ImageAgnhost, also: agnhostNames, tree: oci.Tree{}, entrypoint: []string{"/agnhost"}, cmd: []string{"pause"}}
	img.users()
	img.tree.Text("/etc/nsswitch.conf", "hosts: files dns\n")
	img.tree.Text("/etc/wgetrc", wgetrc)
	for name, from := range map[string]string{"/agnhost": o.Bin("agnhost"), "/localhost.crt": cert, "/localhost.key": key} {
		if err := img.tree.Program(name, from); err != nil {
			return image{}, err
		}
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

// terwayImage writes the archive of the product's image for this machine's architecture.
func (o *Options) terwayImage(ctx context.Context) error {
	base, err := o.debian().Base(ctx, runtime.GOARCH)
	if err != nil {
		return err
	}
	img, err := product.Image(runtime.GOARCH, version.Get(), base, func(name string) string {
		if slices.Contains(product.Plugins, name) {
			return o.cached("cni", name)
		}
		return o.cached("terway", name)
	}, oci.Plain)
	if err != nil {
		return err
	}
	return o.archive("terway", img, ImageTerway)
}

// debian is where the files of the product's image come from.
func (o *Options) debian() product.Debian { return product.Debian{Cache: o.cached("debian")} }

// users adds what a program needs to know the image's users, and the folders that it expects.
func (img *image) users() {
	img.tree.Text("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")
	img.tree.Text("/etc/group", "root:x:0:\nnogroup:x:65534:\n")
}

// addProgram adds a program of this machine and its libraries to the image.
func (img *image) addProgram(ctx context.Context, name, to string) error {
	from, err := exec.LookPath(name)
	if err != nil {
		return fmt.Errorf("image %s needs %s from this machine: %w", img.ref, name, err)
	}
	if err := img.tree.Program(to, from); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "ldd", from).Output()
	if err != nil {
		return fmt.Errorf("find the libraries of %s: %w", from, err)
	}
	for line := range strings.Lines(string(out)) {
		for _, word := range strings.Fields(line) {
			// The path of the loader is compiled into programs; other libraries are found by
			// name. All keep the path that they have on this machine.
			if strings.HasPrefix(word, "/") {
				if err := img.tree.Program(word, word); err != nil {
					return err
				}
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
	if err := img.tree.Program("/bin/busybox", busybox); err != nil {
		return err
	}
	for _, applet := range strings.Fields(string(out)) {
		to := "/bin/" + applet
		if _, taken := img.tree[to]; taken || slices.Contains(except, applet) || applet == "busybox" {
			continue
		}
		img.tree.Link(to, "busybox")
	}
	return nil
}

// assemble writes the archive of an image of the lab.
func (o *Options) assemble(img image) error {
	// What a runtime or a program expects.
	for _, dir := range []string{"/etc", "/proc", "/sys", "/dev", "/run", "/root"} {
		img.tree.Dir(dir, 0o755)
	}
	img.tree.Dir("/tmp", 0o1777)
	layer, err := img.tree.Layer()
	if err != nil {
		return err
	}
	built, err := oci.Image(runtime.GOARCH, v1.Config{Entrypoint: img.entrypoint, Cmd: img.cmd}, oci.Plain, layer)
	if err != nil {
		return err
	}
	return o.archive(img.file, built, append([]string{img.ref}, img.also...)...)
}

// archive writes an image as an OCI archive into the cache, unless the same one of the same names is there.
func (o *Options) archive(file string, img v1.Image, names ...string) error {
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	to, stampFile := o.cached("images", file+".tar"), o.cached("images", file+".stamp")
	stamp := fmt.Sprintf("%s %q", digest, names)
	if old, err := os.ReadFile(stampFile); err == nil && string(old) == stamp {
		if _, err := os.Stat(to); err == nil {
			return nil
		}
	}
	b, err := oci.Archive(img, &v1.Platform{Architecture: runtime.GOARCH, OS: "linux"}, names...)
	if err != nil {
		return fmt.Errorf("archive image %s: %w", names[0], err)
	}
	if err := writeFile(to, b, 0o644); err != nil {
		return err
	}
	return writeFile(stampFile, []byte(stamp), 0o644)
}
