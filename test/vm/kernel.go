package main

import (
	"bytes"
	"cmp"
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
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// source is where a kernel series comes from: a meta package, and the suites of another
// Debian release, each with all that the package needs, if it is not in this machine's.
type source struct {
	meta   string
	suites []string
}

// mirrorEnv names a mirror that has the older releases, where the machine's own have
// not: a release moves to Debian's archive when nobody cares for it any more.
const mirrorEnv = "TERWAY_DEBIAN_MIRROR"

// seriesNames are those of an architecture in the order of versions.
func seriesNames(arch string) []string {
	return slices.SortedFunc(maps.Keys(architectures[arch].kernels), func(a, b string) int { return cmp.Compare(minor(a), minor(b)) })
}

// minor makes a series a number: 6.12 is 6012.
func minor(series string) int {
	var a, b int
	_, _ = fmt.Sscanf(series, "%d.%d", &a, &b)
	return a*1000 + b
}

// kernel is an unpacked kernel package.
type kernel struct {
	pkg     string
	image   string // path of the bzImage
	modules string // path of a cpio archive with modules and their order
	root    string // folder that has the programs of the guest: "/" or one with packages of another architecture
}

// fetchKernel returns the cached kernel of a series, and fetches it if there is none.
// What is cached is used as long as it is there: delete the folder for a newer one.
func fetchKernel(ctx context.Context, cache, arch, series string) (kernel, error) {
	from, ok := architectures[arch].kernels[series]
	if !ok {
		return kernel{}, fmt.Errorf("--kernel %s: must be one of %s for %s", series, strings.Join(seriesNames(arch), ", "), arch)
	}
	// Another list of modules is another kernel folder.
	list := modules
	if arch != runtime.GOARCH {
		list = slices.Concat(modules, []string{arch}, toolPackages)
	}
	dir := filepath.Join(cache, series+"-"+digest(list))
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
	if err := fetch(ctx, work, arch, from); err != nil {
		return kernel{}, fmt.Errorf("kernel %s: %w", series, err)
	}
	if arch != runtime.GOARCH {
		if err := fetchTools(ctx, work, arch); err != nil {
			return kernel{}, fmt.Errorf("programs of Debian for %s: %w", arch, err)
		}
	}
	if err := os.Rename(work, dir); err != nil {
		return kernel{}, fmt.Errorf("put kernel %s into the cache: %w", series, err)
	}
	return cached(dir)
}

// digest distinguishes lists in the names of what is cached.
func digest(list []string) string {
	sum := sha256.Sum256([]byte(strings.Join(list, " ")))
	return hex.EncodeToString(sum[:4])
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
	k := kernel{pkg: strings.TrimSpace(string(pkg)), image: filepath.Join(dir, "vmlinuz"), modules: filepath.Join(dir, "modules.cpio"), root: "/"}
	if tools := filepath.Join(dir, toolsDir); exists(tools) {
		k.root = tools
	}
	return k, nil
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// fetch leaves package, vmlinuz and modules.cpio in dir.
func fetch(ctx context.Context, dir, arch string, from source) error {
	if from.suites == nil {
		if err := download(ctx, dir, from.meta, false); err != nil {
			// The package lists may be old or not there at all.
			if err := download(ctx, dir, from.meta, true); err != nil {
				return err
			}
		}
		return unpack(ctx, dir)
	}
	return elsewhere(ctx, dir, arch, from.suites, func(options []string) error {
		if err := download(ctx, dir, from.meta, true, options...); err != nil {
			return err
		}
		return unpack(ctx, dir)
	})
}

// elsewhere calls do with options for apt by which it uses one of the suites of this machine's mirrors, until one does.
func elsewhere(ctx context.Context, dir, arch string, suites []string, do func(options []string) error) error {
	mirrors, err := mirrors(ctx, dir)
	if err != nil {
		return err
	}
	defer os.RemoveAll(filepath.Join(dir, "apt"))
	errs := []error{fmt.Errorf("no mirror of this machine has %s; %s=URI names another", strings.Join(suites, " or "), mirrorEnv)}
	for _, line := range lines(mirrors, suites) {
		options, err := otherLists(dir, arch, line)
		if err == nil {
			err = do(options)
		}
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// mirrors are the repositories that apt has for the machine's own release.
func mirrors(ctx context.Context, dir string) ([]string, error) {
	if named := os.Getenv(mirrorEnv); named != "" {
		return []string{named}, nil
	}
	out, err := command(ctx, dir, "apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Component: main")
	if err != nil {
		return nil, err
	}
	uris := strings.Fields(out)
	slices.Sort(uris)
	return slices.Compact(uris), nil
}

// lines are those of a sources.list, one for each mirror that may have one of the suites.
// Security updates have repositories of their own.
func lines(mirrors, suites []string) []string {
	const options = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg check-valid-until=no]"
	var out []string
	for _, suite := range suites {
		for _, uri := range mirrors {
			if strings.Contains(uri, "security") == strings.HasSuffix(suite, "-security") {
				out = append(out, fmt.Sprintf("deb %s %s %s main", options, uri, suite))
			}
		}
	}
	return out
}

// otherLists are options by which apt uses one line of a sources.list and folders of its
// own: this machine's lists stay as they are.
func otherLists(dir, arch, line string) ([]string, error) {
	apt := filepath.Join(dir, "apt")
	lists := filepath.Join(apt, "lists")
	if err := errors.Join(os.RemoveAll(apt), os.MkdirAll(filepath.Join(lists, "partial"), 0o755)); err != nil {
		return nil, err
	}
	file := filepath.Join(apt, "sources.list")
	if err := os.WriteFile(file, []byte(line+"\n"), 0o644); err != nil {
		return nil, err
	}
	return []string{"-o", "Dir::Etc::sourcelist=" + file, "-o", "Dir::Etc::sourceparts=/dev/null", "-o", "Dir::State::lists=" + lists,
		"-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache=", "-o", "APT::Architecture=" + arch, "-o", "APT::Architectures=" + arch}, nil
}

// download gets the kernel that a meta package names, after a look at newer lists if need be.
func download(ctx context.Context, dir, meta string, update bool, options ...string) error {
	options = append([]string{"-q", "-o", "APT::Sandbox::User=root"}, options...)
	if update {
		if _, err := command(ctx, dir, "apt-get", append(options, "update")...); err != nil {
			return err
		}
	}
	pkg, err := packageOf(ctx, meta, options)
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "vm: fetching", pkg)
	if _, err := command(ctx, dir, "apt-get", append(options, "download", pkg)...); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "package"), []byte(pkg+"\n"), 0o644)
}

func unpack(ctx context.Context, dir string) error {
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("apt-get download left the files %v", debs)
	}
	root := filepath.Join(dir, "root")
	if _, err := command(ctx, dir, "dpkg-deb", "-x", debs[0], root); err != nil {
		return err
	}
	images, err := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return fmt.Errorf("package %s has the kernels %v", filepath.Base(debs[0]), images)
	}
	if err := os.Rename(images[0], filepath.Join(dir, "vmlinuz")); err != nil {
		return err
	}
	version := strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	if err := packModules(ctx, root, version, filepath.Join(dir, "modules.cpio")); err != nil {
		return err
	}
	return errors.Join(os.Remove(debs[0]), os.RemoveAll(root))
}

// packageOf is the kernel that the meta package depends on.
func packageOf(ctx context.Context, meta string, options []string) (string, error) {
	out, err := command(ctx, "", "apt-cache", append(options, "depends", meta)...)
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
