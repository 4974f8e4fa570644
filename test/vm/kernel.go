package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// packages are Debian 12's: the meta package of each kernel series.
var packages = map[string]string{
	"6.1":  "linux-image-cloud-amd64",      // bookworm: no tcx, no netkit
	"6.12": "linux-image-6.12-cloud-amd64", // bookworm-security: both
}

func seriesNames() []string { return slices.Sorted(maps.Keys(packages)) }

// kernel is an unpacked kernel package.
type kernel struct {
	pkg     string
	image   string // path of the bzImage
	modules string // path of a cpio archive with modules and their order
}

// fetchKernel returns the cached kernel of a series, and fetches it if there is none.
// What is cached is used as long as it is there: delete the folder for a newer one.
func fetchKernel(ctx context.Context, cache, series string) (kernel, error) {
	meta, ok := packages[series]
	if !ok {
		return kernel{}, fmt.Errorf("--kernel %s: must be one of %s", series, strings.Join(seriesNames(), ", "))
	}
	// Another list of modules is another kernel folder.
	sum := sha256.Sum256([]byte(strings.Join(modules, " ")))
	dir := filepath.Join(cache, series+"-"+hex.EncodeToString(sum[:4]))
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return kernel{}, fmt.Errorf("make the cache folder: %w", err)
	}
	// Two packages' tests may come here at once.
	unlock, err := lock(filepath.Join(cache, "lock"))
	if err != nil {
		return kernel{}, err
	}
	defer unlock()
	if k, err := cached(dir); err == nil {
		return k, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return kernel{}, err
	}
	work, err := os.MkdirTemp(cache, "fetch-")
	if err != nil {
		return kernel{}, fmt.Errorf("make a folder to fetch into: %w", err)
	}
	defer os.RemoveAll(work)
	if err := fetch(ctx, work, meta); err != nil {
		return kernel{}, fmt.Errorf("kernel %s: %w", series, err)
	}
	if err := os.Rename(work, dir); err != nil {
		return kernel{}, fmt.Errorf("put kernel %s into the cache: %w", series, err)
	}
	return cached(dir)
}

func lock(path string) (func(), error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock the cache: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("lock the cache: %w", errors.Join(err, f.Close()))
	}
	return func() { _ = f.Close() }, nil
}

func cached(dir string) (kernel, error) {
	pkg, err := os.ReadFile(filepath.Join(dir, "package"))
	if err != nil {
		return kernel{}, fmt.Errorf("look for a cached kernel: %w", err)
	}
	return kernel{
		pkg: strings.TrimSpace(string(pkg)), image: filepath.Join(dir, "vmlinuz"), modules: filepath.Join(dir, "modules.cpio"),
	}, nil
}

// fetch leaves package, vmlinuz and modules.cpio in dir.
func fetch(ctx context.Context, dir, meta string) error {
	pkg, err := packageOf(ctx, meta)
	if err != nil {
		// The package lists may be old or not there at all.
		if _, err := command(ctx, dir, "apt-get", "update", "-q"); err != nil {
			return err
		}
		if pkg, err = packageOf(ctx, meta); err != nil {
			return err
		}
	}
	fmt.Fprintln(os.Stderr, "vm: fetching", pkg)
	download := []string{"download", "-q", "-o", "APT::Sandbox::User=root", pkg}
	if _, err := command(ctx, dir, "apt-get", download...); err != nil {
		if _, err := command(ctx, dir, "apt-get", "update", "-q"); err != nil {
			return err
		}
		if _, err := command(ctx, dir, "apt-get", download...); err != nil {
			return err
		}
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("apt-get download %s left the files %v", pkg, debs)
	}
	root := filepath.Join(dir, "root")
	if _, err := command(ctx, dir, "dpkg-deb", "-x", debs[0], root); err != nil {
		return err
	}
	images, err := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return fmt.Errorf("package %s has the kernels %v", pkg, images)
	}
	if err := os.Rename(images[0], filepath.Join(dir, "vmlinuz")); err != nil {
		return err
	}
	version := strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	if err := packModules(ctx, root, version, filepath.Join(dir, "modules.cpio")); err != nil {
		return err
	}
	if err := errors.Join(os.Remove(debs[0]), os.RemoveAll(root)); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "package"), []byte(pkg+"\n"), 0o644)
}

// packageOf is the kernel that the meta package depends on.
func packageOf(ctx context.Context, meta string) (string, error) {
	out, err := command(ctx, "", "apt-cache", "depends", meta)
	if err != nil {
		return "", err
	}
	for _, line := range strings.Split(out, "\n") {
		if pkg, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: "); ok {
			return pkg, nil
		}
	}
	return "", fmt.Errorf("apt knows no package %s", meta)
}

func command(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(errOut.String()))
	}
	return out.String(), nil
}
