package lab

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/modfile"

	"terway.dev/terway/internal/product"
)

const (
	// KubernetesVersion is the release of Kubernetes in modules/kube, which a lab has by default, and that of ProgramE2E.
	KubernetesVersion = "v1.36.3"
	// oldestMinor is the oldest minor version of Kubernetes that the lab runs, which the chart requires.
	oldestMinor = 31

	kubernetesModule = "k8s.io/kubernetes"
	// kubeSource is the module of the combined program of KubernetesVersion.
	kubeSource = "internal/lab/modules/kube"
	// staging has, in Kubernetes' repository, the modules that are published with it. They have its version with 0 for 1.
	staging = "./staging/src/"
)

// kubePrograms are the names of the combined program.
var kubePrograms = []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"}

var kubernetesPattern = regexp.MustCompile(`^v?1\.(0|[1-9][0-9]{0,2})(\.(0|[1-9][0-9]{0,2}))?$`)

// ParseKubernetes parses --kubernetes: a minor version such as 1.34, or a release such as 1.34.4, with or without a v,
// which the result has. The minor version of KubernetesVersion is that release.
func ParseKubernetes(s string) (string, error) {
	m := kubernetesPattern.FindStringSubmatch(s)
	if m == nil {
		return "", fmt.Errorf("--kubernetes %q: want a minor version such as 1.34, whose newest release is taken, or a release such as 1.34.4", s)
	}
	newest := minorOf(KubernetesVersion)
	if minor, _ := strconv.Atoi(m[1]); minor < oldestMinor || minor > newest {
		return "", fmt.Errorf("--kubernetes %q: the lab runs 1.%d to 1.%d", s, oldestMinor, newest)
	}
	version := "v" + strings.TrimPrefix(s, "v")
	if strings.HasPrefix(KubernetesVersion, version+".") {
		return KubernetesVersion, nil
	}
	return version, nil
}

// minorOf returns 34 of v1.34 and v1.34.4.
func minorOf(version string) int {
	_, minor, _ := strings.Cut(version, ".")
	minor, _, _ = strings.Cut(minor, ".")
	n, err := strconv.Atoi(minor)
	if err != nil {
		panic(fmt.Sprintf("%q is no version of Kubernetes: %v", version, err))
	}
	return n
}

// kubernetes returns the lab's version of Kubernetes.
func (o *Options) kubernetes() string { return cmp.Or(o.Kubernetes, KubernetesVersion) }

// kubeDir is, in the cache, the folder of the programs of Kubernetes, or a file in it: that of all programs, or one for each
// other version.
func (o *Options) kubeDir(elem ...string) string {
	dir := "bin"
	if version := o.kubernetes(); version != KubernetesVersion {
		dir = path.Join("kubernetes", version)
	}
	return path.Join(append([]string{dir}, elem...)...)
}

// kubeTarget builds the combined program: the module in the source tree, or the one that makeKubeModule made in the
// cache for another version.
func (o *Options) kubeTarget() target {
	dir, version := kubeSource, o.kubernetes()
	if version != KubernetesVersion {
		dir = o.cached(o.kubeDir("module"))
	}
	return target{name: "Kubernetes " + version + " and etcd", dir: dir, stamped: true,
		packages: []string{"."}, out: o.kubeDir("kube"), made: []string{o.kubeDir("kube")}, flags: kubeFlags(version)}
}

// kubeFlags are the flags of programs that say which Kubernetes release they are of.
func kubeFlags(version string) []string {
	var ld strings.Builder
	ld.WriteString(product.Strip)
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		fmt.Fprintf(&ld, " -X %s.gitVersion=%s -X %[1]s.gitMajor=1 -X %[1]s.gitMinor=%[3]d -X %[1]s.gitTreeState=clean", pkg, version, minorOf(version))
	}
	return []string{ld.String()}
}

// linkKube makes links with the names of the combined program.
func (o *Options) linkKube() error {
	for _, name := range kubePrograms {
		link := o.Bin(name)
		if to, err := os.Readlink(link); err == nil && to == "kube" {
			continue
		}
		if err := os.RemoveAll(link); err != nil {
			return fmt.Errorf("replace %s: %w", link, err)
		}
		if err := os.Symlink("kube", link); err != nil {
			return fmt.Errorf("link %s to kube: %w", name, err)
		}
	}
	return nil
}

// chooseKubernetes makes a release of a minor version, and the module of one that the source tree does not have.
func (o *Options) chooseKubernetes(ctx context.Context, p *Progress) error {
	if o.kubernetes() == KubernetesVersion {
		return nil
	}
	return p.Step("module of Kubernetes "+o.Kubernetes, func() error {
		if err := os.MkdirAll(o.Cache, 0o755); err != nil {
			return fmt.Errorf("make the folder of programs: %w", err)
		}
		if strings.Count(o.Kubernetes, ".") == 1 {
			b, err := goOutput(ctx, o.Cache, "list", "-m", "-f", "{{.Version}}", kubernetesModule+"@"+o.Kubernetes)
			if err != nil {
				return fmt.Errorf("ask for the newest release of Kubernetes %s: %w", o.Kubernetes, err)
			}
			o.Kubernetes = strings.TrimSpace(string(b))
		}
		return o.makeKubeModule(ctx)
	})
}

// makeKubeModule makes the module of the combined program for a version of Kubernetes. All modules have the versions with
// which that Kubernetes was released, etcd too. The Go command compares what it downloads with the checksum database, and
// keeps the sums in go.sum.
func (o *Options) makeKubeModule(ctx context.Context) error {
	dir := o.cached(o.kubeDir("module"))
	b, err := goOutput(ctx, o.Cache, "mod", "download", "-json", kubernetesModule+"@"+o.Kubernetes)
	// The output says why it failed.
	var upstream struct{ GoMod, Error string }
	if wrong := json.Unmarshal(b, &upstream); err != nil || wrong != nil {
		return fmt.Errorf("download Kubernetes %s: %s: %w", o.Kubernetes, upstream.Error, cmp.Or(err, wrong))
	}
	if b, err = os.ReadFile(upstream.GoMod); err != nil {
		return fmt.Errorf("read the go.mod of Kubernetes %s: %w", o.Kubernetes, err)
	}
	if b, err = kubeGoMod(b, o.Kubernetes); err != nil {
		return fmt.Errorf("make a go.mod of that of Kubernetes %s: %w", o.Kubernetes, err)
	}
	if err := writeFile(filepath.Join(dir, "go.mod"), b, 0o644); err != nil {
		return err
	}
	if b, err = os.ReadFile(filepath.Join(o.Source, kubeSource, "main.go")); err != nil {
		return fmt.Errorf("read the combined program: %w", err)
	}
	if err := writeFile(filepath.Join(dir, "main.go"), b, 0o644); err != nil {
		return err
	}
	// Writes go.sum.
	if _, err := goOutput(ctx, dir, "list", "-mod=mod", "-deps", "."); err != nil {
		return fmt.Errorf("download what Kubernetes %s is made of: %w", o.Kubernetes, err)
	}
	return nil
}

// kubeGoMod makes a module that needs Kubernetes of the go.mod of Kubernetes itself, which has the versions of all that it
// needs.
func kubeGoMod(upstream []byte, version string) ([]byte, error) {
	f, err := modfile.Parse("go.mod", upstream, nil)
	if err != nil {
		return nil, err
	}
	if f.Module == nil || f.Module.Mod.Path != kubernetesModule {
		return nil, fmt.Errorf("it is not that of %s", kubernetesModule)
	}
	errs := []error{f.AddModuleStmt("terway.dev/terway/" + kubeSource), f.AddRequire(kubernetesModule, version)}
	published := "v0." + strings.TrimPrefix(version, "v1.")
	for _, r := range slices.Clone(f.Replace) {
		name, ok := strings.CutPrefix(r.New.Path, staging)
		switch {
		case !ok:
		case strings.HasPrefix(name, "k8s.io/sample-"):
			// Examples, which are in no program.
			errs = append(errs, f.DropRequire(r.Old.Path), f.DropReplace(r.Old.Path, r.Old.Version))
		default:
			errs = append(errs, f.AddReplace(r.Old.Path, r.Old.Version, r.Old.Path, published))
		}
	}
	for _, t := range slices.Clone(f.Tool) {
		errs = append(errs, f.DropTool(t.Path))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	f.Cleanup()
	return f.Format()
}

// goOutput runs the Go command in dir and returns its output; the error has what it says on standard error.
func goOutput(ctx context.Context, dir string, args ...string) ([]byte, error) {
	b, err := goCommand(ctx, dir, false, args...).Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, bytes.TrimSpace(exit.Stderr))
	}
	return b, err
}
