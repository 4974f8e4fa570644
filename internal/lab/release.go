package lab

import (
	"context"
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
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/internal/helm"
	"terway.dev/terway/internal/oci"
	"terway.dev/terway/internal/product"
	"terway.dev/terway/internal/version"
)

// Uninstall runs "helm uninstall", like an operator. Its error has what the chart's job said.
func (s *State) Uninstall(ctx context.Context) error {
	return s.Options.run(ctx, nil, s.Options.Bin("helm"), "uninstall", "terway", "--namespace", metav1.NamespaceSystem, "--wait", "--timeout", "4m")
}

// Restore installs the chart of this tree, whatever an uninstallation, an upgrade or a rollback has left, and waits until all pods of
// the system are ready.
func (s *State) Restore(ctx context.Context) error {
	now, err := s.Release()
	if err != nil {
		return err
	}
	if now.Revision > 0 && now.Status != "deployed" { // Helm upgrades no release whose uninstallation was refused
		if err := s.Rollback(ctx, now.Revision, "--force-conflicts"); err != nil {
			return err
		}
	}
	if now.Revision == 0 {
		if err := s.waitUnready(ctx); err != nil {
			return err
		}
	}
	if err := s.installTerway(ctx); err != nil {
		return err
	}
	return s.waitSystem(ctx, rolledOut)
}

// waitUnready waits until the kubelets see that an uninstallation has removed the CNI configuration, seconds later: until then
// "terwayctl install" takes it for another network's.
func (s *State) waitUnready(ctx context.Context) error {
	c, err := s.Options.Client()
	if err != nil {
		return err
	}
	return waitNodes(ctx, c, s, func(n *corev1.Node) string {
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
				return "is Ready without Terway"
			}
		}
		return ""
	})
}

// Rollback runs "helm rollback" to a revision, like an operator, and waits until the controller is of it and all pods of the system are
// ready.
func (s *State) Rollback(ctx context.Context, revision int, flags ...string) error {
	args := append([]string{"rollback", "terway", fmt.Sprint(revision), "--namespace", metav1.NamespaceSystem}, flags...)
	if err := s.Options.run(ctx, nil, s.Options.Bin("helm"), args...); err != nil {
		return err
	}
	return s.waitSystem(ctx, controllerRolledOut)
}

// waitSystem waits until done returns nil, and all pods of the system are ready.
func (s *State) waitSystem(ctx context.Context, done func(context.Context, kubernetes.Interface) error) error {
	c, err := s.Options.Client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 3*time.Minute, errors.New("not done within three minutes"))
	defer cancel()
	if err := eventually(ctx, 100*time.Millisecond, func() error { return done(ctx, c) }); err != nil {
		return err
	}
	return waitPods(ctx, c)
}

// Release returns the release that the cluster has.
func (s *State) Release() (*helm.Now, error) {
	cfg, err := s.Options.RESTConfig()
	if err != nil {
		return nil, err
	}
	h, err := helm.New(cfg, metav1.NamespaceSystem)
	if err != nil {
		return nil, err
	}
	return h.Now()
}

// ErrNoRelease is the error of a source tree that has no release before its last commit.
var ErrNoRelease = errors.New("there is no release before this one: no git tag")

// Version is a version of Terway that can be installed in the lab.
type Version struct {
	// Name is its git tag or commit.
	Name string
	// Image is the reference of its image, which all nodes have.
	Image string
	chart string
}

// This returns the version of the source tree.
func (s *State) This() *Version {
	return &Version{Name: "this version", Image: ImageTerway, chart: s.Options.chart()}
}

// Older builds another version from the tree's git repository, once, and gives its image to all nodes: that of a tag or commit, or, if
// ref is empty, the last release before the last commit. Its image has this tree's other files, Debian's packages and CNI plugins.
func (s *State) Older(ctx context.Context, ref string) (*Version, error) {
	o := &s.Options
	if ref == "" {
		tag, err := o.git(ctx, "describe", "--tags", "--abbrev=0", "HEAD^")
		if err != nil {
			return nil, ErrNoRelease
		}
		ref = tag
	}
	commit, err := o.git(ctx, "rev-parse", "--verify", ref+"^{commit}")
	if err != nil {
		return nil, fmt.Errorf("version %q: want a git tag or commit of %s: %w", ref, o.Source, err)
	}
	repository, _, _ := strings.Cut(ImageTerway, ":")
	dir := o.cached("older", commit)
	older := &Version{Name: ref, Image: repository + ":" + commit[:12], chart: filepath.Join(dir, "deploy", "chart")}
	archive := filepath.Join(dir, "image.tar")
	if _, err := os.Stat(archive); errors.Is(err, fs.ErrNotExist) {
		if err := o.buildOlder(ctx, commit, dir, older.Image, archive); err != nil {
			return nil, fmt.Errorf("build version %s: %w", ref, err)
		}
	} else if err != nil {
		return nil, err
	}
	for _, m := range s.Machines {
		cmd, err := s.Shell(m.Name, []string{"ctr", "-n", "k8s.io", "images", "import", "--local", archive})
		if err != nil {
			return nil, err
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("import %s on %s: %w: %s", older.Image, m.Name, err, out)
		}
	}
	return older, nil
}

// buildOlder writes a version's tree to dir, and last its image's archive.
func (o *Options) buildOlder(ctx context.Context, commit, dir, ref, archive string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	tree := filepath.Join(dir, "tree.tar")
	if _, err := o.git(ctx, "archive", "--output="+tree, commit); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "tar", "-x", "-f", tree, "-C", dir).CombinedOutput(); err != nil {
		return fmt.Errorf("tar: %w: %s", err, out)
	}
	programs := filepath.Join(dir, "programs")
	args := append([]string{"build"}, product.Flags...)
	args = append(args, product.Strip, "-o", programs+"/")
	for _, name := range product.Programs {
		args = append(args, "./cmd/"+name)
	}
	if out, err := goCommand(ctx, dir, false, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w: %s", err, out)
	}
	base, err := o.debian().Base(ctx, runtime.GOARCH)
	if err != nil {
		return err
	}
	img, err := product.Image(runtime.GOARCH, version.Get(), base, func(name string) string {
		if slices.Contains(product.Plugins, name) {
			return o.cached("cni", name)
		}
		return filepath.Join(programs, name)
	}, oci.Plain)
	if err != nil {
		return err
	}
	b, err := oci.Archive(img, &v1.Platform{Architecture: runtime.GOARCH, OS: "linux"}, ref)
	if err != nil {
		return err
	}
	return writeFile(archive, b, 0o644)
}

// git runs git in the source tree and returns the first line of its output.
func (o *Options) git(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "git", append([]string{"-c", "safe.directory=*", "-C", o.Source}, args...)...).Output() // the tree may be another user's
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		return "", fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(string(ended.Stderr)))
	}
	return strings.TrimSpace(string(out)), err
}

// Change upgrades the release to a version's chart and image, and waits until the controller is of it and all pods of the system are
// ready. Agents become of it when their pods are deleted. takeOver takes fields over that checks have changed; without it the upgrade is
// an operator's, which fails if somebody has.
func (s *State) Change(ctx context.Context, to *Version, takeOver bool) error {
	var theirs map[string]any
	b, err := os.ReadFile(filepath.Join(to.chart, "values.yaml"))
	if err != nil {
		return fmt.Errorf("%s: %w", to.Name, err)
	}
	if err := yaml.Unmarshal(b, &theirs); err != nil {
		return fmt.Errorf("%s: values.yaml: %w", to.Name, err)
	}
	values := loader.MergeMaps(s.chartValues(), map[string]any{"agent": map[string]any{"updateStrategy": map[string]any{"type": "OnDelete"}}})
	values = known(values, theirs)
	repository, tag, _ := strings.Cut(to.Image, ":")
	values["image"] = map[string]any{"repository": repository, "tag": tag}
	// It would wait for agents of the new version. The nodes have the image since Older or "up", but a kubelet reports a new one as
	// much as a minute later.
	flags := []string{"--wait=0", "--ignore=image"}
	if takeOver {
		flags = append(flags, "--force-conflicts")
	}
	if err := s.install(ctx, to.chart, values, flags...); err != nil {
		return err
	}
	return s.waitSystem(ctx, controllerRolledOut)
}

// known returns the values that another version's chart knows, by its values.yaml; its schema refuses others. Keys of eniConfig are
// not all in values.yaml.
func known(values, theirs map[string]any) map[string]any {
	out := map[string]any{}
	for section, v := range values {
		other, ok := theirs[section]
		if !ok {
			continue
		}
		of, isMap := v.(map[string]any)
		has, theyToo := other.(map[string]any)
		if section == "eniConfig" || !isMap || !theyToo {
			out[section] = v
			continue
		}
		of = maps.Clone(of)
		maps.DeleteFunc(of, func(key string, _ any) bool { _, ok := has[key]; return !ok })
		out[section] = of
	}
	return out
}
