package lab

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"terway.dev/terway/internal/product"
	"terway.dev/terway/internal/version"
)

// target is a "go build" command and its results in the cache.
type target struct {
	name string
	// dir is the module's directory in the source tree, or an absolute path.
	dir string
	// packages are built into the directory out, or a single one into the file out.
	packages []string
	out      string
	// made are the resulting files in the cache.
	made []string
	// flags are added to the fixed flags.
	flags []string
	// stamped targets are skipped while their module is unchanged. The product's own are not
	// stamped: Go's build cache is more precise.
	stamped bool
	// cgo is set for a program that needs it.
	cgo bool
	// test is set for the test program of a package.
	test bool
}

var strip = []string{product.Strip}

func (o *Options) targets() []target {
	const modules = "internal/lab/modules/"
	const (
		containerd = "github.com/containerd/containerd/v2/cmd/"
		plugins    = "github.com/containernetworking/plugins/plugins/"
	)
	list := []target{
		o.kubeTarget(),
		{name: "agnhost", dir: kubeSource, stamped: true,
			packages: []string{"k8s.io/kubernetes/test/images/agnhost"}, out: "bin/", made: []string{"bin/agnhost"}, flags: strip},
		{name: "containerd", dir: modules + "containerd", stamped: true,
			packages: []string{containerd + "containerd", containerd + "containerd-shim-runc-v2", containerd + "ctr"},
			out:      "bin/", made: []string{"bin/containerd", "bin/containerd-shim-runc-v2", "bin/ctr"},
			flags: append([]string{"-tags=no_btrfs,no_devmapper,no_zfs,no_rdt,no_tracing,nri_no_wasm"}, strip...)},
		{name: "CNI plugins", dir: product.PluginModule, stamped: true,
			packages: []string{plugins + "main/loopback", plugins + "main/ptp", plugins + "main/bridge", plugins + "ipam/host-local", plugins + "meta/portmap"},
			out:      "cni/", made: []string{"cni/loopback", "cni/ptp", "cni/bridge", "cni/host-local", "cni/portmap"}, flags: strip},
		{name: "CoreDNS", dir: modules + "coredns", stamped: true,
			packages: []string{"."}, out: "bin/coredns", made: []string{"bin/coredns"}, flags: strip},
		{name: "Helm", dir: modules + "helm", stamped: true,
			packages: []string{"helm.sh/helm/v4/cmd/helm"}, out: "bin/", made: []string{"bin/helm"}, flags: strip},
		{name: "Terway", dir: ".",
			packages: []string{"./cmd/terway", "./cmd/terwayd", "./cmd/terway-controller", "./cmd/terwayctl", "./internal/lab/pause", "./internal/lab/webserver"}, out: "terway/",
			made:  []string{"terway/terway", "terway/terwayd", "terway/terway-controller", "terway/terwayctl", "terway/pause", "terway/webserver"},
			flags: []string{product.Stamped(version.Get())}},
	}
	if o.Network == NetworkFlannel {
		list = append(list, flannelTarget(modules))
	}
	return list
}

// build builds all programs that are missing or out of date.
func (o *Options) build(ctx context.Context, p *Progress) error {
	if err := o.chooseKubernetes(ctx, p); err != nil {
		return err
	}
	if err := o.buildAll(ctx, o.targets(), p); err != nil {
		return err
	}
	return o.linkKube()
}

// buildAll builds the targets that are missing or out of date.
func (o *Options) buildAll(ctx context.Context, targets []target, p *Progress) error {
	type job struct {
		target
		stamp string
	}
	var jobs []job
	for _, t := range targets {
		fresh, stamp, err := o.fresh(ctx, t)
		if err != nil {
			return err
		}
		if !fresh {
			jobs = append(jobs, job{t, stamp})
		}
	}
	for i, j := range jobs {
		// The first build takes long: the progress shows how many are left.
		title := fmt.Sprintf("build %d of %d: %s", i+1, len(jobs), j.name)
		if len(jobs) == 1 {
			title = "build " + j.name
		}
		if err := p.Step(title, func() error { return o.buildTarget(ctx, j.target, j.stamp) }); err != nil {
			return err
		}
	}
	return nil
}

func (o *Options) moduleDir(t target) string {
	if filepath.IsAbs(t.dir) {
		return t.dir
	}
	return filepath.Join(o.Source, t.dir)
}

func (o *Options) stampFile(t target) string {
	return o.cached("stamps", strings.ReplaceAll(t.name, " ", "-"))
}

// fresh compares a target's stamp with the current one.
func (o *Options) fresh(ctx context.Context, t target) (bool, string, error) {
	if !t.stamped {
		return false, "", nil
	}
	stamp, err := o.stamp(ctx, t)
	if err != nil {
		return false, "", err
	}
	for _, m := range t.made {
		if _, err := os.Stat(o.cached(m)); err != nil {
			return false, stamp, nil
		}
	}
	old, err := os.ReadFile(o.stampFile(t))
	return err == nil && string(old) == stamp, stamp, nil
}

// stamp hashes everything that a module's programs depend on: its files, including go.sum with
// every dependency, the compiler and the flags.
func (o *Options) stamp(ctx context.Context, t target) (string, error) {
	h := sha256.New()
	dir := o.moduleDir(t)
	// Files are hashed in the order of their names, including those in subdirectories.
	if err := filepath.WalkDir(dir, func(f string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%s %d\n", strings.TrimPrefix(f, dir+"/"), len(b))
		h.Write(b)
		return nil
	}); err != nil {
		return "", fmt.Errorf("stamp %s: %w", t.name, err)
	}
	version, err := goCommand(ctx, dir, t.cgo, "env", "GOVERSION", "GOARCH").Output()
	if err != nil {
		return "", fmt.Errorf("ask go for its version in %s: %w", dir, err)
	}
	fmt.Fprintf(h, "%s%q%q%q%q%q\n", version, runtime.GOARCH, product.Flags, t.flags, t.packages, t.out)
	return hex.EncodeToString(h.Sum(nil)), nil
}

func (o *Options) buildTarget(ctx context.Context, t target, stamp string) error {
	out := o.cached(t.out)
	if strings.HasSuffix(t.out, "/") {
		out += "/"
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return fmt.Errorf("make the folder of %s: %w", out, err)
	}
	verb := []string{"build"}
	if t.test {
		verb = []string{"test", "-c", "-vet=off"} // others' code is not ours to judge
	}
	args := slices.Concat(verb, product.Flags, t.flags, []string{"-o", out}, t.packages)
	cmd := goCommand(ctx, o.moduleDir(t), t.cgo, args...)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go %s in %s: %w\n%s", strings.Join(args, " "), t.dir, err, output.Bytes())
	}
	if !t.stamped {
		return nil
	}
	return writeFile(o.stampFile(t), []byte(stamp), 0o644)
}

func goCommand(ctx context.Context, dir string, cgo bool, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	// When interrupted, go removes its temporary directory.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	cmd.Dir = dir
	enabled := "0"
	if cgo {
		enabled = "1"
	}
	cmd.Env = append(os.Environ(), "CGO_ENABLED="+enabled, "GOFLAGS=", "GOWORK=off")
	return cmd
}

// copyFile copies a file such as a program.
func copyFile(from, to string, mode os.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	defer in.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return fmt.Errorf("copy %s to %s: %w", from, to, err)
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return fmt.Errorf("copy %s to %s: %w", from, to, err)
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return fmt.Errorf("copy %s to %s: %w", from, to, err)
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("copy %s to %s: %w", from, to, err)
	}
	return nil
}
